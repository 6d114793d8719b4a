"""Runs of a small job against arithmetic. A step takes 2 s, a checkpoint 10, detection 15, a rebuild 10, a transfer 7,
a restart with its checkpoint load 40, and new nodes are collected for 120 s."""

import itertools
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazsim
from lazsim.engine.clock import CHANGE, JOIN, Clock, Moment
from lazsim.engine.ledger import BUCKETS, Ledger
from lazsim.engine.plan_reliability import count_losses
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import InfeasiblePlanError, SpecError
from tests.jobs import JOIN_WAIT_S, PUBLISHED, EvenLoads, RandomLoads, costs, trace

NEVER = {"checkpoint_interval_steps": dict.fromkeys(PUBLISHED, 10**6), "rebalance_interval_steps": 10**6}


def run(system, events, duration_s, **job):
    return simulate_system(events, SYSTEMS[system], costs(**job), EvenLoads(2, 4), duration_s)


def spent(result):
    return {bucket: seconds for bucket, seconds in result.ledger_s.items() if seconds}


def test_a_job_without_failures_computes_all_the_time():
    result = run("lazarus", trace((0, "add", "a b c")), 100.0, **NEVER)
    assert (result.steps, result.samples, spent(result)) == (50, 50 * 3 * 4, {"compute": 100})
    assert (result.ettr, result.goodput_samples_per_s) == (1.0, 6.0)


def test_nodes_that_are_away_from_the_start_of_a_trace_are_no_failure_and_join_later():
    # Two nodes train from the start; the third, away for 10 s, joins after 120 s of collecting.
    events = trace((0, "add", "a b c"), (0.001, "remove", "c"), (10, "add", "c"))
    result = run("lazarus", events, 200.0, **NEVER)
    assert (result.counts["failures"], result.counts["reconfigurations"]) == (0, 1)
    assert (result.states[0].num_alive, result.states[0].num_used, result.states[-1].num_used) == (2, 2, 3)
    assert not count_losses(events, 200.0)


def test_checkpoints_interrupt_training_at_their_interval():
    # 40 steps are 80 s; at 80, 170 and 260 s a checkpoint of 10 s.
    result = run("lazarus", trace((0, "add", "a b c")), 300.0, rebalance_interval_steps=10**6)
    assert spent(result) == {"compute": 270, "checkpoint": 30}
    assert (result.steps, result.counts["checkpoints"]) == (135, 3)


def test_a_job_without_checkpoints_begins_again_at_its_first_step_when_an_expert_is_lost():
    # Two nodes of two slots hold each of four experts once. 50 steps and 1 s to 101 are lost. Detect to 116; a restart
    # loads nothing, 30 s to 146; the other 54 s on new nodes are 27 steps. Joins need no checkpoint.
    events = trace((0, "add", "a b"), (10, "add", "c"), (101, "remove", "b"))
    job = {"checkpoint_interval_steps": {"lazarus": 0}, "rebalance_interval_steps": 10**6}
    result = run("lazarus", events, 200.0, **job)
    assert spent(result) == {"compute": 54, "lost_work": 101, "detect": 15, "restart": 30}
    assert (result.steps, result.counts["lost_steps"], result.counts["checkpoints"]) == (27, 50, 0)


def test_lazarus_goes_on_at_the_step_that_failed():
    # Failure at 101 s, 1 s into step 51: detect to 116, rebuild to 126, transfer to 133, then 67 s: 33 steps and half.
    result = run("lazarus", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0, **NEVER)
    assert spent(result) == {"compute": 167, "lost_work": 1, "detect": 15, "reconfigure": 10, "transfer": 7}
    assert (result.steps, result.samples) == (83, 50 * 4 * 4 + 33 * 3 * 4)
    assert (result.counts["reconfigurations"], result.counts["restarts"], result.counts["lost_steps"]) == (1, 0, 0)


def test_a_failure_at_the_very_end_of_a_step_loses_nothing():
    result = run("lazarus", trace((0, "add", "a b c d"), (100, "remove", "d")), 120.0, **NEVER)
    assert (result.steps, spent(result)) == (50, {"compute": 100, "detect": 15, "reconfigure": 5})


def test_a_failure_at_the_very_end_of_a_save_or_of_a_restart_finds_it_done():
    # 40 steps to 80 s, a save to 90. Detect to 105, restart to 145, detect to 160, and 40 s of a restart of 40.
    events = trace((0, "add", "a b c d e f"), (40, "add", "g"), (90, "remove", "f"), (145, "remove", "e"))
    result = run("ds", events, 200.0)
    assert spent(result) == {"compute": 80, "checkpoint": 10, "detect": 30, "restart": 80}
    assert (result.steps, result.counts["checkpoints"], result.counts["restarts"]) == (40, 1, 2)


def test_ds_restarts_from_the_last_checkpoint_on_a_multiple_of_its_group():
    # 40 steps to 80 s, checkpoint to 90, 5 steps and 1 s to 101: lost. Detect to 116, restart to 156 on 2 of 3 nodes,
    # 22 steps to 200.
    result = run("ds", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0)
    assert spent(result) == {"compute": 124, "checkpoint": 10, "lost_work": 11, "detect": 15, "restart": 40}
    assert (result.steps, result.samples) == (62, 40 * 4 * 4 + 22 * 2 * 4)
    assert (result.counts["restarts"], result.counts["lost_steps"]) == (1, 5)


def test_ds_does_not_feel_the_loss_of_a_node_that_it_does_not_use():
    result = run("ds", trace((0, "add", "a b c"), (50, "remove", "c")), 70.0)
    assert (spent(result), result.counts["failures"]) == ({"compute": 70}, 0)


def test_ds_ft_regroups_survivors_that_hold_every_expert():
    # a and c hold the same half of the experts, b and d the other: without d, a or c and b go on, without a checkpoint.
    result = run("ds-ft", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0, **NEVER)
    assert spent(result)["reconfigure"] == 10
    assert (result.steps, result.counts["restarts"]) == (50 + (200 - 126) // 2, 0)
    assert result.states[-1].num_used == 2


def test_ds_ft_restarts_when_a_chunk_of_experts_is_gone():
    result = run("ds-ft", trace((0, "add", "a b c d"), (101, "remove", "b d")), 200.0, **NEVER)
    assert (result.counts["restarts"], result.counts["lost_steps"], result.counts["failures"]) == (1, 50, 1)


def test_nodes_that_ds_ft_dropped_stay_out_until_a_restart():
    # d fails, one of a and c is dropped. Then the node in use that shares its chunk fails: it cannot step in.
    events = trace((0, "add", "a b c d"), (101, "remove", "d"), (151, "remove", "b"))
    result = run("ds-ft", events, 400.0, **NEVER)
    assert [event.num_used for event in result.events if event.event == "recovered"] == [2]
    assert result.counts["restarts"] == 1


def test_nodes_that_are_new_join_ds_ft_by_a_reconfiguration():
    # c and d are collected until 171; the step under way ends at 172, rebuilt by 182, transferred by 189.
    events = trace((0, "add", "a b"), (51, "add", "c d"))
    result = run("ds-ft", events, 200.0, **NEVER)
    assert spent(result) == {"compute": 183, "reconfigure": 10, "transfer": 7}
    assert (result.samples, result.counts["restarts"]) == (86 * 2 * 4 + 5 * 4 * 4, 0)
    by_restart = run("ds-ft", events, 300.0, **NEVER, regrouped_joins="restart")
    # As of ds: a checkpoint, and a restart with a load, of 40 s; nothing is lost.
    assert spent(by_restart) == {"compute": 250, "checkpoint": 10, "restart": 40}


def test_a_new_node_that_makes_a_group_only_with_one_that_was_dropped_means_a_restart():
    # Without d, b goes on with one of a and c; e comes, and makes no group without the other.
    events = trace((0, "add", "a b c d"), (101, "remove", "d"), (201, "add", "e"))
    result = run("ds-ft", events, 500.0, **NEVER)
    assert (result.counts["reconfigurations"], result.counts["restarts"], result.counts["lost_steps"]) == (1, 1, 0)
    assert result.states[-1].num_used == 4
    # c, which is the one left out, comes back as a new node: both join b and a without one.
    events = trace((0, "add", "a b c d"), (101, "remove", "d"), (181, "remove", "c"), (201, "add", "c e"))
    result = run("ds-ft", events, 500.0, **NEVER)
    counts = result.counts["failures"], result.counts["reconfigurations"], result.counts["restarts"]
    assert (counts, result.states[-1].num_used) == ((1, 2, 0), 4)


def test_simultaneous_losses_are_one_failure():
    result = run("lazarus", trace((0, "add", "a b c d e"), (101, "remove", "d e")), 200.0, **NEVER)
    assert (result.counts["failures"], spent(result)["detect"]) == (1, 15)


@pytest.mark.parametrize(
    ("second_s", "expected"),
    [
        # Detecting from 101 on, again from 110: 9 + 15 s.
        (110, {"lost_work": 1, "detect": 24, "reconfigure": 10, "transfer": 7}),
        # Rebuilding from 116 on, given up at 120, detected by 135, rebuilt by 145.
        (120, {"lost_work": 1, "detect": 30, "reconfigure": 14, "transfer": 7}),
        # Transferring from 126 on, given up at 130.
        (130, {"lost_work": 1, "detect": 30, "reconfigure": 20, "transfer": 11}),
    ],
)
def test_a_failure_during_recovery_starts_it_again(second_s, expected):
    events = trace((0, "add", "a b c d e f g h"), (101, "remove", "h"), (second_s, "remove", "g"))
    found = spent(run("lazarus", events, 300.0, **NEVER))
    assert found.pop("compute") == 300 - sum(expected.values())
    assert found == expected


def test_a_failure_during_a_restart_starts_it_again_and_loses_no_more_steps():
    # Failure at 101, detected by 116, restarting until a second failure at 120, detected by 135, restarted by 175.
    events = trace((0, "add", "a b c d"), (101, "remove", "d"), (120, "remove", "b"))
    result = run("ds", events, 200.0)
    assert spent(result)["restart"] == 4 + 40
    assert (result.counts["restarts"], result.counts["lost_steps"], result.counts["failures"]) == (1, 5, 2)


def test_a_failure_during_a_checkpoint_falls_back_on_the_one_before():
    # Checkpoints at 80 to 90 s and 170 to 180; the second is cut off at 175: 40 steps are left.
    result = run("ds", trace((0, "add", "a b"), (175, "remove", "b")), 200.0)
    assert (result.steps, result.counts["lost_steps"], result.counts["checkpoints"]) == (40, 40, 1)
    assert spent(result) == {"compute": 80, "lost_work": 80, "checkpoint": 15, "detect": 15, "waiting": 10}


def test_a_failure_during_a_rebalance_keeps_the_plan_in_force():
    loads = RandomLoads(2, 4)
    job = NEVER | {"rebalance_interval_steps": 50}
    events = trace((0, "add", "a b c d e f"), (104, "remove", "f"))
    result = simulate_system(events, SYSTEMS["lazarus"], costs(**job), loads, 110.0)
    assert spent(result) == {"compute": 100, "rebalance": 4, "detect": 6}


@pytest.mark.parametrize("between", [(), ((150, "add", "x"), (151, "remove", "x"))])
def test_who_comes_in_the_instant_in_which_a_collection_ends_counts_with_it(between):
    # a waits from 100 on; b comes when its collection ends, and both start, whatever happened in between.
    events = trace((100, "add", "a"), *between, (100 + JOIN_WAIT_S, "add", "b"))
    assert spent(run("lazarus", events, 400.0, **NEVER))["waiting"] == 100 + JOIN_WAIT_S


def test_new_nodes_are_collected_and_join_at_a_step_boundary():
    # b is there at 51, c at 61; at 171 s the step under way ends at 172; rebuilt by 182, transferred by 189.
    events = trace((0, "add", "a b"), (51, "add", "c"), (61, "add", "d"))
    result = run("lazarus", events, 200.0, **NEVER)
    assert spent(result) == {"compute": 183, "reconfigure": 10, "transfer": 7}
    assert (result.steps, result.samples) == (86 + 5, 86 * 2 * 4 + 5 * 4 * 4)


def test_a_newcomer_that_fails_while_joining_does_not_take_the_job_down():
    # c joins from 172 on and fails at 175: detected by 190, the others rebuild and go on.
    events = trace((0, "add", "a b"), (51, "add", "c"), (175, "remove", "c"))
    result = run("lazarus", events, 300.0, **NEVER)
    assert (result.counts["restarts"], result.counts["failures"], result.counts["lost_steps"]) == (0, 1, 0)
    assert spent(result)["detect"] == 15
    assert result.states[-1].num_used == 2


def test_another_failure_while_that_of_a_restart_is_noticed_starts_detection_again():
    # f fails at 101; a to d restart from 116 on; d fails at 120 and c at 125: detected by 140, restarted by 170.
    events = trace((0, "add", "a b c d e f"), (101, "remove", "f"), (120, "remove", "d"), (125, "remove", "c"))
    result = run("ds", events, 200.0, **NEVER)
    assert result.counts["failures"] == 3
    assert spent(result) == {"lost_work": 101, "detect": 15 + 20, "restart": 4 + 30, "compute": 30}


def test_ds_takes_new_nodes_in_by_a_checkpoint_and_a_restart():
    events = trace((0, "add", "a b"), (51, "add", "c d"))
    result = run("ds", events, 300.0, **NEVER)
    assert spent(result) == {"compute": 250, "checkpoint": 10, "restart": 40}
    assert (result.counts["lost_steps"], result.states[-1].num_used) == (0, 4)


def test_ds_trains_on_where_new_nodes_go_while_it_saves_for_them():
    # c and d are collected until 171; the step ends at 172, and both go at 175; the checkpoint is written at 182.
    events = trace((0, "add", "a b"), (51, "add", "c d"), (175, "remove", "c d"))
    result = run("ds", events, 300.0, **NEVER)
    assert spent(result) == {"compute": 290, "checkpoint": 10}
    assert (result.counts["restarts"], result.counts["failures"], result.states[-1].num_used) == (0, 0, 2)


def test_a_node_that_brings_no_whole_group_does_not_disturb_ds():
    assert spent(run("ds", trace((0, "add", "a b"), (51, "add", "c")), 300.0, **NEVER)) == {"compute": 300}


def test_too_few_nodes_wait_until_enough_have_been_collected():
    # One node of the two needed is left at 101; c comes at 151, is collected until 271, and the restart ends at 311.
    events = trace((0, "add", "a b"), (101, "remove", "b"), (151, "add", "c"))
    result = run("lazarus", events, 400.0)
    assert spent(result)["waiting"] == 271 - 116
    assert spent(result)["restart"] == 40
    assert result.counts["restarts"] == 1


def test_a_collection_ends_with_the_last_of_its_nodes():
    # c, collected from 151 on, goes at 160; d comes at 200 and is collected until 320.
    changes = (101, "remove", "b"), (151, "add", "c"), (160, "remove", "c"), (200, "add", "d")
    assert spent(run("lazarus", trace((0, "add", "a b"), *changes), 400.0))["waiting"] == 320 - 116
    # e comes while c is collected: both had until 271, and e has.
    changes = (101, "remove", "b"), (151, "add", "c"), (155, "add", "e"), (160, "remove", "c")
    assert spent(run("lazarus", trace((0, "add", "a b"), *changes), 400.0))["waiting"] == 271 - 116


def test_who_comes_as_the_last_of_a_collection_goes_is_collected_anew_also_at_the_boundary_where_these_were_to_join():
    # c is collected from 51 to 171; the step under way ends at 172, when c goes and d comes. d is collected until 292,
    # a step's end: rebuilt by 302, transferred by 309.
    events = trace((0, "add", "a b"), (51, "add", "c"), (172, "remove", "c"), (172, "add", "d"))
    result = run("lazarus", events, 400.0, **NEVER)
    assert [event.time_s for event in result.events if event.event == "joined"] == [309]


def test_nodes_that_come_after_a_collection_ran_out_during_detection_are_collected_too():
    # c is collected from 50 to 170, but is lost with a at 165; detected at 180. d is collected from 200 to 320.
    events = trace((0, "add", "a b"), (50, "add", "c"), (165, "remove", "a c"), (200, "add", "d"))
    result = run("lazarus", events, 400.0, **NEVER)
    assert spent(result)["waiting"] == 320 - 180
    assert result.counts["restarts"] == 1


def test_steps_lost_are_not_counted_while_the_job_waits():
    result = run("lazarus", trace((0, "add", "a b"), (61, "remove", "b")), 400.0)
    assert (result.steps, result.samples, result.counts["lost_steps"]) == (0, 0, 30)
    assert spent(result) == {"lost_work": 61, "detect": 15, "waiting": 324}


def test_without_any_node_the_job_waits_all_the_time():
    result = run("lazarus", trace((500, "add", "a b")), 400.0)
    assert (spent(result), result.steps) == ({"waiting": 400}, 0)


def test_a_job_that_starts_without_nodes_begins_once_they_have_been_collected():
    result = run("lazarus", trace((100, "add", "a b")), 400.0, **NEVER)
    assert spent(result) == {"waiting": 220, "restart": 30, "compute": 150}
    assert result.counts["restarts"] == 0


def test_a_trace_that_ends_early_leaves_nodes_as_they_are():
    short = trace((0, "add", "a b"), duration_s=10.0)
    assert spent(run("lazarus", short, 500.0, **NEVER)) == {"compute": 500}


def test_a_node_that_fails_and_returns_at_once_has_lost_what_it_held():
    result = run("lazarus", trace((0, "add", "a b"), (101, "remove", "b"), (101, "add", "b")), 300.0, **NEVER)
    assert (result.counts["failures"], result.counts["restarts"]) == (1, 1)


def test_a_model_that_the_whole_cluster_cannot_hold_is_refused():
    cost_model = costs()
    one_node = replace(cost_model, cluster=msgspec.structs.replace(cost_model.cluster, num_nodes=1))
    with pytest.raises(InfeasiblePlanError, match="4 experts for 2 slots of 1 node;"):
        simulate_system(trace((0, "add", "a")), SYSTEMS["lazarus"], one_node, EvenLoads(2, 4), 100.0)


def test_experts_that_cannot_be_cut_into_equal_chunks_are_refused_with_the_reason():
    # Five experts on three nodes of two slots: they fit, but only groups of five nodes hold equal chunks of them.
    cost_model = costs()
    five = replace(
        cost_model,
        model=msgspec.structs.replace(cost_model.model, num_experts=5),
        cluster=msgspec.structs.replace(cost_model.cluster, num_nodes=3),
    )
    with pytest.raises(InfeasiblePlanError, match=r"equal chunks of 5 experts, .* groups of 5 nodes, and there are 3"):
        simulate_system(trace((0, "add", "a b c")), SYSTEMS["ds"], five, EvenLoads(2, 5), 100.0)


def test_a_trace_that_never_has_enough_nodes_is_waited_through():
    assert spent(run("lazarus", trace((0, "add", "a")), 100.0)) == {"waiting": 100}


def trained(result, rate="samples_per_s"):
    """Integrate a rate of the timeline."""
    times = [state.time_s for state in result.states] + [result.wall_s]
    return sum(getattr(s, rate) * (end - s.time_s) for s, end in zip(result.states, times[1:], strict=True))


def test_the_timeline_adds_up_to_the_samples_also_around_checkpoints():
    result = run("ds", trace((0, "add", "a b c d")), 290.0)
    assert (result.counts["checkpoints"], result.samples) == (3, 130 * 16)
    assert trained(result) == pytest.approx(result.samples)


def test_the_timeline_shows_work_that_is_later_lost_as_lost():
    # A checkpoint ends at 90 s. The 5 steps of 16 samples up to 100 s are lost, and the one under way at 101 s is none.
    result = run("ds", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0)
    assert [(s.time_s, s.samples_per_s, s.lost_samples_per_s) for s in result.states] == [
        (0, 8, 0), (80, 0, 0), (90, 0, 8), (100, 0, 0), (101, 0, 0), (156, 4, 0), (200, 0, 0),
    ]  # fmt: skip
    assert trained(result, "lost_samples_per_s") == 5 * 4 * 4


def test_nodes_collected_during_a_checkpoint_join_at_its_end():
    # Checkpoints last from 80 to 90 and from 170 to 180. c is due at 185 and joins at the step boundary of 186.
    result = run("lazarus", trace((0, "add", "a b"), (65, "add", "c")), 230.0, rebalance_interval_steps=10**6)
    joined = next(event for event in result.events if event.event == "joined")
    assert joined.time_s == 186 + 10 + 7
    # Due at 175, inside the second checkpoint: it joins when that ends.
    result = run("lazarus", trace((0, "add", "a b"), (55, "add", "c")), 230.0, rebalance_interval_steps=10**6)
    joined = next(event for event in result.events if event.event == "joined")
    assert joined.time_s == 180 + 10 + 7


@st.composite
def scenarios(draw):
    """Random comings and goings of up to 8 nodes, several at once, some out and in at the same instant."""
    nodes = [f"n{index}" for index in range(8)]
    initial = draw(st.integers(0, 8))
    present = set(nodes[:initial])
    changes = [(0.0, "add", node) for node in nodes[:initial]]
    time_s = 0.0
    for _ in range(draw(st.integers(0, 25))):
        time_s += draw(st.sampled_from([0.0, 1.0, 3.5, 9.75, 15.0, 40.0, 120.0, 301.0]))
        # One, or all at one instant.
        changed = draw(st.sampled_from([*([node] for node in nodes), nodes]))
        changes += [(time_s, "remove" if node in present else "add", node) for node in changed]
        present ^= set(changed)
    enough = [(time_s + 1.0, "add", node) for node in nodes if node not in present]
    return trace(*changes, *enough, duration_s=time_s + 2.0), time_s + draw(st.sampled_from([1.5, 100.0, 777.0]))


@settings(max_examples=150)
@given(scenarios(), st.sampled_from(PUBLISHED), st.sampled_from([0.7, 2.0, 33.0]))
def test_every_second_is_in_one_bucket_and_samples_come_from_computing(scenario, system, step_s):
    events, duration_s = scenario
    cost_model = costs(step_s=step_s, rebalance_interval_steps=50)
    result = simulate_system(events, SYSTEMS[system], cost_model, RandomLoads(2, 4), duration_s)
    assert set(result.ledger_s) == set(BUCKETS)
    assert min(result.ledger_s.values()) >= 0
    assert sum(result.ledger_s.values()) == pytest.approx(duration_s, abs=1e-6)
    # Kept steps, and at most one under way, make up the time that counts as computing.
    unfinished_s = result.ledger_s["compute"] - result.steps * step_s
    assert -1e-6 <= unfinished_s <= step_s + 1e-6
    assert result.steps * 2 * 4 <= result.samples <= result.steps * 8 * 4
    assert trained(result) == pytest.approx(result.samples)
    # A lost step trained 4 samples on each of 2 to 8 nodes, and its time is booked as lost work.
    lost = trained(result, "lost_samples_per_s")
    assert result.counts["lost_steps"] * 2 * 4 - 1e-6 <= lost <= result.counts["lost_steps"] * 8 * 4 + 1e-6
    assert result.counts["lost_steps"] * step_s <= result.ledger_s["lost_work"] + 1e-6
    again = simulate_system(events, SYSTEMS[system], cost_model, RandomLoads(2, 4), duration_s)
    assert again == result


def test_time_passes_without_an_event_only_where_nothing_else_happens_up_to_the_end_of_it():
    # A bell rings at 5 s. Time passes at once to 4 s, but not to that very instant, in which the bell has its turn
    # first.
    clock, seen = Clock(), []

    def ring():
        yield clock.timeout(5.0)
        seen.append(("ring", clock.now))

    def work():
        for seconds in (4.0, 1.0, 7.0, 3.0):
            num_events = 0
            for event in clock.passing(seconds):
                num_events += 1
                yield event
            seen.append((num_events, clock.now))

    clock.process(ring())
    clock.process(work())
    clock.run()
    assert seen == [(0, 4.0), ("ring", 5.0), (1, 5.0), (0, 12.0), (0, 15.0)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_what_falls_on_one_instant_has_its_turn_whichever_was_set_first(order):
    # A spare starts before the work ends, and so joins at that boundary; nodes change after it, and those that are
    # there join last.
    clock, seen = Clock(), []

    def note(name, activity):
        yield from activity
        seen.append(name)

    def wait(event):
        yield event()

    activities = (
        ("work", clock.passing(5.0)),
        ("change", wait(lambda: Moment(clock, 5.0, CHANGE))),
        ("join", wait(lambda: Moment(clock, 5.0, JOIN))),
        ("spare", wait(lambda: clock.timeout(5.0))),
    )
    for index in order:
        clock.process(note(*activities[index]))
    clock.run()
    assert seen == ["spare", "work", "change", "join"]


@settings(max_examples=30)
@given(
    scenarios(),
    st.sampled_from([*PUBLISHED, "moc", "async-checkpoint"]),
    st.sampled_from([0.07, 0.7, 2.0]),
    st.sampled_from([0, 1, 2, 5, 7, 45, 300]),
    st.sampled_from([50, 120]),
    st.sampled_from(["exact", "sampled"]),
)
def test_a_run_is_the_same_to_the_last_digit_where_every_passing_of_time_is_an_event(
    scenario, system, step_s, interval_steps, rebalance_steps, planning
):
    def simulate():
        cost_model = costs(step_s=step_s, rebalance_interval_steps=rebalance_steps)
        settings = {"interval_steps": interval_steps, "planning": planning}
        return simulate_system(scenario[0], SYSTEMS[system], cost_model, RandomLoads(2, 4), scenario[1], **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "peek", lambda clock: clock.now)
        event_by_event = simulate()
    assert simulate() == event_by_event


def test_a_run_without_events_tells_how_far_it_is():
    # Times are told once a hundredth of the run has passed; a stretch of 50 steps takes 100 s, and two saves 20.
    times_s = []
    nodes = trace((0, "add", "a b c d"))
    simulate_system(nodes, SYSTEMS["lazarus"], costs(), EvenLoads(2, 4), 1000.0, on_time=times_s.append)
    assert max(later - sooner for sooner, later in itertools.pairwise([0.0, *times_s])) <= 100 + 20
    assert (min(times_s) > 0, times_s, times_s[-1]) == (True, sorted(times_s), 1000.0)


@pytest.mark.parametrize("interval", ["250", "auto"])
def test_a_progress_bar_moves_within_each_system_and_by_one_for_all_of_it(interval):
    moved = {}

    @contextmanager
    def progress(num_done, num_total):
        assert (num_done, num_total) == (0, 2)

        def advance(number, name=""):
            assert number >= 0
            moved.setdefault(name or list(moved)[-1], []).append(number)

        yield advance

    nodes = trace((0, "add", "a b c d"), (300, "remove", "d"))
    lazsim.simulate(nodes, systems=["lazarus", "ds"], interval=interval, progress=progress)
    assert {name: sum(parts) for name, parts in moved.items()} == pytest.approx({"lazarus": 1.0, "ds": 1.0})
    assert min(sum(part > 0 for part in parts) for parts in moved.values()) > 10


def test_short_steps_late_in_a_long_run_all_count():
    # From 2,000,150 s on, when nodes have been collected and started, 1000 s are 30,303 steps of 0.033 s. A double
    # tells times there apart by 2.3e-10 s, seven billionths of a step.
    late = trace((2e6, "add", "a b c d"), duration_s=3e6)
    result = run("lazarus", late, 2e6 + 120 + 30 + 1000, step_s=0.033, **NEVER)
    assert (result.steps, result.ledger_s["waiting"], result.ledger_s["restart"]) == (30_303, 2e6 + 120, 30)


def test_training_goes_on_in_one_span_through_saves_that_stop_nothing():
    # Every fifth step of 4 s is saved, in less than a step: at 20, 40, 60 and 80 s.
    nodes = trace((0, "add", "a b c d"))
    result = simulate_system(nodes, SYSTEMS["moc"], costs(step_s=4.0), EvenLoads(2, 4), 99.0, interval_steps=5)
    assert (result.counts["checkpoints"], result.ledger_s["compute"]) == (4, 99.0)
    assert [(span.start_s, span.end_s, span.what) for span in result.phases] == [(0.0, 99.0, "compute")]


@given(scenarios(), st.sampled_from(PUBLISHED))
def test_a_job_with_enough_nodes_trains_again_in_the_end(scenario, system):
    # All 8 nodes are there from the last event on; 1000 s later whatever was going on is over.
    events = scenario[0]
    result = simulate_system(events, SYSTEMS[system], costs(), RandomLoads(2, 4), events.duration_s + 1000.0)
    assert result.states[-1].num_used > 0


def failures(result):
    return [
        (one.time_s, one.nodes, one.detected_s, one.decision, one.source, one.trains_at_s) for one in result.failures
    ]


def test_each_failure_tells_what_was_decided_why_and_what_it_took():
    # As above: detect to 116, rebuild to 126, transfer to 133. Of 2 layers of 4 experts on 3 nodes of 2 slots, what the
    # nodes left lack moves.
    (one,) = run("lazarus", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0, **NEVER).failures
    assert (one.time_s, one.nodes, one.detected_s, one.trains_at_s) == (101, ("d",), 116, 133)
    assert (one.decision, one.source, one.why) == ("reconfigure", "peers", "the nodes left hold every expert")
    assert {b: s for b, s in one.seconds.items() if s} == {
        "lost_work": 1,
        "detect": 15,
        "reconfigure": 10,
        "transfer": 7,
    }
    assert 0 < one.experts_moved <= 2 * 3 * 2
    assert one.bytes_moved == one.experts_moved * costs().model.expert_state_bytes
    assert isinstance(one.bytes_moved, int)


def test_a_restart_tells_the_steps_lost_and_what_the_nodes_read():
    # The ds job above: the nodes of a group read each of 2 x 4 experts once, and the dense state each.
    (one,) = run("ds", trace((0, "add", "a b c d"), (101, "remove", "d")), 200.0).failures
    assert (one.decision, one.source, one.lost_steps, one.trains_at_s) == ("restart", "checkpoint", 5, 156)
    assert {b: s for b, s in one.seconds.items() if s} == {"lost_work": 11, "detect": 15, "restart": 40}
    model = costs().model
    assert (one.experts_moved, one.bytes_moved) == (8, 8 * model.expert_state_bytes + 2 * 14 * model.dense_params)


def test_a_failure_during_recovery_ends_the_record_of_the_first():
    events = trace((0, "add", "a b c d e f g h"), (101, "remove", "h"), (110, "remove", "g"))
    assert failures(run("lazarus", events, 300.0, **NEVER)) == [
        (101, ("h",), None, "", "", None),
        (110, ("g",), 125, "reconfigure", "peers", 142),
    ]


def test_a_wait_for_nodes_is_part_of_the_failure_that_it_follows():
    # b fails at 101; c comes at 200 and is collected until 320, and a restart takes 40 s.
    events = trace((0, "add", "a b"), (101, "remove", "b"), (200, "add", "c"))
    (one,) = run("lazarus", events, 500.0, **NEVER).failures
    assert (one.decision, one.why) == ("wait, restart", "the nodes alive are too few")
    assert (one.seconds["waiting"], one.trains_at_s) == (320 - 116, 360 - 10 * (one.source == "initial"))


@settings(max_examples=50)
@given(scenarios(), st.sampled_from(PUBLISHED))
def test_the_failures_of_a_run_account_for_its_detection_its_losses_and_its_count(scenario, system):
    events, duration_s = scenario
    result = simulate_system(events, SYSTEMS[system], costs(rebalance_interval_steps=50), RandomLoads(2, 4), duration_s)
    assert len(result.failures) == result.counts["failures"]
    assert sum(one.lost_steps for one in result.failures) == result.counts["lost_steps"]
    for bucket in ("detect", "lost_work"):
        assert sum(one.seconds[bucket] for one in result.failures) == pytest.approx(result.ledger_s[bucket], abs=1e-6)
    for one in result.failures:
        if one.trains_at_s is not None:
            spent_s = sum(one.seconds.values()) - one.seconds["lost_work"]
            assert one.trains_at_s - one.time_s == pytest.approx(spent_s, abs=1e-6)


def test_time_that_only_rounding_leaves_in_a_bucket_is_cut_off():
    # 0.3 + (0.9 - 0.3) is 0.9000000000000001.
    ledger = Ledger()
    ledger.enter("compute", 0.0)
    ledger.enter("compute", 0.3)
    ledger.close(0.9)
    ledger.move("compute", "lost_work", 0.9)
    assert ledger.seconds()["compute"] == 0.0
    assert ledger.seconds()["lost_work"] == 0.9


def test_a_century_of_even_loads_is_crossed_at_one_go_and_one_of_drifting_loads_is_refused():
    century_s = 100 * 365 * 86400.0
    asked = trace((0, "add", "a b"), duration_s=century_s), SYSTEMS["ds"], costs()
    assert simulate_system(*asked, EvenLoads(2, 4), interval_steps=0).steps == century_s / 2
    with pytest.raises(SpecError, match="times 50 of them can be simulated"):
        simulate_system(*asked, RandomLoads(2, 4), interval_steps=0)
