"""A whole profile: kernels, exchanges and storage within one budget."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from lazsim.costmodel.profile import SIZE_UNITS, Header, Point, read_profile, require_header
from lazsim.errors import LazsimError, SpecError
from lazsim.files import check_folder
from lazsim.profiling.communication import GROUPS, choose_ranks, communication_tasks, group_tasks, rank_counts
from lazsim.profiling.compute import compute_tasks
from lazsim.profiling.session import Session, begin
from lazsim.profiling.storage import STORAGE, storage_tasks
from lazsim.profiling.worker import EXCHANGES
from lazsim.pytorch.device import choose_device
from lazsim.specs import ModelSpec, load_spec, unknown_name

MEASURED = [name for name in SIZE_UNITS if name != "dense"]
"""Kernels that can be measured: `dense` is attention and feed-forward in one, in tables without a header."""


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
    kernels: tuple[str, ...] = ()


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
    for name in options.kernels:
        if name not in MEASURED:
            raise SpecError(f"--kernel: {unknown_name('kernel', name, MEASURED)}")
    model = load_spec(ModelSpec, options.model)
    device = choose_device(options.device)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    ranks, backend, why_not = choose_ranks(device, options.num_ranks, options.backend)
    if options.storage is not None:
        check_folder(options.storage)
    session = begin(
        path,
        options.device,
        options.dtype,
        model,
        options.budget_s,
        kernels=options.kernels,
        fresh=options.fresh,
    )
    if options.note:
        session.header.conditions["note"] = options.note
    exchanges, groups = session.wants(*EXCHANGES), session.wants(*GROUPS)
    if exchanges or groups:
        # An earlier sitting may have had none.
        session.header.left_out.pop("communication", None)
    if why_not and (exchanges or groups):
        session.leave_out({"communication": why_not})
    end_s = session.deadline_s
    tasks, unknown = compute_tasks(session.header)
    reasons = {} if ranks > 1 else dict.fromkeys((*EXCHANGES, *GROUPS), why_not)
    reasons |= {} if options.storage is not None else dict.fromkeys(STORAGE, "give the storage as --checkpoint-path")
    known = {task.kernel for task in tasks} | {*EXCHANGES, *GROUPS, *STORAGE}
    for name in options.kernels:
        if name in reasons or name not in known:
            raise SpecError(f"--kernel {name}: {reasons.get(name) or unknown.get(name) or f'{model.name} has none'}")
    session.leave_out({name: why for name, why in unknown.items() if session.wants(name)})
    more = (ranks > 1 and (exchanges or groups)) or (options.storage is not None and session.wants(*STORAGE))
    session.deadline_s -= options.budget_s * (1 - COMPUTE_SHARE) * more
    try:
        session.run(tasks, progress)
        # Each has a part of its own, so that the exchanges of large messages starve neither.
        if ranks > 1 and groups:
            session.deadline_s = min(end_s, time.monotonic() + SMALL_SHARE * options.budget_s)
            session.run(group_tasks(session.header, ranks, backend), progress)
        if options.storage is not None:
            session.deadline_s = min(end_s, time.monotonic() + SMALL_SHARE * options.budget_s)
            session.run(storage_tasks(options.storage), progress)
        # The most come first and have half of the time: theirs are the ones that the simulator uses.
        counts = rank_counts(ranks)[::-1] if ranks > 1 and exchanges else []
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
