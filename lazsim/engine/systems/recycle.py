"""Rerouted micro-batches (ReCycle, SOSP 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass

from lazsim.costmodel.costs import CostModel
from lazsim.engine.held import Held
from lazsim.engine.systems.seats import SeatSystem, by_replica
from lazsim.engine.systems.system import Pace


@dataclass(frozen=True)
class ReCycle(SeatSystem):
    """Peers of the same stage in other pipelines compute the micro-batches of a failed node, in their bubbles.

    Notes
    -----
    With ``m`` micro-batches, ``p`` stages and ``k`` of ``d`` nodes of a place missing, a step takes
    ``m + p - 1 + max(0, m k / (d - k) - usable (p - 1))`` instead of ``m + p - 1`` times a stage's time.

    A peer keeps the activations of those that wait for later stages beside its own: of the ``min(p - 1, m)`` of the
    first stage, where they are most, those that it computes, one in ``d - 1`` while one node is missing.
    """

    takes_two_replicas: bool = True
    usable_bubbles: float = 0.5
    """Share of the bubbles that rerouted micro-batches fill: an assumption; 1 is perfect."""

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """See `System.pace`."""
        alive_KP = by_replica(costs, held)
        left = int(alive_KP.sum(axis=0).min())
        if left == len(alive_KP):
            return Pace()
        micro_batches, bubbles = costs.num_micro_batches(held.num_seats), costs.grid.num_stages - 1
        rerouted = micro_batches * (len(alive_KP) - left) / left
        whole = micro_batches + bubbles
        return Pace((whole + max(0.0, rerouted - self.usable_bubbles * bubbles)) / whole)

    def extra_gpu_bytes(self, costs: CostModel, num_nodes: int) -> Mapping[str, float]:
        """See `System.extra_gpu_bytes`: those of rerouted micro-batches while one node is missing."""
        replicas = num_nodes // costs.grid.replica_nodes
        return {"activations": costs.rerouted_bytes(num_nodes, 1 / (replicas - 1))} if replicas > 1 else {}


RECYCLE = ReCycle(
    "recycle",
    "ReCycle: micro-batches of a failed node go to its peers in other pipelines, into their bubbles",
    survives="failures that leave each stage in some pipeline",
    needs="two model replicas or more, whole optimizer states",
)
