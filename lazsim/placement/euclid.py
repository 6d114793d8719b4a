"""A placement that survives what Maximum Rank Overlap does, and more where that cuts its last group short.

``docs/guides/euclid.md`` has the argument.

Axes: L layers, E experts, N nodes, S slots of a node, G groups of experts.
"""

import numpy as np

from lazsim.loads import check_replicas
from lazsim.placement.covers import hold
from lazsim.placement.mro import deal, place_in_groups
from lazsim.placement.plan import Ints, PlacementPlan


def place_euclid(replicas_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Place a model as if each layer had the fewest replicas of any: then all layers share their failure sets.

    Arguments and errors are those of `lazsim.placement.mro.place_mro`.

    Notes
    -----
    Rank by rank, from the least replicated expert up, the fewest replicas of any layer are placed for all layers: in
    the groups of Maximum Rank Overlap where these fit, else by `lazsim.placement.covers.hold`. Further replicas of a
    layer first enlarge its groups, then fill free slots. Every expert is on at least ``min(min(r), N)`` distinct nodes.

    Examples
    --------
    Two replicas of three experts: Maximum Rank Overlap puts both of the last one on one node.

    >>> place_euclid(np.array([[2, 2, 2]]), num_nodes=3, num_slots=2).slots_LNS.tolist()
    [[[1, 2], [0, 2], [0, 1]]]
    """
    replicas_LE, num_nodes, num_slots = check_replicas(replicas_LE, num_nodes, num_slots)
    order = np.argsort(replicas_LE, axis=1, kind="stable")
    ascending = np.take_along_axis(replicas_LE, order, axis=1)
    fewest = np.minimum(ascending.min(axis=0), num_nodes)
    if fewest[::num_slots].sum() <= num_nodes:
        return _place_groups(order, ascending, num_nodes, num_slots)
    return _place_covers(order, ascending, fewest, num_nodes, num_slots)


def _place_groups(order_LE: Ints, ascending_LE: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Give each group the same nodes in all layers, then, layer by layer, more of the remaining nodes."""
    wanted_LG = np.minimum(ascending_LE[:, ::num_slots], num_nodes)
    num_layers, num_groups = wanted_LG.shape
    shared_G = wanted_LG.min(axis=0)
    num_shared = int(shared_G.sum())
    more_LG = np.minimum((wanted_LG - shared_G).cumsum(axis=1), num_nodes - num_shared)
    group = np.empty((num_layers, num_nodes), dtype=np.int64)
    group[:, :num_shared] = np.arange(num_groups).repeat(shared_G)
    group[:, num_shared:] = (np.arange(num_nodes - num_shared) >= more_LG[:, :, None]).sum(axis=1)
    sizes = np.empty((num_layers, num_groups + 1), dtype=np.int64)
    sizes[:, :-1] = shared_G + np.diff(more_LG, axis=1, prepend=0)
    sizes[:, -1] = num_nodes - sizes[:, :-1].sum(axis=1)
    group += np.arange(num_layers)[:, None] * (num_groups + 1)
    return place_in_groups(order_LE, ascending_LE, sizes, group, num_slots)


def _place_covers(order_LE: Ints, ascending_LE: Ints, fewest_E: Ints, num_nodes: int, num_slots: int) -> PlacementPlan:
    """Put the experts of a rank on the same nodes in all layers, and the remaining replicas into free slots."""
    cover = hold(fewest_E.tolist(), num_nodes, num_slots)
    assert cover is not None, "replicas that fit can be held on distinct nodes"
    ranks = np.full((num_nodes, num_slots), len(fewest_E))
    for node in range(num_nodes):
        held = [rank for rank, nodes in enumerate(cover.nodes) if nodes >> node & 1]
        ranks[node, : len(held)] = held
    # The expert after the last stands for a free slot.
    slots = np.pad(order_LE, ((0, 0), (0, 1)), constant_values=-1)[:, ranks]
    num_held_E = np.array([nodes.bit_count() for nodes in cover.nodes])
    deal(slots, np.ones(slots.shape[:2], dtype=np.bool_), order_LE, ascending_LE - num_held_E)
    return PlacementPlan(slots, len(fewest_E))
