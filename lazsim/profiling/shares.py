"""Layers of virtual ranks on one device: the share of each rank computed in turn, and what tables say of it.

A share is the tokens of each replica of a rank. A layer takes as long as its slowest rank.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch

from lazsim.costmodel.profile import Header, Point
from lazsim.costmodel.tables import Table, table_of
from lazsim.errors import LazsimError, SpecError
from lazsim.profiling.compute import Device, ideal_s, inputs_s, measure_kernel, need_of, too_large
from lazsim.profiling.kernel import Kernel
from lazsim.profiling.kernels import arrived_rows_kernel, grouped_kernel, kernels_of, own_rows_kernel
from lazsim.profiling.task import FEWEST_RUNS, Pace
from lazsim.pytorch.device import DTYPES
from lazsim.pytorch.experts import use_grouped_mm
from lazsim.pytorch.memory import check_memory, release_memory
from lazsim.specs import ModelSpec

KERNELS = ("expert", "reorder")
"""What a rank's part of a layer is predicted from."""

NEAR = 4
"""How many times as large a point is, at most, that is predicted from a measured one: in small ones latency counts."""

ROUGHLY = 0.2
"""By how much a prediction may be over the budget before it counts: it is rough."""

NUM_PASSES = 3
"""How often all shares are gone through, as far as there is time: a device that others share is not always as fast."""

Share = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MeasuredShares:
    """What shares take on a device.

    Attributes
    ----------
    num_tokens : int
        Token assignments of one rank before the exchange.
    experts_s : mapping
        Of the experts of each distinct share, forward and backward.
    own_rows_s : float
        Gate and schedule of one rank, its tokens packed and unpacked: the same whatever the share.
    arrived_rows_s : mapping
        Rows that a rank receives sorted by expert and put back, by their number.
    tables : mapping
        Tables of one expert and of the reorder, from a profile or measured on the way.
    """

    num_tokens: int
    experts_s: Mapping[Share, float]
    own_rows_s: float
    arrived_rows_s: Mapping[int, float]
    tables: Mapping[str, Table]

    def measured_s(self, share: Sequence[int]) -> float:
        """Return what a rank takes: its own tokens, those that it receives, and its experts."""
        if not any(share):
            return self.own_rows_s
        return self.own_rows_s + self.arrived_rows_s[sum(share)] + self.experts_s[distinct(share)]

    def predicted_s(self, share: Sequence[int]) -> float:
        """Return what tables say, as the simulator has it: the sum over replicas, and a reorder of the mean rank."""
        experts_s = self.tables["expert"].time_s(np.array(share, dtype=np.float64)).sum()
        return float(experts_s + self.tables["reorder"].time_s(np.array(float(self.num_tokens))))


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
    begin_s: float,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> MeasuredShares:
    """Measure every distinct share once, reorders of own and of received tokens, and the tables that are missing.

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
        Seconds for all of it. Where it runs short, tables have fewer points between their ends.
    begin_s
        When the budget began to count, on the monotonic clock.
    progress
        A progress bar.

    Raises
    ------
    LazsimError
        When the budget or the memory does not do, or a table ends before the largest share.
    """
    ranks = sorted({distinct(share) for share in shares} - {()}, key=sum)
    largest = {"expert": max(max(rank) for rank in ranks), "reorder": num_tokens}
    _check_tables(tables, largest)
    wanted = _wanted(model, device, ranks, largest, [name for name in KERNELS if name not in tables])
    for one in wanted:
        if not one.is_extra:
            check_memory(one.label, need_of(one.kernel, one.size, device).total_bytes, device.name)
    points = _measure_all(wanted, device, budget_s, begin_s, progress)
    seconds = {key: median(point.time_s for point in found) for key, found in points.items()}
    return MeasuredShares(
        num_tokens,
        {rank: seconds[f"rank {rank}"] for rank in ranks},
        seconds["own rows"],
        {number: seconds[f"arrived {number}"] for number in map(sum, ranks)},
        dict(tables) | {name: table_of(points[name]) for name in KERNELS if name not in tables},
    )


def check_conditions(name: str, header: Header | None, device: str, dtype: str) -> None:
    """Refuse to predict from a profile that was measured otherwise than what it is held against.

    Raises
    ------
    SpecError
        When device, type or number of threads differ; a bare table without a header is taken as it is.
    """
    if header is None:
        return
    pairs = {
        "--device": (header.device, device),
        "--dtype": (header.dtype, dtype),
        "--threads": (header.conditions.get("num_threads"), torch.get_num_threads()),
    }
    for option, (before, now) in pairs.items():
        if before != now:
            raise SpecError(
                f"--profile {name}: measured with {option} {before}, now it is {now}; give {option} {before}, or leave "
                "the profile out"
            )


def _check_tables(tables: Mapping[str, Table], largest: Mapping[str, int]) -> None:
    for name, table in tables.items():
        if table.sizes[-1] < largest[name]:
            raise LazsimError(
                f"--profile: it has {name} up to {table.sizes[-1]:g}, and {largest[name]} is needed; "
                "give fewer --tokens, or leave the profile out"
            )


@dataclass(frozen=True)
class _Wanted:
    """A point that is needed, or one more for which there may be time; `tokens` say how large it is."""

    key: str
    label: str
    kernel: Kernel
    size: int
    tokens: int
    is_extra: bool = False

    def least_s(self, done: Sequence[tuple["_Wanted", Point]], device: Device) -> float:
        """Predict the least that it takes from somewhat smaller points, as far as there are any."""
        near = [
            point.time_s * self.tokens / one.tokens
            for one, point in done
            if one.kernel.name == self.kernel.name and self.tokens / NEAR <= one.tokens <= self.tokens
        ]
        run_s = max(ideal_s(self.kernel, self.size, device), min(near, default=0.0))
        return inputs_s(self.kernel, self.size, device) + FEWEST_RUNS * run_s


def _wanted(
    model: ModelSpec, device: Device, ranks: Sequence[Share], largest: Mapping[str, int], names: Sequence[str]
) -> list[_Wanted]:
    """List what is needed, smaller before larger, then what makes tables finer, and then shares once more."""
    kernels = {kernel.name: kernel for kernel in kernels_of(model, use_grouped_mm=False)[0]}
    grouped = use_grouped_mm(model, device.name, DTYPES[device.dtype])
    needed = [
        _Wanted(
            f"rank {rank}",
            f"a rank of {sum(rank)} tokens",
            grouped_kernel(model, partial(_counts, rank), use_grouped_mm=grouped),
            1,
            sum(rank),
        )
        for rank in ranks
    ]
    size, num_runs = largest["reorder"], max(map(len, ranks))
    own, arrived = own_rows_kernel(model), arrived_rows_kernel(model, num_runs)
    needed.append(_Wanted("own rows", f"own {size} tokens reordered", own, size, size))
    needed += [
        _Wanted(f"arrived {number}", f"{number} received tokens reordered", arrived, number, number)
        for number in sorted(set(map(sum, ranks)))
    ]
    again = [replace(one, is_extra=True) for one in needed] * (NUM_PASSES - 1)
    extra = []
    for name in names:
        sizes = _sizes(model, largest, name)
        points = [_Wanted(name, f"{name} of {size} tokens", kernels[name], size, size) for size in sizes]
        # A table that ends early is of no use, one with gaps is.
        needed += [points[0], points[-1]] if len(points) > 1 else points
        extra += [replace(point, is_extra=True) for point in points[1:-1]]
    return [*needed, *sorted(extra, key=lambda point: point.size), *again]


def _measure_all(
    wanted: Sequence[_Wanted],
    device: Device,
    budget_s: float,
    begin_s: float,
    progress: Callable[[Iterable[str]], Iterable[str]],
) -> dict[str, list[Point]]:
    for kernel in {one.kernel.name: one.kernel for one in wanted[::-1]}.values():
        # What a kernel's first run takes to load says nothing about how fast the others are.
        measure_kernel(kernel, kernel.sizes[0], device, 0.0, 0.0)
    done: list[tuple[_Wanted, Point]] = []
    names = progress([one.label for one in wanted])
    pace = Pace()
    for (index, one), _ in zip(enumerate(wanted), names, strict=False):
        now_s = time.monotonic()
        spent_s = now_s - begin_s
        left_s, own_s = budget_s - spent_s, pace.factor * one.least_s(done, device)
        later = [another for another in wanted[index + 1 :] if not another.is_extra]
        later_s = pace.factor * sum(another.least_s(done, device) for another in later)
        if one.is_extra:
            if own_s > left_s or too_large(one.kernel, one.size, device):
                continue
        elif spent_s + own_s + later_s > (1 + ROUGHLY) * budget_s:
            enough_s = math.ceil((spent_s + own_s + later_s) * (1 + ROUGHLY))
            raise LazsimError(
                f"--budget {budget_s:g}s: too short; give {enough_s}s, about what is needed at least, or fewer --tokens"
            )
        allowance_s = max(0.0, left_s - later_s) / (len(wanted) - index)
        point = measure_kernel(one.kernel, one.size, device, allowance_s, 0.0)
        done.append((one, point))
        pace.add(time.monotonic() - now_s, inputs_s(one.kernel, one.size, device), point)
        release_memory(device.name)
    points: dict[str, list[Point]] = {}
    for one, point in done:
        points.setdefault(one.key, []).append(point)
    return points


def _sizes(model: ModelSpec, largest: Mapping[str, int], kernel: str) -> list[int]:
    """Return sizes, each twice the one before, up to the first that is large enough; a reorder is of whole tokens."""
    unit = 1 if kernel == "expert" else model.top_k
    return [unit * 2**power for power in range(math.ceil(math.log2(max(largest[kernel] / unit, 2))) + 1)]


def _counts(rank: Share, _: int) -> Share:
    return rank
