"""Processes of this machine: room for more, starting and ending them, and the signals that reach them."""

import errno
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

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

    free = [2**31]
    with suppress(OSError, ValueError):
        free.append(_number(GROUP / "pids.max") - _number(GROUP / "pids.current"))
    with suppress(OSError, ValueError):
        most = min(_number(Path(f"/proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max"))
        free.append(most - int(Path("/proc/loadavg").read_text().split()[3].split("/")[1]))
    # The kernel holds no limit against root.
    own = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and own != resource.RLIM_INFINITY:
        free.append(own - _own_tasks())
    return max(0, min(free))


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


ResultT = TypeVar("ResultT")

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN)

SHORTAGE_S = 5.0
"""Longest wait for a descriptor or a process, which other programs may have for a moment."""


def when_possible(call: Callable[[], ResultT]) -> ResultT:
    """Call a function again while the system has no descriptor or process left for it, until `SHORTAGE_S` are over."""
    end_s = math.inf
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in SHORTAGES or time.monotonic() > end_s:
                raise
            # From the first shortage on: a call may have taken long before it found one.
            end_s = min(end_s, time.monotonic() + SHORTAGE_S)
        time.sleep(0.1)


ORDERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Orders to end: SIGHUP where the terminal is gone, with SIGINT one that reaches all processes of a terminal."""

SAME_S = 0.2
"""Time in which a second signal is the same order: `timeout` sends one to the command, and one to its group."""


def told_by(number: int) -> str:
    """Return the line with which a process ends that a signal told to."""
    return "lazsim: interrupted\n" if number == signal.SIGINT else "lazsim: told to end\n"


def is_second_order(number: int, first_s: float) -> bool:
    """Tell whether a signal is a second order after the one at `first_s` on the monotonic clock: nobody will wait.

    SIGHUP never is: a shell passes it on before the system sends it, and a session that ends sends it after SIGTERM.
    """
    return number in (signal.SIGTERM, signal.SIGINT) and time.monotonic() > first_s + SAME_S


_clearing: list[tuple[int, Callable[[], object]]] = []
"""What clears away, with the number of the process for which it does."""


@contextmanager
def clearing(clear: Callable[[], object]) -> Iterator[None]:
    """Clear away when the block is done, also where `end_at_once` ends the process; again where an order breaks it off.

    `clear` is safe to call again.
    """
    own = os.getpid(), clear
    _clearing.append(own)
    try:
        yield
    finally:
        try:
            clear()
        except KeyboardInterrupt:
            clear()
            raise
        finally:
            _clearing.remove(own)


def end_at_once(status: int) -> NoReturn:
    """End this process after a second order, once what `clearing` knows is cleared away; a third does not wait."""
    begun_s = time.monotonic()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if is_second_order(number, begun_s):
            os._exit(status)

    for number in (*ORDERS, signal.SIGALRM):
        signal.signal(number, on_signal)
    for process, clear in reversed(_clearing):
        with suppress(Exception):
            if process == os.getpid():
                clear()
    os._exit(status)


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay orders to end until the block is done, and SIGALRM, by which the command line tries again."""
    # Only the main thread runs handlers and may set them.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (*ORDERS, signal.SIGALRM)}
    # None stands for a handler from outside Python, which cannot be restored.
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: held.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for waiting in held:
            signal.raise_signal(waiting)


@contextmanager
def signals_blocked(*numbers: int) -> Iterator[None]:
    """Start processes that such a signal to all of the terminal's processes does not reach: their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_trackers(*others: Callable[[], None]) -> None:
    """Start the processes that clear away after those of multiprocessing, and of `others`.

    They ignore SIGINT and SIGTERM, which get through to this process again as they start: so they come first.
    """
    from multiprocessing.resource_tracker import ensure_running

    with signals_blocked(signal.SIGHUP):
        for start in (ensure_running, *others):
            start()


@contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes by multiprocessing that the signals of the terminal do not reach: their parent ends them.

    Signals wait until all have started. The processes do not import the program's main module: they need nothing of it,
    and a script without a main guard would run again in each of them.
    """
    names = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: names[name] for name in ("__spec__", "__file__") if name in names}
    start_trackers()
    with signals_held(), signals_blocked(signal.SIGINT, signal.SIGHUP):
        names.update(dict.fromkeys(hidden))
        try:
            yield
        finally:
            names.update(hidden)


def end_with_parent() -> None:
    """End this process, which multiprocessing has started, at once when the process that asked for it has ended."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None, "started by another process"

    def await_end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=await_end, daemon=True).start()
