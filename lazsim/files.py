"""Read files and count their faults, write them whole or not at all, and list the modules of a folder."""

import bz2
import codecs
import csv
import errno
import fcntl
import functools
import gzip
import io
import lzma
import math
import os
import pkgutil
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from lazsim.errors import FileSizeError, LazsimError, SpecError, prefix_errors
from lazsim.limits import MAX_FILE_BYTES

HEAD_BYTES = 1 << 16
"""Bytes of a file that is too large which an error keeps, to tell what it is."""
STDIN = "-"
"""Path that stands for stdin; see `read_bytes`."""

TEMPORARY = ".lazsim-"
"""Beginning of the names of temporary files and folders, which their process locks for as long as it runs."""

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
"""What a path may be but a regular file or a device."""

ResultT = TypeVar("ResultT")

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN)

SHORTAGE_S = 5.0
"""Longest wait for a descriptor or a process, which other programs may have for a moment."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, also when interrupted; see `write_all`."""
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes], replaced: Iterable[Path] = ()) -> None:
    """Write several files: all are complete on disk before the first takes its name. Missing folders are made.

    A symlink stays, and the file that it leads to is written. `replaced` are files of an earlier run to delete, unless
    `contents` has them.

    Raise `LazsimError` when one cannot be written, or is a device or anything else but a regular file; then no new file
    appears.
    """
    staged: list[tuple[str, Path]] = []
    locks: list[int] = []
    path = Path()
    try:
        for path, content in contents.items():
            target = _regular_target(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target.parent)
            with signals_held():
                lock, temporary = _claim(lambda: tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY))  # noqa: B023
                staged.append((temporary, target))
                locks.append(lock)
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
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)
        for lock in locks:
            os.close(lock)


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
        Its folder, made where it is missing; by default the system's folder of temporary files.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    place.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(place)
    made, lock = "", -1
    try:
        with signals_held():
            lock, made = _claim(lambda: _open_folder(tempfile.mkdtemp(dir=place, prefix=TEMPORARY)))
        yield Path(made)
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
            os.close(lock)


def _regular_target(path: Path) -> Path:
    """Follow symlinks to the file to write; an `OSError` says that it is no regular file."""
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind != stat.S_IFREG:
            raise OSError(0, f"is {KINDS.get(kind, 'a device')}")
    return Path(os.path.realpath(path))


def _open_folder(path: str) -> tuple[int, str]:
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
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def when_possible(call: Callable[[], ResultT]) -> ResultT:
    """Call a function again for up to `SHORTAGE_S` while the system has no descriptor or process left for it."""
    end_s = time.monotonic() + SHORTAGE_S
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in SHORTAGES or time.monotonic() > end_s:
                raise
        time.sleep(0.1)


def json_bytes(value: Any) -> bytes:
    """Return indented JSON with keys in the given order; arrays become lists."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value, enc_hook=plain_array), indent=2) + b"\n"


def csv_bytes(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """Return a table as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
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


@contextmanager
def signals_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block is done, and SIGALRM, by which the command line tries again."""
    # Only the main thread runs handlers and may set them.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
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


@contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes by multiprocessing that an interrupt of the terminal does not reach: their parent ends them.

    Signals wait until all have started. The processes do not import the program's main module: they need nothing of it,
    and a script without a main guard would run again in each of them.
    """
    names = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: names[name] for name in ("__spec__", "__file__") if name in names}
    with signals_held(), signals_blocked(signal.SIGINT):
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


def read_bytes(path: Path | str, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a file, or stdin where the path is ``-``.

    Nothing beyond `most_bytes` is read: devices such as ``/dev/zero`` have no end. A pipe gives its content only once,
    so that it is kept.

    Raise `LazsimError` when it is missing, a folder, not readable or larger than `most_bytes` (a `FileSizeError`).
    """
    try:
        is_pipe = str(path) == STDIN or Path(path).is_fifo()
        content = (_read_pipe if is_pipe else _read)(str(path), most_bytes + 1)
    except OSError as error:
        raise LazsimError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError:
        raise LazsimError(f"{str(path)!r}: cannot be read (no file has such a name); check the path") from None
    if len(content) > most_bytes:
        too_large = FileSizeError(f"{path}: larger than {most_bytes >> 10:,} KiB; give a smaller file")
        too_large.head = content[:HEAD_BYTES]
        raise too_large
    return content


def unpack(name: str, content: bytes, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a compressed file, told by its first bytes, and that of any other file as it is.

    Text in UTF-16, as PowerShell writes it, becomes UTF-8.

    Raise `LazsimError` when it is broken, an archive of several files, larger than `most_bytes` once unpacked, or takes
    a library that is not there.
    """
    kind = next((kind for kind in PACKED if content.startswith(kind)), None)
    if kind is None:
        return in_utf8(content)
    try:
        with PACKED[kind](io.BytesIO(content)) as stream:
            unpacked: bytes = stream.read(most_bytes + 1)
        if unpacked[257:262] == b"ustar":
            raise ValueError("an archive of tar")
    except ImportError:
        raise LazsimError(
            f"{name}: packed by zstd, which takes zstandard to unpack; pip install 'lazsim[files]', or unpack it first"
        ) from None
    # Each library raises errors of its own for broken content.
    except Exception as error:
        raise LazsimError(f"{name}: cannot be unpacked ({str(error)[:80]}); unpack it first") from None
    if len(unpacked) > most_bytes:
        raise LazsimError(f"{name}: unpacks to more than {most_bytes >> 10:,} KiB; give a smaller file")
    return in_utf8(unpacked)


def in_utf8(content: bytes) -> bytes:
    """Return text in marked UTF-16, as PowerShell writes it, as UTF-8, and anything else as it is."""
    with suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16").encode()
    return content


def decode_text(content: bytes) -> str:
    """Decode a text in UTF-8 or marked UTF-16, with any ends of lines; a UnicodeDecodeError if it is none."""
    return in_utf8(content).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(field: str, path: str, need: str) -> list[str]:
    """Read the lines of a text file that a field names; errors say what it needs."""
    with prefix_errors(field):
        content = read_bytes(path)
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SpecError(f"{field} {path}: not a text file; give {need}") from None


def _open_zip(stream: IO[bytes]) -> Any:
    import zipfile

    archive = zipfile.ZipFile(stream)
    members = (member.filename for member in archive.infolist() if not member.is_dir())
    # macOS adds a file of attributes for each.
    names = [name for name in members if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise ValueError(f"an archive of {len(names)} files")
    return archive.open(names[0])


def _open_zstd(stream: IO[bytes]) -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)


PACKED: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"PK\x03\x04": _open_zip,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}
"""Ways to open a compressed file, by its first bytes."""


def _read(path: str, num_bytes: int) -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read(num_bytes)
    with open(path, "rb") as stream:
        return stream.read(num_bytes)


_read_pipe = functools.cache(_read)


def read_array(stream: IO[bytes], most_bytes: int) -> Any:
    """Read an array of numbers in numpy's format; a ValueError says that it is none, or larger than `most_bytes`.

    Its header may lie about the size of its content. Memory is taken for the content alone.
    """
    import numpy as np

    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_transposed, dtype = read_header(stream)
    if dtype.kind not in "iuf":
        raise ValueError(f"must be numbers, not {dtype}")
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > most_bytes:
        raise ValueError(f"{num_bytes:,} bytes of numbers where at most {most_bytes:,} can be")
    numbers = np.frombuffer(bytearray(stream.read(num_bytes)), dtype)
    return numbers.reshape(shape, order="F" if is_transposed else "C")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and stripped text of every line that is not blank; lines may end in CRLF."""
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def check_lenient(lenient: bool, *sources: object) -> None:
    """Raise a LazsimError where the repair of files is asked for, but all sources are recipes or names."""
    files = (one for one in sources if isinstance(one, str) and not one.endswith(".toml"))
    if lenient and not any(one == STDIN or Path(one).exists() for one in files):
        raise LazsimError("`lenient` repairs files of events or loads, and none is given; leave it out")


@dataclass(frozen=True)
class Faults:
    """Faults of a file: errors of one type that name the place, or repairs to count when lenient."""

    name: str
    error: type[LazsimError]
    lenient: bool = False
    repairs: Counter[str] = field(default_factory=Counter)

    def fault(self, where: int | str, what: str, repair: str = "skip what cannot be read", times: int = 1) -> None:
        """Raise an error, or count the repair when lenient.

        Parameters
        ----------
        where
            Line from 1, or another place in the file; empty or 0 for the whole file.
        what, repair
            The fault, and the repair that the caller makes after this call.
        times
            Number of such faults.
        """
        if not self.lenient:
            place = f"line {where}" if isinstance(where, int) and where else where
            raise self.error(
                f"{self.name}{f', {place}' if place else ''}: {what}; mend it, or use `lenient` to {repair}"
            )
        self.repairs[repair] += times

    def notes(self) -> tuple[str, ...]:
        """Return the repairs, a line each."""
        return tuple(
            f"lenient: {times} {'time' if times == 1 else 'times'}: {repair}" for repair, times in self.repairs.items()
        )


def check_folder(folder: Path) -> None:
    """Check that a folder can be written to, before long work depends on it.

    Raise `LazsimError` when it is a file, its name is too long, or it or the nearest folder above it is not writable.
    """
    existing = folder
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        is_writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        cause = "" if is_writable else f"{existing} is not a writable folder"
    except OSError as error:
        cause = str(error.strerror)
    if cause:
        raise LazsimError(f"{folder}: cannot be written ({cause}); choose another place")


def module_names(folder: str) -> tuple[str, ...]:
    """Return the names of the modules in a folder of the package, without importing them.

    Examples
    --------
    >>> "parcae" in module_names("trace/readers")
    True
    """
    return tuple(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)]))
