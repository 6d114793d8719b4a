"""A profile under way: its file, what it has, and what is still to be measured."""

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
from lazsim.profiling.machine import clocks, conditions, measure_peaks, peak_budget_s
from lazsim.profiling.measurement import Measurement
from lazsim.profiling.merge import difference, format_skipped, in_order, keep_fastest, label_of
from lazsim.profiling.scheduler import Progress, Scheduler
from lazsim.pytorch.device import DTYPES, choose_device, choose_dtype
from lazsim.pytorch.experts import use_grouped_mm
from lazsim.specs import ModelSpec

SAVE_INTERVAL_S = 5.0


@dataclass
class Session:
    """A profile under way.

    Attributes
    ----------
    path : Path
        File of the profile.
    header : Header
        Its header.
    points : list of Point
        The fastest point of each kernel and size so far.
    scheduler : Scheduler
        The budget.
    kernels : frozenset of str
        Kernels to measure; all if empty.
    skipped : dict
        Sizes that were skipped by this session and why, by kernel.
    """

    path: Path
    header: Header
    points: list[Point]
    scheduler: Scheduler
    kernels: frozenset[str] = frozenset()
    skipped: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    saved_s: float = -math.inf

    def wants(self, *kernels: str) -> bool:
        """Tell whether any of these kernels is to be measured."""
        return not self.kernels or not self.kernels.isdisjoint(kernels)

    def skip(self, reasons: dict[str, str]) -> None:
        """Record why kernels are not measured at all."""
        self.header = msgspec.structs.replace(self.header, skipped=self.header.skipped | reasons)

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


def begin(
    path: Path,
    device: str,
    dtype: str,
    model: ModelSpec,
    budget_s: float,
    *,
    kernels: Sequence[str] = (),
    fresh: bool = False,
) -> Session:
    """Start a profile, or go on with one that was measured under the same conditions.

    Parameters
    ----------
    path
        File of the profile.
    device, dtype, model, budget_s
        As of `Options`.
    kernels
        Kernels to measure, if not all.
    fresh
        Whether to measure these kernels, or all, again.

    Raises
    ------
    LazsimError
        When there is no such device, or the profile at `path` was measured under other conditions.
    """
    header_path(path)
    name = choose_device(device)
    type_name = choose_dtype(dtype, name)
    scheduler = Scheduler(name, budget_s)
    grouped = "grouped_mm" if use_grouped_mm(model, name, DTYPES[type_name]) else "loop"
    found = conditions(name) | {"grouped": grouped}
    same: dict[str, Any] = {"torch": str(torch.__version__), "device": name, "dtype": type_name, "model": model}
    if not path.exists() and header_path(path).exists() and not fresh:
        raise SpecError(
            f"{header_path(path)}: has no {path.name} beside it; remove it, choose another `out`, or give `fresh`"
        )
    wanted = frozenset(kernels)
    if path.exists() and (wanted or not fresh):
        earlier = read_profile(path)
        kept = require_header(earlier)
        if other := difference(kept, same, found):
            what, before, now = other
            raise SpecError(
                f"{path}: measured with {what} {before}, now it is {now}; choose another `out`, or give `fresh`"
            )
        # Reasons for other kernels still hold; a label may go on after the kernel with " over 4".
        others = {label: why for label, why in kept.skipped.items() if wanted and label.split()[0] not in wanted}
        points = [point for point in earlier.points if not (fresh and point.kernel in wanted)]
        scheduler.points = list(points)
        return Session(path, msgspec.structs.replace(kept, skipped=others), points, scheduler, wanted)
    matmul, copy = measure_peaks(name, type_name, peak_budget_s(budget_s))
    # The clocks that times depend on are those under load; before it a GPU's are low.
    found |= clocks(name)
    header = Header(
        format_version=FORMAT_VERSION,
        lazsim=__version__,
        conditions=found,
        matmul_flop_per_s=matmul,
        copy_bytes_per_s=copy,
        **same,
    )
    return Session(path, header, [], scheduler, wanted)
