"""Stacked shards of data (SPARe, arXiv 2603.00357)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision
from lazsim.engine.systems.seats import ReplicaSystem, broken_replicas
from lazsim.engine.systems.system import Pace, Save
from lazsim.placement.plan import Bools, PlacementPlan


@dataclass(frozen=True)
class StackedShards(ReplicaSystem):
    """Every group has the data of the next ones, too, and computes as many shards as cover the batch.

    Notes
    -----
    The step of ``s`` shards takes ``s`` times as long; its all-reduce, the same for all, is left out. Groups return
    with the restart after a wipe-out, when a shard has no group left.
    """

    num_stacks: int = 0
    """Shards that a group has; 0 for the published optimum, ``floor(log2(groups) + 0.833)``."""
    shrink_s: float = 0.2
    """Until the groups left have a communicator without the others: 0.1 s, and 0.1 s of the controller (published)."""
    recovers_from_peers: bool = False

    @property
    def joins_in_place(self) -> bool:
        """Whether nodes join without a restart: they do not."""
        return False

    @property
    def keeps_whole_states(self) -> bool:
        """Whether every replica of a parameter has its own optimizer state: groups go on without each other."""
        return True

    def why_exposed(self, costs: CostModel, num_nodes: int) -> str:
        """See `System.why_exposed`: the published optimum for two groups is one shard each."""
        num_groups = num_nodes // costs.grid.replica_nodes
        if num_groups < 2 or self._redundancy(num_groups) > 1:
            return super().why_exposed(costs, num_nodes)
        return f"each of {num_groups} groups has one shard of data only (`num_stacks`; `interval` auto tries more)"

    def _redundancy(self, num_groups: int) -> int:
        return min(self.num_stacks or optimal_stacks(num_groups), num_groups)

    def interval_s(self, costs: CostModel, plan: PlacementPlan, save: Save, between_s: float) -> float:
        """See `System.interval_s`.

        Notes
        -----
        Only a wipe-out goes back to a checkpoint. One comes after ``Gamma(1/r) / r * N^(1 - 1/r)`` failures of ``N``
        groups with ``r`` shards each (published); with ``T_f`` seconds to it, ``T_s`` of a save and ``T_r`` of a
        restart, ``sqrt(T_s^2 + 2 T_s (T_f + T_r))`` of training keep most (Saxena et al., arXiv 2410.18124, with which
        the publication computes).
        """
        num_groups = plan.num_nodes // costs.grid.replica_nodes
        redundancy = self._redundancy(num_groups)
        failures = math.gamma(1 / redundancy) / redundancy * num_groups ** (1 - 1 / redundancy)
        restart = Decision(Action.RESTART, "checkpoint", num_nodes=plan.num_nodes)
        between_s = failures * between_s + self.restart_s(costs, restart, plan)
        return math.sqrt(save.stall_s**2 + 2 * save.stall_s * between_s)

    def stacks(self, broken: Bools) -> int:
        """Return the shards that each group left computes; 0 when they cannot compute all.

        They can, each group at most some of those that it has, where for all sets of shards the groups that have some
        of them are enough (Hall's theorem). Of these sets shards that follow each other suffice: filling a gap that no
        group spans alone adds the groups of both sides up.

        Examples
        --------
        >>> SPARE.stacks(np.array([True, False, False, False]))
        2
        """
        num_groups, redundancy = len(broken), self._redundancy(len(broken))
        # Twice round. Shards from `first` up to `end` are those of the groups from `redundancy - 1` before `first` on.
        alive_before = np.concatenate([[0], np.cumsum(np.tile(~broken, 3))])
        first = np.arange(num_groups, 3 * num_groups)
        # Sets that go round more than once count groups twice; all shards take as many as this.
        fewest = math.ceil(num_groups / max(1, int((~broken).sum())))
        for many in range(fewest, redundancy + 1):
            beyond = (first + 1) - many * alive_before[first + 1]
            most_beyond = np.maximum.accumulate(beyond[::-1])[::-1]
            if (most_beyond <= first - many * alive_before[first - redundancy + 1]).all():
                return many
        return 0

    def rebuild_s(self, costs: CostModel) -> float:
        """See `System.rebuild_s`."""
        return self.shrink_s

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """See `SeatSystem.goes_on`: the groups left cover the batch."""
        return self.stacks(broken_replicas(costs, held)) > 0

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """See `System.pace`."""
        return Pace() if held.is_whole else Pace(float(self.stacks(broken_replicas(costs, held))))

    def free_seats(self, costs: CostModel, held: Held, num_newcomers: int) -> tuple[int, ...]:
        """Return none: groups return with a restart."""
        return ()

    def choices(self) -> Mapping[str, Sequence[int]]:
        """See `System.choices`."""
        return {"num_stacks": (0, 2, 3, 4, 6, 8), **super().choices()}


def optimal_stacks(num_groups: int) -> int:
    """Return the published optimum of the shards that a group has.

    Examples
    --------
    >>> [optimal_stacks(groups) for groups in (200, 600, 1000)]
    [8, 10, 10]
    """
    return max(1, math.floor(math.log2(num_groups) + 0.833))


SPARE = StackedShards(
    "spare",
    "SPARe: groups have the data of others, too, and compute more shards when some fail",
    survives="failures of groups, while each shard of data is in some group",
    needs="two model replicas or more, whole optimizer states",
)
