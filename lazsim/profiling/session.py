"""A whole profile: what is to be measured, cheapest first, within a budget, kept as it goes so that it can go on."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
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
from lazsim.profiling.merge import difference, in_order, keep_fastest, say_left_out
from lazsim.profiling.task import Pace, Task
from lazsim.pytorch.device import DTYPES, choose_device, choose_dtype
from lazsim.pytorch.experts import use_grouped_mm
from lazsim.pytorch.memory import is_out_of_memory, release_memory
from lazsim.specs import ModelSpec

SAVE_INTERVAL_S = 5.0
MAX_RESERVE = 0.85
"""Part of the time left that may be put by for points to come; the rest sharpens the medians of all."""

NUM_PASSES = 3
"""How often all points are gone through, as far as there is time: a machine that others share is not always as fast."""


@dataclass
class Session:
    """A profile under way."""

    path: Path
    header: Header
    points: list[Point]
    deadline_s: float
    left_out: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    saved_s: float = -math.inf
    pace: Pace = field(default_factory=Pace)
    kernels: frozenset[str] = frozenset()

    def wants(self, *kernels: str) -> bool:
        """Tell whether any of these is to be measured: all are, unless some were named."""
        return not self.kernels or not self.kernels.isdisjoint(kernels)

    def leave_out(self, reasons: dict[str, str]) -> None:
        """Say of what is not measured at all why not."""
        self.header = msgspec.structs.replace(self.header, left_out=self.header.left_out | reasons)

    def run(self, tasks: Sequence[Task], progress: Callable[[Iterable[str]], Iterable[str]] = iter) -> None:
        """Measure what is not there yet; what does not fit into memory or time is left out, and said so.

        What could be measured is measured again as far as there is time, and the fastest is kept: what others do on the
        machine meanwhile only adds.
        """
        done = {point.key for point in self.points}
        pending = [task for task in tasks if self.wants(task.kernel) and task.key not in done]
        turns = pending * NUM_PASSES
        names = progress([f"{task.kernel} {task.size}" for task in turns])
        for (index, task), _ in zip(enumerate(turns), names, strict=False):
            is_first = index < len(pending)
            if is_first or task.key in {point.key for point in self.points}:
                reason = self._measure(task, turns[index:])
                if is_first and reason is not None:
                    self.left_out.setdefault(task.label, []).append((task.size, reason))
                self.save(SAVE_INTERVAL_S)

    def _measure(self, task: Task, pending: Sequence[Task]) -> str | None:
        """Measure a point, and leave time for those that are pending; return why not, if so."""
        left_s = max(self.deadline_s - time.monotonic(), 0.0)
        reason = task.obstacle()
        if reason is None and (left_s <= 0 or self._least_s(task) > left_s):
            reason = "--budget"
        if reason is None:
            try:
                task.prepare()
                begin_s = time.monotonic()
                left_s = max(self.deadline_s - begin_s, 0.0)
                point = task.measure(self._allowance_s(left_s, pending))
                self.pace.add(time.monotonic() - begin_s, task.fixed_s, point)
                keep_fastest(self.points, point)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = "memory"
            if reason is not None:
                # What failed may lie in a cycle of its graph.
                gc.collect()
            release_memory(self.header.device)
        return reason

    def _least_s(self, task: Task) -> float:
        points = [point for point in self.points if point.kernel == task.kernel]
        return self.pace.factor * task.least_s(points)

    def _allowance_s(self, left_s: float, pending: Sequence[Task]) -> float:
        """Share time out evenly, after what the pending points take at least is put by, as far as they fit."""
        reserved_s = 0.0
        for task in pending:
            needed_s = self._least_s(task)
            if reserved_s + needed_s > MAX_RESERVE * left_s:
                break
            reserved_s += needed_s
        return (left_s - reserved_s) / len(pending)

    def save(self, interval_s: float = 0.0) -> None:
        """Write what is there, if the last time is so long ago."""
        if self.points and time.monotonic() - self.saved_s >= interval_s:
            left_out = self.header.left_out | {kernel: say_left_out(sizes) for kernel, sizes in self.left_out.items()}
            header = msgspec.structs.replace(self.header, left_out=left_out)
            save_profile(self.path, header, in_order(self.points))
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
        Where the profile is kept.
    device, dtype, model, budget_s
        As of `Options`.
    kernels
        What is to be measured, if not all.
    fresh
        Measure again what is there: of these kernels, or all.

    Raises
    ------
    LazsimError
        When there is no such device, or the profile at `path` was measured under other conditions.
    """
    header_path(path)
    name = choose_device(device)
    kind = choose_dtype(dtype, name)
    deadline_s = time.monotonic() + budget_s
    found = conditions(name) | {"grouped": "grouped_mm" if use_grouped_mm(model, name, DTYPES[kind]) else "loop"}
    same: dict[str, Any] = {"torch": str(torch.__version__), "device": name, "dtype": kind, "model": model}
    if not path.exists() and header_path(path).exists() and not fresh:
        raise SpecError(
            f"{header_path(path)}: has no {path.name} beside it; remove it, choose another --out, or --fresh"
        )
    wanted = frozenset(kernels)
    if path.exists() and (wanted or not fresh):
        earlier = read_profile(path)
        kept = require_header(earlier)
        if other := difference(kept, same, found):
            what, before, now = other
            raise SpecError(f"{path}: measured with {what} {before}, now it is {now}; choose another --out, or --fresh")
        # What is left out of others still is; a kernel's name may go on with " over 4".
        others = {name: why for name, why in kept.left_out.items() if wanted and name.split()[0] not in wanted}
        points = [point for point in earlier.points if not (fresh and point.kernel in wanted)]
        return Session(path, msgspec.structs.replace(kept, left_out=others), points, deadline_s, kernels=wanted)
    matmul, copy = measure_peaks(name, kind, peak_budget_s(budget_s))
    # Clocks under load are those that times depend on; before it a GPU's are low.
    found |= clocks(name)
    header = Header(
        format_version=FORMAT_VERSION,
        lazsim=__version__,
        conditions=found,
        matmul_flop_per_s=matmul,
        copy_bytes_per_s=copy,
        **same,
    )
    return Session(path, header, [], deadline_s, kernels=wanted)
