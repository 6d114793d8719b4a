"""How fast a running job is, as loads drift."""

import math

import numpy as np

from lazsim.costmodel.step import StepCost
from lazsim.routing import Routing

LOAD_SAMPLE_STEPS = 50
"""Steps for which one sample of the loads, from their middle, stands; a divisor of the usual intervals."""


class Pace:
    """The step time of a plan in force, worked out for all stretches up to the next rebalance at once."""

    def __init__(self, cost: StepCost, routing: Routing, rebalance_interval_steps: int) -> None:
        self._cost = cost
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
