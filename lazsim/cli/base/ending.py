"""How a command ends early: interrupted (SIGINT), or told to end (SIGTERM, or SIGHUP where the terminal is gone)."""

import math
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

from lazsim.processes import ORDERS, end_at_once, is_second_order, told_by

AGAIN_S = 0.1
"""Time after which an interrupt is raised again that could not be, or was lost: the way out is not disturbed sooner."""

CLEAR_S = 5.0
"""Time that Python has to end workers and threads after an order to end, when the command is done."""

NOT_IN = (
    "<frozen importlib._bootstrap>",
    "weakref.py",
    f"multiprocessing{os.sep}util.py",
    f"joblib{os.sep}_parallel_backends.py",
)
"""Ends of names of files with code that imports modules, clears away what is gone, or starts and ends workers."""

TORCH = f"{os.sep}torch{os.sep}__init__.py"
"""End of the name of the file whose import takes seconds: commands that need it have done nothing before."""


class Interrupt(KeyboardInterrupt):
    """A KeyboardInterrupt that tells whether it was lost, since it can be referred to weakly."""


class Ending:
    """A context in which the first order to end raises KeyboardInterrupt, and a second one ends the process at once.

    Workers and files are cleared away on the way out. The exception is not raised while a module is imported, since
    libraries take it for a fault of the module, nor in finalisers, where Python loses it and they would stay undone. It
    is raised again until it ends the command or is acknowledged: compiled libraries drop it where they call Python.
    From then on threads and finalisers that fail say nothing: loky's thread fails where its workers end before all work
    is handed out. An order while torch is imported ends the process at once.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0 where none did."""
        self._ordered_s = math.inf
        self._raised: Callable[[], Interrupt | None] = lambda: None
        self._before: dict[int, Any] = {}
        self._hook, self._thread_hook = sys.unraisablehook, threading.excepthook

    def __enter__(self) -> None:
        # Only the main thread may handle signals.
        if threading.current_thread() is not threading.main_thread():
            return
        self._hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        self._thread_hook, threading.excepthook = threading.excepthook, self._on_thread_error
        for number in (signal.SIGALRM, *ORDERS):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook, threading.excepthook = self._hook, self._thread_hook
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            if is_second_order(number, self._ordered_s):
                end_at_once(128 + self.number)
            if self.number:
                return
            self.number, self._ordered_s = number, time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        if _imports_torch(frame):
            with suppress(OSError):
                os.write(2, told_by(self.number).encode())
            end_at_once(128 + self.number)
        # One that is alive unwinds the command, or is kept by a library that will raise it.
        if self._raised() is None and not _must_wait(frame):
            raise self._new()

    def _new(self) -> "Interrupt":
        interrupt = Interrupt()
        self._raised = weakref.ref(interrupt)
        return interrupt

    def _on_unraisable(self, lost: "sys.UnraisableHookArgs") -> None:
        if not self.number:
            self._hook(lost)

    def _on_thread_error(self, failed: threading.ExceptHookArgs) -> None:
        if not self.number:
            self._thread_hook(failed)


def acknowledge() -> None:
    """Raise the interrupt that is being handled no more: the caller still has to write, and ends the command itself."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def await_end(status: int, *, is_ordered: bool) -> None:
    """Let orders to end a process whose command is done end it with the status of the command.

    Python ends workers and threads first: an end at once would leave their semaphores to loky's tracker. A second order
    ends the process at once, and `CLEAR_S` after the first, which was perhaps given before, it ends in any case. Python
    sees a signal that comes just before it waits for a thread only when the next one comes, which a timer sends.
    """
    ends_at_s = time.monotonic() + CLEAR_S if is_ordered else math.inf

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal ends_at_s
        now_s = time.monotonic()
        if now_s >= ends_at_s or is_second_order(number, ends_at_s - CLEAR_S):
            end_at_once(status)
        if number != signal.SIGALRM:
            ends_at_s = min(ends_at_s, now_s + CLEAR_S)

    for number in (signal.SIGALRM, *ORDERS):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, on_signal)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)


def _imports_torch(frame: FrameType | None) -> bool:
    return any(code.co_name == "<module>" and code.co_filename.endswith(TORCH) for code in _callers(frame))


def _must_wait(frame: FrameType | None) -> bool:
    return any(code.co_name == "__del__" or code.co_filename.endswith(NOT_IN) for code in _callers(frame))


def _callers(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back
