"""The systems compared: how each places experts, and what it does when nodes go or come."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.step import CostModel, Layout
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_unit_nodes, place_ep
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import POLICIES, PlacementRequest


@dataclass(frozen=True)
class System:
    """What tells one system from another.

    Attributes
    ----------
    name, description : str
        Its name and a line for people.
    policy : str or None
        Placement policy under flexible dispatch; none for plain expert parallelism.
    padded, masked_reorder : bool
        See `lazsim.costmodel.step.Layout`.
    recovers_from_peers : bool
        Whether survivors go on from the step that failed when they hold every expert; else every failure is a restart.
    """

    name: str
    description: str
    policy: str | None = None
    padded: bool = False
    masked_reorder: bool = False
    recovers_from_peers: bool = True

    @property
    def is_elastic(self) -> bool:
        """Whether it uses any number of nodes, rebalances, and lets nodes join without a restart."""
        return self.policy is not None

    def usable_nodes(self, costs: CostModel, num_nodes: int) -> int:
        """Return how many of so many nodes it can use; 0 when the experts do not fit."""
        model, cluster = costs.model, costs.cluster
        if self.is_elastic:
            return num_nodes if num_nodes * cluster.slots_per_node >= model.num_experts else 0
        unit = ep_unit_nodes(model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)
        return num_nodes // unit * unit

    def plan(self, costs: CostModel, num_nodes: int, load_LE: Ints) -> PlacementPlan:
        """Plan for so many nodes from the observed loads."""
        model, cluster = costs.model, costs.cluster
        if self.policy is None:
            return place_ep(len(load_LE), model.num_experts, num_nodes, cluster.gpus_per_node, cluster.slots_per_gpu)
        replicas = allocate(load_LE, num_nodes * cluster.slots_per_node, costs.job.fault_threshold)
        return POLICIES[self.policy](
            PlacementRequest(replicas, num_nodes, cluster.slots_per_node, cluster.gpus_per_node, load_LE)
        )

    def layout(self, costs: CostModel, server_N: npt.NDArray[np.int64]) -> Layout:
        """Return how nodes on these servers are joined."""
        group_N = None
        if not self.is_elastic:
            model, cluster = costs.model, costs.cluster
            unit = ep_unit_nodes(model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)
            group_N = np.arange(len(server_N)) // unit
        return Layout(server_N, group_N, self.padded, self.masked_reorder)


_DS = System(
    "ds",
    "DeepSpeed-MoE: expert parallelism, padded; every failure is a restart from the checkpoint",
    padded=True,
    masked_reorder=True,
    recovers_from_peers=False,
)
_TUTEL = System("tutel", "Tutel: as ds, with unpadded and faster dispatch and combine", recovers_from_peers=False)

SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(
            "lazarus", "Lazarus: adaptive replicas, MRO placement, flexible dispatch, reconfiguration", policy="mro"
        ),
        _DS,
        replace(
            _DS,
            name="ds-ft",
            description="as ds, but survivors that hold every expert regroup and go on",
            recovers_from_peers=True,
        ),
        _TUTEL,
        replace(
            _TUTEL,
            name="tutel-ft",
            description="as tutel, but survivors that hold every expert regroup and go on",
            recovers_from_peers=True,
        ),
    )
}
"""Every system by name."""

DEFAULT_SYSTEMS = ("lazarus", "ds-ft", "ds")
"""The systems of the published comparison."""
