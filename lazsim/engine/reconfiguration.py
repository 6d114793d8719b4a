"""From the plan in force to the next one: the node that becomes each of its nodes, and the states that move.

Axes: L layers, E experts, H candidates, N nodes of the plan.
"""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.recovery_times import transfer_s
from lazsim.placement.mapping import keep_domains, map_greedily, num_missing
from lazsim.placement.migration import migrate
from lazsim.placement.plan import Bools, Floats, Ints, with_more_nodes


@dataclass(frozen=True, eq=False)
class Binding:
    """Candidates bound to the nodes of a plan."""

    chosen_N: Ints
    """The candidate that becomes each node of the plan."""
    order_H: Ints
    """All candidates: those chosen, then the others."""
    bytes_HH: Floats
    """Bytes that each candidate sends to each other, both in the order of `order_H`."""
    num_states: int
    """Expert states fetched."""

    def transfer_s(self, costs: CostModel, server_H: Ints) -> float:
        """Return the seconds until all have the states that they lack, from the server of each candidate."""
        return transfer_s(costs, self.bytes_HH, server_H[self.order_H])

    def busiest_bytes(self) -> float:
        """Return what the busiest node sends or receives."""
        return float(max(self.bytes_HH.sum(axis=0).max(), self.bytes_HH.sum(axis=1).max()))


def bind_nodes(
    costs: CostModel,
    has_LEH: Bools,
    wants_LEN: Bools,
    num_new: int = 0,
    has_dense_H: Bools | None = None,
    dense_PH: Bools | None = None,
    wants_PN: Bools | None = None,
    domain_H: Ints | None = None,
    newcomer_order_N: Ints | None = None,
    times_L: Ints | None = None,
) -> Binding:
    """Bind candidates to the nodes of a plan, greedily where the fewest states are missing.

    Parameters
    ----------
    has_LEH
        Experts that the first candidates hold.
    wants_LEN
        Experts that each node of the next plan holds, with at most one node a candidate. Candidates left out still send
        what they hold.
    num_new
        Candidates after these, which hold nothing.
    has_dense_H
        Candidates that hold their part of the dense state; all but the new ones if not given.
    dense_PH, wants_PN
        Parts of the dense state that the first candidates hold, shape (P, H), and nodes of the next plan; not needed
        where every node holds all.
    domain_H
        Failure domain of each candidate, where the plan is for those of the first: its nodes stay in their domains.
    newcomer_order_N
        Nodes of the next plan in the order in which new candidates become those that are left, where these stay
        together; any of them fits a new one as well.
    times_L
        Layers that each layer stands for; one if not given.
    """
    if has_dense_H is None:
        has_dense_H = np.arange(has_LEH.shape[2] + num_new) < has_LEH.shape[2]
    has_LEH = with_more_nodes(has_LEH, num_new)
    missing_HN = num_missing(has_LEH, wants_LEN, times_L)
    if dense_PH is not None and wants_PN is not None:
        # A part of the dense state counts as one expert does.
        dense_PH = with_more_nodes(dense_PH[None], num_new)[0] & has_dense_H
        missing_HN = missing_HN + num_missing(dense_PH[None], wants_PN[None])
    if domain_H is not None:
        missing_HN = keep_domains(missing_HN, domain_H, domain_H[: wants_LEN.shape[2]])
    order_H = chosen_N = map_greedily(missing_HN)
    if newcomer_order_N is not None:
        left_N = newcomer_order_N[chosen_N[newcomer_order_N] >= len(has_dense_H) - num_new]
        chosen_N[left_N] = np.sort(chosen_N[left_N])
    num_left_out = len(has_dense_H) - len(chosen_N)
    if num_left_out:
        order_H = np.concatenate([chosen_N, np.setdiff1d(np.arange(len(has_dense_H)), chosen_N)])
    has_LEH, wants_LEH = has_LEH.take(order_H, axis=2), with_more_nodes(wants_LEN, num_left_out)
    if dense_PH is None or wants_PN is None:
        dense_PH, wants_PN = has_dense_H[None], np.ones((1, len(chosen_N)), dtype=np.bool_)
    # A part of the dense state moves as an expert does, to the nodes that hold it in the plan.
    moved = migrate(has_LEH, wants_LEH, costs.expert_state_bytes, times_L=times_L)
    has_PH, wants_PH = dense_PH[:, order_H], with_more_nodes(wants_PN[None], num_left_out)[0]
    sent_PH = has_PH / has_PH.sum(axis=1, keepdims=True) * _dense_bytes_P(costs)[:, None]
    lacks_PH = wants_PH & ~has_PH
    fetching = np.flatnonzero(lacks_PH.any(axis=0))
    moved.bytes_NN[:, fetching] += sent_PH.T @ lacks_PH[:, fetching].astype(np.float64)
    return Binding(chosen_N, order_H, moved.bytes_NN, moved.num_states)


def _dense_bytes_P(costs: CostModel) -> Floats:
    """Return the bytes of each part of the dense state, with those of experts that no plan places."""
    of_stage_S: Floats = costs.stage_bytes(costs.cluster.gpus_per_node)[0] + costs.further_expert_bytes_S
    return of_stage_S.repeat(costs.grid.matrix_nodes)
