"""The placement of Lazarus's figure 4, plan A (arXiv 2407.04656)."""

import numpy as np

from lazsim.placement.mro import place_mro
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.request import PlacementRequest

HOLDERS = ((0, 1), (1, 2, 3), (0, 3, 4), (0, 1, 2, 3))
"""Nodes of each expert: only the published pairs of the five nodes hold all four."""


def place(request: PlacementRequest) -> PlacementPlan:
    """Place four experts on five nodes as published, and on fewer nodes as Lazarus does."""
    if request.num_nodes != 5:
        return place_mro(request.replicas_LE, request.num_nodes, request.num_slots)
    slots_NE = np.full((5, len(HOLDERS)), -1)
    for expert, nodes in enumerate(HOLDERS):
        slots_NE[list(nodes), expert] = expert
    return PlacementPlan(slots_NE[None], len(HOLDERS))
