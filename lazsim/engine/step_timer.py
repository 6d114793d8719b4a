"""How long the steps of a running job take, as loads drift."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lazsim.costmodel.costs import CostModel, NodeDispatch, StepTimes
from lazsim.engine.systems import System
from lazsim.errors import SpecError
from lazsim.limits import MAX_STRETCHES, MAX_WHOLE
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.routing import Routing
from lazsim.units import format_duration

LOAD_SAMPLE_STEPS = 50
"""Steps for which one sample of the loads, from their middle, stands; a divisor of the usual intervals."""

NUM_KEPT = 64
"""Most timers kept for plans that come again: all of plain expert parallelism, many in another run of the system."""

CELLS_KEPT = 2**25
"""Most cells of all timers kept. A timer has a cell of a byte for each expert of a layer on each node, 32 MiB, and some
words for each slot."""

MOST_AHEAD = 64
"""Samples of the loads that are taken at once."""

TIMES_KEPT = 1000
"""Times of steps that a timer keeps, of as many samples each as are taken at once."""


class TimedSteps(NamedTuple):
    """Steps that follow each other and take as long as each other."""

    step_s: float
    num_steps: int
    extrapolated_share: float = 0.0
    """Share of that time extrapolated beyond what a profile measured; 0 without a profile."""


StepTimer = Callable[[int], TimedSteps]
"""Times the steps under one plan: from the number of steps made to those that follow them."""

MakeStepTimer = Callable[[PlacementPlan, Ints], StepTimer]
"""From a plan and the server of each of its nodes to the timer of its steps."""


def step_timers_from(system: System, costs: CostModel, routing: Routing) -> MakeStepTimer:
    """Return a maker of timers that follow the cost model and the loads."""

    @functools.lru_cache(NUM_KEPT)
    def dispatch(servers: bytes) -> NodeDispatch:
        return system.dispatch(costs, np.frombuffer(servers, dtype=np.int64))

    kept: dict[tuple[PlacementPlan, bytes], StepTimer] = {}

    def make_timer(plan: PlacementPlan, server_N: Ints) -> StepTimer:
        key = plan, server_N.astype(np.int64).tobytes()
        if key not in kept:
            steps = costs.step_times(plan, dispatch(key[1]))
            kept[key] = modelled_timer(routing, costs.job.rebalance_interval_steps, steps)
            num_cells = plan.num_layers * plan.num_experts * plan.num_nodes
            while len(kept) > max(2, min(NUM_KEPT, CELLS_KEPT // num_cells)):
                del kept[next(iter(kept))]
        return kept[key]

    return make_timer


def modelled_timer(routing: Routing, rebalance_interval_steps: int, cost: StepTimes) -> StepTimer:
    """Return what times steps as loads drift, all stretches up to the next rebalance at once."""
    # Other runs of the system on the same nodes ask for the same.
    find = functools.lru_cache(TIMES_KEPT)(functools.partial(_times, routing, cost))
    times: dict[int, tuple[float, float]] = {}

    def timer(step: int) -> TimedSteps:
        nonlocal times
        stretch = 0 if routing.is_even else step // LOAD_SAMPLE_STEPS
        if stretch not in times:
            ahead = math.ceil((rebalance_interval_steps - step % rebalance_interval_steps) / LOAD_SAMPLE_STEPS)
            times = find(range(stretch, stretch + min(ahead, MOST_AHEAD)))
        step_s, measured_s = times[stretch]
        num_steps = MAX_WHOLE if routing.is_even else LOAD_SAMPLE_STEPS - step % LOAD_SAMPLE_STEPS
        return TimedSteps(step_s, num_steps, max(0.0, 1 - measured_s / step_s))

    return timer


def _times(routing: Routing, cost: StepTimes, stretches: range) -> dict[int, tuple[float, float]]:
    """Return the seconds of a step by stretch of steps: all, and without time beyond the sizes of a profile."""
    loads = routing.loads([one * LOAD_SAMPLE_STEPS + LOAD_SAMPLE_STEPS // 2 for one in stretches])
    seconds = (each.tolist() for each in cost.step_and_measured_s(loads))
    return dict(zip(stretches, zip(*seconds, strict=True), strict=True))


def scaled(timer: StepTimer, factor: float) -> StepTimer:
    """Return a timer of steps that take those of another one times a factor."""

    def longer(step: int) -> TimedSteps:
        steps = timer(step)
        return steps._replace(step_s=factor * steps.step_s)

    return timer if factor == 1 else longer


def require_end(step_s: float, now_s: float, end_s: float, most_steps: int) -> None:
    """Refuse a run that would not end in hours of computing, from the most steps that it makes at one go."""
    if end_s - now_s > MAX_STRETCHES * most_steps * step_s:
        raise SpecError(
            f"`duration` {format_duration(end_s)}: steps take {step_s:.3g} s, and at most {MAX_STRETCHES:,} "
            f"times {most_steps} of them can be simulated; choose a shorter one"
        )
