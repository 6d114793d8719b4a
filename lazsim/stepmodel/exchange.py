"""Gradients and parameters between data-parallel ranks, and the optimizer."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

from lazsim.stepmodel.inputs import OPERAND_BYTES, PARAM_BYTES, StepInputs
from lazsim.stepmodel.memory import StageParameters, vocabulary_parameters
from lazsim.stepmodel.pipeline import PartTime, Schedule, StagePart, parts_of, parts_of_stage

BUCKET_PARAMS, BUCKET_PARAMS_PER_RANK = 40_000_000, 1_000_000
"""Parameters that are exchanged at once: at least, and for each data-parallel rank (NVIDIA/Megatron-LM, DDP)."""

NEWTON_SCHULZ_ITERATIONS = 5
"""Of Muon (arXiv 2502.16982)."""


class ExchangeTime(NamedTuple):
    """Time to exchange gradients or parameters of a part, and its first or last bucket, which nothing can hide."""

    seconds: float
    bucket_s: float


def exchange_of(
    inputs: StepInputs, params: StageParameters, kernel: str, words: float = 0.0, num_layers: int = 0
) -> ExchangeTime:
    """Price a gather of parameters or a scatter of their gradients, bucket by bucket, or layer by layer.

    It goes over the ranks that divide them, which are neighbours. Then those that own the same gradients sum them, by a
    scatter and a gather that takes as long (``foreach_reduce`` of PyTorch 2.13). `words` of the dense parameters have
    16 bits, whatever those of matmuls have.
    """
    parallel = inputs.parallel
    groups = [
        (params.dense, words, inputs.dense_copies, parallel.tensor),
        (params.expert, 0.0, inputs.expert_copies, parallel.expert * parallel.expert_tensor),
    ]
    seconds = bucket_s = 0.0
    for (held, wide, copies, stride), owners in zip(groups, inputs.owners, strict=True):
        if held and copies > 1:
            number = num_layers or math.ceil(held / max(BUCKET_PARAMS, BUCKET_PARAMS_PER_RANK * copies))
            gathered = inputs.gathered_bytes * (held - wide) + PARAM_BYTES * wide
            each_bytes = (gathered if kernel == "all_gather" else parallel.gradient_bytes * held) / number
            each_s = inputs.collective_s(kernel, each_bytes, owners, stride)
            if kernel == "reduce_scatter":
                each_s += 2 * inputs.collective_s(kernel, each_bytes / owners, copies // owners, owners * stride)
            seconds += number * each_s
            bucket_s = max(bucket_s, each_s)
    return ExchangeTime(seconds, bucket_s)


def exchanges_of_step(
    inputs: StepInputs, params: Sequence[StageParameters], times: Sequence[PartTime], schedule: Schedule
) -> tuple[float, float]:
    """Return the time of a step's exchanges that is exposed, and all of it on the stage with most.

    The gradients of a part go when its last backward pass makes them, its parameters come before its first forward pass
    needs them; both keep the order of these passes and hide behind what the stage computes meanwhile.
    """
    parallel = inputs.parallel
    if parallel.gathers_each_time:
        return 0.0, 0.0
    whole = list(zip(params, parts_of(inputs.model, parallel), strict=True))
    prices = {
        (held, part): [exchange_of(inputs, held, kernel, words) for kernel in ("reduce_scatter", "all_gather")]
        for held, part in set(whole)
        for words in [vocabulary_parameters(inputs.model, parallel, [part])]
    }
    exposed_s = all_s = 0.0
    for stage in range(parallel.pipeline):
        parts = parts_of_stage(parallel, stage)
        gradients, gathers = ({part: prices[whole[part]][which] for part in parts} for which in (0, 1))
        gradient_s, gather_s = (math.fsum(one.seconds for one in some.values()) for some in (gradients, gathers))
        late_s, early_s = gradient_s, gather_s
        if parallel.overlap_gradients:
            free_s = -math.inf  # counted from the end of the last backward pass
            for part in sorted(parts, key=lambda part: (-schedule.last_s[part], -part)):
                end_s = -schedule.last_s[part]
                begun_s = max(free_s, end_s - schedule.makes_s[part])
                free_s = max(begun_s + gradients[part].seconds, end_s + gradients[part].bucket_s)
            late_s = max(0.0, free_s)
        if parallel.overlap_parameters:
            come_s = early_s = 0.0
            for part in sorted(parts, key=schedule.first_s.__getitem__):
                come_s += gathers[part].seconds
                begun_s = schedule.first_s[part]
                early_s = max(
                    early_s, come_s - begun_s - times[part].forward_s, come_s - gathers[part].seconds
                    + gathers[part].bucket_s - begun_s,
                )  # fmt: skip
        exposed_s, all_s = max(exposed_s, late_s + early_s), max(all_s, gradient_s + gather_s)
    return exposed_s, all_s


class ShardedExchange(NamedTuple):
    """Exchanges of sharded parameters of a part for one micro-batch; kernels slow down beside them."""

    exposed_s: float
    hidden_s: float
    slowed_s: float


def sharded_exchange(
    inputs: StepInputs, units: Sequence[tuple[StageParameters, int]], forward_s: float, backward_s: float,
    saved_s: float,
) -> ShardedExchange:  # fmt: skip
    """Price the gathers and the scatters of a micro-batch whose parameters are sharded, layer by layer.

    The `units` are the embedding, the layers and the head, with the number of layers in each. The parameters of one
    are gathered before its forward pass and again before its backward pass, which scatters gradients, beside the pass
    of another (``fully_shard`` of PyTorch 2.13); not the head's, which goes back at once (torchtitan 0.3), and none
    that stay gathered. The first gather and the last scatter, of the embedding, have nothing to hide behind, nor have
    copies from the buffer of a gather and to that of a scatter, nor casts of what is gathered in 16 bits to fewer,
    which each pass makes anew (``Float8Linear`` of torchao 0.18). Where both passes run at once, which saves
    `saved_s`, so do their exchanges, and share the time.
    """
    parallel = inputs.parallel
    prices = [
        [exchange_of(inputs, params, kernel, words, number).seconds for kernel in ("all_gather", "reduce_scatter")]
        for (params, number), words in zip(units, (units[0][0].dense, 0.0, units[-1][0].dense), strict=True)
    ]
    gathers_s, scatters_s = zip(*prices, strict=True)
    again = len(units) - 1 if parallel.reshard_after_forward else 0
    times_s = math.fsum(gathers_s), math.fsum((*gathers_s[:again], *scatters_s))
    ends_s, overlaps = prices[0], (parallel.overlap_parameters, parallel.overlap_gradients)
    behind_s = [forward_s, backward_s]
    if saved_s:
        behind_s = [(forward_s + backward_s - saved_s) * each_s / (math.fsum(times_s) or 1.0) for each_s in times_s]
    exposed_s = math.fsum(
        max(end_s, each_s - beside_s) if overlap else each_s
        for each_s, beside_s, end_s, overlap in zip(times_s, behind_s, ends_s, overlaps, strict=True)
    )
    hidden_s = math.fsum(times_s) - exposed_s
    gathers = [2] * again + [1] * (len(units) - again)
    widths = (PARAM_BYTES, inputs.gathered_bytes, PARAM_BYTES)
    copied = [
        held * (number * 2 * width + PARAM_BYTES + parallel.gradient_bytes)
        for (params, _), number, width in zip(units, gathers, widths, strict=True)
        for held, owners in zip(params, inputs.owners, strict=True)
        if owners > 1
    ]
    if inputs.quantised and inputs.gathered_bytes == PARAM_BYTES:
        passes = 3 if parallel.recompute == "full" else 2
        copied += [passes * (PARAM_BYTES + OPERAND_BYTES[parallel.precision]) * math.fsum(units[1][0])]
    copies_s = math.fsum(copied) / inputs.gpu.moved_bytes_per_s
    return ShardedExchange(exposed_s + copies_s, hidden_s, slowed_by(inputs, hidden_s))


def slowed_by(inputs: StepInputs, hidden_s: float) -> float:
    """Return how much longer kernels take beside exchanges of gradients or parameters."""
    slowdown = inputs.constants.nccl_slowdown
    return hidden_s * slowdown / (1 - slowdown)


def optimizer_s(inputs: StepInputs, params: StageParameters, parts: Sequence[StagePart]) -> tuple[float, float]:
    """Return the time to update the parameters whose states a GPU holds, and that to move these from the host and back.

    Without sharding, it holds those of all its parameters. Of all its parameters, buffers of gradients are zeroed, and
    copies in fewer bits are made, unless each pass makes them.
    """
    parallel, rate = inputs.parallel, inputs.gpu.moved_bytes_per_s
    owned = math.fsum(map(operator.truediv, params, inputs.owners))
    words = vocabulary_parameters(inputs.model, parallel, parts)
    zeroed = parallel.gradient_bytes * math.fsum(params) if parallel.sharding != "full" else 0.0
    copied = 0.0
    if inputs.quantised and not parallel.gathers_each_time:
        copied = (PARAM_BYTES + 2 * OPERAND_BYTES[parallel.precision]) * (math.fsum(params) - words)
    seconds = (updated_bytes(inputs) * owned + zeroed + copied) / rate
    if parallel.optimizer == "muon":
        matrices = map(operator.truediv, (params.dense - words, params.expert), inputs.owners)
        seconds += math.fsum(map(operator.mul, matrices, orthogonal_s(inputs)))
    moved = 0.0
    if "optimizer" in parallel.offloaded:
        moved = 2 * parallel.optimizer_bytes * owned
    return seconds, moved / inputs.cluster.host.link_bytes_per_s


def updated_bytes(inputs: StepInputs) -> float:
    """Return the bytes that an update reads and writes for each parameter.

    A gradient of 16 bits is copied to fp32 before (``_copy_model_grads_to_main_grads`` of NVIDIA/Megatron-LM 0.16.1),
    unless the optimizer and its norm read it as it is, as where weights are parameters and remainders.
    """
    parallel, moved = inputs.parallel, inputs.constants.optimizer_bytes_per_param
    if parallel.state_bytes == 2:
        # Half of each number, and there are no weights beside the parameters to write.
        return (moved - PARAM_BYTES) / 2
    if parallel.moment_bytes == 2:
        # Two moments are read and written.
        moved -= 4 * (4 - 2)
    if parallel.keeps_remainders:
        # Parameters are read for half of a weight, of which the other is read and written.
        return moved - 2 - 2 * (4 - parallel.gradient_bytes)
    return moved + (PARAM_BYTES + 4 if parallel.gradient_bytes == 2 else 0)


def orthogonal_s(inputs: StepInputs) -> list[float]:
    """Return the time in which Muon makes updates orthogonal, for each dense parameter but words, and of an expert.

    Gate and up, which one matmul joins, are one matrix, and queries, keys and values are not (``TensorParallelMuon`` of
    NVIDIA/Megatron-LM 0.16.1). *Assumed* is that ranks that divide a matrix share the work.
    """
    model, times_s = inputs.model, []

    def feed_forward(number: int, width: int, inner: int) -> list[tuple[int, int, int]]:
        return [(number, (model.matrices_per_expert - 1) * inner, width), (number, inner, width)]

    dense = feed_forward(model.num_moe_layers, model.d_model, model.shared_dim)
    dense += feed_forward(model.num_dense_layers, model.d_model, model.d_ff_dense)
    if (heads := model.attention) is not None:
        sizes = [(outputs, read) for outputs, read, _ in heads.projections(model.d_model)]
        if heads.kind == "grouped":
            keys = heads.num_kv_heads * heads.head_dim
            sizes = [(each, model.d_model) for each in (heads.projected_dim - 2 * keys, keys, keys)]
        dense += [(model.attention_layers, *size) for size in (*sizes, (heads.output_dim, model.d_model))]
    if (space := model.state_space) is not None:
        dense += [(space.num_layers, each, model.d_model) for each in (space.projected_dim, space.inner_dim)]
    for matrices in (dense, feed_forward(1, model.expert_dim, model.d_ff_expert)):
        seconds = params = 0.0
        for number, rows, columns in matrices:
            # An update is made orthogonal by its square, the square of that and a product.
            narrow, wide = sorted((rows, columns))
            twice, once = (inputs.tables.time_s("matmul_bf16", narrow, narrow, inner) for inner in (wide, narrow))
            seconds += number * NEWTON_SCHULZ_ITERATIONS * (2 * twice + once)
            params += number * narrow * wide
        times_s.append(seconds / params)
    return times_s
