"""Redundant stages (Bamboo, NSDI 2023, arXiv 2204.12013; its simulator)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Decision, StoppedJob, UsableNodes
from lazsim.engine.systems.seats import SeatSystem
from lazsim.engine.systems.system import Pace, held_state_bytes
from lazsim.placement.plan import Floats, Ints, PlacementPlan


@dataclass(frozen=True)
class Bamboo(SeatSystem):
    """Each node also holds the next stage and computes it forward in the bubbles; it takes over when that one fails.

    Notes
    -----
    The forward pass of the next stage is taken to hide in the bubbles of the pipeline. The pipeline of a node goes
    round: the last stage stands in for the first.
    """

    shadow_factor: float = 1.5
    """Steps while a node computes two stages, against others (published simulator: 1.5)."""
    stage_use: str = "has a stage stand in for the next"
    most_shadow_share: float = 0.05
    """Twice the missing nodes over those left beyond which the pipelines form anew from all nodes alive, where these
    hold every state and make a pipeline (published simulator: 0.05)."""
    doubles_stages: bool = True

    def outlives_a_loss(self, costs: CostModel, plan: PlacementPlan, num_nodes: int) -> bool:
        """See `System.outlives_a_loss`: the node before has its states."""
        return True

    def why_exposed(self, costs: CostModel, num_nodes: int) -> str:
        """See `System.why_exposed`: one pipeline suffices."""
        return ""

    def newcomers(
        self, costs: CostModel, held: Held, alive: Sequence[str], usable_nodes: UsableNodes
    ) -> tuple[str, ...]:
        """See `System.newcomers`: none while a shadow would be left, which slows all as much as several."""
        found = super().newcomers(costs, held, alive, usable_nodes)
        return found if len(found) >= held.num_seats - len(held.nodes) else ()

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """See `System.decide`: too many shadows are too slow, unless there are too few nodes for a pipeline without."""
        held = stopped.held
        num_missing = held.num_seats - len(held.nodes)
        is_slow = 2 * num_missing > self.most_shadow_share * len(held.nodes)
        if stopped.paused or not is_slow or not stopped.usable_nodes(len(stopped.alive)):
            return super().decide(costs, stopped)
        return protocol.decide(self, replace(stopped, joins_due=True))

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """See `SeatSystem.goes_on`: no two neighbouring stages of a pipeline lack a node."""
        missing_PK = ~held.alive_N.reshape(costs.grid.num_stages, -1)
        return not (missing_PK & np.roll(missing_PK, 1, axis=0)).any()

    def continue_s(self, costs: CostModel, held: Held) -> tuple[tuple[str, float], ...]:
        """Return no time: the shadow takes over."""
        return ()

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """See `System.pace`."""
        return Pace() if held.is_whole else Pace(self.shadow_factor)

    def states(self, costs: CostModel, plan: PlacementPlan) -> tuple[Ints, Floats]:
        """See `SeatSystem.states`: those of its place in the next stage, too."""
        ahead = plan.num_nodes // costs.grid.num_stages
        number_KN, bytes_KN = (
            np.concatenate([own_KN, np.roll(own_KN, -ahead, axis=1)]) for own_KN in super().states(costs, plan)
        )
        return number_KN, bytes_KN

    def load_bytes(self, costs: CostModel, plan: PlacementPlan) -> Floats:
        """See `System.load_bytes`: those of its place in the next stage, too."""
        own_N = super().load_bytes(costs, plan)
        return own_N + np.roll(own_N, -(plan.num_nodes // costs.grid.num_stages))

    def extra_gpu_bytes(self, costs: CostModel, num_nodes: int) -> Mapping[str, float]:
        """See `System.extra_gpu_bytes`: those of the states of its place in another stage, at most."""
        return {"optimizer_states": held_state_bytes(costs, 1)}


BAMBOO = Bamboo(
    "bamboo",
    "Bamboo: each node holds the next stage, too, and takes over when that fails",
    survives="failures that leave each stage, or the one before it, in some pipeline",
    needs="pipeline stages, memory for the states of two stages, whole optimizer states",
)
