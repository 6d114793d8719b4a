"""Node-hours, prices and costs of runs."""

import json

import numpy as np
import pytest

from lazsim.errors import LazsimError
from lazsim.files.reading import CATALOG
from lazsim.scenario import resolve
from lazsim.study.deadline import Due, compare_purchases, on_demand_usd
from lazsim.study.simulation import run_scenario
from lazsim.study.simulation import simulate as simulate_systems
from lazsim.trace import load_trace, trace_stats
from lazsim.trace.prices import Prices, node_hours
from lazsim.trace.readers.lazsim import trace_bytes

TICKS = {"metadata": {"gap_seconds": 1800}, "data": [10, 10, 8, 8]}
"""Ten nodes for an hour, eight for the next."""


@pytest.fixture
def priced_trace(tmp_path):
    path = tmp_path / "priced.json"
    path.write_text(json.dumps(TICKS | {"prices": [0.5, 1.0, 1.0, 2.0]}))
    return path


def simulate_whole(trace, system="ds", **settings):
    return simulate_systems(trace, systems=[system], routing="uniform", **settings)


def simulate(trace, system="ds", **settings):
    return simulate_whole(trace, system, **settings).runs[0]


def simulate_row(trace, **settings):
    return simulate_whole(trace, **settings).to_json()["runs"][0]


def test_hours_of_an_hour_of_ten_nodes_and_one_of_eight_are_eighteen_and_idle_is_what_is_not_used(priced_trace):
    run = simulate(priced_trace, system="lazarus")
    assert run.node_hours_held == pytest.approx(18.0)
    # Training stands still to detect the loss of two nodes and to reconfigure, and trains on all nodes else.
    standing_s = sum(run.ledger_s[bucket] for bucket in ("detect", "reconfigure", "transfer"))
    assert 25 <= standing_s < 60
    assert run.node_hours_idle == pytest.approx(8 * standing_s / 3600)
    assert run.node_hours_used == pytest.approx(run.node_hours_held - run.node_hours_idle)


def test_gpu_hours_are_those_of_all_gpus_of_a_node():
    one = simulate_row("fail-every-5min", duration="6min")
    assert one["gpu_hours_held"] == one["node_hours_held"]
    eight = simulate_row("fail-every-5min", cluster="h100x16", duration="6min")
    assert eight["gpu_hours_idle"] == pytest.approx(8 * eight["node_hours_idle"])


def test_a_trace_with_prices_costs_what_its_nodes_cost_at_each_time(priced_trace):
    run = simulate(priced_trace)
    # Half an hour each: ten nodes at 0.5 and 1.0, eight at 1.0 and 2.0.
    assert run.cost_usd == pytest.approx(2.5 + 5.0 + 4.0 + 8.0)
    assert run.price_usd_per_node_hour == pytest.approx(19.5 / 18.0)
    assert run.usd_per_million_samples == pytest.approx(19.5e6 / run.samples)
    tokens = run.samples * resolve({}).model.sequence_length
    assert run.usd_per_billion_tokens == pytest.approx(19.5e9 / tokens)


@pytest.mark.parametrize("price", [0.1, 0.9, 3.06])
def test_the_mean_of_a_price_that_never_changes_is_that_price(price):
    assert simulate_row("spot-p3-like", price=price, duration="6min")["price_usd_per_node_hour"] == price


def test_the_mean_price_of_a_trace_is_told_with_its_statistics_and_where_a_recipe_loses_it(lazsim, priced_trace):
    assert trace_stats(load_trace(priced_trace)).usd_per_node_hour == pytest.approx(19.5 / 18.0)
    assert "price                   1.083 $ for a node-hour in the mean\n" in lazsim("trace", "info", priced_trace)[1]
    priced_trace.write_text(json.dumps(TICKS | {"data": [10, 8] * 10, "prices": [2.0] * 20}))
    assert "such as the 2 $ that a node-hour of" in lazsim("trace", "fit", priced_trace, "--seeds", 2)[2]
    assert "price" not in lazsim("trace", "info", "fail-every-5min")[1]


def test_a_stretch_of_a_trace_has_the_prices_of_that_stretch_and_the_last_one_goes_on(priced_trace):
    stretch = simulate(priced_trace, start="45min", duration="30min")
    # A quarter of an hour at 1.0 with ten nodes, and one at 1.0 with eight.
    assert stretch.cost_usd == pytest.approx(2.5 + 2.0)
    longer = simulate(priced_trace, duration="3h")
    assert longer.cost_usd == pytest.approx(19.5 + 8 * 2.0)


def test_a_price_asked_for_goes_before_that_of_the_trace_and_that_before_the_clusters(priced_trace, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(f"usd_per_node_hour = 3.0\n{(CATALOG / 'clusters' / 'rtx3090x10.toml').read_text()}")
    own = {"cluster": str(path)}
    assert simulate(priced_trace, price="1.5", **own).cost_usd == pytest.approx(18 * 1.5)
    assert simulate(priced_trace, **own).cost_usd == pytest.approx(19.5)
    priced_trace.write_text(json.dumps(TICKS))
    assert simulate(priced_trace, **own).cost_usd == pytest.approx(18 * 3.0)
    assert simulate(priced_trace).cost_usd is None
    assert simulate_row(priced_trace)["usd_per_billion_tokens"] is None


def test_a_price_of_a_gpu_is_multiplied_by_the_gpus_of_a_node():
    assert resolve({"cluster": "h100x16", "price": "2.50/gpu"}).usd_per_node_hour == 20.0
    assert resolve({"cluster": "h100x16", "price": "$2.50"}).usd_per_node_hour == 2.5


@pytest.mark.parametrize("price", ["cheap", "-1", "nan", "1e99", "3/hour", "", "9999999"])
def test_what_is_no_price_is_refused_by_the_name_of_the_field(price):
    with pytest.raises(LazsimError, match=r"^`price`: .*give US dollars"):
        resolve({"price": price})


def test_a_price_is_an_input_of_a_scenario():
    assert resolve({}).id != resolve({"price": 2}).id != resolve({"price": 3}).id


def test_prices_survive_lazsims_own_format(priced_trace, tmp_path):
    trace = load_trace(priced_trace)
    (tmp_path / "own.csv").write_bytes(trace_bytes(trace))
    again = load_trace(tmp_path / "own.csv")
    assert again.prices.time_s.tolist() == trace.prices.time_s.tolist() == [0, 1800, 5400]
    assert again.prices.usd_per_hour.tolist() == trace.prices.usd_per_hour.tolist() == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("prices", "fault"),
    [
        ([1.0], "list of 4 prices"), ("free", "list of 4 prices"), ([1, 2, -3, 4], "tick 2: -3"),
        ([1, None, 3, 4], "tick 1: None"), ([1, 2, 3, 1e300], "tick 3"),
    ],
)  # fmt: skip
def test_bad_prices_are_a_fault_of_the_file_and_kept_out_when_lenient(tmp_path, prices, fault):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(TICKS | {"prices": prices}))
    with pytest.raises(LazsimError, match=fault):
        load_trace(path)
    assert len(load_trace(path, lenient=True)) == 12


@pytest.mark.parametrize("prices", ["x", "0:1 0:b", "60:1 0:2", "0:-1", "0"])
def test_bad_prices_in_lazsims_own_format_are_a_fault(tmp_path, prices):
    path = tmp_path / "trace.csv"
    path.write_text(f"# format: lazsim-trace 1\n# usd_per_node_hour: {prices}\ntime_s,event,nodes\n0,add,a\n")
    with pytest.raises(LazsimError, match="usd_per_node_hour"):
        load_trace(path)


def test_node_hours_of_the_same_trace_are_the_same_whatever_a_job_does_meanwhile():
    # From ten nodes to five, 300 s each: 13,500 node-seconds, told as 3.8 hours for one system and as 3.7 for another.
    result = simulate_systems("fail-every-5min", duration="30min", model="gpt-l", systems=["lazarus", "ds"])
    assert [run.node_hours_held for run in result.runs] == [3.75, 3.75]


def test_node_hours_at_prices_are_those_of_a_sum_over_seconds():
    rng = np.random.default_rng(0)
    times = np.concatenate([[0], np.sort(rng.choice(np.arange(1, 900), 20, replace=False))])
    nodes = rng.integers(0, 9, 21)
    prices = Prices(np.array([0.0, 100.0, 550.0, 2000.0]), np.array([1.0, 0.3, 2.5, 9.0]))
    seconds = np.arange(1000)
    alive = nodes[np.searchsorted(times, seconds, side="right") - 1]
    paid = prices.usd_per_hour[np.searchsorted(prices.time_s, seconds, side="right") - 1]
    assert node_hours(times, nodes, 1000.0, prices) == pytest.approx((alive * paid).sum() / 3600)


def test_the_command_line_shows_hours_and_costs_and_json_has_them(lazsim):
    arguments = ("run", "--trace", "fail-every-5min", "--duration", "10min", "--routing", "uniform")
    shown = lazsim(*arguments, "--price", "3")[1]
    assert "node-hours held, used and idle; 3 $ for each" in shown
    assert "$/B tokens" in shown
    row = json.loads(lazsim(*arguments, "--json")[1])["runs"][0]
    # Ten nodes for five minutes, nine for the next five.
    assert row["node_hours_held"] == pytest.approx(95 / 60)
    assert row["cost_usd"] is None
    assert lazsim(*arguments, "--price", "free")[::2] == (
        2, "lazsim: --price: 'free': give US dollars for an hour of a node, as 24.48, or of a GPU, as 3.06/gpu\n"
    )  # fmt: skip


def write_spot(path, minutes):
    """Write ten spot nodes that go after some minutes and never come back."""
    ticks = [10] * minutes + [0]
    path.write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": ticks}))
    return path


def ways_of(path, deadline_s=3000.0, on_demand_usd=None, **settings):
    """Return the ways to buy half an hour of work by name."""
    asked = {"system": "checkpoint", "routing": "uniform", "interval": 20, "price": 1, **settings}
    scenario = resolve({**asked, "trace": str(path), "duration": deadline_s})
    found = compare_purchases(Due(1800.0, deadline_s, on_demand_usd), scenario, run_scenario(scenario))
    return {one.nodes: one for one in found}


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Half an hour of work, due after 50 min, on spot nodes that go after 20 min."""
    return ways_of(write_spot(tmp_path_factory.mktemp("spot") / "spot.json", 20), on_demand_usd=3.0)


def test_on_demand_nodes_do_the_work_in_the_time_that_it_takes_and_cost_their_price(ways):
    staying = ways["on-demand"]
    assert staying.finish_s == pytest.approx(1800, rel=2e-3)
    assert staying.cost_usd == pytest.approx(0.5 * 10 * 3.0, rel=2e-3)
    assert (staying.spot_node_hours, staying.done_share) == (0.0, 1.0)


def test_spot_nodes_that_go_are_late_and_on_demand_nodes_then_do_what_is_left_as_late_as_they_can(ways):
    assert ways["spot"].finish_s is None
    # Two thirds are done, but for the steps since the last save.
    assert ways["spot"].done_share == pytest.approx(2 / 3, abs=0.02)
    assert ways["spot"].cost_usd == pytest.approx(10 / 3)
    both = ways["spot, then on-demand"]
    # The last 10 min take 120 s of collecting nodes, 48 s of a restart, a load of the checkpoint and at most a minute
    # of lost steps besides. Ten nodes read 0.95 GB each, and experts of 6.3 GB in each of five groups or, at most, of
    # 66 MB in each of 60 slots of 12 layers, at 0.9 GB/s: 45 to 64 s.
    assert 50 * 60 - 600 - 168 - 64 - 60 < both.switch_s < 50 * 60 - 600 - 168 - 45
    # The switch is found to a thousandth of the deadline.
    assert 50 * 60 - 3 <= both.finish_s <= 50 * 60
    assert both.cost_usd == pytest.approx((10 * 20 * 1 + 10 * 3 * (both.finish_s - both.switch_s) / 60) / 60)


def test_work_that_leaves_little_time_to_spare_is_late_where_all_nodes_must_be_replaced(tmp_path):
    tight = ways_of(write_spot(tmp_path / "spot.json", 1), deadline_s=1830.0)
    assert tight["on-demand"].finish_s == pytest.approx(1800, rel=2e-3)
    assert tight["spot, then on-demand"].finish_s == tight["on-demand"].finish_s
    assert tight["spot"].done_share < 1


def test_spot_nodes_that_stay_long_enough_need_no_others_and_without_a_price_only_hours_are_told(tmp_path):
    path = write_spot(tmp_path / "spot.json", 40)
    ways = ways_of(path)
    both = ways["spot, then on-demand"]
    assert both.switch_s is None
    assert both.cost_usd == ways["spot"].cost_usd == pytest.approx(5.0, rel=2e-3)
    assert ways["on-demand"].cost_usd is None


def test_the_price_of_nodes_that_stay_is_the_clusters_unless_another_is_given():
    cluster = resolve({"cluster": "h100x16", "cluster.on_demand_usd_per_node_hour": 2.0}).cluster
    assert on_demand_usd(None, cluster) == 2.0
    assert on_demand_usd("3/gpu", cluster) == 24.0
    assert on_demand_usd(None, resolve({}).cluster) is None


@pytest.mark.parametrize(
    ("goal", "options", "message"),
    [
        ("deadline=64h", ("--work", "80h"), "--work 80h: no node makes it by the deadline 64h"),
        ("deadline=1h", ("--work", "0h"), "--work 0 s: choose more than 0"),
        ("deadline=1h", ("--work", "4"), "--work: '4' is not a duration"),
        ("deadline=1", ("--work", "1h"), "--goal: '1' is not a duration"),
        ("deadline=2h", ("--work", "1h", "--on-demand-price", "x"), "--on-demand-price: 'x': give US dollars"),
    ],
)
def test_work_that_is_badly_asked_for_is_refused_in_a_line(lazsim, goal, options, message):
    code, out, told = lazsim("advise", "--trace", "fail-every-5min", "--goal", goal, *options)
    assert (code, out) == (2, "")
    assert message in told
    assert told.count("\n") == 1
