"""Standard streams that may be closed, full or left by their reader."""

import codecs
import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING

from lazsim.errors import FailedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STREAMS = ("stdin", "stdout", "stderr")

BARS = {ord(bar): str(height) for height, bar in enumerate("▁▂▃▄▅▆▇█", 1)}
"""Digits for the bars of a sparkline, where the encoding has none."""


class _Output(io.FileIO):
    """A standard stream that drops what its reader no longer wants, as ``head`` leaves when it has enough."""

    _is_lost = False

    def write(self, content: "ReadableBuffer") -> int:
        """Write bytes; an error is raised once only, since Python tries again when it exits."""
        if not self._is_lost:
            try:
                return super().write(content)
            except OSError as error:
                self._is_lost = True
                name = STREAMS[self.fileno()]
                # A terminal that is closed is a device that gives an error.
                is_left = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
                # Where stderr is full, nobody can be told.
                if name != "stderr" and not (is_left or isinstance(error, BrokenPipeError)):
                    told = f"{name}: cannot be written ({error.strerror}); choose another place"
                    raise FailedError(told) from None
        return memoryview(content).nbytes


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write a character that the encoding lacks as an escape, and a bar as its height."""
    assert isinstance(error, UnicodeEncodeError), "streams are written"
    shown = error.object[error.start].translate(BARS)
    return shown.encode("ascii", "backslashreplace").decode(), error.start + 1


def secure_streams() -> None:
    """Open the standard streams that are closed, and let no reader, character or encoding end the command."""
    codecs.register_error("lazsim", _escape)
    # The next file would get the number of a closed stream, and with it what others write there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(STREAMS):
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open as long as the process
    for descriptor, name in enumerate(STREAMS[1:], start=1):
        present = getattr(sys, name)
        encoding = "utf-8" if present is None else present.encoding
        binary = io.BufferedWriter(_Output(descriptor, "w", closefd=False))
        stream = io.TextIOWrapper(binary, encoding, "lazsim", line_buffering=True)
        setattr(sys, name, stream)
