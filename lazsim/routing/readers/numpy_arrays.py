"""NumPy's ``.npz`` with steps and loads, and ``.npy`` with loads alone."""

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from lazsim.files.reading import read_array
from lazsim.limits import MAX_LOADS
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, role_of

MAGIC = b"\x93NUMPY"
MOST_BYTES = 8 * MAX_LOADS
PROBLEMS = (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def recognise(content: bytes) -> bool:
    """Return whether a file is an array, or an archive that is none of PyTorch's."""
    return content.startswith(MAGIC) or (content.startswith(b"PK") and b"/data.pkl" not in content)


def read(source: LoadSource) -> LoadReading:
    """Read loads of shape (S, L, E), or (L, E) for one step; without steps they count from 0."""
    [(_, content)] = source.files
    names, arrays = list[str](), dict[str, Any]()
    try:
        if content.startswith(MAGIC):
            arrays["loads"] = read_array(io.BytesIO(content), MOST_BYTES)
        else:
            archive = zipfile.ZipFile(io.BytesIO(content))
            names = [member.removesuffix(".npy") for member in archive.namelist()]
            for member, name in zip(archive.namelist(), names, strict=True):
                role = role_of(name) or "loads" * (len(names) == 1)
                if role in ("step", "loads"):
                    arrays[role] = read_array(archive.open(member), MOST_BYTES)
    except PROBLEMS as error:
        raise source.refuse("", f"not a readable .npz with iteration and tokens ({error}); write it again") from None
    if "loads" not in arrays:
        raise source.refuse("", f"no array named tokens or loads, of shape (S, L, E), but {', '.join(names[:8])}")
    loads = arrays["loads"]
    loads = loads[None] if loads.ndim == 2 else loads
    steps = arrays.get("step", np.arange(len(loads)))
    if steps.ndim != 1 or loads.ndim != 3 or len(steps) != len(loads) or 0 in loads.shape[1:]:
        raise source.refuse("", "iteration must have shape (S,) and tokens (S, L, E)")
    layers, are_named = tuple(range(loads.shape[1])), "loads" in map(role_of, names)
    return LoadReading(steps.astype(np.float64), loads.astype(np.float64), layers, (), are_named)


READER = LoadReader(
    ".npz with iteration (S,) and tokens (S, L, E), or .npy with loads (S, L, E) or (L, E)", recognise, read
)
