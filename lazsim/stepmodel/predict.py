"""The step of a layout: micro-batches through the pipeline, exchange of gradients, optimizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazsim.stepmodel.blocks import blocks_of
from lazsim.stepmodel.exchange import exchange_s, exposed_exchange_s, optimizer_s
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.operations import Block, Operation, Queues, play
from lazsim.stepmodel.parameters import stage_parameters
from lazsim.stepmodel.pipeline import Part, parts_of, pipeline_s

REPEATS = 3
"""Equal layers of a part that are played through; each further one takes as long as the last."""


@dataclass(frozen=True)
class StepTime:
    """Predicted step of a layout.

    Attributes
    ----------
    step_s : float
        Time of a step.
    tokens_per_s_per_gpu : float
        Tokens that are trained, for each GPU.
    mfu : float
        Model FLOP utilisation: operations of the model without recomputation over the peak of its precision.
    exposed_s : mapping
        Time of each part that adds to the step; the values sum to `step_s`.
    hidden_s : mapping
        Time of exchanges that run behind compute.
    memory_bytes : mapping
        Memory of each part on the GPU that needs most; the values sum to what it needs.
    """

    step_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    exposed_s: Mapping[str, float]
    hidden_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]


@dataclass(frozen=True)
class PartTime:
    """A part of the pipeline, for one micro-batch."""

    forward_s: float
    backward_s: float
    exposed_s: Mapping[str, float]
    hidden_s: float


def predict_step(inputs: StepInputs) -> StepTime:
    """Predict the time of a step.

    Raises
    ------
    SpecError
        When the layout's stages do not fit the model, or the tables have no kernel of the model's attention.
    """
    model, parallel, constants = inputs.model, inputs.parallel, inputs.constants
    blocks = blocks_of(inputs)
    known: dict[Part, PartTime] = {}
    parts = parts_of(model, parallel)
    for part in parts:
        if part not in known:
            known[part] = _part_time(inputs, blocks, part)
    times = [known[part] for part in parts]
    forward_s, backward_s = [time.forward_s for time in times], [time.backward_s for time in times]
    micro_batches, pipeline = inputs.num_micro_batches, parallel.pipeline
    transfer_s = 2 * model.d_model * inputs.own_tokens / inputs.nic_bytes_per_s if pipeline > 1 else 0.0
    running_s = pipeline_s(forward_s, backward_s, pipeline, micro_batches, transfer_s)
    exposed: dict[str, float] = {}
    for time in times:
        for name, seconds in time.exposed_s.items():
            exposed[name] = exposed.get(name, 0.0) + seconds * micro_batches / pipeline
    exposed["bubble"] = running_s - micro_batches / pipeline * (sum(forward_s) + sum(backward_s))
    hidden_s = sum(time.hidden_s for time in times) / pipeline
    # The first forward and the last backward have nothing to hide their exchange behind.
    first_and_last_s = hidden_s if parallel.overlap_expert else 0.0
    exposed["expert_exchange"] = exposed.get("expert_exchange", 0.0) + first_and_last_s
    params = max(stage_parameters(inputs, parts), key=sum)
    gradient_s = exposed_exchange_s(inputs, params, (sum(forward_s) + sum(backward_s)) / pipeline)
    exposed |= {"gradient_exchange": gradient_s, "optimizer": optimizer_s(inputs, params), "fixed": constants.fixed_s}
    step_s = sum(exposed.values())
    hidden = {
        "expert_exchange": hidden_s * (micro_batches - 1),
        "gradient_exchange": exchange_s(inputs, params) - gradient_s,
    }
    tokens = parallel.global_batch * model.sequence_length / step_s / inputs.num_gpus
    peak = inputs.gpu.peak_of(parallel.precision)
    return StepTime(step_s, tokens, tokens * flop_per_token(inputs) / peak, exposed, hidden, memory_bytes(inputs))


def flop_per_token(inputs: StepInputs) -> float:
    """Count the operations of the model for a token, forward and backward, without recomputation.

    Six for each active parameter, the head's included and the embedding's not, and attention over the causal half.
    """
    model = inputs.model
    experts = model.num_moe_layers * model.top_k * model.expert_params
    embedding = (model.num_vocab_matrices - 1) * model.vocab_size + model.num_learned_positions
    further = model.num_mtp_layers * (
        model.params_per_attention + model.top_k * model.expert_params + model.d_model * (2 * model.d_model)
        + model.matrices_per_expert * model.d_model * model.shared_dim + model.vocab_size * model.d_model
    )  # fmt: skip
    windows = model.attention.num_window_layers if model.attention else 0
    window = min(model.attention.window, model.sequence_length) if model.attention else 0
    pairs = (model.attention_layers + model.num_mtp_layers - windows) * model.sequence_length / 2
    pairs += windows * window * (1 - window / model.sequence_length / 2)
    active = model.dense_params - embedding * model.d_model + experts + further
    return 6.0 * active + 6.0 * model.score_dim * pairs


def _part_time(inputs: StepInputs, blocks: Mapping[str, Block], part: Part) -> PartTime:
    """Play a part forward and backward, twice: queues keep what the first time left."""
    constants, overlap = inputs.constants, inputs.parallel.overlap_expert
    forward, backward, factors = _unrolled(blocks, part)
    exchange_s = sum(
        factor * operation.gpu_s
        for operations, factor in zip((*forward, *backward), (*factors, *reversed(factors)), strict=True)
        for operation in operations
        if operation.part == "expert_exchange"
    )
    if overlap:
        forward, backward = (
            [_without_exchange(some) for some in forward],
            [_without_exchange(some) for some in backward],
        )
    queues = Queues()
    for _ in range(2):
        exposed: dict[str, float] = {}
        queues, forward_s = _play_all(forward, factors, queues, inputs, exposed)
        queues, backward_s = _play_all(backward, list(reversed(factors)), queues, inputs, exposed)
    if not overlap:
        return PartTime(forward_s, backward_s, exposed, 0.0)
    compute_s = forward_s + backward_s
    hidden_s = min(exchange_s, constants.expert_overlap_share * compute_s)
    slowdown = {"deepep": constants.deepep_slowdown, "hybridep": constants.hybridep_slowdown}.get(
        inputs.parallel.dispatcher, constants.nccl_slowdown
    )
    slowed_s = hidden_s * slowdown / (1 - slowdown)
    exposed |= {"expert_exchange": exchange_s - hidden_s, "overlap_slowdown": slowed_s}
    longer = 1 + (exchange_s - hidden_s + slowed_s) / compute_s
    return PartTime(forward_s * longer, backward_s * longer, exposed, hidden_s)


def _unrolled(
    blocks: Mapping[str, Block], part: Part
) -> tuple[list[Sequence[Operation]], list[Sequence[Operation]], list[int]]:
    """Unroll a part into layers; of many equal ones the last that is played stands for the rest."""
    forward: list[Sequence[Operation]] = []
    backward: list[Sequence[Operation]] = []
    factors: list[int] = []
    for name, count in part:
        layer = [blocks[block] for block in name.split()]
        played = min(count, REPEATS)
        forward += [[operation for block in layer for operation in block.forward]] * played
        backward = [[operation for block in reversed(layer) for operation in block.backward]] * played + backward
        factors += [1] * (played - 1) + [count - played + 1]
    return forward, backward, factors


def _without_exchange(operations: Sequence[Operation]) -> list[Operation]:
    return [
        operation._replace(gpu_s=0.0, kernels=0) if operation.part == "expert_exchange" else operation
        for operation in operations
    ]


def _play_all(
    layers: Sequence[Sequence[Operation]],
    factors: Sequence[int],
    queues: Queues,
    inputs: StepInputs,
    parts: dict[str, float],
) -> tuple[Queues, float]:
    total_s = 0.0
    for operations, factor in zip(layers, factors, strict=True):
        once: dict[str, float] = {}
        before_s = queues.gpu_s
        queues = play(operations, queues, inputs.constants, once)
        total_s += factor * (queues.gpu_s - before_s)
        for name, seconds in once.items():
            parts[name] = parts.get(name, 0.0) + factor * seconds
    return queues, total_s
