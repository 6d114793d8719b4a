"""The command line: one file per command, loaded only when it is called."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a bug, 2 bad input or usage, 130 interrupted, 143 told to end."""
    # Threads of the linear algebra would only wait for each other over matrices as small as these.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    orders: list[int] = []
    try:
        with _ended_in_order(orders):
            # Not before: an interrupt while click is loaded is one line, too.
            from lazsim.cli.group import run_command

            sys.exit(run_command(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("lazsim: told to end\n" if orders else "lazsim: interrupted\n")
        sys.exit(128 + (orders[0] if orders else signal.SIGINT))


@contextmanager
def _ended_in_order(orders: list[int]) -> Iterator[None]:
    """Let an order to end (SIGTERM) do as an interrupt does: workers and files are cleared away first."""

    def end(number: int, _frame: object) -> None:
        orders.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
