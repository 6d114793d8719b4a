"""A placement that survives the loss of whole failure domains, such as racks.

``docs/guides/placement.md`` has the argument.

Axes: L layers, E experts, N nodes, S slots of a node, D domains, P slots of a domain.
"""

import numpy as np

from lazsim.placement.balanced import most_distinct, place_on_uneven
from lazsim.placement.euclid import place_euclid
from lazsim.placement.gpus import in_runs
from lazsim.placement.plan import Ints, PlacementPlan


def place_over_domains(
    replicas_LE: Ints, load_LE: Ints, num_nodes: int, num_slots: int, domain_N: Ints | None
) -> PlacementPlan:
    """Place experts on domains as if each were one large node, then spread those of a domain over its nodes.

    Arguments are fields of `lazsim.placement.request.PlacementRequest`. Where there are no domains, or each node or all
    nodes are one, the plan is that of `place_euclid`.

    Notes
    -----
    Domains of equal size are placed on by `place_euclid`: every expert is on at least ``min(min(r), D)`` domains and
    ``min(min(r), N)`` nodes. On others every expert is on ``min(min(r), D)`` domains where there is room for that, else
    on as many as all experts can be at once; see `most_distinct`. That these plans, too, are on ``min(min(r), N)``
    nodes is checked and not proved.

    In a domain, the replicas of an expert go to its nodes in turn: ``k`` of them are on ``min(k, n)`` of ``n`` nodes.
    `lazsim.placement.gpus.spread_over_gpus` keeps these nodes, but may pass one of the ``k`` to another domain.

    Examples
    --------
    Two racks of two nodes; each rack holds every expert.

    >>> place_over_domains(np.full((1, 4), 2), np.ones((1, 4)), 4, 2, np.array([0, 0, 1, 1])).slots_LNS.tolist()
    [[[0, 2], [1, 3], [0, 2], [1, 3]]]
    """
    sizes_D = np.ones(num_nodes, dtype=np.int64) if domain_N is None else np.bincount(domain_N)
    if domain_N is None or len(sizes_D) in (1, num_nodes):
        return place_euclid(replicas_LE, num_nodes, num_slots)
    num_layers, num_experts = replicas_LE.shape
    slots_D = sizes_D * num_slots
    if (sizes_D == sizes_D[0]).all():
        on_domains = place_euclid(replicas_LE, len(sizes_D), int(slots_D[0]))
    else:
        fewest = int(replicas_LE.min())
        on_distinct = min(fewest, most_distinct(num_experts, slots_D))
        on_domains = place_on_uneven(replicas_LE, load_LE, slots_D, (on_distinct, fewest), sizes_D)
    slots_LNS = np.empty((num_layers, num_nodes, num_slots), dtype=np.int64)
    for domain, size in enumerate(sizes_D.tolist()):
        held_LP = in_runs(on_domains.slots_LNS[:, domain, : slots_D[domain]], num_experts)
        slots_LNS[:, domain_N == domain] = held_LP.reshape(num_layers, num_slots, size).transpose(0, 2, 1)
    return PlacementPlan(slots_LNS, num_experts)
