"""What the fork server imports, and no other process: its forks, the workers, have all that they need at once."""

import sys
from types import TracebackType

import lazsim.live.generation  # noqa: F401


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report a bug; a lack of processes, or the end of the command, is for the command to report."""
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = report
