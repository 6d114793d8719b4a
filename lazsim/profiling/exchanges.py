"""Exchanges of one rank, each with the data that it has to deliver."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

ELEMENT_BYTES = 4


@dataclass(frozen=True)
class Exchange:
    """An exchange of a rank; the first run has to leave what is `expected` in the last tensor of its buffer."""

    prepare: Callable[[], tuple[Any, ...]]
    """Makes a buffer."""
    run: Callable[..., Any]
    expected: Callable[[], Any]

    def error(self, buffer: tuple[Any, ...]) -> float:
        """Return the largest error of the data that arrived."""
        return float((buffer[-1] - self.expected()).abs().max()) if buffer[-1].numel() else 0.0


def even_parts(num_ranks: int, count: int) -> list[int]:
    """Split evenly; the first ranks get the remainder.

    Examples
    --------
    >>> even_parts(3, 8)
    [3, 3, 2]
    """
    return [count // num_ranks + (rank < count % num_ranks) for rank in range(num_ranks)]


def skewed_parts(num_ranks: int, count: int) -> list[int]:
    """Send half to rank 0, half of the rest to rank 1 and so on; the last gets the remainder.

    Examples
    --------
    >>> skewed_parts(3, 8)
    [4, 2, 2]
    """
    parts = [count >> (rank + 1) for rank in range(num_ranks - 1)]
    return [*parts, count - sum(parts)]


def empty_parts(num_ranks: int, count: int) -> list[int]:
    """Send all to rank 0 and nothing to the others.

    Examples
    --------
    >>> empty_parts(3, 8)
    [8, 0, 0]
    """
    return [count, *[0] * (num_ranks - 1)]


def _all_to_all(split: Callable[[int, int], list[int]]) -> Callable[[int, int, int, str], Exchange]:
    def make(rank: int, num_ranks: int, count: int, device: str) -> Exchange:
        sends = split(num_ranks, count)
        receives = [sends[rank]] * num_ranks
        return Exchange(
            lambda: (torch.full((count,), float(rank), device=device), torch.empty(sum(receives), device=device)),
            lambda sent, received: dist.all_to_all_single(received, sent, receives, sends),
            lambda: torch.arange(num_ranks, device=device, dtype=torch.float32).repeat_interleave(sends[rank]),
        )

    return make


def _in_place(
    run: Callable[[int, Any], Any], expected: Callable[[int, int], int]
) -> Callable[[int, int, int, str], Exchange]:
    """Build an exchange of buffers that hold each rank's number, from 1, and afterwards the expected one."""

    def make(rank: int, num_ranks: int, count: int, device: str) -> Exchange:
        def fill(value: int) -> Any:
            return torch.full((count,), float(value), device=device)

        return Exchange(lambda: (fill(rank + 1),), partial(run, rank), lambda: fill(expected(rank, num_ranks)))

    return make


def _send_to_1(rank: int, buffer: Any) -> None:
    """Send from rank 0 to rank 1."""
    if rank == 0:
        dist.send(buffer, 1)
    elif rank == 1:
        dist.recv(buffer, 0)


SPLITS = {"all_to_all": even_parts, "all_to_all_skewed": skewed_parts, "all_to_all_empty": empty_parts}

EXCHANGES: dict[str, Callable[[int, int, int, str], Exchange]] = {
    **{kernel: _all_to_all(split) for kernel, split in SPLITS.items()},
    # Sums of sums grow with each run, at last to infinity, which takes no longer; the first is checked.
    "all_reduce": _in_place(lambda _, buffer: dist.all_reduce(buffer), lambda _, ranks: ranks * (ranks + 1) // 2),
    "point_to_point": _in_place(_send_to_1, lambda rank, _: rank + 1 if rank > 1 else 1),
    "broadcast": _in_place(lambda _, buffer: dist.broadcast(buffer, 0), lambda *_: 1),
}
"""Exchange of each kernel, made from rank, number of ranks, elements and device."""


def link_bytes(kernel: str, num_ranks: int, num_bytes: int) -> float:
    """Return the bytes through the busiest rank's link in its busier direction.

    Examples
    --------
    >>> link_bytes("all_to_all", 4, 400), link_bytes("all_to_all_empty", 4, 400), link_bytes("all_reduce", 4, 400)
    (300.0, 1200.0, 600.0)
    """
    if kernel in SPLITS:
        parts = SPLITS[kernel](num_ranks, num_bytes)
        return float(max((num_ranks - 1) * parts[0], num_bytes - min(parts)))
    return float(num_bytes) * (2 * (num_ranks - 1) / num_ranks if kernel == "all_reduce" else 1.0)
