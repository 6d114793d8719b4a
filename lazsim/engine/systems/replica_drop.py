"""Drop a data-parallel replica (torchft; FT-HSDP)."""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.held import Held
from lazsim.engine.systems.seats import SeatSystem, broken_replicas, require_two_replicas
from lazsim.engine.systems.system import FULL_PACE, Pace


@dataclass(frozen=True)
class ReplicaDrop(SeatSystem):
    """The replica of a failed node leaves the next quorum; the others go on with a smaller batch.

    Attributes
    ----------
    timeout_s : float
        From the end of the step until its collectives give up. A process that dies closes its connections: 0.
    quorum_s : float
        Until the replicas left have new communicators (torchft with Gloo: under 1 s).

    Notes
    -----
    The step under way is lost for all: the others find out at its all-reduce. A replica that is whole again copies
    weights and optimizer states from another before it takes part; the others do not wait for it.
    """

    timeout_s: float = 0.0
    quorum_s: float = 1.0

    def require(self, costs: CostModel, num_nodes: int) -> None:
        """See `System.require`."""
        require_two_replicas(self.name, costs, num_nodes)

    def detect_s(self, costs: CostModel, rest_s: float) -> float:
        """See `System.detect_s`."""
        return rest_s + self.timeout_s

    def rebuild_s(self, costs: CostModel) -> float:
        """See `System.rebuild_s`."""
        return self.quorum_s

    def keep(self, costs: CostModel, held: Held) -> Held:
        """Return the nodes of whole replicas."""
        broken_N = broken_replicas(costs, held)[costs.grid.replica_N(held.num_seats)]
        return held.only([node for node, seat in zip(held.nodes, held.seats, strict=True) if not broken_N[seat]])

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """See `SeatSystem.goes_on`: one replica suffices."""
        return True

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """Return the share of the batch that the replicas left train."""
        broken = broken_replicas(costs, held)
        return Pace(samples_share=float(1 - broken.mean())) if broken.any() else FULL_PACE

    def free_seats(self, costs: CostModel, held: Held, num_newcomers: int) -> tuple[int, ...]:
        """Return the places of whole replicas only."""
        replica_N = costs.grid.replica_N(held.num_seats)
        missing = np.flatnonzero(broken_replicas(costs, held))[: num_newcomers // costs.grid.replica_nodes]
        return tuple(np.flatnonzero(np.isin(replica_N, missing)).tolist())

    def join_s(self, costs: CostModel) -> float:
        """Return no time: the replicas that train do not wait for the copy."""
        return 0.0


REPLICA_DROP = ReplicaDrop(
    "replica-drop",
    "torchft: the replica that failed leaves, the others go on with a smaller batch; no rollback",
    is_live=True,
    survives="failures that leave one whole model replica",
    needs="two model replicas or more, whole optimizer states",
)
