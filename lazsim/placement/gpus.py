"""Give the replicas of a node to its GPUs, an expert to different ones.

Axes: L layers, E experts, N nodes, S slots of a node, Q GPUs of a node, K slots of a GPU, B nodes of all layers.
"""

import numpy as np

from lazsim.placement.plan import Bools, Floats, Ints, PlacementPlan


def spread_over_gpus(plan: PlacementPlan, gpus_per_node: int) -> PlacementPlan:
    """Let as few GPUs as possible hold an expert twice, with every expert on the same nodes as before.

    Parameters
    ----------
    plan
        Replicas of each node. Empty slots are the last ones of a node.
    gpus_per_node
        GPUs of a node; slot ``s`` belongs to GPU ``s % gpus_per_node``.

    Notes
    -----
    A GPU must hold an expert twice only where its node has more replicas of it than GPUs. Such replicas change places
    with replicas of other experts, between nodes that hold both. The fewest left over are the least cost of a flow from
    experts to nodes, which is reached when no cycle of changes lowers it (Klein, Management Science 14(3), 1967).
    Nodes without an expert twice on a GPU and without such a change keep their slots.

    Examples
    --------
    Two GPUs, of which the first had expert 0 twice:

    >>> plan = PlacementPlan(np.array([[[0, 1, 0, 2]]]), num_experts=3)
    >>> spread_over_gpus(plan, gpus_per_node=2).slots_LNS.tolist()
    [[[0, 0, 1, 2]]]
    """
    unlike, _ = plan.unlike_nodes
    if gpus_per_node == 1 or not (twice_LC := _hold_twice(unlike.slots_LNS, gpus_per_node)).any():
        return plan
    slots_LNS = plan.slots_LNS.copy()
    for layer in np.flatnonzero(twice_LC.any(axis=1)):
        (replicas_EN,) = plan.layers(slice(layer, layer + 1)).replicas_LEN
        if (replicas_EN > gpus_per_node).any():
            _exchange(slots_LNS[layer], replicas_EN, gpus_per_node)
    twice_LN = _hold_twice(slots_LNS, gpus_per_node)
    # Replicas of an expert in a row are on different GPUs.
    slots_LNS[twice_LN] = in_runs(slots_LNS[twice_LN], plan.num_experts)
    return PlacementPlan(slots_LNS, plan.num_experts)


def _hold_twice(slots_LNS: Ints, gpus_per_node: int) -> Bools:
    """Tell which nodes have an expert twice on a GPU."""
    num_slots = slots_LNS.shape[2]
    # Slots that share a GPU are a multiple of the GPUs apart. A comparison of whole arrays is faster than sorts.
    twice_LN = np.zeros(slots_LNS.shape[:2], dtype=np.bool_)
    for apart in range(gpus_per_node, num_slots, gpus_per_node):
        later = slots_LNS[:, :, apart:]
        twice_LN |= ((slots_LNS[:, :, :-apart] == later) & (later >= 0)).any(axis=2)
    return twice_LN


def in_runs(slots_BS: Ints, num_experts: int) -> Ints:
    """Put the replicas of each expert of a node in a row, where the first of them stands.

    Examples
    --------
    >>> in_runs(np.array([[2, 0, 2, 1, 0]]), num_experts=3).tolist()
    [[2, 2, 0, 0, 1]]
    """
    num_nodes, num_slots = slots_BS.shape
    # Empty slots, -1, count as one expert more.
    place_BS = slots_BS % (num_experts + 1) + (num_experts + 1) * np.arange(num_nodes)[:, None]
    first = np.full(num_nodes * (num_experts + 1), num_slots)
    np.minimum.at(first, place_BS.reshape(-1), np.tile(np.arange(num_slots), num_nodes))
    return np.take_along_axis(slots_BS, np.argsort(first[place_BS], axis=1, kind="stable"), axis=1)


def _exchange(slots_NS: Ints, replicas_EN: Ints, gpus_per_node: int) -> None:
    """Exchange replicas between the nodes of a layer, in place, as long as more of them get GPUs of their own."""
    while cycle := _cheaper_cycle(replicas_EN, gpus_per_node):
        free = {giver: np.flatnonzero(slots_NS[giver] == expert)[-1] for giver, expert, _ in cycle}
        for giver, expert, taker in cycle:
            replicas_EN[expert, [giver, taker]] += [-1, 1]
            slots_NS[taker, free[taker]] = expert


def _cheaper_cycle(replicas_EN: Ints, gpus_per_node: int) -> list[tuple[int, int, int]]:
    """Find nodes that each pass a replica on, the last one to the first, so that fewer are left without a GPU.

    Returns giver, expert and taker of each replica; nothing where there is no such cycle. The search is Bellman and
    Ford's for a cycle of negative cost.
    """
    num_nodes = replicas_EN.shape[1]
    gives_EN = np.where(replicas_EN > gpus_per_node, -1.0, np.where(replicas_EN > 1, 0.0, np.inf))
    takes_EN = np.where(replicas_EN > 0, replicas_EN >= gpus_per_node, np.inf)
    # The least cost of one replica more on a node, its expert and its giver; the number after the last node is none.
    cost_N, expert_N, giver_N = np.zeros(num_nodes), np.zeros(num_nodes, np.int64), np.full(num_nodes + 1, num_nodes)
    while True:
        given_EN = cost_N + gives_EN
        taken_EN = given_EN.min(axis=1, keepdims=True) + takes_EN
        better = np.flatnonzero(taken_EN.min(axis=0) < cost_N)
        if not len(better):
            return []
        cost_N[better] = taken_EN[:, better].min(axis=0)
        expert_N[better] = taken_EN[:, better].argmin(axis=0)
        giver_N[better] = given_EN.argmin(axis=1)[expert_N[better]]
        before = giver_N
        for _ in range(num_nodes.bit_length()):
            before = before[before]
        # Where givers of givers never end, they go round in a cycle.
        if (before < num_nodes).any():
            takers = [int(before.min())]
            while (giver := int(giver_N[takers[-1]])) != takers[0]:
                takers.append(giver)
            return [(int(giver_N[taker]), int(expert_N[taker]), taker) for taker in takers]


def pack_gpus(plan: PlacementPlan, load_LE: Ints, gpus_per_node: int, gpus_N: Ints | None = None) -> Ints:
    """Give the replicas of each node to its GPUs, heaviest first, each to the lightest GPU with a free slot.

    Parameters
    ----------
    plan
        Replicas of each node.
    load_LE
        Tokens routed to each expert, shared evenly by its replicas, shape (L, E).
    gpus_per_node
        GPUs of a node, which divide its slots.
    gpus_N
        GPUs of each node that are used, the first ones; its replicas fill their slots. All by default.

    Returns
    -------
    ndarray of int64, shape (L, N, Q, K)
        Expert in each slot of each GPU, -1 where it is empty. A GPU has a second replica of an expert only when every
        GPU of the node has one.
    """
    num_layers, num_nodes, num_slots = plan.slots_LNS.shape
    assert num_slots % gpus_per_node == 0, "each GPU has the same number of slots"
    per_gpu = num_slots // gpus_per_node
    # An empty slot, index -1, reads the column behind the experts.
    share = np.append(load_LE / np.maximum(plan.replicas_LE, 1), np.full((num_layers, 1), -1.0), axis=1)
    share_BS = share[np.arange(num_layers)[:, None], plan.slots_LNS.reshape(num_layers, -1)].reshape(-1, num_slots)
    order_BS = np.argsort(-share_BS, axis=1, kind="stable")
    expert_BS = np.take_along_axis(plan.slots_LNS.reshape(-1, num_slots), order_BS, axis=1)
    share_BS = np.take_along_axis(share_BS, order_BS, axis=1)
    node_B = np.arange(num_layers * num_nodes)
    packed_BQK = np.full((len(node_B), gpus_per_node, per_gpu), -1)
    taken_BQ = np.zeros((len(node_B), gpus_per_node), dtype=np.int64)
    far = 1.0 + 2.0 * share_BS.clip(min=0).sum(axis=1).max(initial=0.0)
    used_B = np.tile(np.full(num_nodes, gpus_per_node) if gpus_N is None else gpus_N, num_layers)
    # GPUs that are not used come last, and get the empty slots.
    total_BQ = np.where(np.arange(gpus_per_node) < used_B[:, None], 0.0, 2.0 * far)
    for slot in range(num_slots):
        holds_BQ = (packed_BQK == expert_BS[:, slot, None, None]).any(axis=2)
        rank_BQ = np.where(taken_BQ < per_gpu, total_BQ + far * holds_BQ, np.inf)
        gpu_B = rank_BQ.argmin(axis=1)
        packed_BQK[node_B, gpu_B, taken_BQ[node_B, gpu_B]] = expert_BS[:, slot]
        total_BQ[node_B, gpu_B] += np.maximum(share_BS[:, slot], 0.0)
        taken_BQ[node_B, gpu_B] += 1
    # A GPU may have had the last free slots, and an expert already.
    for node in np.flatnonzero(_hold_twice(packed_BQK.swapaxes(1, 2).reshape(1, -1, num_slots), gpus_per_node)):
        swap_apart(packed_BQK[node, : used_B[node]], share[node // num_nodes])
    return packed_BQK.reshape(num_layers, num_nodes, gpus_per_node, per_gpu)


def swap_apart(packed_QK: Ints, share_E: Floats) -> None:
    """Swap replicas between some GPUs, in place, until none has two of an expert that another of them lacks.

    `share_E` is the load of a replica of each expert, and at the end that of an empty slot. The loads of the replicas
    swapped are as close as possible.
    """
    while True:
        count_QX = np.array([np.bincount(gpu + 1, minlength=len(share_E)) for gpu in packed_QK])
        lacked = (count_QX[:, 1:] > 1) & (count_QX[:, 1:] == 0).any(axis=0)
        if not lacked.any():
            return
        gpu, expert = np.argwhere(lacked)[0]
        other = int((count_QX[:, expert + 1] == 0).argmax())
        # The other GPU has as many slots without the expert, so that some expert is there more often than here.
        spare = count_QX[other, packed_QK[other] + 1] > count_QX[gpu, packed_QK[other] + 1]
        distance = np.where(spare, np.abs(share_E[packed_QK[other]] - share_E[expert]), np.inf)
        slots = (gpu, int((packed_QK[gpu] == expert).argmax())), (other, int(distance.argmin()))
        packed_QK[slots[0]], packed_QK[slots[1]] = packed_QK[slots[1]], expert
