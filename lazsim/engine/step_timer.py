"""How fast a running job is, as loads drift."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from lazsim.costmodel.step import CostModel, StepCost
from lazsim.engine.systems import System
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.routing import Routing

LOAD_SAMPLE_STEPS = 50
"""Steps for which one sample of the loads, from their middle, stands; a divisor of the usual intervals."""


class Pace(Protocol):
    """What the steps of a plan in force take and bring."""

    @property
    def samples_per_step(self) -> int:
        """Sequences that a step trains."""
        ...

    def step_s(self, step: int) -> float:
        """Return the seconds of the step after so many."""
        ...

    def extrapolated_share(self, step: int) -> float:
        """Return the part of that time that rests on no measurement, where times are measured; else 0."""
        ...


PaceOf = Callable[[PlacementPlan, Ints], Pace]
"""From a plan and the server of each of its nodes to the pace of a job on them."""


def modelled_pace(system: System, costs: CostModel, routing: Routing) -> PaceOf:
    """Return how a job gets its pace from the cost model and the loads."""

    def pace(plan: PlacementPlan, server_N: Ints) -> Pace:
        layout = system.layout(costs, server_N)
        steps = [StepCost(each, plan, layout) for each in (costs, costs.measured_part) if each is not None]
        return ModelledPace(routing, costs.job.rebalance_interval_steps, *steps)

    return pace


class ModelledPace:
    """A pace that follows the loads, worked out for all stretches up to the next rebalance at once.

    Parameters
    ----------
    routing, rebalance_interval_steps
        The loads, and how far ahead to work it out.
    cost
        What a step takes.
    measured
        What of a step is measured, where that is told apart.
    """

    def __init__(
        self, routing: Routing, rebalance_interval_steps: int, cost: StepCost, measured: StepCost | None = None
    ) -> None:
        self.samples_per_step = cost.samples_per_step
        self._cost = cost
        self._measured = measured
        self._routing = routing
        self._interval = rebalance_interval_steps
        self._step_s: dict[int, float] = {}

    def step_s(self, step: int) -> float:
        """Return the seconds of the step after so many."""
        stretch = step // LOAD_SAMPLE_STEPS
        if stretch not in self._step_s:
            ahead = math.ceil((self._interval - step % self._interval) / LOAD_SAMPLE_STEPS)
            stretches = np.arange(stretch, stretch + ahead)
            loads = self._routing.loads(stretches * LOAD_SAMPLE_STEPS + LOAD_SAMPLE_STEPS // 2)
            self._step_s = dict(zip(stretches.tolist(), self._cost.step_s(loads).tolist(), strict=True))
        return self._step_s[stretch]

    def extrapolated_share(self, step: int) -> float:
        """Return the part of that time that rests on no measurement, where times are measured; else 0."""
        if self._measured is None:
            return 0.0
        middle = step // LOAD_SAMPLE_STEPS * LOAD_SAMPLE_STEPS + LOAD_SAMPLE_STEPS // 2
        measured_s = float(self._measured.step_s(self._routing.loads(np.array([middle])))[0])
        return max(0.0, 1 - measured_s / self.step_s(step))
