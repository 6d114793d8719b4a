"""Bind live nodes to the nodes of a plan, and their GPUs to its GPUs.

Axes: L layers, E experts, H live nodes, N nodes of the plan, G GPUs, K slots of a GPU.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.placement.pair_sums import pair_sums
from lazsim.placement.plan import Bools, Floats, Ints, count_replicas
from lazsim.row_blocks import CACHED_ELEMENTS


def num_missing(has_LEH: Bools, wants_LEN: Bools, times_L: Ints | None = None) -> Ints:
    """Count the expert states that each live node would fetch to become each node of the plan.

    Each layer stands for as many as `times_L` says, for one if it is not given.

    Returns
    -------
    ndarray of int64, shape (H, N)
    """
    num_layers, num_experts, num_hand = has_LEH.shape
    lacks_RH, wants_RN = ~has_LEH.reshape(-1, num_hand), wants_LEN.reshape(num_layers * num_experts, -1)
    times_R = (np.ones(num_layers, dtype=np.int64) if times_L is None else times_L).repeat(num_experts)
    missing_HN: Ints = pair_sums(lacks_RH, wants_RN, times_R).astype(np.int64)
    return missing_HN


def distinct_layers(has_LEH: Bools, wants_LEN: Bools) -> tuple[Ints, Ints]:
    """Return the first of all layers in which nodes hold and want the same experts, and the number of each of these.

    Where loads are even, the layers of a pipeline stage are alike.
    """
    found: dict[bytes, list[int]] = {}
    for layer, (has, wants) in enumerate(zip(has_LEH, wants_LEN, strict=True)):
        found.setdefault(np.packbits(has).tobytes() + np.packbits(wants).tobytes(), []).append(layer)
    return np.array([layers[0] for layers in found.values()]), np.array(list(map(len, found.values())))


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
