"""A whole profile: kernels, process groups, storage and exchanges within one budget."""

import time
from pathlib import Path

import torch

from lazsim.costmodel.profile import SIZE_UNITS, Header, Point, read_profile, require_header
from lazsim.errors import LazsimError, SpecError
from lazsim.files import check_folder
from lazsim.profiling.communication import GROUPS, choose_ranks, exchange_measurements, group_measurements, rank_counts
from lazsim.profiling.compute import compute_measurements
from lazsim.profiling.exchanges import EXCHANGES
from lazsim.profiling.scheduler import Measurement, Progress
from lazsim.profiling.session import Options, Session, begin
from lazsim.profiling.storage import STORAGE, storage_measurements
from lazsim.pytorch.device import choose_device
from lazsim.specs import ModelSpec, load_spec, unknown_name

MEASURED = [name for name in SIZE_UNITS if name != "dense"]
"""Kernels that can be measured; `dense` is attention and feed-forward in one, in tables without a header."""

COMPUTE_SHARE = 0.75
"""Share of the budget for kernels if links or storage are measured too, which also get what is left over."""

SMALL_SHARE = 0.08
"""Share of the budget for process groups, and for storage; exchanges take the rest."""


def measure_profile(path: Path, options: Options, progress: Progress = iter) -> tuple[Header, list[Point]]:
    """Measure a profile of this machine's device; points are kept as it grows, also if a kernel or a process fails."""
    for name in options.kernels:
        if name not in MEASURED:
            raise SpecError(f"`kernel`: {unknown_name('kernel', name, MEASURED)}")
    model = load_spec(ModelSpec, options.model)
    device = choose_device(options.device)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    num_ranks, backend, why_alone = choose_ranks(device, options.num_ranks, options.backend)
    if options.storage is not None:
        check_folder(options.storage)
    session = begin(path, options, model)
    if options.note:
        session.header.conditions["note"] = options.note
    kernels, unknown = compute_measurements(session.header)
    _record_skipped(session, options, why_alone, unknown, {one.kernel for one in kernels})
    try:
        _run_parts(session, kernels, options, num_ranks, backend, progress)
    finally:
        session.save()
    if not session.points:
        reasons = {reason for sizes in session.skipped.values() for _, reason in sizes}
        if "budget" in reasons:
            raise LazsimError(f"`budget`: {options.budget_s:g} s did not do for one point; give more")
        lacking = ", ".join(sorted(reasons))
        raise LazsimError(f"nothing could be measured: too little {lacking}; free some, or choose a smaller model")
    result = read_profile(path)
    return require_header(result), list(result.points)


def _record_skipped(
    session: Session, options: Options, why_alone: str, unknown: dict[str, str], kernels: set[str]
) -> None:
    """Record kernels that cannot be measured; refuse those that were asked for by name."""
    if session.wants(*EXCHANGES, *GROUPS):
        # An earlier session may have had no other ranks.
        session.header.skipped.pop("communication", None)
        if why_alone:
            session.header.skipped["communication"] = why_alone.replace("`", "")
    reasons = dict.fromkeys((*EXCHANGES, *GROUPS), why_alone) if why_alone else {}
    reasons |= {} if options.storage is not None else dict.fromkeys(STORAGE, "give the storage as `checkpoint_path`")
    for name in options.kernels:
        if name in reasons or name not in {*kernels, *EXCHANGES, *GROUPS, *STORAGE}:
            why = reasons.get(name) or unknown.get(name) or f"{session.header.model.name} has none"
            raise SpecError(f"`kernel` {name}: {why}")
    session.header.skipped.update({name: why for name, why in unknown.items() if session.wants(name)})


def _run_parts(
    session: Session, kernels: list[Measurement], options: Options, num_ranks: int, backend: str, progress: Progress
) -> None:
    """Measure each part within its share of the budget, so that large exchanges starve none."""
    exchanges, groups = (num_ranks > 1 and session.wants(*names) for names in (EXCHANGES, GROUPS))
    stores = options.storage is not None and session.wants(*STORAGE)
    end_s, budget_s = session.scheduler.begin_s + options.budget_s, options.budget_s
    is_shared = exchanges or groups or stores
    session.run(kernels, end_s - budget_s * (1 - COMPUTE_SHARE) * is_shared, progress)
    if groups:
        small_s = min(end_s, time.monotonic() + SMALL_SHARE * budget_s)
        session.run(group_measurements(session.header, num_ranks, backend), small_s, progress)
    if options.storage is not None:
        small_s = min(end_s, time.monotonic() + SMALL_SHARE * budget_s)
        session.run(storage_measurements(options.storage), small_s, progress)
    # The most processes come first and get half of the time: the simulator uses their times.
    counts = rank_counts(num_ranks)[::-1] if exchanges else []
    for index, count in enumerate(counts):
        left_s = max(end_s - time.monotonic(), 0.0)
        part_s = time.monotonic() + left_s / (1 if index == len(counts) - 1 else 2)
        with exchange_measurements(session.header, count, backend) as measurements:
            session.run(measurements, part_s, progress)
