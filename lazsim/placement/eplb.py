"""The greedy balancer of DeepSeek, which ignores failures.

Axes: L layers, E experts, N nodes, S slots of a node, G all GPUs, P replicas of a layer, heaviest first, U groups.
"""

import heapq

import numpy as np

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.allocation import prepare_loads
from lazsim.placement.plan import Floats, Ints, PlacementPlan


def place_eplb(
    load_LE: Ints, num_nodes: int, num_slots: int, gpus_per_node: int = 1, most: int | None = None
) -> PlacementPlan:
    """Replicate the experts with most load per replica, then pack replicas onto GPUs evenly by load.

    Arguments are fields of `lazsim.placement.request.PlacementRequest`; `most` is that of `replicate_greedily`. Loads
    that do not fit are errors of `lazsim.placement.allocation.prepare_loads`.

    Raises
    ------
    InfeasiblePlanError
        When there are fewer slots than experts.
    SpecError
        When loads are refused by `lazsim.loads.check_loads`.

    Notes
    -----
    The global policy of DeepSeek's EPLB (github.com/deepseek-ai/EPLB): after `replicate_greedily`, replicas go one by
    one, heaviest first, to the least loaded GPU with a free slot, the first of several. GPUs with one slot each get the
    experts in their order, then further replicas as they were added. `place_groups` has their hierarchical policy, for
    routing that is limited to groups of experts.

    Examples
    --------
    >>> place_eplb(np.array([[60, 30, 10]]), num_nodes=2, num_slots=2).slots_LNS.tolist()
    [[[0, 1], [0, 2]]]
    """
    num_experts = load_LE.shape[1]
    load_LE = prepare_loads(load_LE, num_nodes * num_slots)
    replicas_LE = replicate_greedily(load_LE, num_nodes * num_slots, most=most)
    share_LE = load_LE / replicas_LE
    # Heaviest first; ties by expert.
    order_LE = np.argsort(-share_LE, axis=1, kind="stable")
    gpu_S = np.arange(num_slots) % gpus_per_node
    room_G = np.tile(np.bincount(gpu_S, minlength=gpus_per_node), num_nodes)
    slots_LNS = np.empty((len(load_LE), num_nodes, num_slots), dtype=np.int64)
    for layer, order_E in enumerate(order_LE):
        if (room_G == 1).all():
            slots_LNS[layer] = _in_order(load_LE[layer], replicas_LE[layer]).reshape(num_nodes, num_slots)
            continue
        expert_P = order_E.repeat(replicas_LE[layer, order_E])
        gpu_P = _pack(share_LE[layer, expert_P], room_G)
        # All slots are filled, so replicas in the order of their GPUs fill the slots in that order.
        by_gpu = expert_P[np.argsort(gpu_P, kind="stable")].reshape(num_nodes, num_slots)
        slots_LNS[layer][:, np.argsort(gpu_S, kind="stable")] = by_gpu
    return PlacementPlan(slots_LNS, num_experts)


def place_groups(load_LE: Ints, num_groups: int, slots_N: Ints, gpus_N: Ints, *, apart: bool = False) -> PlacementPlan:
    """Keep each group of experts on one node, and place the experts of each node as `place_eplb` does.

    An `InfeasiblePlanError` says that groups do not fit on nodes, or that there are fewer groups than nodes.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, integers from 0 up, shape (L, E).
    num_groups
        Groups of experts, which follow one another and are equally large.
    slots_N, gpus_N
        Slots and GPUs of each node; slot ``s`` belongs to GPU ``s % gpus_N[node]``.
    apart
        Whether an expert gets at most as many replicas as its node has GPUs, where all slots are filled then.

    Notes
    -----
    The hierarchical policy of DeepSeek's EPLB (github.com/deepseek-ai/EPLB). Nodes take numbers of groups in proportion
    to their slots, the same number where nodes are even. Groups go one by one, heaviest first, to the node with least
    load per slot that may take one more; one group for each node stays in order.

    Examples
    --------
    >>> two = np.array([2, 2])
    >>> place_groups(np.array([[40, 30, 20, 10]]), num_groups=2, slots_N=two, gpus_N=two).slots_LNS.tolist()
    [[[0, 1], [2, 3]]]
    """
    load_LE = prepare_loads(load_LE, int(slots_N.sum()))
    num_layers, num_experts = load_LE.shape
    group_size = num_experts // num_groups
    left_LN = np.tile(_groups_of_nodes(num_groups, group_size, slots_N), (num_layers, 1))
    load_LU = load_LE.reshape(num_layers, num_groups, group_size).sum(axis=2)
    node_LU, load_LN, layer = np.empty_like(load_LU), np.zeros(left_LN.shape), np.arange(num_layers)
    heavy_LU = load_LU if num_groups > len(slots_N) else -np.tile(np.arange(num_groups), (num_layers, 1))
    for group_L in np.argsort(-heavy_LU, axis=1, kind="stable").T:
        node_L = np.where(left_LN > 0, load_LN / slots_N, np.inf).argmin(axis=1)
        node_LU[layer, group_L] = node_L
        load_LN[layer, node_L] += load_LU[layer, group_L]
        left_LN[layer, node_L] -= 1
    slots_LNS = np.full((num_layers, len(slots_N), int(slots_N.max())), -1)
    for node, (num_slots, num_gpus) in enumerate(zip(slots_N.tolist(), gpus_N.tolist(), strict=True)):
        own_LE = (node_LU == node).repeat(group_size, axis=1).nonzero()[1].reshape(num_layers, -1)
        own_load = np.take_along_axis(load_LE, own_LE, axis=1)
        alone = place_eplb(own_load, 1, num_slots, num_gpus, num_gpus if apart else None)
        slots_LNS[:, node, :num_slots] = np.take_along_axis(own_LE, alone.slots_LNS[:, 0], axis=1)
    return PlacementPlan(slots_LNS, num_experts)


def _groups_of_nodes(num_groups: int, group_size: int, slots_N: Ints) -> Ints:
    """Share groups among nodes in proportion to their slots, at least one each, as far as these hold them, (N,)."""
    if num_groups < len(slots_N):
        raise InfeasiblePlanError(f"{num_groups} groups of {group_size} experts leave a node without any")
    groups_N = np.ones_like(slots_N)
    for _ in range(num_groups - len(slots_N)):
        share_N = np.where((groups_N + 1) * group_size <= slots_N, slots_N / (groups_N + 1), 0.0)
        groups_N[share_N.argmax()] += 1
    if (groups_N * group_size > slots_N).any():
        raise InfeasiblePlanError(f"{num_groups} groups of {group_size} experts do not fit whole on these nodes")
    return groups_N


def replicate_greedily(load_LE: Ints, num_slots: int, fault_threshold: int = 1, most: int | None = None) -> Ints:
    """Give each expert `fault_threshold` replicas, and each further one to the expert with most load per replica.

    So the heaviest replica is as light as can be. Loads that do not fit are errors of `prepare_loads`.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, shape (L, E). A layer without tokens counts as evenly loaded.
    num_slots
        Slots of one layer on all nodes, all of which are filled.
    fault_threshold
        Fewest replicas of an expert, at least 1; where they do not fit, the largest number that fits.
    most
        Most replicas of an expert, such as its GPUs; where all experts then leave slots empty, and by default, any
        number.

    Returns
    -------
    ndarray of int64, shape (L, E)
        Replicas; ties go to the first expert.

    Raises
    ------
    InfeasiblePlanError
        When there are fewer slots than experts.
    SpecError
        When loads are refused by `lazsim.loads.check_loads`.

    Notes
    -----
    Without a threshold, the replication of DeepSeek's EPLB (github.com/deepseek-ai/EPLB). An expert's replica after its
    ``j``-th has the quotient ``t[e] / j``; the ``m = num_slots - E * f`` largest quotients with ``j >= f`` win. At most
    ``m`` of them exceed ``sum(t) / m``, so each expert has ``ceil(m t[e] / sum(t))`` replicas at once. At most
    ``E * f`` are then left to add one by one.

    Examples
    --------
    >>> replicate_greedily(np.array([[60, 30, 10]]), 6).tolist()
    [[3, 2, 1]]
    >>> replicate_greedily(np.array([[60, 30, 10]]), 7, fault_threshold=2).tolist()
    [[3, 2, 2]]
    """
    load_LE = prepare_loads(load_LE, num_slots)
    num_experts = load_LE.shape[1]
    threshold = min(fault_threshold, num_slots // num_experts)
    num_more = num_slots - threshold * num_experts
    most = num_slots if most is None or most * num_experts < num_slots else most
    share_LE = -(-num_more * load_LE // load_LE.sum(axis=1, keepdims=True))
    replicas_LE: Ints = np.clip(share_LE, threshold, max(threshold, most))
    left_L = num_slots - replicas_LE.sum(axis=1)
    while left_L.any():
        layer = left_L.nonzero()[0]
        quotient = np.where(replicas_LE[layer] < most, load_LE[layer] / replicas_LE[layer], -1.0)
        replicas_LE[layer, quotient.argmax(axis=1)] += 1
        left_L[layer] -= 1
    return replicas_LE


def _in_order(load_E: Ints, replicas_E: Ints) -> Ints:
    """Return all experts, then those of further replicas in the order in which `replicate_greedily` adds them."""
    further = (np.arange(replicas_E.max(initial=1) - 1) < replicas_E[:, None] - 1).nonzero()
    quotient = load_E[further[0]] / (further[1] + 1)
    return np.concatenate([np.arange(len(load_E)), further[0][np.argsort(-quotient, kind="stable")]])


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
    # The others one by one, onto GPUs that have some load already.
    left = left_G.tolist()
    heap = [(total, gpu) for gpu, total in enumerate(total_G.tolist()) if left[gpu]]
    heapq.heapify(heap)
    gpus_left = []
    for load in load_P[start:].tolist():
        total, gpu = heap[0]
        gpus_left.append(gpu)
        left[gpu] -= 1
        if left[gpu]:
            heapq.heapreplace(heap, (total + load, gpu))
        else:
            heapq.heappop(heap)
    return np.concatenate([*rounds, np.array(gpus_left, dtype=np.int64)])
