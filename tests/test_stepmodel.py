"""The step of a layout, against closed forms, brute force and published figures."""

import contextlib
import itertools
import math
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.errors import SpecError
from lazsim.specs import ClusterSpec, ModelSpec, ParallelSpec, catalog_names, load_spec
from lazsim.specs.overrides import override
from lazsim.stepmodel.attention import attention_items, state_space_items
from lazsim.stepmodel.blocks import blocks_of
from lazsim.stepmodel.exchange import exchange_of, exchanges_of_step, orthogonal_s, updated_bytes
from lazsim.stepmodel.experts import (
    chance_imbalance,
    consecutive_ranks,
    distinct_ranks,
    exchange_s,
    imbalance,
    routed_tokens,
)
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.layers import MOST_REPEATS, PairTime, layer_time
from lazsim.stepmodel.loading import load_constants, load_inputs
from lazsim.stepmodel.memory import StageParameters, memory_bytes
from lazsim.stepmodel.operations import Item, Operation, Queues, play
from lazsim.stepmodel.passes import dual_pipe_passes
from lazsim.stepmodel.pipeline import PartTime, layers_of, parts_of, run_dual_pipe, run_pipeline, stage_of
from lazsim.stepmodel.predict import StepModel, flop_per_token, predict_step
from lazsim.stepmodel.remarks import kernel_remarks
from lazsim.stepmodel.search import USABLE_SHARE, fastest, layouts_tried, search_layouts
from lazsim.stepmodel.tables import KernelGrid, KernelTables, load_tables, parse_tables


def inputs_of(model: str = "qwen3-30b-a3b", cluster: str = "dgx-h100", gpus: int = 16, **layout) -> StepInputs:
    return load_inputs(model, cluster, None, {"global_batch": 256, "expert": 8} | layout, gpus)


@given(st.lists(st.floats(1, 1e4), min_size=2, max_size=6, unique=True), st.data())
def test_a_grid_gives_its_own_points_and_stays_between_neighbours(axis, data):
    axis = sorted(axis)
    times = [1e-6 * (index + 1) for index in range(len(axis))]
    grid = KernelGrid((axis,), times)
    for size, time_s in zip(axis, times, strict=True):
        assert grid.time_s(size) == pytest.approx(time_s)
    low = data.draw(st.integers(0, len(axis) - 2))
    size = data.draw(st.floats(axis[low], axis[low + 1]))
    assert times[low] * (1 - 1e-9) <= grid.time_s(size) <= times[low + 1] * (1 + 1e-9)


def test_a_grid_is_constant_below_and_proportional_beyond_its_sizes():
    grid = KernelGrid(([1.0, 2.0], [10.0, 20.0]), [[1e-6, 2e-6], [2e-6, 4e-6]])
    assert grid.time_s(0.1, 10) == pytest.approx(1e-6)
    assert grid.time_s(8, 80) == pytest.approx(4e-6 * 4 * 4)


@pytest.mark.parametrize("kernel", ["attention_128", "attention_latent"])
def test_attention_grows_with_the_square_of_a_sequence_beyond_the_tables(kernel):
    tables = inputs_of().tables
    longest = tables.grids[kernel].axes[1][-1]
    # 64 heads fill a GPU, so that four times the work takes about four times as long.
    twice_s, once_s = tables.attention_s(kernel, 64, 2 * longest), tables.time_s(kernel, 64, longest)
    assert twice_s == pytest.approx(4 * once_s, rel=0.06)
    assert tables.attention_s(kernel, 64, longest) == tables.time_s(kernel, 64, longest)


def test_fewer_heads_than_were_measured_take_no_longer_than_as_many_of_shorter_sequences():
    times = {(8, 1024): 10, (8, 2048): 40, (8, 4096): 160, (16, 1024): 12, (16, 2048): 80, (16, 4096): 320}
    rows = [f"attention_128,{heads},{length},,,{time}" for (heads, length), time in times.items()]
    tables = parse_tables("x1", "\n".join(["kernel,size,columns,inner,num_ranks,time_us", *rows]).encode())
    # 4 heads over 4,096 tokens have as many queries as 8 over 2,048, with twice the keys: 2 x 40 us, and not 160.
    assert tables.attention_s("attention_128", 4, 4096) == pytest.approx(80e-6)
    # No sequence is shorter than those that were measured.
    assert tables.attention_s("attention_128", 4, 1024) == pytest.approx(10e-6)
    assert tables.attention_s("attention_128", 2, 2048) == pytest.approx(20e-6)
    # 2 heads over 4,096 take no longer than 4: 2 x 40 us again, and as many over 1,024 less, 4 x 10 us.
    assert tables.attention_s("attention_128", 2, 4096) == pytest.approx(40e-6)
    # The times of 8 heads go with the square of the length, so parts of them take time in proportion to the heads.
    for heads in (3, 5, 6, 7):
        assert tables.attention_s("attention_128", heads, 4096) == pytest.approx(heads / 8 * 160e-6)


@pytest.mark.parametrize("gpu", ["a100", "h100", "h200", "b200", "b300", "gb200"])
def test_a_further_head_never_shortens_attention_over_long_sequences(gpu):
    # Eight heads are the fewest that were measured; fewer were up to 30 % slower than twice as many.
    tables = load_tables(gpu)
    times_s = [tables.attention_s("attention_128", heads, 8192) for heads in range(1, 17)]
    assert times_s == sorted(times_s)


def test_tables_with_a_hole_are_refused():
    text = "kernel,size,columns,inner,num_ranks,time_us\nmatmul_bf16,1,1,1,,1\nmatmul_bf16,2,2,1,,1\n"
    with pytest.raises(SpecError, match="matmul_bf16: 2 points of its grid are missing; give them, or import"):
        parse_tables("some", text.encode())


@pytest.mark.parametrize(("top_k", "experts", "ranks"), [(1, 6, 3), (2, 6, 3), (2, 8, 8), (3, 8, 4), (4, 4, 4)])
def test_distinct_ranks_are_those_of_all_choices(top_k, experts, ranks):
    choices = itertools.combinations(range(experts), top_k)
    counts = [len({expert * ranks // experts for expert in choice}) for choice in choices]
    assert distinct_ranks(top_k, experts, ranks) == pytest.approx(np.mean(counts))


@pytest.mark.parametrize(
    ("top_k", "experts", "ranks"), [(2, 8, 8), (4, 32, 32), (4, 16, 16), (8, 128, 64), (8, 256, 4)]
)
def test_experts_of_a_token_are_drawn_without_replacement(top_k, experts, ranks):
    # Of C(E, k) choices, C(E - E / R, k) leave a rank out.
    left_out = math.comb(experts - experts // ranks, top_k) / math.comb(experts, top_k)
    assert distinct_ranks(top_k, experts, ranks) == pytest.approx(ranks * (1 - left_out))


def test_groups_that_have_fewer_experts_than_a_token_needs_are_refused_in_a_line():
    model = load_spec(ModelSpec, "deepseek-v3")
    # 4 of 128 groups of 2 experts have 8.
    msgspec.structs.replace(model, num_expert_groups=128)
    with pytest.raises(ValueError, match=r"top_k \(8\) exceeds the experts of 3 of 128 groups"):
        msgspec.structs.replace(model, num_expert_groups=128, num_groups_per_token=3)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_consecutive_ranks_are_those_of_tokens_numbered_through(top_k, ranks, each):
    experts = ranks * each
    top_k = min(top_k, experts)
    tokens = [range(first, first + top_k) for first in range(0, experts * top_k, top_k)]
    # Around the end, experts of the first rank follow those of the last.
    counts = [len({expert % experts // each for expert in token}) for token in tokens]
    assert consecutive_ranks(top_k, experts, ranks) == pytest.approx(np.mean(counts))


def test_tokens_for_consecutive_experts_go_to_few_ranks_without_a_gate():
    names = ("balanced", "consecutive")
    forced, consecutive = (
        inputs_of("qwen3-30b-a3b", "gb200-nvl72", dispatcher="hybridep", micro_batch=16, routing=name) for name in names
    )
    # 8 experts in order lie on one of 8 ranks with 16 each, where 8 by chance miss each with C(112, 8) / C(128, 8).
    drawn = 8 * (1 - math.comb(112, 8) / math.comb(128, 8))
    assert exchange_s(forced) / exchange_s(consecutive) == pytest.approx(drawn, rel=0.25)
    assert imbalance(consecutive) == 1
    router_s = [
        sum(one.gpu_s for one in blocks_of(some)["moe"].forward if one.part == "router")
        for some in (forced, consecutive)
    ]
    assert router_s[0] > router_s[1] == 0
    # A plain exchange sends a copy for each expert wherever it lies.
    plain = [exchange_s(inputs_of(routing=name)) for name in names]
    assert plain[0] == plain[1]


def test_hybridep_gathers_the_choices_of_all_tokens_before_it_dispatches():
    def exchanges(**changes) -> list[float]:
        inputs = inputs_of("deepseek-v3", "gb200-nvl72", 64, expert=64, dispatcher="hybridep", **changes)
        return [one.gpu_s for one in blocks_of(inputs)["moe"].forward if one.part == "expert_exchange"]

    dispatch_s, combine_s = exchanges()
    # 64 ranks x 4,096 tokens x 256 experts, a byte each: 67 MB at the 0.3 to 0.9 TB/s of NVLink.
    assert 67e6 / 0.9e12 < dispatch_s - combine_s < 67e6 / 0.3e12


def test_graphs_of_everything_apply_activations_in_eight_bit_matmuls():
    for precision, difference in (("bf16", 0), ("mxfp8", 1)):
        counts = [
            sum(one.part == "memory" and one.kernels > 0 for one in blocks_of(inputs)["moe"].forward)
            for inputs in (
                inputs_of(cluster="dgx-b200", dispatcher="hybridep", precision=precision, graphs=name)
                for name in ("none", "full")
            )
        ]
        assert counts[0] - counts[1] == difference


def test_scaled_positions_take_kernels_that_are_not_fused():
    inputs = inputs_of("gpt-oss-20b", gpus=8, expert=8, global_batch=64)
    attention = msgspec.structs.replace(inputs.model.attention, scaled_positions=False)
    plain = replace(inputs, model=msgspec.structs.replace(inputs.model, attention=attention))
    memory = [
        [sum(getattr(one, name) for one in blocks_of(some)["attention"].forward) for some in (inputs, plain)]
        for name in ("gpu_s", "host_s")
    ]
    # 24 instead of 4 bytes for each of 64 query and 8 key heads of 64 numbers, 4,096 tokens.
    numbers = 72 * 64 * 4096
    assert memory[0][0] - memory[0][1] == pytest.approx(inputs.copy_s(24 * numbers) - inputs.copy_s(4 * numbers))
    # One call for both either way, with 23 more plain launches.
    assert memory[1][0] - memory[1][1] == pytest.approx(23 * Kernels(inputs).native_launch_s)


@pytest.mark.parametrize("ranks", [8, 64])
def test_imbalance_by_chance_is_near_that_of_drawn_tokens(ranks):
    draws = np.random.default_rng(0).multinomial(ranks * 4096, np.full(ranks, 1 / ranks), size=2000)
    drawn = (draws.max(axis=1) / 4096).mean() - 1
    assert chance_imbalance(4096, ranks) - 1 == pytest.approx(drawn, rel=0.5)


def test_the_host_runs_ahead_until_it_waits():
    constants = msgspec.structs.replace(load_constants(), kernel_gap_s=0.0, host_wait_s=1.0, graph_launch_s=2.0)
    operations = [
        Operation("a", 10.0, 1, 1.0),  # launched at 1, runs 1 to 11
        Operation("b", 4.0, 1, 1.0, counts=True),  # launched at 2, runs 11 to 15
        Operation("b", 1.0, 1, 1.0),  # launched at 3, runs 15 to 16; the host has the numbers at 16
        Operation("c", 1.0, 1, 2.0, waits=True),  # launched at 18: the GPU idles from 16 to 18
        Operation("d", 1.0, 1, 9.0, graphed=True),  # the graph of both is launched at 20: idle from 19 to 20
        Operation("d", 1.0, 1, 9.0, graphed=True),
    ]
    parts: dict[str, float] = {}
    assert play(operations, Queues(), constants, parts) == (20.0, 22.0, 15.0)
    assert parts == {"idle": 1.0 + 2.0 + 1.0, "a": 10.0, "b": 5.0, "c": 1.0, "d": 2.0}


def test_a_layer_takes_what_it_takes_after_many_that_are_equal():
    constants = msgspec.structs.replace(load_constants(), kernel_gap_s=0.0)

    def passes_s(item: Item) -> tuple[float, float]:
        layer = layer_time([item], constants, None, 0.0)
        return layer.forward_s, layer.backward_s

    # The host leaves the forward passes 4 s ahead, and loses 0.1 s of its lead in each backward pass.
    lead = Item((Operation("a", 3.0, 1, 1.0),), (Operation("b", 0.4, 1, 0.5),))
    assert passes_s(lead) == pytest.approx((3.0, 0.5))
    late = Item((Operation("a", 0.4, 1, 0.5),), (Operation("b", 3.0, 1, 1.0),))
    assert passes_s(late) == pytest.approx((0.5, 3.0))


def test_beside_another_pass_the_host_waits_behind_the_experts_of_that_pass():
    constants = msgspec.structs.replace(load_constants(), kernel_gap_s=0.0, host_wait_s=1.0)

    def idle_s(experts_s: float) -> float:
        exchange = Operation("expert_exchange", 0.5, 1, 0.0)
        forward = (
            Operation("attention", 20.0, 1, 1.0, counts=True), exchange._replace(waits=True),
            Operation("expert_matmul", experts_s, 1, 2.0), exchange, Operation("memory", 0.0, 0, 0.0),
        )  # fmt: skip
        plain = tuple(operation._replace(counts=False, waits=False) for operation in reversed(forward))
        pair = layer_time([Item(forward, plain)], constants, 0.0, 0.0).pair
        assert pair is not None
        return pair.idle_s

    # The host goes on 1 s after the counts and launches the next experts within 2 s: the others run meanwhile, or 1 s.
    assert idle_s(5.0) == 0.0
    assert idle_s(1.0) == pytest.approx(1.0 + 2.0 - 1.0)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 6), st.floats(0.1, 2), st.floats(0.1, 4))
def test_equal_stages_have_the_bubble_of_the_closed_form(pipeline, virtual, rounds, forward_s, backward_s):
    virtual = virtual if pipeline > 1 else 1
    micro_batches = rounds * pipeline
    parts = pipeline * virtual
    # (p - 1) / v of a micro-batch: arXiv 2104.04473, section 2.2.
    expected = (micro_batches + (pipeline - 1) / virtual) * virtual * (forward_s + backward_s)
    found = run_pipeline([PartTime(forward_s, backward_s)] * parts, pipeline, micro_batches, 0.0).total_s
    assert found == pytest.approx(expected)


@settings(max_examples=40)
@given(st.integers(2, 4), st.integers(6, 40), st.data())
def test_unequal_stages_take_what_a_plain_event_simulation_takes(pipeline, micro_batches, data):
    times = st.lists(st.floats(0.5, 2), min_size=pipeline, max_size=pipeline)
    forward_s, backward_s = data.draw(times), data.draw(times)
    done: dict[tuple[str, int, int], float] = {}
    for stage in reversed(range(pipeline)):
        done |= {("B", -1, stage): 0.0, ("F", -1, stage): 0.0}
    queues = []
    for stage in range(pipeline):
        warm = min(micro_batches, pipeline - stage - 1)
        order = [("F", index) for index in range(warm)]
        for index in range(micro_batches - warm):
            order += [("F", warm + index), ("B", index)]
        queues.append(order + [("B", index) for index in range(micro_batches - warm, micro_batches)])
    clock = [0.0] * pipeline
    while any(queues):
        for stage, queue in enumerate(queues):
            if not queue:
                continue
            kind, index = queue[0]
            before = ("F", index, stage - 1) if kind == "F" else ("B", index, stage + 1)
            if kind == "B" and stage == pipeline - 1:
                before = ("F", index, stage)
            if kind == "F" and stage == 0:
                before = ("F", -1, 0)
            if before in done:
                clock[stage] = max(clock[stage], done[before]) + (forward_s if kind == "F" else backward_s)[stage]
                done[kind, index, stage] = clock[stage]
                queue.pop(0)
    times = [PartTime(*pair) for pair in zip(forward_s, backward_s, strict=True)]
    found = run_pipeline(times, pipeline, micro_batches, 0.0).total_s
    assert found == pytest.approx(max(clock), rel=1e-9 if micro_batches <= 16 else 0.03)


@pytest.mark.parametrize(
    ("name", "total", "share"),
    [
        ("deepseek-v3", 671.0e9, 0.005),  # arXiv 2412.19437
        ("qwen3-30b-a3b", 30.5e9, 0.005),  # model card
        ("qwen3-235b-a22b", 235e9, 0.005),
        ("mixtral-8x7b", 46.7e9, 0.005),  # arXiv 2401.04088
        ("gpt-oss-120b", 116.8e9, 0.005),  # model card
        ("gpt-oss-20b", 20.9e9, 0.005),
        ("grok1-314b", 314e9, 0.006),
        ("nemotron-3-nano", 31.6e9, 0.005),
        ("qwen2-57b-a14b", 57.4e9, 0.005),
        ("kimi-k2", 1.04e12, 0.02),  # published as "1T", 1.04 trillion
    ],
)
def test_models_of_the_catalogue_have_the_published_number_of_parameters(name, total, share):
    assert load_spec(ModelSpec, name).total_params == pytest.approx(total, rel=share)


@pytest.mark.parametrize(
    ("name", "sequence", "giga", "share"),
    # Operations a token that NVIDIA's performance tables imply, 6 a parameter and causal attention.
    [
        ("deepseek-v3", 4096, 260.0 - 12.5, 0.02),  # without the further-token layer
        ("qwen3-235b-a22b", 4096, 148.0, 0.01),
        ("kimi-k2", 4096, 204.6, 0.01),
        ("gpt-oss-120b", 4096, 32.6, 0.01),
        ("grok1-314b", 8192, 521.0, 0.01),
    ],
)
def test_operations_of_a_token_are_those_of_published_utilisations(name, sequence, giga, share):
    inputs = load_inputs(name, "gb200-nvl72", None, {"global_batch": 4096})
    model = msgspec.structs.replace(inputs.model, sequence_length=sequence)
    assert flop_per_token(replace(inputs, model=model)) == pytest.approx(giga * 1e9, rel=share)


@pytest.mark.parametrize("precision", ["bf16", "fp8_block"])
@pytest.mark.parametrize("graphs", ["none", "partial", "full"])
@pytest.mark.parametrize("overlap", [False, True])
def test_the_parts_of_a_step_sum_to_it(precision, graphs, overlap):
    step = predict_step(inputs_of(precision=precision, graphs=graphs, overlap_expert=overlap))
    assert sum(step.exposed_s.values()) == pytest.approx(step.step_s)
    assert all(seconds >= -1e-12 for seconds in (*step.exposed_s.values(), *step.hidden_s.values()))
    assert 0 < step.mfu < 1


def test_graphs_overlap_and_eight_bits_shorten_a_step():
    eager = predict_step(inputs_of())
    assert predict_step(inputs_of(graphs="partial")).step_s <= eager.step_s
    assert predict_step(inputs_of(graphs="full")).step_s < eager.step_s
    # Launched one by one, the pieces of two passes at once can cost the host more than they hide.
    hiding = predict_step(inputs_of(graphs="full", overlap_expert=True))
    assert hiding.step_s < predict_step(inputs_of(graphs="full")).step_s
    wide = ("deepseek-v3", "gb200-nvl72", 256)
    layout = {"graphs": "full", "pipeline": 4, "expert": 64, "global_batch": 4096}
    full = predict_step(inputs_of(*wide, **layout))
    assert predict_step(inputs_of(*wide, **layout, precision="mxfp8")).step_s < full.step_s


def test_full_recomputation_costs_a_forward_pass_and_saves_memory():
    inputs, recomputed = inputs_of(graphs="full"), inputs_of(graphs="full", recompute="full")
    # Forward, input and weight gradients take as long as one another in matmuls: 4/3.
    longer = predict_step(recomputed).step_s / predict_step(inputs).step_s
    assert 1.2 < longer < 4 / 3
    assert memory_bytes(recomputed)["activations"] < 0.3 * memory_bytes(inputs)["activations"]


@pytest.mark.parametrize("name", ["deepseek-v3", "nemotron-3-nano", "gpt-oss-20b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("pipeline", [1, 2, 4, 8])
@pytest.mark.parametrize("virtual", [1, 2, 3])
def test_every_layer_is_in_one_part(name, pipeline, virtual):
    model = load_spec(ModelSpec, name)
    parallel = msgspec.structs.replace(
        inputs_of().parallel, pipeline=pipeline, virtual_stages=virtual if pipeline > 1 else 1
    )
    parts = parts_of(model, parallel)
    names = [name for part in parts for name, count in part for _ in range(count)]
    assert names == ["embedding", *layers_of(model), "head"]
    assert len(parts) == parallel.pipeline * parallel.virtual_stages


def pair_of(
    kernels_s: list[float], exchanges_s: list[float], slowdown: float, host_s: float = 0.0, sum_s: float = 0.0
) -> PairTime:
    """Play two passes at once. The host takes `host_s` to launch the first and third of four pieces.

    After a combine, and before that of the backward pass, kernels take `sum_s`.
    """
    constants = msgspec.structs.replace(load_constants(), kernel_gap_s=0.0)

    def one_pass(first: float, second: float, dispatch: float, combine: float, launch_s: float) -> Item:
        exchanges = (Operation("expert_exchange", each, 1, 0.0) for each in (dispatch, combine))
        kernels = (Operation("memory", first, 1, launch_s), Operation("memory", second, 1, launch_s))
        sums = Operation("memory", sum_s, 1, 0.0)
        return Item((kernels[0], next(exchanges), kernels[1], next(exchanges), sums), ())

    combine_b, dispatch, dispatch_b, combine = exchanges_s
    forward = one_pass(kernels_s[0], kernels_s[2], dispatch, combine, host_s)
    backward = one_pass(sum_s, kernels_s[1], combine_b, dispatch_b, 0.0)
    last = Operation("memory", kernels_s[3], 1, 0.0)
    pair = layer_time([Item(forward.forward, (*backward.forward[:-1], last))], constants, slowdown, 0.0).pair
    assert pair is not None
    return pair


def test_two_passes_hide_the_smaller_of_what_could_be_hidden_and_what_there_is():
    def times(kernels_s: list[float], exchanges_s: list[float], slowdown: float = 0.0) -> tuple[float, float, float]:
        pair = pair_of(kernels_s, exchanges_s, slowdown)
        return pair.total_s, pair.hidden_s, pair.slowed_s

    # Each 3 s of kernels hide an exchange of 2 s, and of one of 5 s as many as they take.
    assert times([3.0] * 4, [2.0] * 4) == (12.0, 8.0, 0.0)
    assert times([3.0] * 4, [5.0] * 4) == (20.0, 12.0, 0.0)
    # A quarter slower beside the exchange: 1.5 s of work in its 2 s, 1.5 s after it.
    assert times([3.0] * 4, [2.0] * 4, 0.25) == (14.0, 8.0, 2.0)
    # All within an exchange of 5 s, where 3 s of work take 4 s.
    assert times([3.0] * 4, [5.0] * 4, 0.25) == (20.0, 16.0, 4.0)
    # The second exchange waits for the first kernels, which make what it sends, and goes from 3 s to 5 s.
    assert times([3.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 1.0])[0] == 3.0 + 2.0 + 1.0 + 1.0


def test_nothing_runs_behind_a_combine_that_waits_for_it():
    # Exchanges of 2 s hide kernels of 1 s. Residuals of 0.25 s wait for one combine, and the other waits for those of
    # the backward pass: 0.5 s more. So it is where kernels of 3 s hide exchanges, whose 2 s slow only these down.
    assert pair_of([1.0] * 4, [2.0] * 4, 0.0, sum_s=0.25).total_s == 4 * 2.0 + 0.5
    assert pair_of([3.0] * 4, [2.0] * 4, 0.25, sum_s=0.25).total_s == 4 * 3.5 + 0.5


def test_the_host_runs_ahead_while_kernels_wait_for_an_exchange_which_does_not_slow_it_down():
    # A layer takes its launches, 10 s. Kernels of 1 s take 2 s beside an exchange of 2 s. The first are launched 2 s
    # after the fourth end, when their exchange is over; the second take 2 s, and so on: 4 s of idle, 2 s of slowdown.
    pair = pair_of([1.0] * 4, [2.0] * 4, 0.5, host_s=5.0)
    assert (pair.total_s, pair.idle_s, pair.slowed_s) == (10.0, 4.0, 2.0)
    # Where it launches as fast as exchanges go, nothing waits for it.
    pair = pair_of([1.0] * 4, [2.0] * 4, 0.5, host_s=4.0)
    assert (pair.total_s, pair.idle_s) == (pytest.approx(8.0), pytest.approx(0.0, abs=1e-9))


@given(
    st.lists(st.floats(0.1, 3), min_size=4, max_size=4), st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
    st.floats(0, 0.9), st.floats(0, 9),
)  # fmt: skip
def test_two_passes_take_no_longer_than_one_after_the_other_and_no_less_than_each(kernels, exchanges, slowdown, host_s):
    pair = pair_of(kernels, exchanges, slowdown, host_s)
    alone = sum(kernels) + sum(exchanges)
    least = max(sum(kernels), sum(exchanges), 2 * host_s)
    assert least * (1 - 1e-9) <= pair.total_s <= (alone + 2 * host_s) * (1 + 1e-9)
    # What is not hidden, kernels, what they lose and the wait for the host are all of it.
    assert pair.total_s == pytest.approx(alone - pair.hidden_s + pair.slowed_s + pair.idle_s)


@pytest.mark.parametrize(("gpus", "rate"), [(8, 290e9), (16, 50e9)])
def test_stages_send_over_fast_links_where_these_join_all_gpus(gpus, rate):
    # 2,048 numbers of 2 bytes for each of 4,096 tokens: inside a node of eight H100, or by a NIC of 400 Gb/s.
    model = StepModel(inputs_of(gpus=gpus, pipeline=4, expert=2, global_batch=64))
    assert model.transfer_s == pytest.approx(2 * 2048 * 4096 / rate)


def test_the_stages_in_the_middle_of_dualpipe_begin_with_two_passes_apart():
    # Two stages that never wait: four micro-batches of 3 s each, of which 4 - 2 go backward beside another, and the
    # first of these not (``is_middle_rank`` of deepseek-ai/DualPipe).
    found = run_dual_pipe([PartTime(1.0, 2.0, 0.5)] * 2, 1.0, 4)
    assert (found.total_s, found.saved_s) == (4 * 3.0 - 0.5, 0.5)


def test_a_stage_of_dualpipe_ends_with_as_many_gradients_of_weights_as_it_is_from_the_end():
    # Step 8 of deepseek-ai/DualPipe: the first stage has one left, the second two, the third three.
    passes = dual_pipe_passes(6, 12)
    for stage in range(6):
        kinds = [passes.kinds[kind][0][0] for of_stage, kind, *_ in passes.order if of_stage == stage]
        last = itertools.takewhile("W".__eq__, reversed(kinds))
        assert len(list(last)) == min(stage, 5 - stage) + 1


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0, 0.5), st.sampled_from(["1f1b", "dualpipe"]))
def test_a_faster_pass_lengthens_no_pair_that_takes_as_long_as_before(one, other, faster, schedule):
    # Parts of some layers each, which take 1 s forward, 2 s backward and 4 s at once, where the host launches more.
    def total_s(forward_s):
        times = [PartTime(layers * forward_s, layers * 2.0, layers * (forward_s - 2)) for layers in (one, other)]
        if schedule == "dualpipe":
            return run_dual_pipe(times, 0.5, 8).total_s
        return run_pipeline(times * 2, 2, 8, 0.0, overlap=True).total_s

    assert total_s(1.0 - faster) <= total_s(1.0) + 1e-9


@given(st.integers(1, 40), st.floats(0, 1))
def test_without_a_pipeline_all_but_the_first_and_the_last_pass_run_two_at_once(micro_batches, saved_s):
    times = [PartTime(1.0, 2.0, saved_s)]
    found = run_pipeline(times, 1, micro_batches, 0.0, overlap=True)
    assert found.total_s == pytest.approx(3 * micro_batches - (micro_batches - 1) * saved_s)
    assert found.saved_s == pytest.approx((micro_batches - 1) * saved_s)


@given(st.integers(2, 6), st.integers(1, 3), st.integers(2, 5), st.floats(0, 0.9))
def test_passes_at_once_save_time_on_every_stage(pipeline, virtual, rounds, saved_s):
    times = [PartTime(1.0, 1.0, saved_s)] * (pipeline * virtual)
    micro_batches = rounds * pipeline
    overlapped = run_pipeline(times, pipeline, micro_batches, 0.0, overlap=True)
    # A stage has at least as many passes of their own as warm-up and its end need; nothing is faster than its pairs.
    assert overlapped.total_s >= micro_batches * virtual * (2 - saved_s)
    last = 2 * pipeline * virtual + 2  # warm-up and cool-down of the first stage, in passes
    assert overlapped.total_s <= micro_batches * virtual * (2 - saved_s) + 2 * last
    for stage in range(pipeline):
        slots = sorted(slot[1:3] for slot in overlapped.slots if slot.stage == stage)
        assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(slots))


def test_dualpipe_has_the_published_bubble():
    # 1 s forward, 2 s backward of which 1 s for weights: m * 3 + (p / 2 - 1) * (3 + 2 - 3) (deepseek-ai/DualPipe).
    for pipeline, micro_batches in ((2, 4), (4, 8), (8, 20), (8, 100), (16, 64)):
        found = run_dual_pipe([PartTime(1.0, 2.0)] * pipeline, 1.0, micro_batches)
        assert found.total_s == pytest.approx(3 * micro_batches + (pipeline / 2 - 1) * 2)
        for stage in range(pipeline):
            times = sorted(slot[1:3] for slot in found.slots if slot.stage == stage)
            assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(times))
    # Two passes at once save half a second, but those that fill and drain the pipeline have no partner: 20 + 3 s is the
    # formula's, with a partner for all, and 26 s without.
    found = run_dual_pipe([PartTime(1.0, 2.0, 0.5)] * 4, 0.5, 8)
    assert 23 < found.total_s < 26
    assert 0 < found.saved_s < 8 * 0.5


@pytest.mark.parametrize(("pipeline", "micro_batches"), [(2, 4), (4, 8), (8, 20), (8, 100)])
def test_dualpipe_has_gradients_of_a_part_when_both_stages_that_hold_it_made_them(pipeline, micro_batches):
    found = run_dual_pipe([PartTime(1.0 + 0.1 * part, 2.0) for part in range(pipeline)], 0.8, micro_batches)
    end_s = max(found.ends_s)
    for part in range(pipeline):
        passes = [
            (stage, end_s, end_s - found.takes_s[kind], half)
            for (stage, kind, *_), end_s in zip(found.passes.order, found.ends_s, strict=True)
            for half, of_part in found.passes.kinds[kind]
            if of_part == part
        ]
        assert {stage for stage, *_ in passes} == {part, pipeline - 1 - part}
        assert found.first_s[part] == pytest.approx(min(start_s for _, _, start_s, half in passes if half == "F"))
        last_s, half = max((last_s, half) for _, last_s, _, half in passes if half in "BW")
        assert found.last_s[part] == pytest.approx(end_s - last_s)
        # Gradients of weights are made in a pass of their own at the end.
        assert found.makes_s[part] == pytest.approx(0.8 if half == "W" else 2.0)


def test_a_further_micro_batch_of_dualpipe_takes_what_the_slowest_pair_of_stages_takes():
    times = [PartTime(1.0, 2.0, 0.5), PartTime(1.0, 2.0, 0.1), PartTime(2.0, 4.0, 0.3), PartTime(1.0, 2.0, 0.2)]
    few, many = (run_dual_pipe(times, 0.5, number) for number in (40, 100))
    # The ends have parts of 3 and 3 s and half of the micro-batches of each, and save 0.2 s, as the part that saves
    # less; the middle has 3 and 6 s and saves 0.1.
    assert many.total_s - few.total_s == pytest.approx(60 * max((3 + 3) / 2 - 0.2, (3 + 6) / 2 - 0.1))
    assert many.saved_s - few.saved_s == pytest.approx(60 * (2 * 0.2 + 2 * 0.1) / 4)
    # Of each direction twice as many as stages are simulated: 2 * 2 * 4 forward passes of each of four parts.
    halves = [half for _, kind, *_ in many.passes.order for half, _ in many.passes.kinds[kind]]
    assert halves.count("F") == 2 * 2 * 4 * 4


def test_dualpipe_counts_a_part_to_the_first_of_its_two_stages():
    parallel = inputs_of(pipeline=4, schedule="dualpipe", gpus=32).parallel
    assert [stage_of(parallel, part) for part in range(4)] == [0, 1, 1, 0]


@pytest.mark.parametrize(("pipeline", "simulated"), [(2, 16), (4, 16), (8, 32)])
def test_a_pipeline_simulates_four_rounds_and_16_micro_batches_at_least(pipeline, simulated):
    found = run_pipeline([PartTime(1.0, 2.0)] * pipeline, pipeline, 100, 0.0)
    assert len(found.slots) == 2 * pipeline * simulated


def test_dualpipe_hides_exchanges_and_holds_parameters_twice():
    layout = {"pipeline": 4, "expert": 64, "global_batch": 4096, "graphs": "full", "precision": "mxfp8"}
    plain, dual = (
        inputs_of("deepseek-v3", "gb200-nvl72", 256, **layout, schedule=name) for name in ("1f1b", "dualpipe")
    )
    hidden = predict_step(dual)
    assert hidden.step_s < predict_step(plain).step_s
    assert sum(hidden.exposed_s.values()) == pytest.approx(hidden.step_s)
    assert memory_bytes(dual)["parameters"] == pytest.approx(2 * memory_bytes(plain)["parameters"], rel=0.3)


def test_the_exchange_of_deepseek_v3_on_h100_is_exposed_as_published():
    # 30 to 40 % of an iteration with a tuned dispatcher, at most about 5 % behind the other pass
    # (NVIDIA/Megatron-LM, combined 1F1B, citing arXiv 2603.07685).
    layout = {
        "tensor": 2, "pipeline": 8, "virtual_stages": 4, "stages": "Et|(tt|)*30L", "expert": 64, "global_batch": 8192,
        "precision": "fp8_block", "dispatcher": "deepep", "recompute": "selective", "recomputed": ["latent_up"],
    }  # fmt: skip
    shares = []
    for overlap in (False, True):
        step = predict_step(inputs_of("deepseek-v3", "dgx-h100", 1024, **layout, overlap_expert=overlap))
        shares.append(step.exposed_s["expert_exchange"] / step.step_s)
    assert 0.3 < shares[0] < 0.4
    assert shares[1] < 0.07
    assert step.hidden_s["expert_exchange"] > 0


def test_a_slower_host_launches_later():
    inputs = inputs_of(micro_batch=1)
    slow = override(inputs.cluster, {"host.clock_hz": "x0.5"}, "cluster")
    launches = [Kernels(some).launch_s for some in (inputs, replace(inputs, cluster=slow))]
    assert launches[1] == pytest.approx(2 * launches[0])
    assert predict_step(replace(inputs, cluster=slow)).exposed_s["idle"] > predict_step(inputs).exposed_s["idle"]


@pytest.mark.parametrize(
    ("precision", "forward_us", "backward_us"),
    [
        # Up and down projections of 8 of 128 experts. In 16 bits each is a call of 76 us with 8 launches of 9 us and
        # 4.1 us for each expert; backward two calls, 8 launches each, and 8.6 us for each expert.
        ("bf16", 2 * (76 + 8 * 9 + 8 * 4.1), 2 * (2 * (76 + 8 * 9) + 8 * 8.6)),
        # Quantising launches 8 kernels more, backward for the first of the calls; scales take 2 in each call.
        ("mxfp8", 2 * (76 + 18 * 9 + 8 * 12.0), 2 * ((76 + 18 * 9) + (76 + 10 * 9) + 8 * 15.6)),
        ("fp8_block", 2 * (76 + 16 * 9 + 8 * 12.0), 2 * ((76 + 16 * 9) + (76 + 8 * 9) + 8 * 15.6)),
    ],
)
def test_the_host_quantises_the_operands_of_experts_once_and_handles_each_expert(precision, forward_us, backward_us):
    inputs = inputs_of(expert=16)
    # The host of an H100, and tensor cores that have every precision.
    gpu = msgspec.structs.replace(inputs.gpu, peak_fp4_flop_per_s=1e15)
    parallel = msgspec.structs.replace(inputs.parallel, precision=precision)
    block = blocks_of(replace(inputs, gpu=gpu, parallel=parallel))["moe"]
    for operations, expected_us in ((block.forward, forward_us), (block.backward, backward_us)):
        host_s = sum(one.host_s for one in operations if one.part == "expert_matmul")
        assert host_s == pytest.approx(1e-6 * expected_us)


def test_a_grace_takes_as_much_longer_to_call_as_was_measured_and_its_clock_tells_the_rest():
    grace, x86 = (Kernels(inputs_of(cluster=name, gpus=8)) for name in ("gb200-nvl72", "dgx-h100"))
    # Medians of small all-reduces from Python, us, over 2 and 4 GPUs: SGLang 72.2 and 71.0, vLLM 49.8 and 43.8 on
    # GB200; 29.4, 30.2, 20.6 and 21.2 on H100, H200, B200 and B300.
    longer = [72.2 / 29.4, 71.0 / 30.2, 49.8 / 20.6, 43.8 / 21.2]
    assert grace.launch_s / x86.launch_s == pytest.approx(math.prod(longer) ** 0.25, rel=0.02)
    assert grace.native_launch_s / x86.native_launch_s == pytest.approx(3.8 / 3.1)


def test_calls_on_a_grace_take_what_the_reference_table_says(shared):
    rows = pd.read_csv(shared / "measured" / "kernels" / "custom_allreduce.csv")
    rows = rows[rows.kernel.str.endswith("eager") & (rows.nbytes <= 65536) & (rows.num_gpus <= 4)]
    median_us = rows.pivot_table("time_us", ["kernel", "num_gpus"], "gpu", "median")
    longer = median_us.gb200 / median_us[["h100", "h200", "b200", "b300"]].median(axis=1)
    grace, x86 = (load_spec(ClusterSpec, name).host.launch_clock_hz for name in ("gb200-nvl72", "dgx-h100"))
    assert x86 / grace == pytest.approx(np.exp(np.log(longer).mean()), rel=0.02)


def test_latent_attention_on_an_h200_takes_what_was_measured_there():
    # torch with cuDNN on an H200: two sequences of 4,096 tokens, 128 heads of 192 and 128 numbers, causal, forward.
    inference_s = load_tables("h200").attention_s("attention_latent", 2 * 128, 4096)
    assert inference_s / load_constants().training_attention_speedup == pytest.approx(2.29e-3, rel=0.05)


@pytest.mark.parametrize(
    ("model", "cluster", "is_told"),
    [
        ("nemotron-3-nano", "h200x4", False),  # docs/measured/h200.md
        ("nemotron-3-nano", "h100x4", True),
        ("qwen3-next-80b-a3b", "h200x4", True),  # the gated delta rule
        ("qwen3-30b-a3b", "h100x4", False),
    ],
)
def test_scans_that_were_not_measured_are_told(model, cluster, is_told):
    inputs = load_inputs(model, cluster, None, {"global_batch": 256, "expert": 8}, 32)
    assert any("scans were not measured" in remark for remark in kernel_remarks(inputs)) == is_told


@pytest.mark.parametrize(
    ("model", "cluster", "heads", "ratio"),
    [
        ("deepseek-v3", "dgx-h100", {}, 1),
        # Queries of 256 and values of 256 over those of 192 and 128.
        ("deepseek-v3", "dgx-h100", {"nope_dim": 192, "value_dim": 256}, 512 / 320),
        ("gpt-oss-20b", "dgx-h100", {}, 1),
        # The tables of A100 have no heads of 64.
        ("gpt-oss-20b", "dgx-a100-80g", {}, 0.5),
        ("qwen3-30b-a3b", "dgx-h100", {"head_dim": 96}, 0.75),
    ],
)
def test_attention_of_heads_of_another_width_is_scaled_and_told(model, cluster, heads, ratio):
    inputs = inputs_of(model, cluster, graphs="full")
    attention = msgspec.structs.replace(inputs.model.attention, **heads)
    inputs = replace(inputs, model=msgspec.structs.replace(inputs.model, attention=attention))
    assert inputs.attention_kernel[1] == ratio
    remarks = [remark for remark in kernel_remarks(inputs) if "another width" in remark]
    assert remarks == [f"attention takes {ratio:.3g} times the time of measured heads, of another width"] * (ratio != 1)


def test_latent_attention_takes_time_in_proportion_to_its_heads():
    inputs = inputs_of("deepseek-v3", graphs="full")
    wider = msgspec.structs.replace(inputs.model.attention, nope_dim=320, value_dim=256)
    both = inputs, replace(inputs, model=msgspec.structs.replace(inputs.model, attention=wider))
    times_s = [predict_step(one).exposed_s["attention"] for one in both]
    assert times_s[1] / times_s[0] == pytest.approx(2, rel=1e-3)


def test_a_plain_dispatch_launches_sums_and_copies_of_counts_and_others_none():
    def launched(dispatcher):
        forward = blocks_of(inputs_of(dispatcher=dispatcher))["moe"].forward
        parts = [operation.part for operation in forward]
        return sum(operation.kernels for operation in forward[: parts.index("expert_exchange")])

    # NVIDIA/Megatron-LM 0.16: 5 sums, a copy and a gather of counts, 3 kernels of a map, the permutation, and 4 copies
    # to the host. Kernels of DeepEP and HybridEP, which write counts where the host reads them, are counted after their
    # dispatch.
    assert launched("all_to_all") - launched("deepep") == 5 + 1 + 1 + 3 + 1 + 4
    assert launched("hybridep") == launched("deepep")


def test_padded_experts_spare_the_host_its_wait():
    padded = inputs_of(capacity_factor=1.0, pad_to_capacity=True)
    waits = [sum(operation.waits for operation in blocks_of(some)["moe"].forward) for some in (inputs_of(), padded)]
    assert waits == [1, 0]
    assert imbalance(padded) == 1.0
    assert imbalance(inputs_of(routing="learned", capacity_factor=1.05)) == 1.05
    # A rank that has all experts is the busiest and the mean.
    assert imbalance(inputs_of(routing="learned", expert=1)) == 1.0
    # Half as many more rows take half as long again in large matmuls.
    wide = inputs_of(capacity_factor=1.5, pad_to_capacity=True)
    parts = [predict_step(some).exposed_s["expert_matmul"] for some in (padded, wide)]
    assert 1.3 < parts[1] / parts[0] < 1.5


def test_a_ring_hides_keys_and_values_behind_attention():
    long = msgspec.structs.replace(load_spec(ModelSpec, "qwen3-30b-a3b"), sequence_length=32768)
    steps = {}
    for kind in ("ring", "all_gather", "all_to_all"):
        inputs = replace(inputs_of(context=8, expert=8, gpus=16, global_batch=16, context_exchange=kind), model=long)
        steps[kind] = predict_step(inputs)
    ring, gathered = steps["ring"], steps["all_gather"]
    part = "context_exchange"
    assert 0 < ring.exposed_s[part] < gathered.exposed_s[part]
    assert ring.exposed_s[part] + ring.hidden_s[part] == pytest.approx(gathered.exposed_s[part], rel=0.05)
    assert part not in steps["all_to_all"].hidden_s


@pytest.mark.parametrize(("kind", "numbers"), [("ring", [14, 14]), ("all_gather", [2, 4]), ("all_to_all", [4, 4])])
def test_exchanges_of_keys_launch_their_kernels(kind, numbers):
    # Over 8 ranks a ring has 7 steps, each of a send and a receive. Keys and values are gathered, and again beside the
    # sums of their gradients; queries, keys, values and output go for heads.
    block = blocks_of(inputs_of("mixtral-8x7b", context=8, context_exchange=kind, gpus=64))["attention"]
    launched = [[one.kernels for one in some if one.part == "context_exchange"] for some in block[:2]]
    assert launched == [[numbers[0]], [numbers[1]]]


def test_the_kernels_of_a_ring_take_as_long_as_over_sequences_of_a_rank_and_are_added_up():
    long = msgspec.structs.replace(load_spec(ModelSpec, "qwen3-30b-a3b"), sequence_length=4 * 4096)
    alone, ring = inputs_of(), replace(inputs_of(context=4, expert=8, gpus=16, global_batch=16), model=long)
    blocks = [blocks_of(some)["attention"] for some in (alone, ring)]
    for half in ("forward", "backward"):
        one, many = (
            next(each for each in getattr(block, half) if each.part == "attention") for block in blocks
        )  # fmt: skip
        # One kernel for the keys and values of each of four ranks, each as much work as over the 4,096 tokens of one.
        assert many.gpu_s == pytest.approx(4 * one.gpu_s)
        assert many.kernels == 4 * one.kernels
        # One function launches all of them.
        assert many.host_s - one.host_s == pytest.approx((many.kernels - one.kernels) * 9e-6)
    # Outputs: 4 bytes a number for the first kernel, 6 for each further one. Gradients: so of queries, and of keys and
    # values 4 and 3, since the last rank gets some for the first half only.
    whole, half = 4 + 3 * 6, 4 + 3 * 3
    copies = [
        sum(each.gpu_s for each in operations if each.part == "memory") for block in blocks
        for operations in (block.forward, block.backward)
    ]  # fmt: skip
    assert copies[2] - copies[0] == pytest.approx(ring.copy_s(4096 * whole * 32 * 128))
    assert copies[3] - copies[1] == pytest.approx(ring.copy_s(4096 * (whole * 32 + half * 2 * 4) * 128))


@pytest.mark.parametrize(
    ("model", "exchange", "told"),
    [
        ("gpt-oss-20b", "ring", True), ("gpt-oss-20b", "all_to_all", False), ("deepseek-v3", "all_gather", True),
        ("deepseek-v3", "ring", False), ("qwen3-30b-a3b", "ring", False),
    ],
)  # fmt: skip
def test_exchanges_of_keys_that_transformer_engine_refuses_are_told(model, exchange, told):
    # Its assertions: no windows in a ring, and latent attention in nothing else.
    inputs = inputs_of(model, context=2, context_exchange=exchange)
    assert any("TransformerEngine" in remark for remark in kernel_remarks(inputs)) == told


@pytest.mark.parametrize(("cluster", "told"), [("hgx-h800", True), ("hgx-a800", True), ("dgx-h100", False)])
def test_exchanges_measured_over_faster_links_are_told(cluster, told):
    # The NVLink of an H800 has 200 of the 450 GB/s of an H100 in each direction, that of an A800 200 of 300.
    assert any("links" in remark for remark in kernel_remarks(inputs_of(cluster=cluster))) == told


def test_bytes_over_slower_links_take_longer():
    # 4,096 tokens of 7,168 numbers by DeepEP over eight H800, 24 multiprocessors, groups 4 of 8: 158 GB/s of all
    # copies in 16 bits (deepseek-ai/DeepEP, README), where an H100 has 2.25 times the NVLink.
    layout = {"expert": 8, "dispatcher": "deepep", "exchange_multiprocessors": 24, "sequence_length": 4096}
    cut, whole = (inputs_of("deepseek-v3", cluster, **layout) for cluster in ("hgx-h800", "dgx-h100"))
    copied_bytes = 4 * 2 * 7168 * 4096
    assert copied_bytes / exchange_s(cut) == pytest.approx(158e9, rel=0.1)
    assert copied_bytes / exchange_s(whole) > 2 * 0.9 * 158e9
    # A short message waits as long: what takes longer are its bytes.
    assert cut.collective_s("all_gather", 1024, 8, 1) < 1.1 * whole.collective_s("all_gather", 1024, 8, 1)


@pytest.mark.parametrize("gpus", [0, -8])
def test_a_cluster_without_gpus_is_refused(gpus):
    with pytest.raises(SpecError, match="expected a whole number >= 1"):
        inputs_of(gpus=gpus)


@pytest.mark.parametrize("dispatcher", ["all_to_all", "all_gather", "deepep"])
def test_a_sweep_over_the_rate_of_links_has_no_jump_and_slower_ones_never_shorten_an_exchange(dispatcher):
    inputs, times = inputs_of(dispatcher=dispatcher), []
    for percents in range(200):
        links = {"network.local_bytes_per_s": f"x{1.2 * 0.99**percents}"}
        times.append(exchange_s(replace(inputs, cluster=override(inputs.cluster, links, "cluster"))))
    # A rate of a hundredth less never costs more than three.
    assert all(1 <= later / earlier < 1.03 for earlier, later in itertools.pairwise(times))
    assert times[-1] > 2 * times[0]


def test_an_all_to_all_between_servers_sends_over_slow_links_only_what_stays_inside():
    # 64 ranks, eight to a server: 7/64 of all bytes stay inside and 7/8 leave it by NICs of 50 GB/s for each GPU, so
    # that links of 20 GB/s inside are done first.
    inputs = inputs_of(cluster="h100x64", gpus=64, expert=64)
    slow = replace(inputs, cluster=override(inputs.cluster, {"network.local_bytes_per_s": 20e9}, "cluster"))
    assert exchange_s(slow) == exchange_s(inputs)


def test_the_clock_slows_no_quantisation():
    inputs = inputs_of(precision="fp8_block")
    # The tables: 146.2 us for a matmul of 4,096 in each direction, of which 17.89 are a cast of 4,096 x 4,096 numbers.
    sustained = inputs.tables.sustained_rate("matmul_fp8_block")
    assert sustained < 1
    expected_s = 17.89e-6 + (146.2 - 17.89) * 1e-6 / (sustained * 0.95)
    assert Kernels(inputs).matmul_s(4096, 4096, 4096, "matmul_fp8_block") == pytest.approx(expected_s)


def test_tensor_parallel_ranks_each_look_up_all_tokens():
    seconds = [
        [each.gpu_s for operations in (block.forward, block.backward) for each in operations if each.part == "memory"]
        for block in (blocks_of(inputs_of(tensor=tensor))["embedding"] for tensor in (1, 4))
    ]
    assert seconds[0] == seconds[1]


def test_tokens_in_eight_bits_are_dispatched_in_half_the_time():
    def dispatch_s(name: str) -> float:
        inputs = inputs_of("deepseek-v3", expert=8, dispatcher="deepep", dispatch_precision=name, micro_batch=8)
        return next(one for one in blocks_of(inputs)["moe"].forward if one.part == "expert_exchange").gpu_s

    # 1.03 bytes of 2, and what an exchange takes at least.
    assert dispatch_s("fp8") / dispatch_s("bf16") == pytest.approx(1.03 / 2, rel=0.2)


def test_gradients_go_to_experts_in_eight_bits_and_back_in_sixteen():
    # DeepSeek-V3 (arXiv 2412.19437, section 3.3.3): dispatches of both passes have 8 bits, combines 16.
    block = blocks_of(inputs_of("deepseek-v3", expert=8, dispatcher="deepep", dispatch_precision="fp8"))["moe"]
    forward, backward = ([one.gpu_s for one in some if one.part == "expert_exchange"] for some in block[:2])
    assert backward == forward
    assert forward[0] < 0.75 * forward[1]


@pytest.mark.parametrize(
    ("model", "cluster", "ranks", "multiprocessors", "time_us"),
    [
        # Combines of 16,384 tokens for 8 of 256 experts (ai-dynamo/aiconfigurator, SGLang 0.5.12).
        # Tokens of 2,048 numbers have 0.29 of the bytes of those of 7,168, and take half their time.
        ("qwen3-30b-a3b", "gb200-nvl72", 4, 24, 1206),
        ("kimi-k2", "gb200-nvl72", 4, 24, 2169),
        ("kimi-k2", "gb200-nvl72", 4, 16, 3148),
        ("qwen3-30b-a3b", "dgx-b200", 8, 24, 1276),
        ("qwen3-30b-a3b", "dgx-b200", 8, 16, 1838),
        ("kimi-k2", "dgx-b200", 8, 24, 2634),
        ("kimi-k2", "dgx-b200", 8, 8, 7157),
        # It was measured with no more.
        ("kimi-k2", "dgx-b200", 8, 32, 2634),
    ],
)  # fmt: skip
def test_deepep_takes_what_was_measured_for_its_multiprocessors_and_the_width_of_a_token(
    model, cluster, ranks, multiprocessors, time_us
):
    layout = {"expert": ranks, "dispatcher": "deepep", "micro_batch": 4, "exchange_multiprocessors": multiprocessors}
    inputs = inputs_of(model, cluster, 64, **layout)
    inputs = replace(inputs, model=msgspec.structs.replace(inputs.model, num_experts=256))
    assert exchange_s(inputs) == pytest.approx(1e-6 * time_us, rel=1e-3)


def test_deepep_sends_with_its_20_multiprocessors_and_where_it_stands_in_for_another_with_all_that_were_measured():
    def sent_s(dispatcher: str, multiprocessors: int = 0) -> float:
        return exchange_s(inputs_of(dispatcher=dispatcher, exchange_multiprocessors=multiprocessors))

    assert sent_s("deepep", 16) > sent_s("deepep") == sent_s("deepep", 20) > sent_s("deepep", 24)
    assert sent_s("hybridep") == sent_s("hybridep", 32) == sent_s("deepep", 24)


@pytest.mark.parametrize(
    ("dispatcher", "multiprocessors", "told"),
    [
        ("deepep", 0, []),
        ("deepep", 4, ["DeepEP was measured with 8 to 24 multiprocessors, and sends with no fewer and no more"]),
        ("deepep", 32, ["DeepEP was measured with 8 to 24 multiprocessors, and sends with no fewer and no more"]),
        ("hybridep", 0, ["exchanges by HybridEP were not measured on h200: those of DeepEP stand in"]),
    ],
)
def test_what_was_not_measured_of_an_exchange_is_told(dispatcher, multiprocessors, told):
    inputs = inputs_of(cluster="h200x8", gpus=8, dispatcher=dispatcher, exchange_multiprocessors=multiprocessors)
    # The tables of H200 have the DeepEP of H100, whose links are the same.
    assert kernel_remarks(inputs) == ["exchange_deepep: times of h100 stand in for those of h200", *told]


def test_biases_of_experts_move_the_bytes_of_their_sums():
    inputs = inputs_of("gpt-oss-20b", gpus=8, expert=8, global_batch=64)
    plain = replace(inputs, model=msgspec.structs.replace(inputs.model, expert_bias=False, clamped_activation=False))
    memory = [
        sum(one.gpu_s for one in blocks_of(some)["moe"].forward if one.part == "memory") for some in (inputs, plain)
    ]
    routed = 4096 * 4 * imbalance(inputs)
    # 8 bytes for the bounds of each of the 2 x 2880 numbers before the activation, 28 for the 2880 after it.
    expected = inputs.copy_s(8 * 5760 * routed) + inputs.copy_s(28 * 2880 * routed)
    assert memory[0] - memory[1] == pytest.approx(expected)
    graphed = msgspec.structs.replace(inputs.parallel, graphs="full")
    # Kernels that a graph holds add biases themselves.
    counts = [
        sum(one.part == "memory" for one in blocks_of(replace(some, parallel=graphed))["moe"].forward)
        for some in (inputs, plain)
    ]
    assert counts[0] == counts[1]


def test_a_bounded_activation_lets_the_host_wait_for_the_number_that_it_copies_to_the_gpu():
    # ``linear_offset`` of NVIDIA/Megatron-LM 0.16, once more where the activation is computed again; the other copy is
    # that of counts before the dispatch. Graphs of everything could not hold such a copy.
    inputs = inputs_of("gpt-oss-20b", gpus=8, expert=8, global_batch=64)
    recomputed = msgspec.structs.replace(inputs.parallel, recompute="selective", recomputed=("expert_activation",))
    for parallel, forward, backward in (
        (inputs.parallel, 2, 0), (recomputed, 2, 1), (msgspec.structs.replace(inputs.parallel, graphs="full"), 0, 0),
    ):  # fmt: skip
        block = blocks_of(replace(inputs, parallel=parallel))["moe"]
        for operations, expected in ((block.forward, forward), (block.backward, backward)):
            assert sum(one.waits for one in operations) == sum(one.counts for one in operations) == expected


def test_an_activation_is_computed_again_before_the_gradients_of_the_matmul_that_takes_it():
    layout = {"gpus": 8, "expert": 8, "global_batch": 64}
    kept, again = (
        blocks_of(inputs_of("gpt-oss-20b", **layout, **more))["moe"].backward
        for more in ({}, {"recompute": "selective", "recomputed": ("expert_activation",)})
    )
    # From the last one on, gradients of the sum, the matmul of the output, the activation and the first matmul.
    first = [one.part for one in kept].index("expert_matmul")
    added = len(again) - len(kept)
    assert again == (*kept[:first], *again[first : first + added], *kept[first:])
    assert any(one.waits for one in again[first : first + added])


def test_eight_bits_shorten_attention_of_wide_heads_and_the_head():
    layout = {"precision": "mxfp8", "graphs": "full", "dispatcher": "hybridep", "micro_batch": 4}
    plain = predict_step(inputs_of(cluster="gb200-nvl72", **layout)).exposed_s
    inputs = inputs_of(cluster="gb200-nvl72", eight_bit_parts=("attention",), **layout)
    fewer = predict_step(inputs).exposed_s
    # Backward takes 2.9 times as long as forward: 1 / 1.44 and 2.9 / 1.32 of 3.9.
    assert fewer["attention"] == pytest.approx(plain["attention"] * (1 / 1.44 + 2.9 / 1.32) / 3.9, rel=0.02)
    # Queries, keys and values forward, 3 kernels, and the gradient of the output backward: 4.03 bytes a number.
    numbers = 32 * 128 + 2 * 4 * 128, 32 * 128
    once_s = sum(inputs.copy_s(4.03 * inputs.tokens * number) for number in numbers) + 4 * inputs.constants.kernel_gap_s
    assert fewer["memory"] - plain["memory"] == pytest.approx(48 * inputs.num_micro_batches * once_s)
    head = predict_step(inputs_of(cluster="gb200-nvl72", eight_bit_parts=("head",), **layout)).exposed_s
    assert head["dense_matmul"] < plain["dense_matmul"]
    assert head["attention"] == plain["attention"]


def test_eight_bits_do_not_shorten_attention_of_narrow_heads():
    layout = {"model": "gpt-oss-20b", "cluster": "gb200-nvl72", "precision": "mxfp8", "graphs": "full"}
    times = [predict_step(inputs_of(eight_bit_parts=parts, **layout)) for parts in ((), ("attention",))]
    assert times[0].exposed_s["attention"] == times[1].exposed_s["attention"]


def test_a_dispatcher_with_more_multiprocessors_slows_kernels_in_proportion():
    def slowed_s(number: int) -> float:
        layout = {"dispatcher": "hybridep", "overlap_expert": True, "graphs": "full", "micro_batch": 4}
        times = predict_step(inputs_of(cluster="gb200-nvl72", exchange_multiprocessors=number, **layout))
        return times.exposed_s["overlap_slowdown"]

    assert slowed_s(16) == slowed_s(0)
    # Beside an exchange, kernels lose a share of its time; slower ones leave fewer exchanges uncovered.
    assert slowed_s(32) == pytest.approx(2 * slowed_s(16), rel=0.1)


def test_matmuls_compute_whole_tiles():
    kernels = Kernels(inputs_of())
    assert kernels.matmul_s(4096, 2880, 2880, "matmul_bf16") == kernels.matmul_s(4096, 2944, 2880, "matmul_bf16")
    assert kernels.matmul_s(4096, 2944, 2880, "matmul_bf16") < kernels.matmul_s(4096, 2945, 2880, "matmul_bf16")


def test_a_gpu_is_faster_than_the_one_whose_kernels_stand_in_for_its_own():
    layout = {"precision": "mxfp8", "graphs": "full"}
    inputs = inputs_of(cluster="gb300-nvl72", **layout)
    tables = load_tables("b300")
    assert inputs.tables.time_s("matmul_bf16", 4096, 4096, 4096) == pytest.approx(
        tables.time_s("matmul_bf16", 4096, 4096, 4096) / inputs.gpu.kernels_speedup
    )
    assert inputs.tables.time_s("all_gather", 1e6, 8) == tables.time_s("all_gather", 1e6, 8)


def check_scan(inputs, flop, moved):
    """Tell that a scan takes operations and bytes of each token, and twice to three times as long backward."""
    (scan,) = [item for item in state_space_items(Kernels(inputs), inputs.model.state_space)
               if item.forward and item.forward[0].part == "state_space"]  # fmt: skip
    rate = inputs.constants.scan_peak_share * inputs.gpu.peak_flop_per_s
    assert scan.forward[0].gpu_s == pytest.approx(flop * inputs.tokens / rate + inputs.copy_s(moved * inputs.tokens))
    assert 2 < scan.backward[0].gpu_s / scan.forward[0].gpu_s < 3


def test_a_scan_takes_the_operations_and_bytes_of_its_kernels():
    # 64 heads of 64, states of 128 numbers, 8 groups, chunks of 128 tokens: keys by keys 2 * 128 * 1024, times inputs
    # 2 * 128 * 4096, states made and used 4 * 128 * 4096.
    flop = 2 * 128 * 1024 + 2 * 128 * 4096 + 4 * 128 * 4096
    # States 6, convolved 2, inner 9, keys 4, products 4 of 2 bytes.
    moved = 2 * (6 * 4096 + 2 * 6144 + 9 * 4096 + 4 * 1024 + 4 * 1024)
    check_scan(inputs_of("nemotron-3-nano", "gb200-nvl72", 8, precision="mxfp8", micro_batch=2), flop, moved)


def test_a_scan_of_the_gated_delta_rule_takes_the_operations_of_its_kernels():
    # 32 heads of 128, each with keys of 128, chunks of 64 tokens. Keys by keys, w and queries by keys, u and values by
    # products: 2 * 64 * 4096 each; w by states, states made and used: 2 * 128 * 4096 each.
    flop = 5 * 2 * 64 * 4096 + 3 * 2 * 128 * 4096
    # Numbers that are read or written: states 2 of 8192, convolved 2 of 8192, values 15 and keys 9 of 4096, keys of a
    # group 10 of 2048, products 2 of 2048.
    moved = 2 * (2 * 8192 + 2 * 8192 + 24 * 4096 + 10 * 2048 + 2 * 2048)
    check_scan(inputs_of("qwen3-next-80b-a3b", "h100x64", 8, recompute="none"), flop, moved)


def test_dense_layers_stand_where_the_model_has_them():
    # Llama4TextConfig of Transformers: every second layer has experts, from layer 1 on. DeepSeek-V3 begins with three.
    maverick, deepseek = (load_spec(ModelSpec, name) for name in ("llama4-maverick", "deepseek-v3"))
    assert maverick.moe_layers == list(range(1, 48, 2))
    assert deepseek.moe_layers == list(range(3, 61))
    first, *_, last = parts_of(maverick, ParallelSpec(global_batch=8, pipeline=4))
    for part in (first, last):
        assert sum(number for name, number in part if name.endswith("moe")) == 6
        assert sum(number for name, number in part if name.endswith("dense")) == 6


def test_a_mixer_and_its_experts_are_one_layer_where_a_model_has_as_many_of_both():
    qwen, nano = (load_spec(ModelSpec, name) for name in ("qwen3-next-80b-a3b", "nemotron-3-nano"))
    layers = layers_of(qwen)
    assert (layers.count("state_space moe"), layers.count("attention moe"), len(layers)) == (36, 12, 48)
    # 23 scans, 6 attention and 23 MoE layers, each one of 52.
    assert len(layers_of(nano)) == 52
    layout = ParallelSpec(global_batch=8, pipeline=4, stages="Ettttttttttt|t*13|t*13|t*11L")
    assert [sum(number for _, number in part) for part in parts_of(qwen, layout)] == [12, 13, 13, 12]


def test_a_gate_of_attention_takes_a_projection_as_wide_as_the_heads_and_a_product():
    plain = inputs_of(micro_batch=2)
    gated = replace(plain, model=override(plain.model, {"attention.gated": True}, "gated"))
    # 32 heads of 128 numbers and a width of 2048, in 48 layers: six operations for each parameter.
    assert flop_per_token(gated) - flop_per_token(plain) == 48 * 6 * 32 * 128 * 2048
    kernels = [
        [sum(len(getattr(one, name)) for one in attention_items(Kernels(inputs), inputs.model.attention, 0))
         for name in ("forward", "backward")]
        for inputs in (plain, gated)
    ]  # fmt: skip
    assert np.subtract(kernels[1], kernels[0]).tolist() == [1, 1]


def test_scans_take_sequences_first():
    def copied(micro_batch: int) -> list[float]:
        inputs = inputs_of("nemotron-3-nano", "gb200-nvl72", 8, micro_batch=micro_batch, global_batch=64)
        items = state_space_items(Kernels(inputs), inputs.model.state_space)
        return [sum(one.kernels for item in items for one in getattr(item, name)) for name in ("forward", "backward")]

    # One sequence is first and last. Of two, the projection is copied, its gradient, and what the scan gives.
    assert np.subtract(copied(2), copied(1)).tolist() == [2, 1]


def attention_ms(**changes) -> list[float]:
    """Return the forward and backward time of attention of GPT-OSS on an H200, four sequences of 4,096."""
    inputs = inputs_of("gpt-oss-120b", "h200x64", 64, expert=64, micro_batch=4)
    attention = msgspec.structs.replace(inputs.model.attention, **changes)
    model = msgspec.structs.replace(inputs.model, attention=attention)
    blocks = blocks_of(replace(inputs, model=model))
    block = blocks["window" if attention.num_window_layers else "attention"]
    return [
        1e3 * sum(one.gpu_s for one in operations if one.part == "attention")
        for operations in (block.forward, block.backward)
    ]


def test_chunks_take_what_sequences_of_their_length_take():
    # Four sequences of 4,096 in chunks of 1,024 are sixteen of 1,024, and no window beside the whole sequence.
    inputs = inputs_of("gpt-oss-120b", "h200x64", 64, expert=64, micro_batch=4)
    attention = msgspec.structs.replace(inputs.model.attention, sinks=False, num_window_layers=0, window=0)
    short = msgspec.structs.replace(inputs.model, attention=attention, sequence_length=1024)
    parallel = msgspec.structs.replace(inputs.parallel, micro_batch=16, global_batch=4 * inputs.parallel.global_batch)
    block = blocks_of(replace(inputs, model=short, parallel=parallel))["attention"]
    alone = [
        1e3 * sum(one.gpu_s for one in operations if one.part == "attention")
        for operations in (block.forward, block.backward)
    ]
    assert attention_ms(window=1024, chunked=True, sinks=False) == pytest.approx(alone)
    long = msgspec.structs.replace(load_spec(ModelSpec, "llama4-scout"), sequence_length=32768)
    plain = msgspec.structs.replace(long, attention=msgspec.structs.replace(long.attention, num_window_layers=0))
    # Of 48 layers 36 see half of 8,192 tokens each instead of half of 32,768.
    scout = inputs_of("llama4-scout", gpus=64)
    flop = [flop_per_token(replace(scout, model=model)) for model in (plain, long)]
    assert flop[0] - flop[1] == 6 * long.score_dim * 36 * (32768 - 8192) / 2


def test_attention_takes_what_was_measured_on_an_h200():
    # cuDNN 9.19: 1.31 and 3.65 ms.
    assert attention_ms(window=0, num_window_layers=0, sinks=False) == pytest.approx([1.31, 3.65], rel=0.05)


def test_gpus_that_share_an_experts_matrices_have_the_work_of_those_that_do_not():
    def forward_s(part: str, expert_tensor: int) -> float:
        block = blocks_of(inputs_of("mixtral-8x7b", expert=4, expert_tensor=expert_tensor))["moe"]
        return sum(one.gpu_s for one in block.forward if one.part == part)

    # Twice the tokens for each of two GPUs, half the columns; they gather the tokens and scatter the sums.
    assert forward_s("expert_matmul", 2) == pytest.approx(forward_s("expert_matmul", 1), rel=0.05)
    inputs = inputs_of("mixtral-8x7b", expert=4, expert_tensor=2)
    shared_s = inputs.collective_s("all_gather", 2 * 4096 * routed_tokens(inputs), 2, 1)
    # Chance is a little more even over the tokens of both.
    exchanges_s = forward_s("expert_exchange", 2) - forward_s("expert_exchange", 1)
    assert exchanges_s == pytest.approx(2 * shared_s, rel=0.01)


@pytest.mark.parametrize(("window", "measured"), [(128, (0.200, 0.274)), (512, (0.352, 0.411)), (1024, (0.539, 0.579))])
def test_a_window_takes_its_share_of_attention(window, measured):
    # cuDNN 9.19 on an H200: 1.31 and 3.65 ms without a window; 0.26 and 1.00, 0.46 and 1.50, 0.70 and 2.11 with one.
    whole = attention_ms(window=0, num_window_layers=0, sinks=False)
    shares = np.divide(attention_ms(window=window, sinks=False), whole)
    assert shares == pytest.approx(measured, rel=0.16)


def test_the_gradient_of_a_sink_takes_as_long_as_measured():
    # cuDNN 9.19 on an H200: 5.28 ms backward instead of 3.65, and 2.71 instead of 1.00 in a window; forward the same.
    with_sinks, without = attention_ms(), attention_ms(sinks=False)
    assert np.subtract(with_sinks, without) == pytest.approx([0, 1.65], rel=0.05)


def test_muon_holds_one_moment_and_multiplies_matrices():
    adam, muon = (inputs_of(optimizer=name, sharding="none") for name in ("adam", "muon"))
    assert memory_bytes(muon)["optimizer"] == pytest.approx(8 / 12 * memory_bytes(adam)["optimizer"])
    parts = [predict_step(inputs).exposed_s["optimizer"] for inputs in (adam, muon)]
    # Matrices n x m of a layer: 16 experts of a GPU, gate and up joined, and down; queries, keys, values and output.
    # Five times 2 (2 n^2 m) + 2 n^3 operations each, at less than the peak and more than a third of it. Words are
    # Adam's.
    matrices = [(16, 2 * 768, 2048), (16, 768, 2048), (2, 2048, 32 * 128), (2, 4 * 128, 2048)]
    flop = 48 * sum(number * 5 * (4 * n**2 * m + 2 * n**3) for number, n, m in matrices)
    peak_s = flop / adam.gpu.peak_flop_per_s
    assert peak_s < parts[1] - parts[0] < 3 * peak_s


def test_muon_makes_queries_keys_and_values_orthogonal_apart(monkeypatch):
    # Mixtral 8x7B: 32 and twice 8 heads of 128 over 4,096 numbers, and an output (``split_qkv`` of Megatron-LM 0.16.1).
    sizes = []
    monkeypatch.setattr(KernelTables, "time_s", lambda _self, _kernel, *some: sizes.append(some) or 1e-6)
    inputs = inputs_of("mixtral-8x7b", optimizer="muon")
    sizes.clear()
    orthogonal_s(inputs)
    squares = {some for some in sizes if 0 < some[0] < some[2]}
    assert squares == {(1024, 1024, 4096), (4096, 4096, 28672), (4096, 4096, 14336)}


def test_the_optimizer_takes_as_long_as_on_the_stage_with_most_to_update():
    layout = {"pipeline": 3, "stages": "Et*14|t*20|t*14L", "expert": 128, "global_batch": 128}
    inputs = inputs_of("qwen3-30b-a3b", "dgx-h100", 384, **layout)
    # A GPU has one expert of a layer, which no other has; 128 hold the rest. The stages at the ends hold most, words of
    # 311 million numbers, and the one between updates most.
    expert, dense = 3 * 2048 * 768, (2 * 32 + 2 * 4) * 128 * 2048 + 128 * 2048
    updated, held = 20 * (expert + dense / 128), 20 * (expert + dense)
    seconds = (34 * updated + 4 * held) / inputs.gpu.moved_bytes_per_s
    assert predict_step(inputs).exposed_s["optimizer"] == pytest.approx(seconds)
    # Gradients of 16 bits are read and written in 32 first, and are less to zero.
    half = inputs_of("qwen3-30b-a3b", "dgx-h100", 384, **layout, gradient_bytes=2)
    seconds = ((34 + 6) * updated + 2 * held) / inputs.gpu.moved_bytes_per_s
    assert predict_step(half).exposed_s["optimizer"] == pytest.approx(seconds)
    # Weights are read in 16 bits and written twice in 8.
    short = inputs_of("qwen3-30b-a3b", "dgx-h100", 384, **layout, precision="fp8")
    seconds = (34 * updated + (4 + 2 + 2) * held) / inputs.gpu.moved_bytes_per_s
    assert predict_step(short).exposed_s["optimizer"] == pytest.approx(seconds)


def test_recomputed_attention_runs_twice():
    once, twice = (
        predict_step(inputs_of(**layout)).exposed_s["attention"]
        for layout in ({}, {"recompute": "selective", "recomputed": ["attention_core"]})
    )
    # Forward 1, backward 2.9 times as long.
    assert twice / once == pytest.approx(4.9 / 3.9, rel=0.01)


def test_recomputation_that_stops_early_spares_the_combine():
    full, early = (
        blocks_of(inputs_of(recompute="full", recompute_stops_early=early))["moe"].backward for early in (False, True)
    )
    counts = [sum(one.part == "expert_exchange" for one in operations) for operations in (full, early)]
    assert counts == [4, 3]
    matmuls = [sum(one.gpu_s for one in some if one.part == "expert_matmul") for some in (full, early)]
    assert matmuls[0] == matmuls[1]


def test_offloading_frees_memory_and_moves_its_bytes_over_the_host_link():
    inputs = inputs_of(graphs="full")
    offloaded = inputs_of(graphs="full", offloaded=["expert_input", "optimizer"])
    assert memory_bytes(offloaded)["optimizer"] == 0
    # Eight inputs of 2048 numbers of 2 bytes for each of 4096 tokens, in 48 layers.
    saved = memory_bytes(inputs)["activations"] - memory_bytes(offloaded)["activations"]
    assert saved == pytest.approx(48 * 4096 * 8 * 2048 * 2)
    step = predict_step(offloaded)
    moved = step.exposed_s["offload"] + step.hidden_s["offload"]
    states = memory_bytes(inputs)["optimizer"]
    expected = 2 * inputs.num_micro_batches * saved * imbalance(inputs) + 2 * states
    assert moved == pytest.approx(expected / inputs.cluster.host.link_bytes_per_s, rel=0.01)


def test_a_thin_spine_slows_exchanges_between_pods():
    inputs = inputs_of("deepseek-v3", "dgx-h100", 64, expert=64, global_batch=64, dispatcher="deepep")
    thin = override(inputs.cluster, {"network.nodes_per_pod": 2, "network.spine_share": 0.25}, "cluster")
    slow = replace(inputs, cluster=thin)
    # Of eight domains, four pods: 7/8 of the copies leave the domain and 3/4 the pod, these at a quarter of the rate.
    # Longer messages are a little faster.
    assert exchange_s(slow) / exchange_s(inputs) == pytest.approx((3 / 4) / (7 / 8) * 4, rel=0.05)
    whole = override(thin, {"network.spine_share": 1.0}, "cluster")
    assert exchange_s(replace(inputs, cluster=whole)) == exchange_s(inputs)


def test_rates_across_nodes_grow_with_messages_as_measured():
    inputs = inputs_of("deepseek-v3", "dgx-h100", 16, expert=8, global_batch=16)
    curve, share = inputs.constants.gather_curve_us, 36.67e9 / inputs.nic_bytes_per_s
    # All-gather over two B200 with a NIC each (DraNet documentation): half of 64 KiB, 2 MiB and 1 GiB crosses.
    for megabytes, measured_us in ((1 / 32, 22.3), (1 / 1024, 22.3), (1, 63.2), (512, 14640)):
        assert inputs.across_s(curve, megabytes * 2**20, share) == pytest.approx(1e-6 * measured_us, rel=0.01)
    # A NIC of a quarter of the rate takes as long for a quarter of the bytes.
    assert inputs.across_s(curve, 2**18, share / 4) == pytest.approx(63.2e-6, rel=0.01)


def test_eight_bit_experts_copy_tokens_where_the_dispatcher_does_not_align_them():
    def memory_s(dispatcher, precision):
        layout = {"expert": 8, "dispatcher": dispatcher, "precision": precision, "graphs": "none"}
        inputs = inputs_of("qwen3-30b-a3b", "dgx-b200", **layout)
        operations = blocks_of(inputs)["moe"].forward
        return inputs, sum(one.gpu_s for one in operations if one.part == "memory")

    # Tokens are read and written before and after the experts, 2 bytes a number of 2048; permutations are alike.
    inputs, deepep_s = memory_s("deepep", "mxfp8")
    routed = 4096 * 8 * imbalance(inputs)
    copied_s = 2 * inputs.copy_s(4 * 2048 * routed)
    assert deepep_s - memory_s("hybridep", "mxfp8")[1] == pytest.approx(copied_s)
    assert memory_s("deepep", "bf16")[1] == pytest.approx(memory_s("hybridep", "bf16")[1])


def test_sharded_parameters_are_gathered_in_every_micro_batch():
    sharded = [inputs_of(gpus=16, global_batch=batch, sharding="full") for batch in (64, 128)]
    moved = [
        step.exposed_s["gradient_exchange"] + step.hidden_s["gradient_exchange"] for step in map(predict_step, sharded)
    ]
    assert moved[1] == pytest.approx(2 * moved[0])
    once = [predict_step(inputs_of(gpus=16, global_batch=batch)) for batch in (64, 128)]
    totals = [step.exposed_s["gradient_exchange"] + step.hidden_s["gradient_exchange"] for step in once]
    assert totals[0] == pytest.approx(totals[1])


OWN_EXCHANGES = {"overlap_gradients": False, "overlap_parameters": False}


@pytest.mark.parametrize(
    ("layout", "times", "width", "cast"),
    [
        ({}, 2, 2, 0),
        # What stays gathered for the backward pass comes once.
        ({"reshard_after_forward": False}, 1, 2, 0),
        # Parameters of 8 bits are gathered in 8; others are cast in each pass, from 2 bytes to 1.
        ({"precision": "fp8"}, 2, 1, 0),
        ({"precision": "fp8", "eight_bit_parameters": False}, 2, 2, 2 * (2 + 1)),
        ({"precision": "fp8", "eight_bit_parameters": False, "reshard_after_forward": False}, 1, 2, 2 * (2 + 1)),
        ({"precision": "fp8", "eight_bit_parameters": False, "recompute": "full"}, 2, 2, 3 * (2 + 1)),
    ],
)
def test_sharded_parameters_go_layer_by_layer_and_those_of_the_head_are_gathered_once(layout, times, width, cast):
    inputs = inputs_of(gpus=16, expert=16, sharding="full", global_batch=16, **OWN_EXCHANGES, **layout)
    # 48 layers of 32 heads of 128 and 4 of keys and values, and a gate of 128 experts, which one GPU has alone.
    layer, ends = (2 * 32 + 2 * 4) * 128 * 2048 + 128 * 2048, 151936 * 2048
    experts = 128 // 16 * 3 * 2048 * 768

    def seconds(kernel: str, width: int, params: int) -> float:
        return inputs.collective_s(kernel, width * params, 16, 1)

    gathers = times * 48 * seconds("all_gather", width, layer) + (times + 1) * seconds("all_gather", 2, ends)
    scatters = 48 * seconds("reduce_scatter", 4, layer) + 2 * seconds("reduce_scatter", 4, ends)
    # Copies out of gathered buffers read and write what was gathered; those into a scattered one read 2 and write 4.
    copied = 48 * layer * (times * 2 * width + 6) + ends * (times * 4 + 6) + ends * (4 + 6)
    copied += 48 * cast * (layer + experts)
    expected = gathers + scatters + copied / inputs.gpu.moved_bytes_per_s
    assert predict_step(inputs).exposed_s["gradient_exchange"] == pytest.approx(expected)


def test_replicas_sum_the_gradients_that_their_ranks_own():
    # Two nodes of eight divide 4e7 parameters each, and both have 1e7 of experts, whole on each of their GPUs. The
    # eighth of a gradient of 4 bytes goes to the other node and its sum comes back, as those of experts do.
    inputs = inputs_of(gpus=16, expert=8, data_replicate=2)
    held = StageParameters(4e7, 1e7)
    half_s = [inputs.collective_s("reduce_scatter", 4 * params, 2, 8) for params in (4e7 / 8, 1e7)]
    across = inputs.across_s(inputs.constants.gather_curve_us, 4 * 1e7 / 2, inputs.constants.gather_nic_share)
    assert half_s[1] == pytest.approx(across + inputs.cluster.network.nic_latency_s)
    scattered_s = inputs.tables.collective_s("reduce_scatter", 4 * 4e7, 8)
    assert exchange_of(inputs, held, "reduce_scatter").seconds == pytest.approx(scattered_s + 2 * sum(half_s))
    # Parameters come from the ranks of a node, and no GPU lacks experts.
    gathered_s = inputs.tables.collective_s("all_gather", 2 * 4e7, 8)
    assert exchange_of(inputs, held, "all_gather").seconds == pytest.approx(gathered_s)


@pytest.mark.parametrize("sharding", ["optimizer", "full"])
def test_as_many_replicas_as_ranks_divide_nothing(sharding):
    layout = {"gpus": 16, "expert": 1, "global_batch": 16, **OWN_EXCHANGES}
    replicas, whole = (
        predict_step(inputs_of(**layout, **fields))
        for fields in ({"sharding": sharding, "data_replicate": 16}, {"sharding": "none"})
    )
    assert replicas.memory_bytes["optimizer"] == whole.memory_bytes["optimizer"]
    if sharding == "optimizer":
        assert replicas.step_s == pytest.approx(whole.step_s)


def test_ranks_of_more_than_a_rack_spread_over_whole_racks():
    # 128 ranks fill two racks of 72 to 64. Half of what a rank sends leaves the rack, and a NIC carries a 64th of half
    # of a gather.
    inputs = inputs_of("deepseek-v3", "gb200-nvl72", gpus=128, expert=128)
    inputs = replace(inputs, cluster=override(inputs.cluster, {"network.nic_bytes_per_s": "x0.1"}, "cluster"))

    def across_s(num_bytes: float, share: float) -> float:
        return inputs.across_s(inputs.constants.gather_curve_us, num_bytes, share)

    sent = 2 * 7168 * 8 * inputs.own_tokens
    assert exchange_s(inputs) == pytest.approx(across_s(sent / 2, inputs.constants.all_to_all_nic_share))
    gathered_s = across_s(2**34 / 2 / 64, inputs.constants.gather_nic_share) + inputs.cluster.network.nic_latency_s
    assert inputs.collective_s("all_gather", 2**34, 128, 1) == pytest.approx(gathered_s)


def test_replicas_divide_ranks_and_copies_of_experts():
    for replicas, told in ((3, "16 data-parallel ranks"), (4, "2 copies of an expert")):
        with pytest.raises(SpecError, match=rf"data_replicate \({replicas}\) must divide {told}"):
            inputs_of(gpus=16, expert=8, data_replicate=replicas)


@pytest.mark.parametrize(
    ("cluster", "layout", "width"),
    [
        ("dgx-h100", {"precision": "fp8"}, 1),
        ("dgx-h100", {"precision": "fp8_block"}, 1),
        ("dgx-h100", {"precision": "fp8_block", "eight_bit_parameters": False}, 2),
        # Those of MXFP8 go through a buffer of 16 bits, but for Megatron-FSDP.
        ("dgx-b200", {"precision": "mxfp8"}, 2),
        ("dgx-b200", {"precision": "mxfp8", "sharding": "full", "pipeline": 2}, 1),
        ("dgx-b200", {"precision": "nvfp4"}, 2),
    ],
)
def test_parameters_are_gathered_in_the_bits_that_they_have_and_words_in_16(cluster, layout, width):
    inputs = inputs_of(cluster=cluster, gpus=8, expert=1, **layout)
    ranks = 8 // inputs.parallel.pipeline
    seconds = inputs.collective_s("all_gather", width * 3e7 + 2 * 1e7, ranks, 1)
    assert exchange_of(inputs, StageParameters(4e7, 0.0), "all_gather", 1e7).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("layout", "state", "moved"),
    [
        # Adam reads gradients twice, weights and two moments, writes these and the parameter, all but this in fp32.
        ({}, 12, 4 + 4 + 2 * (4 + 4 + 4) + 2),
        ({"gradient_bytes": 2}, 12, 2 + 4 + 4 + 4 + 2 * (4 + 4 + 4) + 2),
        # Moments in 16 bits; of weights, the half that parameters lack. Gradients are read as they are.
        ({"moment_bytes": 2}, 6, 4 + 4 + 2 * (2 + 2 + 2) + 2 + 2),
        ({"moment_bytes": 2, "gradient_bytes": 2}, 6, 2 + 2 + 2 * (2 + 2 + 2) + 2 + 2),
        # Parameters in 8 bits have no half of a weight.
        ({"moment_bytes": 2, "gradient_bytes": 2, "precision": "fp8"}, 8, 2 + 4 + 4 + 4 + 2 * (4 + 2 + 2) + 2),
    ],
)
def test_moments_of_16_bits_take_less_memory_and_move_fewer_bytes(layout, state, moved):
    inputs = inputs_of(gpus=16, expert=1, **layout)
    assert memory_bytes(inputs)["optimizer"] == pytest.approx(state * inputs.model.total_params / 16)
    assert updated_bytes(inputs) == moved


def test_moments_of_16_bits_are_those_of_adam():
    with pytest.raises(SpecError, match="moment_bytes 2 need optimizer = 'adam', not 'muon'"):
        inputs_of(moment_bytes=2, optimizer="muon")


@pytest.mark.parametrize("layout", [{}, {"overlap_expert": True}, {"graphs": "full", "overlap_expert": True}])
def test_the_streams_of_a_layer_do_one_thing_at_a_time(layout):
    spans = StepModel(inputs_of(**layout)).spans()
    assert {"kernels", "exchanges"} <= {span.stream for span in spans}
    for stream in {span.stream for span in spans}:
        times = sorted((span.start_s, span.end_s) for span in spans if span.stream == stream)
        assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(times))
    assert min(span.start_s for span in spans if span.stream != "host") == 0


def test_stages_are_read_as_written():
    model = msgspec.structs.replace(load_spec(ModelSpec, "qwen3-30b-a3b"), num_layers=6, num_moe_layers=6)
    parallel = msgspec.structs.replace(inputs_of().parallel, pipeline=2, virtual_stages=2, stages="Et|(t*2|)*2tL")
    layer = "attention moe"
    expected = [(("embedding", 1), (layer, 1)), ((layer, 2),), ((layer, 2),), ((layer, 1), ("head", 1))]
    assert parts_of(model, parallel) == tuple(expected)


def test_a_stage_without_layers_takes_no_time():
    steps = [predict_step(inputs_of(pipeline=2, stages=stages)) for stages in ("|Et*48L", "E|t*48L")]
    assert steps[0].step_s == pytest.approx(steps[1].step_s, rel=0.01)


def test_states_go_to_the_host_while_gradients_are_exchanged():
    slow = override(load_spec(ClusterSpec, "dgx-h100"), {"host.link_bytes_per_s": 1e9}, "cluster")
    inputs = replace(inputs_of(), cluster=override(slow, {"num_nodes": 2}, "cluster"))
    steps = [
        predict_step(replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, **fields)))
        for fields in ({}, {"offloaded": ("optimizer",)}, {"offloaded": ("optimizer",), "overlap_gradients": False})
    ]
    # 1.5 billion parameters outside experts over 16 ranks, and 16 of 128 experts of 29 billion over two.
    moved_s = 2 * memory_bytes(inputs)["optimizer"] / 1e9
    assert moved_s > 2 * steps[0].step_s
    for step in steps[1:]:
        assert step.step_s == pytest.approx(moved_s + step.exposed_s["optimizer"] + step.exposed_s["fixed"])


def two_parts_a_stage():
    """Return the inputs of two stages of two parts, what each part holds, and how their passes run."""
    inputs = inputs_of(pipeline=2, virtual_stages=2, overlap_parameters=True, overlap_gradients=True)
    # Four buckets over eight ranks: 1.6e8 parameters of 4e7 each.
    return inputs, StageParameters(1.6e8, 0.0), run_pipeline([PartTime(1.0, 1.0)] * 4, 2, 2, 0.0)


def test_parameters_of_a_stages_parts_come_one_after_the_other_and_hide_behind_the_passes_before():
    inputs, held, schedule = two_parts_a_stage()
    whole_s, bucket_s = exchange_of(inputs, held, "all_gather")
    assert bucket_s == pytest.approx(whole_s / 4)

    def exposed(forward: tuple[float, float], second_at: float) -> float:
        """Return exposed gathers, in times of one; parts are alike, and gradients come early."""
        times = [PartTime(whole_s * forward[part // 2], 1.0) for part in range(4)]
        starts_s = [0.0, 0.0, whole_s * second_at, whole_s * second_at]
        early = replace(schedule, first_s=starts_s, last_s=[1e9] * 4)
        return exchanges_of_step(inputs, [held] * 4, times, early)[0] / whole_s

    # Nothing to hide behind: both gathers.
    assert exposed((0.0, 0.0), 0.0) == pytest.approx(2)
    # Both are there after 2; the second part begins at 0.5 and can do with the last bucket at its end, at 1.
    assert exposed((0.5, 0.5), 0.5) == pytest.approx(2 - 0.5 - 0.5)
    # Long passes hide all but the first bucket of each part: that of the second comes at 1.25, and is needed at 0.5.
    assert exposed((9.0, 9.0), 0.5) == pytest.approx(1 + 0.25 - 0.5)
    # The first part begins with the step, and its first bucket is never hidden.
    assert exposed((9.0, 9.0), 9.0) == pytest.approx(0.25)


def test_gradients_of_a_stages_parts_leave_in_the_order_in_which_they_are_made():
    inputs, held, schedule = two_parts_a_stage()
    whole_s, bucket_s = exchange_of(inputs, held, "reduce_scatter")
    assert bucket_s == pytest.approx(whole_s / 4)

    def exposed(made_before_end: tuple[float, float], makes: float) -> float:
        """Return exposed gradients of two parts, in times of one; parameters come early."""
        last_s = [whole_s * made_before_end[part // 2] for part in range(4)]
        early = replace(schedule, first_s=[1e9] * 4, last_s=last_s, makes_s=[whole_s * makes] * 4)
        return exchanges_of_step(inputs, [held] * 4, [PartTime(1.0, 1.0)] * 4, early)[0] / whole_s

    # Made at once at the end: both exchanges, one after the other.
    assert exposed((0.0, 0.0), 0.0) == pytest.approx(2)
    # The second part's begins with its last pass, 5 before the end, and takes 1. The first part's begins 0.5 before the
    # end, or with a long pass earlier, and then only the last bucket is left.
    assert exposed((0.0, 4.5), 0.5) == pytest.approx(0.5)
    assert exposed((0.0, 4.5), 9.0) == pytest.approx(0.25)
    # The first part waits for the second, whose gradients are there 0.25 before the end and begin at 0.75 before it.
    assert exposed((0.0, 0.25), 0.5) == pytest.approx(2 - 0.75)


def test_a_mixture_of_a_published_run_takes_the_memory_it_took():
    # Qwen3-30B-A3B in 16 bits on 16 H100, expert parallelism 16, sequences of 4096: at most 61.35 GB allocated
    # (NVIDIA-NeMo/Megatron-Bridge, training/moe-optimization), which leaves out context and NCCL.
    memory = memory_bytes(inputs_of(expert=16, global_batch=1024, gradient_bytes=2))
    assert sum(memory.values()) - memory["runtime"] == pytest.approx(61.35e9, rel=0.1)


def test_a_published_run_that_ran_out_of_memory_does_not_fit_and_its_remedy_does():
    # Qwen3.5-35B-A3B on 16 H100: with expert parallelism 8, parameters, gradients and weights in fp32 take 41.7 GiB,
    # and the second step runs out of memory; with 16 it does not (NVIDIA-NeMo/Megatron-Bridge,
    # perf-moe-dispatcher-selection). One sequence of 4,096 tokens is taken, which the publication does not tell.
    few, many = (inputs_of("qwen3.5-35b-a3b", expert=expert, global_batch=1024) for expert in (8, 16))
    memory = memory_bytes(few)
    built = memory["parameters"] + memory["gradients"] + memory["optimizer"] * 4 / 12
    assert built == pytest.approx(41.7 * 2**30, rel=0.1)
    assert sum(memory.values()) > few.gpu.memory_bytes > sum(memory_bytes(many).values())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tensor": 3}, "tensor x pipeline x context"),
        ({"expert": 3}, "pipeline x expert x expert_tensor"),
        ({"global_batch": 7}, "must be a multiple of"),
        ({"context": 2, "sequence_length": 4098}, "2 x context (4) must divide the sequence of 4098 tokens"),
        ({"pipeline": 2, "virtual_stages": 32}, "must not exceed the 48 layers"),
        ({"virtual_stages": 2}, "need pipeline stages"),
        ({"recomputed": ["norm"]}, "recomputed (norm) needs recompute = 'selective', not 'none'"),
        ({"recompute": "selective"}, "needs `recomputed` modules"),
        ({"precision": "mxfp8"}, "precision 'mxfp8' needs tensor cores that scale blocks of numbers"),
        ({"precision": "nvfp4"}, "and h100 has none; take 'fp8' or 'fp8_block'"),
        ({"precision": "fp7"}, "`precision`: expected one of bf16, fp8, fp8_block, mxfp8, nvfp4, found 'fp7'"),
        ({"tensr": 2}, "did you mean 'tensor'"),
        ({"pipeline": 2, "stages": "Et|tL"}, "must have 2 parts"),
        ({"stages": "Ex*48L"}, "of E, 48 t and L in this order"),
        ({"stages": "t*48"}, "of E, 48 t and L in this order"),
        ({"stages": "Et*48LL"}, "of E, 48 t and L in this order"),
        ({"stages": "LEt*48"}, "of E, 48 t and L in this order"),
        ({"stages": "Et*48mL"}, "of E, 48 t and L in this order"),
        ({"stages": "(((((t*999)*999)*999)*999)*999)*999"}, "of E, 48 t and L in this order"),
        ({"schedule": "dualpipe", "pipeline": 3}, "dualpipe needs an even number of stages"),
        ({"pad_to_capacity": True}, "pad_to_capacity needs a capacity_factor"),
        ({"recompute_stops_early": True}, "needs recompute = 'full'"),
    ],
)
def test_an_impossible_layout_is_refused_in_a_line(layout, message):
    with pytest.raises(SpecError) as error:
        predict_step(inputs_of(**layout))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_search_finds_the_fastest_of_the_layouts_that_fit():
    inputs = inputs_of(gpus=8, global_batch=64)
    found = search_layouts(inputs, most=3)
    steps = [candidate.time.step_s for candidate in found.candidates]
    assert steps == sorted(steps)
    best = found.candidates[0]
    assert sum(best.time.memory_bytes.values()) <= inputs.gpu.memory_bytes
    for tensor, expert, micro_batch in itertools.product((1, 2), (4, 8), (1, 2)):
        layout = {"tensor": tensor, "expert": expert, "micro_batch": micro_batch, "global_batch": 64}
        rival = inputs_of(gpus=8, **layout)
        if sum(memory_bytes(rival).values()) <= 0.92 * rival.gpu.memory_bytes:
            assert predict_step(rival).step_s >= best.time.step_s * (1 - 1e-9)


@pytest.mark.parametrize("layout", [{}, {"overlap_expert": True}, {"sharding": "full", "optimizer": "muon"}])
def test_a_search_finds_what_predicting_every_layout_that_fits_finds(layout):
    inputs = inputs_of("olmoe-1b-7b", gpus=8, global_batch=64, **layout)
    found = search_layouts(inputs, 5)
    limit = USABLE_SHARE * inputs.gpu.memory_bytes
    steps_s, sizes = [], (1, 2, 4, 8)
    # None, that of norms and expert activations, and all of it.
    recomputes = [("none", ()), ("selective", ("norm", "expert_activation")), ("full", ())]
    for tensor, pipeline, virtual, expert, micro, (recompute, modules) in itertools.product(
        sizes, sizes, sizes, sizes, sizes, recomputes
    ):
        fields = {
            "tensor": tensor, "pipeline": pipeline, "virtual_stages": virtual, "expert": expert, "micro_batch": micro,
            "recompute": recompute, "recomputed": modules,
        }  # fmt: skip
        if virtual > 1 and pipeline == 1:
            continue
        if "overlap_expert" in layout and expert > 1 and (recompute == "full" or virtual == 1 < pipeline):
            continue  # assertions of NVIDIA/Megatron-LM 0.16
        with contextlib.suppress(SpecError, ValueError):
            one = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, **fields))
            if sum(memory_bytes(one).values()) <= limit:
                steps_s.append(predict_step(one).step_s)
    assert found.num_fitting == len(steps_s)
    assert [one.time.step_s for one in found.candidates] == sorted(steps_s)[:5]


@pytest.mark.parametrize(
    "layout",
    [
        {}, {"overlap_expert": True}, {"sharding": "full"}, {"pipeline": 4, "schedule": "dualpipe"},
        {"pipeline": 4, "virtual_stages": 2, "overlap_expert": True}, {"pipeline": 2, "offloaded": ["optimizer"]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("global_batch", [128, 1024])
def test_no_step_is_shorter_than_the_bound_by_which_a_search_leaves_it_out(layout, global_batch):
    for expert, pipeline in itertools.product((1, 8), (1, 2, 4)):
        wide = {"pipeline": pipeline, "tensor": 2, "expert": expert, "global_batch": global_batch} | layout
        model = StepModel(inputs_of(gpus=32, **wide))
        step_s = model.predict().step_s
        assert 0.3 * step_s < model.least_s <= step_s * (1 + 1e-9)


def test_a_search_for_as_many_as_there_are_finds_every_layout_that_fits():
    found = search_layouts(inputs_of("olmoe-1b-7b", gpus=2, expert=1, global_batch=16), 10_000)
    steps_s = [one.time.step_s for one in found.candidates]
    assert len(steps_s) == found.num_fitting
    assert steps_s == sorted(steps_s)


def test_a_search_keeps_tensor_parallelism_inside_a_node():
    inputs = inputs_of(gpus=16)
    assert {one.tensor for one in layouts_tried(inputs.parallel, inputs.cluster)} == {1, 2, 4, 8}


def test_a_search_counts_what_is_done_beside_a_step_and_leaves_out_what_is_not_valid():
    inputs = inputs_of("olmoe-1b-7b", gpus=2, expert=1, global_batch=16)
    found = search_layouts(inputs, 10_000).candidates
    models = [StepModel(replace(inputs, parallel=one.parallel)) for one in found]
    # No step of this model takes a minute.
    later = fastest(models, 10_000, beside_s=lambda model: 60.0 * (model.inputs.parallel.tensor == 1))
    assert [one.parallel.tensor for one in later] == sorted((one.parallel.tensor for one in found), reverse=True)
    valid = [one.parallel for one in found if one.parallel.tensor == 2]
    taken = fastest(models, 3, lambda model: model.inputs.parallel.tensor == 2)
    assert [one.parallel for one in taken] == valid[:3]


def test_a_model_that_no_layout_holds_is_refused():
    with pytest.raises(SpecError, match=r"8 GPUs of 80 GiB, 92% of it for use: the least of [\d,]+ takes"):
        search_layouts(load_inputs("deepseek-v3", "dgx-h100", None, None, 8))


def test_more_gpus_with_the_same_micro_batches_take_as_long_but_for_exchanges():
    few = predict_step(inputs_of(gpus=16, global_batch=256))
    many = predict_step(inputs_of(gpus=128, global_batch=2048))
    assert few.step_s <= many.step_s < 1.1 * few.step_s


def test_a_sustained_clock_is_never_above_that_of_short_kernels():
    for precision in ("bf16", "fp8", "fp8_block"):
        assert 0.8 < inputs_of().tables.sustained_rate(f"matmul_{precision}") <= 1
    assert math.isfinite(inputs_of().copy_s(1e9))


def test_no_model_of_the_catalogue_has_more_layers_than_are_played_until_one_is_steady():
    names = catalog_names("models")
    assert max(load_spec(ModelSpec, name).num_layers for name in names) <= MOST_REPEATS
