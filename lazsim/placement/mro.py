"""Maximum Rank Overlap, the placement of Lazarus, as published.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

import math

import numpy as np

from lazsim.loads import check_replicas
from lazsim.placement.plan import Bools, Ints, PlacementPlan


def place_mro(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Place by Maximum Rank Overlap, as published.

    Parameters
    ----------
    replicas_LE
        Replicas of each expert, at least one each and at most ``num_nodes * num_slots`` in a layer, shape (L, E).
    num_nodes, num_slots
        Nodes, and slots of a node.

    Raises
    ------
    SpecError
        When replicas are refused by `lazsim.loads.check_replicas`.

    Notes
    -----
    Lazarus (arXiv 2407.04656), section 4. Experts, ascending by replicas, are cut into groups of `num_slots`. A group
    gets one node for each replica of its first expert (the last group at most the nodes that are left), and each of
    those nodes holds every expert of the group. Each remaining replica goes to a node with a free slot: preferably one
    that lacks the expert, then the emptiest, then the first.

    Examples
    --------
    >>> place_mro(np.array([[1, 1, 2, 2]]), num_nodes=3, num_slots=2).slots_LNS.tolist()
    [[[0, 1], [2, 3], [2, 3]]]
    """
    replicas_LE, num_nodes, num_slots = check_replicas(replicas_LE, num_nodes, num_slots)
    num_layers, num_experts = replicas_LE.shape
    order = np.argsort(replicas_LE, axis=1, kind="stable")
    ascending = replicas_LE[np.arange(num_layers)[:, None], order]
    # The remaining nodes are one more group, without experts.
    sizes = np.empty((num_layers, math.ceil(num_experts / num_slots) + 1), dtype=np.int64)
    sizes[:, :-1] = ascending[:, ::num_slots]
    free_L = num_nodes - sizes[:, :-2].sum(axis=1)
    sizes[:, -2] = np.minimum(sizes[:, -2], free_L)
    sizes[:, -1] = free_L - sizes[:, -2]
    group = np.arange(sizes.size).repeat(sizes.ravel()).reshape(num_layers, num_nodes)
    return place_in_groups(order, ascending, sizes, group, num_slots)


def place_in_groups(
    order_LE: Ints, ascending_LE: Ints, sizes_LG: Ints, group_LN: Ints, num_slots: int
) -> PlacementPlan:
    """Place groups of experts on groups of nodes, and fill free slots with the remaining replicas.

    Groups of `num_slots` experts are cut from `order_LE`, ascending by their replicas `ascending_LE`; the last one with
    experts may have fewer. `sizes_LG` has the nodes of each group, the last of which has no experts, and `group_LN` the
    group of each node, counted on from layer to layer.
    """
    num_layers, num_experts = order_LE.shape
    held = np.full((num_layers, sizes_LG.shape[1] * num_slots), -1)
    held[:, :num_experts] = order_LE
    slots = held.reshape(-1, num_slots).take(group_LN, axis=0)
    left_LE = ascending_LE - sizes_LG[:, :-1].repeat(num_slots, axis=1)[:, :num_experts]
    on_empty_LE = _num_on_empty(left_LE, sizes_LG[:, -1], sizes_LG[:, -2], num_slots)
    is_empty_LN = slots[:, :, 0] < 0
    deal(slots, is_empty_LN, order_LE, on_empty_LE)
    if num_experts % num_slots:
        deal(slots, ~is_empty_LN, order_LE, left_LE - on_empty_LE)
    return PlacementPlan(slots, num_experts)


def _num_on_empty(left_LE: Ints, num_empty_L: Ints, num_last_L: Ints, num_slots: int) -> Ints:
    """Count the remaining replicas that go to empty nodes; the others go to the nodes of the last group.

    Nodes of either kind take turns, so one count describes them all: the replicas on empty nodes, as the total is
    known. If every replica went to the emptiest node, that count would follow from the total (`_evenly`). An expert
    departs from it only as far as needed to meet all nodes that lack it before it meets a node twice: all empty nodes
    lack it, and the nodes of the last group do unless it belongs to that group.
    """
    num_experts = left_LE.shape[1]
    num_held = (num_experts - 1) % num_slots + 1
    left = np.ascontiguousarray(left_LE.T)
    total = left.cumsum(axis=0)
    even = _evenly(total, num_empty_L, num_last_L, num_held)
    # Replicas that find no node of the last group without the expert go to empty nodes: `over` is the least increase of
    # the count, `floor` the least count, both as far as slots are free.
    over = left.copy()
    over[: num_experts - num_held] -= num_last_L
    floor = total - num_last_L * (num_slots - num_held)
    floor[num_experts - num_held :] = 0
    room_L = num_empty_L * num_slots
    counts = np.zeros((num_experts + 1, len(left_LE)), dtype=np.int64)
    rows = zip(counts, counts[1:], even, left, over, floor, strict=False)
    for count, following, evenly, more, increase, fewest in rows:
        once = np.minimum(count + num_empty_L, room_L)
        least = np.maximum(count + increase, fewest)
        most = np.maximum(np.minimum(count + more, once), least)
        least = np.minimum(np.maximum(least, count), once)
        np.minimum(np.maximum(evenly, least), most, out=following)
    return np.diff(counts, axis=0).T


def _evenly(total_EL: Ints, num_empty_L: Ints, num_last_L: Ints, num_held: int) -> Ints:
    """Count the replicas that go to empty nodes if each replica goes to the emptiest node, then to the first.

    The first ``num_held`` replicas of each empty node make it as full as the nodes of the last group, which come first
    among equals.
    """
    level = num_held * num_empty_L
    turns, rest = np.divmod(total_EL - level, np.maximum(num_empty_L + num_last_L, 1))
    return np.minimum(total_EL, level + turns * num_empty_L + np.maximum(rest - num_last_L, 0))


def deal(slots_LNS: Ints, on_LN: Bools, experts_LE: Ints, num_replicas_LE: Ints) -> None:
    """Fill free slots on the nodes `on_LN`, in place, with the replicas of one expert after the other.

    The emptiest node comes first, then the first. A free slot is -1; a node's free slots are its last ones.
    """
    by_level = slots_LNS.transpose(0, 2, 1)
    free = (by_level < 0) & on_LN[:, None]
    num_layers, num_experts = experts_LE.shape
    # The remaining slots of a layer stay empty.
    experts, counts = np.full((2, num_layers, num_experts + 1), -1)
    experts[:, :-1], counts[:, :-1] = experts_LE, num_replicas_LE
    counts[:, -1] = np.count_nonzero(free, axis=(1, 2)) - num_replicas_LE.sum(axis=1)
    by_level[free] = experts.ravel().repeat(counts.ravel())
