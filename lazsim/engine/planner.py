"""Plans from observed loads, several rebalances at a time."""

import functools

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import System
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.routing import Routing

NUM_AHEAD = 4
"""Plans made at once: a policy that plans each layer alone needs little more time for many layers than for a few."""

MOST_SLOTS_AHEAD = 20_000
"""Slots of all layers of a plan above which each plan costs its own time, and none is made ahead."""

NUM_KEPT = 2
"""Plans kept beside those made last."""


class Planner:
    """Plans of a system by number of nodes and step: a pure function, of which some values are kept."""

    def __init__(self, system: System, costs: CostModel, routing: Routing) -> None:
        self._system, self._costs, self._routing = system, costs, routing
        self._looks_ahead = system.policy is not None and system.policy.plans_layers_alone
        self.usable_nodes = functools.cache(functools.partial(system.usable_nodes, costs))
        self._kept: dict[tuple[int, int], PlacementPlan] = {}

    def plan(self, num_nodes: int, step: int) -> PlacementPlan:
        """Plan from the loads of the last of `step` steps made; before the first, loads count as even."""
        if (num_nodes, step) not in self._kept:
            num_layers = self._costs.model.num_moe_layers
            steps = [step]
            if self._looks_ahead and num_layers * num_nodes * self._costs.cluster.slots_per_node <= MOST_SLOTS_AHEAD:
                interval = self._costs.job.rebalance_interval_steps
                steps += range((step // interval + 1) * interval, step + NUM_AHEAD * interval, interval)
            plan = self._system.plan(self._costs, num_nodes, self._observed(steps))
            parts = plan.slots_LNS.reshape(-1, num_layers, *plan.slots_LNS.shape[1:])
            made = {
                (num_nodes, each): PlacementPlan(slots, plan.num_experts)
                for each, slots in zip(steps, parts, strict=True)
            }
            self._kept = dict(list(self._kept.items())[-NUM_KEPT:]) | made
        return self._kept[num_nodes, step]

    def _observed(self, steps: list[int]) -> Ints:
        """Return the loads before each of the steps, one after the other along the layers."""
        loads = self._routing.loads([max(0, step - 1) for step in steps])
        if steps[0] == 0:
            loads = np.concatenate([np.ones_like(loads[:1]), loads[1:]])
        return loads.reshape(-1, loads.shape[2])
