"""Write the files of a result to a folder: all or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lazsim.files import write_all


def name_pictures(name: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a picture's files by their names.

    Examples
    --------
    >>> name_pictures("trace", {"png": b"...", "pdf": b"..."})
    {'trace.png': b'...', 'trace.pdf': b'...'}
    """
    return {f"{name}.{file_type}": content for file_type, content in pictures.items()}


def write_folder(folder: Path, contents: Mapping[str, bytes], known: Sequence[str] = ()) -> list[str]:
    """Write files by name, all or none, and return their names; raises `LazsimError` where one cannot be written.

    `known` are the names that such a result may have: those of an earlier result that this one lacks are removed.
    """
    write_all({folder / name: content for name, content in contents.items()}, [folder / name for name in known])
    return list(contents)
