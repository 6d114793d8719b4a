"""Times of checkpoints that are written to a path and read back."""

import os
import shutil
from functools import partial
from pathlib import Path

import torch

from lazsim.costmodel.profile import ProfilePoint
from lazsim.errors import LazsimError, first_line, prefix_errors
from lazsim.files.writing import check_folder, scratch_folder
from lazsim.placement.plan import Floats
from lazsim.processes import MEMORY_SHARE
from lazsim.profiling.compute import DRAW_S
from lazsim.profiling.scheduler import FEWEST_RUNS, Measurement, in_proportion
from lazsim.profiling.timing import HostClock, make_point, measure
from lazsim.pytorch.device import free_bytes, is_out_of_memory

STORAGE = ("checkpoint_save", "checkpoint_load")
STORAGE_SIZES = tuple(2**power for power in range(20, 33, 2))
DISK_SHARE = 0.1
"""Share of the free space that a file may take."""


def storage_measurements(folder: Path) -> list[Measurement]:
    """List checkpoint files to write to a folder and to read back, smallest first."""
    check_folder(folder)
    return [_measurement(kernel, size, folder) for size in STORAGE_SIZES for kernel in STORAGE]


def _measurement(kernel: str, size: int, folder: Path) -> Measurement:
    def skip_reason() -> str | None:
        # The data that is written and that is read back, and the places where the two differ.
        if 2.25 * size > MEMORY_SHARE * free_bytes("cpu"):
            return "memory"
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return "disk space" if size > DISK_SHARE * shutil.disk_usage(existing).free else None

    return Measurement(
        kernel,
        size,
        1,
        in_proportion(size),
        partial(_measure, kernel, size, folder),
        skip_reason,
        fixed_s=size / 4 * DRAW_S["cpu"],
        # One more than warm-up and repetitions: a file is saved and compared before it is loaded.
        fewest_runs=FEWEST_RUNS + 1,
    )


def _measure(kernel: str, size: int, folder: Path, end_s: float) -> ProfilePoint:
    """Time saves or loads of one file, which goes again."""
    try:
        with prefix_errors(f"{folder}"), scratch_folder(folder) as scratch:
            samples_s = _time_file(kernel, size, scratch / "checkpoint", end_s)
    except (OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        # When a disk fills up, torch raises an error of its own.
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise LazsimError(f"{folder}: cannot be written ({why}); choose another `checkpoint_path`") from None
    return make_point(kernel, size, samples_s, num_buffers=1, buffers_bytes=size, moved_bytes=size)


def _time_file(kernel: str, size: int, path: Path, end_s: float) -> Floats:
    """Time saves or loads of one file.

    A save ends when the file system says that the data is on the disk (``fsync``). Before each load the page cache is
    asked to forget the file (``posix_fadvise``), which it may ignore; caches further down are out of reach.
    """
    state = torch.rand(size // 4, generator=torch.Generator().manual_seed(size))

    def save(_: int) -> None:
        with path.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())

    def load(_: int) -> None:
        torch.load(path, weights_only=True)

    def forget(_: int) -> None:
        if hasattr(os, "posix_fadvise"):
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    save(0)
    if kernel == "checkpoint_load" and not torch.equal(torch.load(path, weights_only=True), state):
        raise LazsimError("what was read is not what was written; check the disk")
    stages = [save] if kernel == "checkpoint_save" else [forget, load]
    # What comes before the last stage only prepares.
    return measure(stages, 1, HostClock(), end_s)[:, -1:]
