"""Bytes of a GPU against published footprints, hand counts and a count slot by slot."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from lazsim.costmodel.costs import NodeDispatch
from lazsim.costmodel.memory import GpuShare, fullest_share, gpu_memory
from lazsim.engine.systems import LIVE_SYSTEMS as SYSTEMS
from lazsim.errors import InfeasiblePlanError
from lazsim.output.run import run_parts
from lazsim.output.table import render
from lazsim.placement.expert_parallel import place_ep
from lazsim.placement.plan import PlacementPlan
from lazsim.specs import JobSpec, ModelSpec, load_spec
from lazsim.study import simulation
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace import Event, build_trace
from tests.conftest import ROOT

GPT_S = load_spec(ModelSpec, "gpt-s")
NOTHING = np.zeros(12)
MIXTRAL = """
name = "mixtral-8x7b"
num_layers = 32
num_moe_layers = 32
d_model = 4096
d_ff_expert = 14336
matrices_per_expert = 3
num_experts = 8
top_k = 2
attention_params = 41943040
attention_score_dim = 8192
sequence_length = 4096
vocab_size = 32000
num_vocab_matrices = 2
"""
FIVE_MINUTES = {"systems": ["lazarus"], "routing": "uniform", "max_nodes": 10, "duration": "5min"}


@pytest.fixture
def mixtral(tmp_path):
    path = tmp_path / "mixtral.toml"
    path.write_text(MIXTRAL)
    return str(path)


def simulate(**settings):
    return simulation.simulate(ROOT / "traces" / "spot-p3-like.csv", **{**FIVE_MINUTES, **settings})


def shortages(result):
    return [note for note in result.notes if "does not fit: " in note and "GiB" in note]


RUN = ("run", "--trace", ROOT / "traces" / "spot-p3-like.csv", "--max-nodes", 10, "--duration", "5min")


def test_training_states_take_what_zero_publishes():
    # ZeRO (arXiv 1910.02054, figure 1): 7.5 billion parameters take 120 GB.
    memory = gpu_memory(GPT_S, GpuShare(2.5e9, 5.0e9, 0, NOTHING, NOTHING))
    assert memory.weights + memory.gradients + memory.optimizer_states == 120e9


def test_activations_take_what_korthikanti_publishes():
    # arXiv 2205.05198: s b h 34 for each layer without its scores, and 4 s b h (1 + v / h) for the output layer. An MoE
    # layer also keeps its experts' inputs, 2 s b h, and what they send back, 2 s b h.
    tokens = NOTHING + 1000
    memory = gpu_memory(GPT_S, GpuShare(0.0, 0.0, 1000, tokens, tokens))
    assert memory.activations == 1000 * 768 * (12 * (34 + 4) + 4 * (1 + 50257 / 768))
    # It is the layer with most rows whose buffers count.
    fullest = gpu_memory(GPT_S, GpuShare(0.0, 0.0, 1000, tokens * (np.arange(12) == 3), tokens))
    assert fullest.buffers == 2 * 768 * (1000 + 1000)


def test_dense_layers_shared_experts_and_gated_blocks_keep_what_they_compute():
    model = load_spec(ModelSpec, "deepseek-v3")
    rows = np.full(58, 80.0)
    memory = gpu_memory(model, GpuShare(0.0, 0.0, 10, rows, rows))
    # A token: 2 bytes of 4 inputs of 7168 and 2 masks of a byte; queries, keys, values and output 2 x 40960.
    attention = 10 * (4 * 2 * 7168 + 2 * 7168 + 2 * 2 * 40960)
    # Gate, up and their product: 3 x 18432 in 3 dense layers, 3 x 2048 in the shared expert and in each routed row.
    dense, shared = 10 * 2 * 3 * 18432, 10 * 2 * 3 * 2048
    routed = 80 * (2 * 7168 + 2 * 3 * 2048) + 80 * 2 * 7168
    head = 4 * 10 * (7168 + 129280)
    assert memory.activations == 61 * attention + 3 * dense + 58 * (shared + routed) + head
    assert memory.buffers == 2 * 7168 * (80 + 80)


def test_grouped_keys_and_values_take_their_own_width(mixtral):
    # Mixtral: 32 heads of 128 for queries and output, 8 for keys and values; 2 bytes of 4 inputs, 2 masks of a byte.
    rows = np.zeros(32)
    memory = gpu_memory(load_spec(ModelSpec, mixtral), GpuShare(0.0, 0.0, 10, rows, rows))
    attention = 2 * (4 * 4096 + 2 * 32 * 128 + 2 * 8 * 128) + 2 * 4096
    assert memory.activations == 10 * (32 * attention + 4 * (4096 + 32000))


def test_layers_of_a_hybrid_keep_one_block_each():
    # Nemotron 3 Nano: 23 scans, 6 attention and 23 MoE layers. A block keeps its input and that of its norm and a mask:
    # 5 bytes of 2688. Attention: queries and output of 32 heads of 128, keys and values of 2. A scan: projected gate,
    # inputs of states, heads (10304), and thrice its 4096. Experts have two matrices, the shared one is 3712 wide.
    rows = np.zeros(23)
    memory = gpu_memory(load_spec(ModelSpec, "nemotron-3-nano"), GpuShare(0.0, 0.0, 10, rows, rows))
    attention, scan, shared = 2 * (2 * 32 + 2 * 2) * 128, 2 * (10304 + 3 * 4096), 2 * 2 * 3712
    kept = 52 * 5 * 2688 + 6 * attention + 23 * (scan + shared)
    assert memory.activations == 10 * (kept + 4 * (2688 + 131072))


def test_padded_buffers_and_masks_have_the_size_of_the_fullest_expert():
    # 8 experts on 2 nodes of 4; the fullest draws half of 2 x 4096 tokens, so that every buffer has 4096 rows, of which
    # each node fills a half for all 8 experts: 16384 rows go out, and its 4 experts compute 4096 each.
    dispatch = NodeDispatch(np.arange(2), np.zeros(2, dtype=np.int64), padded=True, masked_reorder=True)
    load = np.tile([1, 1, 1, 1, 1, 1, 1, 7], (12, 1))
    plan = place_ep(12, 8, 2, 1, 6)
    share = fullest_share(GPT_S, load_spec(JobSpec, "testbed-a"), 1, plan, dispatch, load)
    assert share.rows_L.tolist() == [16384] * 12
    assert share.sent_L.tolist() == [16384] * 12
    assert share.expert_params == 12 * 4 * GPT_S.expert_params
    masked, plain = gpu_memory(GPT_S, share), gpu_memory(GPT_S, replace(share, masked_reorder=False))
    # Two masks of 4096 x 16384 half-precision entries in each layer; one layer at a time in fp32 and as booleans.
    assert masked.activations - plain.activations == 12 * 2 * 2 * 4096 * 16384
    assert masked.buffers - plain.buffers == (4 + 1) * 4096 * 16384


@pytest.mark.parametrize("seed", range(5))
def test_the_fullest_gpu_is_the_one_that_a_count_slot_by_slot_finds(seed):
    rng = np.random.default_rng(seed)
    model = msgspec.structs.replace(GPT_S, num_layers=3, num_moe_layers=3, num_experts=4)
    slots = rng.integers(-1, 4, (3, 5, 6))
    slots[:, 0, :4] = np.arange(4)
    load = rng.integers(1, 100, (3, 4))
    share = fullest_share(
        model, load_spec(JobSpec, "testbed-a"), 2, PlacementPlan(slots, 4), NodeDispatch(np.arange(5)), load
    )
    found = []
    for node in range(5):
        for gpu in range(2):
            held = [slots[layer, node, slot] for layer in range(3) for slot in range(gpu, 6, 2)]
            rows = [
                sum(
                    10 * 4096 * load[layer, expert] / load[layer].sum() / (slots[layer] == expert).sum()
                    for expert in slots[layer, node, gpu::2]
                    if expert >= 0
                )
                for layer in range(3)
            ]
            params = sum(expert >= 0 for expert in held) * model.expert_params
            found.append((16 * params + sum(rows) * 2 * (768 + 2 * 3072), params, rows))
    _, params, rows = max(found)
    assert share.expert_params == params
    assert share.rows_L.tolist() == pytest.approx(rows)
    assert share.sent_L.tolist() == pytest.approx([4096.0] * 3)


@pytest.mark.parametrize("model", ["gpt-s", "gpt-m", "gpt-l"])
@pytest.mark.parametrize("cluster", ["rtx3090x10", "a10gx16"])
def test_what_was_trained_on_the_published_testbeds_fits(model, cluster):
    result = simulate(model=model, cluster=cluster, systems=list(SYSTEMS), routing="smartmoe-fit")
    assert not shortages(result)
    assert all(0 < run.memory.total < result.gpu_memory_bytes for run in result.runs)


def test_mixtral_on_ten_rtx_3090_is_said_not_to_fit(mixtral):
    result = simulate(model=mixtral)
    # 6 slots of 3 x 4096 x 14336 parameters and the dense part of 1.6 billion, 12 bytes each in the optimizer's states.
    dense = 32 * (41943040 + 8 * 4096) + 2 * 32000 * 4096
    states = 12 * (6 * 32 * 3 * 4096 * 14336 + dense)
    assert result.runs[0].memory.optimizer_states == states
    (note,) = shortages(result)
    assert note.startswith("lazarus does not fit: mixtral-8x7b takes 6")
    assert f"rtx3090 has 24.0; most is for optimizer states, {states / 2**30:.1f} GiB" in note
    assert note.endswith(
        "; only jobs with a layout compute activations again and shard optimizer states, which takes less"
    )
    # Beside the number, too, where a reader of the tables alone finds it.
    assert "do not fit into memory, and hold for larger GPUs or nodes only: lazarus" in render(run_parts(result))
    assert result.to_json()["runs"][0]["fits_memory"] is False


def test_systems_that_lack_memory_for_the_same_share_a_note_with_the_numbers_of_the_first(mixtral):
    result = simulate(model=mixtral, systems=["lazarus", "dropless", "ds"])
    taken = [f"{run.memory.total / 2**30:.1f} GiB of each GPU" for run in result.runs]
    assert len(set(taken)) == 3
    (note,) = shortages(result)
    assert note.startswith(f"lazarus, dropless, ds: each does not fit: mixtral-8x7b takes {taken[0]}")
    assert note.endswith(" (numbers of lazarus)")
    (alone,) = shortages(simulate(model=mixtral, systems=["ds"]))
    assert alone.startswith(f"ds does not fit: mixtral-8x7b takes {taken[2]}")
    assert "numbers of" not in alone


def test_deepseek_v3_without_a_layout_on_an_h200_is_said_not_to_fit():
    (note,) = shortages(simulate(model="deepseek-v3", cluster="h200x64", job="testbed-a", duration="2min"))
    assert "lazarus does not fit: deepseek-v3 takes" in note
    assert "h200 has 141.0; most is for activations" in note


@pytest.mark.parametrize(
    ("path", "too_many", "more"),
    [("job.sequences_per_gpu", 24, {}), ("cluster.slots_per_gpu", 16, {"job.sequences_per_gpu": 1})],
)
def test_the_value_that_a_note_names_is_the_largest_that_fits(path, too_many, more):
    def notes(value):
        return shortages(simulate(model="gpt-l", duration="2min", **{**more, path: value}))

    (note,) = notes(too_many)
    value = int(note.split(f"{path} = ")[1].split()[0])
    assert not notes(value)
    assert notes(value + 1)


def test_strict_refuses_what_does_not_fit_and_writes_nothing(lazsim, refused, mixtral, tmp_path):
    told = refused(*RUN, "--model", mixtral, "--strict", "--out", tmp_path / "out", "--json")
    assert told.startswith("lazarus does not fit: mixtral-8x7b takes")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InfeasiblePlanError, match="does not fit"):
        simulate(model=mixtral, strict=True)
    assert lazsim(*RUN, "--model", "gpt-l", "--strict")[0] == 0


def test_a_run_shows_the_memory_of_each_system(lazsim):
    assert "memory of the fullest GPU at its peak, GiB; rtx3090 has 24.0" in lazsim(*RUN, "--model", "gpt-l")[1]
    value = json.loads(lazsim(*RUN, "--model", "gpt-l", "--json")[1])
    assert value["gpu_memory_bytes"] == 24 * 2**30
    for run in value["runs"]:
        memory = run["memory_bytes"]
        assert memory.pop("total") == pytest.approx(sum(memory.values()))


def test_a_job_that_never_trains_needs_no_memory():
    trace = build_trace([Event(0, "add", "a")], duration_s=60)
    result = simulation.simulate(trace, systems=["lazarus"], routing="uniform", strict=True)
    assert result.to_json()["runs"][0]["memory_bytes"] is None


def test_a_sweep_says_how_many_of_its_runs_do_not_fit(mixtral):
    trace = ROOT / "traces" / "spot-p3-like.csv"
    base = {"trace": str(trace), "duration": "2min", "max_nodes": 10, "routing": "uniform", "system": "lazarus"}
    grid = {"model": ["gpt-s", mixtral]}
    result = run_sweep(parse_sweep({"base": base, "grid": grid}), num_workers=1)
    (note,) = [note for note in result.notes if "fit" in note]
    assert note.startswith("lazarus does not fit: mixtral-8x7b takes ")
    assert note.endswith(" (1 of 2 runs)")
    strict = parse_sweep({"base": {**base, "strict": True}, "grid": grid})
    ((_, error),) = run_sweep(strict, num_workers=1).failures
    assert "lazarus does not fit: mixtral-8x7b takes" in error


def test_place_shows_the_memory_of_a_model_and_says_when_a_gpu_has_less(lazsim, mixtral):
    options = ("place", "--nodes", 10, "--slots", 6, "--experts", 8, "--policy", "mro", "--model", mixtral)
    code, out, err = lazsim(*options, "--gpu", "rtx3090")
    # 16 bytes for each parameter of 6 x 32 experts and of the dense part, 0.988 GB of CUDA and NCCL.
    dense = 32 * (41943040 + 8 * 4096) + 2 * 32000 * 4096
    total = (16 * (6 * 32 * 3 * 4096 * 14336 + dense) + 0.988e9) / 2**30
    assert code == 0
    assert f"mixtral-8x7b takes {total:.1f} GiB of each GPU before activations" in " ".join(out.split())
    assert "rtx3090 has 24.0" in out
    assert "give fewer --slots or more --gpus-per-node" in err
    memory = json.loads(lazsim(*options, "--json")[1])["memory"]["memory_bytes"]
    assert memory["total"] == pytest.approx(total * 2**30)
    assert "activations" not in memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "rtx3090"], "--gpu has no effect without --model: add that, or leave --gpu out"),
        (["--model", "gpt-l", "--gpu", "rtx309"], "--gpu: unknown gpu 'rtx309': did you mean 'rtx3090'?"),
        (["--model", "gpt-x", "--gpu", "rtx3090"], "--model: unknown model 'gpt-x'"),
    ],
)
def test_place_refuses_memory_of_an_unknown_model_or_gpu_in_one_line(refused, options, message):
    assert refused("place", "--nodes", 10, "--slots", 6, "--experts", 8, *options).startswith(message)


def test_a_plan_that_begins_no_step_takes_no_memory_and_no_step_time():
    # Of twelve nodes four are lost at 1,000 s, and four more at the very end of the restart of the other eight.
    def run_of(*losses):
        nodes = [Event(0.0, "add", f"n{index}") for index in range(12)]
        gone = [Event(time_s, "remove", f"n{index}") for time_s, first in losses for index in range(first, first + 4)]
        trace = build_trace([*nodes, *gone], duration_s=36_000.0)
        settings = {"systems": ["checkpoint"], "model": "gpt-l", "routing": "uniform", "cluster": "rtx3090x10"}
        return simulation.simulate(trace, **settings).runs[0]

    [begins_s] = (event.time_s for event in run_of((1000.0, 0)).events if event.event == "restarted")
    run = run_of((1000.0, 0), (begins_s, 4))
    assert [event.event for event in run.events].count("restarted") == 2
    assert [size for size, _ in run.steps_s] == [12, 4]


def test_copies_of_a_plan_that_begins_no_step_take_no_host_memory():
    # Of twelve nodes four are left, which hold three times as much each, and go at the very end of their restart.
    def run_of(*changes):
        events = [*(Event(0.0, "add", f"n{index}") for index in range(12)), *changes]
        trace = build_trace(events, duration_s=36_000.0)
        settings = {"systems": ["gemini"], "model": "gpt-l", "routing": "uniform", "cluster": "rtx3090x10"}
        return simulation.simulate(trace, **settings).runs[0]

    lost = [Event(1000.0, "remove", f"n{index}") for index in range(8)]
    [begins_s] = (event.time_s for event in run_of(*lost).events if event.event == "restarted")
    rest = [Event(begins_s, "remove", f"n{index}") for index in range(8, 12)]
    assert run_of(*lost, *rest).host_bytes == run_of().host_bytes
    assert run_of(*lost).host_bytes == pytest.approx(3 * run_of().host_bytes)
