"""Balance loads, but spread the replicas of each expert over distinct nodes.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

from collections.abc import Sequence

import numpy as np

from lazsim.placement.plan import Ints, PlacementPlan


def place_balanced(replicas_LE: Ints, load_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Deal replicas out in rounds, heaviest first; each round goes to the nodes in ascending order of load.

    Arguments are fields of `lazsim.placement.request.PlacementRequest`.

    Notes
    -----
    Every node takes one replica in a round. Only the expert that is dealt when a round ends can continue in the next
    round; there its replicas come first and go to the lightest nodes that have fewest of it. So an expert with ``r``
    replicas is on ``min(r, N)`` nodes, at most ``ceil(r / N)`` times on each, and every fault threshold of the
    allocation holds.

    Examples
    --------
    >>> place_balanced(np.array([[3, 2, 1]]), np.array([[60, 30, 10]]), num_nodes=2, num_slots=3).slots_LNS.tolist()
    [[[0, 0, 1], [0, 1, 2]]]
    """
    num_layers, num_experts = replicas_LE.shape
    assert (replicas_LE.sum(axis=1) == num_nodes * num_slots).all(), "replicas fill all slots"
    layer = np.arange(num_layers)[:, None]
    order_LE = np.argsort(-load_LE / replicas_LE, axis=1, kind="stable")
    dealt = order_LE.ravel().repeat(replicas_LE[layer, order_LE].ravel()).reshape(num_layers, num_slots, num_nodes)
    share = (load_LE / replicas_LE)[layer, dealt.reshape(num_layers, -1)].reshape(dealt.shape)
    slots_LNS = np.full((num_layers, num_nodes, num_slots), -1)
    total_LN, begun_L = np.zeros((num_layers, num_nodes)), np.zeros_like(layer)
    for turn in range(num_slots):
        head_L = dealt[:, turn, :1]
        # An expert with whole rounds began before them; each of these gave one to every node.
        begun_L = np.where(dealt[:, turn - 1, :1] == head_L, begun_L, turn - 1)
        node_LN = np.argsort(total_LN, axis=1, kind="stable")
        holds_LN = slots_LNS[layer, node_LN, begun_L] == head_L
        # The first nodes that lack the expert take its remaining replicas; the others follow in order.
        taken_LN = ~holds_LN & ((~holds_LN).cumsum(axis=1) <= (dealt[:, turn] == head_L).sum(axis=1, keepdims=True))
        node_LN = np.take_along_axis(node_LN, np.argsort(~taken_LN, axis=1, kind="stable"), axis=1)
        slots_LNS[layer, node_LN, turn] = dealt[:, turn]
        total_LN[layer, node_LN] += share[:, turn]
    return PlacementPlan(slots_LNS, num_experts)


def place_on_uneven(
    replicas_LE: Ints, load_LE: Ints, slots_N: Ints, thresholds: Sequence[int], parts_N: Ints | int = 1
) -> PlacementPlan:
    """Deal replicas over nodes of different sizes, an expert to different nodes.

    Parameters
    ----------
    replicas_LE, load_LE
        As for `place_balanced`.
    slots_N
        Slots of each node; replicas fill all of them. The plan has empty slots at the end of smaller nodes.
    thresholds
        Replicas of every expert that are dealt before all others, in ascending steps. The first step is the number of
        distinct nodes of each expert, at most its replicas and `most_distinct`.
    parts_N
        Parts of each node that can hold an expert: the nodes of a domain.

    Notes
    -----
    In each step the heaviest experts come first. A replica goes to the node of which most lacks the expert; of several
    to that with most free slots, then to the least loaded one. Filling the columns with most room reaches every
    threshold of nodes that can be reached (Gale, Pacific J. Math. 7, 1957).

    Examples
    --------
    >>> load_LE, slots_N = np.array([[40, 30, 20, 10, 5]]), np.array([2, 2, 1])
    >>> place_on_uneven(np.ones_like(load_LE), load_LE, slots_N, thresholds=[1]).slots_LNS.tolist()
    [[[0, 4], [1, 3], [2, -1]]]
    """
    num_layers, num_experts = replicas_LE.shape
    slots_LNS = np.full((num_layers, len(slots_N), int(slots_N.max())), -1)
    held_LEN = np.zeros((num_layers, num_experts, len(slots_N)), dtype=np.int64)
    free_LN, load_LN = np.tile(slots_N, (num_layers, 1)), np.zeros((num_layers, len(slots_N)))
    layer, share_LE = np.arange(num_layers), load_LE / replicas_LE
    order_LE = np.argsort(-share_LE, axis=1, kind="stable")
    sorted_LE = np.take_along_axis(replicas_LE, order_LE, axis=1)
    steps = [*(np.minimum(sorted_LE, threshold) for threshold in (0, *thresholds)), sorted_LE]
    times = np.concatenate(np.diff(steps, axis=0), axis=1)
    dealt = np.tile(order_LE, len(steps) - 1).ravel().repeat(times.ravel()).reshape(num_layers, -1)
    for expert_L in dealt.T:
        held_LN = np.minimum(held_LEN[layer, expert_L] / parts_N, 1)
        node_L = np.lexsort((load_LN / slots_N, -free_LN, held_LN, free_LN == 0))[:, 0]
        slots_LNS[layer, node_L, slots_N[node_L] - free_LN[layer, node_L]] = expert_L
        held_LEN[layer, expert_L, node_L] += 1
        free_LN[layer, node_L] -= 1
        load_LN[layer, node_L] += share_LE[layer, expert_L]
    return PlacementPlan(slots_LNS, num_experts)


def most_distinct(num_experts: int, slots_N: Ints) -> int:
    """Return the largest number of distinct nodes that every expert can be on.

    Experts that are all on as many nodes fit exactly if their sum does, where a node counts no more slots than experts.
    """
    return min(len(slots_N), int(np.minimum(slots_N, num_experts).sum()) // num_experts)
