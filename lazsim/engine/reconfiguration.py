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
from lazsim.specs import ModelSpec


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

    @property
    def busiest_bytes(self) -> float:
        """Bytes that the busiest node sends or receives."""
        return float(max(self.bytes_HH.sum(axis=0).max(), self.bytes_HH.sum(axis=1).max()))


def bind_nodes(model: ModelSpec, has_LEH: Bools, has_dense_H: Bools, plan: PlacementPlan) -> Binding:
    """Bind candidates to the nodes of a plan, greedily each to the node for which it lacks least.

    Parameters
    ----------
    model
        Sizes of states.
    has_LEH, has_dense_H
        Experts that each candidate holds, and whether it holds the dense part.
    plan
        The next plan, for at most as many nodes as there are candidates.

    Notes
    -----
    Candidates that the plan leaves out still send what they hold.
    """
    order_H = chosen_N = map_greedily(num_missing(has_LEH, plan.holds_LEN))
    if len(chosen_N) < len(has_dense_H):
        order_H = np.concatenate([chosen_N, np.setdiff1d(np.arange(len(has_dense_H)), chosen_N)])
    moved = migrate(
        has_LEH.take(order_H, axis=2),
        _widen(plan.holds_LEN, len(order_H) - len(chosen_N)),
        model.expert_state_bytes,
        has_dense_H[order_H],
        model.dense_state_bytes,
    )
    return Binding(chosen_N, order_H, moved.bytes_NN)


def bind_survivors(costs: CostModel, held: PlacementPlan, plan: PlacementPlan, server_H: Ints) -> tuple[Ints, float]:
    """Bind the nodes of the plan in force, and new ones, to the next plan.

    Parameters
    ----------
    costs
        Sizes of states and speed of links.
    held
        What the first candidates hold; those after them are new and hold nothing.
    plan
        The next plan.
    server_H
        Server of each candidate.

    Returns
    -------
    chosen_N : ndarray of int64, shape (N,)
        The candidate that becomes each node of the plan.
    seconds : float
        Time until each of these has the states that it lacks.
    """
    num_new = len(server_H) - held.num_nodes
    binding = bind_nodes(costs.model, _widen(held.holds_LEN, num_new), np.arange(len(server_H)) < held.num_nodes, plan)
    return binding.chosen_N, transfer_s(costs, binding.bytes_HH, server_H[binding.order_H])


def _widen(holds_LEN: Bools, num_more: int) -> Bools:
    """Add nodes that hold nothing."""
    if not num_more:
        return holds_LEN
    return np.concatenate([holds_LEN, np.zeros((*holds_LEN.shape[:2], num_more), dtype=np.bool_)], axis=2)
