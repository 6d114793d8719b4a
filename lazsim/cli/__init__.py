"""The command line: one file per command, loaded only when it is called."""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import NoReturn

THREADS_S = 1.0
"""Longest time that threads get to end after a command was told to."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a bug, 2 bad input or usage, 130 interrupted, 143 or 129 told to end.

    Without arguments it is a program: those of the process are taken, and its standard streams are made safe.
    """
    # Threads of the linear algebra would only wait for each other over matrices as small as these.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from lazsim.cli.base.ending import Ending, await_end
    from lazsim.processes import told_by

    ending = Ending()
    statuses: list[int] = []
    if arguments is None:
        # Called last, since it is registered first.
        atexit.register(_end_process, statuses)
    try:
        with ending:
            if arguments is None:
                # Pictures go to files; matplotlib refuses to load where the variable names no backend.
                os.environ["MPLBACKEND"] = "agg"
                # A home that cannot be written to costs matplotlib a moment, and nobody a line.
                logging.getLogger("matplotlib").setLevel(logging.ERROR)
                from lazsim.cli.base.streams import secure_streams

                secure_streams()
            # Not before: an interrupt while click is loaded is one line, too.
            from lazsim.cli.base.group import run_command

            status = run_command(arguments)
    except KeyboardInterrupt:
        number = ending.number or signal.SIGINT
        sys.stderr.write(told_by(number))
        status = 128 + number
    if arguments is None:
        statuses.append(status)
        await_end(status, is_ordered=ending.number > 0)
        if ending.number:
            _let_threads_end()
    sys.exit(status)


def _end_process(statuses: list[int]) -> None:
    """End the process of a command that is done before Python is taken apart, when it handles no signals any more."""
    for status in statuses:
        os._exit(status)


def _let_threads_end() -> None:
    """Let threads of loky clear away semaphores: Python's end freezes them, also between an unlink and its report."""
    end_s = time.monotonic() + THREADS_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, end_s - time.monotonic()))
    gc.collect()
