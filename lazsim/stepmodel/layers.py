"""How long one layer takes on the two queues, alone and while another micro-batch hides its exchanges."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazsim.specs import StepConstants
from lazsim.stepmodel.operations import Item, Operation, Queues, Span, block_of, play

MOST_REPEATS = 100
"""Layers after which the lead of the host is taken to last: no model of the catalogue has more."""

SAME_S = 1e-12

Operations = tuple[Operation, ...]

EXCHANGE, OFFLOAD = "expert_exchange", "offload"


@dataclass(frozen=True)
class LayerTime:
    """A layer in the steady state, for one micro-batch."""

    forward_s: float
    backward_s: float
    """Time of each pass where nothing else runs."""
    exposed_s: Mapping[str, float]
    hidden_s: Mapping[str, float]
    """Time of each part in both passes: what adds to them, which sums to both, and exchanges behind kernels."""
    weight_gradient_s: float
    """Time of the backward pass for which the layer before does not wait."""
    pair: "PairTime | None"
    """The forward pass beside the backward pass of another micro-batch; none where there is no exchange to hide."""


@dataclass(frozen=True)
class PairTime:
    """A forward and a backward pass of a layer at the same time."""

    total_s: float
    idle_s: float
    """Time of both, and the time in it in which the GPU waits for the host."""
    hidden_s: float
    """Exchange that runs behind kernels; they wait for the rest."""
    slowed_s: float
    """Time by which kernels take longer beside an exchange."""
    offload_s: float
    """Time to and from the host beyond all of that, beside which it runs."""


KERNEL_PIECES = ("sums of both", "attention forward", "experts backward", "experts forward", "attention backward")
EXCHANGE_PIECES = ("none", "combine backward", "dispatch forward", "dispatch backward", "combine forward")
"""Pieces of a pair of passes, forward of one micro-batch and backward of another, in the order of each stream."""


def layer_time(blocks: Sequence[Item], constants: StepConstants, slowdown: float | None, piece_s: float) -> LayerTime:
    """Play the blocks of a layer.

    The `slowdown` is the share by which kernels are slower beside an exchange, none where nothing overlaps; `piece_s`
    the time of the host for each of the eight pieces of a pair of passes.
    """
    forward, backward, _ = block_of(blocks)
    exposed, hidden = defaultdict[str, float](float), defaultdict[str, float](float)
    queues = Queues()
    seconds = []
    for operations in (forward, backward):
        queues, (pass_s,), parts = _play_steadily([operations], [0.0], queues, constants)
        for name, value in parts.items():
            exposed[name] += value
        for operation in operations:
            if operation.hidden_s:
                hidden[operation.part] += operation.hidden_s
        late_s = max(0.0, _offloaded_s(operations) - pass_s)
        if late_s:
            exposed[OFFLOAD] += late_s
            hidden[OFFLOAD] -= late_s
        seconds.append(pass_s + late_s)
    # The gradient of a weight has as many operations as the forward pass, and only the optimizer waits for it.
    weight_s = math.fsum(operation.gpu_s for operation in forward if operation.part.endswith("matmul"))
    pair = None
    if slowdown is not None and _exchanges_tokens(forward):
        pieces = _pieces(forward, backward, constants, piece_s)
        _, kernels_s, parts = _play_steadily(*pieces, Queues(), constants, slowdown)
        total_s, hidden_s = (math.fsum(map(which, kernels_s, pieces[1])) for which in (max, min))
        late_s = max(0.0, _offloaded_s(forward + backward) - total_s)
        idle_s, slowed_s = (parts.get(name, 0.0) for name in ("idle", "overlap_slowdown"))
        pair = PairTime(total_s + late_s, idle_s, hidden_s, slowed_s, late_s)
    return LayerTime(seconds[0], seconds[1], exposed, hidden, weight_s, pair)


def _play_steadily(
    pieces: Sequence[Operations], exchanges_s: Sequence[float], queues: Queues, constants: StepConstants,
    slowdown: float = 0.0,
) -> tuple[Queues, list[float], dict[str, float]]:  # fmt: skip
    """Play pieces of equal layers until a layer takes as long as all that follow it.

    That is where host and GPU end as far apart as before, or where the GPU never waits and falls further behind the
    host. An exchange runs beside each piece and slows its kernels down; the next piece and its exchange wait for both.
    Return the queues, the time of each piece of the last layer, and that of its parts.
    """
    lead_s = math.inf
    pieces_s, parts = list[float](), dict[str, float]()
    for _ in range(MOST_REPEATS):
        pieces_s, parts = [], {}
        for operations, exchange_s in zip(pieces, exchanges_s, strict=True):
            begun_s = queues.gpu_s
            queues = play(operations, queues, constants, parts, beside=(begun_s + exchange_s, slowdown))
            pieces_s.append(queues.gpu_s - begun_s)
            queues = queues._replace(gpu_s=max(queues.gpu_s, begun_s + exchange_s))
        before_s, lead_s = lead_s, queues.gpu_s - queues.host_s
        if abs(lead_s - before_s) <= SAME_S or (lead_s > before_s and not parts.get("idle")):
            break
    return queues, pieces_s, parts


def layer_spans(blocks: Sequence[Item], constants: StepConstants, slowdown: float | None, piece_s: float) -> list[Span]:
    """Return what host, kernels and exchanges do in a layer, forward after others like it and then backward.

    Parameters are those of `layer_time`; where passes overlap, both are those of two micro-batches.
    """
    forward, backward, _ = block_of(blocks)
    if slowdown is not None and _exchanges_tokens(forward):
        pieces = _pieces(forward, backward, constants, piece_s)
        streams = {"kernels": _play_steadily(*pieces, Queues(), constants, slowdown)[1], "exchanges": pieces[1]}
        begun_s = list(itertools.accumulate(map(max, *streams.values()), initial=0.0))[:-1]
        spans = [
            Span(stream, name, start_s, start_s + takes_s)
            for (stream, times_s), names in zip(streams.items(), (KERNEL_PIECES, EXCHANGE_PIECES), strict=True)
            for name, start_s, takes_s in zip(names, begun_s, times_s, strict=True)
            if takes_s
        ]
    else:
        queues, spans = _play_steadily([forward], [0.0], Queues(), constants)[0], []
        for operations in (forward, backward):
            queues = play(operations, queues, constants, {}, spans)
        spans = [span._replace(stream="exchanges") if span.part == EXCHANGE else span for span in spans]
    start_s = min(span.start_s for span in spans if span.stream != "host")
    return [span._replace(start_s=span.start_s - start_s, end_s=span.end_s - start_s) for span in spans]


def _offloaded_s(operations: Operations) -> float:
    return math.fsum(operation.hidden_s for operation in operations if operation.part == OFFLOAD)


def _exchanges_tokens(forward: Operations) -> bool:
    return any(operation.part == EXCHANGE and operation.gpu_s for operation in forward)


def _pieces(
    forward: Operations, backward: Operations, constants: StepConstants, piece_s: float
) -> tuple[list[Operations], list[float]]:
    """Cut both passes in the order of Megatron-LM (combined 1F1B): pieces of kernels, and times of exchanges.

    ::

        kernels    sums of both | attention f | experts b   experts f  | attention b
        exchanges               | combine b   | dispatch f  dispatch b | combine f

    where f is forward and b backward. Sums follow a combine f or go before a combine b: copies back, residuals and what
    is recomputed. The host waits for the counts of dispatch f after it launched experts b
    (``TransformerLayerSchedulePlan.run`` of NVIDIA/Megatron-LM 0.16).
    """
    before, dispatch, experts, combine, after = _cut(forward)
    after_b, combine_b, experts_b, dispatch_b, before_b = _cut(backward)
    waiting = (Operation("idle", 0.0, 0, 0.0, waits=True),) * dispatch[0].waits
    kernels = [before, experts_b + waiting, experts, before_b]
    exchanges = combine_b + dispatch + dispatch_b + combine
    if not all(operation.graphed for operation in forward):
        launches = [Operation("idle", 0.0, 0, 2 * piece_s + exchange.host_s) for exchange in exchanges]
        kernels = [(launch, *operations) for launch, operations in zip(launches, kernels, strict=True)]
    return [after + after_b, *kernels], [0.0, *(one.gpu_s + one.kernels * constants.kernel_gap_s for one in exchanges)]


def _cut(operations: Operations) -> list[Operations]:
    """Cut the operations of a pass at its last two exchanges.

    Recomputation repeats those of the forward pass before them; they stay with the kernels.
    """
    at = [index for index, operation in enumerate(operations) if operation.part == EXCHANGE][-2:]
    return [
        operations[slice(*ends)]
        for ends in ((0, at[0]), (at[0], at[0] + 1), (at[0] + 1, at[1]), (at[1], at[1] + 1), (at[1] + 1, None))
    ]
