"""Folders of results: one process writes to one at a time, all files or none, and over nobody else's files."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from lazsim.errors import LazsimError
from lazsim.files.reading import read_bytes
from lazsim.files.writing import check_folder, json_bytes, remove_empty, write_all
from lazsim.processes import clearing, signals_held

RECORD = ".lazsim.json"
"""File that names the files of each result in its folder."""

LOCK = ".lazsim.lock"
"""File that is locked while a process writes to its folder."""


@contextmanager
def hold_folder(folder: Path, lock_name: str = LOCK) -> Iterator[None]:
    """Make a folder, and keep other runs from writing results to it until the block is done; refuse one in use.

    What is held by another lock may share the folder. One that is still empty then is removed, with the folders above
    it that were made for it.
    """
    check_folder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock: int | None = None

    def clear() -> None:
        nonlocal lock
        if lock is not None:
            # Others may have taken the folder away.
            with suppress(OSError):
                (folder / lock_name).unlink()
            own, lock = lock, None
            os.close(own)
        remove_empty(made)

    with clearing(clear):
        try:
            with signals_held():
                folder.mkdir(parents=True, exist_ok=True)
                lock = _lock(folder / lock_name)
        except OSError as error:
            raise LazsimError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
        yield


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LazsimError(
                f"{path.parent}: another run is writing to it; wait for its end, or choose another folder"
            ) from None
        except OSError:
            # A file system without locks.
            return descriptor
        if os.fstat(descriptor).st_nlink:
            return descriptor
        # Its holder removed it before it was locked here.
        os.close(descriptor)


def refuse_foreign(folder: Path, names: Iterable[str], kind: str = "") -> None:
    """Refuse to write files over those that lazsim did not write, or wrote as another kind of result, if one is given.

    A `LazsimError` names them.
    """
    owners = {name: owner for owner, written in _record(folder).items() for name in written}
    present = [name for name in names if os.path.lexists(folder / name)]
    if foreign := [name for name in present if name not in owners]:
        raise LazsimError(
            f"{folder}: holds {', '.join(foreign)}, which lazsim did not write there; move it, or choose another folder"
        )
    if others := [name for name in present if kind and owners[name] != kind]:
        raise LazsimError(f"{folder}: holds {', '.join(others)} of {owners[others[0]]}; choose another folder")


def write_folder(folder: Path, kind: str, contents: Mapping[str, bytes]) -> list[str]:
    """Write the files of a result by name, all or none, in place of an earlier one of its kind; return their names.

    Raises
    ------
    LazsimError
        When one cannot be written, or would replace a file of another kind, or one that lazsim did not write.
    """
    refuse_foreign(folder, contents, kind)
    record = _record(folder)
    replaced = [folder / name for name in record.get(kind, ())]
    record[kind] = list(contents)
    files = {folder / name: content for name, content in contents.items()}
    # The record first: killed between two files, the next run knows them for its own.
    write_all({folder / RECORD: json_bytes(record)} | files, replaced)
    return list(contents)


def _record(folder: Path) -> dict[str, list[str]]:
    """Return the files of each kind of result in a folder."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, list[str]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LazsimError(f"{path}: damaged; delete it and the earlier results in its folder") from None
