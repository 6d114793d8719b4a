"""Read files of any encoding and packing, stdin and pipes as well, and no more of them than there is room for."""

import bz2
import codecs
import functools
import gzip
import io
import lzma
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import IO, Any

from lazsim.errors import LONGEST_CAUSE, FileSizeError, LazsimError, SpecError, prefix_errors, shorten
from lazsim.limits import MAX_FILE_BYTES

CATALOG = Path(str(resources.files("lazsim") / "catalog"))
"""Folder of what lazsim has by name: models, clusters, kernels, traces and all else."""

HEAD_BYTES = 1 << 16
"""Bytes of a file that is too large which an error keeps, to tell what it is."""

STDIN = "-"
"""Path that stands for stdin; see `read_bytes`."""


def read_bytes(path: Path | str, most_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a file, or stdin where the path is ``-``.

    Nothing beyond `most_bytes` is read: devices such as ``/dev/zero`` have no end. A pipe gives its content only once,
    so that it is kept.

    Raises
    ------
    LazsimError
        When it is missing, a folder, not readable or larger than `most_bytes` (a `FileSizeError`).
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

    Raises
    ------
    LazsimError
        When it is broken, an archive of several files, larger than `most_bytes` once unpacked, or takes a library that
        is not there.
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
        raise LazsimError(f"{name}: cannot be unpacked ({shorten(error, LONGEST_CAUSE)}); unpack it first") from None
    if len(unpacked) > most_bytes:
        raise LazsimError(f"{name}: unpacks to more than {most_bytes >> 10:,} KiB; give a smaller file")
    return in_utf8(unpacked)


def in_utf8(content: bytes) -> bytes:
    """Return text in marked UTF-16, as PowerShell writes it, as UTF-8, and anything else as it is."""
    with suppress(UnicodeDecodeError):
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16").encode()
    return content


def decode_text(content: bytes, errors: str = "strict") -> str:
    """Decode a text in UTF-8 or marked UTF-16, with any ends of lines; a UnicodeDecodeError if a strict one is none."""
    return in_utf8(content).decode("utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")


def path_from(folder: Path, name: str) -> str:
    """Return what a file in a folder names, as seen from here: a path begins at that folder, other names stay.

    All paths in files go by this rule, which docs/guides/models.md tells.

    Examples
    --------
    >>> path_from(Path("mine"), "gpus/a.toml"), path_from(Path("mine"), "h100"), path_from(Path("mine"), "/b.csv")
    ('mine/gpus/a.toml', 'h100', '/b.csv')
    """
    return str(folder / name) if name.endswith((".toml", ".json", ".csv")) else name


def read_lines(field: str, path: str, need: str) -> list[str]:
    """Read the lines of a text file that a field names; errors say what it needs."""
    with prefix_errors(field):
        content = read_bytes(path)
    try:
        return decode_text(content).splitlines()
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
