"""Maximum Rank Overlap, the placement of Lazarus, as published.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Ints, PlacementPlan


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
    layer = np.arange(num_layers)[:, None]
    ascending = replicas_LE[layer, order]
    sizes = ascending[:, ::num_slots].copy()
    ends = sizes.cumsum(axis=1)
    ends[:, -1] = np.minimum(ends[:, -1], num_nodes)
    sizes[:, -1] = ends[:, -1] - ends[:, -2] if ends.shape[1] > 1 else ends[:, -1]
    group_LN = (np.arange(num_nodes) >= ends[:, :, None]).sum(axis=1)
    # Axes (L, S, N): a flat walk over a layer then meets free slots emptiest node first.
    slots = group_LN[:, None, :] * num_slots + np.arange(num_slots)[:, None]
    slots[slots >= num_experts] = -1
    _fill_evenly(slots, ascending - sizes.repeat(num_slots, axis=1)[:, :num_experts], group_LN)
    # Index -1, an empty slot, meets the column added behind the experts.
    named = np.concatenate([order, np.full((num_layers, 1), -1)], axis=1)[layer, slots.reshape(num_layers, -1)]
    return PlacementPlan(named.reshape(slots.shape).transpose(0, 2, 1), num_experts)


def _fill_evenly(slots_LSN: Ints, left_LE: Ints, group_LN: Ints) -> None:
    """Put the replicas that the groups leave over into free slots, in place, expert by expert.

    Dealing replicas out over the free slots, emptiest node first, is the same as choosing a node for each in turn as
    long as no expert meets a node that has it: then many experts are dealt at once. Only the last group has nodes with
    free slots, so only its experts start out on some.
    """
    num_experts, num_slots = left_LE.shape[1], slots_LSN.shape[1]
    last_group = (num_experts - 1) // num_slots
    num_dealt = num_experts
    if num_experts % num_slots:
        num_dealt = last_group * num_slots
        num_empty_L = (group_LN > last_group).sum(axis=1)
        crowded = (left_LE[:, :num_dealt] > num_empty_L[:, None]).any(axis=0).nonzero()[0]
        num_dealt = int(crowded[0]) if len(crowded) else num_dealt
    dealt_LE = left_LE[:, :num_dealt]
    _deal(slots_LSN, np.tile(np.arange(num_dealt), len(left_LE)).repeat(dealt_LE.ravel()), dealt_LE.sum(axis=1))
    lacks_LN = np.ones(group_LN.shape, dtype=np.bool_)
    for expert in range(num_dealt, num_experts):
        if expert == last_group * num_slots:
            lacks_LN = group_LN != last_group
        _add_replicas(slots_LSN, expert, left_LE[:, expert], lacks_LN)


def _deal(slots_LSN: Ints, experts: Ints | int, totals_L: Ints) -> None:
    """Fill so many free slots of each layer in order: emptiest node first, then by node."""
    if not totals_L.any():
        return
    flat = slots_LSN.reshape(len(slots_LSN), -1)
    free = flat < 0
    free &= free.cumsum(axis=1) <= totals_L[:, None]
    flat[free] = experts


def _add_replicas(slots_LSN: Ints, expert: int, left_L: Ints, lacks_LN: npt.NDArray[np.bool_]) -> None:
    """Give each node that lacks the expert one replica, emptiest first, and deal out what is still left."""
    if not left_L.any():
        return
    num_slots, num_nodes = slots_LSN.shape[1:]
    fill = (slots_LSN >= 0).sum(axis=1)
    fits = (fill < num_slots) & lacks_LN
    chosen = np.minimum(left_L, fits.sum(axis=1))
    key = fill * num_nodes + np.arange(num_nodes)
    key[~fits] = num_slots * num_nodes
    # The key of the last node chosen in each layer; below every key where none is.
    ranked = np.concatenate([np.full((len(key), 1), -1), np.sort(key, axis=1)], axis=1)
    layer, node = (key <= ranked[np.arange(len(key)), chosen][:, None]).nonzero()
    slots_LSN[layer, fill[layer, node], node] = expert
    _deal(slots_LSN, expert, left_L - chosen)
