"""Spares: nodes held beside those that train, which step in for lost ones."""

import pytest

from lazsim.engine.nodes import Nodes, Spares
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.output.plots.sweep import spares_figure
from lazsim.output.sweep import sweep_files, sweep_parts, sweep_report
from lazsim.output.table import render
from lazsim.scenario import resolve
from lazsim.study.intervals import Interval
from lazsim.study.simulation import simulate
from lazsim.study.sweep.result import SpareCost, SweepResult, paying_spares
from lazsim.study.sweep.run import resolve_points
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace.table import Batch, Event, build_trace
from tests.jobs import EvenLoads, RandomLoads, costs, staged_costs, trace

LOST_S = 600.0

PLACES = {node: place for place, node in enumerate("abcde")}

ROW = {
    "system": "ds", "placement": None, "num_failures": 9, "cost_usd": None, "layout": None, "fits_memory": True,
    "id": "x",
}  # fmt: skip
"""What rows of a sweep have beside their samples and node-hours."""


def result_of(found):
    """Return a sweep over numbers of spares; `found` has the samples and the node-hours of each seed by number."""
    rows = tuple(
        ROW | {"spares": number, "seed": seed, "samples": samples, "node_hours_held": hours}
        for number, by_seed in found.items()
        for seed, (samples, hours) in enumerate(by_seed)
    )
    return SweepResult(("spares", "seed"), rows, (), (), (("", ()),) * len(rows))


def twelve_nodes(*, lost=("node0",)):
    """Twelve nodes, of which some are lost after ten minutes."""
    events = [Event(0.0, "add", f"node{index}") for index in range(12)]
    return build_trace([*events, *(Event(LOST_S, "remove", node) for node in lost)], duration_s=1800.0)


def run(system, trace=None, **settings):
    return simulate(trace or twelve_nodes(), systems=[system], routing="uniform", interval=100, **settings).runs[0]


def used_after(one, time_s):
    return [state.num_used for state in one.states if state.time_s > time_s]


def test_nodes_beyond_those_in_service_stand_by_and_the_oldest_is_called():
    nodes = Nodes(PLACES, most_in_service=2)
    assert nodes.apply(Batch(0.0, (), ("a", "b", "c", "d"))) == ()
    assert (nodes.in_order(), len(nodes)) == (("a", "b"), 4)
    called = nodes.apply(Batch(1.0, ("a", "d"), ("e",)))
    assert called == ("c",)
    # It serves once it has started; who comes while it starts stands by.
    assert nodes.in_order() == ("b",)
    assert nodes.start(called) == ("c",)
    assert set(nodes.in_order()) == {"b", "c"}
    assert nodes.apply(Batch(2.0, ("b",), ())) == ("e",)


def test_a_spare_that_goes_while_it_starts_is_not_started():
    nodes = Nodes(PLACES, most_in_service=1)
    nodes.apply(Batch(0.0, (), ("a", "b")))
    called = nodes.apply(Batch(1.0, ("a",), ()))
    nodes.apply(Batch(2.0, ("b",), ()))
    assert (called, nodes.start(called), nodes.in_order()) == (("b",), (), ())


def test_a_spare_that_goes_and_is_called_again_starts_by_its_second_call():
    nodes = Nodes(PLACES, most_in_service=1)
    nodes.apply(Batch(0.0, (), ("a", "b")))
    first = nodes.apply(Batch(1.0, ("a",), ()))
    nodes.apply(Batch(2.0, ("b",), ("c", "b")))
    second = nodes.apply(Batch(3.0, ("c",), ()))
    assert (first, second, nodes.start(first)) == (("b",), ("b",), ())
    assert nodes.start(second) == ("b",)


@pytest.mark.parametrize("system", ["lazarus", "checkpoint", "ds-ft", "oobleck"])
def test_a_job_never_uses_its_spares_before_a_loss_and_all_its_nodes_soon_after(system):
    one = run(system, spares=2)
    assert one.states[0].num_alive == 12
    assert {state.num_used for state in one.states if state.time_s < LOST_S} == {10}
    # Ten nodes again: nothing but the recovery is left out, which takes minutes at most.
    assert set(used_after(one, LOST_S + 300)) <= {10}
    assert one.states[-1].num_used == 10


def test_a_warm_spare_of_a_system_that_plans_anew_joins_in_the_recovery_itself():
    one = run("lazarus", spares=2)
    assert one.counts["reconfigurations"] == 1
    recovery = resolve({}).cluster.recovery
    # One detection and one rebuild, as without spares.
    assert one.ledger_s["detect"] == recovery.detect_s
    assert one.ledger_s["reconfigure"] == recovery.rebuild_s
    assert set(used_after(one, LOST_S + recovery.detect_s + recovery.rebuild_s + 60)) <= {10}


def test_a_restart_from_a_checkpoint_takes_a_warm_spare_at_once():
    one = run("checkpoint", spares=2)
    assert one.counts["restarts"] == 1
    # A restart on ten nodes takes 26.9 + 2.13 * 10 s; the load of the checkpoint takes less than a minute.
    assert 48.2 < one.ledger_s["restart"] < 48.2 + 60
    assert one.states[-1].num_used == 10


@pytest.mark.parametrize(
    ("start_s", "waiting", "restarts", "restart"),
    [(14.0, 0, 1, 40), (35.0, 20, 1, 40), (45.0, 30, 1, 40), (46.0, 0, 2, 80)],
)
def test_a_restart_waits_for_a_cold_spare_that_comes_before_it_would_be_over(start_s, waiting, restarts, restart):
    # One of three replicas fails at 95 s, which is noticed at 110 s. A restart takes 30 s, and a load 10 s.
    names = "a b c d e f g h i j k l z"
    events = trace((0, "add", names), (95, "remove", "a"), duration_s=1000.0)
    cost_model, loads = staged_costs(), EvenLoads(2, 4)
    one = simulate_system(
        events, SYSTEMS["checkpoint"], cost_model, loads, interval_steps=10, spares=Spares(12, start_s)
    )
    assert (one.ledger_s["waiting"], one.counts["restarts"], one.ledger_s["restart"]) == (waiting, restarts, restart)
    assert one.states[-1].num_used == 12


@pytest.mark.parametrize(("start_s", "waiting", "restart"), [(25.0, 10, 40), (26.0, 0, 40), (45.0, 0, 40)])
def test_a_restart_waits_no_longer_for_a_cold_spare_than_to_rebuild_for_it_where_it_joins_in_place(
    start_s, waiting, restart
):
    # One of each two fails at 95 s, with all holders of a state. That is noticed at 110 s, and to rebuild takes 10 s.
    names = "a b c d e f g h i j k l w x y z"
    events = trace((0, "add", names), (95, "remove", "a c e g"), duration_s=1000.0)
    one = simulate_system(
        events, SYSTEMS["recycle"], staged_costs(), EvenLoads(2, 4), interval_steps=10, spares=Spares(12, start_s)
    )
    assert (one.ledger_s["waiting"], one.counts["restarts"], one.ledger_s["restart"]) == (waiting, 1, restart)
    assert one.states[-1].num_used == 12


def test_a_cold_spare_joins_after_its_time():
    one = run("lazarus", spares=2, spare_start="5min")
    joined = next(event for event in one.events if event.event == "joined")
    assert joined.num_used == 10
    recovery = resolve({}).cluster.recovery
    assert joined.time_s == pytest.approx(LOST_S + 300 + recovery.rebuild_s, abs=10)
    between = [state.num_used for state in one.states if LOST_S + 60 < state.time_s < LOST_S + 299]
    assert set(between) <= {9}


@pytest.mark.parametrize("comes_s", [1.2, 1.25])
def test_a_job_that_waits_with_its_spare_starts_as_the_collection_of_others_ends(comes_s):
    # Four nodes hold the model. All go, and the spare stands in for one: detected at 16.1 s, it is too few. Those that
    # come during detection, and at 50 s, are collected for 120 s; a restart takes 30 s. In floating point 16.1 + (121.2
    # - 16.1) is less than 121.2.
    events = trace((0, "add", "a b c d e"), (1.1, "remove", "a b c d"), (comes_s, "add", "f"), (50, "add", "g h"))
    result = simulate_system(events, SYSTEMS["ds"], staged_costs(), EvenLoads(2, 4), interval_steps=0, spares=Spares(4))
    assert result.ledger_s["waiting"] == pytest.approx(comes_s + 120 - 16.1)
    assert [event.time_s for event in result.events if event.event == "restarted"] == [pytest.approx(comes_s + 150)]


def test_a_warm_spare_that_is_called_as_a_save_is_due_joins_before_it():
    # Of four nodes in service, two train: c makes no group of two, and d is collected. At 20 s, after ten steps, d goes
    # and e is called: with c, it joins in 10 s, and fetches its states in 7 s. The save takes 10 s more, and a step 2.
    events = trace((0, "add", "a b c"), (5, "add", "d"), (6, "add", "e"), (20, "remove", "d"), duration_s=49.0)
    result = simulate_system(events, SYSTEMS["ds-ft"], costs(), EvenLoads(2, 4), interval_steps=10, spares=Spares(4))
    assert [event.time_s for event in result.events if event.event == "joined"] == [37.0]
    assert (result.counts["checkpoints"], result.samples) == (1, 10 * 2 * 4 + 4 * 4)


def test_a_warm_spare_that_is_called_as_a_rebalance_is_due_joins_before_it():
    # Of four nodes in service, three train, and d is collected. At 20 s, after ten steps, d goes and e is called. It
    # joins with a plan of the loads of this step, after which there is none to place anew.
    events = trace((0, "add", "a b c"), (5, "add", "d"), (6, "add", "e"), (20, "remove", "d"), duration_s=39.0)
    inputs = SYSTEMS["lazarus"], costs(rebalance_interval_steps=10), RandomLoads(2, 4)
    result = simulate_system(events, *inputs, interval_steps=0, spares=Spares(4))
    assert (result.counts["rebalances"], result.counts["reconfigurations"], result.states[-1].num_used) == (0, 1, 4)


def test_the_loss_of_a_spare_is_no_failure_of_the_job():
    one = run("checkpoint", twelve_nodes(lost=("node11",)), spares=2)
    assert (one.counts["failures"], one.states[-1].num_alive) == (0, 11)


def test_spares_are_held_and_idle():
    one = run("checkpoint", twelve_nodes(lost=()), spares=2)
    assert one.node_hours_held == pytest.approx(12 * 0.5)
    assert one.node_hours_idle == pytest.approx(2 * 0.5)


def test_more_losses_than_spares_leave_fewer_nodes():
    one = run("lazarus", twelve_nodes(lost=("node0", "node1", "node2")), spares=2)
    assert one.states[-1].num_used == 9


def test_a_trace_held_to_a_number_of_nodes_gets_the_spares_beside_them(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("# format: lazsim-trace 1\n# duration_s: 600\ntime_s,event,nodes\n0,add,a b c d e f g h i j k l\n")
    result = simulate(path, systems=["checkpoint"], routing="uniform", max_nodes=8, cap="first", spares=2)
    assert {state[1:3] for state in result.runs[0].states} == {(10, 8)}
    assert "8 nodes at most for training; spares that join at once: 2" in result.notes


def test_a_recipe_of_failures_gets_as_many_nodes_more(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text('kind = "mtbf"\nnum_nodes = 8\nmtbf_s = 1e6\nrepair_s = 60\nduration_s = 600\n')
    result = simulate(path, systems=["checkpoint"], routing="uniform", spares=2, spare_start=90.0)
    assert result.runs[0].states[0][1:3] == (10, 8)
    assert "8 nodes at most for training; spares that join 90 s after a loss: 2" in result.notes


def test_a_start_of_no_spares_is_told():
    found = simulate("fail-every-5min", systems=["checkpoint"], routing="uniform", spares=0, spare_start="5min")
    assert "`spare_start` has no effect without `spares`" in found.notes


def test_as_many_spares_as_nodes_are_refused(lazsim):
    with pytest.raises(LazsimError, match=r"^`spares` 12: the trace has at most 12 nodes; give fewer$"):
        run("checkpoint", spares=12)
    told = lazsim("run", "--trace", "fail-every-5min", "--spares", 10)
    assert told == (2, "", "lazsim: --spares 10: the trace has at most 10 nodes; give fewer\n")
    assert lazsim("run", "--trace", "fail-every-5min", "--spares", -1)[0] == 2
    due = ("--goal", "deadline=2h", "--work", "1h")
    assert "--spares" in lazsim("advise", "--trace", "fail-every-5min", "--spares", 1, *due)[2]


def test_the_number_of_spares_that_pays_is_that_of_the_cheapest_samples():
    # 100 node-hours for 100 samples; the first spare takes 6 and brings 20, the second takes 6 and brings 2.
    found = ((0, 100.0, 100.0), (1, 120.0, 106.0), (2, 122.0, 112.0))
    costs = [
        SpareCost(
            {},
            number,
            Interval(samples, 0.0, 0.0),
            hours,
            None,
            Interval(hours / samples, 0.0, 0.0),
            Interval(1.0, 1.0, 1.0),
            None,
        )
        for number, samples, hours in found
    ]
    assert paying_spares(costs).num_spares == 1
    assert paying_spares(costs[::2]).num_spares == 2


def test_a_sweep_over_spares_says_which_number_pays_and_draws_it():
    found = ((2, 1, 122.0, 112.0), (0, 0, 100.0, 100.0), (1, 0, 118.0, 105.0), (1, 1, 122.0, 107.0))
    keys = ("spares", "seed", "samples", "node_hours_held")
    rows = tuple(ROW | {"cost_usd": 2 * one[3]} | dict(zip(keys, one, strict=True)) for one in found)
    result = SweepResult(("spares", "seed"), rows, (), (), (("", ()),) * len(rows))
    (costs,) = result.spares()
    # Means over seeds: 120 samples for 106 node-hours with one spare.
    assert [(one.num_spares, one.samples.value, one.node_hours, one.cost_usd) for one in costs] == [
        (0, 100.0, 100.0, 200.0), (1, 120.0, 106.0, 212.0), (2, 122.0, 112.0, 224.0)
    ]  # fmt: skip
    shown = render(list(sweep_parts(result)), 100)
    # No seed is that of all: 112 / 122 over 106 / 120 is 1.0393.
    assert "ds: spares that pay: 1; with 2, samples cost 3.9 % more" in shown
    assert "fewer than 6 seeds cannot tell which number pays" in shown
    assert [one["pays_most"] for one in result.to_json()["spares"]] == [False, True, False]
    assert set(spares_figure(result.spares())) == {"png", "pdf"}


def test_numbers_of_spares_that_cost_the_same_within_chance_cannot_be_told_apart():
    # Hours for 100 samples: one spare takes a twentieth more at every seed, two take more or less by turns.
    hours = {0: lambda _: 100.0, 1: lambda seed: 105.0 + 0.01 * seed, 2: lambda seed: 101.0 + 4 * (-1) ** seed}
    result = result_of({number: [(100.0, of(seed)) for seed in range(8)] for number, of in hours.items()})
    (costs,) = result.spares()
    assert [one.is_tie for one in costs] == [True, False, True]
    # Hours for a million samples; Student's t of 7 degrees of freedom is 2.365, and the standard error 4.28 / sqrt(8).
    assert costs[2].per_million_samples == pytest.approx((1.01e6, 1.01e6 - 3.576e4, 1.01e6 + 3.576e4), rel=1e-3)
    assert "numbers of spares that cannot be told from 0: 2" in render(list(sweep_parts(result)), 100)
    assert result.to_json()["spares"][1]["dearer"] == pytest.approx(1.05035)


def test_how_much_dearer_spares_are_is_told_by_totals_over_seeds_as_every_ratio():
    # Hours 30 for 5 samples, and 20 for 5; the mean of the hours of a sample at each seed would be 1.8 times as much.
    ((_, one),) = result_of({1: [(1, 10.0), (4, 20.0)] * 3, 0: [(2, 10.0), (3, 10.0)] * 3}).spares()
    # To first order a node-hour per sample is 6 +- 1.6 by turns with one spare, 4 +- 0.8 with none. A ratio r may be
    # where 6 - 4 r is up to k (1.6 - 0.8 r): k is 2.5706, Student's t of 5 degrees of freedom, times 1 / sqrt(5).
    k = 2.5706 / 5**0.5
    bounds = (6 - 1.6 * k) / (4 - 0.8 * k), (6 + 1.6 * k) / (4 + 0.8 * k)
    assert one.dearer == pytest.approx((1.5, *bounds), rel=1e-4)


def test_spares_are_compared_at_the_seeds_that_all_numbers_have():
    # At the first seed one spare brings samples twice as cheap; the second, which it lacks, judges none.
    found = {0: [(10, 100), (999, 100)], 1: [(20, 100)]}
    assert [(one.samples.value, one.dearer.value, one.is_tie) for one in result_of(found).spares()[0]] == [
        (10, 2, None),
        (20, 1, True),
    ]
    assert [one.is_tie for one in result_of({0: [(100, 100)] * 6, 1: [(0, 110)] * 6}).spares()[0]] == [True, False]


def test_where_nothing_trains_no_setting_is_the_best_and_no_number_of_spares_pays():
    shown = render(list(sweep_parts(result_of({0: [(100, 10)], 1: [(0, 11)]}))), 100)
    assert "ds: spares that pay: 0; with 1, nothing is trained" in shown
    idle = result_of({0: [(0, 10)], 1: [(0, 11)]})
    assert (idle.spares(), idle.contests(), sweep_files(idle)) == ([], (), {})
    assert "best" not in render(list(sweep_parts(idle)), 100)
    page = sweep_report(idle, "sweep.toml", "0")
    assert (page.answer, page.points) == ("No run trained.", None)


def test_the_picture_of_spares_shows_the_intervals_of_costs(monkeypatch):
    result = result_of(
        {number: [(100.0 + 4 * (-1) ** seed, 100.0 + number) for seed in range(8)] for number in range(2)}
    )
    monkeypatch.setattr("lazsim.output.plots.style.to_files", lambda figure, **_: figure)
    (axes,) = spares_figure(result.spares()).axes
    bars = [line.get_segments() for line in axes.collections]
    assert len(bars[0]) == 2, "a bar for each number of spares"
    # Student's t of 7 degrees of freedom is 2.365, and the standard error 4.28 / sqrt(8).
    (_, low), (_, high) = bars[0][0]
    assert high - low == pytest.approx(1e6 * 2 * 0.03576, rel=0.02)
    found = result.to_json()["spares"][0]
    assert (found["samples_ci_low"], found["samples_ci_high"]) == pytest.approx((96.42, 103.58), abs=0.01)


def test_spares_are_an_axis_of_sweeps():
    sweep = parse_sweep({"base": {"trace": "fail-every-5min", "system": "ds"}, "grid": {"spares": [0, 2]}})
    points, _ = resolve_points(sweep)
    assert [point["spares"] for point in points] == [0, 2]
