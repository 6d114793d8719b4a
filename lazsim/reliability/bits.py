"""Find the sets of failed nodes that contain a failure set, 64 at a time.

Axes: M failure sets, m failure sets of one size s, N nodes, B samples, each a set of failed nodes, W words of 64
samples.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Bools, Ints

Words = npt.NDArray[np.uint64]

CHUNK_WORDS = 1 << 14
"""Words looked at together, one for each failure set and 64 samples: they stay in a core's cache."""


def members(sets_MN: Bools, num_words: int) -> Iterator[Ints]:
    """Yield the nodes of failure sets, some sets of one size at a time, shape (m, s)."""
    sizes = sets_MN.sum(axis=1)
    at_once = max(1, CHUNK_WORDS // num_words)
    for size in np.unique(sizes):
        nodes_ms = sets_MN[sizes == size].nonzero()[1].reshape(-1, size)
        for start in range(0, len(nodes_ms), at_once):
            yield nodes_ms[start : start + at_once]


def pack(failed_NB: Bools) -> Words:
    """Pack 64 samples into a word, the last one filled up with samples without a failure; shape (N, W)."""
    packed = np.packbits(failed_NB, axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view("<u8")


def all_failed(failed_NW: Words, nodes_ms: Ints) -> Words:
    """Return the samples in which all nodes of a set failed, as bits, shape (m, W)."""
    failed_mW = failed_NW[nodes_ms[:, 0]]
    for nodes_m in nodes_ms.T[1:]:
        failed_mW &= failed_NW[nodes_m]
    return failed_mW


def unpack(words_W: Words, num_samples: int) -> Bools:
    """Undo `pack` for one row, shape (B,)."""
    return np.unpackbits(words_W.view(np.uint8), count=num_samples, bitorder="little").view(np.bool_)


def set_bits(words_mW: Words) -> tuple[Ints, Ints]:
    """Return row and column of each bit that is set."""
    used = np.flatnonzero(words_mW)
    bits = np.unpackbits(words_mW.ravel()[used].view(np.uint8), bitorder="little")
    index, bit = np.divmod(np.flatnonzero(bits.view(np.bool_)), 64)
    row, word = np.divmod(used[index], words_mW.shape[1])
    return row, word * 64 + bit
