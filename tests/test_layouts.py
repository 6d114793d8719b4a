"""Jobs with a layout: stages, replicas, steps and moves."""

import re
from contextlib import nullcontext
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import lazsim
from lazsim.costmodel.costs import NodeDispatch
from lazsim.costmodel.recovery_times import checkpoint_load_bytes, checkpoint_save_s
from lazsim.engine.held import Held, Planned
from lazsim.engine.layout import LayoutStepTimes, grid_of
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.simulate import require_fit
from lazsim.engine.systems import SYSTEMS
from lazsim.engine.systems.system import copy_to_host_s, held_state_bytes
from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.placement.plan import PlacementPlan
from lazsim.scenario import resolve
from lazsim.specs import ClusterSpec, ModelSpec, ParallelSpec, load_spec, sha256
from lazsim.specs.effects import layout_remarks
from lazsim.stepmodel.loading import first_layout, load_inputs
from lazsim.stepmodel.predict import predict_step
from lazsim.stepmodel.search import search_layouts, usual_batch
from lazsim.stepmodel.tables import read_tables
from lazsim.study.memory import find_obstacle
from lazsim.study.simulation import run_scenario
from lazsim.study.step import predict_layout
from lazsim.trace.table import Event, build_trace
from tests.jobs import trace

DEEPSEEK = {"model": "deepseek-v3", "cluster": "dgx-h100", "job": "deepseek-v3"}
SMALL = DEEPSEEK | {"job.parallel.expert": 8, "job.parallel.tensor": 1}
"""One node holds the experts of a stage, and eight nodes the model."""


def costs(settings=SMALL, system="checkpoint"):
    return resolve({**settings, "system": system}).costs()


def test_stages_have_equally_many_nodes_and_their_own_layers():
    grid = costs(DEEPSEEK).grid
    # 8 stages of 64 GPUs, 8 to a node; 58 MoE layers of 61, and the last stage has the head.
    assert (grid.num_stages, grid.unit_nodes, grid.replica_nodes) == (8, 8, 64)
    assert len(grid.stage_L) == 58
    assert set(grid.stage_L.tolist()) == set(range(8))
    assert grid.stage_N(128).tolist() == np.repeat(np.arange(8), 16).tolist()


def test_nodes_hold_the_experts_of_their_stage_only():
    small = costs()
    plan = SYSTEMS["checkpoint"].plan_evenly(small, 16)
    stage_N = small.grid.stage_N(16)
    for layer, holds_EN in enumerate(plan.holds_LEN):
        assert holds_EN[:, stage_N == small.grid.stage_L[layer]].all()
        assert not holds_EN[:, stage_N != small.grid.stage_L[layer]].any()


@pytest.mark.parametrize(("system", "usable"), [("checkpoint", [0, 8, 8, 16]), ("lazarus", [0, 8, 8, 16])])
def test_a_job_uses_nodes_that_fill_its_stages(system, usable):
    small = costs(system=system)
    assert [SYSTEMS[system].usable_nodes(small, num_nodes) for num_nodes in (7, 8, 15, 17)] == usable


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_job_starts_on_no_fewer_nodes_than_its_min_nodes(system):
    # Eight nodes hold the model; 15 nodes are less than two replicas of it, which only oobleck uses in part.
    waiting = costs(SMALL | {"job.min_nodes": 15}, system)
    starts = [SYSTEMS[system].can_start(waiting, num_nodes) for num_nodes in (8, 14, 15, 16)]
    assert starts == [False, False, system == "oobleck", True]
    with pytest.raises(InfeasiblePlanError, match=r"^`min_nodes` 15: of 14 nodes, .* uses (8|14); give as many, or"):
        require_fit(replace(SYSTEMS[system], takes_two_replicas=False), waiting, 14)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_restart_waits_for_min_nodes_and_what_goes_on_without_one_does_not(system):
    # Two replicas of the model take 16 nodes. One goes for good.
    events = [*(Event(0.0, "add", f"n{number}") for number in range(16)), Event(3000.0, "remove", "n3")]
    settings = SMALL | {"system": system, "trace": build_trace(events, duration_s=5000.0)}
    free, waiting = (run_scenario(resolve(settings | {"job.min_nodes": number})) for number in (0, 16))
    if free.counts["restarts"]:
        # It would have gone back to a checkpoint on eight nodes.
        assert {number for number, _ in waiting.steps_s} == {16}
        assert waiting.ledger_s["waiting"] == 2000.0 - waiting.ledger_s["detect"]
    else:
        assert (waiting.samples, waiting.ledger_s) == (free.samples, free.ledger_s)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_spare_takes_the_same_place_whatever_min_nodes_says(system):
    events = [*(Event(0.0, "add", f"n{number}") for number in range(17)), Event(3000.0, "remove", "n3")]
    settings = SMALL | {"system": system, "trace": build_trace(events, duration_s=7200.0)}
    free, waiting = (run_scenario(resolve(settings | {"job.min_nodes": number})) for number in (0, 16))
    assert (waiting.samples, waiting.ledger_s) == (free.samples, free.ledger_s)


@pytest.mark.parametrize(("system", "source"), [("moevement", "peers"), ("gemini", "memory")])
def test_copies_outlast_a_wait_for_min_nodes(system, source):
    events = [*(Event(0.0, "add", f"n{number}") for number in range(16)), Event(3000.0, "remove", "n3")]
    trace = build_trace([*events, Event(4000.0, "add", "n16")], duration_s=7200.0)
    run = run_scenario(resolve(SMALL | {"system": system, "trace": trace, "job.min_nodes": 16}))
    (failure,) = run.failures
    assert (failure.source, failure.decision.split(", ")[0]) == (source, "wait")


def test_flexible_dispatch_uses_nodes_that_fill_no_whole_replica():
    # Experts of a stage take 8 nodes; 9 of them hold some twice.
    large = costs(DEEPSEEK, "lazarus")
    assert SYSTEMS["lazarus"].usable_nodes(large, 79) == 72
    assert SYSTEMS["checkpoint"].usable_nodes(costs(DEEPSEEK), 79) == 64


def test_the_step_under_even_loads_is_that_of_the_step_model():
    scenario = resolve({**DEEPSEEK, "cluster.num_nodes": 64})
    found = replace(scenario, system="checkpoint").costs()
    plan = SYSTEMS["checkpoint"].plan_evenly(found, 64)
    times = LayoutStepTimes(found, plan, SYSTEMS["checkpoint"].dispatch(found, np.arange(64)))
    even = np.ones((1, 58, 256), dtype=np.int64)
    inputs = replace(found.inputs, cluster=scenario.cluster, parallel=scenario.job.parallel)
    assert times.step_s(even)[0] == pytest.approx(predict_step(inputs).step_s)
    assert found.samples_per_step(64) == 8192


def test_uneven_loads_stretch_the_step_by_the_busiest_gpu():
    small = costs()
    plan = SYSTEMS["checkpoint"].plan_evenly(small, 8)
    times = LayoutStepTimes(small, plan, SYSTEMS["checkpoint"].dispatch(small, np.arange(8)))
    load = np.ones((1, 58, 256), dtype=np.int64)
    # The first of 8 GPUs has 32 of 256 experts; one of them gets as much as all others together, in every layer.
    load[:, :, 0] = 255
    assert times.imbalance(load)[0] == pytest.approx((255 + 31) / 510 * 8)
    assert times.step_s(load)[0] > 1.5 * times.step_s(np.ones_like(load))[0]


def test_a_batch_that_does_not_divide_gives_some_ranks_a_micro_batch_more():
    small = costs()
    # 8192 sequences: on 24 nodes 24 ranks have 342 micro-batches at most, rounded up to multiples of 8 stages.
    assert small.num_micro_batches(8) == 8192 // 8
    assert small.num_micro_batches(24) == 344
    plain = costs(SMALL | {"job.parallel.virtual_stages": 1})
    assert plain.num_micro_batches(24) == 342


def test_a_node_that_changes_its_stage_fetches_the_dense_part_of_the_new_one():
    small = costs()
    plan = SYSTEMS["checkpoint"].plan_evenly(small, 16)
    # Of two replicas, both nodes of stage 7 but one are left, and 8 nodes go on: nobody moves.
    kept = [stage * 2 for stage in range(8)]
    left = plan.nodes(kept)
    eight = SYSTEMS["checkpoint"].plan_evenly(small, 8)
    of_stage = np.eye(8, dtype=bool)
    wants_PN = small.grid.holds_dense_PN(8)
    still = bind_nodes(small, left.holds_LEN, eight.holds_LEN, dense_PH=of_stage, wants_PN=wants_PN)
    assert still.bytes_HH.sum() == 0
    # A newcomer takes the place of stage 7 from the other of its nodes: its experts, and its dense part.
    old = plan.nodes([*kept[:7], 15, 13])
    has_PH = of_stage[:, [0, 1, 2, 3, 4, 5, 6, 7, 6]]
    moved = bind_nodes(small, old.holds_LEN, eight.holds_LEN, dense_PH=has_PH, wants_PN=wants_PN)
    assert moved.bytes_HH.sum() == 0
    without = PlacementPlan(np.delete(plan.slots_LNS, [15], axis=1), plan.num_experts)
    stages = small.grid.holds_dense_PN(16)
    joined = bind_nodes(small, without.holds_LEN, plan.holds_LEN, num_new=1, dense_PH=stages[:, :15], wants_PN=stages)
    # Of 32 parts of two layers, the last of stage 7 has the head alone.
    block, experts = small.model.block_params, 6 * 256 * small.model.expert_params
    dense = 6 * (block["attention"] + block["moe"]) + block["vocabulary"]
    assert joined.bytes_HH.sum() == pytest.approx(14 * (experts + dense))


def test_a_node_of_bamboo_fetches_and_reads_the_next_stage_beside_its_own():
    # Two replicas of eight nodes, a stage each.
    found, bamboo = costs(SMALL | uneven_stages(8), "bamboo"), SYSTEMS["bamboo"]
    stage_bytes_S = [14 * sum(params_of_stage(found.model, 8, stage)) for stage in range(8)]
    of_two_S = stage_bytes_S + np.roll(stage_bytes_S, -1)
    made, eight = (
        Planned(count, 0, lambda num_nodes, _step: bamboo.plan_evenly(found, num_nodes), doubled_stages=8)
        for count in (16, 8)
    )
    read_N = bamboo.load_bytes(found, made.plan)
    assert read_N == pytest.approx(np.repeat(of_two_S, 2))
    held = Held.full(range(16), made)
    joining_s = bamboo.fetch_s(found, held.without([0]), [0])
    assert joining_s == pytest.approx(float(found.communication.transfer_s(of_two_S[0], 0.0)))
    # Both nodes of the first stage are lost. One of the second takes its place, with the copy that it needs there, and
    # fetches the first stage from the copy on a node of the last.
    left = held.without([0, 1])
    dense = {"dense_PH": left.dense_PN(found.grid), "wants_PN": eight.dense_PN(found.grid)}
    moved = bind_nodes(found, left.holds_LEN, eight.holds_LEN, **dense)
    assert moved.bytes_HH.sum() == pytest.approx(stage_bytes_S[0])


def held_of(system, cost_model, num_nodes):
    plan = Planned(num_nodes, 0, lambda count, _step: SYSTEMS[system].plan_evenly(cost_model, count))
    return Held.full(range(num_nodes), plan)


def stage_bytes(pipeline=8):
    """Return what a node has of each stage in such a job where a node has one whole."""
    model = resolve(SMALL | uneven_stages(pipeline)).model
    return [14 * sum(params_of_stage(model, pipeline, stage)) for stage in range(pipeline)]


def test_a_system_that_needs_stages_says_how_many_dualpipe_takes():
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x8", "job.parallel.schedule": "dualpipe"}
    settings |= {"job": "deepseek-v3", "job.parallel.pipeline": 2, "job.parallel.virtual_stages": 1}
    settings |= {"job.parallel.expert": 8, "job.parallel.tensor": 1, "job.parallel.recomputed": ["norm"]}
    for pipeline, is_refused in ((2, True), (4, False)):
        found = costs(settings | {"job.parallel.pipeline": pipeline}, "bamboo")
        with pytest.raises(InfeasiblePlanError, match="set its `pipeline` to 4") if is_refused else nullcontext():
            require_fit(SYSTEMS["bamboo"], found, 8)


@pytest.mark.parametrize("system", ["oobleck", "recycle"])
def test_newcomers_share_the_network_card_of_the_node_that_has_what_they_lack(system):
    # Four replicas: nodes 0 to 3 have stage 0. What three of them lack the last one sends, three times.
    found = costs(SMALL | uneven_stages(8), system)
    first, second, *_ = stage_bytes()
    for lost, num_bytes in (
        ([0], first),
        ([0, 1], first),
        ([0, 1, 2], 3 * first),
        ([0, 1, 2, 4], max(3 * first, second)),
    ):
        seconds = SYSTEMS[system].fetch_s(found, held_of(system, found, 32).without(lost), lost)
        assert seconds == pytest.approx(float(found.communication.transfer_s(num_bytes, 0.0)))


def test_a_pipeline_of_oobleck_of_which_no_node_is_left_copies_nothing():
    found = costs(SMALL, "oobleck")
    held = held_of("oobleck", found, 24)
    # Seat 3 s + r has stage s of replica r.
    of_first = [3 * stage for stage in range(8)]
    assert dict(SYSTEMS["oobleck"].continue_s(found, held.without(of_first)))["transfer"] == 0
    assert dict(SYSTEMS["oobleck"].continue_s(found, held.without(of_first[:7])))["transfer"] > 0


def test_peers_of_moevement_send_the_windows_of_the_stage_that_failed():
    # Nodes 0 to 3 have stage 0, and 28 to 31 the last; the next two of a stage keep what a node saves. With 0 and 1
    # lost, 2 sends all of the one and half of the other: 12 bytes of a parameter, and 2 more in each of 4 further steps
    # for half of them.
    found, window = costs(SMALL | uneven_stages(8), "moevement"), 5
    held = held_of("moevement", found, 32)
    window_bytes = [16 / 14 * num_bytes for num_bytes in stage_bytes()]
    cases = (([0], 1, 0), ([29], 1, 7), ([0, 1], 1.5, 0), ([30, 31], 1.5, 7), ([0, 2], 1.5, 0))
    for lost, sent, stage in cases:
        # With 0 and 2 lost, 1 sends all of 0's, and 3 and 0 keep what 2 saved: 3 sends all of that.
        sent = 1 if lost == [0, 2] else sent
        seconds = SYSTEMS["moevement"].fetch_s(found, held.without(lost), window)
        assert seconds == pytest.approx(float(found.communication.transfer_s(sent * window_bytes[stage], 0.0)))


def test_a_node_of_gemini_sends_the_shares_of_all_that_its_group_lost():
    # Groups of four: the node that is left of one sends three shares for others, where each of two sends one.
    found, gemini = costs(SMALL | uneven_stages(8), "gemini"), replace(SYSTEMS["gemini"], num_copies=4)
    held = held_of("gemini", found, 32)
    read_bytes = checkpoint_load_bytes(found, gemini.plan_evenly(found, 32)).max()
    share = max(stage_bytes()) / 4
    for lost, further in (([0], 0), ([0, 1], 0), ([0, 1, 2], 2)):
        seconds = gemini.recall_s(found, held.without(lost), 32)
        assert seconds == pytest.approx(float(found.communication.transfer_s(read_bytes + further * share, 0.0)))


DUAL = SMALL | {
    "job.parallel.virtual_stages": 1, "job.parallel.schedule": "dualpipe", "job.parallel.overlap_expert": False,
    "job.parallel.stages": "E" + "|".join(f"t*{number}" for number in (8, 8, 8, 8, 8, 8, 8, 5)) + "L",
}  # fmt: skip


def test_a_node_of_dualpipe_has_two_stages_which_another_node_of_its_pipeline_has_too():
    found = costs(DUAL, "recycle")
    block, params = found.model.block_params, found.model
    dense_layer, moe_layer = (block["attention"] + block[kind] for kind in ("dense", "moe"))
    experts = 256 * params.expert_params
    stages = [5 * moe_layer + 3 * dense_layer + block["vocabulary"] + 5 * experts]
    stages += [8 * (moe_layer + experts)] * 6 + [5 * (moe_layer + experts) + block["vocabulary"]]
    of_node = [14 * (stages[stage] + stages[7 - stage]) for stage in range(4)]
    assert np.add(*found.stage_bytes(8)) == pytest.approx(of_node)
    # A pipeline takes eight nodes. The two that have the first and the last stage are one after the other.
    assert [SYSTEMS["checkpoint"].usable_nodes(found, number) for number in (7, 8, 15, 16)] == [0, 8, 8, 16]
    held = held_of("recycle", found, 16)
    assert held.plan.num_held_N.tolist() == [256 * 10] * 4 + [256 * 16] * 12
    # All but one of four may be lost: the last has both stages, and sends them to each that is new.
    assert held.without([0, 1, 2]).is_complete(found.grid)
    assert not held.without([0, 1, 2, 3]).is_complete(found.grid)
    seconds = SYSTEMS["recycle"].fetch_s(found, held.without([0, 1, 2]), [0, 1, 2])
    assert seconds == pytest.approx(float(found.communication.transfer_s(3 * of_node[0], 0.0)))


def test_dualpipe_saves_optimizer_states_once_over_both_nodes_of_a_stage():
    found = costs(DUAL | {"job.parallel.sharding": "optimizer"})
    # Eight nodes: each part is on two, which read its weights whole and half of its optimizer states each.
    read_N = checkpoint_load_bytes(found, SYSTEMS["checkpoint"].plan_evenly(found, 8))
    assert read_N.sum() == pytest.approx((2 * 2 + 12) * found.model.total_params)


def test_peers_that_recover_hold_whole_optimizer_states_and_take_the_memory():
    sharded, whole = memory_under("checkpoint", 128), memory_under("oobleck", 128)
    # Two replicas of each expert divide 12 bytes a parameter, or not; dense parameters are divided over more ranks.
    expert_bytes = 656e9 / 64 / 8 * 12
    assert whole.optimizer_states - sharded.optimizer_states > expert_bytes / 2
    assert whole.total > sharded.total


def test_replicas_that_divide_optimizer_states_read_each_once_after_a_failure():
    # Two replicas on 16 nodes: each reads 2 bytes of weights a parameter, and both together 12 of its states once, or
    # each all 14 where it keeps states whole.
    for system, bytes_per_param in (("checkpoint", 2 * 2 + 12), ("oobleck", 2 * 14)):
        cost_model = costs(system=system)
        read_N = checkpoint_load_bytes(cost_model, SYSTEMS[system].plan_evenly(cost_model, 16))
        assert read_N.sum() == pytest.approx(bytes_per_param * cost_model.model.total_params)


def even_memory(scenario, num_nodes):
    """Memory under even loads without padding."""
    even = np.ones((scenario.model.num_moe_layers, scenario.model.num_experts), dtype=np.int64)
    return scenario.costs().memory(num_nodes, NodeDispatch(np.arange(num_nodes)), even)


def memory_under(system, num_nodes, load_LE=None):
    cost_model = costs(DEEPSEEK, system)
    model, dispatch = cost_model.model, SYSTEMS[system].dispatch(cost_model, np.arange(num_nodes))
    even = np.ones((model.num_moe_layers, model.num_experts), dtype=np.int64)
    return cost_model.memory(num_nodes, dispatch, even if load_LE is None else load_LE)


def test_masks_and_padding_of_deepspeed_take_memory_and_time():
    model = resolve(DEEPSEEK).model
    skewed = np.ones((model.num_moe_layers, 256), dtype=np.int64)
    skewed[:, 0] = 85
    # 256 buffers of 85 rows where 340 rows are routed: 64 times as many, of 2,048 tokens (half of a sequence) to 8.
    more_rows = 63 * 2048 * 8
    kept = 58 * more_rows * (2 * (2 * 7168 + 3 * 2048) + 4 * 2048)
    grown = memory_under("ds", 128, skewed).activations - memory_under("ds", 128).activations
    assert grown == pytest.approx(kept)
    assert memory_under("checkpoint", 128, skewed).total == memory_under("checkpoint", 128).total
    # With even loads what DeepSpeed does takes longer, too: it waits for exchanges in half precision and for masks.
    even = np.ones((1, 58, 256), dtype=np.int64)
    ds, plain = costs(DEEPSEEK, "ds"), costs(DEEPSEEK, "checkpoint")
    plan = SYSTEMS["ds"].plan_evenly(ds, 128)
    masked_s, step_s = (
        one.step_times(plan, SYSTEMS[name].dispatch(one, np.arange(128))).step_s(even)[0]
        for name, one in (("ds", ds), ("checkpoint", plain))
    )
    assert masked_s > step_s + ds.masked_s(128, np.ones((1, 58)))[0] > step_s


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expert": 48}, r"expert \(48\) must divide 256 experts"),
        ({"expert_tensor": 2}, "set expert_tensor to 1"),
        ({"expert": 4, "tensor": 3}, "the 12 GPUs .* and the 8 of a node must divide each other"),
        ({"pipeline": 64, "virtual_stages": 4}, "must not exceed the 61 layers"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_in_a_line(fields, message):
    scenario = resolve(DEEPSEEK)
    job = msgspec.structs.replace(scenario.job, parallel=msgspec.structs.replace(scenario.job.parallel, **fields))
    with pytest.raises(SpecError, match=message):
        replace(scenario, job=job).costs()


def test_a_profile_and_a_layout_exclude_each_other():
    settings = DEEPSEEK | {"profile": "epyc-2cores", "model": "gpt-s"}
    with pytest.raises(SpecError, match="a job with a layout takes the kernels of its GPU"):
        resolve(settings).costs()


@pytest.mark.parametrize(("model", "cluster", "job"), [
    ("deepseek-v3", "h200x128", "deepseek-v3"),
    # A search finds one that trains 1.7 times as much as the published one.
    ("qwen3-235b-a22b", "h100x64", "testbed-a"),
    ("gpt-s", "dgx-h100", "testbed-a"),
    ("deepseek-v3", "rtx3090x10", "testbed-a"),
    # Its own job takes 64 nodes, eight stages of 64 GPUs: on fewer than 128, each lost node would stop it.
    ("deepseek-v3", "h200x64", "testbed-a"),
    ("deepseek-v3", "h200x127", "testbed-a"),
])  # fmt: skip
def test_a_model_is_trained_by_its_own_job_where_its_layout_survives_a_lost_node_and_none_trains_more(
    model, cluster, job
):
    assert resolve({"model": model, "cluster": cluster}).job.name == job


def test_a_model_whose_own_job_takes_more_nodes_than_there_are_has_the_layout_that_fits_on_these():
    chosen = resolve({"model": "deepseek-v3", "cluster": "h200x16"})
    assert chosen.has_chosen_layout
    assert chosen.costs().grid.replica_nodes <= 16


def test_where_no_layout_fits_the_least_is_told_that_any_takes_on_some_of_the_nodes():
    why = str(resolve({"model": "mixtral-8x22b", "cluster": "h100x3", "system": "checkpoint"}).why_no_layout)
    least = int(re.search(r"fits on 16 GPUs .* takes (\d+) GiB", why)[1])
    # 18 bytes of each of 140.6 B parameters, divided by the 16 GPUs of two nodes, and some GiB beside; a replica on
    # each of three nodes takes 6 / 8 + 12 / 24 bytes of each, which are 164 GiB.
    assert 140.6e9 * 18 / 16 / 2**30 < least < 155


def test_a_layout_is_chosen_for_the_nodes_of_the_trace_and_not_for_those_of_the_cluster():
    settings = {"model": "qwen3-30b-a3b", "system": "checkpoint"}
    four = trace((0, "add", "a b c d"), (50, "remove", "d"), (60, "add", "e"))
    chosen = resolve(settings | {"cluster": "h100x64", "trace": four}).job.parallel
    assert chosen == resolve(settings | {"cluster": "h100x4"}).job.parallel
    assert chosen != resolve(settings | {"cluster": "h100x64"}).job.parallel
    # Of the four, two stand by.
    spared = resolve(settings | {"cluster": "h100x64", "trace": four, "spares": 2}).job.parallel
    assert spared == resolve(settings | {"cluster": "h100x2"}).job.parallel


def test_a_trace_that_has_no_node_at_first_has_the_layout_of_the_nodes_that_come():
    late = trace((600, "add", "a b c d"))
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x4", "system": "lazarus"}
    assert resolve(settings | {"trace": late}).job == resolve(settings).job


def test_all_seeds_of_a_file_of_which_nodes_are_drawn_have_one_layout(tmp_path):
    path, names = tmp_path / "mine.csv", [f"n{index}" for index in range(32)]
    rows = [f"0,add,{name}" for name in names] + [f"100,remove,{name}" for name in names[:16]] + ["10000,add,x"]
    path.write_text("\n".join(["time_s,event,node", *rows]))
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x8", "trace": str(path), "max_nodes": 12}
    seeds = [resolve(settings | {"seed": seed}) for seed in (0, 2)]
    # They draw other numbers of the nodes that stay, whose layouts would have replicas of two and of four nodes.
    assert [one.load_trace().num_alive()[1][1] for one in seeds] == [4, 9]
    assert seeds[0].job == seeds[1].job


@pytest.mark.parametrize(
    ("num_nodes", "batch"), [(32, 4096), (128, 16_384), (512, 16_384), (600, 14_400), (4096, 32_768)]
)
def test_a_batch_that_nobody_gave_is_one_that_people_train_with(num_nodes, batch):
    # Eight GPUs a node have up to 16 sequences each and 16,384 together: 4,800 GPUs three each, and 32,768 one.
    assert first_layout(load_spec(ClusterSpec, f"h100x{num_nodes}", "cluster")).global_batch == batch


@pytest.mark.parametrize(
    ("layout", "num_gpus", "batch"),
    [
        ({"tensor": 2, "pipeline": 32}, 8192, 16_384),
        # 136 replicas of 120 sequences each; interleaved stages take 96, a multiple of 32.
        ({"tensor": 2, "pipeline": 32}, 8704, 16_320),
        ({"tensor": 2, "pipeline": 32, "virtual_stages": 2}, 8704, 13_056),
        # Each of 8,192 ranks has two sequences, which are no micro-batch of eight.
        ({"micro_batch": 8}, 8192, 0),
    ],
)
def test_a_batch_that_nobody_gave_falls_little_where_a_few_nodes_are_added(layout, num_gpus, batch):
    assert usual_batch(ParallelSpec(**layout, global_batch=1), num_gpus) == batch


def test_a_number_of_nodes_that_few_layouts_divide_trains_no_less_than_any_smaller_one():
    def rate(cluster):
        scenario = resolve({"model": "mixtral-8x7b", "cluster": cluster, "system": "checkpoint"})
        costs, system = scenario.costs(), scenario.find_system()
        assert not find_obstacle(scenario, system, costs.cluster.num_nodes, 3600.0)
        num_nodes = system.usable_nodes(costs, costs.cluster.num_nodes)
        # Sixteen sequences for each GPU that trains.
        assert costs.job.parallel.global_batch == 16 * 8 * num_nodes
        return costs.samples_per_step(num_nodes) / costs.step_s(num_nodes, np.ones(1))[0]

    # Two of three nodes hold fewer shards of optimizer states than three. Ten nodes are fastest with replicas of two.
    rates = [rate(f"h100x{num_nodes}") for num_nodes in (3, 4, 6, 7, 10, 11)]
    assert rates == sorted(rates)


def test_a_run_without_a_job_takes_the_layout_that_the_search_for_steps_finds():
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x4"}
    run = resolve({**settings, "system": "checkpoint"})
    searched = predict_layout(load_inputs(settings["model"], settings["cluster"]), search=True)
    # One copy of each expert is enough for a system that goes back to a checkpoint.
    best = searched.found[0]
    assert run.job.parallel == best.parallel
    # So both tell the same throughput.
    assert run.costs().step_s(4, np.ones(1))[0] == pytest.approx(best.time.step_s)
    assert run.replace("seed", 7).job == run.job
    for other in ({"job": "testbed-a"}, {"cluster": "rtx3090x10"}, {"model": "gpt-s"}):
        assert resolve(run.settings | other).job.parallel is None


def test_a_run_of_a_job_with_a_layout_takes_the_step_that_is_told_for_it_unless_loads_are_given():
    step_s = predict_step(load_inputs("deepseek-v3", "dgx-h100", "deepseek-v3", gpus=1024)).step_s
    nodes = build_trace([Event(0.0, "add", str(node)) for node in range(128)], duration_s=7200.0)
    quiet = DEEPSEEK | {"trace": nodes}
    even, skewed = (
        lazsim.simulate(**quiet, systems=["checkpoint"], **loads).runs[0] for loads in ({}, {"routing": "smartmoe-fit"})
    )
    # The end cuts a step, or a save.
    assert -1e-6 <= even.ledger_s["compute"] - even.steps * step_s < step_s
    assert skewed.ledger_s["compute"] / skewed.steps > 1.1 * step_s
    assert resolve({"model": "gpt-s", "cluster": "dgx-h100"}).routing.name == "smartmoe-fit"
    assert resolve(DEEPSEEK | {"routing.skew": 3.0}).routing.generator is not None


def test_whole_optimizer_states_fit_into_the_layout_of_a_system_that_keeps_them():
    settings = {"model": "qwen3-235b-a22b", "cluster": "h100x16"}
    shared, whole = (resolve({**settings, "system": system}) for system in ("checkpoint", "lazarus"))
    assert even_memory(whole, 16).total < whole.gpu.memory_bytes
    # In the layout of the other system, which shares them between replicas, they would not.
    assert even_memory(replace(whole, job=shared.job), 16).total > whole.gpu.memory_bytes


@pytest.mark.parametrize("system", ["ds", "ds-ft", "tutel", "bamboo"])
@pytest.mark.parametrize(
    ("model", "cluster", "num_nodes"), [("qwen3-30b-a3b", "h100x4", 4), ("olmoe-1b-7b", "h100x2", 2)]
)
def test_a_layout_that_was_chosen_fits_with_what_its_system_adds(model, cluster, num_nodes, system):
    run, plain = (resolve({"model": model, "cluster": cluster, "system": name}) for name in (system, "checkpoint"))
    cost_model, even = run.costs(), np.ones((run.model.num_moe_layers, run.model.num_experts), dtype=np.int64)

    def needed(scenario):
        chosen = replace(scenario, system=system).costs()
        dispatch = SYSTEMS[system].dispatch(chosen, np.arange(num_nodes))
        added = SYSTEMS[system].extra_gpu_bytes(chosen, num_nodes).values()
        return chosen.memory(num_nodes, dispatch, even).total + sum(added)

    assert SYSTEMS[system].usable_nodes(cost_model, num_nodes) == num_nodes
    assert needed(run) < 0.93 * run.gpu.memory_bytes
    # That of a system that adds nothing would not do, but for small buffers.
    assert (needed(replace(run, job=plain.job)) > run.gpu.memory_bytes) == (system != "tutel")


def test_a_layout_that_was_chosen_has_every_expert_twice_where_that_fits():
    # One node holds the model: with one copy, a job on two nodes would wait for each node that is lost.
    for system in ("checkpoint", "lazarus"):
        parallel = resolve({"model": "olmoe-1b-7b", "cluster": "h100x2", "system": system}).job.parallel
        assert 2 * parallel.pipeline * parallel.expert <= 16


def test_activations_that_recycle_reroutes_fit_into_its_layout():
    run, other = (resolve({"model": "deepseek-v3", "cluster": "h100x64", "system": name}) for name in RECOVERING[:2])

    def needed(scenario):
        costs = replace(scenario, system="recycle").costs()
        return even_memory(replace(scenario, system="recycle"), 64).total + costs.rerouted_bytes(64, 1.0)

    # Of two replicas, the other takes all micro-batches of a node.
    assert run.costs().grid.replica_nodes == 32
    assert needed(run) < 0.93 * run.gpu.memory_bytes < needed(replace(run, job=other.job))


RECOVERING = ("recycle", "lazarus", "oobleck")


@pytest.mark.parametrize("system", RECOVERING)
@pytest.mark.parametrize(("model", "cluster"), [("qwen3-235b-a22b", "h100x16"), ("olmoe-1b-7b", "h100x2")])
def test_a_system_that_recovers_from_other_nodes_has_two_replicas_where_these_fit(model, cluster, system):
    scenario = resolve({"model": model, "cluster": cluster, "system": system})
    assert 2 * scenario.costs().grid.replica_nodes <= scenario.cluster.num_nodes


def test_a_system_whose_needs_no_layout_meets_has_one_that_fits_without_them():
    # 12 of the 18 bytes of each of 6.9 B parameters are states: of four GPUs with two of 8, 77 GiB whole, 25 divided.
    settings = {"model": "olmoe-1b-7b", "cluster": "h100x1", "gpu.memory_bytes": 24 * 2**30}
    plain = resolve(settings | {"system": "checkpoint"})
    assert plain.has_chosen_layout
    for system in ("ds", "ds-ft", "bamboo", "spare"):
        assert resolve(settings | {"system": system}).has_chosen_layout


def test_a_trace_that_falls_to_few_nodes_trains_on_these():
    names, gone = (" ".join(f"n{index}" for index in range(number)) for number in (32, 18))
    # With replicas of 16 nodes, which are fastest on 32, nothing would train for nine of ten hours.
    fallen = trace((0, "add", names), (3600, "remove", gone), duration_s=36_000.0)
    settings = {"model": "qwen3-235b-a22b", "cluster": "h100x16", "trace": fallen}
    for system in ("lazarus", "oobleck"):
        (run,) = lazsim.simulate(**settings, systems=[system]).runs
        costs = resolve(settings | {"system": system}).costs()
        # Eight of the 14 nodes train at least; restarts and lost steps take a tenth of the time, at most.
        assert run.samples > 0.9 * 32_400 * costs.samples_per_step(8) / costs.even_step_s(8)


def test_all_systems_have_the_job_that_is_named_as_the_model_or_none_has():
    for num_nodes, names in ((127, {"testbed-a"}), (128, {"deepseek-v3"})):
        settings = {"model": "deepseek-v3", "cluster": f"h100x{num_nodes}"}
        assert {resolve(settings | {"system": system}).job.name for system in ("checkpoint", "recycle")} == names
    # A median of 127 nodes holds one replica of its 64.
    names = " ".join(f"n{index}" for index in range(128))
    brief = trace((0, "add", names), (400, "remove", "n0"))
    assert resolve({"model": "deepseek-v3", "cluster": "h100x128", "trace": brief}).job.name == "testbed-a"


def test_inputs_of_a_run_have_the_hash_of_its_kernels(tmp_path):
    tables = tmp_path / "mine.csv"
    tables.write_bytes(read_tables("h100"))
    settings = {"model": "qwen3-30b-a3b", "cluster": "dgx-h100"}
    assert resolve(settings).inputs["kernels_sha256"] == sha256(tables.read_bytes())
    settings["gpu.kernels"] = str(tables)
    before = resolve(settings).id
    tables.write_bytes(b"# measured anew\n" + tables.read_bytes())
    assert resolve(settings).id != before


def test_the_jobs_of_the_catalogue_fit_into_the_memory_of_an_h100():
    for model, job, num_nodes in (("deepseek-v3", "deepseek-v3", 64), ("qwen3-235b-a22b", "qwen3-235b", 32)):
        scenario = resolve({"model": model, "cluster": "dgx-h100", "job": job, "system": "checkpoint"})
        assert even_memory(scenario, num_nodes).total < scenario.gpu.memory_bytes


def test_smaller_units_than_a_node_share_it():
    parallel = ParallelSpec(global_batch=64, pipeline=2, expert=4)
    grid = grid_of(load_spec(ModelSpec, "qwen3-30b-a3b"), parallel, 8)
    assert (grid.unit_nodes, grid.replica_nodes, grid.column_nodes) == (1, 2, 1)


@pytest.mark.parametrize(("parallel", "parts", "experts_share"), [
    # A node of 8 GPUs has a copy of its stage's dense part, and the experts of 8 of 64 or all of them, some twice.
    ({"expert": 64}, 1, 8 / 64),
    ({"expert": 4}, 1, 1),
    # Sixteen GPUs of two nodes share matrices, or matrices and sequences; each node has all experts.
    ({"tensor": 16, "expert": 8}, 2, 1),
    ({"tensor": 8, "context": 2, "expert": 8}, 1, 1),
])  # fmt: skip
@pytest.mark.parametrize("passes", [1, 2])
def test_a_node_holds_the_states_of_the_ranks_on_it(parallel, parts, experts_share, passes):
    settings = DEEPSEEK | {"job.parallel.tensor": 1} | {f"job.parallel.{name}": size for name, size in parallel.items()}
    found = costs(settings | uneven_stages(8, passes))
    held = [params_of_stage(found.model, 8, stage) for stage in range(8)]
    node_S = [14 * (divided / parts + each + experts_share * experts) for divided, each, experts in held]
    assert held_state_bytes(found, 8) == pytest.approx(max(node_S))
    # The further-token layer joins two vectors of 7,168 numbers.
    layer = found.model.block_params["attention"] + found.model.block_params["moe"] + 2 * 7168**2
    experts = 256 * found.model.expert_params
    assert found.dense_state_bytes == 14 * (found.model.dense_params + layer)
    assert found.expert_states_bytes == 14 * 59 * experts
    assert found.further_expert_bytes_S == pytest.approx([0] * 7 + [14 * experts_share * experts])
    # A node that takes a place fetches the states of its stage, with those of further-token layers in the last one.
    dense_S = [14 * (divided / parts + each) for divided, each, _ in held]
    assert np.add(*found.stage_bytes(8)) == pytest.approx(node_S)
    assert found.stage_bytes(8)[0] == pytest.approx(dense_S)
    # Gemini: the nodes of a stage divide what it has, in two versions of two copies.
    num_nodes = found.grid.replica_nodes * 2
    share = max(14 * sum(params) for params in held) / (num_nodes / 8)
    assert SYSTEMS["gemini"].host_bytes(found, num_nodes, 20.0) == pytest.approx(4 * share)


LAYOUTS = [
    # Tensor, context, expert and pipeline size, and data-parallel copies of the smallest unit.
    (1, 1, 8, 8, 2), (1, 1, 64, 8, 1), (2, 1, 64, 8, 3), (4, 2, 16, 4, 2), (8, 1, 8, 2, 3), (16, 1, 8, 2, 2),
    (16, 2, 64, 1, 2), (32, 1, 16, 1, 1), (2, 1, 4, 4, 5),
]  # fmt: skip


LAYERS = {8: [8] * 7 + [5], 4: [16, 16, 16, 13], 2: [40, 21], 1: [61]}
"""Layers of each stage of DeepSeek-V3, of which the first three are dense. The last stage has a further-token layer,
too."""


def uneven_stages(pipeline, passes=1):
    """Return such stages as settings, with passes through the weights of the further-token layer."""
    text = "|".join(f"t*{number}" for number in LAYERS[pipeline])
    return {
        "model.num_mtp_layers": passes, "model.mtp_use_repeated_layer": passes > 1,
        "job.parallel.pipeline": pipeline, "job.parallel.virtual_stages": 1,
        "job.parallel.stages": f"E{text}{'m' * passes}L", "job.parallel.overlap_expert": False,
    }  # fmt: skip


def params_of_stage(model, pipeline, stage):
    """Count the parameters that tensor-parallel ranks divide, those that each of them has, and those of experts."""
    block, width = model.block_params, model.d_model
    first, last = stage == 0, stage == pipeline - 1
    num_layers, dense_layers = LAYERS[pipeline][stage], 3 * first
    moe_layers = num_layers - dense_layers
    total = num_layers * block["attention"] + dense_layers * block["dense"] + moe_layers * block["moe"]
    # Further-token layers of another stage than the first have a copy of the embedding.
    total += (first + last + (last and not first)) * block["vocabulary"] + last * block["mtp"]
    # Projections to latent vectors, and gates.
    each = (num_layers + last) * width * (1536 + 512 + 64) + (moe_layers + last) * width * 256
    return total - each, each, (moe_layers + last) * 256 * model.expert_params


@pytest.mark.parametrize("sharding", ["none", "optimizer", "full"])
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize(("tensor", "context", "expert", "pipeline", "copies"), LAYOUTS)
def test_ranks_save_and_nodes_read_what_they_hold_and_own(
    tensor, context, expert, pipeline, copies, optimizer, sharding
):
    sizes = {"tensor": tensor, "context": context, "expert": expert, "optimizer": optimizer, "sharding": sharding}
    settings = DEEPSEEK | uneven_stages(pipeline) | {f"job.parallel.{name}": value for name, value in sizes.items()}
    found = costs(settings)
    num_nodes = pipeline * copies * int(np.lcm(np.lcm(tensor * context, expert), 8)) // 8
    num_ranks, optimizer_bytes = num_nodes * 8 // pipeline, {"adam": 12, "muon": 8}[optimizer]
    saved, read_N = [], []
    for stage in range(pipeline):
        divided, each, experts = params_of_stage(found.model, pipeline, stage)
        # Megatron's order: tensor ranks are neighbours, and so are expert ranks; a stage is all ranks that follow.
        for unit, by_unit in ((1, saved), (8, read_N)):
            units = [range(first, first + unit) for first in range(0, num_ranks, unit)]
            bytes_U = np.zeros(len(units))
            for size, of_part, of_each in ((tensor, divided / tensor, each), (expert, experts / expert, 0)):
                parts_U = [frozenset(rank % size for rank in ranks) for ranks in units]
                for index, parts in enumerate(parts_U):
                    held = of_each + len(parts) * of_part
                    owned = held / parts_U.count(parts)
                    # Weights that several have, one saves and all read; and so all states that are not divided.
                    whole = held if unit == 8 or index == parts_U.index(parts) else 0
                    bytes_U[index] += 2 * (owned if sharding == "full" else whole)
                    bytes_U[index] += optimizer_bytes * (whole if sharding == "none" else owned)
            by_unit += bytes_U.tolist()
    plan = SYSTEMS["checkpoint"].plan_evenly(found, num_nodes)
    assert checkpoint_load_bytes(found, plan) == pytest.approx(np.array(read_N))
    assert found.saved_bytes(num_nodes, 1) == pytest.approx(max(saved))
    # All write the model once.
    num_bytes = (2 + optimizer_bytes) * (found.model.total_params + found.model.mtp_params)
    save_s, (total, of_rank) = checkpoint_save_s(found, num_nodes), (num_bytes, max(saved))
    assert save_s == pytest.approx(found.communication.save_s(total, of_rank))
    assert copy_to_host_s(found, num_nodes) == pytest.approx(of_rank / found.cluster.host.link_bytes_per_s)


def test_a_newcomer_that_a_plan_leaves_out_fetches_nothing():
    # Groups of two nodes: of three candidates two are used, which have all that they need, and the third
    # fetches nothing. Of five for four places, one of two newcomers fetches the dense state and half of the experts.
    found = costs(SMALL | {
        "job.parallel.expert": 16, "job.parallel.pipeline": 1, "job.parallel.virtual_stages": 1,
        "job.parallel.overlap_expert": False,
    }, "ds-ft")  # fmt: skip
    plan = SYSTEMS["ds-ft"].plan_evenly(found, 2)
    bound = bind_nodes(found, plan.holds_LEN, plan.holds_LEN, num_new=1)
    assert not bound.bytes_HH.any()
    bound = bind_nodes(
        found, plan.holds_LEN[:, :, [0, 1, 0]], SYSTEMS["ds-ft"].plan_evenly(found, 4).holds_LEN, num_new=2
    )
    expected = 14 * (found.model.dense_params + 58 * 128 * found.model.expert_params)
    assert bound.bytes_HH.sum() == pytest.approx(expected)


def test_parts_of_matrices_that_span_nodes_are_lost_and_fetched_apart():
    # 16 tensor ranks on two nodes: of four nodes the first and third have one half of the matrices, the others another.
    found = costs(DEEPSEEK | {
        "job.parallel.tensor": 16, "job.parallel.expert": 8, "job.parallel.pipeline": 1,
        "job.parallel.virtual_stages": 1, "job.parallel.overlap_expert": False,
    }, "lazarus")  # fmt: skip
    made = Planned(4, 0, lambda num_nodes, _step: SYSTEMS["lazarus"].plan_evenly(found, num_nodes))
    held = Held.full("abcd", made)
    assert held.without("ab").is_complete(found.grid)
    # Both have every expert, but halves that are the same.
    assert not held.without("bd").is_complete(found.grid)
    # A newcomer in the place of the first fetches its half from the third, and the experts.
    left = held.without("a")
    dense = {"dense_PH": left.dense_PN(found.grid), "wants_PN": made.dense_PN(found.grid)}
    bound = bind_nodes(found, left.holds_LEN, made.holds_LEN, num_new=1, **dense)
    # Both halves have the projections to latent vectors, and the gates.
    each = found.model.d_model * (61 * (1536 + 512 + 64) + 58 * 256)
    num_bytes = 14 * ((found.model.dense_params + each) / 2 + 58 * 256 * found.model.expert_params)
    assert bound.bytes_HH.sum() == pytest.approx(num_bytes)


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("context_exchange", "all_gather", {"context": 2}),
        ("overlap_tensor", True, {"tensor": 2}),
        ("overlap_expert", True, {"expert": 8}),
        ("exchange_multiprocessors", 24, {"expert": 8, "dispatcher": "deepep"}),
        ("exchange_multiprocessors", 24, {"expert": 8, "dispatcher": "hybridep", "overlap_expert": True}),
    ],
)
def test_a_field_is_told_to_be_idle_where_it_changes_no_step(field, value, needed):
    def step_s(**fields):
        return predict_step(load_inputs("mixtral-8x7b", "h100x16", None, {"global_batch": 256, **fields})).step_s

    assert step_s(**{field: value}) == step_s()
    assert step_s(**needed, **{field: value}) != step_s(**needed)
    mixtral = load_spec(ModelSpec, "mixtral-8x7b")
    assert f"in this layout: {field} (" in layout_remarks(ParallelSpec(global_batch=256, **{field: value}), mixtral)[0]
    assert layout_remarks(ParallelSpec(global_batch=256, **needed, **{field: value}), mixtral) == []


@pytest.mark.parametrize(
    ("fields", "num_told"),
    [
        # Assertions of ``TransformerConfig`` of NVIDIA/Megatron-LM 0.16; DeepSeek-V3 predicts a further token.
        ({"expert": 8, "overlap_expert": True, "pipeline": 4}, 1),
        ({"expert": 8, "overlap_expert": True, "pipeline": 4, "virtual_stages": 2}, 0),
        ({"expert": 8, "overlap_expert": True}, 1),
        ({"overlap_expert": True, "pipeline": 4, "recompute": "full"}, 0),
        ({"expert": 8, "overlap_expert": True, "pipeline": 4, "virtual_stages": 2, "recompute": "full"}, 1),
        ({"expert": 8, "overlap_expert": True, "pipeline": 4, "virtual_stages": 2, "dispatcher": "all_gather"}, 1),
        ({"expert_tensor": 2, "overlap_expert": True, "pipeline": 4, "virtual_stages": 2}, 1),
        # Refused, too, but published runs with later versions have it.
        ({"expert": 8, "overlap_expert": True, "pipeline": 4, "virtual_stages": 2, "graphs": "full"}, 0),
        ({"graphs": "partial", "recompute": "full"}, 1),
        # An assertion of its ``MoEFlexTokenDispatcher``.
        ({"dispatcher": "hybridep"}, 1),
        ({"dispatcher": "deepep", "expert_tensor": 2}, 0),
        ({"dispatcher": "hybridep", "expert": 8}, 0),
        ({"graphs": "full", "recompute": "full"}, 0),
        ({"expert": 8, "pipeline": 4, "schedule": "dualpipe", "recompute": "full"}, 0),
    ],
)
def test_settings_that_megatron_refuses_together_are_told(fields, num_told):
    deepseek = msgspec.structs.replace(load_spec(ModelSpec, "deepseek-v3"), num_mtp_layers=1)
    told = layout_remarks(ParallelSpec(global_batch=256, **fields), deepseek)
    assert sum("NVIDIA/Megatron-LM 0.16 refuses" in one for one in told) == num_told


def test_two_passes_at_once_with_two_layers_for_further_tokens_are_told():
    deepseek = msgspec.structs.replace(load_spec(ModelSpec, "deepseek-v3"), num_mtp_layers=2)
    layout = ParallelSpec(global_batch=256, expert=8, overlap_expert=True, pipeline=4, virtual_stages=2)
    assert "refuses overlap_expert of more than one layer for further tokens" in layout_remarks(layout, deepseek)[0]


def test_a_search_tries_the_same_layouts_where_megatron_refuses_what_was_given():
    given = {"overlap_expert": True, "global_batch": 256}
    numbers = {
        search_layouts(load_inputs("qwen3-30b-a3b", "dgx-h100", None, given | {"dispatcher": name}, 16), 1).num_valid
        for name in ("all_gather", "all_to_all")
    }
    # The sizes that divide a job are the same, whatever sends its tokens; no choice of them avoids this refusal.
    assert len(numbers) == 1


def test_modules_to_recompute_that_a_model_lacks_are_told():
    layout = ParallelSpec(global_batch=256, recompute="selective", recomputed=("latent_up", "dense_block", "norm"))
    mixtral, deepseek = (load_spec(ModelSpec, name) for name in ("mixtral-8x7b", "deepseek-v3"))
    assert layout_remarks(layout, mixtral) == [
        "of no effect in this layout: recomputed latent_up (mixtral-8x7b has none), "
        "recomputed dense_block (mixtral-8x7b has none)"
    ]
    assert layout_remarks(layout, deepseek) == []


@pytest.mark.parametrize(
    ("model", "cluster"), [("qwen3-30b-a3b", "h100x1"), ("qwen2-57b-a14b", "h100x4"), ("deepseek-v2", "b200x4")]
)
@pytest.mark.parametrize("system", ["lazarus", "ds"])
def test_a_chosen_layout_takes_no_more_nodes_than_there_are(model, cluster, system):
    # The fastest layouts that fit have pipelines of more stages than nodes, each stage on GPUs of part of a node.
    scenario = resolve({"model": model, "cluster": cluster, "system": system})
    assert scenario.costs().grid.replica_nodes <= scenario.cluster.num_nodes
