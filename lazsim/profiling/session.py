"""A whole profile, measured within one budget: kernels, process groups, storage, exchanges; what is still missing."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from lazsim import __version__
from lazsim.costmodel.profile import (
    FORMAT_VERSION,
    SIZE_UNITS,
    Header,
    ProfilePoint,
    header_path,
    read_profile,
    require_header,
    save_profile,
)
from lazsim.errors import LazsimError, SpecError, unknown_name
from lazsim.files.writing import check_folder
from lazsim.grouping import grouped
from lazsim.profiling.communication import GROUPS, choose_ranks, exchange_measurements, group_measurements, rank_counts
from lazsim.profiling.compute import compute_measurements, implementations
from lazsim.profiling.exchanges import EXCHANGES
from lazsim.profiling.kernels import kernels_of
from lazsim.profiling.machine import clocks, conditions, measure_peaks
from lazsim.profiling.scheduler import Measurement, ProgressBar, Scheduler
from lazsim.profiling.storage import STORAGE, storage_measurements
from lazsim.pytorch.device import choose_device, choose_dtype
from lazsim.specs import ModelSpec, load_spec

MEASURED = [name for name in SIZE_UNITS if name != "dense"]
"""Kernels that can be measured; `dense` is attention and feed-forward in one, in tables without a header."""

COMPUTE_SHARE = 0.75
"""Share of the budget for kernels if links or storage are measured too, which also get what is left over."""

SMALL_SHARE = 0.08
"""Share of the budget for process groups, and for storage; exchanges take the rest."""

SAVE_INTERVAL_S = 5.0

SAME = (
    "processor", "num_processors", "num_threads", "float32_matmul_precision", "gpu", "driver_version", "grouped",
    "rows", "memory",
)  # fmt: skip
"""Conditions that all times of a profile share."""

MAY_BE_UNKNOWN = ("driver_version", "rows")
"""Those of them that nvidia-smi may not tell at times, or that profiles of before did not."""


@dataclass(frozen=True)
class Options:
    """Options of a profile; see ``lazsim profile --help``."""

    device: str = "auto"
    dtype: str = "auto"
    model: str = "gpt-s"
    budget_s: float = 600.0
    num_ranks: int | None = None
    backend: str | None = None
    storage: Path | None = None
    note: str = ""
    num_threads: int | None = None
    fresh: bool = False
    kernels: tuple[str, ...] = ()


@dataclass
class Session:
    """A profile under way; its scheduler has the points so far."""

    path: Path
    header: Header
    scheduler: Scheduler
    kernels: frozenset[str] = frozenset()
    """Kernels to measure; all if empty."""
    skipped: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sizes that were skipped by this session and why, by kernel."""
    saved_s: float = -math.inf

    def wants(self, *kernels: str) -> bool:
        """Tell whether any of these kernels is to be measured."""
        return not self.kernels or not self.kernels.isdisjoint(kernels)

    def run(self, measurements: Sequence[Measurement], end_s: float, progress: ProgressBar = iter) -> None:
        """Measure what is still missing until a time on the monotonic clock; record what is skipped."""
        pending = [one for one in measurements if self.wants(one.kernel) and one.key not in self.scheduler.points]
        self.scheduler.budget_s = end_s - self.scheduler.begin_s
        for one, reason in self.scheduler.run(pending, lambda *_: self.save(SAVE_INTERVAL_S), progress):
            label = label_of(one.kernel, one.size, one.num_ranks)
            self.skipped.setdefault(label, []).append((one.size, reason))

    def save(self, interval_s: float = 0.0) -> None:
        """Write the profile unless it was written within the interval."""
        if self.scheduler.points and time.monotonic() - self.saved_s >= interval_s:
            skipped = self.header.skipped | {kernel: format_skipped(sizes) for kernel, sizes in self.skipped.items()}
            points = in_order(list(self.scheduler.points.values()))
            save_profile(self.path, msgspec.structs.replace(self.header, skipped=skipped), points)
            self.saved_s = time.monotonic()


def in_order(points: Sequence[ProfilePoint]) -> list[ProfilePoint]:
    """Sort by kernel, as they first appear, number of ranks and size."""
    rank = {kernel: index for index, kernel in enumerate(dict.fromkeys(point.kernel for point in points))}
    return sorted(points, key=lambda point: (rank[point.kernel], point.num_ranks, point.size))


def format_skipped(sizes: Iterable[tuple[int, str]]) -> str:
    """Write which sizes were skipped and why.

    Examples
    --------
    >>> format_skipped([(16, "memory"), (32, "memory"), (8, "budget")])
    '16, 32: memory; 8: budget'
    """
    by_reason = grouped((reason, str(size)) for size, reason in sizes)
    return "; ".join(f"{', '.join(known)}: {reason}" for reason, known in by_reason.items())


def label_of(kernel: str, size: float, num_ranks: int) -> str:
    """Name a kernel, with its number of ranks unless that is its size."""
    return kernel if num_ranks in (1, size) else f"{kernel} over {num_ranks}"


def begin(path: Path, options: Options, model: ModelSpec) -> Session:
    """Start a profile, or go on with the one at `path`, which must have been measured under the same conditions."""
    beside = header_path(path)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    scheduler = Scheduler(device, options.budget_s)
    found = conditions(device) | implementations(model, device, dtype)
    same: dict[str, Any] = {"torch": str(torch.__version__), "device": device, "dtype": dtype, "model": model}
    if not path.exists() and beside.exists() and not options.fresh:
        raise SpecError(f"{beside}: has no {path.name} beside it; remove it, choose another `out`, or give `fresh`")
    wanted = frozenset(options.kernels)
    if path.exists() and (wanted or not options.fresh):
        earlier = read_profile(path)
        kept = require_header(earlier)
        if other := difference(kept, same, found):
            what, before, now = other
            raise SpecError(
                f"{path}: measured with {what} {before}, now it is {now}; choose another `out`, or give `fresh`"
            )
        # Reasons for other kernels still hold; a label may go on after the kernel with " over 4".
        others = {label: why for label, why in kept.skipped.items() if wanted and label.split()[0] not in wanted}
        scheduler.points = {one.key: one for one in earlier.points if not (options.fresh and one.kernel in wanted)}
        return Session(path, msgspec.structs.replace(kept, skipped=others), scheduler, wanted)
    matmul, copy = measure_peaks(device, dtype, options.budget_s)
    # The clocks that times depend on are those under load; before it a GPU's are low.
    found |= clocks(device)
    header = Header(
        format_version=FORMAT_VERSION,
        lazsim=__version__,
        conditions=found,
        matmul_flop_per_s=matmul,
        copy_bytes_per_s=copy,
        **same,
    )
    return Session(path, header, scheduler, wanted)


def difference(header: Header, same: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first field that differs but must not: its name, its value in the header, and the other value."""
    pairs = {name: (getattr(header, name), now) for name, now in same.items()}
    pairs |= {name: (header.conditions.get(name), conditions.get(name)) for name in SAME}
    for name, (before, now) in pairs.items():
        if before != now and isinstance(before, ModelSpec):
            field = next(one for one in before.__struct_fields__ if getattr(before, one) != getattr(now, one))
            name = "model" if field == "name" else f"model.{field}"
            before, now = getattr(before, field), getattr(now, field)
        if before != now and not (name in MAY_BE_UNKNOWN and None in (before, now)):
            return name, before, now
    return None


def measure_profile(path: Path, options: Options, progress: ProgressBar) -> tuple[Header, list[ProfilePoint]]:
    """Measure a profile of this machine's device; points are kept as it grows, also if a kernel or a process fails."""
    for name in options.kernels:
        if name not in MEASURED:
            raise SpecError(f"`kernel`: {unknown_name('kernel', name, MEASURED)}")
    model = load_spec(ModelSpec, options.model, "model")
    device = choose_device(options.device)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    num_ranks, backend, why_alone = choose_ranks(device, options.num_ranks, options.backend)
    if options.storage is not None:
        check_folder(options.storage)
    _refuse_kernels(options, model, why_alone)
    session = begin(path, options, model)
    if options.note:
        session.header.conditions["note"] = options.note
    kernels, unknown = compute_measurements(session.header)
    _record_skipped(session, why_alone, unknown)
    try:
        _run_parts(session, kernels, options, num_ranks, backend, progress)
    finally:
        session.save()
    if not session.scheduler.points:
        reasons = {reason for sizes in session.skipped.values() for _, reason in sizes}
        if "budget" in reasons:
            raise LazsimError(f"`budget`: {options.budget_s:g} s did not do for one point; give more")
        lacking = ", ".join(sorted(reasons))
        raise LazsimError(f"nothing could be measured: too little {lacking}; free some, or choose a smaller model")
    result = read_profile(path)
    return require_header(result), list(result.points)


def _refuse_kernels(options: Options, model: ModelSpec, why_alone: str) -> None:
    """Refuse kernels that are asked for by name and cannot be measured."""
    # How experts are grouped changes no name.
    kernels, reasons = kernels_of(model, use_grouped_mm=False)
    reasons |= dict.fromkeys((*EXCHANGES, *GROUPS), why_alone) if why_alone else {}
    reasons |= {} if options.storage is not None else dict.fromkeys(STORAGE, "give the storage as `checkpoint_path`")
    for name in options.kernels:
        if name in reasons or name not in {*(one.name for one in kernels), *EXCHANGES, *GROUPS, *STORAGE}:
            raise SpecError(f"`kernel` {name}: {reasons.get(name, f'{model.name} has none')}")


def _record_skipped(session: Session, why_alone: str, unknown: dict[str, str]) -> None:
    """Record kernels that cannot be measured."""
    if session.wants(*EXCHANGES, *GROUPS):
        # An earlier session may have had no other ranks.
        session.header.skipped.pop("communication", None)
        if why_alone:
            session.header.skipped["communication"] = why_alone.replace("`", "")
    session.header.skipped.update({name: why for name, why in unknown.items() if session.wants(name)})


def _run_parts(
    session: Session, kernels: list[Measurement], options: Options, num_ranks: int, backend: str, progress: ProgressBar
) -> None:
    """Measure each part within its share of the budget, so that large exchanges starve none."""
    exchanges, groups = (num_ranks > 1 and session.wants(*names) for names in (EXCHANGES, GROUPS))
    stores = options.storage is not None and session.wants(*STORAGE)
    end_s, budget_s = session.scheduler.begin_s + options.budget_s, options.budget_s
    is_shared = exchanges or groups or stores
    session.run(kernels, end_s - budget_s * (1 - COMPUTE_SHARE) * is_shared, progress)
    parts = [group_measurements(session.header, num_ranks, backend)] if groups else []
    parts += [] if options.storage is None else [storage_measurements(options.storage)]
    for part in parts:
        session.run(part, min(end_s, time.monotonic() + SMALL_SHARE * budget_s), progress)
    # The most processes come first and get half of the time: the simulator uses their times.
    counts = rank_counts(num_ranks)[::-1] if exchanges else []
    for index, count in enumerate(counts):
        left_s = max(end_s - time.monotonic(), 0.0)
        part_s = time.monotonic() + left_s / (1 if index == len(counts) - 1 else 2)
        with exchange_measurements(session.header, count, backend) as measurements:
            session.run(measurements, part_s, progress)
