"""NumPy's ``.npz`` with steps and loads, and ``.npy`` with loads alone."""

import io
import zipfile
import zlib

import numpy as np

from lazsim.files.reading import read_array
from lazsim.limits import MAX_LOADS
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, role_of

MAGIC = b"\x93NUMPY"
BYTES_PER_LOAD = 8
PROBLEMS = (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def recognise(content: bytes) -> bool:
    """Return whether a file is an array, or an archive that is none of PyTorch's."""
    return content.startswith(MAGIC) or (content.startswith(b"PK") and b"/data.pkl" not in content)


def read(source: LoadSource) -> LoadReading:
    """Read loads of shape (S, L, E), or (L, E) for one step; without steps they count from 0."""
    arrays, are_named = {}, False
    try:
        for _, content in source.files:
            if content.startswith(MAGIC):
                arrays["loads"] = read_array(io.BytesIO(content), MAX_LOADS * BYTES_PER_LOAD)
                continue
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = archive.namelist()
                for name in names:
                    told = role_of(name.removesuffix(".npy"))
                    role = "loads" if len(names) == 1 and not told else told
                    are_named |= told == "loads"
                    if role in ("step", "loads"):
                        with archive.open(name) as member:
                            arrays[role] = read_array(member, MAX_LOADS * BYTES_PER_LOAD)
                if "loads" not in arrays:
                    found = ", ".join(name.removesuffix(".npy") for name in names[:8])
                    raise source.refuse("", f"no array named tokens or loads, of shape (S, L, E), but {found}")
        loads = arrays["loads"]
    except PROBLEMS as error:
        raise source.refuse("", f"not a readable .npz with iteration and tokens ({error}); write it again") from None
    loads = loads[None] if loads.ndim == 2 else loads
    steps = arrays.get("step", np.arange(len(loads)))
    if steps.ndim != 1 or loads.ndim != 3 or len(steps) != len(loads) or 0 in loads.shape[1:]:
        raise source.refuse("", "iteration must have shape (S,) and tokens (S, L, E)")
    return LoadReading(steps.astype(np.float64), loads.astype(np.float64), tuple(range(loads.shape[1])), (), are_named)


READER = LoadReader(
    ".npz with iteration (S,) and tokens (S, L, E), or .npy with loads (S, L, E) or (L, E)", recognise, read
)
