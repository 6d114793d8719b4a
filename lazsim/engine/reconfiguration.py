"""From the plan in force to the next one: which node becomes which, and how long its states take to get there."""

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.recovery_times import transfer_s
from lazsim.costmodel.step import CostModel
from lazsim.placement.migration import map_greedily, migrate, num_missing
from lazsim.placement.plan import Bools, PlacementPlan


def change_over(
    costs: CostModel, held: PlacementPlan, plan: PlacementPlan, server_H: npt.NDArray[np.int64]
) -> tuple[list[int], float]:
    """Bind candidates to the nodes of a plan.

    Parameters
    ----------
    costs
        Sizes of states and speed of links.
    held
        What the first candidates hold; those after them are new and hold nothing.
    plan
        The next plan, for as many nodes as there are candidates or fewer.
    server_H
        Server of each candidate.

    Returns
    -------
    chosen : list of int
        The candidate that becomes each node of the plan.
    seconds : float
        Time until each has the states that it lacks.
    """
    has = _widen(held.holds_LEN, len(server_H) - held.num_nodes)
    order = chosen = map_greedily(num_missing(has, plan.holds_LEN))
    if len(chosen) < len(server_H):
        # Candidates that the plan leaves out still serve what they hold.
        order = np.concatenate([chosen, np.setdiff1d(np.arange(len(server_H)), chosen)])
    moved = migrate(
        has.take(order, axis=2),
        _widen(plan.holds_LEN, len(order) - len(chosen)),
        costs.model.expert_state_bytes,
        order < held.num_nodes,
        costs.model.dense_state_bytes,
    )
    return chosen.tolist(), transfer_s(costs, moved.bytes_NN, server_H[order])


def _widen(holds_LEN: Bools, num_more: int) -> Bools:
    """Add nodes that hold nothing."""
    if not num_more:
        return holds_LEN
    return np.concatenate([holds_LEN, np.zeros((*holds_LEN.shape[:2], num_more), dtype=np.bool_)], axis=2)
