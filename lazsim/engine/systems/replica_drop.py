"""Drop a data-parallel replica (torchft; FT-HSDP)."""

from dataclasses import dataclass, replace

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Decision, StoppedJob
from lazsim.engine.systems.seats import ReplicaSystem, broken_replicas, order_by_replica
from lazsim.engine.systems.system import Pace


@dataclass(frozen=True)
class ReplicaDrop(ReplicaSystem):
    """The replica of a failed node leaves the next quorum; the others go on with a smaller batch.

    Notes
    -----
    The step under way is lost for all: the others find out at its all-reduce. A replica that is whole again copies
    weights and optimizer states from the others before it takes part, after its processes have started anew if some of
    its nodes were of one that failed; the others do not wait for it.
    """

    timeout_s: float = 0.0
    """From the end of the step until its collectives give up. A process that dies closes its connections: 0. FT-HSDP:
    the 3 min in which all stand still."""
    quorum_s: float = 1.0
    """Until the replicas left have new communicators (torchft with Gloo: under 1 s)."""
    start_base_s: float = 15.0
    """To notice that a replica failed, by a poll every 5 s (torchft), and to start processes and communicators, with
    `start_per_gpu_s` (samanta-amit/Megatron-DeepSpeed, `deepspeed_init_time.md`: 10 s and 0.52 s a rank, on 96 to 3,072
    ranks of Aurora). torchft's replicas of 10 GPUs are away for 24 s, with the copy."""
    start_per_gpu_s: float = 0.52
    is_led: bool = False
    """Whether a coordinator leads the replicas, as in the live mode. It stops all of them as soon as it knows of a
    failure, all build new communicators as other systems do, and all wait for the copy to a replica that returns."""

    def detect_s(self, costs: CostModel, rest_s: float) -> float:
        """See `System.detect_s`."""
        return super().detect_s(costs, rest_s) if self.is_led else rest_s + self.timeout_s

    def rebuild_s(self, costs: CostModel) -> float:
        """See `System.rebuild_s`."""
        return super().rebuild_s(costs) if self.is_led else self.quorum_s

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """See `SeatSystem.goes_on`: one replica suffices."""
        return True

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """See `System.decide`: parts of several replicas do not make one."""
        if not stopped.paused and not self.keep(costs, stopped.held).nodes:
            return protocol.decide_start(stopped, "no model replica is whole")
        return super().decide(costs, stopped)

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """Return the share of the batch that the replicas left train, each as many samples as before."""
        share = float(1 - broken_replicas(costs, held).mean())
        return Pace(costs.part_step_factor(held.num_seats, len(held.nodes)), share)

    def free_seats(self, costs: CostModel, held: Held, num_newcomers: int) -> tuple[int, ...]:
        """Return the places of whole replicas only, one after the other: nodes that started together stay together."""
        missing = np.flatnonzero(broken_replicas(costs, held))[: num_newcomers // costs.grid.replica_nodes]
        return tuple(order_by_replica(costs, held)[missing].ravel().tolist())

    def replica_start_s(self, costs: CostModel) -> float | None:
        """See `System.replica_start_s`: its nodes are there, so that nothing is queued."""
        if self.is_led:
            return None
        return self.start_base_s + self.start_per_gpu_s * costs.grid.replica_nodes * costs.cluster.gpus_per_node


REPLICA_DROP = ReplicaDrop(
    "replica-drop",
    "torchft: the replica that failed leaves, the others go on with a smaller batch; no rollback",
    survives="failures that leave one whole model replica",
    needs="two model replicas or more, whole optimizer states",
)

FT_HSDP = replace(
    REPLICA_DROP,
    name="ft-hsdp",
    description="FT-HSDP: as replica-drop, with the 3 min that it takes on 100,000 GPUs until the others go on",
    timeout_s=180.0,
)
"""arXiv 2602.00277: 3 min of a stall for a failure, where a restart of all takes 10."""
