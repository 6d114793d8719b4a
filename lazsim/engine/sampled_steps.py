"""Timers of steps: exact ones, and ones that look at some plans only."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lazsim.engine.held import Planned
from lazsim.engine.sampling import Sampler, Series
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, MakeStepTimer, StepTimer, TimedSteps
from lazsim.placement.plan import Ints, PlacementPlan

MOST_AVERAGED = 8
"""Steps over which the mean of a window is taken, at most."""


class SampledPlan(NamedTuple):
    """A plan that stands for others."""

    fewest_nodes: int
    """The fewest nodes that any expert is on."""
    extrapolated_share: float
    """The part of the time of its steps that is extrapolated."""
    plan: PlacementPlan | None
    """The plan itself, where plans are scored."""


class StepTimers:
    """Makes the timers of a run: of the plans themselves, or by points of a sampler.

    `points` has the plan that stands for others at present, by number of nodes, where one does.
    """

    def __init__(self, sampler: Sampler, make_timer: MakeStepTimer, *, keeps_plans: bool) -> None:
        self._sampler, self._make_timer, self._keeps_plans = sampler, make_timer, keeps_plans
        self.points: dict[int, SampledPlan] = {}
        self._series: Series | None = None

    def make(self, planned: Planned, server_N: Ints) -> StepTimer:
        """Make the timer of a plan on nodes of these servers."""
        exact = functools.cache(lambda: self._make_timer(planned.plan, server_N))
        return functools.partial(self._steps, planned, server_N, exact) if self._sampler.is_on else exact()

    def count(self, num_steps: int) -> None:
        """Count steps made that take the seconds asked for last."""
        if self._series is not None:
            self._series.use(num_steps)

    def _steps(self, planned: Planned, server_N: Ints, exact: Callable[[], StepTimer], step: int) -> TimedSteps:
        """Time steps, of which all for which a point stands take the same; set that for others of as many nodes."""
        num_nodes, window_steps = planned.num_nodes, self._sampler.window_steps
        key = "step", num_nodes, planned.domain_sizes, server_N.tobytes()
        series = self._series = self._sampler.at(key, step)
        if not series.is_sampled:
            if series.seconds is None:
                series.record(self._mean_s(exact(), step))
            self.points.pop(num_nodes, None)
            return exact()(step)._replace(num_steps=LOAD_SAMPLE_STEPS - step % LOAD_SAMPLE_STEPS)
        if series.seconds is None:
            first = series.window * window_steps
            plan = planned.at(first).plan
            timer = self._make_timer(plan, server_N)
            share, kept = timer(first).extrapolated_share, plan if self._keeps_plans else None
            series.record(self._mean_s(timer, first), SampledPlan(plan.fewest_nodes, share, kept))
        self.points[num_nodes] = series.found
        assert series.seconds is not None, "the value was found"
        num_steps = (series.start + series.length) * window_steps - step
        return TimedSteps(series.seconds, num_steps, series.found.extrapolated_share)

    def _mean_s(self, timer: StepTimer, first: int) -> float:
        """Return the mean over the steps from one on to the end of its window."""
        window_steps = self._sampler.window_steps
        last = first // window_steps * window_steps + window_steps - 1
        steps = sorted(set(np.linspace(first, last, MOST_AVERAGED).round().astype(np.int64).tolist()))
        return float(np.mean([timer(step).step_s for step in steps]))
