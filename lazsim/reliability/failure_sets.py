"""Sets of nodes whose failure loses an expert: the cut sets of reliability theory.

A failure set is a row of booleans, one for each node. Bits find the sets that are within others, 64 others at a time.
Axes: L layers, E experts, N nodes, M failure sets, m failure sets of one size s, D domains, B samples, each a set of
failed nodes, W words of 64 samples.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.dispatch import Partition
from lazsim.placement.plan import Bools, Ints, unique_rows

Words = npt.NDArray[np.uint64]

CHUNK_WORDS = 1 << 14
"""Words looked at together, one for each failure set and 64 samples: they stay in a core's cache."""


def minimal_failure_sets(holds_LEN: Bools) -> Bools:
    """Find the smallest sets of nodes whose loss loses an expert.

    Parameters
    ----------
    holds_LEN
        Whether a node holds a replica, shape (L, E, N): all layers of a model, or one alone.

    Returns
    -------
    ndarray of bool, shape (M, N)
        The sets, none of which contains another, smallest first. Some expert of some layer is lost exactly when all
        nodes of one of them fail. An expert that no node holds makes the empty set the only one.

    Examples
    --------
    Expert 0 is on nodes 0 and 1; expert 1 is there, too, and cannot be lost before it.

    >>> minimal_failure_sets(np.array([[[1, 1, 0], [1, 1, 1]]], dtype=bool)).astype(int).tolist()
    [[1, 1, 0]]
    """
    # Counts of replicas will do, too. Rows are compared as bytes, so that they must be in one piece.
    holds_LEN = np.ascontiguousarray(holds_LEN, dtype=np.bool_)
    return _minimal(holds_LEN.reshape(-1, holds_LEN.shape[-1]))


def guaranteed_failures(sets_MN: Bools) -> int:
    """Return the fault threshold that holds: the fewest failures that can lose an expert.

    Any fewer are always survived. It is ``N + 1`` where nothing can be lost.

    Examples
    --------
    >>> guaranteed_failures(np.array([[1, 1, 0], [0, 1, 1]], dtype=bool))
    2
    """
    return int(sets_MN.sum(axis=1).min()) if len(sets_MN) else sets_MN.shape[1] + 1


def num_survivors_needed(sets_MN: Bools) -> int:
    """Return a number of live nodes below which some expert is surely lost; no set is empty.

    Failure sets without a common node each need a survivor of their own. They are picked greedily, smallest first, so
    that the true number may be larger.

    Examples
    --------
    >>> num_survivors_needed(np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=bool))
    2
    """
    taken = np.zeros(sets_MN.shape[1], dtype=np.bool_)
    needed = 0
    left = sets_MN
    while len(left):
        taken |= left[0]
        needed += 1
        left = left[~(left & taken).any(axis=1)]
    return needed


def number_domains(domains: Iterable[Hashable]) -> Ints:
    """Return failure domains as numbers, from 0 in the order in which nodes name them.

    Examples
    --------
    >>> number_domains(["rack2", "rack2", "rack10"]).tolist()
    [0, 0, 1]
    """
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(domain, len(number)) for domain in domains], dtype=np.int64)


def domain_holds(holds_LEN: Bools, domain_N: npt.NDArray[Any]) -> Bools:
    """Merge the nodes of each failure domain (rack, zone, shared NIC) into one, shape (L, E, D).

    A domain fails as a whole, so an expert is lost exactly when every domain that holds it fails. Domains are in the
    order of `number_domains`.

    Examples
    --------
    >>> domain_holds(np.array([[[1, 0, 0], [0, 1, 1]]], dtype=bool), np.array([0, 0, 1])).astype(int).tolist()
    [[[1, 0], [1, 1]]]
    """
    domains = Partition(number_domains(domain_N.tolist()))
    return domains.add_up(np.asarray(holds_LEN, dtype=np.float64)) > 0


def _minimal(sets_MN: Bools) -> Bools:
    """Drop every set that contains another, and sort by size."""
    left, _ = unique_rows(sets_MN)
    sizes = left.sum(axis=1)
    order = np.argsort(sizes, kind="stable")
    left, sizes = left[order], sizes[order]
    if not len(left) or not sizes[0]:
        return left[:1]
    # Each set is looked at as failed nodes, too: which others fail with it?
    left_NW = pack(np.ascontiguousarray(left.T))
    contains_W = np.zeros(left_NW.shape[1], dtype=np.uint64)
    for nodes_ms in members(left, len(contains_W)):
        # Of two distinct sets of one size, neither contains the other.
        is_larger_W = pack((sizes > nodes_ms.shape[1])[None])[0]
        contains_W |= np.bitwise_or.reduce(all_failed(left_NW, nodes_ms), axis=0) & is_larger_W
    return left[~unpack(contains_W, len(left))]


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
