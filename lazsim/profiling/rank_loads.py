"""Layers of virtual ranks on one device: the load of each rank computed in turn, measured and predicted.

The load of a rank is the tokens of each of its replicas. A layer takes as long as its slowest rank.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from lazsim import __version__
from lazsim.costmodel.measured import TimeTable, table_of
from lazsim.costmodel.profile import Header, Profile, ProfilePoint
from lazsim.errors import SpecError
from lazsim.profiling.compute import Target, implementations, kernel_measurement, measure_kernel, memory_of
from lazsim.profiling.kernels import Kernel, arrived_rows_kernel, grouped_kernel, kernels_of, own_rows_kernel
from lazsim.profiling.machine import conditions, measure_peaks
from lazsim.profiling.scheduler import Measurement, ProgressBar, Scheduler
from lazsim.pytorch.device import DTYPES, check_memory, choose_device, choose_dtype
from lazsim.pytorch.operators import use_grouped_mm
from lazsim.specs import ModelSpec

KERNELS = ("expert", "reorder")
"""Kernels from which the time of a rank is predicted."""

RankLoad = tuple[int, ...]
"""Tokens of each replica of a rank."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options that all measurements of virtual ranks share."""

    device: str = "auto"
    dtype: str = "auto"
    profile: str | None = None
    threads: int | None = None
    budget: float = 600.0
    """Seconds for all of it; with fewer, tables have fewer points between their ends."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RankTimes:
    """Times of virtual ranks on a device."""

    num_tokens: int
    """Token assignments of one rank before the exchange."""
    seconds: Mapping[Any, float]
    """By purpose, forward and backward; see `measure_rank_loads`."""
    tables: Mapping[str, TimeTable]
    """Tables of one expert and of the reorder, from a profile or measured on the way."""

    def measured_s(self, load: Sequence[int]) -> float:
        """Return the time of a rank: its own tokens, the rows that it receives, and its experts."""
        own_s = self.seconds["own"]
        return own_s + self.seconds[sum(load)] + self.seconds[sorted_load(load)] if any(load) else own_s

    def predicted_s(self, load: Sequence[int]) -> float:
        """Return the time by the tables, as the simulator adds it up: all replicas, and a reorder of the mean rank."""
        experts_s = self.tables["expert"].time_s(np.array(load, dtype=np.float64)).sum()
        return float(experts_s + self.tables["reorder"].time_s(np.array(float(self.num_tokens))))


def sorted_load(load: Sequence[int]) -> RankLoad:
    """Return the form that equal loads share: sorted, without experts that have no tokens.

    Examples
    --------
    >>> sorted_load([5, 0, 3])
    (3, 5)
    """
    return tuple(sorted(tokens for tokens in load if tokens))


def measure_ranks_on_device(
    options: MeasureOptions,
    model: ModelSpec,
    loads: Sequence[Sequence[int]],
    num_tokens: int,
    profile: Profile | None,
    progress: ProgressBar,
) -> tuple[RankTimes, dict[str, Any]]:
    """Measure virtual ranks of `num_tokens` assignments each; return their times, and the conditions of these.

    Without a profile to predict from, its tables are measured on the way.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    scheduler = Scheduler(device, options.budget)
    dtype = choose_dtype(options.dtype, device)
    tables: dict[str, TimeTable] = {}
    if profile is not None:
        _check_conditions(profile.name, profile.header, device, dtype)
        points = {name: profile.of(name) for name in KERNELS}
        tables = {name: table_of(found) for name, found in points.items() if len(found) > 1}
        # Before the peaks, which take seconds.
        _check_reach(tables, _largest(loads, num_tokens))
    target = Target(device, dtype, *measure_peaks(device, dtype, options.budget))
    times = measure_rank_loads(model, target, loads, num_tokens, tables, scheduler, progress)
    found = conditions(device) | implementations(model, device, dtype)
    return times, {"device": device, "dtype": dtype, "version": __version__, "conditions": found}


def measure_rank_loads(
    model: ModelSpec,
    target: Target,
    loads: Sequence[Sequence[int]],
    num_tokens: int,
    tables: Mapping[str, TimeTable],
    scheduler: Scheduler,
    progress: ProgressBar = iter,
) -> RankTimes:
    """Measure every distinct load, the reorders of own and of received tokens, and the tables that are missing.

    The purpose of a measurement is a distinct load of experts, ``own`` (gate and schedule, and a rank's own tokens
    packed and unpacked: the same for any load), a number of received rows, sorted by expert and put back, or the table
    of a kernel. A table has points twice as large as the one before; only its ends are required.
    """
    measurements: list[Measurement] = []
    kernels: dict[str, Kernel] = {}

    def add(purpose: Any, kernel: Kernel, size: int, label: str, *, is_required: bool = True) -> None:
        if is_required:
            check_memory(label, memory_of(kernel, size, target).total_bytes, target.device)
        kernels.setdefault(kernel.name, kernel)
        measurements.append(
            kernel_measurement(kernel, size, target, purpose=purpose, name=label, is_required=is_required)
        )

    ranks = sorted({sorted_load(load) for load in loads} - {()}, key=sum)
    grouped = use_grouped_mm(model, target.device, DTYPES[target.dtype])
    for rank in ranks:
        experts = grouped_kernel(model, lambda _, rank=rank: rank, use_grouped_mm=grouped)  # type: ignore[misc]
        add(rank, experts, sum(rank), f"a rank of {sum(rank)} tokens")
    add("own", own_rows_kernel(model), num_tokens, f"own {num_tokens} tokens reordered")
    arrived = arrived_rows_kernel(model, max(map(len, ranks)))
    for number in sorted(set(map(sum, ranks))):
        add(number, arrived, number, f"{number} received tokens reordered")
    largest = _largest(loads, num_tokens)
    for kernel in kernels_of(model, use_grouped_mm=False)[0]:
        if kernel.name in largest and kernel.name not in tables:
            # A reorder is of whole tokens.
            unit = 1 if kernel.name == "expert" else model.top_k
            last = math.ceil(math.log2(max(largest[kernel.name] / unit, 2)))
            for power in range(last + 1):
                size, is_end = unit * 2**power, power in (0, last)
                add(kernel.name, kernel, size, f"{kernel.name} of {size} tokens", is_required=is_end)
    # The first run of a kernel may load code, which says nothing about the time of the others.
    for kernel in kernels.values():
        measure_kernel(kernel, kernel.sizes[0], target, 0.0)
    measurements.sort(key=lambda one: 0 if one.is_required else one.size)
    points: defaultdict[Any, list[ProfilePoint]] = defaultdict(list)
    scheduler.run(measurements, lambda one, point: points[one.purpose].append(point), progress)
    seconds = {purpose: median(point.time_s for point in found) for purpose, found in points.items()}
    made = {name: table_of(points[name]) for name in KERNELS if name not in tables}
    return RankTimes(num_tokens, seconds, {**tables, **made})


def _largest(loads: Sequence[Sequence[int]], num_tokens: int) -> dict[str, int]:
    return {"expert": max(map(max, loads)), "reorder": num_tokens}


def _check_reach(tables: Mapping[str, TimeTable], largest: Mapping[str, int]) -> None:
    for name, table in tables.items():
        if table.sizes[-1] < largest[name]:
            raise SpecError(
                f"`profile`: it has {name} up to {table.sizes[-1]:,.10g}, and {largest[name]:,} is needed; "
                "give fewer `tokens`, or leave the profile out"
            )


def _check_conditions(name: str, header: Header | None, device: str, dtype: str) -> None:
    """Refuse a profile that was measured under other conditions; a bare table without a header is taken as it is."""
    if header is None:
        return
    pairs = {
        "device": (header.device, device),
        "dtype": (header.dtype, dtype),
        "threads": (header.conditions.get("num_threads"), torch.get_num_threads()),
    }
    for option, (before, now) in pairs.items():
        if before != now:
            raise SpecError(
                f"`profile` {name}: measured with `{option}` {before}, now it is {now}; give `{option}` {before}, or "
                "leave the profile out"
            )
