"""Plans of a system from observed loads, several rebalances at a time, for all of its runs."""

import functools
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine.held import Planned
from lazsim.engine.step_timer import MakeStepTimer, step_timers_from
from lazsim.engine.systems import System
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import DOMAINS
from lazsim.routing import Routing

FoundT = TypeVar("FoundT")

NUM_AHEAD = 4
"""Plans made at once: a policy that plans each layer alone needs little more time for many layers than for a few."""

MOST_SLOTS_TOGETHER = 20_000
"""Slots of all layers of a plan above which each plan costs its own time, and none is made ahead."""

SLOTS_KEPT = 10_000_000
"""Slots of all plans kept beside those made last, which are some 100 MB: other runs of the system make many again."""

NODES_KEPT = 1_000_000
"""Nodes of all changes of plans and restarts that are kept, 20 bytes each: runs at other intervals make the same."""


def plans_together(system: System, costs: CostModel, num_nodes: int) -> bool:
    """Tell whether several plans take little more time than one: the policy plans each layer alone, and few slots."""
    num_slots = costs.model.num_moe_layers * num_nodes * costs.cluster.slots_per_node
    return system.policy is not None and system.policy.plans_layers_alone and num_slots <= MOST_SLOTS_TOGETHER


def uses_domains(system: System, costs: CostModel) -> bool:
    """Tell whether plans of a system depend on the failure domains of nodes."""
    return system.policy is not None and system.policy.name == DOMAINS and costs.cluster.nodes_per_domain > 0


def plan_each(
    system: System, costs: CostModel, num_nodes: int, load_BLE: Ints, domain_N: Ints | None = None
) -> Iterable[PlacementPlan]:
    """Plan for each sample of the loads; where each plan costs its own time, as it is asked for."""
    if not plans_together(system, costs, num_nodes):
        return (system.plan(costs, num_nodes, load_LE, domain_N) for load_LE in load_BLE)
    plan = system.plan(costs, num_nodes, load_BLE.reshape(-1, load_BLE.shape[2]))
    parts = plan.slots_LNS.reshape(len(load_BLE), -1, *plan.slots_LNS.shape[1:])
    return [PlacementPlan(slots_LNS, plan.num_experts) for slots_LNS in parts]


Domains = tuple[int, ...] | None
"""Failure domain of each node of a plan, where plans depend on it."""


class Planner:
    """Plans of a system by number of nodes, their domains and step: a pure function, of which some values are kept.

    `make_timer` times their steps, as the cost model says when it is not given.
    """

    def __init__(
        self, system: System, costs: CostModel, routing: Routing, make_timer: MakeStepTimer | None = None
    ) -> None:
        self._system, self.costs, self.routing = system, costs, routing
        self.make_timer = make_timer or step_timers_from(system, costs, routing)
        self.usable_nodes = functools.cache(functools.partial(system.usable_nodes, costs))
        self.timed = functools.cache(functools.partial(system.timed, costs))
        self._kept: dict[tuple[int, int, Domains], PlacementPlan] = {}
        self._found: dict[Hashable, Any] = {}

    def plan(self, num_nodes: int, step: int, domains: Domains = None) -> PlacementPlan:
        """Plan from the loads of the last of `step` steps made; before the first, loads count as even."""
        first = self.first_step(step)
        if (num_nodes, first, domains) not in self._kept:
            steps = [first]
            if plans_together(self._system, self.costs, num_nodes):
                interval = self.costs.job.rebalance_interval_steps
                ahead = range((step // interval + 1) * interval, step + NUM_AHEAD * interval, interval)
                steps = list(dict.fromkeys([first, *map(self.first_step, ahead)]))
            domain_N = None if domains is None else np.array(domains)
            plans = list(plan_each(self._system, self.costs, num_nodes, self._observed(steps), domain_N))
            most_kept = len(steps) + max(2, SLOTS_KEPT // plans[0].slots_LNS.size)
            self._kept |= {(num_nodes, each, domains): plan for each, plan in zip(steps, plans, strict=True)}
            while len(self._kept) > most_kept:
                del self._kept[next(iter(self._kept))]
        return self._kept[num_nodes, first, domains]

    def first_step(self, step: int) -> int:
        """Return the first step that has the plan of a step: loads before it are the same."""
        if self._system.policy is None or self.routing.is_even:
            # These plans do not change.
            return 0
        return self.routing.since(step - 1) + 1 if step else 0

    def key(self, planned: Planned) -> tuple[int, int, Domains]:
        """Return what a plan depends on."""
        return planned.num_nodes, self.first_step(planned.loads_step), planned.domains

    def find(self, what: str, planned: Planned, compute: Callable[[], FoundT], *depends: Hashable) -> FoundT:
        """Return what follows from a plan, and from all else that it depends on; the word says what it is."""
        key = what, *self.key(planned), *depends
        if key not in self._found:
            self._found[key] = compute()
            if len(self._found) > NODES_KEPT // planned.num_nodes:
                del self._found[next(iter(self._found))]
        found: FoundT = self._found[key]
        return found

    def _observed(self, steps: list[int]) -> Ints:
        """Return the loads before each of the steps, shape (B, L, E)."""
        loads = self.routing.loads([max(0, step - 1) for step in steps])
        return loads if steps[0] else np.concatenate([np.ones_like(loads[:1]), loads[1:]])
