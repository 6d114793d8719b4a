"""What holds for the step of any model under any layout: work, bytes and memory sum to those of the model."""

import contextlib
import itertools
import math
import re
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lazsim.errors import SpecError
from lazsim.specs import AttentionSpec, ClusterSpec, GpuSpec, ModelSpec, ParallelSpec, load_spec
from lazsim.specs.overrides import override
from lazsim.stepmodel.blocks import blocks_of
from lazsim.stepmodel.experts import distinct_ranks, exchange_s
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import load_inputs
from lazsim.stepmodel.memory import memory_bytes, part_parameters, stage_parameters
from lazsim.stepmodel.operations import Item
from lazsim.stepmodel.passes import dual_pipe_passes, interleaved_passes, kept_passes, warm_up_parts
from lazsim.stepmodel.pipeline import PartTime, parts_of, run_pipeline
from lazsim.stepmodel.predict import StepModel, flop_per_token, predict_step
from lazsim.stepmodel.search import search_layouts
from lazsim.stepmodel.tables import KernelTables
from lazsim.study.step import predict_layout

FLOP_S = 1e-15
"""Time of an operation in tables that count them."""


@dataclass(frozen=True, eq=False)
class CountingTables(KernelTables):
    """Tables in which a matmul takes as long as it has operations, and all else no time."""

    def time_s(self, kernel: str, *sizes: float) -> float:
        return 2 * FLOP_S * math.prod(sizes) if kernel.startswith("matmul") else 0.0

    def attention_s(self, kernel: str, heads: float, sequence: float) -> float:
        return FLOP_S * heads * sequence**2

    def collective_s(self, kernel: str, num_bytes: float, num_ranks: int) -> float:
        return 1e-30

    def sent_s(self, tokens: float, token_bytes: float, multiprocessors: float) -> float:
        return 0.0

    def sustained_rate(self, kernel: str) -> float:
        return 1.0


def counted(inputs: StepInputs) -> StepInputs:
    """Return inputs under which the time of matmuls counts their operations."""
    tables = CountingTables("counting", dict.fromkeys(inputs.tables.grids), inputs.tables.collective_ranks)
    gpu = msgspec.structs.replace(inputs.gpu, memory_bytes_per_s=1e30, kernel_overhead_s=1e-30)
    constants = msgspec.structs.replace(inputs.constants, kernel_gap_s=0.0, slowest_gpu_rate=1.0)
    return replace(inputs, tables=tables, gpu=gpu, constants=constants)


@st.composite
def models(draw) -> ModelSpec:
    heads = draw(st.sampled_from([8, 16]))
    grouped = AttentionSpec(
        num_heads=heads, num_kv_heads=draw(st.sampled_from([8, heads])), head_dim=128, normed=draw(st.booleans())
    )
    latent = AttentionSpec(
        kind="latent", num_heads=heads, query_rank=draw(st.sampled_from([0, 512])), kv_rank=256, nope_dim=128,
        rope_dim=128, value_dim=128,
    )  # fmt: skip
    num_layers = draw(st.integers(4, 9))
    return ModelSpec(
        name="any", num_layers=num_layers, num_moe_layers=draw(st.integers(1, num_layers)), d_model=1024,
        d_ff_expert=1024, d_ff_dense=2048, matrices_per_expert=draw(st.sampled_from([2, 3])), num_experts=16,
        num_shared_experts=draw(st.integers(0, 1)), top_k=draw(st.integers(1, 4)),
        attention=draw(st.sampled_from([grouped, latent])), num_mtp_layers=draw(st.integers(0, 2)),
        sequence_length=65536, vocab_size=8192, num_vocab_matrices=draw(st.integers(1, 2)),
    )  # fmt: skip


@st.composite
def jobs(draw, **fixed) -> StepInputs:
    """Draw a model on 64 GPUs of 8 to a node, and a layout that divides it."""
    sizes = st.sampled_from([1, 2, 4, 8])
    pipeline = draw(sizes)
    fields = {
        "tensor": draw(sizes), "pipeline": pipeline, "context": draw(st.sampled_from([1, 2])), "expert": draw(sizes),
        "expert_tensor": draw(st.sampled_from([1, 2])), "micro_batch": draw(st.sampled_from([1, 2])),
        "global_batch": 512, "virtual_stages": draw(st.sampled_from([1, 2])) if pipeline > 1 else 1,
        "sharding": draw(st.sampled_from(["none", "optimizer", "full"])), "routing": "consecutive",
        "dispatcher": draw(st.sampled_from(["all_gather", "all_to_all", "deepep"])),
    }  # fmt: skip
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {"global_batch": 512}, 64)
    try:
        parallel = override(ParallelSpec(global_batch=512), fields | fixed, "layout")
        return replace(inputs, model=draw(models()), parallel=parallel)
    except SpecError:
        assume(False)


def work_of_a_step(inputs: StepInputs) -> dict[str, float]:
    """Sum what all GPUs compute, in operations."""
    exposed = predict_step(counted(inputs)).exposed_s
    names = ("dense_matmul", "expert_matmul", "attention")
    return {name: exposed[name] * inputs.num_gpus / FLOP_S for name in names}


@settings(max_examples=60, deadline=None)
@given(jobs())
def test_gpus_together_compute_what_the_model_does_however_it_is_divided(inputs):
    model, tokens = inputs.model, 512 * inputs.model.sequence_length
    d_model, experts = model.d_model, (model.num_moe_layers + model.num_mtp_layers) * model.top_k
    attention = model.attention
    if attention.kind == "grouped":
        mixer = d_model * 128 * (2 * attention.num_heads + 2 * attention.num_kv_heads)
    else:
        queries = 256 * attention.num_heads
        mixer = 512 * (d_model + queries) if attention.query_rank else d_model * queries
        mixer += d_model * (256 + 128) + 256 * 256 * attention.num_heads + 128 * attention.num_heads * d_model
    shared = model.num_shared_experts * (model.num_moe_layers + model.num_mtp_layers)
    params = (
        mixer * (model.num_layers + model.num_mtp_layers)
        + model.matrices_per_expert * d_model * (2048 * (model.num_layers - model.num_moe_layers) + 1024 * shared)
        + (1 + model.num_mtp_layers) * 8192 * d_model + model.num_mtp_layers * 2 * d_model**2
    )  # fmt: skip
    work = work_of_a_step(inputs)
    # Forward, gradient of the input, gradient of the weight: 2 operations a parameter and token each.
    assert work["dense_matmul"] == pytest.approx(6 * tokens * params, rel=1e-6)
    assert work["expert_matmul"] == pytest.approx(
        6 * tokens * experts * model.matrices_per_expert * d_model * 1024, rel=1e-6
    )
    ratio = {"grouped": 2.9, "latent": 3.3}[attention.kind]
    layers = model.num_layers + model.num_mtp_layers
    # Tables of latent attention are of heads of 192 and 128; these have 256 and 128.
    wider = {"grouped": 1, "latent": 384 / 320}[attention.kind]
    scores = wider * 512 * attention.num_heads * model.sequence_length**2 * layers / 1.16
    assert work["attention"] == pytest.approx((1 + ratio) * scores, rel=1e-6)
    gates = (model.num_moe_layers + model.num_mtp_layers) * d_model * 16
    assert flop_per_token(inputs) == pytest.approx(
        6 * (params + gates + experts * model.matrices_per_expert * d_model * 1024)
        + 6 * model.score_dim * layers * model.sequence_length / 2
    )


@settings(max_examples=30, deadline=None)
@given(jobs(), st.sampled_from([(), ("attention_core",), ("dense_block",), ("latent_up",)]))
def test_recomputation_adds_the_forward_pass_of_what_runs_again(inputs, modules):
    once = work_of_a_step(inputs)
    fields = {"recompute": "selective", "recomputed": modules} if modules else {"recompute": "full"}
    again = work_of_a_step(replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, **fields)))
    model, attention = inputs.model, inputs.model.attention
    tokens = 512 * model.sequence_length
    layers = model.num_layers + model.num_mtp_layers
    backward = {"grouped": 2.9, "latent": 3.3}[attention.kind]
    if modules == ("attention_core",):
        assert again["attention"] == pytest.approx(once["attention"] * (2 + backward) / (1 + backward))
        assert again["dense_matmul"] == pytest.approx(once["dense_matmul"])
    elif modules == ("dense_block",):
        dense = (model.num_layers - model.num_moe_layers) * model.matrices_per_expert * 1024 * 2048
        assert again["dense_matmul"] - once["dense_matmul"] == pytest.approx(2 * tokens * dense, abs=1e9)
    elif modules == ("latent_up",):
        up = attention.num_heads * 256 * (256 + (attention.query_rank or 1024))
        up = up if attention.kind == "latent" else 0
        added = again["dense_matmul"] - once["dense_matmul"]
        assert added == pytest.approx(2 * tokens * layers * up, rel=1e-6, abs=1e9)
    else:
        # All but the head, and the projection that joins two tokens' vectors.
        ends = (1 + model.num_mtp_layers) * 8192 * 1024 + model.num_mtp_layers * 2 * 1024**2
        layer_work = once["dense_matmul"] / 3 - 2 * tokens * ends
        assert again["dense_matmul"] - once["dense_matmul"] == pytest.approx(layer_work, rel=1e-6)
        assert again["expert_matmul"] == pytest.approx(4 / 3 * once["expert_matmul"])


def further_copies(inputs: StepInputs) -> int:
    """Count the parts of a pipeline with further-token layers that have neither the embedding nor a tied head."""
    has = {"embedding", "head"} if inputs.model.num_vocab_matrices == 1 else {"embedding"}
    names = [{name for name, _ in part} for part in parts_of(inputs.model, inputs.parallel)]
    return sum("mtp" in some and not some & has for some in names) if inputs.parallel.schedule == "1f1b" else 0


@settings(max_examples=60, deadline=None)
@given(jobs())
def test_gpus_together_hold_each_parameter_as_often_as_the_layout_says(inputs):
    model, parallel = inputs.model, inputs.parallel
    stages = stage_parameters(part_parameters(model, parallel, parts_of(model, parallel)), parallel)
    layers = model.num_moe_layers + model.num_mtp_layers
    experts = layers * 16 * model.matrices_per_expert * 1024 * 1024
    assert sum(stage.expert for stage in stages) * parallel.expert * parallel.expert_tensor == pytest.approx(experts)
    # Tensor-parallel ranks each hold gates and projections to latent vectors; tied embeddings are on both ends of a
    # pipeline, and so are those of layers that predict further tokens. Parts of a stage each have a copy.
    attention = model.attention
    whole = layers * 1024 * 16
    if attention.kind == "latent":
        whole += (model.num_layers + model.num_mtp_layers) * 1024 * (256 + 128 + attention.query_rank)
    further = model.num_mtp_layers * (model.block_params["mtp"])
    copies = (model.num_vocab_matrices == 1 and parallel.pipeline > 1) + further_copies(inputs)
    total = model.dense_params + further + copies * 8192 * 1024 + (parallel.tensor - 1) * whole
    assert sum(stage.dense for stage in stages) * parallel.tensor == pytest.approx(total)


@settings(max_examples=30, deadline=None)
@given(jobs(schedule="dualpipe", virtual_stages=1, sharding="optimizer"))
def test_optimizer_states_exist_once_though_dualpipe_holds_parameters_twice(inputs):
    plain = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, schedule="1f1b"))
    owned = []
    for some in (plain, inputs):
        stages = stage_parameters(
            part_parameters(some.model, some.parallel, parts_of(some.model, some.parallel)), some.parallel
        )
        # DualPipe has both ends of the model on one GPU, and layers for further tokens need no copy of the embedding.
        copies = further_copies(some) * 8192 * 1024 / some.parallel.tensor / some.dense_copies
        owned.append(sum(held.dense / some.dense_copies + held.expert / some.expert_copies for held in stages) - copies)
    assert owned[1] == pytest.approx(owned[0])


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("pipeline", "virtual"), [(1, 1), *itertools.product((2, 4, 8), (1, 2, 4))])
def test_a_stage_keeps_the_activations_of_parts_on_their_way_back(pipeline, virtual, overlap):
    micro_batches = 4 * pipeline
    schedule = run_pipeline([PartTime(1.0, 1.0)] * (pipeline * virtual), pipeline, micro_batches, 0.0, overlap)
    for stage in range(pipeline):
        kept = most = 0
        for of_stage, kind, *_ in schedule.passes.order:
            if of_stage == stage:
                # What one pass makes the other frees, where both run at once.
                kept += sum({"F": 1, "B": -1}[half] for half, _ in schedule.passes.kinds[kind])
                most = max(most, kept)
        assert kept == 0
        assert most == warm_up_parts(stage, pipeline, virtual, overlap) + (not overlap)


@pytest.mark.parametrize(
    ("model", "tensor", "context", "numbers"),
    [
        # Before the scan gate and inputs of 64 heads of 64, 8 groups of 2 x 128 and 64 time steps, after it the heads.
        ("nemotron-3-nano", 1, 4, 3 * 64 * 64 + 2 * 8 * 128 + 64),
        # 16 ranks have half a group each, and so a copy of it.
        ("nemotron-3-nano", 4, 4, 3 * 64 * 64 + 2 * 16 * 128 + 64),
        # Heads of 32 values of 128 and 16 keys of 128, two numbers a head beside.
        ("qwen3-next-80b-a3b", 2, 8, 3 * 32 * 128 + 2 * 16 * 128 + 2 * 32),
    ],
)
def test_ranks_of_a_sequence_exchange_positions_for_heads_around_a_scan(model, tensor, context, numbers, monkeypatch):
    def moved(self, kernel, num_bytes, ranks, stride):
        # Any exchange takes as long as a MB more.
        return 1e6 + num_bytes * (1 - 1 / ranks)

    monkeypatch.setattr(StepInputs, "collective_s", moved)
    layout = {"global_batch": 64, "tensor": tensor, "context": context}
    block = blocks_of(load_inputs(model, "dgx-h100", None, layout, 64))["state_space"]
    for operations in (block.forward, block.backward):
        sent = sum(one.gpu_s for one in operations if one.part == "context_exchange")
        # Five exchanges before and one after. 4,096 tokens of 2 bytes for each number, which the ranks divide; a rank
        # keeps the share of its own heads.
        assert sent == pytest.approx(6e6 + 2 * numbers / tensor * 4096 / context * (1 - 1 / context))


def test_positions_that_go_for_heads_around_a_scan_are_copied():
    layout = {"global_batch": 64, "context": 4, "graphs": "full"}
    inputs = load_inputs("nemotron-3-nano", "dgx-h100", None, layout, 64)
    parts = 2 * 64 * 64 + 2 * 8 * 128 + 64
    with_copies = [
        sum(one.gpu_s for one in some if one.part == "memory") for some in blocks_of(inputs)["state_space"][:2]
    ]
    alone = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, context=1, tensor=4, expert=1))
    without = [sum(one.gpu_s for one in some if one.part == "memory") for some in blocks_of(alone)["state_space"][:2]]
    # Forward, gate and inputs, groups and time steps are cut by heads, joined and put in order, each read and written;
    # backward they are put back in order, cut, made contiguous and joined. The output is put in order and joined.
    moved = [12 * parts + 8 * 64 * 64, 16 * parts + 8 * 64 * 64]
    expected = [inputs.copy_s(each * 4096 / 4) for each in moved]
    assert np.subtract(with_copies, without) == pytest.approx(expected)


def test_ranks_of_a_sequence_have_whole_heads_of_a_scan():
    with pytest.raises(SpecError, match=r"tensor x context \(64\) must divide 32 state-space heads"):
        load_inputs("qwen3-next-80b-a3b", "dgx-h100", None, {"global_batch": 64, "tensor": 2, "context": 32}, 64)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("pipeline", "virtual", "rounds"), [(1, 1, 5), (3, 1, 4), (4, 2, 1), (4, 3, 4), (2, 5, 3)])
def test_a_stage_keeps_most_of_the_parts_that_wait_longest(pipeline, virtual, rounds, overlap):
    rng, total = np.random.default_rng(3), rounds * pipeline * virtual
    passes = interleaved_passes(pipeline, virtual, rounds * pipeline, overlap)
    for stage, _ in itertools.product(range(pipeline), range(9)):
        sizes = rng.integers(1, 9, virtual)
        kept = [0]
        for of_stage, kind, *_ in passes.order:
            if of_stage == stage:
                halves = passes.kinds[kind]
                kept.append(kept[-1] + sum({"F": 1, "B": -1}[half] * sizes[part // pipeline] for half, part in halves))
        in_flight = min(warm_up_parts(stage, pipeline, virtual, overlap) + (not overlap), total)
        assert max(kept) == max(kept_passes(pipeline, virtual, in_flight, total) @ sizes)


@pytest.mark.parametrize("pipeline", [2, 4, 8])
def test_a_stage_of_dualpipe_keeps_as_many_of_each_part_as_one_of_1f1b(pipeline):
    passes = dual_pipe_passes(pipeline, 2 * pipeline)
    for stage in range(pipeline):
        kept, most = {stage: 0, pipeline - 1 - stage: 0}, {}
        for of_stage, kind, *_ in passes.order:
            for half, part in passes.kinds[kind] if of_stage == stage else ():
                kept[part] += {"F": 1, "B": -1, "b": -1, "W": 0}[half]
                most[part] = max(most.get(part, 0), kept[part])
        assert most == {part: pipeline - part for part in kept}


def test_memory_of_dualpipe_counts_parts_by_their_distance_from_both_ends():
    # The second of four stages keeps 4 - 1 micro-batches of its part and 2 of the other: 45 and 1 layers, or 1 and 1.
    # Of eight stages, the second to the fourth have 5 and 9 layers: the fourth keeps most, 8 - 3 of its part and 4.
    layout = {"expert": 8, "global_batch": 128, "schedule": "dualpipe"}
    stages = {"Et|t*45|t|tL": 3 * 45 + 2, "Et|t|t*45|tL": 3 + 2 * 45, "Et*2|(t*5|)*3(t*9|)*3t*4L": 5 * 5 + 4 * 9}
    kept = []
    for text, num_layers in stages.items():
        pipeline = 8 if "9" in text else 4
        inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout | {"pipeline": pipeline, "stages": text}, 64)
        kept.append(memory_bytes(inputs)["activations"] / num_layers)
    assert kept == pytest.approx([kept[0]] * 3)


def test_passes_come_after_those_that_they_wait_for():
    sizes = [
        interleaved_passes(pipeline, virtual, rounds * pipeline + (virtual == 1) * more, overlap)
        for pipeline, virtual, rounds, more, overlap in itertools.product(
            (1, 2, 3, 8), (1, 2, 3), (1, 4), (0, 1), (0, 1)
        )
    ]
    sizes += [
        dual_pipe_passes(pipeline, pipeline + more) for pipeline, more in itertools.product((2, 6, 16), (0, 1, 9))
    ]
    for passes in sizes:
        numbers = [{first, second} for _, _, first, second in passes.order]
        made = set().union(*numbers)
        done = set()
        for halves in numbers:
            assert all(half - 1 in done or half - 1 not in made for half in halves)
            done |= halves
        assert len(made) == sum(count * len(passes.kinds[kind]) for kind, count in passes.counts.items())


def test_memory_is_that_of_the_stage_that_keeps_most():
    # 8 stages of 4 parts of a layer each; the first keeps 2 * 7 + 3 * 8 + 1 layers of a micro-batch, the last 3 * 8 + 1
    # and the logits, which are more. It sends each micro-batch back as soon as it went through the head.
    layout = {"pipeline": 8, "virtual_stages": 4, "expert": 8, "global_batch": 64, "stages": "Et|" + "t|" * 30 + "tL"}
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {"global_batch": 64}, 64)
    model = msgspec.structs.replace(inputs.model, num_layers=32, num_moe_layers=32)
    parallel = override(inputs.parallel, layout, "layout")
    memory = memory_bytes(replace(inputs, model=model, parallel=parallel))
    assert memory["logits"] == 6 * 151936 * 4096
    # Of a layer and token: two norms 4 d, queries and keys before their norm, queries, keys and values, output 2,
    # scores of 2 x 2 bytes, 8 experts of an input, 3 inner numbers; the head's norm 4 d.
    heads = 2 * (32 + 4) * 128 + 2 * (32 + 2 * 4) * 128 + 2 * 32 * 128
    layer = 2 * 4 * 2048 + heads + 4 * 128 + 8 * (2 * 2048 + 2 * 3 * 768)
    assert memory["activations"] == pytest.approx(4096 * (25 * layer + 4 * 2048))


@pytest.mark.parametrize(("tensor", "precision", "kept"), [(1, "bf16", 32), (4, "bf16", 32), (1, "fp8", 27)])
def test_a_dense_layer_keeps_the_activations_that_korthikanti_publishes(tensor, precision, kept):
    # arXiv 2205.05198, section 4.1 and equation 4: 34 s b h / t, less the two dropout masks of a byte, with the scores
    # on the chip. Under fp8 the operands of matmuls have a byte (6 h less), and that of the last one of attention is
    # kept beside the output of which it was made (1 h more).
    inputs = load_inputs("mixtral-8x7b", "dgx-h100", None, {"global_batch": 8}, 8)
    attention = msgspec.structs.replace(inputs.model.attention, num_kv_heads=32)
    layout = override(inputs.parallel, {"tensor": tensor, "expert": 8, "precision": precision}, "layout")
    memories = []
    for num_dense in (1, 2):
        model = msgspec.structs.replace(
            inputs.model, attention=attention, matrices_per_expert=2, d_ff_dense=4 * 4096, num_moe_layers=1,
            num_layers=1 + num_dense,
        )  # fmt: skip
        memories.append(memory_bytes(replace(inputs, model=model, parallel=layout))["activations"])
    assert memories[1] - memories[0] == pytest.approx(kept * 4096 * 4096 / tensor)


def test_full_recomputation_keeps_the_input_of_each_layer_and_makes_one_layer_again():
    memories = []
    for more in ({}, {"recompute": "full"}):
        inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {"global_batch": 64, "expert": 8, **more}, 8)
        # With so few words, logits are smaller than what the backward pass of a layer needs.
        memories.append(memory_bytes(replace(inputs, model=msgspec.structs.replace(inputs.model, vocab_size=1024))))
    plain, again = memories
    head, tokens = 4 * 2048 * 4096, 4096
    # arXiv 2205.05198, section 5: 2 bytes for each number of a layer's input.
    assert again["activations"] == pytest.approx(48 * 2 * 2048 * tokens + head)
    layer = (plain["activations"] - head) / 48
    assert again["backward"] - plain["backward"] == pytest.approx(layer - 2 * 2048 * tokens)


def test_two_passes_at_once_keep_no_more_than_one_without_a_pipeline():
    # A mxfp8 run of Megatron-Bridge 0.5 (Qwen3-30B-A3B on 8 B300, 8 sequences, both passes at once, nothing
    # recomputed) did fit.
    layout = {"global_batch": 512, "micro_batch": 8, "expert": 8, "precision": "mxfp8", "gradient_bytes": 2}
    one, both = (
        memory_bytes(load_inputs("qwen3-30b-a3b", "dgx-b300", None, {**layout, "overlap_expert": overlap}, 8))
        for overlap in (False, True)
    )
    assert both["activations"] == one["activations"]
    assert sum(both.values()) < load_spec(GpuSpec, "b300").memory_bytes


def test_padded_experts_keep_their_padding():
    inputs = [
        load_inputs("qwen3-30b-a3b", "dgx-h100", None, {"global_batch": 64, "expert": 8, **more}, 8)
        for more in ({}, {"capacity_factor": 1.5, "pad_to_capacity": True})
    ]
    plain, padded = (memory_bytes(some)["activations"] for some in inputs)
    # 8 experts of a token keep an input and 3 inner numbers of 2 bytes; half as many more.
    assert padded - plain == pytest.approx(0.5 * 48 * 4096 * 8 * 2 * (2048 + 3 * 768))


@pytest.mark.parametrize(
    ("ranks", "groups", "chosen"),
    [(2, 8, 4), (4, 8, 4), (8, 8, 4), (16, 8, 4), (32, 8, 4), (64, 8, 4), (256, 8, 4), (64, 8, 3), (8, 1, 1)],
)
def test_tokens_of_chosen_groups_go_to_as_many_ranks_as_drawn_ones(ranks, groups, chosen):
    # Gates of DeepSeek-V3: the groups with the highest sums of two scores, then the highest scores in these.
    scores = np.random.default_rng(0).lognormal(size=(20000, groups, 256 // groups))
    sums = np.sort(scores, axis=2)[:, :, -2:].sum(axis=2)
    in_group = sums >= np.sort(sums, axis=1)[:, -chosen][:, None]
    tops = np.argsort(-(scores * in_group[:, :, None]).reshape(len(scores), -1), axis=1)[:, :8]
    drawn = np.mean([len(set(top)) for top in tops // (256 // ranks)])
    assert distinct_ranks(8, 256, ranks, groups, chosen) == pytest.approx(drawn, rel=0.007)


def experts_of(expert_tensor: int, cluster: ClusterSpec, dispatcher: str) -> StepInputs:
    # With fewer multiprocessors, DeepEP takes longer inside a node than its copies between two.
    layout = {"global_batch": 64, "expert": 8, "expert_tensor": expert_tensor, "exchange_multiprocessors": 24}
    layout |= {"dispatcher": dispatcher}
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {**layout, "routing": "consecutive"}, 64)
    return replace(inputs, cluster=cluster)


@pytest.mark.parametrize("dispatcher", ["all_gather", "all_to_all", "deepep"])
def test_gpus_that_share_experts_leave_fewer_of_them_in_a_domain(dispatcher):
    cluster = load_inputs("qwen3-30b-a3b", "dgx-h100", None, None, 64).cluster
    halves = msgspec.structs.replace(cluster, gpus_per_domain=4)
    # 8 ranks of 2 neighbours each lie over two nodes, as 8 ranks over two domains of 4 GPUs do.
    shared, plain = exchange_s(experts_of(2, cluster, dispatcher)), exchange_s(experts_of(1, halves, dispatcher))
    assert shared == pytest.approx(plain)
    assert shared > exchange_s(experts_of(1, cluster, dispatcher))


@pytest.mark.parametrize(("expert", "expert_tensor"), [(8, 1), (4, 2), (16, 1), (8, 2), (4, 8), (2, 16), (1, 8)])
@pytest.mark.parametrize("dispatcher", ["all_gather", "all_to_all", "deepep"])
def test_a_gpu_sends_as_many_copies_as_drawn_tokens_have(expert, expert_tensor, dispatcher, monkeypatch):
    layout = {"global_batch": 64, "expert": expert, "expert_tensor": expert_tensor, "dispatcher": dispatcher}
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout, 64)
    gpus, token = np.arange(expert * expert_tensor), 2 * 2048
    # Experts of 3,000 tokens of each GPU by chance; GPUs of a node are neighbours, as are those that share matrices.
    shape = len(gpus), 3000, 128
    ranks = np.argsort(np.random.default_rng(3).random(shape), axis=-1)[..., :8] // (128 // expert)
    wanted = (ranks[..., None] == np.arange(expert)).sum(axis=2)
    copies = np.repeat(wanted if dispatcher == "all_to_all" else wanted > 0, expert_tensor, axis=-1)
    if dispatcher == "all_gather":
        copies = np.ones_like(copies)
    if dispatcher == "all_to_all":
        # It sends to the GPU with the same part of a matrix, which shares with its neighbours.
        copies = copies * (gpus % expert_tensor == (gpus % expert_tensor)[:, None])[:, None]
    here = gpus // 8 == (gpus // 8)[:, None]
    if dispatcher == "all_to_all":
        inside = (copies * (here & (gpus != gpus[:, None]))[:, None]).sum(axis=-1).mean()
        across = (copies * ~here[:, None]).sum(axis=-1).mean()
    else:
        # One copy crosses to each node, to the GPU of the same place in it, which sends it on.
        nodes = copies.reshape(*copies.shape[:2], -1, min(8, len(gpus))).any(axis=-1)
        across = (nodes.sum(axis=-1) - nodes[gpus, :, gpus // 8]).mean()
        inside = (copies * (gpus % 8 != (gpus % 8)[:, None])[:, None]).sum(axis=-1).mean()

    sent = {"inside": 0.0, "across": 0.0}

    def within_s(_self: object, _kernel: str, num_bytes: float, num_ranks: int) -> float:
        sent["inside"] += num_bytes * (1 - 1 / num_ranks)
        return 0.0

    def sent_s(_self: object, tokens: float, token_bytes: float, _multiprocessors: float) -> float:
        sent["inside"] += tokens * token_bytes
        return 0.0

    def across_s(_self: object, _curve: object, num_bytes: float, _share: float) -> float:
        sent["across"] += num_bytes
        return 0.0

    monkeypatch.setattr(KernelTables, "collective_s", within_s)
    monkeypatch.setattr(KernelTables, "sent_s", sent_s)
    monkeypatch.setattr(StepInputs, "across_s", across_s)
    monkeypatch.setattr(StepInputs, "link_stretch", 1.0)
    exchange_s(inputs)
    per_token = np.divide(list(sent.values()), token * inputs.own_tokens)
    assert per_token == pytest.approx([inside, across], rel=0.01, abs=1e-9)


def test_an_all_gather_brings_choices_and_probabilities(monkeypatch):
    layout = {"global_batch": 64, "expert": 4, "expert_tensor": 2, "dispatcher": "all_gather"}
    inputs, sizes = load_inputs("mixtral-8x7b", "dgx-h100", None, layout, 64), []
    monkeypatch.setattr(StepInputs, "collective_s", lambda *some: sizes.append(some[2:4]) or 0.0)
    blocks_of(inputs)
    # Each of 8 GPUs has all tokens of all: 2 bytes of 4,096 numbers, and 1 and 2 bytes of 8 experts; backward gradients
    # and those of the probabilities; sums, and their gradients.
    bytes_of_token = [2 * 4096 + 3 * 8, 2 * 4096 + 2 * 8, 2 * 4096, 2 * 4096]
    assert sizes == [(pytest.approx(8 * inputs.own_tokens * each), 8) for each in bytes_of_token]


def test_expert_parallel_ranks_are_neighbours_whatever_the_tensor_parallelism():
    # tp-cp-ep-dp-pp of NVIDIA/Megatron-LM, where experts have a tensor parallelism of their own: 8 ranks in a node.
    def choices_s(tensor: int) -> float:
        layout = {"global_batch": 64, "expert": 8, "tensor": tensor, "micro_batch": tensor, "dispatcher": "hybridep"}
        forward = blocks_of(load_inputs("qwen3-30b-a3b", "dgx-b200", None, layout, 64))["moe"].forward
        dispatch_s, combine_s = [one.gpu_s for one in forward if one.part == "expert_exchange"]
        return dispatch_s - combine_s

    assert choices_s(2) == pytest.approx(choices_s(1), rel=1e-3)


def test_tensor_parallel_ranks_exchange_what_each_block_needs():
    inputs = load_inputs("deepseek-v3", "dgx-h100", None, {"global_batch": 64, "tensor": 8, "expert": 8}, 64)
    inputs = replace(inputs, model=msgspec.structs.replace(inputs.model, num_mtp_layers=1))
    d_model, blocks = 7168, blocks_of(inputs)

    def gather_s(width: int) -> float:
        return inputs.collective_s("all_gather", 2 * width * 4096, 8, 1)

    def scatter_s(width: int) -> float:
        return inputs.collective_s("reduce_scatter", 2 * width * 4096, 8, 1)

    # What is gathered before a block, and scattered after it. Latent vectors of queries (1536), of keys and values
    # (512) and rotary keys (64) are made before the gather.
    expected = {
        "attention": [(1536 + 512 + 64, d_model)],
        "dense": [(d_model, d_model)],
        "moe": [(d_model, d_model)],  # the shared expert
        "embedding": [(0, d_model)],
        "head": [(d_model, 0)],
    }
    expected["mtp"] = [(2 * d_model, d_model)]
    expected["mtp"] += [pair for name in ("embedding", "attention", "moe", "head") for pair in expected[name]]
    for name, pairs in expected.items():
        forward_s = sum(gather_s(before) + scatter_s(after) for before, after in pairs)
        # The gradient of a sum that was scattered is gathered, and that of what was gathered is summed and scattered.
        backward_s = sum(gather_s(after) + gather_s(before) + scatter_s(before) for before, after in pairs)
        for operations, seconds in ((blocks[name].forward, forward_s), (blocks[name].backward, backward_s)):
            found = sum(one.gpu_s for one in operations if one.part == "tensor_exchange")
            assert found == pytest.approx(seconds), name


def test_ranks_that_share_a_key_value_head_gather_the_projection_and_hold_copies_of_the_head():
    def attention_of(kv_heads: int, tensor: int = 8) -> tuple[StepInputs, Item]:
        inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {"global_batch": 64, "tensor": tensor, "expert": 8}, 64)
        heads = msgspec.structs.replace(inputs.model.attention, num_kv_heads=kv_heads)
        inputs = replace(inputs, model=msgspec.structs.replace(inputs.model, attention=heads))
        return inputs, blocks_of(inputs)["attention"]

    inputs, shared = attention_of(4)
    # 32 heads of queries, 4 of keys, 4 of values, 128 numbers of 2 bytes each, of 4,096 tokens.
    gathered_s = inputs.collective_s("all_gather", 2 * (32 + 4 + 4) * 128 * 4096, 8, 1)
    own_inputs, own = attention_of(8)
    for way in ("forward", "backward"):
        exchanged_s, own_s = (
            sum(one.gpu_s for one in getattr(block, way) if one.part == "tensor_exchange") for block in (shared, own)
        )
        assert exchanged_s - own_s == pytest.approx(gathered_s)
        cores = [[one.gpu_s for one in getattr(block, way) if one.part == "attention"] for block in (shared, own)]
        assert cores[0] == cores[1]
    # Copies of heads are kept; parameters are those of the four heads.
    kept, own_kept = memory_bytes(inputs), memory_bytes(own_inputs)
    assert kept["activations"] == own_kept["activations"]
    assert kept["parameters"] < own_kept["parameters"]


def test_tensor_parallelism_that_neither_divides_nor_multiplies_key_value_heads_is_refused():
    # GPT-OSS has 64 heads, 8 of keys and values: 16 ranks share them in pairs.
    load_inputs("gpt-oss-20b", "dgx-h100", None, {"global_batch": 64, "tensor": 16}, 64)
    inputs = load_inputs("gpt-oss-20b", "dgx-h100", None, {"global_batch": 64, "tensor": 4}, 64)
    heads = msgspec.structs.replace(inputs.model.attention, num_kv_heads=6)
    with pytest.raises(SpecError, match=r"tensor \(4\) must divide 6 key-value heads, or be a multiple of them"):
        replace(inputs, model=msgspec.structs.replace(inputs.model, attention=heads))


@pytest.mark.parametrize(
    ("model", "fields", "told"),
    [
        # 32 heads go to 32 ranks at most; ring attention divides positions, and has no such limit.
        (
            "mixtral-8x7b", {"tensor": 8, "context": 8, "context_exchange": "all_to_all"},
            "tensor x context (64) must divide 32 attention heads where context_exchange is 'all_to_all'",
        ),
        ("olmoe-1b-7b", {"expert_tensor": 3}, "expert_tensor (3) must divide the 1024 columns of an expert"),
    ],
)  # fmt: skip
def test_heads_and_experts_that_ranks_cannot_divide_are_refused(model, fields, told):
    with pytest.raises(SpecError, match=re.escape(told)):
        load_inputs(model, "gb200-nvl72", None, {"global_batch": 576, **fields}, 576)


def test_a_ring_may_have_more_ranks_than_heads():
    load_inputs("mixtral-8x7b", "gb200-nvl72", None, {"global_batch": 576, "tensor": 8, "context": 8}, 576)


@pytest.mark.parametrize(
    ("cluster", "expert", "is_told"),
    # 16 ranks fill racks of 72 to 64, 8 fill them; one rack, or a server of eight, has no other to cross into.
    [("gb200x36", 16, True), ("gb200x36", 8, False), ("gb200x16", 16, False), ("h100x16", 8, False)],
)
def test_groups_of_experts_that_do_not_fill_a_domain_are_told(cluster, expert, is_told):
    layout = {"global_batch": 1152 if cluster == "gb200x36" else 1024, "expert": expert}
    notes = predict_layout(load_inputs("qwen3-30b-a3b", cluster, None, layout), False).notes
    assert any("are taken to be in one domain of 72, whose other 8 are no part" in note for note in notes) == is_told


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("graphs", ["none", "partial", "full"])
@pytest.mark.parametrize("sharding", ["optimizer", "full"])
def test_slower_kernels_and_hosts_never_shorten_a_step(sharding, graphs, micro_batch):
    layout = {
        "tensor": 2, "expert": 2, "micro_batch": micro_batch, "global_batch": 512, "sharding": sharding,
        "graphs": graphs, "dispatcher": "deepep", "overlap_expert": True,
    }  # fmt: skip
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout, 64)
    slower = [
        replace(inputs, constants=msgspec.structs.replace(inputs.constants, slowest_gpu_rate=0.8)),
        replace(inputs, cluster=override(inputs.cluster, {"host.clock_hz": "x0.7"}, "cluster")),
    ]
    step_s = predict_step(inputs).step_s
    assert all(predict_step(one).step_s >= step_s for one in slower)


@settings(max_examples=25, deadline=None)
@given(jobs(), st.sampled_from(["none", "partial", "full"]), st.booleans())
def test_faster_hardware_never_lengthens_a_step_and_more_replicas_add_exchange_alone(inputs, graphs, overlap):
    parallel = msgspec.structs.replace(inputs.parallel, graphs=graphs, overlap_expert=overlap)
    inputs = replace(inputs, parallel=parallel)
    step, cluster = predict_step(inputs), inputs.cluster
    assert 0 < step.mfu < 1
    assert min(*step.exposed_s.values(), *step.hidden_s.values()) >= -1e-9 * step.step_s
    faster = [
        replace(inputs, cluster=override(cluster, {"network.nic_bytes_per_s": "x2"}, "cluster")),
        replace(inputs, cluster=override(cluster, {"host.clock_hz": "x1.5"}, "cluster")),
        replace(inputs, gpu=override(inputs.gpu, {"memory_bytes_per_s": "x1.5"}, "gpu")),
        replace(inputs, tables=inputs.tables.faster(1.5)),
    ]
    assert all(predict_step(one).step_s <= (1 + 1e-9) * step.step_s for one in faster)
    full = replace(inputs, parallel=msgspec.structs.replace(parallel, graphs="full"))
    assert predict_step(full).step_s <= (1 + 1e-9) * step.step_s
    more = predict_step(
        replace(
            inputs, cluster=override(cluster, {"num_nodes": 2 * cluster.num_nodes}, "cluster"),
            parallel=msgspec.structs.replace(parallel, global_batch=2 * parallel.global_batch),
        )
    )  # fmt: skip
    for name in step.exposed_s.keys() - {"gradient_exchange", "overlap_slowdown", "optimizer"}:
        assert more.exposed_s[name] == pytest.approx(step.exposed_s[name], rel=1e-6, abs=1e-9 * step.step_s), name
    assert more.exposed_s["optimizer"] <= (1 + 1e-9) * step.exposed_s["optimizer"]


@settings(max_examples=25, deadline=None)
@given(jobs(graphs="full", overlap_expert=True, offloaded=["expert_input", "expert_activation"]), st.floats(0.01, 1))
def test_two_passes_at_once_take_no_less_than_what_goes_to_the_host_and_no_more_than_both_alone(inputs, link):
    cluster = override(inputs.cluster, {"host.link_bytes_per_s": f"x{link}"}, "cluster")
    faster = override(cluster, {"network.nic_bytes_per_s": "x2"}, "cluster")
    slow, fast = (StepModel(replace(inputs, cluster=one)).layers for one in (cluster, faster))
    model, parallel = inputs.model, inputs.parallel
    # Of each expert of a token, its input on all that share it, and what goes into its activation: 16 bits each way.
    width = model.d_model * parallel.expert_tensor + (model.matrices_per_expert - 1) * model.d_ff_expert
    moved_s = 2 * 2 * model.top_k * inputs.own_tokens * width / cluster.host.link_bytes_per_s
    for name, layer in slow.items():
        if layer.pair is None:
            continue
        assert moved_s <= (1 + 1e-9) * layer.pair.total_s
        assert fast[name].pair.total_s <= (1 + 1e-9) * layer.pair.total_s
        assert layer.pair.total_s <= (1 + 1e-9) * (layer.forward_s + layer.backward_s)
    step = predict_step(replace(inputs, cluster=cluster))
    layers = model.num_moe_layers + model.num_mtp_layers
    all_s = layers * moved_s * inputs.num_micro_batches / parallel.pipeline
    assert step.exposed_s["offload"] + step.hidden_s["offload"] == pytest.approx(all_s, rel=1e-3)


CHANGES_THAT_ADD_WORK = {
    "full recomputation": {"recompute": "full"},
    "some recomputation": {"recompute": "selective", "recomputed": ["norm", "expert_activation"]},
    "a gate that learns": {"routing": "learned"},
    "gradients that wait": {"overlap_gradients": False},
    "parameters that wait": {"overlap_parameters": False},
    "twice the batch": {"global_batch": 4096},
    "longer sequences of as many tokens": {"sequence_length": 8192, "micro_batch": 2, "global_batch": 1024},
}
CHANGES_THAT_SPARE_WORK = {
    "a graph of everything": {"graphs": "full"},
    "overlapping tensor parallelism": {"overlap_tensor": True},
    "half the batch": {"global_batch": 1024},
}
CHANGES_THAT_SPARE_MEMORY = {
    "full recomputation": {"recompute": "full"},
    "some recomputation": {"recompute": "selective", "recomputed": ["norm", "expert_activation"]},
    "sharded parameters": {"sharding": "full"},
    "shared sequences": {"context": 2},
    "smaller micro-batches": {"micro_batch": 2},
    "experts on more ranks": {"expert": 16},
}
PUBLISHED = [
    "mixtral-8x7b", "mixtral-8x22b", "deepseek-v2-lite", "deepseek-v3", "kimi-k2", "qwen3-30b-a3b", "qwen3-235b-a22b",
    "gpt-oss-120b", "glm-4.5", "llama4-scout", "llama4-maverick", "nemotron-3-nano", "nemotron-3-super", "olmoe-1b-7b",
    "grok1-314b", "skywork-moe-146b",
]  # fmt: skip


@pytest.mark.parametrize("cluster", ["dgx-a100-80g", "dgx-h100", "dgx-b200", "gb200-nvl72"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_work_takes_time_and_what_is_kept_takes_memory_in_every_published_model(name, cluster):
    layouts = [
        {"graphs": "partial", "expert": 8},
        {"graphs": "none", "expert": 8, "tensor": 2, "pipeline": 2, "dispatcher": "deepep"},
        {"graphs": "partial", "expert": 8, "pipeline": 4, "overlap_expert": True},
    ]
    for layout in layouts:
        given = {"micro_batch": 4, "global_batch": 2048, "sequence_length": 4096, **layout}

        def step(change, given=given):
            inputs = load_inputs(name, cluster, None, given | change, 128)
            return predict_step(inputs), math.fsum(memory_bytes(inputs).values())

        try:
            plain, plain_bytes = step({})
        except SpecError:
            continue  # the model does not have as many experts or layers, or the GPU was not measured with it
        assert 0.02 < plain.mfu < 0.75
        for change, fields in CHANGES_THAT_ADD_WORK.items():
            assert step(fields)[0].step_s >= (1 - 1e-9) * plain.step_s, change
        for change, fields in CHANGES_THAT_SPARE_WORK.items():
            assert step(fields)[0].step_s <= (1 + 1e-9) * plain.step_s, change
        for change, fields in CHANGES_THAT_SPARE_MEMORY.items():
            with contextlib.suppress(SpecError):
                assert step(fields)[1] <= plain_bytes, change


@pytest.mark.parametrize(("pipeline", "grows"), [(1, 2.0), (4, 1.0)])
def test_stages_gather_sharded_parameters_once_a_step(pipeline, grows):
    # ``torch.distributed.pipelining`` keeps them gathered, and gradients whole, until the last micro-batch.
    layout = {"pipeline": pipeline, "expert": 8, "sharding": "full"}
    steps = [
        predict_step(load_inputs("qwen3-30b-a3b", "dgx-h100", None, {**layout, "global_batch": batch}, 64))
        for batch in (512, 1024)
    ]
    moved = [step.exposed_s["gradient_exchange"] + step.hidden_s["gradient_exchange"] for step in steps]
    assert moved[1] / moved[0] == pytest.approx(grows)
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {**layout, "global_batch": 512}, 64)
    parts = part_parameters(inputs.model, inputs.parallel, parts_of(inputs.model, inputs.parallel))
    held = max(sum(stage) for stage in stage_parameters(parts, inputs.parallel))
    parameters = memory_bytes(inputs)["parameters"]
    assert parameters == pytest.approx(2 * held) if pipeline > 1 else parameters < held


def test_sharded_parameters_are_whole_two_layers_at_a_time():
    # ``fully_shard`` of PyTorch 2.13 gathers a layer ahead. Each GPU has its share of weights and gradients in fp32;
    # those of a layer are whole in 16 bits, and those of another in fp32 until they are scattered.
    layout = {"global_batch": 256, "sharding": "full"}
    memory = memory_bytes(load_inputs("mixtral-8x22b", "dgx-h100", None, layout, 128))
    layer = 8 * 3 * 6144 * 16384 + 8 * 6144 + (48 + 2 * 8) * 128 * 6144 + 48 * 128 * 6144
    share = (56 * layer + 2 * 32000 * 6144) / 128
    assert memory["parameters"] == pytest.approx(2 * 2 * layer)
    assert memory["gradients"] == pytest.approx(4 * share + (2 + 4) * layer)
    assert memory["optimizer"] == pytest.approx(12 * share)
    # With moments in 16 bits, a weight is a parameter of 16 bits and as many others, which each GPU has of its share.
    halved = memory_bytes(load_inputs("mixtral-8x22b", "dgx-h100", None, {**layout, "moment_bytes": 2}, 128))
    assert halved["parameters"] == pytest.approx(2 * 2 * layer + 2 * share)
    assert halved["optimizer"] == pytest.approx((2 + 2 + 2) * share)


def test_parameters_that_are_not_freed_are_whole_when_the_backward_pass_begins():
    # The last layer but one goes backward with all before it whole, and the embedding, beside gradients of the last.
    layout = {"global_batch": 256, "sharding": "full", "reshard_after_forward": False}
    memory = memory_bytes(load_inputs("mixtral-8x22b", "dgx-h100", None, layout, 128))
    layer = 8 * 3 * 6144 * 16384 + 8 * 6144 + (48 + 2 * 8) * 128 * 6144 + 48 * 128 * 6144
    words = 32000 * 6144
    assert memory["parameters"] == pytest.approx(2 * (55 * layer + words))
    assert memory["gradients"] == pytest.approx(4 * (56 * layer + 2 * words) / 128 + (2 + 4) * layer)
    with_replicas = load_inputs("mixtral-8x22b", "dgx-h100", None, {**layout, "data_replicate": 16}, 128)
    assert memory_bytes(with_replicas)["optimizer"] == pytest.approx(12 * (56 * layer + 2 * words) / 8)


def test_states_of_two_bytes_are_parameters_gradients_and_moments_in_16_bits():
    layout = {"global_batch": 256, "sharding": "full", "expert": 8, "state_bytes": 2}
    inputs = load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout, 8)
    memory, share = memory_bytes(inputs), inputs.model.total_params / 8
    experts, dense = 128 * 3 * 2048 * 768 / 8, (2 * 32 + 2 * 4) * 128 * 2048 + 128 * 2048
    # Most is whole in the last layer, with the gradients of the head. Experts of one GPU alone are not gathered ahead.
    assert memory["parameters"] == pytest.approx(2 * (share + experts + 2 * dense))
    assert memory["gradients"] == pytest.approx(2 * share + 2 * (experts + dense) + 4 * 151936 * 2048)
    assert memory["optimizer"] == pytest.approx(4 * share)
    full = load_inputs("qwen3-30b-a3b", "dgx-h100", None, {**layout, "state_bytes": 4}, 8)
    # Adam reads and writes 34 bytes of a parameter with states in fp32: half of all but the parameter of 16 bits.
    ratio = predict_step(inputs).exposed_s["optimizer"] / predict_step(full).exposed_s["optimizer"]
    assert ratio == pytest.approx(16 / 34)


def test_dualpipe_sums_the_gradients_of_two_stages():
    def moved_s(schedule: str) -> float:
        layout = {"pipeline": 4, "expert": 8, "global_batch": 512, "schedule": schedule, "overlap_gradients": False}
        step = predict_step(load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout, 128))
        return step.exposed_s["gradient_exchange"] + step.hidden_s["gradient_exchange"]

    # Twice the parameters; of eight domains instead of four, 7/8 of them come from others instead of 3/4.
    assert moved_s("dualpipe") / moved_s("1f1b") == pytest.approx(2 * (7 / 8) / (3 / 4), rel=0.1)


@pytest.mark.parametrize("micro_batches", [2, 9])
def test_dualpipe_refuses_micro_batches_that_it_cannot_run(micro_batches):
    layout = {"pipeline": 4, "schedule": "dualpipe", "expert": 4, "global_batch": 4 * micro_batches}
    with pytest.raises(SpecError, match=f"even number of micro-batches, 8 or more, and not {micro_batches}"):
        load_inputs("qwen3-30b-a3b", "dgx-h100", None, layout, 16)


@pytest.mark.parametrize("dispatcher", ["deepep", "hybridep"])
def test_a_dispatcher_that_was_not_measured_is_refused_in_a_line(dispatcher):
    with pytest.raises(SpecError, match="no times of exchange_deepep in the tables of a100"):
        predict_step(
            load_inputs(
                "olmoe-1b-7b", "dgx-a100-80g", None, {"global_batch": 64, "expert": 8, "dispatcher": dispatcher}, 8
            )
        )


@pytest.mark.parametrize(
    "given",
    [
        {"schedule": "dualpipe", "pipeline": 2, "global_batch": 32},
        {"recompute": "full", "recompute_stops_early": True, "expert_tensor": 2, "global_batch": 8},
        {"overlap_expert": True, "graphs": "partial", "global_batch": 16},
    ],
)
def test_the_search_finds_what_trying_all_finds_under_the_settings_given(given):
    inputs = load_inputs("olmoe-1b-7b", "dgx-h100", None, given, 4)
    found = search_layouts(inputs)
    best, valid, times = found.candidates[0], 0, []
    sizes, few = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8)
    recomputed = {"none": [], "selective": ["norm", "expert_activation"], "full": []}
    for tensor, pipeline, virtual, expert, micro_batch, recompute in itertools.product(
        (1, 2, 4), (1, 2, 4), few, sizes[:3], few, recomputed
    ):
        layout = {
            "tensor": tensor, "pipeline": pipeline, "virtual_stages": virtual, "expert": expert,
            "micro_batch": micro_batch, "recompute": recompute, "recomputed": recomputed[recompute],
            "recompute_stops_early": recompute == "full" and "recompute_stops_early" in given,
        }  # fmt: skip
        try:
            tried = replace(inputs, parallel=override(inputs.parallel, layout, "layout"))
        except SpecError:
            continue
        if given.get("graphs") and (recompute == "full" or (expert > 1 and pipeline > 1 and virtual == 1)):
            continue  # assertions of NVIDIA/Megatron-LM 0.16
        valid += 1
        if sum(memory_bytes(tried).values()) <= 0.92 * tried.gpu.memory_bytes:
            times.append(predict_step(tried).step_s)
    assert (found.num_valid, found.num_fitting) == (valid, len(times))
    assert best.time.step_s == min(times)
    # The layout found can be given.
    again = replace(inputs, parallel=msgspec.convert(msgspec.to_builtins(best.parallel), ParallelSpec))
    assert predict_step(again).step_s == best.time.step_s


def simulated_s(times: list[PartTime], pipeline: int, micro_batches: int, transfer_s: float, overlap: bool) -> float:
    """Run passes event by event in the order of NVIDIA/Megatron-LM."""
    num_parts, virtual = len(times), len(times) // pipeline
    parts = [divmod(number, pipeline * virtual) for number in range(micro_batches * virtual)]
    forward = [(rest // pipeline, group * pipeline + rest % pipeline) for group, rest in parts]
    backward = [(virtual - 1 - chunk, micro_batch) for chunk, micro_batch in forward]
    queues = []
    for stage in range(pipeline):
        doubled = virtual > 1 or overlap
        warm_up = (pipeline - stage - 1) * (1 + doubled) + (virtual - 1) * pipeline + overlap
        warm_up = min(warm_up, len(parts))
        queue = [[("F", *one)] for one in forward[:warm_up]]
        for one, other in zip(forward[warm_up:], backward[: len(parts) - warm_up], strict=True):
            both = [("F", *one), ("B", *other)]
            queue += [both] if overlap else [[one] for one in both]
        queues.append(queue + [[("B", *one)] for one in backward[len(parts) - warm_up :]])
    done, clock = {}, [0.0] * pipeline
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue:
                begun, lasts, saves = clock[stage], 0.0, []
                for kind, chunk, micro_batch in queue[0]:
                    part = chunk * pipeline + stage
                    before = part - 1 if kind == "F" else part + 1
                    if 0 <= before < num_parts:
                        begun = max(begun, done.get((kind, before, micro_batch), math.inf) + transfer_s)
                    lasts += times[part].forward_s if kind == "F" else times[part].backward_s
                    saves.append(times[part].saved_s)
                if begun == math.inf:
                    break
                clock[stage] = begun + lasts
                if len(saves) == 2 and saves[0] * saves[1] > 0:
                    # As many layers meet as the part with fewer has, whether they save or lose.
                    clock[stage] -= min(saves, key=abs)
                for kind, chunk, micro_batch in queue.pop(0):
                    done[kind, chunk * pipeline + stage, micro_batch] = clock[stage]
    return max(clock)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(1, 1), (2, 1), (2, 3), (4, 1), (4, 2), (4, 4)]), st.integers(1, 14), st.booleans(), st.data())
def test_interleaved_and_overlapped_passes_take_what_an_event_simulation_takes(stages, rounds, overlap, data):
    pipeline, virtual = stages
    scales = [data.draw(st.floats(0.5, 2)) for _ in range(pipeline * virtual)]
    saved = data.draw(st.sampled_from([0.3, -0.3]))
    times = [PartTime(scale, 2 * scale, saved * overlap * scale) for scale in scales]
    expected = simulated_s(times, pipeline, rounds * pipeline, 0.02, overlap)
    found = run_pipeline(times, pipeline, rounds * pipeline, 0.02, overlap).total_s
    assert found == pytest.approx(expected, rel=1e-9 if rounds <= 4 else 0.03)


@pytest.mark.parametrize(
    ("name", "fewer", "message"),
    [
        ("gpt-oss-20b", {"num_layers": 6, "num_moe_layers": 6}, r"num_window_layers \(12\) exceeds num_layers \(6\)"),
        ("nemotron-3-nano", {"num_moe_layers": 20}, "are 49 together, and num_layers 52"),
    ],
)
def test_a_model_whose_kinds_of_layers_are_others_than_its_layers_is_refused(name, fewer, message):
    # Windows of 12 layers made a model of 6 layers one of 12.
    inputs = load_inputs(name, "dgx-h100", None, {"global_batch": 64}, 8)
    with pytest.raises(SpecError, match=message):
        replace(inputs, model=msgspec.structs.replace(inputs.model, **fewer))
