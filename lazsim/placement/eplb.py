"""The greedy balancer of DeepSeek, which ignores failures.

Axes: L layers, E experts, N nodes, S slots of a node, G all GPUs, P replicas of a layer, heaviest first.
"""

import heapq

import numpy as np

from lazsim.placement.allocation import prepare_loads
from lazsim.placement.plan import Floats, Ints, PlacementPlan


def place_eplb(load_LE: Ints, num_nodes: int, num_slots: int, gpus_per_node: int = 1) -> PlacementPlan:
    """Replicate the experts with most load per replica, then pack replicas onto GPUs evenly by load.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, integers from 0 up, shape (L, E).
    num_nodes, num_slots, gpus_per_node
        Nodes, and slots and GPUs of a node; slot ``s`` belongs to GPU ``s % gpus_per_node``.

    Raises
    ------
    InfeasiblePlanError
        When there are fewer slots than experts.
    RoutingFormatError
        When loads are refused by `lazsim.loads.check_loads`.

    Notes
    -----
    The global policy of DeepSeek's EPLB (github.com/deepseek-ai/EPLB): after `replicate_greedily`, replicas go one by
    one, heaviest first, to the least loaded GPU with a free slot, the first of several. Their hierarchical policy, for
    routing that is limited to groups of experts, is not implemented.

    Examples
    --------
    >>> place_eplb(np.array([[60, 30, 10]]), num_nodes=2, num_slots=2).slots_LNS.tolist()
    [[[0, 1], [0, 2]]]
    """
    num_experts = load_LE.shape[1]
    replicas_LE = replicate_greedily(load_LE, num_nodes * num_slots)
    share_LE = load_LE / replicas_LE
    # Heaviest first; ties by expert.
    order_LE = np.argsort(-share_LE, axis=1, kind="stable")
    gpu_S = np.arange(num_slots) % gpus_per_node
    room_G = np.tile(np.bincount(gpu_S, minlength=gpus_per_node), num_nodes)
    slots_LNS = np.empty((len(load_LE), num_nodes, num_slots), dtype=np.int64)
    for layer, order_E in enumerate(order_LE):
        expert_P = order_E.repeat(replicas_LE[layer, order_E])
        gpu_P = _pack(share_LE[layer, expert_P], room_G)
        # All slots are filled, so replicas in the order of their GPUs fill the slots in that order.
        by_gpu = expert_P[np.argsort(gpu_P, kind="stable")].reshape(num_nodes, num_slots)
        slots_LNS[layer][:, np.argsort(gpu_S, kind="stable")] = by_gpu
    return PlacementPlan(slots_LNS, num_experts)


def replicate_greedily(load_LE: Ints, num_slots: int) -> Ints:
    """Give each expert one replica, and each further one to the expert with most load per replica.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, shape (L, E). A layer without tokens counts as evenly loaded.
    num_slots
        Slots of one layer on all nodes, all of which are filled.

    Returns
    -------
    ndarray of int64, shape (L, E)
        Replicas; ties go to the first expert.

    Raises
    ------
    InfeasiblePlanError
        When there are fewer slots than experts.
    RoutingFormatError
        When loads are refused by `lazsim.loads.check_loads`.

    Notes
    -----
    An expert's replica after its ``j``-th has the quotient ``t[e] / j``; the ``m = num_slots - E`` largest quotients
    win. At most ``m`` of them exceed ``sum(t) / m``, so each expert has ``ceil(m t[e] / sum(t))`` replicas at once; at
    most ``E`` are then left to add one by one.

    Examples
    --------
    >>> replicate_greedily(np.array([[60, 30, 10]]), 6).tolist()
    [[3, 2, 1]]
    """
    load_LE = prepare_loads(load_LE, num_slots)
    num_more = num_slots - load_LE.shape[1]
    replicas_LE: Ints = np.maximum(1, -(-num_more * load_LE // load_LE.sum(axis=1, keepdims=True)))
    left_L = num_slots - replicas_LE.sum(axis=1)
    while left_L.any():
        layer = left_L.nonzero()[0]
        replicas_LE[layer, (load_LE[layer] / replicas_LE[layer]).argmax(axis=1)] += 1
        left_L[layer] -= 1
    return replicas_LE


def _pack(load_P: Floats, room_G: Ints) -> Ints:
    """Put each load in turn onto the least loaded GPU with a free slot; return the GPUs."""
    total_G, left_G = np.zeros(len(room_G)), room_G.copy()
    rounds: list[Ints] = []
    start = 0
    while start < len(load_P):
        open_G = left_G.nonzero()[0]
        gpus = open_G[np.argsort(total_G[open_G], kind="stable")][: len(load_P) - start]
        raised = total_G[gpus] + load_P[start : start + len(gpus)]
        # A whole round is dealt at once as long as no GPU's second turn comes before the first turn of another.
        if (raised[left_G[gpus] > 1] <= total_G[gpus[-1]]).any():
            break
        rounds.append(gpus)
        total_G[gpus] = raised
        left_G[gpus] -= 1
        start += len(gpus)
    singly = _pack_singly(load_P[start:].tolist(), total_G.tolist(), left_G.tolist())
    return np.concatenate([*rounds, np.array(singly, dtype=np.int64)])


def _pack_singly(loads: list[float], total_G: list[float], left_G: list[int]) -> list[int]:
    """Do the same one by one, onto GPUs that have some load already."""
    heap = [(total, gpu) for gpu, total in enumerate(total_G) if left_G[gpu]]
    heapq.heapify(heap)
    gpus = []
    for load in loads:
        total, gpu = heap[0]
        gpus.append(gpu)
        left_G[gpu] -= 1
        if left_G[gpu]:
            heapq.heapreplace(heap, (total + load, gpu))
        else:
            heapq.heappop(heap)
    return gpus
