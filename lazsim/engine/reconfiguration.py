"""From the plan in force to the next one: the node that becomes each of its nodes, and the states that move.

Axes: L layers, E experts, H candidates, N nodes of the plan.
"""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.recovery_times import transfer_s
from lazsim.costmodel.step import CostModel
from lazsim.dispatch import Floats
from lazsim.placement.mapping import map_greedily, num_missing
from lazsim.placement.plan import Bools, Ints, PlacementPlan
from lazsim.placement.transfers import migrate


@dataclass(frozen=True, eq=False)
class Binding:
    """Candidates bound to the nodes of a plan.

    Attributes
    ----------
    chosen_N : ndarray of int64, shape (N,)
        The candidate that becomes each node of the plan.
    order_H : ndarray of int64, shape (H,)
        All candidates: those chosen, then the others.
    bytes_HH : ndarray of float64, shape (H, H)
        Bytes that each candidate sends to each other, both in the order of `order_H`.
    """

    chosen_N: Ints
    order_H: Ints
    bytes_HH: Floats

    def transfer_s(self, costs: CostModel, server_H: Ints) -> float:
        """Return the seconds until all have the states that they lack, from the server of each candidate."""
        return transfer_s(costs, self.bytes_HH, server_H[self.order_H])

    def busiest_bytes(self) -> float:
        """Return what the busiest node sends or receives."""
        return float(max(self.bytes_HH.sum(axis=0).max(), self.bytes_HH.sum(axis=1).max()))


def bind_nodes(
    costs: CostModel, has_LEH: Bools, plan: PlacementPlan, num_new: int = 0, has_dense_H: Bools | None = None
) -> Binding:
    """Bind candidates to the nodes of a plan, greedily where the fewest states are missing.

    Parameters
    ----------
    has_LEH
        Experts that the first candidates hold.
    plan
        The next plan, with at most one node a candidate. Candidates left out still send what they hold.
    num_new
        Candidates after these, which hold nothing.
    has_dense_H
        Candidates that hold the dense part; all but the new ones if not given.
    """
    if has_dense_H is None:
        has_dense_H = np.arange(has_LEH.shape[2] + num_new) < has_LEH.shape[2]
    has_LEH = _widen(has_LEH, num_new)
    order_H = chosen_N = map_greedily(num_missing(has_LEH, plan.holds_LEN))
    num_left_out = len(has_dense_H) - len(chosen_N)
    if num_left_out:
        order_H = np.concatenate([chosen_N, np.setdiff1d(np.arange(len(has_dense_H)), chosen_N)])
    moved = migrate(
        has_LEH.take(order_H, axis=2),
        _widen(plan.holds_LEN, num_left_out),
        costs.model.expert_state_bytes,
        has_dense_H[order_H],
        costs.model.dense_state_bytes,
    )
    return Binding(chosen_N, order_H, moved.bytes_NN)


def _widen(holds_LEN: Bools, num_more: int) -> Bools:
    """Add nodes that hold nothing."""
    if not num_more:
        return holds_LEN
    return np.concatenate([holds_LEN, np.zeros((*holds_LEN.shape[:2], num_more), dtype=np.bool_)], axis=2)
