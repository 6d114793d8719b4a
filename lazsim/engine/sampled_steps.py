"""Timers of steps: exact ones, and ones that look at some plans only."""

from dataclasses import dataclass
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
    """Makes the timers of a run.

    `points` has the plan that stands for others at present, by number of nodes, where one does. `series` has the
    seconds that were asked for last.
    """

    def __init__(self, sampler: Sampler, make_timer: MakeStepTimer, *, keeps_plans: bool) -> None:
        self.sampler, self.make_timer, self._keeps_plans = sampler, make_timer, keeps_plans
        self.points: dict[int, SampledPlan] = {}
        self.series: Series | None = None

    def make(self, planned: Planned, server_N: Ints) -> StepTimer:
        """Make the timer of a plan on nodes of these servers."""
        if self.sampler.is_on:
            return SampledStepTimer(self, planned, server_N)
        return self.make_timer(planned.plan, server_N)

    def count(self, num_steps: int) -> None:
        """Count steps made that take the seconds asked for last."""
        if self.series is not None:
            self.series.use(num_steps)

    def point(self, planned: Planned, timer: StepTimer, step: int) -> SampledPlan:
        """Return what a plan tells others for which it stands."""
        plan = planned.plan
        return SampledPlan(plan.fewest_nodes, timer(step).extrapolated_share, plan if self._keeps_plans else None)


@dataclass
class SampledStepTimer:
    """Times the steps of a plan by a point of a sampler, and by the plan itself where no other stands for it."""

    timers: StepTimers
    planned: Planned
    server_N: Ints
    _own: StepTimer | None = None

    def __call__(self, step: int) -> TimedSteps:
        """See `StepTimer`: all steps for which a point stands take the same."""
        series = self._find(step)
        if not series.is_sampled:
            return self._exact()(step)._replace(num_steps=LOAD_SAMPLE_STEPS - step % LOAD_SAMPLE_STEPS)
        assert series.seconds is not None, "the value was found"
        num_steps = (series.start + series.length) * self.timers.sampler.window_steps - step
        return TimedSteps(series.seconds, num_steps, series.found.extrapolated_share)

    def _exact(self) -> StepTimer:
        if self._own is None:
            self._own = self.timers.make_timer(self.planned.plan, self.server_N)
        return self._own

    def _find(self, step: int) -> Series:
        """Find the value for a step, and set the plan that stands for others of as many nodes."""
        timers, sampler, num_nodes = self.timers, self.timers.sampler, self.planned.num_nodes
        series = sampler.at(("step", num_nodes, self.planned.domain_sizes, self.server_N.tobytes()), step)
        timers.series = series
        if series.is_sampled:
            if series.seconds is None:
                first = series.window * sampler.window_steps
                planned = self.planned.at(first)
                timer = timers.make_timer(planned.plan, self.server_N)
                series.record(self._mean_s(timer, first), timers.point(planned, timer, first))
            timers.points[num_nodes] = series.found
        else:
            if series.seconds is None:
                series.record(self._mean_s(self._exact(), step))
            timers.points.pop(num_nodes, None)
        return series

    def _mean_s(self, timer: StepTimer, first: int) -> float:
        """Return the mean over the steps from one on to the end of its window."""
        window_steps = self.timers.sampler.window_steps
        last = first // window_steps * window_steps + window_steps - 1
        steps = sorted(set(np.linspace(first, last, MOST_AVERAGED).round().astype(np.int64).tolist()))
        return float(np.mean([timer(step).step_s for step in steps]))
