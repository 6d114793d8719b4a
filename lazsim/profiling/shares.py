"""Layers of virtual ranks on one device: the share of each rank computed in turn, and what tables say of it.

A share is the tokens of each replica of a rank. A layer takes as long as its slowest rank.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lazsim.costmodel.profile import Point
from lazsim.costmodel.tables import Table, table_of
from lazsim.profiling.compute import Device, measure_kernel
from lazsim.profiling.device import DTYPES
from lazsim.profiling.grouped import use_grouped_mm
from lazsim.profiling.kernel import Kernel
from lazsim.profiling.kernels import grouped_kernel, kernels_of
from lazsim.specs import ModelSpec

KERNELS = ("expert", "reorder")
"""What a rank's part of a layer is predicted from."""

Share = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MeasuredShares:
    """What shares take on a device.

    Attributes
    ----------
    seconds : mapping
        Of the experts of each distinct share, forward and backward.
    reorder_s : float
        Gate, schedule and token reorder of one rank, which are the same whatever the share.
    tables : mapping
        Tables of one expert and of the reorder, from a profile or measured on the way.
    """

    seconds: Mapping[Share, float]
    reorder_s: float
    tables: Mapping[str, Table]

    def measured_s(self, share: Sequence[int]) -> float:
        """Return what a rank's experts take."""
        return self.seconds.get(distinct(share), 0.0)

    def predicted_s(self, share: Sequence[int]) -> float:
        """Return what tables say of a rank's experts: the sum over its replicas, as the simulator has it."""
        return float(self.tables["expert"].time_s(np.array(share, dtype=np.float64)).sum())

    def predicted_reorder_s(self, num_tokens: int) -> float:
        """Return what tables say of the reorder."""
        return float(self.tables["reorder"].time_s(np.array(float(num_tokens))))


def distinct(share: Sequence[int]) -> Share:
    """Return a share in the form that all alike have: sorted, without the experts that have no tokens.

    Examples
    --------
    >>> distinct([5, 0, 3])
    (3, 5)
    """
    return tuple(sorted(tokens for tokens in share if tokens))


def measure_shares(
    model: ModelSpec,
    device: Device,
    shares: Iterable[Sequence[int]],
    num_tokens: int,
    tables: Mapping[str, Table],
    budget_s: float,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> MeasuredShares:
    """Measure every distinct share once, the reorder, and the tables that are missing.

    Parameters
    ----------
    model
        Shapes of an expert.
    device
        Where to measure.
    shares
        Tokens of each replica of a rank, for all ranks.
    num_tokens
        Token assignments of one rank before the exchange.
    tables
        Of `KERNELS`, those that need not be measured.
    budget_s
        Seconds for all of it, shared evenly.
    progress
        A progress bar.
    """
    deadline_s = time.monotonic() + budget_s
    ranks = sorted({distinct(share) for share in shares} - {()}, key=sum)
    kernels = {kernel.name: kernel for kernel in kernels_of(model, use_grouped_mm=False)[0]}
    largest = {"expert": max(max(rank) for rank in ranks), "reorder": num_tokens}
    wanted = [
        (name, kernels[name], size) for name in KERNELS if name not in tables for size in _sizes(model, largest, name)
    ]
    grouped = use_grouped_mm(model, device.name, DTYPES[device.dtype])
    wanted += [
        (f"rank {rank}", grouped_kernel(model, partial(_counts, rank), use_grouped_mm=grouped), 1) for rank in ranks
    ]
    wanted.append(("own reorder", kernels["reorder"], num_tokens))
    points: dict[str, list[Point]] = {}
    for (index, (key, kernel, size)), _ in zip(
        enumerate(wanted), progress([key for key, _, _ in wanted]), strict=False
    ):
        allowance_s = max(0.0, deadline_s - time.monotonic()) / (len(wanted) - index)
        points.setdefault(key, []).append(_measure(kernel, size, device, allowance_s))
    return MeasuredShares(
        {rank: points[f"rank {rank}"][0].time_s for rank in ranks},
        points["own reorder"][0].time_s,
        dict(tables) | {name: table_of(points[name]) for name in KERNELS if name not in tables},
    )


def _sizes(model: ModelSpec, largest: Mapping[str, int], kernel: str) -> list[int]:
    """Return powers of two up to the first that is large enough; a reorder is of whole tokens."""
    powers = [2**power for power in range(math.ceil(math.log2(max(largest[kernel], 2))) + 1)]
    return [size for size in powers if kernel == "expert" or size % model.top_k == 0]


def _counts(rank: Share, _: int) -> Share:
    return rank


def _measure(kernel: Kernel, size: int, device: Device, budget_s: float) -> Point:
    return measure_kernel(kernel, size, device, budget_s, 0.0)
