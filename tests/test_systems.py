"""Every way to survive failures, on a job whose times can be added up by hand.

Two pipeline stages of two nodes each hold the model once. A step takes 2 s, detection 15 s, a rebuild 10 s, a transfer
7 s, a save or a load 10 s, a restart 30 s and a load. Twelve nodes are three replicas of 4 samples a node and step.
"""

import bisect
import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazsim
from lazsim.engine.held import Held, Planned
from lazsim.engine.interval import daly_interval_s, interval_steps, steady_step_s, young_interval_s
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.memory import peak_memory
from lazsim.engine.nodes import Spares
from lazsim.engine.planner import Planner
from lazsim.engine.simulate import simulate_system
from lazsim.engine.step_timer import TimedSteps
from lazsim.engine.systems import LIVE_SYSTEMS, SYSTEMS, find_system
from lazsim.engine.systems.spare import SPARE
from lazsim.engine.systems.system import Save, held_state_bytes, saved_behind
from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.limits import MAX_WHOLE
from lazsim.output.run import run_parts
from lazsim.output.table import render
from lazsim.scenario import resolve
from lazsim.settings import parse_interval
from lazsim.study.checkpoint_interval import choose_setting, climb, num_rollbacks
from lazsim.study.memory import find_obstacle
from lazsim.study.runs import ScenarioRuns
from lazsim.study.simulation import resolve_runs
from tests.jobs import (
    SAVE_S,
    TRANSFER_S,
    EvenLoads,
    FixedCommunication,
    RandomLoads,
    costs,
    staged_costs,
    trace,
)
from tests.test_engine import scenarios, spent, trained
from tests.test_replay import grid_costs

NAMES = "a b c d e f g h i j k l"
NODES = NAMES.split()
"""Seats 0 to 5 are stage 0 of replicas 0, 0, 1, 1, 2, 2; seats 6 to 11 are stage 1."""


def run(system, *changes, duration_s=400.0, interval_steps=10**6, cost_model=None, nodes=NAMES):
    events = trace((0, "add", nodes), *changes, duration_s=max(1000.0, duration_s))
    cost_model, found = cost_model or staged_costs(), SYSTEMS.get(system, system)
    return simulate_system(events, found, cost_model, EvenLoads(2, 4), duration_s, interval_steps=interval_steps)


def held(*missing, cost_model=None):
    cost_model = cost_model or staged_costs()
    plan = SYSTEMS["checkpoint"].plan_evenly(cost_model, 12)
    return Held.full(NODES, Planned(len(NODES), 0, lambda *_: plan)).without(missing)


def test_a_checkpointed_job_goes_back_to_its_last_save_on_whole_replicas():
    # Saves end at 30 s (10 steps), 60 s and 90 s. At 95 s a node fails: 5 s since the save are lost. 15 s to detect,
    # 40 s to restart on two replicas; from 150 s on, 20 s of steps and 10 s of saving follow each other up to 400 s.
    result = run("checkpoint", (95, "remove", "a"), interval_steps=10)
    assert result.states[-1].num_used == 8
    assert spent(result) == {"compute": 230, "checkpoint": 110, "lost_work": 5, "detect": 15, "restart": 40}
    assert result.samples == 30 * 48 + 85 * 32


def test_an_asynchronous_save_counts_only_when_it_is_written():
    # Nothing of the copy is exposed; writing takes 10 s. The save of step 10 (20 s) counts from 30 s on.
    early = run("async-checkpoint", (29, "remove", "a"), interval_steps=10)
    late = run("async-checkpoint", (31, "remove", "a"), interval_steps=10)
    assert (early.counts["lost_steps"], late.counts["lost_steps"]) == (14, 5)
    # That of step 20, begun at 40 s, is not written when the run ends at 45 s.
    ends = [
        run("async-checkpoint", *changes, duration_s=45.0, interval_steps=10) for changes in ((), [(29, "remove", "a")])
    ]
    assert [end.counts["checkpoints"] for end in ends] == [1, 0]


def test_a_restart_for_new_nodes_waits_until_the_save_before_is_written():
    # Every four steps a save is written for 10 s, and steps wait for it: those of steps 4, 8, ..., 56 begin at 8 s,
    # 18 s, ..., 138 s. Nodes join at 137 s, amid the wait for that of step 52: all wait until 148 s and start anew.
    result = run("async-checkpoint", (17, "add", "m n o p"), interval_steps=4, duration_s=189.0)
    assert (result.counts["restarts"], result.counts["lost_steps"], result.samples) == (1, 0, 56 * 48)
    assert result.ledger_s["checkpoint"] == pytest.approx(13 * 2 + 10, abs=0.5)
    assert result.ledger_s["restart"] == 40


def test_a_copy_longer_than_a_step_is_made_once_and_written_from_its_end():
    # A copy of 3 s and a write of 10 s end 13 s after the step before, of which training waits for the last 1 s of the
    # copy.
    assert saved_behind(copy_s=3.0, write_s=10.0, step_s=2.0) == (1.0, 12.0)
    assert saved_behind(copy_s=1.5, write_s=10.0, step_s=2.0) == (0.0, 11.5)


HALF = ("gpu.peak_flop_per_s", "gpu.memory_bytes_per_s", "cluster.host.clock_hz", *(
    f"cluster.{part}_bytes_per_s" for part in (
        "network.nic", "network.local", "network.local_all_reduce", "network.storage", "host.link", "host.serialise"
    )
))  # fmt: skip
TWICE = ("gpu.kernel_overhead_s", "job.join_wait_s", *(f"cluster.{part}_s" for part in (
    "network.nic_latency", "network.local_latency", "network.local_all_reduce_latency", "recovery.detect",
    "recovery.rebuild", "recovery.regroup", "recovery.restart_base", "recovery.restart_per_node", "recovery.connect",
)))  # fmt: skip
"""All rates and all times that a job without a layout has, but the times of the host, which go with its clock."""


def test_a_job_in_which_all_takes_twice_as_long_makes_the_same_steps():
    changes = (400, "remove", "a b"), (700, "add", "m n"), (1111, "remove", "e"), (1500, "add", "o")
    systems = ["lazarus", "ds-ft", "tutel", "gemini", "async-checkpoint", "moc"]
    plain, slow = (
        lazsim.simulate(
            trace((0, "add", NAMES), *((factor * at, *what) for at, *what in changes), duration_s=factor * 2000.0),
            systems=systems,
            interval=30,
            **dict.fromkeys(HALF, f"x{1 / factor}"),
            **dict.fromkeys(TWICE, f"x{factor}"),
        ).runs
        for factor in (1, 2)
    )
    assert [run.samples for run in slow] == [run.samples for run in plain]
    for one, other in zip(plain, slow, strict=True):
        assert dict(other.ledger_s) == pytest.approx({bucket: 2 * spent for bucket, spent in one.ledger_s.items()})


def test_gemini_goes_back_by_the_step_whose_copy_was_under_way():
    # At 95 s, 47 steps are made and the copy of the 46th is whole: one step (2 s) and 1 s of the next are lost. A
    # transfer of 7 s does not fit behind half a step of 2 s: copies are made every seventh step, 42 is the last, and
    # the one before it, 35, is whole.
    result = run("gemini", (95, "remove", "a"))
    assert result.counts["lost_steps"] == 47 - 35
    # 30 s of a restart, as for a checkpoint, and a transfer in place of the load.
    assert result.ledger_s["restart"] == 37
    assert result.ledger_s["lost_work"] == 95 - 35 * 2


def test_gemini_falls_back_to_the_checkpoint_when_a_whole_group_is_lost():
    result = run("gemini", (95, "remove", "a b"), interval_steps=10)
    assert result.ledger_s["restart"] == 40
    assert run("gemini", (95, "remove", "b c")).ledger_s["restart"] == 37
    # The checkpoint of step 30 is newer than the copy of step 21.
    assert run("gemini", (95, "remove", "b c"), interval_steps=10).counts["lost_steps"] == 32 - 30


def test_gemini_does_not_find_copies_on_a_node_that_died_while_it_was_left_out_of_a_restart():
    # Eight of the eleven nodes left restart at 110 s; i is one of them and j, the other of its group, is not.
    first = (95, "remove", "a"), (120, "remove", "j")
    assert run("gemini", *first, (125, "remove", "h")).failures[-1].source == "memory"
    assert run("gemini", *first, (125, "remove", "i")).failures[-1].source == "initial"


def gemini_survival(num_nodes, num_copies, num_lost):
    """The published lower bound of the probability that copies survive, exact where groups divide the nodes."""
    pairs = math.comb(num_nodes - num_copies, num_lost - num_copies)
    return max(0.0, 1 - num_nodes * pairs / (num_copies * math.comb(num_nodes, num_lost)))


@pytest.mark.parametrize(("num_lost", "published"), [(2, 0.933), (3, 0.80)])
def test_copies_of_gemini_survive_as_often_as_published(num_lost, published):
    # SOSP 2023, figure 9: 16 machines, two copies.
    plan = SYSTEMS["checkpoint"].plan_evenly(costs(), 16)
    names = [f"n{index}" for index in range(16)]
    whole = Held.full(names, Planned(len(names), 0, lambda *_: plan))
    survived = [
        SYSTEMS["gemini"].copies_survive(whole.without(lost)) for lost in itertools.combinations(names, num_lost)
    ]
    assert np.mean(survived) == pytest.approx(gemini_survival(16, 2, num_lost))
    assert np.mean(survived) == pytest.approx(published, abs=0.002)


@pytest.mark.parametrize(("count", "copies", "fatal"), [
    # Pairs, and the last three in a ring, of which no two may go.
    (7, 2, ["ab", "cd", "ef", "fg", "eg"]),
    # A ring of five, each share on three that follow each other.
    (5, 3, ["abc", "bcd", "cde", "ade", "abe"]),
    (6, 3, ["abc", "def"]),
    (3, 4, ["abc"]),
])  # fmt: skip
def test_the_last_group_of_gemini_is_a_ring_where_groups_do_not_divide_the_nodes(count, copies, fatal):
    plan, names = SYSTEMS["checkpoint"].plan_evenly(costs(), 16), "abcdefg"[:count]
    whole, gemini = Held.full(names, Planned(count, 0, lambda *_: plan)), replace(SYSTEMS["gemini"], num_copies=copies)
    for size in range(count + 1):
        for lost in itertools.combinations(names, size):
            survives = not any(set(group) <= set(lost) for group in fatal)
            assert gemini.copies_survive(whole.without(lost)) is survives


def test_moevement_replays_a_window_on_a_spare_while_the_others_wait():
    # The states of a node are small: a window is one step. Of 47 steps none lies after it: one is replayed, 2 s.
    spares = run("moevement", (95, "remove", "a"), nodes=NAMES + " s")
    assert spent(spares) == {"compute": 365, "lost_work": 1 + 2, "detect": 15, "reconfigure": 10, "transfer": 7}
    assert spares.counts["lost_steps"] == 0
    without = run("moevement", (95, "remove", "a"), interval_steps=10)
    assert without.ledger_s["restart"] == 40


def test_moevement_cannot_replay_what_a_node_and_both_its_peers_held():
    # Seats 0, 1 and 2 follow each other in the stage; nodes d and later are left.
    three = run("moevement", (95, "remove", "a b c"), nodes=NAMES + " s t u", interval_steps=10)
    assert three.ledger_s["restart"] == 40
    assert run("moevement", (95, "remove", "a b"), nodes=NAMES + " s t u").ledger_s["restart"] == 0


def test_moevement_protects_nothing_where_a_stage_has_one_node_and_saves_as_often_as_others():
    # One replica of two stages, a node each, and two of them. sqrt(2 * 10 s * 600 s) is 54.8 steps of 2 s.
    cost_model, _ = grid_costs((2, 1), 2.0, 4, 0.5)
    moevement, loads = SYSTEMS["moevement"], EvenLoads(2, 2)
    for nodes, num_restarts in (("a b", 1), ("a b c d", 0)):
        count = len(nodes.split())
        events = trace((0, "add", nodes), (95, "remove", "a"), (95, "add", "s"), duration_s=1000.0)
        result = simulate_system(events, moevement, cost_model, loads, 400.0, interval_steps=10)
        assert result.counts["restarts"] == num_restarts
        assert bool(moevement.why_exposed(cost_model, count)) == num_restarts
    assert interval_steps(moevement, cost_model, loads, 2, between_s=600.0) == 55


@pytest.mark.parametrize(("changes", "why"), [
    # Seats 0 and 6 are the two stages of a pipeline: no neighbour has logs for them.
    ([(95, "remove", "a g")], "a snapshot is lost"),
    # Others recover from 110 s to 129 s.
    ([(95, "remove", "a"), (120, "remove", "b")], "nodes failed while others recovered"),
    # No step is whole before 2 s.
    ([(1, "remove", "a")], "no window is whole"),
])  # fmt: skip
def test_moevement_goes_back_to_the_checkpoint_where_its_snapshots_are_not_enough(changes, why):
    result = run("moevement", *changes, nodes=NAMES + " s t u", interval_steps=10)
    assert result.failures[-1].why == why
    assert result.counts["restarts"] == 1


def test_moevement_has_no_window_from_before_a_restart():
    # Restarted at 150 s; a node fails in the first step from then on.
    changes = (95, "remove", "a b c"), (151, "remove", "e")
    result = run("moevement", *changes, nodes=NAMES + " s t u v", interval_steps=10)
    assert [failure.why for failure in result.failures] == ["a snapshot is lost", "no window is whole"]
    assert result.counts["restarts"] == 2


def test_steps_are_lost_where_a_wait_for_nodes_ends_at_the_checkpoint():
    # Two replicas of three stages of three nodes. The six left, at 95 s after 32 steps, have all snapshots and logs,
    # but replace no stage; with three others there are enough for a restart, and too few for the places of twelve.
    names = [f"n{index}" for index in range(18)]
    lost = [name for index, name in enumerate(names) if index not in (0, 3, 7, 10, 14, 17)]
    plain = staged_costs(num_nodes=18)
    model = msgspec.structs.replace(plain.model, num_experts=6, num_layers=3, num_moe_layers=3)
    cost_model = replace(plain, model=model, stages=3, stage_nodes=3)
    events = trace((0, "add", " ".join(names)), (95, "remove", " ".join(lost)), (200, "add", "x y z"))
    result = simulate_system(events, SYSTEMS["moevement"], cost_model, EvenLoads(3, 6), 380.0, interval_steps=10)
    assert (result.failures[0].decision, result.failures[0].lost_steps) == ("wait, restart", 2)
    assert result.steps == 30 + (380 - 320 - 40) // 2


def test_lazarus_takes_nodes_that_its_stages_could_not_share_in_again_when_it_plans_anew():
    # Two stages share 10 of the 11 nodes left; the one that stands by takes part after the next loss.
    result = run("lazarus", (95, "remove", "a"), (200, "remove", "b"), nodes=NAMES)
    used = [state.num_used for state in result.states if state.num_used]
    assert list(dict.fromkeys(used)) == [12, 10]
    assert result.counts["reconfigurations"] == 2


@pytest.mark.parametrize("window", [1, 2, 7, 40])
def test_the_snapshots_of_a_window_are_what_its_steps_copy(window):
    # scheduler.py of MoEvement: 12 bytes of those whose turn it is, 2 of those whose turn is to come.
    params = held_state_bytes(staged_costs(), 1) / 14
    copied = sum(12 * params / window + 2 * (params - turn * params / window) for turn in range(1, window + 1))
    assert SYSTEMS["moevement"].window_bytes_S(staged_costs(), window) == pytest.approx([copied, copied])


def test_nodes_that_stood_by_take_free_places_at_once():
    result = run("recycle", (95, "remove", "a"), nodes=NAMES + " s")
    assert [(event.time_s, event.event) for event in result.events[2:4]] == [
        (110 + 10, "recovered"),
        (120 + 10 + 7, "joined"),
    ]
    assert result.states[-1].num_used == 12


@pytest.mark.parametrize("count", range(4, 13))
def test_templates_of_oobleck_use_every_node_from_those_on_that_hold_the_model_once(count):
    # Each node trains 4 samples in 2 s, beside however many. Those that make no pipeline add no stage of a whole layer.
    result = run("oobleck", nodes=" ".join(NODES[:count]), duration_s=2000.0)
    assert {state.num_used for state in result.states} == {count}
    # At the end, one step is under way.
    assert result.samples == pytest.approx(2 * (count // 4 * 4) * 2000, abs=64)


@pytest.mark.parametrize(("num_layers", "fewest", "count"), [(6, 2, count) for count in range(4, 13)] + [(5, 3, 16)])
def test_pipelines_of_oobleck_are_the_best_of_all_pipelines_and_divisions_of_micro_batches(num_layers, fewest, count):
    # Two nodes are a stage, and a pipeline has four micro-batches; it takes one for each stage beyond the first to
    # fill. Nodes may stay idle, but two pipelines train where there are nodes for them. Of six layers, two stages hold
    # three and three stages two. Of five, three stages and four hold two, and five one: of eight stages three and five
    # train more than four and four.
    found = []
    for pipelines in range(2 if count >= 4 * fewest else 1, count // (2 * fewest) + 1):
        divisions = [one for one in itertools.product(range(17), repeat=pipelines) if sum(one) == 4 * pipelines]
        for stages in itertools.product(range(fewest, 2 * fewest), repeat=pipelines):
            if 2 * sum(stages) <= count:
                each_s = [[(number + one - 1) * -(-num_layers // one) for number in range(17)] for one in stages]
                step = min(
                    max(ends[number] for number, ends in zip(one, each_s, strict=True) if number) for one in divisions
                )
                whole = (4 + fewest - 1) * -(-num_layers // fewest)
                found.append((step / pipelines, 2 * fewest * pipelines, step / whole))
    _, nodes, factor = min(found)
    costs = staged_costs()
    model = msgspec.structs.replace(costs.model, num_layers=num_layers, d_ff_dense=1)
    costs = replace(costs, model=model, stages=fewest)
    assert SYSTEMS["oobleck"].timed(costs, count, 12)[:2] == (nodes, pytest.approx(factor))


def test_pipelines_of_oobleck_may_have_three_numbers_of_stages_or_more():
    # Five stages hold up to 4 of 16 layers, six 3, and eight 2. Four pipelines of 8, 6, 6 and 5 stages end 23, 15, 15
    # and 11 micro-batches in 60 units, as (23 - 1 + 8) * 2 = 60: all 64. Of 8, 7, 5 and 5 stages they end 60,
    # and 60 of 7, 6, 6 and 6. Whole ones take (16 + 4) * 4. Three pipelines take 46, for the samples of 30 nodes.
    costs = staged_costs(num_nodes=50)
    model = msgspec.structs.replace(costs.model, num_layers=16, d_ff_dense=1)
    costs = replace(costs, model=model, stages=5, micro_batches=16)
    assert SYSTEMS["oobleck"].timed(costs, 50, 50) == (40, 60 / 80, 0)


@pytest.mark.parametrize(("stages", "parts"), [(13, 1), (11, 3)])
def test_a_pipeline_of_oobleck_takes_the_step_of_the_same_stages_in_a_layout(stages, parts):
    # Eight nodes are a stage: 104 to 111 are 13 stages, 88 to 95 are 11, as in a layout of their own. 2048 sequences
    # are 64 micro-batches for each of 32 ranks. 13 stages hold up to 5 of 61 layers, and up to 6 in two parts or three.
    # 11 stages hold up to 6 in one, two or three parts, of which three wait least, and up to 8 in four.
    settings = {"model": "deepseek-v3", "cluster": "h200x512", "job": "deepseek-v3", "job.parallel.global_batch": 2048}
    settings |= {"system": "oobleck"}
    given = {"pipeline": stages, "virtual_stages": parts, "sharding": "none"}
    as_layout = resolve(settings | {f"job.parallel.{name}": value for name, value in given.items()})
    expected = steady_step_s(SYSTEMS["oobleck"], as_layout.costs(), as_layout.load_routing(), 8 * stages)
    scenario = resolve(settings)
    for nodes in (8 * stages, 8 * stages + 7):
        found = steady_step_s(SYSTEMS["oobleck"], scenario.costs(), scenario.load_routing(), nodes)
        assert found == pytest.approx(expected)


LAYOUTS = [
    {"global_batch": 8192},
    {"global_batch": 2048},
    {"global_batch": 500},  # Two replicas and five have as many whole rounds each.
    {"global_batch": 500, "virtual_stages": 1},
    {"global_batch": 500, "schedule": "dualpipe", "virtual_stages": 1, "pipeline": 16},  # 32 micro-batches at least.
    {"global_batch": 2048, "schedule": "dualpipe", "virtual_stages": 1},
]


@pytest.mark.parametrize("parallel", LAYOUTS)
def test_no_node_of_oobleck_slows_steps_but_where_it_makes_the_second_pipeline(parallel):
    # One more pipeline that gets as many rounds as the others made steps longer.
    settings = {"model": "deepseek-v3", "cluster": "h200x512", "job": "deepseek-v3", "system": "oobleck"}
    scenario = resolve(settings | {f"job.parallel.{name}": value for name, value in parallel.items()})
    costs, routing = scenario.costs(), scenario.load_routing()
    one, stage = costs.grid.replica_nodes, costs.grid.unit_nodes
    for counts in (range(one, 2 * one, stage), range(2 * one, 5 * one, stage)):
        steps_s = [steady_step_s(SYSTEMS["oobleck"], costs, routing, count) for count in counts]
        assert all(less <= more for less, more in zip(steps_s[1:], steps_s[:-1], strict=True))


@pytest.mark.parametrize(
    ("third_trains", "parallel"),
    [
        (True, {"global_batch": 8192}),  # Interleaving takes longer than it saves.
        (False, {"global_batch": 64}),  # Interleaving takes eight micro-batches where a rank has two, and so do more.
        (False, {"global_batch": 512, "schedule": "dualpipe", "virtual_stages": 1, "pipeline": 16}),  # 32, of 16.
    ],
)
def test_whole_model_replicas_of_oobleck_take_the_step_of_the_job(third_trains, parallel):
    # They were up to twice as fast: plain 1F1B needs no rounds of many micro-batches.
    settings = {"model": "deepseek-v3", "cluster": "h200x512", "job": "deepseek-v3", "system": "oobleck"}
    costs = resolve(settings | {f"job.parallel.{name}": value for name, value in parallel.items()}).costs()
    one = costs.grid.replica_nodes
    for nodes, training in ((one, one), (2 * one, 2 * one), (3 * one, (2 + third_trains) * one)):
        assert SYSTEMS["oobleck"].timed(costs, nodes, nodes)[:2] == (training, 1.0)
        # A node more makes no stage.
        assert SYSTEMS["oobleck"].timed(costs, nodes + 1, nodes)[:2] == (training, 1.0)


def test_templates_of_oobleck_keep_a_mixer_and_its_experts_in_one_stage(tmp_path):
    # Qwen3-Next has 48 such pairs, and 96 blocks: seven stages of eight parts would be too many.
    (tmp_path / "staged.toml").write_text(
        "[parallel]\nglobal_batch = 6144\npipeline = 4\nvirtual_stages = 8\nexpert = 8\nmicro_batch = 2"
    )
    asked = {"model": "qwen3-next-80b-a3b", "cluster": "b200x48", "job": str(tmp_path / "staged.toml")}
    templates = resolve(asked | {"system": "oobleck"}).costs().templates(8)
    assert max(stages for stages, *_ in templates) == 2 * 4 - 1


def test_a_stage_that_would_make_steps_of_oobleck_longer_is_not_made():
    # Of 61 layers 13, 14 and 15 stages hold up to 5, and four micro-batches take 4 + 12 times as long as these, 4 + 13,
    # or 4 + 14. Eight stages as in the job take (4 + 7) * 8.
    costs = staged_costs()
    model = msgspec.structs.replace(costs.model, num_layers=61, d_ff_dense=1)
    costs = replace(costs, model=model, stages=8)
    factors = [SYSTEMS["oobleck"].timed(costs, 2 * stages, 32).factor for stages in (13, 14, 15)]
    assert factors == pytest.approx([16 * 5 / (11 * 8)] * 3)


def test_layers_of_oobleck_are_in_every_pipeline_again_after_a_failure():
    # a, c and e are the same quarter of the three pipelines. 11 nodes are left in two pipelines, then 10, then 9. Each
    # time 15 s of detection, 10 s of a rebuild and 7 s of a copy.
    in_turn = (100, "remove", "a"), (200, "remove", "c"), (300, "remove", "e")
    result = run("oobleck", *in_turn)
    assert (result.counts["restarts"], result.counts["lost_steps"]) == (0, 0)
    assert [result.ledger_s[bucket] for bucket in ("detect", "reconfigure", "transfer")] == [45, 30, 21]
    assert run("oobleck", (100, "remove", "a c e")).counts["restarts"] == 1
    # Before the copy is there, all three are one failure.
    assert run("oobleck", (100, "remove", "a"), (110, "remove", "c"), (120, "remove", "e")).counts["restarts"] == 1


@pytest.mark.parametrize("lost", NODES[:9])
def test_whichever_node_of_oobleck_fails_its_pipeline_needs_its_layers(lost):
    # Nine nodes are pipelines of four and five: the others of either have none of what the node had. A copy takes 7 s.
    assert run("oobleck", (100, "remove", lost), nodes=" ".join(NODES[:9])).ledger_s["transfer"] == 7
    # All four of a pipeline leave none who lacks a layer.
    assert run("oobleck", (100, "remove", "a b g h")).ledger_s["transfer"] == 0


def test_a_node_of_the_only_pipeline_of_oobleck_takes_its_layers_with_it():
    # Seven nodes make no two pipelines of four; eight do.
    assert run("oobleck", (100, "remove", "f"), nodes="a b c d e f g").counts["restarts"] == 1
    eight = run("oobleck", (100, "remove", "f"), (200, "remove", "a"), nodes="a b c d e f g h")
    assert [failure.decision for failure in eight.failures] == ["continue", "restart"]


MISSING = [
    *itertools.combinations(NODES, 2), *itertools.combinations(NODES[:8], 3), *itertools.combinations(NODES[:8], 4),
]  # fmt: skip


def places_of(seats):
    # Seats 0, 2 and 4 are one place, as are 1, 3 and 5, and so on.
    return Counter((seat // 6, seat % 2) for seat in seats)


@pytest.mark.parametrize("missing", MISSING)
def test_nodes_of_oobleck_change_places_until_each_is_taken_once_a_pipeline(missing):
    left, pipelines = set(held(*missing).seats), (12 - len(missing)) // 4
    moved = SYSTEMS["oobleck"].moves(staged_costs(), held(*missing))
    after = left - set(moved) | set(moved.values())
    assert len(after) == len(left) >= len(left | set(moved))
    counts = places_of(left)
    assert min(places_of(after)[place] for place in places_of(range(12))) == pipelines
    assert len(moved) == sum(max(0, pipelines - counts[place]) for place in places_of(range(12)))


@pytest.mark.parametrize("missing", MISSING)
def test_newcomers_take_the_places_of_which_most_nodes_are_missing(missing):
    cost_model = staged_costs()
    lost = set(held(*missing).seats) ^ set(range(12))

    def most_missing(filled):
        return max(places_of(lost - set(filled)).values(), default=0)

    for count in range(len(lost) + 1):
        taken = SYSTEMS["recycle"].free_seats(cost_model, held(*missing), count)
        assert len(taken) == count
        assert set(taken) <= lost
        assert most_missing(taken) == min(map(most_missing, itertools.combinations(lost, count)))
    assert set(SYSTEMS["recycle"].free_seats(cost_model, held(*missing), 99)) == lost


def steps_by_brute_force(failures_s, duration_s, interval, persist_s=0.0, stall_s=0.0, lag=0):
    """Make the steps of 2 s and the saves one by one, and stand still after each failure."""
    now_s, step, copied, saves, failures_s = 0.0, 0, 0, [(0, 0.0)], [*failures_s, math.inf]
    while True:
        is_save = step // interval > saves[-1][0] // interval
        end_s = now_s + (max(0.0, saves[-1][1] - now_s) + stall_s if is_save else 2.0)
        if min(failures_s[0], duration_s) >= end_s:
            now_s = end_s
            if is_save:
                saves.append((step, now_s + persist_s))
            else:
                step += 1
            continue
        if failures_s[0] > duration_s:
            return step
        saves = [save for save in saves if save[1] <= failures_s[0]]
        # The copy before the one under way, or the one that the job went back to last.
        saved, copied = saves[-1][0], max(copied, (step // lag - 1) * lag) if lag else 0
        step = max(saved, copied)
        copied = copied if copied > saved else 0
        # 15 s to detect and 30 s to restart; 7 s to fetch or 10 s to load.
        down_s = 45 + (7 if copied else 10 if saved else 0)
        now_s = failures_s.pop(0) + down_s
        while failures_s[0] < now_s:
            now_s = failures_s.pop(0) + down_s


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 90), max_size=6, unique=True),
    st.sampled_from([1, 3, 10, 45, 10**6]),
    st.sampled_from(["checkpoint", "async-checkpoint", "moc", "gemini"]),
)
def test_steps_kept_are_those_of_going_step_by_step(places, interval, system):
    # Saves take 10 s, or as long beside training after a copy of some milliseconds; copies in memory take 7 steps.
    save = SYSTEMS[system].save(staged_costs(), 12, 2.0)
    assert sum(save) == pytest.approx(10.0, abs=0.02)
    times = {"persist_s": save.persist_s, "stall_s": save.stall_s, "lag": 7 if system == "gemini" else 0}
    # A node of each group of two fails, never at the end of a step or a save, nor while another failure is noticed;
    # another node takes its place.
    failures_s = [17 * place + 0.05 * index + 0.5 for index, place in enumerate(sorted(places))]
    changes = [
        change
        for index, time_s in enumerate(failures_s)
        for change in ((time_s, "remove", NODES[2 * index]), (time_s, "add", f"s{index}"))
    ]
    result = run(system, *changes, duration_s=2000.0, interval_steps=interval)
    assert result.steps == steps_by_brute_force(failures_s, 2000.0, interval, **times)


def test_moc_saves_a_share_of_the_experts_and_loses_their_updates():
    # A sixteenth of the experts each: the other 15 saves are 7.5 intervals older on average.
    assert SYSTEMS["moc"].stale_steps(interval_steps=10) == 75
    # At 95 s four saves are written: a sixteenth of the experts has each, and twelve have none.
    result = run("moc", (95, "remove", "a"), interval_steps=10)
    assert result.lost_token_share == (0 + 10 + 20 + 30 + 12 * 40) / 16 / result.steps
    # So it is where too few nodes are left to restart before the run ends.
    waits = run("moc", (95, "remove", "a b c d e f g h i"), interval_steps=10)
    assert (waits.steps, waits.counts["restarts"]) == (40, 0)
    assert waits.lost_token_share == (0 + 10 + 20 + 30 + 12 * 40) / 16 / 40


def test_moc_saves_all_experts_before_it_stops_in_order_and_loses_none():
    # Four nodes come at 95 s. After 120 s of collecting all stop at the step's end, and save; a failure before the next
    # partial save goes back to that save, and has lost no update either.
    joined = run("moc", (95, "add", "m n o p"), interval_steps=10)
    assert (joined.counts["restarts"], joined.lost_token_share) == (1, 0.0)
    at_s = next(event.time_s for event in joined.events if event.event == "restarted")
    failed = run("moc", (95, "add", "m n o p"), (at_s + 5, "remove", "a"), interval_steps=10)
    assert (failed.counts["restarts"], failed.lost_token_share) == (2, 0.0)
    # A save of all takes no less than one of a part.
    moc = SYSTEMS["moc"]
    assert sum(moc.save_all(staged_costs(), 12, 2.0)) > sum(moc.save(staged_costs(), 12, 2.0))


def test_moc_loses_all_updates_since_all_was_saved_of_experts_that_were_not_saved_since():
    # All was saved at step 110, and a sixteenth each at 120 and 160, to which all go back: one sixteenth loses nothing,
    # one 40 steps, and fourteen 50.
    assert SYSTEMS["moc"].stale_steps(40, 50) == (0 + 40 + 14 * 50) / 16
    # All at 35, one of two at 40, the other one at 50.
    assert replace(SYSTEMS["moc"], num_turns=2).stale_steps(10, 15) == (0 + 10) / 2


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.sampled_from([1, 2, 5, 16]))
def test_moc_loses_what_experts_had_learned_since_their_own_save_or_the_last_rollback(saves, turns):
    # Save after save of one of `turns` experts, and now and then a rollback of each to its own.
    moc, step = replace(SYSTEMS["moc"], num_turns=turns), 0
    learned_since, turn = [0] * turns, 0
    for count in saves:
        for _ in range(count):
            step, turn = step + 10, (turn + 1) % turns
            learned_since[turn] = step
        expected = sum(step - since for since in learned_since) / turns
        assert moc.stale_steps(10, count * 10) == pytest.approx(expected)
        learned_since = [step] * turns


def test_moc_saves_more_experts_when_the_next_rollback_would_exceed_its_budget():
    moc = replace(SYSTEMS["moc"], raises_share=True)
    # 3.75 % of 4000 steps are 150. After 75 lost ones, 75 more fit; after 76, a rollback may lose 35 (8 saves).
    assert moc.within_budget(75, 4000, interval_steps=10).num_turns == 16
    assert moc.within_budget(76, 4000, interval_steps=10).num_turns == 8
    assert moc.within_budget(160, 4000, interval_steps=10).num_turns == 1
    assert SYSTEMS["moc"].within_budget(160, 4000, interval_steps=10).num_turns == 16


@pytest.mark.parametrize("joins_s", range(1, 19, 3))
def test_moc_that_saves_every_expert_each_time_trains_as_asynchronous_checkpoints_do(joins_s):
    # A copy of 8 s, 2 s of it behind a step, and a write of 10 s: 18 s a step, of which new nodes may join in any.
    alike = [
        run(system, (joins_s, "add", "m n o p"), interval_steps=1, cost_model=grid_costs((2, 2), 2.0, 1, 8.0)[0])
        for system in (replace(SYSTEMS["moc"], num_turns=1), "async-checkpoint")
    ]
    moc, asynchronous = ((result.samples, spent(result), result.counts) for result in alike)
    assert moc == asynchronous


@pytest.mark.parametrize("lost_s", [135, 150])
@pytest.mark.parametrize("system", ["checkpoint", "spare"])
def test_new_nodes_are_collected_from_the_first_on_also_after_a_join_that_failed(system, lost_s):
    # Four nodes that come at 10 s lead to a save at 130 s and a restart from 140 s on. All are lost in one of them. A
    # node comes before this is detected, three after it: all restart 120 s after the first, in 30 s, and load in 10 s.
    changes = (10, "add", "e f g h"), (lost_s, "remove", "a b c d e f g h"), (lost_s + 10, "add", "w")
    result = run(system, *changes, (200, "add", "x y z"), nodes="a b c d")
    restarts = [event.time_s for event in result.events if event.event == "restarted"]
    assert restarts == [lost_s + 10 + 120 + (40 if lost_s > 140 else 30)]


def test_new_nodes_are_collected_from_the_first_on_also_where_a_spare_starts_meanwhile():
    # Three of four go, a spare starts 50 s later. A node that comes at 120 s is collected until 240 s, as is another.
    changes = trace((0, "add", "a b c d s"), (100, "remove", "a b c"), (120, "add", "x"), (200, "add", "y"))
    result = simulate_system(
        changes, SYSTEMS["checkpoint"], staged_costs(), EvenLoads(2, 4), 400.0, interval_steps=0, spares=Spares(4, 50.0)
    )
    assert [event.time_s for event in result.events if event.event == "restarted"] == [240 + 30]


def test_a_recovery_that_ends_at_the_instant_of_a_failure_has_ended():
    # 15 s to detect and 10 s to regroup from 95 s on; the nodes kept hold all that they need.
    result = run("ds-ft", (95, "remove", "f"), (120, "remove", "a"), cost_model=costs(), nodes="a b c d e f")
    assert [(event.time_s, event.event) for event in result.events[2:4]] == [(120, "recovered"), (120, "failure")]


def test_replica_drop_loses_one_step_and_goes_on_with_fewer_samples():
    # At 95 s the step began at 94: it is lost, 2 s with the second in which the others find out; 1 s for the quorum.
    # From 97 s on, 151 steps of two replicas.
    result = run("replica-drop", (95, "remove", "a"))
    assert spent(result) == {"compute": 94 + 303, "lost_work": 1, "detect": 1, "reconfigure": 1}
    assert result.samples == 47 * 48 + 151 * 32
    assert result.states[-1].num_used == 8


def test_replicas_notice_two_failures_in_one_step_at_its_end():
    # The step ends at 96 s.
    once, twice = (run("replica-drop", (95, "remove", "a"), *more) for more in ((), ((95.5, "remove", "b"),)))
    assert once.events[-2].time_s == twice.events[-2].time_s == 97
    assert once.samples == twice.samples


@pytest.mark.parametrize("system", ["replica-drop", "spare"])
def test_a_node_of_a_replica_that_is_broken_already_is_not_in_use(system):
    # Seats 0, 1, 6 and 7 are a replica.
    result = run(system, (95, "remove", "a"), (200, "remove", "b"))
    assert result.counts["failures"] == 1
    assert result.states[-1].num_used == 8


def test_a_dropped_replica_returns_when_all_its_nodes_are_there_again():
    result = run("replica-drop", (95, "remove", "a"), (110, "add", "z"))
    # 120 s of collecting, to the end of the step at 231 s; a start of 15 s and 0.52 s for each of 4 GPUs, and a copy of
    # 7 s, to the end of the step at 257 s; 1 s of quorum.
    assert result.states[-1].num_used == 12
    assert next(event for event in result.events if event.event == "joined").time_s == 258


@pytest.mark.parametrize(("changes", "joins_s", "num_used"), [
    # From 97 s on two replicas train. Three nodes of the first start anew with the spare: 17.08 s and a copy of 7 s,
    # to the end of the step at 123 s.
    ([(95, "remove", "a")], 123 + 1, 12),
    # So do the parts of two replicas that failed: one replica forms of them.
    ([(95, "remove", "a d")], 123 + 1, 8),
    # Four nodes that nobody used come at 96 s: 120 s of collecting, and a copy of 7 s, to the end of the step at 224 s.
    ([(96, "add", "w x y z")], 224 + 1, 16),
    # The spare and three of them copy. One fails at 220 s; the other three and the fourth copy from then on, to 227 s.
    ([(96, "add", "w x y z"), (220, "remove", "y")], 228 + 1, 16),
])  # fmt: skip
def test_a_replica_gets_ready_while_the_others_train(changes, joins_s, num_used):
    result = run("replica-drop", *changes, nodes=NAMES + " s")
    joined = next(event for event in result.events if event.event == "joined")
    assert (joined.time_s, joined.num_used) == (joins_s, num_used)
    assert result.ledger_s["transfer"] == result.ledger_s["restart"] == 0


@pytest.mark.parametrize(("changes", "joins"), [
    # Five nodes come at 96 s: 120 s of collecting, to the end of the step at 217 s. Four copy for 7 s, to the end of
    # the step at 225 s; one starts anew with the three of the replica that failed: 17.08 s and a copy, to 242 s.
    ([(95, "remove", "a"), (96, "add", "v w x y z")], [(225 + 1, 12), (242 + 1, 16)]),
    # With a node that comes, the three are ready at the end of the step at 243 s. From then on four others only copy.
    ([(95, "remove", "a"), (96, "add", "s"), (218, "add", "w x y z")], [(243 + 1, 12), (250 + 1, 16)]),
    # That node fails when the replica is ready. Of nine nodes that do not train eight make replicas: from 243 s on four
    # new ones copy, and the others start anew, too; the ninth has no states, and takes no place with the three.
    (
        [(95, "remove", "a"), (96, "add", "s"), (218, "add", "t u v w x y"), (242.5, "remove", "s")],
        [(251 + 1, 12), (268 + 1, 16)],
    ),
])  # fmt: skip
def test_every_replica_gets_ready_by_itself(changes, joins):
    result = run("replica-drop", *changes)
    assert [(event.time_s, event.num_used) for event in result.events if event.event == "joined"] == joins


def test_a_replica_that_gets_ready_takes_part_in_a_restart():
    # Its four nodes get ready from 97 s on. At 110 s both others fail, and all that is left starts anew.
    result = run("replica-drop", (95, "remove", "a"), (110, "remove", "c e"), nodes=NAMES + " s")
    assert [(event.event, event.time_s, event.num_used) for event in result.events[-2:-1]] == [("restarted", 141, 8)]


def test_parts_of_several_replicas_do_not_make_one():
    # A node of each of three replicas fails: places 0, 0 and 1 are missing, and together the rest hold all.
    result = run("replica-drop", (95, "remove", "a d e"), interval_steps=10)
    assert (result.counts["restarts"], result.counts["reconfigurations"]) == (1, 0)


def test_a_coordinator_that_leads_replicas_tells_all_at_once_and_lets_all_wait_for_a_copy():
    # As in the live mode: 15 s to detect from 95 s on, a rebuild of 10 s; again 10 s and the copy of 7 s for the join
    # that 120 s of collecting lead to.
    changes = trace((0, "add", NAMES), (95, "remove", "a"), (110, "add", "z"))
    led = simulate_system(
        changes, LIVE_SYSTEMS["replica-drop"], staged_costs(), EvenLoads(2, 4), 400.0, interval_steps=0
    )
    assert spent(led) == {"compute": 358 - 1, "lost_work": 1, "detect": 15, "reconfigure": 20, "transfer": 7}


def test_a_failure_costs_ft_hsdp_the_stall_of_all_and_the_restart_of_a_replica():
    # A failure every 1000 s stalls all for half a second of the step, the rest of it, 180 s and 1 s of quorum, and the
    # join for 1 s; one replica of three is away for 17.08 + 7 s, to the end of a step.
    changes, nodes = [], list(NODES)
    for index in range(1, 50):
        lost, nodes[index % 12] = nodes[index % 12], f"r{index}"
        changes += [(1000 * index + 0.5, "remove", lost), (1000 * index + 0.6, "add", f"r{index}")]
    result = run("ft-hsdp", *changes, duration_s=50_000.0, cost_model=staged_costs(join_wait_s=0.0))
    lost_share = 49 / 50 * ((0.5 + 1.5 + 180 + 1 + 1) / 1000 + 26 / 1000 / 3)
    assert result.samples / (50_000 / 2 * 48) == pytest.approx(1 - lost_share, abs=1e-4)


def test_dropped_replicas_share_commits_as_the_closed_form_says():
    # A failure every 60 s discards the step under way of 10.9 s: 1 - 10.9 / 60 of the steps commit (torchft's blog
    # measured 82.3 %).
    quick = staged_costs(10.9, num_nodes=240, join_wait_s=0.0)
    nodes = " ".join(f"n{index}" for index in range(240))
    failures = [(60.0 * index + 30, "remove", f"n{2 * index}") for index in range(1, 60)]
    back = [(time_s + 1, "add", f"m{index}") for index, (time_s, _, _) in enumerate(failures)]
    changes = sorted([*failures, *back])
    result = run("replica-drop", *changes, duration_s=3600.0, cost_model=quick, nodes=nodes)
    attempted = result.steps + result.counts["failures"]
    # 1 s of a quorum at each failure and each return comes on top of the step.
    assert result.steps / attempted == pytest.approx(1 - 10.9 / (60 - 2), abs=0.01)


def test_ft_hsdp_stands_still_as_long_as_published():
    # The step ends at 96 s; 3 min later the two other replicas go on.
    result = run("ft-hsdp", (95, "remove", "a"))
    assert [(event.time_s, event.event) for event in result.events[2:3]] == [(96 + 180 + 1, "recovered")]
    assert result.samples == 47 * 48 + (400 - 277) // 2 * 32


def test_oobleck_goes_on_with_the_throughput_of_the_pipelines_left():
    # 94 s, then 15 + 10 + 7 s; from 127 s on, steps of two pipelines, 32 samples: a third stage has no layer to take.
    result = run("oobleck", (95, "remove", "a"))
    assert result.steps == 47 + (400 - 127) // 2
    assert result.samples == 47 * 48 + (result.steps - 47) * 32
    assert spent(result) == pytest.approx(
        {"compute": 94 + 273, "lost_work": 1, "detect": 15, "reconfigure": 10, "transfer": 7}
    )


def test_oobleck_needs_the_checkpoint_when_no_pipeline_has_a_stage_left():
    # Seats 0, 2 and 4 hold the same half of the experts of stage 0.
    assert run("oobleck", (95, "remove", "a c e"), interval_steps=10).counts["restarts"] == 1
    assert run("oobleck", (95, "remove", "a c"), interval_steps=10).counts["restarts"] == 0


def test_bamboo_shadows_a_stage_and_fails_when_its_neighbour_fails_too():
    # Seat 0 of stage 0 and seat 6 of stage 1 are neighbours.
    goes_on = SYSTEMS["bamboo"].goes_on
    assert goes_on(staged_costs(), held("a"))
    assert goes_on(staged_costs(), held("a", "b", "i"))
    assert not goes_on(staged_costs(), held("a", "g"))
    result = run(replace(SYSTEMS["bamboo"], most_shadow_share=math.inf), (95, "remove", "a"))
    assert result.steps == 47 + (400 - 110) // 3


def test_bamboo_forms_pipelines_anew_when_shadows_are_too_many():
    # One of 12 is missing: two of 11 is more than 5 %, and two of three pipelines go on after 10 s, without a factor.
    result = run("bamboo", (95, "remove", "a"))
    assert result.counts["reconfigurations"] == 1
    assert result.states[-2].num_used == 8


def test_bamboo_takes_nodes_that_had_no_place_in_whole_pipelines_in_again_without_a_restart():
    # Two pipelines go on at 120 s, and d and two others stand by. z comes at 130 s and joins at the step's end after
    # 120 s; all 12 train from 262 s on.
    result = run("bamboo", (95, "remove", "a"), (130, "add", "z"))
    assert (result.counts["reconfigurations"], result.counts["restarts"]) == (2, 0)
    assert [(state.time_s, state.num_used) for state in result.states if state.num_used][-1][1] == 12


@pytest.mark.parametrize(("failed", "restarts"), [("a", 0), ("a c", 1)])
def test_bamboo_forms_its_only_pipeline_anew_from_the_stage_that_a_neighbour_holds(failed, restarts):
    # Of one pipeline, a and b are stage 0, c and d stage 1. c holds the states of a, too.
    result = run("bamboo", (95, "remove", failed), nodes="a b c d e f", cost_model=staged_costs(num_nodes=4))
    assert (result.counts["restarts"], result.counts["reconfigurations"]) == (restarts, 1 - restarts)
    assert (result.counts["lost_steps"] > 0) == bool(restarts)


def test_bamboo_goes_on_with_shadows_where_too_few_nodes_are_left_for_a_pipeline():
    # One pipeline of a and b, and c and d. From 95 + 15 s on steps take 3 s, up to the one that ends at 281 s; z, which
    # came at 160 s, is in place 10 s and 7 s later, and the 102 s left are steps of 2 s.
    changes, cost_model = [(95, "remove", "a"), (160, "add", "z")], staged_costs(num_nodes=4)
    result = run("bamboo", *changes, nodes="a b c d", cost_model=cost_model)
    assert (result.steps, result.samples) == (47 + 57 + 51, 16 * (47 + 57 + 51))
    assert spent(result) == {"compute": 94 + 171 + 102, "lost_work": 1, "detect": 15, "reconfigure": 10, "transfer": 7}


@pytest.mark.parametrize(("micro_batches", "missing", "factor"), [
    # 5 units a step; 4 micro-batches go to 2 peers, 2 each, and half a unit of bubble takes them.
    (4, "a", (5 + 2 - 0.5) / 5),
    (4, "a c", (5 + 8 - 0.5) / 5),
    (1, "a", 1.0),
])  # fmt: skip
def test_recycle_fills_bubbles_with_the_micro_batches_of_failed_nodes(micro_batches, missing, factor):
    cost_model = replace(staged_costs(), micro_batches=micro_batches)
    pace = SYSTEMS["recycle"].pace(cost_model, held(*missing.split()), 2.0)
    assert pace.step_factor == pytest.approx(factor)


def stacks_by_brute_force(broken, redundancy):
    """Try every way to give each shard to a group that is left and has it."""
    num_groups = len(broken)
    owners = [
        [g for g in ((shard - k) % num_groups for k in range(redundancy)) if not broken[g]]
        for shard in range(num_groups)
    ]
    ways = itertools.product(*owners)
    return min((max(way.count(group) for group in set(way)) for way in ways), default=0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(1, 3))
def test_stacked_shards_cover_the_batch_with_the_fewest_stacks(broken, redundancy):
    redundancy = min(redundancy, len(broken))
    found = replace(SPARE, num_stacks=redundancy).stacks(np.array(broken))
    fewest = stacks_by_brute_force(broken, redundancy)
    assert found == (fewest if fewest <= redundancy else 0)


def test_stacked_shards_fail_as_often_as_published():
    # arXiv 2603.00357: Gamma(1/r) / r * N^(1 - 1/r) failures until a shard has lost all r holders, 426 for 600 and 20;
    # here 60 groups and r = 3. More failures never help, so that the first that is too many is found by halving.
    num_groups, redundancy, rng = 60, 3, np.random.default_rng(0)
    spare = replace(SPARE, num_stacks=redundancy)

    def is_lost(order, count):
        return not spare.stacks(np.isin(np.arange(num_groups), order[:count]))

    masked = []
    for _ in range(100):
        order = rng.permutation(num_groups)
        masked.append(bisect.bisect_left(range(num_groups), True, key=partial(is_lost, order)) - 1)
    expected = math.gamma(1 / redundancy) / redundancy * num_groups ** (1 - 1 / redundancy)
    assert np.mean(masked) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("system", ["bamboo", "moevement"])
def test_a_system_that_needs_stages_refuses_a_job_without(system):
    told = f"{system} .*, and a job without a layout has one: give a `job` whose layout, `parallel`, has two or more"
    with pytest.raises(InfeasiblePlanError, match=told):
        run(system, cost_model=costs(), nodes="a b c d")


@pytest.mark.parametrize("system", [name for name, one in SYSTEMS.items() if "two model replicas" in one.needs])
def test_a_system_that_needs_two_replicas_refuses_a_cluster_with_one(system):
    with pytest.raises(InfeasiblePlanError, match=f"{system} takes two model replicas, 8 nodes, and there are 4"):
        run(system, cost_model=staged_costs(num_nodes=4), nodes="a b c d")


@settings(max_examples=100, deadline=None)
@given(
    scenarios(),
    st.sampled_from(sorted(SYSTEMS)),
    st.sampled_from([0.7, 2.0, 33.0]),
    st.sampled_from([0, 1, 7, 40, 10**6]),
)
def test_every_second_is_in_one_bucket_and_the_timeline_adds_up(scenario, system, step_s, interval_steps):
    events, duration_s = scenario
    cost_model = staged_costs(step_s, num_nodes=8, rebalance_interval_steps=50)
    arguments = (events, SYSTEMS[system], cost_model, RandomLoads(2, 4), duration_s)
    result = simulate_system(*arguments, interval_steps=interval_steps)
    assert set(result.ledger_s) == set(BUCKETS)
    assert min(result.ledger_s.values()) >= 0
    assert sum(result.ledger_s.values()) == pytest.approx(duration_s, abs=1e-6)
    assert trained(result) == pytest.approx(result.samples)
    assert min(state.lost_samples_per_s for state in result.states) >= 0
    assert simulate_system(*arguments, interval_steps=interval_steps) == result


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from(sorted(SYSTEMS)))
def test_a_job_with_enough_nodes_trains_again_in_the_end(scenario, system):
    events = scenario[0]
    cost_model = staged_costs(num_nodes=8)
    arguments = (events, SYSTEMS[system], cost_model, RandomLoads(2, 4), events.duration_s + 1000.0)
    assert simulate_system(*arguments, interval_steps=40).states[-1].num_used > 0


@pytest.mark.parametrize("system", sorted(SYSTEMS))
@pytest.mark.parametrize("interval", [1, 3, 40])
def test_without_failures_saves_cost_what_they_stall_and_what_the_next_waits_for_them(system, interval):
    save = SYSTEMS[system].save(staged_costs(), 12, 2.0)
    cycle_s = save.stall_s + max(2.0 * interval, save.persist_s)
    result = run(system, duration_s=2.0 * interval + 20 * cycle_s + 0.001, interval_steps=interval)
    assert (result.steps, result.samples) == (21 * interval, 21 * interval * 48)


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from(sorted(SYSTEMS)), st.sampled_from([1, 7, 40]))
def test_faster_saves_never_hurt_and_a_name_changes_nothing(scenario, system, interval):
    events, duration_s = scenario
    plain, loads = staged_costs(num_nodes=8), EvenLoads(2, 4)
    quick = replace(plain, communication=FixedCommunication(TRANSFER_S, SAVE_S / 4))
    arguments = loads, duration_s
    slow_run = simulate_system(events, SYSTEMS[system], plain, *arguments, interval_steps=interval)
    quick_run = simulate_system(events, SYSTEMS[system], quick, *arguments, interval_steps=interval)
    # At the end, each has a step under way.
    assert quick_run.samples >= slow_run.samples - 8 * 4
    other = replace(SYSTEMS[system], name="other")
    renamed = simulate_system(events, other, plain, *arguments, interval_steps=interval)
    assert replace(renamed, system=system, name=slow_run.name) == slow_run


RETURNS = ("spare", *(name for name in SYSTEMS if name.endswith("-ft")))
"""Systems under which a failure brings nodes back: those left out return with the restart that it is the reason for."""

REROUTES = ("recycle",)
"""Systems that go on with a peer of missing nodes. Where two of three are missing, it computes three shares, and a
restart with fewer nodes, for which another failure is the reason, trains faster."""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from(NODES)), max_size=5, unique_by=lambda one: one[1]),
    st.integers(1, 400),
    st.sampled_from(sorted(set(SYSTEMS) - {*RETURNS, *REROUTES})),
    st.sampled_from([7, 40, 10**6]),
)
def test_a_failure_after_all_others_gains_nothing(losses, later_s, system, interval):
    losses = [(float(time_s), "remove", node) for time_s, node in sorted(losses)]
    left = next(node for node in reversed(NODES) if node not in {loss[2] for loss in losses})
    fewer = run(system, *losses, duration_s=600.0, interval_steps=interval)
    more = run(system, *losses, (100.0 + later_s, "remove", left), duration_s=600.0, interval_steps=interval)
    assert more.samples <= fewer.samples


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 500.0), st.sampled_from(NODES), st.sampled_from(sorted(SYSTEMS)), st.sampled_from([7, 40, 10**6]))
def test_a_spare_never_hurts_where_a_node_fails_and_the_run_is_long(time_s, node, system, interval):
    loss = (time_s, "remove", node)
    without, spare = (
        run(system, loss, duration_s=4000.0, interval_steps=interval, nodes=nodes) for nodes in (NAMES, NAMES + " z")
    )
    assert spare.samples >= without.samples


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 0.1))
def test_dalys_interval_is_where_his_wall_time_is_least(share):
    # M exp(R / M) (exp((tau + delta) / M) - 1) / tau, Daly 2006, equation 20; R changes nothing. With M = 1.
    best = min(
        np.geomspace(0.01 * math.sqrt(share), 10 * math.sqrt(share), 4000),
        key=lambda tau: math.expm1(tau + share) / tau,
    )
    assert daly_interval_s(share, 1.0) == pytest.approx(best, rel=0.01)
    assert daly_interval_s(share, 1.0) < young_interval_s(share, 1.0)


@pytest.mark.parametrize("way", ["file", "package"])
def test_the_example_of_the_guide_is_a_system(lazsim, install, tmp_path, way):
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "own-systems.md").read_text()
    example = next(block for block in guide.split("```python\n")[1:] if "class InPlace" in block).split("```")[0]
    (tmp_path / "own_system.py").write_text(example)
    if way == "file":
        system = find_system(f"{tmp_path}/own_system.py:IN_PLACE")
    else:
        install("own-system", "1.5", "[lazsim.systems]\nIN_PLACE = own_system:IN_PLACE")
        listed = json.loads(lazsim("list", "systems", "--json")[1])["systems"]
        assert listed["IN_PLACE"] == "own_system:IN_PLACE of own-system 1.5"
        system = find_system("IN_PLACE")
    events = trace((0, "add", NAMES), (95, "remove", "a"), duration_s=1000.0)
    result = simulate_system(events, system, staged_costs(), EvenLoads(2, 4), 400.0, interval_steps=10)
    # A rebuild (10 s) and a load (10 s) in place of a restart (30 s) and a load.
    assert result.ledger_s["restart"] == 20
    assert result.system == "IN_PLACE"


def test_all_systems_are_those_of_packages_too_and_those_named_beside_them(install, tmp_path):
    own = "from lazsim.engine.systems import SYSTEMS\n"
    (tmp_path / "offered.py").write_text(own + "OFFERED = SYSTEMS['ds-ft']\n")
    (tmp_path / "mine.py").write_text(own + "MINE = SYSTEMS['checkpoint']\n")
    install("offered", "1.0", "[lazsim.systems]\noffered = offered:OFFERED\nbroken = offered:MISSING")
    settings = {"trace": "fail-every-5min", "routing": "uniform", "duration": "1min"}
    scenarios, left_out = resolve_runs(settings, ("all", f"{tmp_path}/mine.py:MINE"), ())
    names = [one.find_system().name for one in scenarios]
    assert names[-2:] == ["offered", "MINE"]
    assert {"lazarus", "ds-ft"} < set(names)
    assert any(note.startswith("left out: broken: ") and "cannot be imported" in note for note in left_out)


@pytest.mark.parametrize(("name", "message"), [
    ("gemni", "did you mean 'gemini'"),
    ("none.py:SYSTEM", "no file none.py"),
    ("mine.py", "expected path.py:object"),
])  # fmt: skip
def test_a_system_that_is_not_there_is_refused_in_a_line(name, message):
    with pytest.raises(SpecError, match=message):
        find_system(name)


def test_a_file_without_a_system_says_so(tmp_path):
    (tmp_path / "mine.py").write_text("SYSTEM = 3\n")
    with pytest.raises(SpecError, match="is of type int, not lazsim"):
        find_system(f"{tmp_path}/mine.py:SYSTEM")


def test_copies_in_memory_wait_for_a_node_that_comes_too_late_for_the_others():
    # One replica of four nodes. Back from 200 s on, after 120 s of collecting: Gemini still has step 35 of 47, and
    # MoEvement replays one step of the one stage; a checkpointed job starts at its last save.
    changes = (95, "remove", "a"), (200, "add", "z")
    arguments = {"nodes": "a b c d", "cost_model": staged_costs(num_nodes=4)}
    gemini = run("gemini", *changes, **arguments)
    assert (gemini.counts["lost_steps"], gemini.ledger_s["restart"]) == (47 - 35, 37)
    moevement = run("moevement", *changes, **arguments)
    assert (moevement.counts["lost_steps"], moevement.counts["restarts"]) == (0, 0)
    assert moevement.ledger_s["waiting"] == gemini.ledger_s["waiting"] == 320 - 110


def test_a_failure_during_a_save_goes_back_to_memory_as_one_during_a_step_does():
    # 40 steps are made at 80 s; at 85 s the save is under way. Copies are made every 7 steps: 35 is the last multiple,
    # and 28 the one before it.
    assert run("gemini", (85, "remove", "a"), interval_steps=40).counts["lost_steps"] == 40 - 28


def test_saves_written_beside_training_follow_each_other_without_a_wait():
    # Writing takes 10 s, and the copy before it a moment: five steps of 2 s are too few. Young says nothing of a save
    # for which training does not wait.
    plain = staged_costs()
    assert interval_steps(SYSTEMS["async-checkpoint"], plain, EvenLoads(2, 4), 12, between_s=60.0) == 6
    seven = staged_costs(7.0)
    assert interval_steps(SYSTEMS["async-checkpoint"], seven, EvenLoads(2, 4), 12, between_s=60.0) == 2


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_systems_that_rarely_go_back_to_a_checkpoint_save_five_times_as_rarely(system):
    # sqrt(2 * 10 s * 600 s) is 54.8 steps of 2 s. A save beside training stops nothing, and is written in five steps
    # after its copy.
    steps = interval_steps(SYSTEMS[system], staged_costs(), EvenLoads(2, 4), 12, between_s=600.0)
    # Without a spare node, moevement goes back on fewer nodes. Three groups of spare have floor(log2 3 + 0.833) = 2
    # shards each and are wiped out by Gamma(1/2) / 2 * sqrt(3) = 1.535 failures, after 921 s: with a restart of 40 s,
    # sqrt(10^2 + 2 * 10 * 961) is 139 s.
    restarting = "ds", "tutel", "dropless", "checkpoint", "moevement"
    expected = {"async-checkpoint": 6, "moc": 6, "spare": 69} | dict.fromkeys(restarting, 55)
    assert steps == expected.get(system, 274)


def test_shards_of_spare_are_saved_as_often_as_wipe_outs_and_restarts_with_a_load_ask_for():
    plan = SPARE.plan_evenly(staged_costs(), 12)
    to_wipe_out_s = math.gamma(1 / 2) / 2 * math.sqrt(3) * 600
    expected = math.sqrt(10**2 + 2 * 10 * (to_wipe_out_s + 40))
    assert SPARE.interval_s(staged_costs(), plan, Save(10.0), 600.0) == pytest.approx(expected)


@pytest.mark.parametrize("system", ["ds-ft", "tutel-ft", "dropless-ft", "oobleck", "recycle", "moevement", "bamboo"])
def test_systems_save_as_often_as_others_where_each_failure_takes_an_expert(system):
    # Four nodes are one model replica. Moevement waits for a node that takes the snapshots of peers, and bamboo has
    # each stage on two nodes.
    steps = interval_steps(SYSTEMS[system], staged_costs(num_nodes=4), EvenLoads(2, 4), 4, between_s=600.0)
    assert steps == (274 if system in ("moevement", "bamboo") else 55)
    # Eight are two replicas, of which either has all. Moevement has no spare.
    steps = interval_steps(SYSTEMS[system], staged_costs(num_nodes=8), EvenLoads(2, 4), 8, between_s=600.0)
    assert steps == (55 if system == "moevement" else 274)


def test_a_run_says_which_interval_was_chosen_what_copies_take_and_what_is_given_up():
    result = lazsim.simulate(
        trace((0, "add", NAMES), (5000, "remove", "a"), duration_s=9000.0),
        systems=["gemini", "moc", "checkpoint"],
        model="gpt-s",
        routing="uniform",
    )
    said = "; ".join(result.notes)
    steps = {run.system: run.interval_steps for run in result.runs}
    assert (
        f"not given by the job: gemini {steps['gemini']}, moc {steps['moc']}, checkpoint {steps['checkpoint']}" in said
    )
    calm = trace((0, "add", NAMES), duration_s=600.0)
    within = lazsim.simulate(calm, systems=["ds"], model="gpt-s", routing="uniform", interval="2min")
    assert any(note.startswith("steps between checkpoints, in the interval given: ds ") for note in within.notes)
    assert "GiB of each node's own memory for copies and logs, of 64: gemini" in said
    assert "samples count tokens, too, whose updates of experts rollbacks lost: moc" in said
    rows = {row["system"]: row for row in result.to_json()["runs"]}
    assert rows["gemini"]["host_memory_bytes"] > 0
    assert rows["checkpoint"]["host_memory_bytes"] is rows["checkpoint"]["lost_token_share"] is None
    assert 0 < rows["moc"]["lost_token_share"] < 1


def test_copies_count_as_on_the_nodes_where_they_take_most(monkeypatch):
    taken = {2: 5.0, 4: 9.0, 6: 7.0}
    monkeypatch.setattr(
        type(SYSTEMS["gemini"]), "host_bytes", lambda _self, _costs, num_nodes, _step_s: taken[num_nodes]
    )
    changes = (100, "remove", "f"), (200, "remove", "c d")
    assert run("gemini", *changes, cost_model=costs(), nodes="a b c d e f").host_bytes == 9


def test_windows_count_as_of_the_shortest_steps_on_the_nodes_of_each_plan():
    # Steps of 2 s on eight nodes, of 4 s on the four that are left. Behind 2 s fit 4 bytes a parameter, so that 0.2 of
    # 12 bytes each go in a step, and the others' 2 bytes: five steps. A window takes 12 bytes, and half of 2 in four
    # steps. Three nodes keep one of a node, twice. On four nodes two keep 13 bytes each: a window is of two steps.
    cost_model = staged_costs()
    params = cost_model.model.dense_params / 2 + 2 * cost_model.model.expert_params
    host = msgspec.structs.replace(cost_model.cluster.host, link_bytes_per_s=2 * params)
    cost_model = replace(cost_model, cluster=msgspec.structs.replace(cost_model.cluster, host=host))

    def make_timer(plan, _servers):
        return lambda _step: TimedSteps(16.0 / plan.num_nodes, MAX_WHOLE)

    loads = EvenLoads(2, 4)
    planner = Planner(SYSTEMS["moevement"], cost_model, loads, make_timer)
    events = trace((0, "add", "a b c d e f g h"), (100, "remove", "a c e g"))
    result = simulate_system(events, SYSTEMS["moevement"], cost_model, loads, planner=planner, interval_steps=0)
    assert set(result.steps_s) == {(8, 8), (4, 4)}
    assert result.host_bytes == pytest.approx(2 * 3 * params * (12 + 4))


def test_moc_that_saves_more_experts_after_failures_takes_the_buffers_of_these():
    moc = replace(SYSTEMS["moc"], raises_share=True, most_lost_tokens=0.0)
    cost_model = staged_costs()
    before, after = (run(moc, *changes, interval_steps=5) for changes in ((), ((95, "remove", "a"),)))
    # A node of each stage writes its dense part, and a sixteenth of its two experts, or all of them; three times.
    dense, experts = 14 * cost_model.model.dense_params / 2, 14 * 2 * cost_model.model.expert_params
    assert before.host_bytes == pytest.approx(3 * (dense + experts / 16))
    assert after.host_bytes == pytest.approx(3 * (dense + experts))


def test_copies_and_logs_take_what_their_papers_say_of_a_nodes_own_memory():
    # DeepSeek-V3 on 128 nodes of eight GPUs, 16 for each of eight stages. Four parts of most stages have eight layers.
    # Gemini keeps two versions of two copies: 4 / 16 of it. MoEvement's window is a step here: twice the states of
    # three nodes, and what four parts of a stage send forward and back, 8192 x 4096 tokens of 7168 numbers of two
    # bytes, over 16 nodes.
    scenario = resolve({"model": "deepseek-v3", "cluster": "dgx-h100", "cluster.num_nodes": 128, "system": "gemini"})
    block = scenario.model.block_params
    dense, experts = 8 * (block["attention"] + block["moe"]), 8 * 256 * block["expert"]
    assert SYSTEMS["gemini"].host_bytes(scenario.costs(), 128, 20.0) == pytest.approx(14 * (dense + experts) * 4 / 16)
    # Each copy but its own goes through half of the steps of 10 ms, by NICs of 400 GB/s of which 97 % are reached.
    copy_s = 14 * (dense + experts) / 16 / (0.97 * 400e9) + 10e-6
    lags = [replace(SYSTEMS["gemini"], num_copies=n).memory_lag_steps(scenario.costs(), 128, 0.01) for n in (2, 3)]
    assert lags == [math.ceil(copy_s / 0.005), math.ceil(2 * copy_s / 0.005)]
    logs = 2 * 4 * 8192 * 4096 * 7168 * 2 / 16
    node = SYSTEMS["moevement"].host_bytes(scenario.costs(), 128, 20.0)
    # Beside an eighth of the experts, the nodes of a stage have its dense part each.
    # Of the 14 bytes, those of the half-precision weight follow from the others.
    assert node == pytest.approx(2 * (3 * 12 * (dense + experts / 8) + logs))
    # Of a stage of two nodes, each keeps what both snap, though two peers are published; two nodes keep two copies.
    small = resolve(scenario.settings | {"job": "deepseek-v3", "job.parallel.expert": 16, "cluster.num_nodes": 16})
    node = SYSTEMS["moevement"].host_bytes(small.costs(), 16, 20.0)
    assert node == pytest.approx(2 * (2 * 12 * (dense + experts / 2) + 8 * logs))
    one = costs()
    states, four = one.dense_state_bytes + one.expert_states_bytes, replace(SYSTEMS["gemini"], num_copies=4)
    assert four.host_bytes(one, 2, 1.0) == pytest.approx(2 * 2 * states / 2)
    # A node saves its weights, 2 bytes, and a sixteenth of the 12 bytes of optimizer states that 16 divide, or half of
    # those of experts, which two have.
    saved_bytes = dense * (2 + 12 / 16) + experts / 8 * (2 + 12 / 2)
    assert SYSTEMS["async-checkpoint"].host_bytes(scenario.costs(), 128, 20.0) == pytest.approx(saved_bytes)
    # With a sixteenth of its experts, the first stage saves most: it has the embedding, and a dense layer of seven.
    first = 7 * block["attention"] + block["dense"] + 6 * block["moe"] + block["vocabulary"]
    saved_bytes = first * (2 + 12 / 16) + 6 / 8 * experts / 8 * (2 + 12 / 2) / 16
    assert SYSTEMS["moc"].host_bytes(scenario.costs(), 128, 20.0) == pytest.approx(3 * saved_bytes)
    # Two GPUs share the dense part of a stage, but for projections to latent vectors and gates, and 64 its experts.
    each = 7168 * (7 * (1536 + 512 + 64) + 6 * 256)
    extra_bytes = 14 * ((first + each) / 2 + 6 / 8 * experts / 64)
    assert SYSTEMS["bamboo"].extra_gpu_bytes(scenario.costs(), 128) == {"optimizer_states": pytest.approx(extra_bytes)}


SMALL_MEMORY = {
    "model": "deepseek-v2-lite", "cluster": "dgx-h100", "job": "deepseek-v3", "routing": "uniform",
    "job.parallel.tensor": 1, "job.parallel.pipeline": 1, "job.parallel.virtual_stages": 1, "job.parallel.expert": 16,
    "job.parallel.global_batch": 256, "job.parallel.precision": "bf16", "cluster.num_nodes": 4,
    "cluster.host.memory_bytes": "105GiB",
}  # fmt: skip
"""A job whose copies do not fit beside 61 GiB of the node: 16 billion parameters on two nodes."""


def small_memory(events=None, **settings):
    nodes = " ".join(f"n{index}" for index in range(4))
    events = events or trace((0, "add", nodes), (3000, "remove", "n0"), (4000, "add", "n0"), duration_s=6000.0)
    return lazsim.simulate(events, **{**SMALL_MEMORY, **settings})


def test_all_systems_are_refused_where_none_fits():
    # A trillion parameters, and the ten nodes of the recipe, of which replicas of eight fill eight, have 6.9 bytes for
    # each.
    why = "`systems` all: none can run, the first since no layout of kimi-k2 fits on 64 GPUs of 80 GiB"
    with pytest.raises(InfeasiblePlanError, match=why):
        lazsim.simulate("fail-every-5min", systems=["all"], model="kimi-k2", cluster="h100x16", duration="1min")


def test_a_system_whose_copies_do_not_fit_is_named_and_left_out_of_all():
    result = small_memory(systems=["all"])
    systems = [run.system for run in result.runs]
    assert "gemini" not in systems
    assert {"checkpoint", "async-checkpoint", "replica-drop"} <= set(systems)
    # Published settings, and the best ones beside.
    assert result.best is not None
    assert [best.samples >= run.samples for best, run in zip(result.best, result.runs, strict=True)].count(False) == 0
    rows = {row["system"]: row for row in result.to_json()["runs"]}
    assert rows["checkpoint"]["best"]["setting"]["interval_steps"] != rows["checkpoint"]["setting"]["interval_steps"]
    assert "published setting" in render(run_parts(result), 200)
    said = [note for note in result.notes if "left out: " in note]
    # Four versions and copies of 220 GB over four nodes.
    assert any("left out: gemini" in note and "205 GiB of each node's own memory" in note for note in said)
    assert any("left out: bamboo" in note and "`pipeline` to 2 or more" in note for note in said)


@pytest.mark.parametrize(
    ("routing", "wall_s", "fits"), [("uniform", 1500, True), ("smartmoe-fit", 1500, False), ("smartmoe-fit", 0, True)]
)
def test_a_system_that_pads_does_not_fit_once_loads_have_become_too_skewed(routing, wall_s, fits):
    # The first loads are even; a fullest expert of ten times the mean has buffers of ten times the memory.
    scenario = resolve(SMALL_MEMORY | {"routing": routing, "system": "tutel"})
    why_not = find_obstacle(scenario, scenario.find_system(), 4, wall_s)
    assert ("tutel does not fit" in why_not) != fits


def test_a_system_whose_copies_do_not_fit_runs_with_a_note_where_it_is_asked_for_and_not_when_strict():
    result = small_memory(systems=["gemini"])
    assert result.runs[0].steps > 0
    assert any("copies and logs of deepseek-v2-lite take" in note and "has 105" in note for note in result.notes)
    with pytest.raises(InfeasiblePlanError, match="each node's own memory and dgx-h100 has 105"):
        small_memory(systems=["gemini"], strict=True)


def test_copies_that_do_not_fit_on_some_numbers_of_nodes_alone_are_told_with_these_and_their_time():
    # 205 GiB a node on four, as above, and two thirds of it on the six of three replicas, until one of these goes.
    lost = trace((0, "add", "n0 n1 n2 n3 n4 n5"), (3000, "remove", "n0"), duration_s=6000.0)
    result = small_memory(lost, systems=["gemini"], **{"cluster.host.memory_bytes": "160GiB"})
    steps_s = {num_nodes: seconds for (num_nodes, _), seconds in result.runs[0].steps_s.items()}
    assert set(steps_s) == {4, 6}
    share = steps_s[4] / sum(steps_s.values())
    told = (
        f"gemini does not fit on 4 nodes ({share:.1%} of the time of steps): copies and logs of deepseek-v2-lite take "
    )
    assert any(note.startswith(f"{told}205 GiB") for note in result.notes)


def test_a_system_is_told_to_lack_memory_of_gpus_and_of_nodes_where_both_are_short():
    settings = {"systems": ["checkpoint", "gemini"], "gpu.memory_bytes": 2**30}
    short = [note for note in small_memory(**settings).notes if "not fit" in note]
    assert [note.split(" fit")[0] for note in short] == ["checkpoint, gemini: each does not", "gemini does not"]
    assert ["of each GPU" in note for note in short] == [True, False]


def test_memory_is_that_of_the_fewest_nodes_that_train():
    # Two of four nodes are left, 16 GPUs: these divide the optimizer states, 12 bytes a parameter, and copies.
    lost = trace((0, "add", "a b c d"), (3000, "remove", "a b"), duration_s=6000.0)
    checkpoint, gemini = small_memory(lost, systems=["checkpoint", "gemini"]).runs
    params = resolve(SMALL_MEMORY).model.total_params
    assert checkpoint.memory.optimizer_states == pytest.approx(12 * params / 16, rel=0.001)
    assert gemini.host_bytes == pytest.approx(2 * 2 * 14 * params / 2)
    with pytest.raises(InfeasiblePlanError, match="copies and logs of deepseek-v2-lite take 410 GiB"):
        small_memory(lost, systems=["gemini"], strict=True, **{"cluster.host.memory_bytes": "300GiB"})


def test_the_best_setting_trains_no_fewer_samples_than_the_published_one_and_both_are_told():
    result = small_memory(systems=["checkpoint", "gemini"], interval="auto", **{"cluster.host.memory_bytes": "300GiB"})
    assert result.published is not None
    for best, published in zip(result.runs, result.published, strict=True):
        assert best.samples >= published.samples
    rows = {row["system"]: row for row in result.to_json()["runs"]}
    assert rows["gemini"]["published"]["setting"]["num_copies"] == 2
    # Three copies of 220 GB, two versions of each, are more than 300 GiB of a node.
    assert rows["gemini"]["setting"]["num_copies"] == 2
    assert "published setting" in render(run_parts(result), 200)


def test_an_interval_is_that_of_the_nodes_of_the_trace_whatever_the_cluster_has():
    events = trace((0, "add", "a b c d"), (3000, "remove", "a"), duration_s=6000.0)
    asked = {"systems": ["async-checkpoint"], "model": "gpt-s"}
    small, large = (lazsim.simulate(events, **asked, **{"cluster.num_nodes": number}).runs[0] for number in (4, 40))
    assert small.interval_steps == large.interval_steps


def test_a_setting_that_no_failure_sends_back_is_better_than_one_that_loses_work():
    # Both nodes of a pair fail: of two copies none is left.
    events = trace((0, "add", "a b c d"), (1200, "remove", "a b"), (1230, "add", "e f"), duration_s=6000.0)
    settings = {"cluster.host.memory_bytes": "2TiB"}
    result = small_memory(events, systems=["gemini"], interval="auto", **settings)
    best, published = result.runs[0], result.published[0]
    assert (best.setting["num_copies"], published.setting["num_copies"]) == (3, 2)
    assert best.samples > published.samples


@pytest.mark.parametrize(
    ("restart_s", "restarts", "restarts_for_joins"),
    [
        # Two nodes train until the third that is left makes four with the one that is back. For the last 1,880 s that
        # is worth 940 s of the four: a restart of 1,200 s takes longer, one of 60 s does not.
        (1200.0, 1, False),
        (60.0, 2, True),
    ],
)
def test_the_best_setting_restarts_for_a_node_only_where_that_pays(restart_s, restarts, restarts_for_joins):
    settings = {"cluster.recovery.restart_base_s": restart_s, "cluster.host.memory_bytes": "2TiB"}
    result = small_memory(systems=["checkpoint", "tutel", "gemini"], interval="auto", **settings)
    for best, published in zip(result.runs, result.published, strict=True):
        assert (published.setting["restarts_for_joins"], published.counts["restarts"]) == (True, 2)
        assert (best.setting["restarts_for_joins"], best.counts["restarts"]) == (restarts_for_joins, restarts)
    assert ("no restarts for joins" in render(run_parts(result), 200)) is not restarts_for_joins


def test_the_best_setting_of_moc_loses_no_more_updates_than_its_budget():
    # Six failures in 6000 s: a sixteenth of the experts in each save loses far more than 3.75 % of all tokens.
    nodes = " ".join(f"n{index}" for index in range(4))
    changes = [(850.0 * turn + at_s, kind, "n0") for turn in range(1, 7) for at_s, kind in ((0, "remove"), (60, "add"))]
    events = trace((0, "add", nodes), *changes, duration_s=6000.0)
    settings = {"cluster.recovery.restart_base_s": 60.0, "job.join_wait_s": 0.0, "cluster.host.memory_bytes": "2TiB"}
    result = small_memory(events=events, systems=["moc"], interval="auto", **settings)
    best, published = result.runs[0], result.published[0]
    assert published.lost_token_share > 0.0375 >= best.lost_token_share
    assert best.setting["num_turns"] < published.setting["num_turns"] == 16
    row = result.to_json()["runs"][0]
    assert row["published"]["lost_token_share"] == published.lost_token_share
    assert f"loses {best.lost_token_share:.2%} of tokens" in render(run_parts(result), 250)


def test_no_setting_is_tried_whose_saves_wait_for_each_other():
    # A sixteenth of the experts, as published, is written in 7 steps; all of them take 31.
    asked = {"system": "moc", "model": "gpt-s", "trace": "fail-every-5min", "interval": "auto", "routing": "uniform"}
    scenario = resolve(asked | {"cluster.host.memory_bytes": "2TiB"})
    runs, tried = ScenarioRuns([scenario]), set()
    simulated = runs.runs
    runs.runs = lambda setting: tried.add(setting) or simulated(setting)
    choose_setting(runs, "auto")
    costs, loads = scenario.costs(), scenario.load_routing()
    assert {one.system.num_turns for one in tried} == {1, 2, 4, 8, 16}
    for one in tried:
        step_s = steady_step_s(one.system, costs, loads, 10)
        assert one.system.save(costs, 10, step_s).persist_s <= one.interval_steps * step_s


@pytest.mark.parametrize(
    "value", [-5, 2.5, True, "0s", "1.5", "soon", "AUTO", "", [1], math.nan, "36600d", "1" + "0" * 21, 10**21]
)
def test_an_interval_that_is_none_is_refused_in_a_line(value):
    with pytest.raises(
        SpecError, match=r"^[^\n]*: give `auto`, a number of steps up to 67,108,864, or a duration such as 30min"
    ):
        parse_interval(value)


def test_an_interval_may_be_a_sum_of_times_and_of_years():
    assert parse_interval("1h30min") == 5400
    assert parse_interval("3650d") == 3650 * 86_400


def test_an_interval_of_0_saves_nothing_as_in_the_file_of_a_job(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text("[checkpoint_interval_steps]\ncheckpoint = 0")
    asked = {"systems": ["checkpoint"], "model": "gpt-s", "routing": "uniform"}
    never, of_job = (
        lazsim.simulate("fail-every-5min", interval="0", **asked),
        lazsim.simulate("fail-every-5min", job=str(path), **asked),
    )
    runs = [*never.runs, *of_job.runs]
    assert [(run.interval_steps, run.counts["checkpoints"]) for run in runs] == [(0, 0), (0, 0)]
    assert all(
        "makes no checkpoints, so that a restart goes back to step 0: checkpoint" in one.notes
        for one in (never, of_job)
    )


def test_a_failure_that_goes_back_to_the_step_saved_last_lets_the_search_go_on():
    # Steps of 2 s and saves of 10 s take turns: at 97 s the ninth step is under way, and eight are saved.
    result = run("checkpoint", (97, "remove", "a"), interval_steps=1)
    assert result.counts["lost_steps"] == 0
    assert num_rollbacks(result)
    assert not num_rollbacks(run("checkpoint", interval_steps=1))
    assert not num_rollbacks(run("gemini", (97, "remove", "a")))


def test_a_failure_before_the_first_copy_after_a_save_does_not_test_the_interval():
    just_after, later = (run("gemini", (time_s, "remove", "a"), interval_steps=5) for time_s in (60, 63))
    assert [one.failures[0].source for one in (just_after, later)] == ["checkpoint", "checkpoint"]
    # A step of 2 s, more at times for the copies, has ended by 63 s.
    assert [one.counts["lost_steps"] for one in (just_after, later)] == [0, 1]
    assert [num_rollbacks(one) for one in (just_after, later)] == [0, 1]


def test_no_interval_is_much_better_than_the_one_that_the_search_finds():
    # Twelve failures, so that no interval is lucky: a step takes 2 s, a save 10 s.
    changes = [(100.0 + 157 * index + 31 * (index % 3), "remove", NODES[index]) for index in range(0, 12)]
    returns = [(time_s + 10, "add", f"{node}2") for time_s, _, node in changes]
    events = trace((0, "add", NAMES), *sorted(changes + returns), duration_s=2100.0)
    cost_model = staged_costs(join_wait_s=0.0, checkpoint_interval_steps={})
    counts = {
        steps: simulate_system(events, SYSTEMS["checkpoint"], cost_model, EvenLoads(2, 4), interval_steps=steps).samples
        for steps in range(1, 200)
    }
    young = interval_steps(SYSTEMS["checkpoint"], cost_model, EvenLoads(2, 4), 12, between_s=2100 / 12)
    assert counts[climb(young, lambda some: {steps: counts[steps] for steps in some})] >= max(
        counts[young], 0.95 * max(counts.values())
    )


def rerouting(num_nodes, **layout):
    """Return the activations of a GPU, and those that it needs beside under recycle."""
    changes = {"tensor": 1, "expert": 1, "virtual_stages": 1, "schedule": "1f1b", "stages": "", "global_batch": 256}
    changes |= {"micro_batch": 1, "pipeline": 4, "overlap_expert": False} | layout
    settings = {f"job.parallel.{name}": value for name, value in changes.items()}
    settings |= {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "job": "deepseek-v3", "system": "recycle"}
    settings |= {"model.num_layers": 28, "model.num_moe_layers": 28}
    costs = resolve(settings | {"cluster.gpus_per_node": 1, "cluster.num_nodes": num_nodes}).costs()
    dispatch = SYSTEMS["recycle"].dispatch(costs, np.arange(num_nodes))
    kept = costs.memory(num_nodes, dispatch, np.ones((1, 1))).activations
    need = peak_memory(SYSTEMS["recycle"], costs, EvenLoads(28, 64), {num_nodes}, 0)
    return kept, need.activations - kept


@pytest.mark.parametrize(("num_nodes", "layout", "share"), [
    # The first of four stages keeps four micro-batches; three of a missing one wait for later stages, with one peer,
    # with two, and with three or four.
    (8, {}, 3 / 4), (12, {}, 2 / 4), (16, {}, 1 / 4), (20, {}, 1 / 4),
    # Of five halves, four wait: with one peer, and with three.
    (8, {"schedule": "dualpipe"}, 4 / 5), (16, {"schedule": "dualpipe"}, 2 / 5),
    # One stage computes one after the other, and one replica has no peer.
    (8, {"pipeline": 1}, 0), (4, {}, 0),
])  # fmt: skip
def test_recycle_keeps_the_activations_of_micro_batches_that_it_reroutes(num_nodes, layout, share):
    kept, extra = rerouting(num_nodes, **layout)
    assert extra == pytest.approx(share * kept)


@pytest.mark.parametrize(("gone", "num_left"), [("m n o b", 8), ("m b", 8), ("d i", 8), ("m d", 4)])
def test_nodes_that_start_a_replica_together_train_in_it_together(gone, num_left):
    # a and c take two replicas with them. m, n and o, which stood by, form one with b, and d, g, h and i the other. The
    # others are left by 303 s.
    failures = (95, "remove", "a c"), (300, "remove", gone)
    result = run("replica-drop", *failures, nodes=NAMES + " m n o", duration_s=304.0)
    assert result.states[-1].num_used == num_left


@pytest.mark.parametrize(("gone", "num_left"), [("m n o p", 16), ("q r s t", 16), ("m q", 12), ("a b", 16)])
def test_new_replicas_that_join_at_once_stay_whole(gone, num_left):
    # Eight nodes come at 96 s: two replicas, m to p and q to t, join after 120 s of collecting and a copy of 7 s.
    changes = (96, "add", "m n o p q r s t"), (300, "remove", gone)
    result = run("replica-drop", *changes, duration_s=304.0)
    assert [(event.time_s, event.num_used) for event in result.events if event.event == "joined"] == [(225, 20)]
    assert result.states[-1].num_used == num_left


def test_the_memory_of_a_run_counts_a_plan_from_which_a_node_goes_as_it_begins():
    # Four nodes come at 10 s: 120 s of collecting, 10 s of a rebuild and 7 s of a transfer end at 147 s.
    short, whole = (
        run("recycle", (10, "add", "i j k l"), *changes, nodes="a b c d e f g h", duration_s=200.0)
        for changes in ([(147, "remove", "l")], ())
    )
    assert (max(state.num_used for state in short.states), short.memory) == (11, whole.memory)


def test_bamboo_takes_spares_in_where_they_replace_every_shadow():
    # Twice two of 82 are under 5 %. One spare leaves a shadow, and a step 3 s long; with x, collected until 321 s, none
    # is left. The step ends at 110 + 71 * 3 = 323 s; a rebuild of 10 s, and a transfer of 7 s.
    nodes = " ".join(f"n{index}" for index in range(85))
    changes = (95, "remove", "n0 n20"), (201, "add", "x")
    result = run("bamboo", *changes, nodes=nodes, cost_model=staged_costs(num_nodes=84))
    assert [event.time_s for event in result.events if event.event in ("recovered", "joined")] == [110, 340]
    assert result.states[-1].num_used == 84
