"""Placements to compare with: spread, compact, random.

Axes: L layers, E experts, N nodes, S slots of a node, P slots of all nodes together.
"""

import numpy as np

from lazsim.loads import check_replicas
from lazsim.placement.plan import Ints, PlacementPlan


def place_spread(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Deal replicas out over the nodes in turn, expert by expert; arguments as for `lazsim.placement.mro.place_mro`.

    Notes
    -----
    The next node always has a free slot, and lacks the expert as long as some node does. So an expert with ``r``
    replicas is on ``min(r, N)`` nodes for any allocation.

    Examples
    --------
    >>> place_spread(np.array([[1, 1, 4]]), num_nodes=3, num_slots=2).slots_LNS.tolist()
    [[[0, 2], [1, 2], [2, 2]]]
    """
    replicas_LE, num_nodes, num_slots = check_replicas(replicas_LE, num_nodes, num_slots)
    num_layers, num_experts = replicas_LE.shape
    dealt_LP = _in_a_row(replicas_LE, num_nodes * num_slots)
    return PlacementPlan(dealt_LP.reshape(num_layers, num_slots, num_nodes).transpose(0, 2, 1), num_experts)


def place_random(replicas_LE: Ints, num_nodes: int, num_slots: int, seed: int) -> PlacementPlan:
    """Put replicas, given as for `place_spread`, into random slots; all arrangements of a layer are equally likely.

    Examples
    --------
    >>> plan = place_random(np.array([[1, 1, 4]]), num_nodes=3, num_slots=2, seed=0)
    >>> plan.replicas_LE.tolist()
    [[1, 1, 4]]
    """
    replicas_LE, num_nodes, num_slots = check_replicas(replicas_LE, num_nodes, num_slots)
    num_layers, num_experts = replicas_LE.shape
    drawn_LP = np.random.default_rng(seed).permuted(_in_a_row(replicas_LE, num_nodes * num_slots), axis=1)
    return PlacementPlan(drawn_LP.reshape(num_layers, num_nodes, num_slots), num_experts)


def place_compact(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Put the replicas of an expert on few nodes; arguments as for `place_spread`.

    Notes
    -----
    An expert with ``r`` replicas takes ``floor(r / c)`` whole nodes. The remainders of the experts, largest first, go
    to the fullest node with enough free slots; where there is none, a remainder fills the emptiest node and the search
    goes on with the rest. The fewest nodes in total is a bin packing problem, which is hard: an expert is on
    ``ceil(r / c)`` nodes, the fewest possible, unless its remainder was split, which never happens for ``c <= 2``. Each
    split fills a node, so all experts together are on at most ``E + N - 1`` nodes, as when nodes are filled in turn.

    Examples
    --------
    >>> place_compact(np.array([[1, 1, 4]]), num_nodes=3, num_slots=2).slots_LNS.tolist()
    [[[2, 2], [2, 2], [0, 1]]]
    """
    replicas_LE, num_nodes, num_slots = check_replicas(replicas_LE, num_nodes, num_slots)
    num_layers, num_experts = replicas_LE.shape
    whole_LE, rest_LE = np.divmod(replicas_LE, num_slots)
    whole_LN = _in_a_row(whole_LE, num_nodes)
    slots_LNS = np.repeat(whole_LN[:, :, None], num_slots, axis=2)
    free_LN = np.where(whole_LN < 0, num_slots, 0)
    order_LE = np.argsort(-rest_LE, axis=1, kind="stable")
    layer = np.arange(num_layers)
    for expert_L in order_LE.T:
        left_L = rest_LE[layer, expert_L]
        while left_L.any():
            # Nodes with enough free slots rank by free slots, ascending; after them the others, descending.
            rank_LN = np.where(free_LN >= left_L[:, None], free_LN, 2 * num_slots + 1 - free_LN)
            node_L = rank_LN.argmin(axis=1)
            first_L = num_slots - free_LN[layer, node_L]
            taken_L = np.minimum(left_L, free_LN[layer, node_L])
            slot = np.arange(num_slots)
            mine_LS = (slot >= first_L[:, None]) & (slot < (first_L + taken_L)[:, None])
            slots_LNS[layer, node_L] = np.where(mine_LS, expert_L[:, None], slots_LNS[layer, node_L])
            free_LN[layer, node_L] -= taken_L
            left_L = left_L - taken_L
    return PlacementPlan(slots_LNS, num_experts)


def _in_a_row(counts_LE: Ints, length: int) -> Ints:
    """Repeat each expert by its count, experts in order, then -1 up to the length; shape (L, length)."""
    num_layers, num_experts = counts_LE.shape
    empty_L = length - counts_LE.sum(axis=1, keepdims=True)
    named = np.append(np.arange(num_experts), -1)
    row: Ints = np.tile(named, num_layers).repeat(np.hstack([counts_LE, empty_L]).ravel())
    return row.reshape(num_layers, length)
