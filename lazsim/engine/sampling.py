"""Windows of a long run that stand for those around them, and the error that this makes.

A plan matters only through the seconds of its steps, those that it takes to come into force, and the states that it
leaves where nodes fail. These change slowly with the loads. In each block of windows, a run that samples goes back and
forth between the two in its middle, whose plans and loads take the places of all others. Nothing else is left out.
"""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, TimedSteps
from lazsim.engine.systems import System

PLANNINGS = ("auto", "exact", "sampled")
"""Sample where all windows take much longer than `EXACT_S`; make every plan; or sample wherever windows suffice."""

EXACT_S = 2.0
"""Estimated seconds of computing that a run which samples spends on windows. A block has `FEWEST_WINDOWS` or more, so
that runs whose windows all take up to twice as long make every plan; up to four times where plans do not change."""

PLAN_S, EXPERT_S, CELL_S, SLOT_S, SHARED_GPU_S = 1.6e-3, 2e-5, 1e-8, 6e-8, 2e-5
"""Seconds of computing for a plan and its change from the last one: constant, for each expert of a layer, for each cell
(a layer, expert and node), for each slot of all layers, and for each layer and node, by the replicas of an expert on a
GPU on average, as replicas that share a GPU change places one by one. *Assumption*: rounded from 25 cases, gpt-s on 10
nodes to deepseek-v3 on 128, on a shared core; of nine cases of other models, eight are within a factor of two. A run
decides by them and by counts, never by a clock, so that it is the same on any machine."""

SAMPLE_S, SAMPLE_CHUNK_S, SAMPLE_CELL_S = 1.2e-4, 4e-5, 4e-9
"""The same for the steps of one sample of the loads: constant, for each number of chunks tried, and for each cell."""

FEWEST_BLOCKS = 16
"""Blocks of a run: the error follows from the differences between them."""

FEWEST_WINDOWS = 4
"""Windows of a block: of fewer, hardly one is left out."""

ROUNDING = 1e-9
"""Share of the time below which what blocks have in common is rounding."""

NUM_ERRORS = 1.96
"""Standard errors of a 95 % interval."""


def window_s(system: System, costs: CostModel, num_nodes: int) -> float:
    """Estimate the seconds in which a window of a run is computed: its plan, and its steps."""
    model, cluster = costs.model, costs.cluster
    layer_nodes = model.num_moe_layers * num_nodes
    sample_s = SAMPLE_S + SAMPLE_CHUNK_S * system.most_chunks + SAMPLE_CELL_S * layer_nodes * model.num_experts
    if not system.is_elastic:
        # Plans of plain expert parallelism do not change.
        return sample_s
    plan_s = (
        PLAN_S + model.num_experts * (EXPERT_S + CELL_S * layer_nodes) + SLOT_S * layer_nodes * cluster.slots_per_node
    )
    if cluster.gpus_per_node > 1:
        plan_s += SHARED_GPU_S * layer_nodes * cluster.slots_per_gpu / model.num_experts
    return plan_s + sample_s * costs.job.rebalance_interval_steps / LOAD_SAMPLE_STEPS


class Sampler:
    """Says which windows stand for others, and estimates the error, by counts of work and never by a clock.

    Parameters
    ----------
    planning
        One of `PLANNINGS`.
    window_steps
        Steps of a window: those between two plans.
    plans_change
        Whether each window has its own plan; else one window stands for a block.
    num_changes
        Times at which nodes go or come: each takes a plan in any case.
    wall_s, now_s
        Simulated time of the run, and what returns the part that has passed.
    last_step
        Step whose loads all later ones have, where loads are recorded.

    Examples
    --------
    Of blocks of six windows of ten steps, the third and the fourth stand for all.

    >>> sampler = Sampler("sampled", 10, plans_change=True, num_changes=0, wall_s=1000.0, now_s=lambda: 0.0)
    >>> sampler.block_windows = 6
    >>> [sampler.stand_in(step) for step in (0, 10, 25, 35, 59, 60)]
    [20, 30, 25, 35, 39, 80]
    """

    def __init__(
        self,
        planning: str,
        window_steps: int,
        *,
        plans_change: bool,
        num_changes: int,
        wall_s: float,
        now_s: Callable[[], float],
        last_step: int | None = None,
    ) -> None:
        self._last_step = last_step
        self._planning, self._plans_change, self._num_changes = planning, plans_change, num_changes
        self._window_steps, self._wall_s, self._now_s = window_steps, wall_s, now_s
        self.block_windows = 1
        """Windows of a block; one where every window stands for itself."""
        self._spent: defaultdict[tuple[int, int], dict[int, list[float]]] = defaultdict(dict)
        self._variance_s2 = 0.0

    @property
    def is_on(self) -> bool:
        """Whether windows stand for others."""
        return self.block_windows > 1

    def consider(self, step: int, step_s: float, window_s: float) -> None:
        """Sample from now on if all windows of the run, each of which takes `window_s` to compute, take too long.

        The windows that are left take `EXACT_S`, or as long as the plans of changes, which a run makes in any case.
        """
        if self.is_on or self._planning == "exact" or not self._window_steps:
            return
        num_windows = step / self._window_steps + (self._wall_s - self._now_s()) / (step_s * self._window_steps)
        affordable = max(EXACT_S / window_s, self._num_changes) if self._planning == "auto" else 2 * FEWEST_BLOCKS
        most = num_windows / FEWEST_BLOCKS
        block_windows = math.floor(min((1 + self._plans_change) * num_windows / affordable, most))
        if block_windows >= FEWEST_WINDOWS:
            self.block_windows = block_windows

    def stand_in(self, step: int, at: int | None = None) -> int:
        """Return the step that stands for one: of the block in which it is, or in which another step is."""
        in_block = step if at is None else at
        if self._stands_alone(in_block):
            return step
        window, place = divmod(step, self._window_steps)
        first = self._block(in_block) * self.block_windows
        middle = first + (self.block_windows - 1) // 2
        if not self._plans_change:
            return middle * self._window_steps
        return (middle + window % 2) * self._window_steps + place

    def time(self, timer: StepTimer, step: int) -> TimedSteps:
        """Time steps; where windows stand for others, all up to the end of one take their mean."""
        if self._stands_alone(step):
            return timer(step)
        at = self.stand_in(step)
        if not self._plans_change:
            left = self.block_windows * self._window_steps
            return timer(at)._replace(num_steps=left - step % left)
        end, parts = at - at % self._window_steps + self._window_steps, []
        while at < end:
            part = timer(at)
            parts.append(part._replace(num_steps=min(part.num_steps, end - at)))
            at += parts[-1].num_steps
        num_steps = sum(part.num_steps for part in parts)
        total_s = math.fsum(part.num_steps * part.step_s for part in parts)
        return TimedSteps(total_s / num_steps, num_steps, parts[0].extrapolated_share)

    def spend(self, step: int, nodes: tuple[int, int], num_steps: int, seconds: float) -> None:
        """Note steps made from one on, and the seconds of these or of a rebalance, on such numbers of nodes."""
        if self.is_on:
            spent = self._spent[nodes].setdefault(self._block(step), [0.0, 0.0])
            spent[0] += num_steps
            spent[1] += seconds

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

    def doubted(self, seconds: float, recovery_prob: float) -> None:
        """Note that a run that makes every plan may have lost, or saved, the time of a restart.

        Both have the same probability ``p`` to need none: the difference has the variance ``2 p (1 - p) seconds**2``.
        """
        self._variance_s2 += 2 * recovery_prob * (1 - recovery_prob) * seconds**2

    def variance_s2(self) -> float:
        """Return the variance of the time that was estimated; 0 where no window stood for others."""
        return self._windows_s2() + self._variance_s2 if self._spent else 0.0

    def error(self, kept_s: float) -> float:
        """Return half of the 95 % interval of the samples kept, as a share of them, from the seconds of their steps."""
        return NUM_ERRORS * math.sqrt(self.variance_s2()) / kept_s if kept_s else 0.0

    def _windows_s2(self) -> float:
        """Return the variance of the time of all blocks.

        Notes
        -----
        The time of a block, relative to the mean over blocks on the same nodes, is that of its middle. How far it is
        off follows from mean squares ``d1`` and ``d2`` of the differences between neighbours and between next but one:
        the part ``d1 - d2 / 2`` has no memory, and the rest drifts, of which the middle misses a twelfth (a linear
        variogram with a nugget: Matheron, Economic Geology 58 (1963) 1246).

        A block is part of the mean that it is held against. Of blocks that have shares ``w`` of the steps on the same
        nodes, squares are too small by the factor ``1 - sum(w**2)``. Where all blocks are on other nodes, squares say
        nothing, and the whole time counts as unknown.
        """
        made: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        free_s = 0.0
        for blocks in self._spent.values():
            steps, seconds = map(math.fsum, zip(*blocks.values(), strict=True))
            if steps:
                free_s += seconds * (1 - math.fsum((block_steps / steps) ** 2 for block_steps, _ in blocks.values()))
            for block, (block_steps, block_s) in blocks.items():
                made[block][0] += block_s
                made[block][1] += block_steps * (seconds / steps if steps else 0.0)
        number_B = np.array(sorted(block for block, (_, expected_s) in made.items() if expected_s))
        spent_B, expected_B = np.array([made[block] for block in number_B.tolist()]).reshape(-1, 2).T
        ratio_B = spent_B / expected_B
        squares = []
        for apart in (1, 2):
            are_apart = number_B[apart:] - number_B[:-apart] == apart
            squares.append(((ratio_B[apart:] - ratio_B[:-apart]) ** 2)[are_apart])
        total_s = float(spent_B.sum())
        if not len(squares[1]) or free_s < ROUNDING * total_s:
            return float((spent_B**2).sum())
        near, far = (float(one.mean()) * total_s / free_s for one in squares)
        return float((spent_B**2).sum()) * (max(0.0, near - far / 2) + max(0.0, far - near) / 12)

    def _stands_alone(self, step: int) -> bool:
        """Tell whether a window stands for itself: also where the record of the loads ends in its block."""
        if not self.is_on:
            return True
        return self._last_step is not None and self._block(step) == self._block(self._last_step)

    def _block(self, step: int) -> int:
        return step // self._window_steps // self.block_windows
