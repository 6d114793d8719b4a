"""Exact survival probability by going through all subsets of nodes, a bit for each.

Subset ``x`` of ``n`` nodes is the number whose bit ``v`` says that node ``v`` failed. Bits of 64 subsets are a word.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Bools, Floats
from lazsim.reliability.failure_sets import Words

Bytes = npt.NDArray[np.uint8]

WORD_NODES = 6
"""Nodes whose subsets fit into a word: ``2**6 = 64``."""

BYTE_NODES = 3
ROW_NODES = 19
"""Nodes whose subsets are bits of a byte, and those whose subsets are summed at once: 64 KiB of bits."""

BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
"""Which of the 8 subsets of three nodes are set in each byte, shape (256, 8)."""

LACKS_NODE = [sum(1 << x for x in range(64) if not x >> v & 1) for v in range(WORD_NODES)]
"""Bits of a word whose subset lacks node ``v``."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Whether each subset of the nodes may fail."""

    num_nodes: int
    """Nodes, ``n``."""
    survived: Bytes
    """The bit of each subset, 1 where every expert survives its failure; ``2**n`` bits, at least one word."""

    def survival_by_count(self) -> Floats:
        """Return the share of the subsets of each size 0..n that are survived, shape (n + 1,)."""
        sizes = range(self.num_nodes + 1)
        first_cell = 256 * _num_failed(min(self.num_nodes, ROW_NODES) - BYTE_NODES).astype(np.int64)
        # Each byte is counted with the failed nodes of its place: there are far fewer bytes than bits.
        bytes_by_count = np.zeros((len(sizes), 256), dtype=np.int64)
        for row, num_failed in zip(self._rows(), _num_failed(self.num_nodes - ROW_NODES).tolist(), strict=True):
            found = np.bincount(first_cell + row, minlength=int(first_cell[-1]) + 256).reshape(-1, 256)
            bytes_by_count[num_failed : num_failed + len(found)] += found
        counts = np.zeros(len(sizes) + BYTE_NODES, dtype=np.int64)
        for bit, num_failed in enumerate(_num_failed(BYTE_NODES).tolist()):
            counts[num_failed : num_failed + len(sizes)] += bytes_by_count @ BITS_OF_BYTE[:, bit]
        return counts[: len(sizes)] / [math.comb(self.num_nodes, num_failed) for num_failed in sizes]

    def survival_prob(self, fail_prob_n: Floats) -> float:
        """Return the probability that all experts survive when nodes fail independently."""
        in_byte, of_bytes, of_rows = map(_subset_probs, np.split(fail_prob_n, [BYTE_NODES, ROW_NODES]))
        of_byte = BITS_OF_BYTE[:, : len(in_byte)] @ in_byte
        row_probs = [float((of_byte[row] * of_bytes).sum()) for row in self._rows()]
        return float((of_rows * row_probs).sum())

    def _rows(self) -> Bytes:
        """Return the bytes of all subsets of the first `ROW_NODES` nodes, a row for each subset of the others."""
        used = self.survived[: 1 << max(self.num_nodes - BYTE_NODES, 0)]
        return used.reshape(1 << max(self.num_nodes - ROW_NODES, 0), -1)


def build_lattice(sets_Mn: Bools) -> Lattice:
    """Mark every subset of the nodes that contains a failure set, in ``2**n`` bits.

    Notes
    -----
    A failure set is lost in each of its supersets: for one node after the other, what is lost without it is lost with
    it (the zeta transform over subsets, with *or* as its sum). Nodes 0 to 5 are shifts within a word.

    Examples
    --------
    Three nodes of which the first two must not fail both: 2 of the 3 pairs are survived, but not all three nodes.

    >>> build_lattice(np.array([[True, True, False]])).survival_by_count().round(3).tolist()
    [1.0, 1.0, 0.667, 0.0]
    """
    num_nodes = sets_Mn.shape[1]
    lost: Words = np.zeros(1 << max(num_nodes - WORD_NODES, 0), dtype="<u8")
    index = sets_Mn.astype(np.int64) @ (np.int64(1) << np.arange(num_nodes))
    np.bitwise_or.at(lost, index >> WORD_NODES, np.uint64(1) << (index & 63).astype(np.uint64))
    for node in range(num_nodes):
        if node < WORD_NODES:
            lost |= (lost & np.uint64(LACKS_NODE[node])) << np.uint64(1 << node)
        else:
            halves = lost.reshape(-1, 2, 1 << (node - WORD_NODES))
            halves[:, 1] |= halves[:, 0]
    if num_nodes < WORD_NODES:
        lost |= ~np.uint64((1 << (1 << num_nodes)) - 1)
    return Lattice(num_nodes, np.invert(lost, out=lost).view(np.uint8))


def _num_failed(num_nodes: int) -> Bytes:
    """Return the size of each subset of `num_nodes` nodes; of fewer than one, there is only the empty one."""
    sizes = np.zeros(1, dtype=np.uint8)
    for _ in range(num_nodes):
        sizes = np.concatenate([sizes, sizes + np.uint8(1)])
    return sizes


def _subset_probs(fail_prob_n: Floats) -> Floats:
    """Return the probability that just the nodes of a subset fail, for each subset."""
    probs = np.ones(1)
    for prob in fail_prob_n:
        probs = np.concatenate([probs * (1 - prob), probs * prob])
    return probs
