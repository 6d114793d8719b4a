"""Seconds found at some steps that stand for all steps around them, and the error that this makes.

A plan matters only through the seconds of its steps, those that it takes to come into force, and the states that it
leaves where nodes fail. These change slowly with the loads. A run that samples finds them at some windows only.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from lazsim.costmodel.step import CostModel
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS
from lazsim.engine.systems import System

PLANNINGS = ("auto", "exact", "sampled")
"""Make every plan; sample; or sample where all plans would take longer than `EXACT_S`."""

EXACT_S = 1.0
"""Estimated seconds of computing up to which a run makes every plan, unless it is told what to do."""

EXACT_BY_NODES_S = 15.0
"""The same where loads are even, so that plans change with the nodes alone. Layers of a pipeline stage are alike then,
and changes that come again are found once: three runs, on 64, 128 and 2,000 nodes, took a seventieth, a 27th and a
seventh of the estimate."""

PLAN_S, EXPERT_S, CELL_S, SLOT_S, SHARED_GPU_S = 1.6e-3, 2e-5, 1e-8, 6e-8, 2e-5
"""Seconds of computing for a plan and its change from the last one: constant, for each expert of a layer, for each cell
(a layer, expert and node), for each slot of all layers, and for each layer and node, by the replicas of an expert on a
GPU on average, as replicas that share a GPU change places one by one. *Assumption*: rounded from 25 cases, gpt-s on 10
nodes to deepseek-v3 on 128, on a shared core; of nine cases of other models, eight are within a factor of two. A run
decides by them and by counts, never by a clock, so that it is the same on any machine."""

SAMPLE_S, SAMPLE_CHUNK_S, SAMPLE_CELL_S = 1.2e-4, 4e-5, 4e-9
"""The same for the steps of one sample of the loads: constant, for each number of chunks tried, and for each cell."""

TARGET_ERROR = 1.5e-3
"""Standard error of the time of a run that sampling aims at, as a share of that time."""

MOST_GROWTH = 32
"""How many times as far as the point before it a point may stand."""

NUM_GAPS = 3
"""Last differences between values that tell how far apart the next ones may be."""

FEWEST_POINTS = 5
"""Points of a value that takes all the time of a run."""

LEAST_SHARE = 1e-5
"""Least part of the variance aimed at that a value may have: also one that was 0 so far has a part."""

NUM_ERRORS = 1.96
"""Standard errors of a 95 % interval."""


FoundT = TypeVar("FoundT")
Compute = Callable[[int], tuple[float, FoundT]]
"""From a step to the seconds of what depends on its plan, and to that itself."""


def window_s(system: System, costs: CostModel, num_nodes: int) -> float:
    """Estimate the seconds in which a window of a run is computed where every plan is made."""
    cells = costs.model.num_moe_layers * num_nodes * costs.model.num_experts
    sample_s = SAMPLE_S + SAMPLE_CHUNK_S * system.most_chunks + SAMPLE_CELL_S * cells
    if not system.is_elastic:
        # Plans of plain expert parallelism do not change.
        return sample_s
    return _plan_s(costs, num_nodes) + sample_s * costs.job.rebalance_interval_steps / LOAD_SAMPLE_STEPS


def _plan_s(costs: CostModel, num_nodes: int) -> float:
    """Estimate the seconds in which a plan and its change from the last one are computed."""
    model, cluster = costs.model, costs.cluster
    layer_nodes = model.num_moe_layers * num_nodes
    plan_s = (
        PLAN_S + model.num_experts * (EXPERT_S + CELL_S * layer_nodes) + SLOT_S * layer_nodes * cluster.slots_per_node
    )
    if cluster.gpus_per_node > 1:
        plan_s += SHARED_GPU_S * layer_nodes * cluster.slots_per_gpu / model.num_experts
    return plan_s


def planning_by_nodes(costs: CostModel, num_nodes: int, num_changes: int) -> str:
    """Return how a run plans where loads are even: each change of the nodes makes one plan."""
    return "exact" if num_changes * _plan_s(costs, num_nodes) <= EXACT_BY_NODES_S else "sampled"


def nearly(num_nodes: int) -> int:
    """Return the same for numbers of nodes that are nearly the same: within a tenth of each other."""
    return round(math.log(num_nodes, 1.1))


class Series:
    """A value at some windows, each of which stands for a stretch of windows around it."""

    def __init__(self) -> None:
        self.start, self.length = -1, 0
        """The present stretch, in windows. A stretch of one window is not sampled: its own plan is made."""
        self.window = -1
        """The window of the stretch at which the value is found."""
        self.seconds: float | None = None
        """The value for the present stretch; None where it is yet to be found."""
        self.found: Any = None
        """What else is known there."""
        self.total_uses = self._past_s = 0.0
        self._last_s: float | None = None
        self._uses = self._last_uses = self._variance_s2 = 0.0
        self._gaps_s: deque[float] = deque(maxlen=NUM_GAPS)

    @property
    def is_sampled(self) -> bool:
        """Whether the value stands for other windows than its own."""
        return self.length > 1

    def record(self, seconds: float, found: Any = None) -> None:
        """Set the value for the present stretch. Its difference to the last one tells how far off that was."""
        if self._last_s is not None:
            self._gaps_s.append(seconds - self._last_s)
            self._variance_s2 += (self._last_uses * self._gaps_s[-1]) ** 2 / 2
        self.seconds, self.found = seconds, found

    def gap_s2(self) -> float:
        """Return the mean square of the last differences between values; of one value alone, its square."""
        if not self._gaps_s:
            return (self.seconds or self._last_s or 0.0) ** 2
        return math.fsum(gap_s**2 for gap_s in self._gaps_s) / len(self._gaps_s)

    def spent_s(self) -> float:
        """Return all seconds that the values were used for."""
        return self._past_s + self._uses * (self.seconds or 0.0)

    def use(self, uses: float) -> None:
        """Count uses of the value."""
        self._uses += uses
        self.total_uses += uses

    def go_on(self, start: int, length: int, window: int) -> None:
        """Begin a stretch with its value at a window."""
        if self.seconds is not None:
            self._past_s = self.spent_s()
            self._last_s, self._last_uses = self.seconds, self._uses * self.is_sampled
        self.start, self.length, self.window, self.seconds, self._uses = start, length, window, None, 0.0

    def variance_s2(self) -> float:
        """Return the variance of all seconds that the values were used for.

        Notes
        -----
        Half the squared difference of successive values estimates the variance of one of them (successive differences:
        von Neumann 1941). It is exact where values are independent, and too large by a factor of six where they are a
        random walk, whose middle stands for the ends of a stretch.
        """
        open_s2 = (self._uses**2 * self.gap_s2() / 2) if self.is_sampled else 0.0
        return self._variance_s2 + open_s2


class Sampler:
    """Decides where the values of a run are found, by the error and by counts of work, never by a clock.

    Parameters
    ----------
    planning
        One of `PLANNINGS`.
    window_steps
        Steps of a window: those between two plans.
    wall_s, now_s
        Simulated time of the run, and what returns how much of it has passed.
    """

    def __init__(self, planning: str, window_steps: int, wall_s: float, now_s: Callable[[], float]) -> None:
        self.is_on = planning == "sampled"
        self.window_steps = window_steps
        self._is_open = planning == "auto"
        self._wall_s, self._now_s = wall_s, now_s
        self._series: dict[Hashable, Series] = {}
        self._variance_s2 = 0.0
        self._last_window = -1
        self.has_sampled = False

    def consider(self, step: int, step_s: float, window_s: float) -> None:
        """Sample from now on if all windows of the run, each of which takes `window_s` to compute, take too long."""
        left = (self._wall_s - self._now_s()) / (step_s * self.window_steps)
        if self._is_open and (step / self.window_steps + left) * window_s > EXACT_S:
            self.is_on = True

    def at(self, key: Hashable, step: int) -> Series:
        """Return a series at a step. Its value is missing where a stretch begins."""
        if key not in self._series:
            self._series[key] = Series()
        series = self._series[key]
        window = step // self.window_steps
        # After a rollback, a stretch also stands for windows before it.
        if window >= series.start + series.length or not (series.is_sampled or window == series.start):
            length = self._length(series, window)
            # Where another value was found last, loads and plans are known.
            if not window <= self._last_window < window + length:
                self._last_window = window + length // 2
            series.go_on(window, length, self._last_window)
            self.has_sampled |= series.is_sampled
        return series

    def find(self, key: Hashable, step: int, compute: Compute[FoundT]) -> tuple[FoundT, bool]:
        """Return what stands for a single use at a step, and whether it does so for other windows, too."""
        series = self.at(key, step)
        series.use(1)
        if series.is_sampled and series.seconds is not None:
            return cast(FoundT, series.found), True
        later_steps = (series.window - step // self.window_steps) * self.window_steps
        seconds, found = compute(step + later_steps)
        if series.seconds is None:
            series.record(seconds, found)
        return found, series.is_sampled

    def _length(self, series: Series, window: int) -> int:
        """Return for how many windows the next value stands.

        Notes
        -----
        Of ``left`` windows, each of which uses the value ``u`` times, stretches of ``n`` windows have the variance
        ``left n u**2 gap**2 / 2``. A value may have a part of the variance aimed at, its part of the time so far.
        """
        now_s = self._now_s()
        if series.seconds is None or now_s <= 0:
            return 1
        num_windows = window + 1
        left = num_windows * (self._wall_s / now_s - 1)
        share = min(max(series.spent_s() / now_s, LEAST_SHARE), 1.0)
        uses = series.total_uses / num_windows
        allowed_s2 = (TARGET_ERROR * self._wall_s) ** 2 * share
        wanted = allowed_s2 / max(left * uses**2 * series.gap_s2() / 2, 1e-300)
        most = min(left + 1, (num_windows + left) / (FEWEST_POINTS * share))
        return max(1, math.floor(min(wanted, most, MOST_GROWTH * series.length)))

    def interrupted(self, step_s: float, lost_interval_steps: int = 0) -> None:
        """Note that training stops: the step under way is another one where time was estimated.

        After a rollback over an interval of checkpoints, it is also unknown where in the interval the job was.
        """
        if not self.is_on:
            return
        doubt_s2 = step_s**2 / 6
        if lost_interval_steps:
            doubt_s2 += min(self.variance_s2(), (lost_interval_steps * step_s) ** 2 / 6)
        self._variance_s2 += doubt_s2

    def doubted(self, seconds: float) -> None:
        """Note that a run that makes every plan may have lost, or saved, the time of a restart.

        Both have the same probability ``p`` of a restart: the difference has the variance ``2 p (1 - p) seconds**2``,
        at most half of the square.
        """
        self._variance_s2 += seconds**2 / 2

    def variance_s2(self) -> float:
        """Return the variance of the time that was estimated; 0 where no value stood for others."""
        sampled_s2 = math.fsum(series.variance_s2() for series in self._series.values())
        return sampled_s2 + self._variance_s2 if sampled_s2 else 0.0

    def error(self, training_s: float) -> float:
        """Return half of the 95 % interval of the samples trained, as a share of them."""
        return NUM_ERRORS * math.sqrt(self.variance_s2()) / training_s if training_s else 0.0
