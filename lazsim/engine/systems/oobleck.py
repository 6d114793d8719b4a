"""Pipeline templates (Oobleck, SOSP 2023, arXiv 2309.08125)."""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.held import Held
from lazsim.engine.systems.seats import SeatSystem, by_replica
from lazsim.engine.systems.system import FULL_PACE, Pace


@dataclass(frozen=True)
class Oobleck(SeatSystem):
    """A pipeline that loses nodes takes a template with fewer; its layers are copied from other pipelines.

    Notes
    -----
    Templates of ``n0`` to ``2 n0 - 1`` nodes, ``n0`` those that hold the model once, cover every number of nodes from
    ``n0`` on, and batches are divided so that pipelines end together: throughput goes with the nodes left. The
    imbalance of uneven stages is left out. A copy is the state of one of the missing nodes of a pipeline that others
    are left of.
    """

    takes_two_replicas: bool = True

    def continue_s(self, costs: CostModel, held: Held) -> tuple[tuple[str, float], ...]:
        """See `SeatSystem.continue_s`."""
        has_others_N = np.any(by_replica(costs, held), axis=1)[costs.grid.replica_N(held.num_seats)]
        copied = np.flatnonzero(~held.alive_N & has_others_N).tolist()
        return ("reconfigure", self.rebuild_s(costs)), ("transfer", self.fetch_s(costs, held, copied))

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """See `System.pace`."""
        return FULL_PACE if held.is_whole else Pace(held.num_seats / len(held.nodes))


OOBLECK = Oobleck(
    "oobleck",
    "Oobleck: pipelines that lose nodes take templates with fewer; batches are divided anew",
    survives="failures that leave each stage in some pipeline",
    needs="two model replicas or more, whole optimizer states",
)
