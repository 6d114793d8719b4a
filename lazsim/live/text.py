"""The training text as bytes, and the sequences of each step."""

import functools
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

from lazsim.files.reading import read_bytes


@functools.cache
def load_text(path: str) -> bytes:
    """Read a file, or where `path` is empty the reference of the language that Python's ``help`` shows."""
    return read_bytes(path) if path else "\n\n".join(topics.values()).encode()


def sequences(text: bytes, step: int, global_batch: int, length: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw a step's sequences, each with the byte after it: shape (global_batch, length + 1), the same on every node.

    Examples
    --------
    >>> sequences(b"0123456789", step=3, global_batch=2, length=3, seed=0).tobytes()
    b'34566789'
    """
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(text) - length, size=global_batch)
    drawn: npt.NDArray[np.uint8] = np.frombuffer(text, dtype=np.uint8)[starts[:, None] + np.arange(length + 1)]
    return drawn
