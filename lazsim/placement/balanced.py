"""Balance loads, but spread the replicas of each expert over distinct nodes.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

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


def place_on_uneven(replicas_LE: Ints, load_LE: Ints, slots_N: Ints, fault_threshold: int) -> PlacementPlan:
    """Deal replicas over nodes of different sizes, an expert to different nodes.

    Parameters
    ----------
    replicas_LE, load_LE
        As for `place_balanced`.
    slots_N
        Slots of each node; replicas fill all of them. The plan has empty slots at the end of smaller nodes.
    fault_threshold
        Distinct nodes of each expert, at most its replicas and `most_distinct`.

    Notes
    -----
    The first replicas of every expert, as many as the threshold, are dealt before all others, heaviest first. A replica
    goes to the node with most free slots that lacks the expert, the least loaded one of several. Filling the columns
    with most room reaches every threshold that can be reached (Gale, Pacific J. Math. 7, 1957).

    Examples
    --------
    >>> load_LE, slots_N = np.array([[40, 30, 20, 10, 5]]), np.array([2, 2, 1])
    >>> place_on_uneven(np.ones_like(load_LE), load_LE, slots_N, fault_threshold=1).slots_LNS.tolist()
    [[[0, 4], [1, 3], [2, -1]]]
    """
    num_layers, num_experts = replicas_LE.shape
    slots_LNS = np.full((num_layers, len(slots_N), int(slots_N.max())), -1)
    holds_LEN = np.zeros((num_layers, num_experts, len(slots_N)), dtype=bool)
    free_LN, load_LN = np.tile(slots_N, (num_layers, 1)), np.zeros((num_layers, len(slots_N)))
    layer, share_LE = np.arange(num_layers), load_LE / replicas_LE
    order_LE = np.argsort(-share_LE, axis=1, kind="stable")
    sorted_LE = np.take_along_axis(replicas_LE, order_LE, axis=1)
    first_LE = np.minimum(sorted_LE, fault_threshold)
    times = np.concatenate([first_LE, sorted_LE - first_LE], axis=1)
    dealt = np.concatenate([order_LE, order_LE], axis=1).ravel().repeat(times.ravel()).reshape(num_layers, -1)
    for expert_L in dealt.T:
        held_LN = holds_LEN[layer, expert_L]
        node_L = np.lexsort((load_LN / slots_N, -free_LN, held_LN, free_LN == 0))[:, 0]
        slots_LNS[layer, node_L, slots_N[node_L] - free_LN[layer, node_L]] = expert_L
        holds_LEN[layer, expert_L, node_L] = True
        free_LN[layer, node_L] -= 1
        load_LN[layer, node_L] += share_LE[layer, expert_L]
    return PlacementPlan(slots_LNS, num_experts)


def most_distinct(num_experts: int, slots_N: Ints) -> int:
    """Return the largest number of distinct nodes that every expert can be on.

    Experts that are all on as many nodes fit exactly if their sum does, where a node counts no more slots than experts.
    """
    return min(len(slots_N), int(np.minimum(slots_N, num_experts).sum()) // num_experts)
