"""A profile under way: its options, its file, its points, and what is still to be measured."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from lazsim import __version__
from lazsim.costmodel.profile import (
    FORMAT_VERSION,
    Header,
    Point,
    header_path,
    read_profile,
    require_header,
    save_profile,
)
from lazsim.errors import SpecError
from lazsim.profiling.machine import clocks, conditions, measure_peaks
from lazsim.profiling.merge import difference, format_skipped, in_order, keep_fastest, label_of
from lazsim.profiling.scheduler import Measurement, Progress, Scheduler
from lazsim.pytorch.device import DTYPES, choose_device, choose_dtype
from lazsim.pytorch.experts import use_grouped_mm
from lazsim.specs import ModelSpec

SAVE_INTERVAL_S = 5.0


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
    """A profile under way, with the fastest point of each kernel and size so far."""

    path: Path
    header: Header
    points: list[Point]
    scheduler: Scheduler
    kernels: frozenset[str] = frozenset()
    """Kernels to measure; all if empty."""
    skipped: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sizes that were skipped by this session and why, by kernel."""
    saved_s: float = -math.inf

    def wants(self, *kernels: str) -> bool:
        """Tell whether any of these kernels is to be measured."""
        return not self.kernels or not self.kernels.isdisjoint(kernels)

    def run(self, measurements: Sequence[Measurement], end_s: float, progress: Progress = iter) -> None:
        """Measure what is still missing until a time on the monotonic clock; record what is skipped.

        Of several times of a point the fastest is kept: other work on the machine only adds.
        """
        done = {point.key for point in self.points}
        pending = [one for one in measurements if self.wants(one.kernel) and one.key not in done]
        self.scheduler.budget_s = end_s - self.scheduler.begin_s
        for one, reason in self.scheduler.run(pending, self._keep, progress):
            label = label_of(one.kernel, one.size, one.num_ranks)
            self.skipped.setdefault(label, []).append((one.size, reason))

    def _keep(self, _: Measurement, point: Point) -> None:
        keep_fastest(self.points, point)
        self.save(SAVE_INTERVAL_S)

    def save(self, interval_s: float = 0.0) -> None:
        """Write the profile unless it was written within the interval."""
        if self.points and time.monotonic() - self.saved_s >= interval_s:
            skipped = self.header.skipped | {kernel: format_skipped(sizes) for kernel, sizes in self.skipped.items()}
            save_profile(self.path, msgspec.structs.replace(self.header, skipped=skipped), in_order(self.points))
            self.saved_s = time.monotonic()


def begin(path: Path, options: Options, model: ModelSpec) -> Session:
    """Start a profile, or go on with the one at `path`, which must have been measured under the same conditions."""
    beside = header_path(path)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    scheduler = Scheduler(device, options.budget_s)
    grouped = "grouped_mm" if use_grouped_mm(model, device, DTYPES[dtype]) else "loop"
    found = conditions(device) | {"grouped": grouped}
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
        points = [point for point in earlier.points if not (options.fresh and point.kernel in wanted)]
        scheduler.points = list(points)
        return Session(path, msgspec.structs.replace(kept, skipped=others), points, scheduler, wanted)
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
    return Session(path, header, [], scheduler, wanted)
