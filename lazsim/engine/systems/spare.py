"""Stacked shards of data (SPARe, arXiv 2603.00357)."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lazsim.costmodel.step import CostModel
from lazsim.engine.held import Held
from lazsim.engine.systems.seats import SeatSystem, broken_replicas
from lazsim.engine.systems.system import FULL_PACE, Pace
from lazsim.errors import InfeasiblePlanError
from lazsim.placement.plan import Bools


@dataclass(frozen=True)
class StackedShards(SeatSystem):
    """Every group has the data of the next ones, too, and computes as many shards as cover the batch.

    Attributes
    ----------
    num_stacks : int
        Shards that a group has; 0 for the published optimum, ``floor(log2(groups) + 0.833)``.

    Notes
    -----
    The step of ``s`` shards takes ``s`` times as long; its all-reduce, the same for all, is left out. Groups return
    with the restart after a wipe-out, when a shard has no group left.
    """

    num_stacks: int = 0
    recovers_from_peers: bool = False

    @property
    def joins_in_place(self) -> bool:
        """Whether nodes join without a restart: they do not."""
        return False

    @property
    def keeps_whole_states(self) -> bool:
        """Whether every replica of a parameter has its own optimizer state: groups go on without each other."""
        return True

    def require(self, costs: CostModel) -> None:
        """See `System.require`."""
        if costs.cluster.num_nodes < 2 * costs.grid.replica_nodes:
            raise InfeasiblePlanError(
                f"{self.name} takes two model replicas, {2 * costs.grid.replica_nodes} nodes, and {costs.cluster.name} "
                f"has {costs.cluster.num_nodes}: give fewer GPUs for each (`parallel`), or a larger cluster"
            )

    def stacks(self, broken: Bools) -> int:
        """Return the shards that each group left computes; 0 when a shard has no group left.

        Examples
        --------
        >>> SPARE.stacks(np.array([True, False, False, False]))
        2
        """
        num_groups = len(broken)
        redundancy = min(self.num_stacks or optimal_stacks(num_groups), num_groups)
        fewest = math.ceil(num_groups / max(1, num_groups - int(broken.sum())))
        return next((many for many in range(fewest, redundancy + 1) if _covers(broken, redundancy, many)), 0)

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """See `SeatSystem.goes_on`: the groups left cover the batch."""
        return self.stacks(broken_replicas(costs, held)) > 0

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """See `System.pace`."""
        return FULL_PACE if held.is_whole else Pace(float(self.stacks(broken_replicas(costs, held))))

    def free_seats(self, costs: CostModel, held: Held, num_newcomers: int) -> tuple[int, ...]:
        """Return none: groups return with a restart."""
        return ()


def optimal_stacks(num_groups: int) -> int:
    """Return the published optimum of the shards that a group has.

    Examples
    --------
    >>> [optimal_stacks(groups) for groups in (200, 600, 1000)]
    [8, 10, 10]
    """
    return max(1, math.floor(math.log2(num_groups) + 0.833))


def _covers(broken: Bools, redundancy: int, many: int) -> bool:
    """Tell whether the groups left can compute all shards, each group at most `many` of those that it has."""
    num_groups, alive = len(broken), np.flatnonzero(~broken)
    shards = (alive[:, None] + np.arange(redundancy)) % num_groups
    # A group stands there once for each shard that it may compute.
    rows = np.repeat(shards, many, axis=0)
    edges = csr_array(
        (np.ones(rows.size, dtype=np.int8), rows.ravel(), np.arange(len(rows) + 1) * redundancy),
        shape=(len(rows), num_groups),
    )
    return bool((maximum_bipartite_matching(edges, perm_type="row") >= 0).all())


SPARE = StackedShards(
    "spare",
    "SPARe: groups have the data of others, too, and compute more shards when some fail",
    survives="failures of groups until a shard of data has none left",
    needs="two model replicas or more, whole optimizer states",
)
