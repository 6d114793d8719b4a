"""Windows of a long run that stand for those around them.

A plan matters only through the seconds of its steps, those that it takes to come into force, and the states that it
leaves where nodes fail. These change slowly with the loads. In each block of windows of a run that samples, plans and
loads of the one in its middle take the places of all others. Loads begin even: the first window stands for itself. So
does each up to the end of recorded loads, which may jump at any step; after it, all have the same loads.

Loads are new every 50 steps (`LOAD_SAMPLE_STEPS`). A change of the nodes at step 130 of a window takes the plan of one
at step 30, and so changes in a block share few plans. At a loss of some number of nodes, the job fetches what it did at
the first loss of that number. Nothing else is left out.
`lazsim.engine.sampling_error` says how far this is off.
"""

import math

from lazsim.costmodel.costs import CostModel
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, TimedSteps
from lazsim.engine.systems import System

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
    """Says which windows stand for others, by counts of work and never by a clock.

    Parameters
    ----------
    planning
        One of `lazsim.limits.PLANNINGS`.
    window_steps
        Steps of a window: those between two plans; 0 where no window stands for others.
    plans_change
        Whether each window has its own plan; else one sample of the loads stands for a block.
    last_step
        Step whose loads all later ones have, where loads are recorded: only windows after it stand for others.

    Examples
    --------
    Of blocks of six windows of ten steps, the third stands for all but the first of the run.

    >>> sampler = Sampler("sampled", 10, plans_change=True)
    >>> sampler.block_windows = 6
    >>> [sampler.stand_in(step) for step in (0, 10, 25, 35, 59, 60)]
    [0, 20, 25, 25, 29, 80]
    """

    def __init__(self, planning: str, window_steps: int, *, plans_change: bool, last_step: int = -1) -> None:
        self._planning, self._window_steps = planning, window_steps
        self._plans_change, self._last_step = plans_change, last_step
        self.block_windows = 1
        """Windows of a block; one where every window stands for itself."""

    @property
    def is_on(self) -> bool:
        """Whether windows stand for others."""
        return self.block_windows > 1

    def consider(self, num_steps: float, window_s: float) -> None:
        """Sample from now on if all windows of a run of `num_steps`, each `window_s` to compute, take too long.

        The windows that are left take `EXACT_S`. Plans for changes of the nodes do not count: changes share them.
        """
        if self.is_on or self._planning == "exact" or not self._window_steps:
            return
        num_windows = (num_steps - self._last_step - 1) / self._window_steps
        affordable = EXACT_S / window_s if self._planning == "auto" else 2 * FEWEST_BLOCKS
        most = num_windows / FEWEST_BLOCKS
        block_windows = math.floor(min((1 + self._plans_change) * num_windows / affordable, most))
        if block_windows >= FEWEST_WINDOWS:
            self.block_windows = block_windows

    def block(self, step: int) -> int:
        """Return the block of windows in which a step is."""
        return step // self._window_steps // self.block_windows

    def stand_in(self, step: int, at: int | None = None) -> int:
        """Return the step that stands for one: of the block in which it is, or in which another step is."""
        in_block = step if at is None else at
        if self.stands_alone(in_block):
            return step
        middle = self.block(in_block) * self.block_windows + (self.block_windows - 1) // 2
        place = step % self._window_steps % LOAD_SAMPLE_STEPS if self._plans_change else 0
        return middle * self._window_steps + place

    def time(self, timer: StepTimer, planned_step: int, step: int) -> TimedSteps:
        """Time the steps that follow one, under a plan made after `planned_step`."""
        if self.stands_alone(step):
            return timer(step)
        if not self._plans_change:
            left = self.block_windows * self._window_steps
            return timer(self.stand_in(step))._replace(num_steps=left - step % left)
        return timer(self.stand_in(planned_step, step) + step - planned_step)

    def stands_alone(self, step: int) -> bool:
        """Tell whether a window stands for itself: the first, those of recorded loads, and the first after their block.

        To that one, plans change as to no other.
        """
        return not self.is_on or self.block(step - self._window_steps) <= self.block(self._last_step)
