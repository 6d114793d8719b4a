"""Rows on disk: one JSON line for each finished run, appended by one process at a time."""

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

import msgspec

from lazsim.errors import LazsimError
from lazsim.files.decoding import decode_json
from lazsim.files.writing import check_file, plain_array
from lazsim.specs import sha256

ROWS = "rows.jsonl"
"""File of the rows in a folder."""

LOCK = ".lazsim.rows.lock"
"""File that is locked while a process writes rows: the command may hold the folder for its results meanwhile."""

START = b'{"id":"'
"""How the line of a row begins."""


class StoredRow(msgspec.Struct, frozen=True):
    """A finished run, with the hash of its value, and its inputs."""

    id: str
    value: msgspec.Raw
    sha256: str = ""
    inputs: msgspec.Raw = msgspec.Raw()

    def decode(self) -> Any:
        """Return the value; a ValueError says that it is damaged."""
        if sha256(bytes(self.value)) != self.sha256:
            raise ValueError("is not the value that was written")
        return decode_json(bytes(self.value))


def encode_plain(value: Any) -> bytes:
    """Return the JSON of plain data and arrays."""
    return msgspec.json.encode(value, enc_hook=plain_array)


def encode_row(row_id: str, inputs: Any, value: Any) -> bytes:
    """Return the line of a finished run."""
    content = encode_plain(value)
    given = msgspec.Raw(encode_plain(inputs))
    line = {"id": row_id, "inputs": given, "sha256": sha256(content), "value": msgspec.Raw(content)}
    return msgspec.json.encode(line) + b"\n"


class Store:
    """The rows of a folder that this process holds, open for appending; see `lazsim.files.folders.hold_folder`.

    One call writes a whole line, so that a kill leaves all of it or nothing. A crash of the machine may leave a part of
    the last line, which is cut off; where only the line end is missing, it is added.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ROWS
        check_file(self._path)
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise self._refused(error) from None
        self._mend_end()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read(self, wanted: Container[str]) -> tuple[dict[str, Any], set[str]]:
        """Return the values of the wanted rows by id, and hashes of the inputs of all others.

        A `LazsimError` names a line that is not a row.
        """
        found, others = {}, set()
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = decode_json(line, StoredRow)
                    if row.id in wanted:
                        found[row.id] = row.decode()
                    else:
                        others.add(sha256(bytes(row.inputs)))
                except ValueError:
                    raise LazsimError(
                        f"{self._path}, line {number}: not a row of a sweep; delete the line; its run is then repeated"
                    ) from None
        return found, others

    def append(self, line: bytes) -> None:
        """Append a line of `encode_row`, all of it or nothing; a `LazsimError` says that it cannot be written."""
        size = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise self._refused(error) from None

    def _mend_end(self) -> None:
        content = self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == len(content):
            return
        try:
            decode_json(content[end:], StoredRow)
        except ValueError:
            # Anything else is no row: `read` refuses the file.
            if content[end:].startswith(START[: len(content) - end]):
                os.ftruncate(self._descriptor, end)
        else:
            self.append(b"\n")

    def _refused(self, error: OSError) -> LazsimError:
        return LazsimError(f"{self._path}: cannot be written ({error.strerror}); choose another place")
