"""Write files whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lazsim.errors import LazsimError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears complete or not at all, also when interrupted.

    Raises
    ------
    LazsimError
        When the folder cannot be written to.
    """
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files: all are complete on disk before the first takes its name.

    Parameters
    ----------
    contents
        Bytes by path; folders are made where they are missing.

    Raises
    ------
    LazsimError
        When one cannot be written; none of them is changed then.
    """
    staged: list[tuple[str, Path]] = []
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "is a folder")
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            staged.append((temporary, path))
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.chmod(temporary, 0o666 & ~_umask())
        while staged:
            temporary, path = staged[0]
            os.replace(temporary, path)
            staged.pop(0)
    except OSError as error:
        raise LazsimError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path: Path | str) -> bytes:
    """Read a file.

    Raises
    ------
    LazsimError
        When it is missing, a folder or not readable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LazsimError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def check_folder(folder: Path) -> None:
    """Find out early whether a folder can be written to, before long work is done for it.

    Raises
    ------
    LazsimError
        When it is a file, or it or the nearest folder above it is not writable.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise LazsimError(f"{folder}: cannot be written ({existing} is not a writable folder); choose another place")
