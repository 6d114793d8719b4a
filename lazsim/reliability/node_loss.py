"""What follows when nodes of a plan fail: a plan for the survivors, and what moves.

Axes: L layers, E experts, N nodes, V survivors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError, prefix_errors
from lazsim.placement.migration import MigrationReport, migration_report
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import find_policy, place
from lazsim.reliability.options import parse_counts
from lazsim.reliability.task import PlanningTask


@dataclass(frozen=True, eq=False)
class LossOutcome:
    """What follows from the loss of nodes under one policy.

    Attributes
    ----------
    lost_experts : tuple of (layer, expert)
        Those that no survivor holds: training restarts from a checkpoint.
    plan : PlacementPlan, optional
        Of the same policy, for the survivors.
    report : MigrationReport, optional
        What each way to get there moves, where nothing is lost.
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


def parse_lost(text: str, num_nodes: int) -> tuple[int, ...]:
    """Read which nodes fail.

    Raises
    ------
    SpecError
        When one is unknown, or none would be left.

    Examples
    --------
    >>> parse_lost("3,0", num_nodes=4)
    (0, 3)
    """
    lost = sorted(set(parse_counts("`lose`", text)))
    if lost[-1] >= num_nodes:
        raise SpecError(f"`lose` {text}: no node {lost[-1]}; nodes are 0 to {num_nodes - 1}")
    if len(lost) == num_nodes:
        raise SpecError(f"`lose` {text}: all {num_nodes} nodes fail and nothing is left to plan for; leave one")
    return tuple(lost)


def lose_nodes(
    task: PlanningTask,
    policy: str,
    plan: PlacementPlan,
    lost: Sequence[int],
    state_bytes: float,
    *,
    was_asked: bool = True,
) -> LossOutcome:
    """Plan anew on the survivors, by the same policy for the same loads, and compare the ways to get there.

    Parameters
    ----------
    task, policy, plan
        What was placed, by which policy, and its plan.
    lost
        Indices of the nodes that fail.
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
        return LossOutcome(lost_experts, None, None, str(error).removeprefix("`lose`: "))
    report = None if lost_experts else migration_report(has_LEV, after.holds_LEN, state_bytes)
    return LossOutcome(lost_experts, after, report)
