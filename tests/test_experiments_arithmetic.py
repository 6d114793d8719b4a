"""The arithmetic behind the published evaluation: intervals, failures, time to train, recovery, one layer."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim import simulate
from lazsim.engine.interval import young_interval_s
from lazsim.engine.systems import SYSTEMS
from lazsim.routing import RecordedRouting
from lazsim.study.deadline import finish_s
from lazsim.study.experiment import Context, load_experiment
from lazsim.study.intervals import ratio_interval
from lazsim.trace import read_trace
from tests.jobs import DETECT_S, REBUILD_S, RESTART_S, SAVE_S, STEP_S, TRANSFER_S, EvenLoads, costs

LOAD_RATIO = load_experiment("load-ratio")
skewed_load, layer_speed = LOAD_RATIO.script.skewed_load, LOAD_RATIO.script.layer_speed
sorted_shares = load_experiment("expert-loads").script.sorted_shares
sparing_trace = load_experiment("tutel").script.sparing_trace
hourly_trace = load_experiment("large-scale").script.hourly_trace
NODE_FAILURES = load_experiment("node-failures").script
recovery_times = NODE_FAILURES.recovery_times


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=6, max_size=12), st.floats(0.1, 10))
def test_a_ratio_of_totals_scales_with_what_is_compared(pairs, factor):
    above, below = [list(side) for side in zip(*pairs, strict=True)]
    one, scaled = ratio_interval(above, below), ratio_interval([factor * value for value in above], below)
    assert scaled.value == pytest.approx(factor * one.value)
    assert scaled.high == pytest.approx(factor * one.high)
    assert one.low <= one.value * (1 + 1e-9)
    assert one.value <= one.high * (1 + 1e-9)


def test_an_interval_covers_the_true_ratio_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        failures = rng.normal(0, 1, 10)
        above, below = 300 + 20 * failures + rng.normal(0, 5, 10), 100 + 10 * failures + rng.normal(0, 5, 10)
        found = ratio_interval(above.tolist(), below.tolist())
        hits += found.low <= 3.0 <= found.high
    # Within four standard errors: sqrt(0.05 * 0.95 / 1000) = 0.7 %.
    assert 0.92 <= hits / 1000 <= 0.98


def test_a_system_that_trains_nothing_leaves_an_infinite_ratio():
    assert math.isinf(ratio_interval([1, 2], [0, 0]).value)


@given(st.floats(1, 1000), st.floats(1e4, 1e6))
def test_no_other_interval_between_checkpoints_costs_less_than_young_s(save_s, between_s):
    def cost(interval_s):
        return save_s / interval_s + interval_s / 2 / between_s

    best = young_interval_s(save_s, between_s)
    assert cost(best) <= min(cost(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


@given(st.integers(0, 20), st.sampled_from([2, 4]))
def test_failures_that_spare_tutel_hit_its_nodes_only_where_none_is_left_over(seed, unit):
    trace = sparing_trace(16, 8, 300.0, unit, np.random.default_rng(seed))
    alive = [f"node{index}" for index in range(16)]
    for event in trace.events():
        if event.kind == "remove":
            used = alive[: len(alive) // unit * unit]
            assert event.node not in used or len(used) == len(alive)
            alive.remove(event.node)
    assert len(alive) == 8


def test_tutel_feels_only_failures_that_leave_no_node_over():
    # Groups of two nodes: of the failures at minutes 5, 10, 15 and 20 the first and the third take a node in use.
    trace = sparing_trace(16, 12, 300.0, 2, np.random.default_rng(3))
    run = simulate(trace, model="gpt-s", cluster="a10gx16", job="testbed-b", systems=["tutel"]).runs[0]
    failures = [event.time_s for event in run.events if event.event == "failure"]
    assert failures == [300.0, 900.0]


@pytest.mark.parametrize("at_any_time", [False, True])
def test_nodes_are_taken_hour_by_hour_as_often_as_asked(at_any_time):
    trace = hourly_trace(64, 0.05, 400, np.random.default_rng(0), at_any_time=at_any_time)
    # Taken are 5 % of the nodes alive at the start of each hour but the last; some 1,200 in all, give or take 3 %.
    at_start = [trace.num_alive()[1][trace.num_alive()[0] <= 3600.0 * hour][-1] for hour in range(399)]
    assert (trace.change < 0).sum() == pytest.approx(0.05 * sum(at_start), rel=0.1)
    assert trace.num_alive()[1].max() <= 64
    removed_s = trace.time_s[trace.change < 0]
    assert bool((removed_s % 3600 == 0).all()) is not at_any_time


def test_a_trace_that_is_kept_replays_the_same_events(tmp_path):
    trace = hourly_trace(8, 0.2, 10, np.random.default_rng(1), at_any_time=True)
    again = read_trace(Context(store=tmp_path).keep_trace(trace))
    assert list(again.events()) == list(trace.events())


@pytest.mark.parametrize("system", ["lazarus", "ds-ft", "ds", "tutel-ft"])
def test_a_run_has_trained_its_samples_at_the_end_of_its_last_step_and_no_more(system):
    trace = hourly_trace(10, 0.4, 4, np.random.default_rng(0), at_any_time=True)
    run = simulate(trace, model="gpt-s", systems=[system], routing="uniform").runs[0]
    assert run.counts["failures"] > 0
    done_s = finish_s(run.states, run.events, run.wall_s, run.samples)
    assert max(state.time_s for state in run.states if state.samples_per_s) < done_s <= run.wall_s
    rows = list(zip(run.states, [*(state.time_s for state in run.states[1:]), run.wall_s], strict=True))
    most = sum((end_s - one.time_s) * (one.samples_per_s + one.lost_samples_per_s) for one, end_s in rows)
    assert most >= run.samples * (1 - 1e-9)
    assert finish_s(run.states, run.events, run.wall_s, most + 1) is None


def test_work_that_is_done_stays_done_whatever_is_lost_after_it():
    # 100 samples in the first 10 s, of which a failure at 12 s loses the last 50; 10 samples a second from 20 s on.
    states = [(0.0, 4, 4, 10.0, 0.0), (5.0, 4, 4, 0.0, 10.0), (10.0, 4, 0, 0.0, 0.0), (20.0, 4, 4, 10.0, 0.0)]
    rollback = (12.0, "rolled_back", 5, 4, 0, 1, 0, 5, 50)
    assert [finish_s(states, [rollback], 40.0, samples) for samples in (80, 100, 110)] == [8.0, 10.0, 26.0]
    assert finish_s(states, (), 40.0, 110) == 21.0


def test_work_that_a_later_rollback_takes_is_still_there_after_the_one_before_it():
    # 10 samples a second. At 10 s copies in memory lose the last 20 of 100, and at 20 s a checkpoint leaves 40 of 180.
    states = [(0.0, 4, 4, 10.0, 0.0), *((at_s, 4, 4, 0.0, 10.0) for at_s in (4.0, 10.0)), (20.0, 4, 4, 10.0, 0.0)]
    events = [(10.0, "rolled_back", 8, 4, 0, 1, 0, 2, 20), (20.0, "rolled_back", 4, 4, 0, 1, 0, 14, 140)]
    assert [finish_s(states, events, 60.0, samples) for samples in (100, 110, 180, 190)] == [10.0, 13.0, 20.0, 35.0]


def on_nodes(num_nodes):
    """Four experts in two layers on nodes of two slots: two nodes hold every expert once."""
    base = costs()
    return replace(base, cluster=msgspec.structs.replace(base.cluster, num_nodes=num_nodes))


def test_recovery_takes_detection_rebuilding_and_transfers_where_experts_are_left():
    # Under plain EP nodes 0, 1 and 2, 3 are groups: without 0 and 1 no expert is gone, without 1 and 3 half are.
    loads, four = EvenLoads(2, 4), on_nodes(4)
    regrouped, lost = recovery_times(SYSTEMS["ds-ft"], four, loads, 100, [[0, 1], [1, 3]])
    assert regrouped["overhead_s"] == DETECT_S + REBUILD_S
    lost_work_s = 40 / 2 * STEP_S
    pause_s = DETECT_S + (RESTART_S - SAVE_S) + SAVE_S
    assert lost == {
        "overhead_s": pause_s + lost_work_s,
        "pause_s": pause_s,
        "lost_work_s": lost_work_s,
        "restart_share": 1.0,
    }
    assert recovery_times(SYSTEMS["ds"], four, loads, 100, [[0, 1]]) == [lost]
    (lazarus,) = recovery_times(SYSTEMS["lazarus"], four, loads, 100, [[3]])
    assert lazarus["overhead_s"] == DETECT_S + REBUILD_S + TRANSFER_S


def test_without_checkpoints_a_restart_loads_nothing_and_loses_every_step():
    four = on_nodes(4)
    unsaved = msgspec.structs.replace(four.job, checkpoint_interval_steps={"ds": 0})
    (row,) = recovery_times(SYSTEMS["ds"], replace(four, job=unsaved), EvenLoads(2, 4), 100, [[0, 1]])
    assert (row["pause_s"], row["lost_work_s"]) == (DETECT_S + RESTART_S - SAVE_S, 100 * STEP_S)


def test_picks_of_public_loads_are_all_combinations_of_step_layers_and_top_experts():
    # Expert 0 has most tokens up to step 1000, expert 1 in all of the run and from then on; layers differ by a factor.
    early, late = np.array([9, 1, 5]), np.array([2, 8, 5])
    layer_factors = np.arange(1, 5)[:, None]
    public = RecordedRouting(np.array([1, 1001]), np.stack([layer_factors * early, layer_factors * late]))
    found = dict(NODE_FAILURES.picks(public, [500, 3000], 2, 1))
    assert len(found) == 2 * 4 * 2
    layers = {"first": (1, 2), "middle": (2, 3), "last": (3, 4), "spread": (1, 3)}
    for name, factors in layers.items():
        for step, run_top, step_top in ((500, 1, 9), (3000, 8, 8)):
            for when, tokens in (("run", run_top), ("step", step_top)):
                picked = found[f"step {step}, {name} layers, top experts of the {when}"]
                assert picked.tolist() == [[factor * tokens] for factor in factors]


def test_recovery_probabilities_have_a_range_over_all_picks_and_none_where_theory_has_one_value():
    settings = NODE_FAILURES.SETTINGS | {"models": ["gpt-s"], "policies": ["mro"], "pick_steps": [200, 4000]}
    ((case, *others),) = [list(NODE_FAILURES.pick_cases(Context(recorded=False), settings))]
    ranges = pd.DataFrame(NODE_FAILURES.measure_picks(case))
    assert not others
    assert (ranges["picks"] == 2 * 4 * 2).all()
    assert (ranges["low"] < ranges["high"]).any()
    # Two replicas on different nodes survive any one failure.
    assert ranges.set_index("failures").loc[1, ["low", "high"]].tolist() == [1.0, 1.0]


def test_failures_of_nodes_that_are_not_in_use_cost_nothing():
    (row,) = recovery_times(SYSTEMS["ds"], on_nodes(5), EvenLoads(2, 4), 100, [[4]])
    assert row["overhead_s"] == 0


def test_padding_costs_nothing_under_even_loads_and_nearly_as_much_as_the_skew_otherwise():
    layer = LOAD_RATIO.script.layer_costs(LOAD_RATIO.settings())
    even, skewed = (
        {name: layer_speed(SYSTEMS[name], layer, skewed_load(8, ratio)) for name in ("ds", "tutel", "dropless")}
        for ratio in (1, 4)
    )
    assert even["ds"]["expert_s"] == pytest.approx(even["dropless"]["expert_s"])
    assert even["ds"]["all_to_all_s"] == pytest.approx(even["dropless"]["all_to_all_s"])
    # Every expert computes as much as the fullest one, four times its share; a kernel four times as large fills better.
    assert 3 < skewed["ds"]["expert_s"] / even["ds"]["expert_s"] <= 4
    for parts in (even, skewed):
        # Tutel pads as well; no masks, and exchanges behind the experts, make it faster all the same.
        assert parts["tutel"]["expert_s"] >= parts["ds"]["expert_s"]
        assert parts["ds"]["tokens_per_s"] < parts["tutel"]["tokens_per_s"]
    assert skewed["tutel"]["tokens_per_s"] < skewed["dropless"]["tokens_per_s"]


@given(st.integers(2, 64), st.floats(0.01, 0.99))
def test_skewed_loads_have_the_ratio_asked_for(num_experts, part):
    load = skewed_load(num_experts, part * num_experts)
    assert load[0, 0] / load.mean() == pytest.approx(part * num_experts, rel=1e-3, abs=1e-3)
    assert np.ptp(load[0, 1:]) == 0


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=16))
def test_shares_are_sorted_and_add_up_to_one(tokens):
    shares = sorted_shares(np.array([[tokens]]))[0, 0]
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
