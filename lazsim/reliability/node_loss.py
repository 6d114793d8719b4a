"""The loss of nodes of a plan: a new plan for the survivors, and what moves.

Axes: L layers, E experts, N nodes, V survivors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError, LazsimError, prefix_errors
from lazsim.placement.migration import MigrationReport, migration_report
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import find_policy, place
from lazsim.reliability.task import PlanningTask


@dataclass(frozen=True, eq=False)
class NodeLoss:
    """The consequences of a loss of nodes under one policy.

    Attributes
    ----------
    lost_experts : tuple of (layer, expert)
        Those that no survivor holds: training restarts from a checkpoint.
    plan : PlacementPlan, optional
        Of the same policy, for the survivors.
    report : MigrationReport, optional
        State that each kind of migration moves, where no expert is lost.
    refusal : str
        Why there is no plan for the survivors.
    """

    lost_experts: tuple[tuple[int, int], ...]
    plan: PlacementPlan | None
    report: MigrationReport | None
    refusal: str = ""

    def to_json(self, *, has_layers: bool) -> dict[str, Any]:
        """Return plain data; layers are left out where loads have none."""
        lost = [list(pair) if has_layers else pair[1] for pair in self.lost_experts]
        value: dict[str, Any] = {"lost_experts": lost, "migrations": []}
        if self.report is not None:
            value["migrations"] = [asdict(row) for row in self.report.rows]
            value |= {"least_bytes": self.report.least_bytes, "bound_bytes": self.report.bound_bytes}
        if self.refusal:
            value["no_plan"] = self.refusal
        return value


def lose_nodes(
    task: PlanningTask,
    policy: str,
    plan: PlacementPlan,
    lost: Sequence[int],
    state_bytes: float,
    *,
    was_asked: bool = True,
) -> NodeLoss:
    """Plan anew on the survivors, by the same policy for the same loads, and compare the ways to get there.

    Parameters
    ----------
    task, policy, plan
        Experts and nodes, the policy that placed them, and its plan.
    lost
        Nodes that fail.
    state_bytes
        Training state of one expert of one layer.
    was_asked
        Whether the user named the policy.

    Raises
    ------
    LazsimError
        When a user's policy that was asked for fails.
    """
    survivors = np.setdiff1d(np.arange(plan.num_nodes), lost)
    has_LEV = plan.holds_LEN[:, :, survivors]
    lost_experts = tuple((int(layer), int(expert)) for layer, expert in np.argwhere(~has_LEV.any(axis=2)))
    try:
        with prefix_errors("`lose`"):
            after = place(find_policy(policy), task.request_on(len(survivors)))
    except LazsimError as error:
        if was_asked and not isinstance(error, InfeasiblePlanError):
            raise
        return NodeLoss(lost_experts, None, None, str(error).removeprefix("`lose`: "))
    report = None if lost_experts else migration_report(has_LEV, after.holds_LEN, state_bytes)
    return NodeLoss(lost_experts, after, report)
