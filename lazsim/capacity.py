"""Capacity of this machine: free memory, tasks and descriptors, and how many processes they allow."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lazsim.errors import LazsimError

MEMORY_SHARE = 0.8
"""Share of the free memory that may be used."""

SPARE_DESCRIPTORS = 64
"""Descriptors that stay free for files, pipes and libraries: a run opens a dozen beside its connections."""

GROUP = Path("/sys/fs/cgroup")
"""The control group of this process, as a container sees it."""


def free_memory_bytes() -> int:
    """Return the free memory of the host, within the control group of this process."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        # The kernel frees on demand what only caches files.
        lines = (GROUP / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, _number(GROUP / "memory.max") - _number(GROUP / "memory.current") + cached)
    return free


def free_tasks() -> int:
    """Return the number of processes and threads that may still start, of all limits that can be read."""
    import resource

    limits: list[Callable[[], int]] = [
        lambda: _number(GROUP / "pids.max") - _number(GROUP / "pids.current"),
        lambda: (
            min(_number(Path(f"/proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max"))
            - int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        ),
    ]
    # The kernel holds no limit against root.
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and own != resource.RLIM_INFINITY:
        limits.append(lambda: own - _own_tasks())
    free = []
    for limit in limits:
        with suppress(OSError, ValueError):
            free.append(limit())
    return max(0, min(free, default=2**31))


def free_descriptors() -> int:
    """Return the number of files and connections that this process may still open, less the spare ones."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 2**31
    with suppress(OSError):
        limit -= len(os.listdir("/proc/self/fd"))
    return max(0, limit - SPARE_DESCRIPTORS)


def check_processes(
    field: str, num: int, what: str, *, each_bytes: float, each_tasks: int = 1, each_descriptors: int = 1
) -> None:
    """Refuse to start more processes than this machine can hold.

    Parameters
    ----------
    field
        Field that asks for them.
    num
        Their number.
    what
        Their name, in the plural.
    each_bytes, each_tasks, each_descriptors
        Memory of each, its threads, and the descriptors that this process keeps for it.
    """
    memory, tasks, descriptors = free_memory_bytes(), free_tasks(), free_descriptors()
    most, why = min(
        (
            int(MEMORY_SHARE * memory / each_bytes),
            f"{MEMORY_SHARE:.0%} of {memory / 2**30:.3g} GiB of free memory, {each_bytes / 2**20:.0f} MiB each",
        ),
        (tasks // each_tasks, f"{tasks} more processes and threads, {each_tasks} each"),
        (descriptors // each_descriptors, f"{descriptors} more open files, {each_descriptors} each"),
    )
    if num > most:
        raise LazsimError(f"`{field}` {num}: this machine holds at most {most} {what} ({why}); give fewer")


def _number(path: Path) -> int:
    return int(path.read_text())


def _own_tasks() -> int:
    """Count the tasks of this user."""
    num = 0
    for process in Path("/proc").glob("[0-9]*"):
        # A process may end meanwhile.
        with suppress(OSError):
            num += len(os.listdir(process / "task")) if process.stat().st_uid == os.getuid() else 0
    return num
