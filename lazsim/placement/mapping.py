"""Bind live nodes to the nodes of a plan, and their GPUs to its GPUs.

Axes: L layers, E experts, H live nodes, N nodes of the plan, G GPUs, K slots of a GPU.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.blocks import CACHED_ELEMENTS, row_blocks
from lazsim.placement.plan import Bools, Floats, Ints, count_replicas

PAIRS_A_TIME = 50
"""Pairs of nodes that a product of matrices deals with in the time of one pair of edges, roughly."""


def num_missing(has_LEH: Bools, wants_LEN: Bools, times_L: Ints | None = None) -> Ints:
    """Count the expert states that each live node would fetch to become each node of the plan.

    Each layer stands for as many as `times_L` says, for one if it is not given.

    Returns
    -------
    ndarray of int64, shape (H, N)

    Notes
    -----
    Nodes that hold an expert mostly follow each other, in few runs. States that both of a pair have are a sum over
    these in both directions from the first pair on: it is enough to count the edges of runs, at which it changes.
    """
    num_hand, num_plan, (num_layers, num_experts) = has_LEH.shape[2], wants_LEN.shape[2], has_LEH.shape[:2]
    has_RH, wants_RN = has_LEH.reshape(-1, num_hand), wants_LEN.reshape(-1, num_plan)
    times_R = np.ones(num_layers * num_experts) if times_L is None else times_L.repeat(num_experts).astype(np.float64)
    if has_RH.size <= CACHED_ELEMENTS:
        return _num_missing_of_all(has_RH, wants_RN, times_R)
    (row_X, hand_X, sign_X), (row_Y, plan_Y, sign_Y) = _edges(has_RH), _edges(wants_RN)
    edges_R = np.bincount(row_Y, minlength=len(times_R))
    pairs_X = edges_R[row_X]
    if pairs_X.sum() * PAIRS_A_TIME > has_RH.size * num_plan:
        return _num_missing_of_all(has_RH, wants_RN, times_R)
    # Each edge of what is held meets those of what is wanted in the same row.
    held = np.arange(len(row_X)).repeat(pairs_X)
    first_X = (edges_R.cumsum() - edges_R)[row_X] - (pairs_X.cumsum() - pairs_X)
    wanted = np.arange(len(held)) + first_X[held]
    # Between edges nothing changes; before the first, nobody has a state.
    run_H, run_N = (np.bincount(at, minlength=number) > 0 for at, number in ((hand_X, num_hand), (plan_Y, num_plan)))
    run_H, run_N = run_H.cumsum(), run_N.cumsum()
    shape = int(run_H[-1]) + 1, int(run_N[-1]) + 1
    change = (sign_X * times_R[row_X])[held] * sign_Y[wanted]
    changes = np.bincount(run_H[hand_X[held]] * shape[1] + run_N[plan_Y[wanted]], change, math.prod(shape))
    common = changes.reshape(shape).cumsum(axis=0).cumsum(axis=1)
    total = np.bincount(run_N[plan_Y], sign_Y * times_R[row_Y], shape[1]).cumsum()
    missing_HN: Ints = (total - common).astype(np.int64).take(run_H, axis=0).take(run_N, axis=1)
    return missing_HN


def _edges(flags_RN: Bools) -> tuple[Ints, Ints, Floats]:
    """Return row and column of flags unlike the one before, and 1 where they are set, else -1; none is set at first."""
    # A comparison of all flags in a row is several times faster than one of each row.
    flags, differs_RN = flags_RN.ravel(), np.empty(flags_RN.shape, dtype=np.bool_)
    np.not_equal(flags[1:], flags[:-1], out=differs_RN.ravel()[1:])
    differs_RN[:, 0] = flags_RN[:, 0]
    edges = np.flatnonzero(differs_RN)
    row, column = np.divmod(edges, flags_RN.shape[1])
    sign: Floats = np.where(flags[edges], 1.0, -1.0)
    return row, column, sign


def _num_missing_of_all(has_RH: Bools, wants_RN: Bools, times_R: Floats) -> Ints:
    """Count the same by a product of matrices: for few nodes, or where nodes with the same states stand apart."""
    # float32 counts exactly up to 2**24, far above layers times experts.
    times_R, missing_HN = times_R.astype(np.float32), np.zeros((has_RH.shape[1], wants_RN.shape[1]), dtype=np.float32)
    # A product of blocks several times as large as the nearest cache is faster: a seventh on 512 nodes.
    for some in row_blocks(len(has_RH), has_RH.shape[1] // 4):
        missing_HN += times_R[some] @ (wants := wants_RN[some].astype(np.float32))
        missing_HN -= (has_RH[some].T * times_R[some]) @ wants
    return missing_HN.astype(np.int64)


def distinct_layers(has_LEH: Bools, wants_LEN: Bools) -> tuple[Ints, Ints]:
    """Return the first of all layers in which nodes hold and want the same experts, and the number of each of these.

    Where loads are even, the layers of a pipeline stage are alike.
    """
    found: dict[bytes, list[int]] = {}
    for layer, (has, wants) in enumerate(zip(has_LEH, wants_LEN, strict=True)):
        found.setdefault(np.packbits(has).tobytes() + np.packbits(wants).tobytes(), []).append(layer)
    return np.array([layers[0] for layers in found.values()]), np.array(list(map(len, found.values())))


def distinct_columns(flags_RN: Bools) -> tuple[Bools, Ints | slice]:
    """Return the columns that differ, and the index among them of each column.

    Nodes that hold the same are many under plain expert parallelism, or where loads are even. Few columns are all
    returned, since a product with them takes less time than their comparison.

    Examples
    --------
    >>> flags = np.zeros((1, 40_000), dtype=bool)
    >>> distinct, alike = distinct_columns(flags)
    >>> distinct.shape, np.array_equal(distinct[:, alike], flags)
    ((1, 1), True)
    """
    if flags_RN.size > CACHED_ELEMENTS:
        # Mostly, some rows already tell that most columns differ.
        for some in (slice(None, None, flags_RN.size // CACHED_ELEMENTS), slice(None)):
            packed_NB = np.ascontiguousarray(_packed(flags_RN[some]).T)
            # A column is one key, which is sorted several times faster than a row of bytes.
            keys_N = packed_NB.view(np.dtype((np.void, packed_NB.shape[1]))).ravel()
            _, first, alike_N = np.unique(keys_N, return_index=True, return_inverse=True)
            if 2 * len(first) > len(alike_N):
                return flags_RN, slice(None)
        return flags_RN.take(first, axis=1), alike_N
    return flags_RN, slice(None)


def _packed(flags_RN: Bools) -> npt.NDArray[np.uint8]:
    """Return `np.packbits(flags_RN, axis=0)`, which itself goes column by column and takes five times as long."""
    packed_BN = np.zeros((-(-len(flags_RN) // 8), flags_RN.shape[1]), dtype=np.uint8)
    for bit in range(8):
        part = flags_RN[bit::8]
        packed_BN[: len(part)] |= part.view(np.uint8) << (7 - bit)
    return packed_BN


def keep_domains(missing_HN: Ints, domain_H: Ints, domain_N: Ints) -> Ints:
    """Make pairs of different failure domains cost more than all others together, so that no mapping takes one.

    `domain_H` and `domain_N` are the domains of the live nodes and of those of the plan, which has no more of a domain
    than are alive.

    Examples
    --------
    >>> missing = keep_domains(np.array([[5, 0], [0, 5]]), np.array([0, 1]), np.array([0, 1]))
    >>> map_greedily(missing).tolist()
    [0, 1]
    """
    too_many = int(missing_HN.max()) * missing_HN.shape[1] + 1
    kept_HN: Ints = missing_HN + too_many * (domain_H[:, None] != domain_N)
    return kept_HN


LEAST_PAIRS = 256
"""Pairs of nodes below which a look at each takes as long as an operation on all."""


def map_greedily(missing_HN: Ints | Floats) -> Ints:
    """Bind live nodes to nodes of a plan, always the pair with the fewest states to fetch.

    Parameters
    ----------
    missing_HN
        States to fetch for each pair, shape (H, N) with ``H >= N``.

    Returns
    -------
    ndarray of int64, shape (N,)
        The live node that becomes each node of the plan.

    Notes
    -----
    The greedy rule of Lazarus (arXiv 2407.04656); equal pairs by the order of the live nodes, then of the plan.

    Examples
    --------
    >>> map_greedily(np.array([[2, 0], [1, 3], [0, 1]])).tolist()
    [2, 0]
    """
    num_hand, num_plan = missing_HN.shape
    assert num_hand >= num_plan, "the plan has no more nodes than are alive"
    bound_N, is_free_H = np.full(num_plan, -1), np.ones(num_hand, dtype=np.bool_)
    keys: npt.NDArray[Any] = missing_HN
    if keys.dtype.kind == "i" and keys.max() < 1 << 16:
        # Numbers of 16 bits are sorted digit by digit, several times faster.
        keys = keys.astype(np.uint16)
    if keys.size > CACHED_ELEMENTS:
        # Mostly, many nodes keep what they hold, and the pairs of the others are far fewer to sort.
        _bind(np.flatnonzero(keys == keys.min()), np.arange(num_hand), np.arange(num_plan), bound_N, is_free_H)
    hand_A, plan_B = np.flatnonzero(is_free_H), np.flatnonzero(bound_N < 0)
    if len(plan_B) < num_plan:
        keys = keys[np.ix_(hand_A, plan_B)]
    _bind(np.argsort(keys, axis=None, kind="stable"), hand_A, plan_B, bound_N, is_free_H)
    return bound_N


def _bind(order: Ints, hand_A: Ints, plan_B: Ints, bound_N: Ints, is_free_H: Bools) -> None:
    """Bind the free ones of pairs in their order, each of them a cell of a table of live nodes and nodes of a plan."""
    left, start, size = len(plan_B), 0, LEAST_PAIRS
    while left and start < len(order):
        row, column = np.divmod(order[start : start + size], len(plan_B))
        hand, plan = hand_A[row], plan_B[column]
        # Most pairs are free in the beginning and few later on.
        start, size = start + size, min(2 * size, CACHED_ELEMENTS)
        both = is_free_H[hand] & (bound_N < 0)[plan]
        bound: dict[int, int] = {}
        hands: set[int] = set()
        for one, other in zip(hand[both].tolist(), plan[both].tolist(), strict=True):
            if one not in hands and other not in bound:
                bound[other] = one
                hands.add(one)
        bound_N[list(bound)], is_free_H[list(hands)] = list(bound.values()), False
        left -= len(bound)


def map_optimally(missing_HN: Ints | Floats) -> Ints:
    """Bind live nodes to nodes of a plan so that the total fetched is least.

    Arguments and result are those of `map_greedily`; bytes may take the place of states, infinite where a pair is
    forbidden.

    Notes
    -----
    The linear assignment problem, solved exactly (modified Jonker-Volgenant: Crouse, IEEE TAES 52(4), 2016).

    Examples
    --------
    Greedy binds the free pair (0, 0) first and then has to pay 5.

    >>> missing = np.array([[0, 1], [1, 5]])
    >>> map_greedily(missing).tolist(), map_optimally(missing).tolist()
    ([0, 1], [1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    assert missing_HN.shape[0] >= missing_HN.shape[1], "the plan has no more nodes than are alive"
    return np.asarray(linear_sum_assignment(missing_HN.T)[1], dtype=np.int64)


def map_bottleneck(missing_HN: Ints | Floats) -> Ints:
    """Bind live nodes to nodes of a plan so that the busiest receiver fetches least; ties go to the least total.

    Arguments and result are those of `map_optimally`.

    Notes
    -----
    The bottleneck assignment problem: bisection finds the lowest limit under which every node of the plan still finds a
    live node; of all assignments below it, `map_optimally` takes one with the least total.

    Examples
    --------
    The least total makes one node fetch 4; here each fetches at most 2.

    >>> missing = np.array([[0, 2, 9], [9, 0, 2], [2, 9, 4]])
    >>> map_optimally(missing).tolist(), map_bottleneck(missing).tolist()
    ([0, 1, 2], [2, 0, 1])
    """
    limits = np.unique(missing_HN)
    low, high = 0, len(limits) - 1
    columns = np.arange(missing_HN.shape[1])
    while low < high:
        middle = (low + high) // 2
        over = (missing_HN > limits[middle]).astype(np.int64)
        if over[map_optimally(over), columns].any():
            low = middle + 1
        else:
            high = middle
    return map_optimally(np.where(missing_HN > limits[low], np.inf, missing_HN))


NodeMapping = Callable[[Ints | Floats], Ints]
"""Takes the states or bytes to fetch for each pair, shape (H, N); returns the live node for each node of the plan."""

MAPPINGS: Mapping[str, NodeMapping] = {"greedy": map_greedily, "optimal": map_optimally, "bottleneck": map_bottleneck}
"""Mappings by name; the first line of a mapping's docstring describes it."""


def lay_on(fresh_LGK: Ints, held_LGK: Ints, node_G: Ints, *, together: bool = False) -> Ints:
    """Give the nodes of a plan, then the GPUs of each, to those that hold most of their replicas.

    Nodes take the place of others with as many GPUs, the same in all layers where they move `together`. Replicas that
    stay on a GPU keep their slots.
    """
    size_N = np.bincount(node_G)
    first_N = np.searchsorted(node_G, np.arange(len(size_N)))
    num_experts = int(max(fresh_LGK.max(), held_LGK.max())) + 1
    pairs = [
        [count_replicas(slots, num_experts)[:-1] for slots in pair] for pair in zip(fresh_LGK, held_LGK, strict=True)
    ]
    stay_LNN = np.array([_num_staying(*(np.add.reduceat(one, first_N, axis=1) for one in pair)) for pair in pairs])
    if together:
        stay_LNN[:] = stay_LNN.sum(axis=0)
    stay_LNN[:, size_N[:, None] != size_N] = -np.inf
    laid_LGK = np.empty_like(fresh_LGK)
    for layer, (fresh_EG, held_EG) in enumerate(pairs):
        for node, place in enumerate(map_optimally(-stay_LNN[layer].T)):
            gpus, places = (first_N[one] + np.arange(size_N[one]) for one in (node, place))
            chosen = map_optimally(-_num_staying(fresh_EG[:, gpus], held_EG[:, places]).T)
            for gpu, at in zip(gpus, places[chosen], strict=True):
                laid_LGK[layer, at] = keep_slots(fresh_LGK[layer, gpu], held_LGK[layer, at])
    return laid_LGK


def _num_staying(fresh_EG: Ints, held_EG: Ints) -> Floats:
    """Count the replicas that stay where each column of one plan takes the place of each column of the other."""
    return np.array([np.minimum(column[:, None], held_EG).sum(axis=0) for column in fresh_EG.T], dtype=np.float64)


def keep_slots(new_K: Ints, old_K: Ints) -> Ints:
    """Order the replicas of a GPU so that those that it held keep their slots."""
    left = new_K.tolist()
    slots = []
    for expert in old_K.tolist():
        stays = expert in left
        slots.append(expert if stays else None)
        if stays:
            left.remove(expert)
    return np.array([left.pop(0) if expert is None else expert for expert in slots], dtype=np.int64)
