"""Write files whole or not at all, also when interrupted."""

import csv
import fcntl
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lazsim.errors import LazsimError, printable
from lazsim.processes import clearing, signals_held, when_possible

TEMPORARY = ".lazsim-"
"""Beginning of the names of temporary files and folders, which their process locks for as long as it runs."""

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
"""What a path may be but a regular file or a device."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, also when interrupted; see `write_all`."""
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes], replaced: Iterable[Path] = ()) -> None:
    """Write several files: all are complete on disk before the first takes its name. Missing folders are made.

    A symlink stays, and the file that it leads to is written. `replaced` are files of an earlier run to delete, unless
    `contents` has them.

    Raises
    ------
    LazsimError
        When one cannot be written, or is a device or anything else but a regular file; then no new file appears.
    """
    staged: list[tuple[str, Path]] = []
    path = Path()
    try:
        with ExitStack() as stack:
            for path, content in contents.items():
                target = _regular_target(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                lock, temporary = stack.enter_context(_temporary(tempfile.mkstemp, target.parent))
                staged.append((temporary, target))
                with os.fdopen(os.dup(lock), "wb") as stream:
                    stream.write(content)
                # The permissions of any new file; there is no way to read the mask without setting it.
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(temporary, 0o666 & ~mask)
            with signals_held():
                _take_names(staged)
                for path in replaced:
                    if path not in contents and path.is_file():
                        path.unlink()
    except OSError as error:
        refused = error.filename2 or path
        raise LazsimError(f"{refused}: cannot be written ({error.strerror}); choose another place") from None


def check_file(path: Path) -> None:
    """Check that a file can be written, before long work depends on it; a `LazsimError` says why it cannot."""
    try:
        target = _regular_target(path)
    except OSError as error:
        raise LazsimError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    check_folder(target.parent)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that goes when the block is done; that of a killed process goes when the next one is made.

    Parameters
    ----------
    parent
        Its folder, which is made for the time of the block where it is missing; by default the system's folder of
        temporary files.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    missing = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary(_make_folder, place) as (_, made):
            yield Path(made)
    finally:
        remove_empty(missing)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of some folders, the innermost first, that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _temporary(make: Callable[..., tuple[int, str]], parent: Path) -> Iterator[tuple[int, str]]:
    """Make a temporary file or folder, and lock it until it goes with the block, or when this process ends at once."""
    _remove_leftovers(parent)
    lock, path = -1, ""

    def clear() -> None:
        nonlocal path
        if path:
            _remove(path)
            path = ""
            os.close(lock)

    with clearing(clear):
        with signals_held():
            lock, path = _claim(partial(make, dir=parent, prefix=TEMPORARY))
        yield lock, path


def _regular_target(path: Path) -> Path:
    """Follow symlinks to the file to write; an `OSError` says that it is no regular file."""
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind != stat.S_IFREG:
            raise OSError(0, f"is {KINDS.get(kind, 'a device')}")
    return Path(os.path.realpath(path))


def _make_folder(**names: Any) -> tuple[int, str]:
    path = tempfile.mkdtemp(**names)
    return os.open(path, os.O_RDONLY), path


def _claim(make: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Make a temporary file or folder, and lock it; return its descriptor and path."""
    while True:
        descriptor, path = when_possible(make)
        # A file system without locks has leftovers that nobody removes.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        # Another process took it for a leftover before it was locked.
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in a folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        access = os.O_RDONLY if path.is_dir() else os.O_RDWR
        with suppress(OSError):
            descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(str(path))
            finally:
                os.close(descriptor)


def _remove(path: str) -> None:
    """Remove a file, or a folder and all in it; nothing where it is gone."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """Return indented JSON with keys in the given order; arrays become lists."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value, enc_hook=plain_array), indent=2) + b"\n"


def toml_text(values: Mapping[str, Any], above: Iterable[str] = (), behind: Mapping[str, str] | None = None) -> str:
    r"""Return numbers, texts and lists as TOML, and below them tables, which are mappings of these.

    The lines `above` are comments before all, and those `behind`, by name, stand in the line of their value.

    Examples
    --------
    >>> values = {"network": {"nic_latency_s": 2e-6}, "name": "h100x2"}
    >>> print(toml_text(values, ["Two nodes."], {"name": "any"}), end="")
    # Two nodes.
    name = "h100x2"  # any
    <BLANKLINE>
    [network]
    nic_latency_s = 2e-06
    """
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in values.items() if name not in tables}
    blocks = [_assignments(plain, behind or {})] if plain else []
    blocks += [f"[{name}]\n{_assignments(table, behind or {})}" for name, table in tables.items()]
    return "".join(f"# {printable(line)}\n" for line in above) + "\n".join(blocks)


def _assignments(values: Mapping[str, Any], behind: Mapping[str, str]) -> str:
    # What is text, a number or a list in JSON is so in TOML, but for DEL, which JSON does not escape.
    texts = {name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for name, value in values.items()}
    return "".join(
        f"{name} = {text}  # {behind[name]}\n" if name in behind else f"{name} = {text}\n"
        for name, text in texts.items()
    )


def csv_bytes(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """Return a table as CSV; None is an empty cell."""
    text, table = io.StringIO(), [list(columns), *map(list, rows)]
    assert all(len(row) == len(table[0]) for row in table), "a row has a cell for each column"
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue().encode()


def plain_array(value: Any) -> Any:
    """Return an array or a number of numpy as plain Python values: the hook of msgspec for unknown types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"{type(value)} in JSON")


def _take_names(staged: list[tuple[str, Path]]) -> None:
    """Give complete files their names; when that fails for one, delete the new ones."""
    new: list[Path] = []
    try:
        for temporary, path in staged:
            existed = path.exists()
            os.replace(temporary, path)
            if not existed:
                new.append(path)
    except OSError:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to, before long work depends on it.

    Raises
    ------
    LazsimError
        When it is a file, its name is too long, or it or the nearest folder above it is not writable.
    """
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        is_writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        cause = "" if is_writable else f"{'it' if existing == folder else existing} is not a writable folder"
    except OSError as error:
        cause = str(error.strerror)
    if cause:
        raise LazsimError(f"{folder}: cannot be written ({cause}); choose another place")
