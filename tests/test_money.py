"""Node-hours, prices and costs of runs."""

import json

import numpy as np
import pytest

from lazsim.errors import LazsimError
from lazsim.scenario import resolve
from lazsim.study.result import run_row
from lazsim.study.simulation import simulate as simulate_systems
from lazsim.trace import load
from lazsim.trace.prices import Prices, node_hours
from lazsim.trace.readers.lazsim import trace_bytes

TICKS = {"metadata": {"gap_seconds": 1800}, "data": [10, 10, 8, 8]}
"""Ten nodes for an hour, eight for the next."""


@pytest.fixture
def priced_trace(tmp_path):
    path = tmp_path / "priced.json"
    path.write_text(json.dumps(TICKS | {"prices": [0.5, 1.0, 1.0, 2.0]}))
    return path


def simulate(trace, **settings):
    return simulate_systems(trace, systems=["lazarus"], routing="uniform", **settings).runs[0]


def test_hours_of_an_hour_of_ten_nodes_and_one_of_eight_are_eighteen_and_idle_is_what_is_not_used(priced_trace):
    run = simulate(priced_trace)
    assert run.node_hours_held == pytest.approx(18.0)
    # Training stands still to detect the loss of two nodes and to reconfigure, and trains on all nodes else.
    standing_s = sum(run.ledger_s[bucket] for bucket in ("detect", "reconfigure", "transfer"))
    assert 25 <= standing_s < 60
    assert run.node_hours_idle == pytest.approx(8 * standing_s / 3600)
    assert run.node_hours_used == pytest.approx(run.node_hours_held - run.node_hours_idle)


def test_gpu_hours_are_those_of_all_gpus_of_a_node():
    row = run_row(simulate("fail-every-5min", cluster="p3x32", model="gpt-s"), scored=False)
    assert row["gpu_hours_held"] == row["node_hours_held"]
    eight = run_row(simulate("fail-every-5min", **{"cluster": "h100x16", "model": "gpt-s"}), scored=False)
    assert eight["gpu_hours_idle"] == pytest.approx(8 * eight["node_hours_idle"])


def test_a_trace_with_prices_costs_what_its_nodes_cost_at_each_time(priced_trace):
    run = simulate(priced_trace)
    # Half an hour each: ten nodes at 0.5 and 1.0, eight at 1.0 and 2.0.
    assert run.cost_usd == pytest.approx(2.5 + 5.0 + 4.0 + 8.0)
    assert run.price_usd_per_node_hour == pytest.approx(19.5 / 18.0)
    assert run.usd_per_million_samples == pytest.approx(19.5e6 / run.samples)
    tokens = run.samples * resolve({}).model.sequence_length
    assert run.usd_per_billion_tokens == pytest.approx(19.5e9 / tokens)


def test_a_stretch_of_a_trace_has_the_prices_of_that_stretch_and_the_last_one_goes_on(priced_trace):
    stretch = simulate(priced_trace, start="45min", duration="30min")
    # A quarter of an hour at 1.0 with ten nodes, and one at 1.0 with eight.
    assert stretch.cost_usd == pytest.approx(2.5 + 2.0)
    longer = simulate(priced_trace, duration="3h")
    assert longer.cost_usd == pytest.approx(19.5 + 8 * 2.0)


def test_a_price_asked_for_goes_before_that_of_the_trace_and_that_before_the_clusters(priced_trace, tmp_path):
    own = {"cluster.usd_per_node_hour": 3.0}
    assert simulate(priced_trace, price="1.5", **own).cost_usd == pytest.approx(18 * 1.5)
    assert simulate(priced_trace, **own).cost_usd == pytest.approx(19.5)
    priced_trace.write_text(json.dumps(TICKS))
    assert simulate(priced_trace, **own).cost_usd == pytest.approx(18 * 3.0)
    assert simulate(priced_trace).cost_usd is None
    assert run_row(simulate(priced_trace), scored=False)["usd_per_billion_tokens"] is None


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
    trace = load(priced_trace)
    (tmp_path / "own.csv").write_bytes(trace_bytes(trace))
    again = load(tmp_path / "own.csv")
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
        load(path)
    assert len(load(path, lenient=True)) == 12


@pytest.mark.parametrize("prices", ["x", "0:1 0:b", "60:1 0:2", "0:-1", "0"])
def test_bad_prices_in_lazsims_own_format_are_a_fault(tmp_path, prices):
    path = tmp_path / "trace.csv"
    path.write_text(f"# format: lazsim-trace 1\n# usd_per_node_hour: {prices}\ntime_s,event,nodes\n0,add,a\n")
    with pytest.raises(LazsimError, match="usd_per_node_hour"):
        load(path)


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
