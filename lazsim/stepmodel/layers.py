"""How long one layer takes on the two queues, alone and while another micro-batch hides its exchanges."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lazsim.specs import StepConstants
from lazsim.stepmodel.operations import Item, Operation, Queues, Span, block_of, play

REPEATS = 3
"""Equal layers whose streams run one after the other: the last is in the steady state."""

MOST_REPEATS = 100
"""Layers after which the lead of the host is taken to last: no model of the catalogue has more."""

SAME_S = 1e-12

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


KERNEL_PIECES = ("attention forward", "experts backward", "experts forward", "attention backward")
EXCHANGE_PIECES = ("combine backward", "dispatch forward", "dispatch backward", "combine forward")
"""PairPieces of a pair of passes, forward of one micro-batch and backward of another, in the order of each stream."""


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
        queues, (pass_s,), parts = _play_steadily([operations], queues, constants)
        seconds.append(pass_s)
        for name, value in parts.items():
            exposed[name] += value
    for operation in (*forward, *backward):
        if operation.hidden_s:
            hidden[operation.part] += operation.hidden_s
    # The gradient of a weight has as many operations as the forward pass, and only the optimizer waits for it.
    weight_s = math.fsum(operation.gpu_s for operation in forward if operation.part.endswith("matmul"))
    pair = None
    if slowdown is not None and _exchanges_tokens(forward):
        pieces = _pieces(forward, backward, constants, piece_s)
        one, run = (
            run_streams(pieces.kernels_s * repeats, pieces.exchanges_s * repeats, slowdown)
            for repeats in (REPEATS - 1, REPEATS)
        )
        total_s, waiting_s = run.total_s - one.total_s, run.waiting_s - one.waiting_s
        hidden_s = math.fsum(pieces.exchanges_s) - waiting_s
        slowed_s = total_s - waiting_s - math.fsum(pieces.kernels_s)
        moved_s = math.fsum(one.gpu_s + one.hidden_s for one in (*forward, *backward) if one.part == OFFLOAD)
        late_s = max(0.0, moved_s - total_s)
        pair = PairTime(total_s + late_s, pieces.idle_s, hidden_s, slowed_s, late_s)
    return LayerTime(seconds[0], seconds[1], exposed, hidden, weight_s, pair)


def _play_steadily(
    pieces: Sequence[Sequence[Operation]], queues: Queues, constants: StepConstants
) -> tuple[Queues, list[float], dict[str, float]]:
    """Play pieces of equal layers until a layer takes as long as all that follow it.

    That is where host and GPU end as far apart as before, or where the GPU never waits and falls further behind the
    host. Return the queues, the time of each piece of the last layer, and that of its parts.
    """
    lead_s = math.inf
    pieces_s, parts = list[float](), dict[str, float]()
    for _ in range(MOST_REPEATS):
        pieces_s, parts = [], {}
        for operations in pieces:
            before_s = queues.gpu_s
            queues = play(operations, queues, constants, parts)
            pieces_s.append(queues.gpu_s - before_s)
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
        run = run_streams(pieces.kernels_s * REPEATS, pieces.exchanges_s * REPEATS, slowdown)
        names = (KERNEL_PIECES, EXCHANGE_PIECES)
        spans = [
            Span(stream, name, *time)
            for stream, times, some in zip(("kernels", "exchanges"), (run.kernels, run.exchanges), names, strict=True)
            for name, time in zip(some, times[-4:], strict=True)
        ]
    else:
        queues, spans = _play_steadily([forward], Queues(), constants)[0], []
        for operations in (forward, backward):
            queues = play(operations, queues, constants, {}, spans)
        spans = [span._replace(stream="exchanges") if span.part == EXCHANGE else span for span in spans]
    start_s = min(span.start_s for span in spans if span.stream != "host")
    return [span._replace(start_s=span.start_s - start_s, end_s=span.end_s - start_s) for span in spans]


def _exchanges_tokens(forward: Sequence[Operation]) -> bool:
    return any(operation.part == EXCHANGE and operation.gpu_s for operation in forward)


class PairPieces(NamedTuple):
    """Times of the pieces of a pair of passes in the steady state, and that in which the GPU waits for the host."""

    kernels_s: list[float]
    exchanges_s: list[float]
    idle_s: float


def _pieces(
    forward: Sequence[Operation], backward: Sequence[Operation], constants: StepConstants, piece_s: float
) -> PairPieces:
    """Cut both passes in the order of Megatron-LM (combined 1F1B), and play the kernels.

    ::

        kernels    attention f            | experts b, experts f       | attention b
        exchanges              combine b  | dispatch f     dispatch b  | combine f

    where f is forward and b backward. The host waits for the counts of dispatch f after it launched experts b
    (``TransformerLayerSchedulePlan.run`` of NVIDIA/Megatron-LM 0.16).
    """
    before, dispatch, experts, combine, after = _cut(forward)
    after_b, combine_b, experts_b, dispatch_b, before_b = _cut(backward)
    waiting = [Operation("idle", 0.0, 0, 0.0, waits=True)] * dispatch[0].waits
    kernels = [before, after_b + experts_b + waiting, experts, after + before_b]
    if not all(operation.graphed for operation in forward):
        kernels = [[Operation("idle", 0.0, 0, 2 * piece_s), *operations] for operations in kernels]
    exchanges_s = [
        one.gpu_s + one.kernels * constants.kernel_gap_s for (one,) in (combine_b, dispatch, dispatch_b, combine)
    ]
    _, kernels_s, parts = _play_steadily(kernels, Queues(), constants)
    return PairPieces(kernels_s, exchanges_s, parts.get("idle", 0.0))


def _cut(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Cut the operations of a pass at its last two exchanges; none waits for what goes to the host.

    Recomputation repeats those of the forward pass before them; they stay with the kernels.
    """
    operations = [one._replace(gpu_s=0.0, kernels=0) if one.part == OFFLOAD else one for one in operations]
    at = [index for index, operation in enumerate(operations) if operation.part == EXCHANGE][-2:]
    return [
        operations[slice(*ends)]
        for ends in ((0, at[0]), (at[0], at[0] + 1), (at[0] + 1, at[1]), (at[1], at[1] + 1), (at[1] + 1, None))
    ]


class StreamsRun(NamedTuple):
    """Two streams: the time of all, that in which kernels wait for an exchange, and start and end of each piece."""

    total_s: float
    waiting_s: float
    kernels: list[tuple[float, float]]
    exchanges: list[tuple[float, float]]


def run_streams(kernels_s: Sequence[float], exchanges_s: Sequence[float], slowdown: float) -> StreamsRun:
    """Run pieces of kernels and exchanges, each stream in order; kernels slow down while an exchange runs.

    Each piece waits for the one before it in its stream and in the other.

    Examples
    --------
    An exchange of 2 s beside kernels of 4 s that take twice as long meanwhile: 1 s of them is done after 2 s.

    >>> run_streams([4.0], [2.0], 0.5)[:2]
    (5.0, 0.0)
    """
    now_s = waiting_s = 0.0
    pieces_s = (kernels_s, exchanges_s)
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    left, begun_s = [kernels_s[0], exchanges_s[0]], [-1.0, -1.0]
    while any(len(times[one]) < len(pieces_s[one]) for one in (0, 1)):
        runs = [len(times[one]) < len(pieces_s[one]) and len(times[one]) <= len(times[1 - one]) for one in (0, 1)]
        rates = (1 - slowdown if all(runs) else 1.0, 1.0)
        step_s = min(left[one] / rates[one] for one in (0, 1) if runs[one])
        waiting_s += 0.0 if runs[0] else step_s
        for one in (0, 1):
            if not runs[one]:
                continue
            if begun_s[one] < 0:
                begun_s[one] = now_s
            left[one] -= step_s * rates[one]
            if left[one] <= 1e-12:
                times[one].append((begun_s[one], now_s + step_s))
                left[one] = pieces_s[one][len(times[one])] if len(times[one]) < len(pieces_s[one]) else 0.0
                begun_s[one] = -1.0
        now_s += step_s
    return StreamsRun(now_s, waiting_s, *times)
