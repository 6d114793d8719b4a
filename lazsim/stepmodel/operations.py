"""Operations of one micro-batch on one GPU, and the two queues that carry them out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lazsim.specs import StepConstants


class Operation(NamedTuple):
    """Kernels that follow one another without a decision of the host."""

    part: str
    """Part of the step to which its time counts."""
    gpu_s: float
    """Time on the GPU."""
    kernels: int
    """Kernels, between which the GPU pauses."""
    host_s: float
    """Time of the host to launch them one by one."""
    graphed: bool = False
    """Whether a CUDA graph replays them."""
    counts: bool = False
    """Whether the host may wait until the GPU is done with this, to which or from which it copies numbers."""
    waits: bool = False
    """Whether the host waits for the last such copy before it launches this."""
    hidden_s: float = 0.0
    """Time of an exchange that runs behind the kernels beside it, and so is not in `gpu_s`."""


class Item(NamedTuple):
    """Operations of a module or of a block of a layer, in the order of their launch: forward and backward.

    A module that can be recomputed has a name.
    """

    forward: tuple[Operation, ...]
    backward: tuple[Operation, ...]
    module: str = ""


class Span(NamedTuple):
    """What a queue or stream does, and from when until when."""

    stream: str
    part: str
    start_s: float
    end_s: float


class Queues(NamedTuple):
    """Moments at which host and GPU are done with what they have, and the GPU with what the host may wait for."""

    host_s: float = 0.0
    gpu_s: float = 0.0
    counted_s: float = 0.0


def in_graph(items: Sequence[Item], graphed: bool) -> list[Item]:
    """Let a CUDA graph replay the operations of items, if they are `graphed`."""
    if not graphed:
        return list(items)

    def replayed(operations: Iterable[Operation]) -> tuple[Operation, ...]:
        return tuple(one._replace(graphed=True) for one in operations)

    return [item._replace(forward=replayed(item.forward), backward=replayed(item.backward)) for item in items]


def block_of(items: Sequence[Item], recomputed: Iterable[str] = (), num_again: int = 0) -> Item:
    """Join items; the backward pass runs them in reverse, and what is recomputed before the item that takes it.

    It begins with the first `num_again` items, which all run forward again.
    """
    again, nothing = set(recomputed), Item((), ())
    forward = tuple(operation for item in items for operation in item.forward)
    backward = tuple(
        operation
        for before, item in zip(reversed((nothing, *items)), reversed((*items, nothing)), strict=True)
        for operation in (*(before.forward if before.module in again else ()), *item.backward)
    )
    first = tuple(operation for item in items[:num_again] for operation in item.forward)
    return Item(forward, (*first, *backward))


def play(
    operations: Iterable[Operation],
    start: Queues,
    constants: StepConstants,
    parts: dict[str, float],
    spans: list[Span] | None = None,
    beside: tuple[float, float] = (0.0, 0.0),
) -> Queues:
    """Launch operations in order and let the GPU run them in order; add the time of each part to `parts`.

    The host runs ahead of the GPU until an operation waits. A graph is launched once for all operations in a row that
    it holds. ``idle`` is the time in which the GPU has nothing to do. `spans` gets what host and GPU do when. An
    exchange runs `beside` them until a moment, and kernels, but not the host, are slower by a share meanwhile, which
    ``overlap_slowdown`` tells.
    """
    host_s, gpu_s, counted_s = start
    until_s, slowdown = beside
    in_graph = False
    for part, work_s, kernels, launch_s, graphed, counts, waits, _ in operations:
        if waits:
            known_s = max(host_s, counted_s) + constants.host_wait_s
            if spans is not None:
                spans.append(Span("host", "wait", host_s, known_s))
            host_s = known_s
        before_s = host_s
        if not graphed:
            host_s += launch_s
        elif not in_graph:
            host_s += constants.graph_launch_s
        in_graph = graphed
        if host_s > gpu_s:
            parts["idle"] = parts.get("idle", 0.0) + host_s - gpu_s
            gpu_s = host_s
        busy_s = work_s + kernels * constants.kernel_gap_s
        parts[part] = parts.get(part, 0.0) + busy_s
        if gpu_s < until_s:
            # The exchange is over before the kernels, or they are before it.
            slowed_s = min(slowdown * (until_s - gpu_s), busy_s * slowdown / (1 - slowdown))
            parts["overlap_slowdown"] = parts.get("overlap_slowdown", 0.0) + slowed_s
            busy_s += slowed_s
        if spans is not None:
            spans += [Span("host", "launch", before_s, host_s), Span("kernels", part, gpu_s, gpu_s + busy_s)]
        gpu_s += busy_s
        if counts:
            counted_s = gpu_s
    return Queues(host_s, gpu_s, counted_s)
