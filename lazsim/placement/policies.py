"""Placement policies: from replicas per expert to a plan.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from lazsim.placement.plan import Ints, PlacementPlan

Policy = Callable[[Ints, int, int], PlacementPlan]
"""(replicas_LE, number of nodes, slots of a node) -> plan."""


def place_mro(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Place by Maximum Rank Overlap, as published.

    Parameters
    ----------
    replicas_LE
        Replicas of each expert, at least one each and at most ``num_nodes * num_slots`` in a layer, shape (L, E).
    num_nodes, num_slots
        Nodes, and slots of each of them.

    Notes
    -----
    Lazarus (arXiv 2407.04656), section 4. Experts, ascending by replicas, are cut into groups of `num_slots`; a group
    gets as many nodes as its first expert has replicas (the last one what is left, if that is less), and each of those
    nodes holds every expert of the group. Each replica that remains goes to a node with a free slot: rather one
    that lacks the expert, then the emptiest, then the first.

    Examples
    --------
    >>> place_mro(np.array([[1, 1, 2, 2]]), num_nodes=3, num_slots=2).slots_LNS.tolist()
    [[[0, 1], [2, 3], [2, 3]]]
    """
    num_layers, num_experts = replicas_LE.shape
    order = np.argsort(replicas_LE, axis=1, kind="stable")
    ascending = np.take_along_axis(replicas_LE, order, axis=1)
    group_sizes = ascending[:, ::num_slots].copy()
    taken = group_sizes[:, :-1].sum(axis=1)
    group_sizes[:, -1] = np.minimum(group_sizes[:, -1], num_nodes - taken)
    group_ends = group_sizes.cumsum(axis=1)
    group_of_node = (np.arange(num_nodes) >= group_ends[:, :, None]).sum(axis=1)
    # Axes (L, S, N): a flat walk over a layer then meets free slots emptiest node first.
    slots = group_of_node[:, None, :] * num_slots + np.arange(num_slots)[:, None]
    slots[slots >= num_experts] = -1
    group_of_expert = np.arange(num_experts) // num_slots
    _fill_evenly(slots, ascending - group_sizes[:, group_of_expert], num_nodes - group_ends[:, -1])
    named = np.take_along_axis(order, np.maximum(slots, 0).reshape(num_layers, -1), axis=1).reshape(slots.shape)
    named[slots < 0] = -1
    return PlacementPlan(named.transpose(0, 2, 1), num_experts)


def _fill_evenly(slots_LSN: Ints, left_LE: Ints, num_empty_nodes_L: Ints) -> None:
    """Put the replicas that the groups leave over into free slots, in place, expert by expert.

    Dealing replicas out over the free slots, emptiest node first, is the same as choosing a node for each in turn as
    long as no expert meets a node that has it: then many experts are dealt at once.
    """
    num_experts, num_slots = left_LE.shape[1], slots_LSN.shape[1]
    num_dealt = num_experts
    if num_experts % num_slots:
        num_full = num_experts // num_slots * num_slots
        crowded = (left_LE[:, :num_full] > num_empty_nodes_L[:, None]).any(axis=0)
        num_dealt = int(np.argmax(crowded)) if crowded.any() else num_full
    _deal(slots_LSN, np.arange(num_dealt), left_LE[:, :num_dealt])
    for expert in range(num_dealt, num_experts):
        _add_replicas(slots_LSN, expert, left_LE[:, expert])


def _deal(slots_LSN: Ints, experts: Ints, left_LE: Ints) -> None:
    totals = left_LE.sum(axis=1)
    if not totals.any():
        return
    flat = slots_LSN.reshape(len(slots_LSN), -1)
    free = flat < 0
    free &= free.cumsum(axis=1) <= totals[:, None]
    flat[free] = np.repeat(np.broadcast_to(experts, left_LE.shape), left_LE.ravel())


def _add_replicas(slots_LSN: Ints, expert: int, left_L: Ints) -> None:
    if not left_L.any():
        return
    num_slots, num_nodes = slots_LSN.shape[1:]
    fill = (slots_LSN >= 0).sum(axis=1)
    lacks = (fill < num_slots) & ~(slots_LSN == expert).any(axis=1)
    chosen = np.minimum(left_L, lacks.sum(axis=1))
    if chosen.any():
        key = np.where(lacks, fill * num_nodes + np.arange(num_nodes), num_slots * num_nodes)
        last = np.take_along_axis(np.sort(key, axis=1), np.maximum(chosen - 1, 0)[:, None], axis=1)
        layer, node = np.nonzero((key <= last) & (chosen > 0)[:, None])
        slots_LSN[layer, fill[layer, node], node] = expert
    _deal(slots_LSN, np.array([expert]), (left_L - chosen)[:, None])


def ep_size(num_experts: int, slots_per_gpu: int) -> int:
    """Return the size of an expert-parallel group: the fewest GPUs that hold every expert once in equal chunks.

    Examples
    --------
    >>> [ep_size(num_experts, 6) for num_experts in (8, 12, 16)]
    [2, 2, 4]
    """
    return next(ep for ep in range(1, num_experts + 1) if num_experts % ep == 0 and num_experts // ep <= slots_per_gpu)


def ep_unit_nodes(num_experts: int, gpus_per_node: int, slots_per_gpu: int) -> int:
    """Return the fewest whole nodes that whole expert-parallel groups fill."""
    return math.lcm(ep_size(num_experts, slots_per_gpu), gpus_per_node) // gpus_per_node


def place_ep(
    num_layers: int, num_experts: int, num_nodes: int, gpus_per_node: int, slots_per_gpu: int
) -> PlacementPlan:
    """Place by plain expert parallelism: GPU ``q`` of each group holds the ``q``-th chunk of every layer's experts.

    Parameters
    ----------
    num_nodes
        A multiple of `ep_unit_nodes`.

    Examples
    --------
    >>> place_ep(1, 8, num_nodes=4, gpus_per_node=1, slots_per_gpu=6).slots_LNS[0].tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]
    """
    ep = ep_size(num_experts, slots_per_gpu)
    chunk = num_experts // ep
    assert num_nodes * gpus_per_node % ep == 0, "whole expert-parallel groups"
    gpu = np.arange(num_nodes * gpus_per_node) % ep
    by_gpu = (gpu[:, None] * chunk + np.arange(chunk)).reshape(num_nodes, gpus_per_node, chunk)
    # Slot s of a node belongs to its GPU s % gpus_per_node.
    slots = by_gpu.transpose(0, 2, 1).reshape(num_nodes, -1)
    return PlacementPlan(np.broadcast_to(slots, (num_layers, *slots.shape)), num_experts)


POLICIES: Mapping[str, Policy] = {"mro": place_mro}
"""Policies that turn an allocation into a plan, by name."""
