"""The input of placement policies. Axes: L layers, E experts, N nodes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazsim.errors import SpecError
from lazsim.limits import MAX_PLAN_CELLS, MAX_SLOTS
from lazsim.loads import as_array, check_amount, check_loads, check_replicas, check_whole
from lazsim.placement.plan import Ints, PlacementPlan, read_only
from lazsim.placement.steady import MOVE_COST
from lazsim.units import counted


def require_plan_size(num_layers: int, num_experts: int, num_nodes: int, num_slots: int) -> None:
    """Raise SpecError when a plan for this number of nodes, with `num_slots` slots each, would fill the memory.

    Examples
    --------
    >>> require_plan_size(1, 8, num_nodes=9_000, num_slots=2_000)
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: 1 layer on 9,000 nodes of 2,000 slots: a plan has at most 16,777,216; give fewer `nodes`
    """
    nodes = f"{counted(num_layers, 'layer')} on {num_nodes:,} nodes"
    if num_layers * num_nodes * num_slots > MAX_SLOTS:
        raise SpecError(f"{nodes} of {num_slots:,} slots: a plan has at most {MAX_SLOTS:,}; give fewer `nodes`")
    if num_layers * num_nodes * num_experts > MAX_PLAN_CELLS:
        most = f"layers times nodes times experts can be at most {MAX_PLAN_CELLS:,}"
        raise SpecError(f"{nodes} for {num_experts:,} experts: {most}; give fewer `nodes`")


@dataclass(frozen=True, eq=False)
class PlacementRequest:
    """The input of a policy; its arrays are read-only."""

    replicas_LE: Ints
    """Replicas allocated to each expert. A policy that allocates by itself may place others."""
    num_nodes: int
    num_slots: int
    """Nodes, and replica slots of a node in one layer; replicas fill all slots."""
    gpus_per_node: int = 1
    """GPUs of a node; slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``."""
    load_LE: Ints = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    """Tokens routed to each expert; the replicas where loads are unknown."""
    seed: int = 0
    """Seed of a policy that draws."""
    num_groups: int = 1
    """Groups of experts in group-limited routing, which follow one another and are equally large."""
    old: PlacementPlan | None = None
    """The plan that the nodes hold, for policies that change it: of the same layers, experts and nodes, and of at most
    as many slots, to which empty ones are added."""
    move_cost: float = MOVE_COST
    """Gain that is asked of a policy for changing that plan; see `lazsim.placement.steady.keep_steady`."""
    domain_N: Ints | None = None
    """Failure domain of each node, such as its rack, by any numbers; none where nodes fail alone. Policies get numbers
    from 0 without gaps."""

    def __post_init__(self) -> None:
        """Check the fields, make arrays read-only, and take the replicas for loads that are not given."""
        replicas, num_nodes, num_slots = check_replicas(self.replicas_LE, self.num_nodes, self.num_slots, fills=True)
        checked: dict[str, Any] = {"num_nodes": num_nodes, "num_slots": num_slots}
        checked |= {name: check_whole(name, getattr(self, name)) for name in ("gpus_per_node", "num_groups")}
        checked["seed"] = check_whole("seed", self.seed, least=0)
        checked["move_cost"] = check_amount("move_cost", self.move_cost)
        loads = check_loads(self.load_LE, num_nodes * num_slots) if np.size(self.load_LE) else replicas
        if loads.shape != replicas.shape:
            raise SpecError(f"`loads`: expected integers of shape {replicas.shape}, found shape {loads.shape}")
        checked |= {"replicas_LE": read_only(replicas), "load_LE": read_only(loads)}
        if self.domain_N is not None:
            domains = as_array("domains", self.domain_N)
            if domains.shape != (num_nodes,):
                raise SpecError(f"`domains`: {domains.size} named for {num_nodes} nodes; name one for each")
            checked["domain_N"] = read_only(np.unique(domains, return_inverse=True)[1])
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.old is not None:
            object.__setattr__(self, "old", self._checked_old(self.old))

    def _checked_old(self, old: PlacementPlan) -> PlacementPlan:
        if not isinstance(old, PlacementPlan):
            raise SpecError(f"`old`: expected a plan, found {type(old).__name__}")
        num_layers, num_experts = self.replicas_LE.shape
        shape = old.slots_LNS.shape
        if shape[:2] != (num_layers, self.num_nodes) or shape[2] > self.num_slots or old.num_experts != num_experts:
            expected = f"{num_experts} experts and slots of shape {(num_layers, self.num_nodes, self.num_slots)}"
            raise SpecError(f"`old`: expected a plan of {expected}, found {old.num_experts} and {shape}")
        if self.num_slots % self.gpus_per_node:
            raise SpecError(f"`old`: {self.gpus_per_node} GPUs do not share {self.num_slots} slots evenly")
        return old.with_slots(self.num_slots)
