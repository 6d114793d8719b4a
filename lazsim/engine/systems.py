"""The systems compared: how each places experts and recovers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.step import CostModel, NodeLayout
from lazsim.errors import InfeasiblePlanError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_unit_nodes, place_ep
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import NamedPolicy, find_policy, place
from lazsim.placement.request import PlacementRequest, require_plan_size


@dataclass(frozen=True)
class System:
    """A system, by what tells it from the others.

    Attributes
    ----------
    policy : NamedPolicy or None
        Placement policy under flexible dispatch; none for plain expert parallelism.
    placement : str
        Name of a policy that was chosen; empty where it is the one that the system publishes.
    seed : int
        Seed of a policy that draws.
    padded, masked_reorder : bool
        See `lazsim.costmodel.step.NodeLayout`.
    recovers_from_peers : bool
        Whether survivors go on from the step that failed when they hold every expert; else every failure is a restart.
    """

    name: str
    description: str
    policy: NamedPolicy | None = None
    placement: str = ""
    seed: int = 0
    padded: bool = False
    masked_reorder: bool = False
    recovers_from_peers: bool = True

    @property
    def is_elastic(self) -> bool:
        """Whether it uses any number of nodes, rebalances, and lets nodes join without a restart."""
        return self.policy is not None

    @property
    def run_name(self) -> str:
        """Its name, with the policy where that was chosen: tells runs of one system apart."""
        return f"{self.name}:{self.placement}" if self.placement else self.name

    def usable_nodes(self, costs: CostModel, num_nodes: int) -> int:
        """Return the largest usable node count up to `num_nodes`; 0 when the experts do not fit.

        Notes
        -----
        A policy that was chosen may not apply to every number of nodes. It says so when it is asked to plan for even
        loads, and the most nodes to which it applies are used.

        Raises
        ------
        SpecError
            When a plan for all the nodes would fill the memory.
        """
        model, cluster = costs.model, costs.cluster
        require_plan_size(model.num_moe_layers, model.num_experts, num_nodes, cluster.slots_per_node)
        fewest = self.fewest_nodes(costs)
        if self.is_elastic:
            counts = range(num_nodes, fewest - 1, -1)
            return next((count for count in counts if not self.placement or self._applies(costs, count)), 0)
        return num_nodes // fewest * fewest

    def fewest_nodes(self, costs: CostModel) -> int:
        """Return the fewest nodes whose slots hold every expert."""
        model, cluster = costs.model, costs.cluster
        if self.is_elastic:
            return -(-model.num_experts // cluster.slots_per_node)
        return ep_unit_nodes(model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)

    def plan(self, costs: CostModel, num_nodes: int, load_LE: Ints) -> PlacementPlan:
        """Plan for `num_nodes` nodes from the observed loads."""
        model, cluster = costs.model, costs.cluster
        if self.policy is None:
            return place_ep(len(load_LE), model.num_experts, num_nodes, cluster.gpus_per_node, cluster.slots_per_gpu)
        replicas = allocate(load_LE, num_nodes * cluster.slots_per_node, costs.job.fault_threshold)
        request = PlacementRequest(
            replicas, num_nodes, cluster.slots_per_node, cluster.gpus_per_node, load_LE, self.seed
        )
        if not self.policy.is_custom:
            plan: PlacementPlan = self.policy.function(request)
            return plan
        return _with_slots(place(self.policy, request), cluster.slots_per_node)

    def plan_evenly(self, costs: CostModel, num_nodes: int) -> PlacementPlan:
        """Plan for `num_nodes` nodes from even loads; an `InfeasiblePlanError` says that the policy does not apply."""
        shape = (costs.model.num_moe_layers, costs.model.num_experts)
        return self.plan(costs, num_nodes, np.ones(shape, dtype=np.int64))

    def _applies(self, costs: CostModel, num_nodes: int) -> bool:
        try:
            self.plan_evenly(costs, num_nodes)
        except InfeasiblePlanError:
            return False
        return True

    def layout(self, costs: CostModel, server_N: npt.NDArray[np.int64]) -> NodeLayout:
        """Return how nodes on these servers are joined."""
        group_N = None
        if not self.is_elastic:
            group_N = np.arange(len(server_N)) // self.fewest_nodes(costs)
        return NodeLayout(server_N, group_N, self.padded, self.masked_reorder)


def _with_slots(plan: PlacementPlan, num_slots: int) -> PlacementPlan:
    """Add the empty slots that a user's plan left out: slots share GPUs by their number."""
    num_more = num_slots - plan.slots_LNS.shape[2]
    slots_LNS = np.pad(plan.slots_LNS, ((0, 0), (0, 0), (0, num_more)), constant_values=-1)
    return PlacementPlan(slots_LNS, plan.num_experts)


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
            "lazarus",
            "Lazarus: adaptive replicas, MRO placement, flexible dispatch, reconfiguration",
            policy=find_policy("mro"),
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
