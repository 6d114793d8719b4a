"""Draw failures and find the experts they lose, many samples at once.

Axes: M failure sets, m failure sets of one size s, N nodes, B samples, W words of 64 samples, D nodes that fail in a
sample, R orders in which they do, H failure sets within the failed nodes of a sample.
"""

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Bools, Floats, Ints
from lazsim.reliability.failure_sets import all_failed, members, pack, set_bits, unpack

Ranks = npt.NDArray[np.uint16]


def draw_ranks(rng: np.random.Generator, num_nodes: int, depth: int, num_samples: int) -> Ranks:
    """Draw the ranks 0..depth - 1 of the nodes that fail first, and `depth` for all that live, shape (N, B).

    These are the first `depth` steps of a Fisher-Yates shuffle.
    """
    node_NB = np.repeat(np.arange(num_nodes, dtype=np.uint16)[:, None], num_samples, axis=1)
    rank_NB = np.full((num_nodes, num_samples), depth, dtype=np.uint16)
    sample = np.arange(num_samples)
    for rank in range(depth):
        chosen = rng.integers(rank, num_nodes, num_samples)
        rank_NB[node_NB[chosen, sample], sample] = rank
        node_NB[chosen, sample] = node_NB[rank]
    return rank_NB


def draw_failed(rng: np.random.Generator, fail_prob_N: Floats, counts_prob: Floats, num_failed_B: Ints) -> Bools:
    """Draw the nodes that fail, independently, given their possible number and `independent_counts`; shape (N, B).

    Notes
    -----
    From the last node to the first: if ``k`` of the first ``n`` nodes fail, node ``n`` is one of them with probability
    ``p[n] P(k - 1 of n - 1 fail) / P(k of n fail)`` (Chen and Liu, Statistica Sinica 7, 1997).
    """
    left_B = num_failed_B.copy()
    failed_NB = np.empty((len(fail_prob_N), len(left_B)), dtype=np.bool_)
    for node in reversed(range(len(fail_prob_N))):
        fails_k = np.zeros(len(fail_prob_N) + 1)
        before, after = counts_prob[node, :-1], counts_prob[node + 1, 1:]
        np.divide(fail_prob_N[node] * before, after, out=fails_k[1:], where=after > 0)
        failed_NB[node] = rng.random(len(left_B)) < fails_k[left_B]
        left_B -= failed_NB[node]
    return failed_NB


def has_survived(sets_MN: Bools, failed_NB: Bools) -> Bools:
    """Tell in which samples no failure set failed, shape (B,).

    Examples
    --------
    >>> has_survived(np.array([[True, True]]), np.array([[True, False, True], [True, True, False]])).tolist()
    [False, True, True]
    """
    failed_NW = pack(failed_NB)
    lost_W = np.zeros(failed_NW.shape[1], dtype=np.uint64)
    for nodes_ms in members(sets_MN, failed_NW.shape[1]):
        lost_W |= np.bitwise_or.reduce(all_failed(failed_NW, nodes_ms), axis=0)
    return ~unpack(lost_W, failed_NB.shape[1])


def failures_survived(sets_MN: Bools, rank_NB: Ranks, order_DR: Ranks) -> tuple[Ranks, Ints]:
    """Count the failures survived in each sample and order, (B, R), and the failure sets lost in the end, (B,).

    `order_DR` says when the node of each rank fails, 0..D - 1; a rank is ``D`` where the node lives. No set is empty.

    Notes
    -----
    A failure set is lost when its last node fails; the first set to be lost counts. Few sets are within the failed
    nodes of a sample: they are found 64 samples at a time, and only for them is the order of failures looked at.

    Examples
    --------
    The set of both nodes is lost at the second failure, and one is survived.

    >>> ranks, order = np.array([[0], [1]], dtype=np.uint16), np.array([[0, 1], [1, 0]], dtype=np.uint16)
    >>> survived, num_lost = failures_survived(np.array([[True, True]]), ranks, order)
    >>> survived.tolist(), num_lost.tolist()
    ([[1, 1]], [1])
    """
    depth = len(order_DR)
    failed_NW = pack(rank_NB < depth)
    survived_BR = np.full((rank_NB.shape[1], order_DR.shape[1]), depth, dtype=order_DR.dtype)
    num_lost_B = np.zeros(rank_NB.shape[1], dtype=np.int64)
    for nodes_ms in members(sets_MN, failed_NW.shape[1]):
        failed_set, sample = set_bits(all_failed(failed_NW, nodes_ms))
        if len(sample):
            last_HR = order_DR[rank_NB[nodes_ms[failed_set, 0], sample]]
            for nodes_m in nodes_ms.T[1:]:
                np.maximum(last_HR, order_DR[rank_NB[nodes_m[failed_set], sample]], out=last_HR)
            by_sample = np.argsort(sample, kind="stable")
            found, start, num_sets = np.unique(sample[by_sample], return_index=True, return_counts=True)
            num_lost_B[found] += num_sets
            for turn in range(num_sets.max()):
                has = num_sets > turn
                last = last_HR[by_sample[start[has] + turn]]
                survived_BR[found[has]] = np.minimum(survived_BR[found[has]], last)
    return survived_BR, num_lost_B


def mean_sets_lost(sets_MN: Bools) -> Floats:
    """Return how many failure sets are lost on average when 0..N random nodes fail, shape (N + 1,).

    Examples
    --------
    >>> mean_sets_lost(np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)).round(3).tolist()
    [0.0, 0.0, 0.667, 2.0]
    """
    num_nodes = sets_MN.shape[1]
    used_up = np.arange(num_nodes)
    # One node of a set after the other is among the failed ones, of which those before it are used up.
    next_fails = (np.arange(num_nodes + 1)[:, None] - used_up).clip(min=0) / (num_nodes - used_up)
    all_fail = np.hstack([np.ones((num_nodes + 1, 1)), next_fails.cumprod(axis=1)])
    mean: Floats = all_fail @ np.bincount(sets_MN.sum(axis=1), minlength=num_nodes + 1)
    return mean
