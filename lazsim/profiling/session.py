"""A whole profile: what is to be measured, cheapest first, within a budget, kept as it goes so that it can go on."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from lazsim.errors import LazsimError, SpecError
from lazsim.files import check_folder
from lazsim.profiling.communication import choose_ranks, communication_tasks, group_tasks, rank_counts
from lazsim.profiling.compute import Device, check_kernel, ideal_s, inputs_s, measure_kernel, too_large
from lazsim.profiling.device import (
    DTYPES,
    choose_device,
    choose_dtype,
    clocks,
    conditions,
    is_out_of_memory,
    measure_peaks,
    peak_budget_s,
    release_memory,
)
from lazsim.profiling.grouped import use_grouped_mm
from lazsim.profiling.kernel import Kernel
from lazsim.profiling.kernels import kernels_of
from lazsim.profiling.storage import storage_tasks
from lazsim.profiling.task import Pace, Task
from lazsim.specs import ModelSpec, load_spec

SAVE_INTERVAL_S = 5.0
MAX_RESERVE = 0.85
"""Part of the time left that may be put by for points to come; the rest sharpens the medians of all."""

SAME = ("processor", "num_processors", "num_threads", "gpu", "driver_version", "grouped")
"""Conditions under which times can stand in one profile."""


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

    def run(self, tasks: Sequence[Task], progress: Callable[[Iterable[str]], Iterable[str]] = iter) -> None:
        """Measure what is not there yet; what does not fit into memory or time is left out, and said so."""
        done = {point.key for point in self.points}
        pending = [task for task in tasks if task.key not in done]
        names = progress([f"{task.kernel} {task.size}" for task in pending])
        for (index, task), _ in zip(enumerate(pending), names, strict=False):
            left_s = max(self.deadline_s - time.monotonic(), 0.0)
            reason = task.obstacle()
            if reason is None and (left_s <= 0 or self._least_s(task) > left_s):
                reason = "--budget"
            if reason is None:
                try:
                    task.prepare()
                    begin_s = time.monotonic()
                    left_s = max(self.deadline_s - begin_s, 0.0)
                    self.points.append(task.measure(self._allowance_s(left_s, pending[index:])))
                    self.pace.add(time.monotonic() - begin_s, task.fixed_s, self.points[-1])
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = "memory"
                if reason is not None:
                    # What failed may lie in a cycle of its graph.
                    gc.collect()
                release_memory(self.header.device)
            if reason is not None:
                self.left_out.setdefault(task.label, []).append((task.size, reason))
            self.save(SAVE_INTERVAL_S)

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
            left_out = self.header.left_out | {kernel: _say(sizes) for kernel, sizes in self.left_out.items()}
            order = sorted(
                self.points, key=lambda point: (_rank(self.points, point.kernel), point.num_ranks, point.size)
            )
            save_profile(self.path, msgspec.structs.replace(self.header, left_out=left_out), order)
            self.saved_s = time.monotonic()


def _rank(points: Sequence[Point], kernel: str) -> int:
    return next(index for index, point in enumerate(points) if point.kernel == kernel)


def _say(sizes: Sequence[tuple[int, str]]) -> str:
    """Say which sizes were left out and why.

    Examples
    --------
    >>> _say([(16, "memory"), (32, "memory"), (8, "--budget")])
    '16, 32: memory; 8: --budget'
    """
    reasons = dict.fromkeys(reason for _, reason in sizes)
    return "; ".join(f"{', '.join(str(size) for size, why in sizes if why == reason)}: {reason}" for reason in reasons)


def begin(path: Path, device: str, dtype: str, model: ModelSpec, budget_s: float, *, fresh: bool = False) -> Session:
    """Start a profile, or go on with one that was measured under the same conditions.

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
    if path.exists() and not fresh:
        earlier = read_profile(path)
        kept = require_header(earlier)
        _check_same(path, kept, same, found)
        return Session(path, msgspec.structs.replace(kept, left_out={}), list(earlier.points), deadline_s)
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
    return Session(path, header, [], deadline_s)


def _check_same(path: Path, kept: Header, same: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    pairs = {name: (getattr(kept, name), now) for name, now in same.items()}
    pairs |= {name: (kept.conditions.get(name), found.get(name)) for name in SAME}
    for name, (before, now) in pairs.items():
        if before != now:
            before, now = (value.name if isinstance(value, ModelSpec) else value for value in (before, now))
            raise SpecError(f"{path}: measured with {name} {before}, now it is {now}; choose another --out, or --fresh")


def compute_tasks(session: Session) -> list[Task]:
    """List the kernels of the model at all sizes, cheapest first; each is first checked against its reference."""
    header = session.header
    device = Device(header.device, header.dtype, header.matmul_flop_per_s, header.copy_bytes_per_s)
    kernels, unknown = kernels_of(header.model, use_grouped_mm=header.conditions["grouped"] == "grouped_mm")
    session.header = msgspec.structs.replace(header, left_out=header.left_out | unknown)
    checked: dict[str, float] = {}
    tasks = [_compute_task(kernel, size, device, checked) for kernel in kernels for size in kernel.sizes]
    return sorted(tasks, key=lambda task: task.least_s(()))


def _compute_task(kernel: Kernel, size: int, device: Device, checked: dict[str, float]) -> Task:
    fastest_s = ideal_s(kernel, size, device)

    def predicted_s(points: Sequence[Point]) -> float:
        smaller = [point for point in points if point.size < size]
        # Times grow no faster than sizes, so that the least of these leaves out what a disturbance added.
        if smaller:
            return max(fastest_s, min(point.time_s * size / point.size for point in smaller))
        return fastest_s

    def prepare() -> None:
        if kernel.name not in checked:
            checked[kernel.name] = check_kernel(kernel, device)

    def measure(budget_s: float) -> Point:
        return measure_kernel(kernel, size, device, budget_s, checked[kernel.name])

    def obstacle() -> str | None:
        return "memory" if too_large(kernel, size, device, is_checked=kernel.name in checked) else None

    fixed_s = inputs_s(kernel, size, device)
    return Task(kernel.name, size, 1, predicted_s, measure, obstacle, fixed_s, prepare=prepare)


@dataclass(frozen=True)
class Options:
    """What is asked of a profile; see ``lazsim profile --help``."""

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


COMPUTE_SHARE = 0.75
"""Part of the budget for compute where links or storage are measured too; what is left over goes on to those."""

SMALL_SHARE = 0.08
"""Part of the budget for process groups, and for storage, before exchanges take what is left."""


def measure_profile(
    path: Path, options: Options, progress: Callable[[Iterable[str]], Iterable[str]] = iter
) -> tuple[Header, list[Point]]:
    """Measure a profile of the device at hand, and keep it as it goes.

    Raises
    ------
    LazsimError
        On bad input, when a kernel is wrong, or when a process dies; what was measured before is kept.
    """
    model = load_spec(ModelSpec, options.model)
    device = choose_device(options.device)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    ranks, backend, why_not = choose_ranks(device, options.num_ranks, options.backend)
    if options.storage is not None:
        check_folder(options.storage)
    session = begin(path, options.device, options.dtype, model, options.budget_s, fresh=options.fresh)
    if options.note:
        session.header.conditions["note"] = options.note
    if why_not:
        session.header = msgspec.structs.replace(
            session.header, left_out=session.header.left_out | {"communication": why_not}
        )
    end_s = session.deadline_s
    more = ranks > 1 or options.storage is not None
    session.deadline_s -= options.budget_s * (1 - COMPUTE_SHARE) * more
    try:
        session.run(compute_tasks(session), progress)
        # Each has a part of its own, so that the exchanges of large messages starve neither.
        if ranks > 1:
            session.deadline_s = min(end_s, time.monotonic() + SMALL_SHARE * options.budget_s)
            session.run(group_tasks(session.header, ranks, backend), progress)
        if options.storage is not None:
            session.deadline_s = min(end_s, time.monotonic() + SMALL_SHARE * options.budget_s)
            session.run(storage_tasks(options.storage), progress)
        # The most come first and have half of the time: theirs are the ones that the simulator uses.
        counts = rank_counts(ranks)[::-1] if ranks > 1 else []
        for index, count in enumerate(counts):
            left_s = max(end_s - time.monotonic(), 0.0)
            session.deadline_s = time.monotonic() + left_s / (1 if index == len(counts) - 1 else 2)
            with communication_tasks(session.header, count, backend) as tasks:
                session.run(tasks, progress)
    finally:
        session.save()
    if not session.points:
        raise LazsimError(_nothing_measured(session, options.budget_s))
    result = read_profile(path)
    return require_header(result), list(result.points)


def _nothing_measured(session: Session, budget_s: float) -> str:
    reasons = {reason for sizes in session.left_out.values() for _, reason in sizes}
    if "--budget" in reasons:
        return f"--budget: {budget_s:g} s did not do for one point; give more"
    return f"nothing could be measured: too little {', '.join(sorted(reasons))}; free some, or choose a smaller model"
