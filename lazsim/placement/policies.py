"""Placement policies by name: lazsim's own, those of installed packages, and functions of a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lazsim.placement.mro import place_mro
from lazsim.placement.plan import Ints, PlacementPlan


@dataclass(frozen=True, eq=False)
class PlacementRequest:
    """What a policy is asked for.

    Attributes
    ----------
    replicas_LE : ndarray of int64, shape (L, E)
        Replicas allocated to each expert. A policy that allocates by itself may place others.
    num_nodes, num_slots : int
        Nodes, and replica slots of each of them in a layer; the slots of all nodes together are the replicas.
    gpus_per_node : int
        GPUs of a node; slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``.
    load_LE : ndarray of int64, shape (L, E)
        Tokens routed to each expert; the replicas where nothing else is known.
    seed : int
        Seed of a policy that draws.
    """

    replicas_LE: Ints
    num_nodes: int
    num_slots: int
    gpus_per_node: int = 1
    load_LE: Ints = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    seed: int = 0

    def __post_init__(self) -> None:
        """Take the replicas for the loads where there are none."""
        if not self.load_LE.size:
            object.__setattr__(self, "load_LE", self.replicas_LE)


Policy = Callable[[PlacementRequest], PlacementPlan]
"""From what is asked for to a plan."""


def _mro(request: PlacementRequest) -> PlacementPlan:
    """Maximum Rank Overlap, as published."""
    return place_mro(request.replicas_LE, request.num_nodes, request.num_slots)


POLICIES: Mapping[str, Policy] = {"mro": _mro}
"""Policies by name; the first line of a policy's docstring describes it."""
