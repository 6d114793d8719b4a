"""Partial expert checkpoints (MoC-System, ASPLOS 2025, arXiv 2408.04307)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.engine.systems.system import Save, System, copy_to_host_s, saved_behind


@dataclass(frozen=True)
class PartialExperts(System):
    """Saves all that is dense and a few experts in turn; after a failure each expert goes back to its own newest save.

    Notes
    -----
    Steps are replayed as from a whole checkpoint. What the experts saved longer ago had learned since is gone: see
    `stale_steps`.
    """

    num_turns: int = 16
    """Checkpoints in which every expert is saved once: each has an equal share of the experts (published: 16)."""
    raises_share: bool = False
    """Whether to save more experts at a time when failures accumulate, so that lost updates stay within
    `most_lost_tokens`. That the share doubles is an assumption."""
    most_lost_tokens: float = 0.0375

    def save(self, costs: CostModel, num_nodes: int, step_s: float) -> Save:
        """Return what a checkpoint takes: its copy hides behind a step, and it is written beside training."""
        copy_s = copy_to_host_s(costs, num_nodes, 1 / self.num_turns)
        return saved_behind(copy_s, checkpoint_save_s(costs, num_nodes, 1 / self.num_turns), step_s)

    def save_all(self, costs: CostModel, num_nodes: int, step_s: float) -> Save:
        """See `System.save_all`: no expert loses updates where no node fails.

        It passes through the buffers of `host_bytes` part by part. *Assumption*.
        """
        return replace(self, num_turns=1).save(costs, num_nodes, step_s)

    def stale_steps(self, interval_steps: int, since_steps: float = math.inf) -> float:
        """See `System.stale_steps`.

        Notes
        -----
        Of ``n`` saves in turn, an expert's own is ``(n - 1) / 2`` saves older than the last, on average: the updates
        of those steps are gone at each rollback, while the steps still count. Updates from before the last rollback
        were lost then: after fewer saves than ``n``, experts without one of them lose those of all steps since. The
        first of these saves may come after less than an interval, where all was saved between two.
        """
        turns = self.num_turns
        if not interval_steps or since_steps > (turns - 1) * interval_steps:
            return interval_steps * (turns - 1) / 2
        saves = math.ceil(since_steps / interval_steps)
        return (interval_steps * saves * (saves - 1) / 2 + (turns - saves) * since_steps) / turns

    def within_budget(self, lost_steps: float, num_steps: int, interval_steps: int) -> "PartialExperts":
        """See `System.within_budget`: twice the share as often as the next rollback would exceed the budget."""
        system = self
        while (
            self.raises_share
            and system.num_turns > 1
            and (lost_steps + system.stale_steps(interval_steps) > self.most_lost_tokens * num_steps)
        ):
            system = replace(system, num_turns=system.num_turns // 2)
        return system

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of three buffers of what the node that saves most writes."""
        return 3 * costs.saved_bytes(num_nodes, costs.cluster.gpus_per_node, 1 / self.num_turns)

    def choices(self) -> Mapping[str, Sequence[int]]:
        """See `System.choices`."""
        return {"num_turns": (1, 2, 4, 8, 16), **super().choices()}


MOC = PartialExperts(
    "moc",
    "MoC: checkpoints of a part of the experts each, of all in turn; trades updates of experts for time",
    survives="nothing: every failure is a restart, and experts lose the updates since their own save",
    needs="storage, a model that bears lost updates",
)
