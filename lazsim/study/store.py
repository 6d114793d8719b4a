"""Rows on disk: one JSON line for each finished run, only ever appended, by one process at a time."""

import fcntl
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from lazsim.errors import LazsimError

ROWS = "rows.jsonl"
"""The file of a folder that holds its rows."""


class Row(msgspec.Struct, frozen=True):
    """A finished run; a line holds its inputs, too, for people."""

    id: str
    value: Any


def encode_row(row_id: str, inputs: Any, value: Any) -> bytes:
    """Return the line of a finished run."""
    line = msgspec.json.encode({"id": row_id, "inputs": inputs, "value": value}, enc_hook=_plain)
    return line + b"\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"{type(value)} in JSON")


class Store:
    """The rows of a folder, open for appending: a context that no other process can be in at the same time.

    A line is written in one go, so that a kill leaves all of it or none. What a crash of the machine left of a last
    line is cut off; if only the end of the line is missing, that is added.

    Parameters
    ----------
    folder
        Where the rows are; made where it is missing.

    Raises
    ------
    LazsimError
        When the folder cannot be written to, or another process writes to it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ROWS
        self._descriptor = -1

    def __enter__(self) -> "Store":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise LazsimError(
                f"{self._path}: another sweep is writing to it; wait for its end, or choose another folder"
            ) from None
        except OSError as error:
            raise self._refused(error) from None
        self._mend_end()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, wanted: Container[str]) -> dict[str, Any]:
        """Return the values of those rows that are wanted, by id.

        Raises
        ------
        LazsimError
            When a line is no row.
        """
        return {row.id: row.value for row in self._rows() if row.id in wanted}

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines that `encode_row` made.

        Raises
        ------
        LazsimError
            When they cannot be written.
        """
        content = b"".join(lines)
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError as error:
            raise self._refused(error) from None

    def _rows(self) -> Iterator[Row]:
        decoder = msgspec.json.Decoder(Row)
        for number, line in enumerate(self._path.read_bytes().splitlines(), start=1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise LazsimError(
                    f"{self._path}, line {number}: not a row of a sweep; delete the line, and its run is made again"
                ) from None

    def _mend_end(self) -> None:
        content = self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == len(content):
            return
        try:
            msgspec.json.decode(content[end:], type=Row)
        except (msgspec.DecodeError, UnicodeDecodeError):
            os.ftruncate(self._descriptor, end)
        else:
            self.append([b"\n"])

    def _refused(self, error: OSError) -> LazsimError:
        return LazsimError(f"{self._path}: cannot be written ({error.strerror}); choose another place")
