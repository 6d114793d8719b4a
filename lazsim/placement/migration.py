"""Compare ways to migrate nodes to a plan, and bound what any way moves.

Axes: L layers, E experts, H live nodes, N nodes of the plan.
"""

from dataclasses import dataclass

import numpy as np

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.mapping import MAPPINGS, keep_domains, map_bottleneck, map_greedily, map_optimally, num_missing
from lazsim.placement.plan import Bools, Ints, with_more_nodes
from lazsim.placement.transfers import SHARINGS, balance_senders


@dataclass(frozen=True)
class MigrationRow:
    """Bytes that one mapping of `MAPPINGS` moves with one way of `SHARINGS` to share the sending.

    `num_states` expert states are fetched. `bound_bytes` is a lower bound of the busiest node's bytes with this
    mapping, for any sharing.
    """

    mapping: str
    sharing: str
    num_states: int
    total_bytes: float
    busiest_sender_bytes: float
    busiest_receiver_bytes: float
    bound_bytes: float


@dataclass(frozen=True)
class MigrationReport:
    """Every mapping with every sharing, and lower bounds over all of them."""

    rows: tuple[MigrationRow, ...]
    """Mappings in the order of `MAPPINGS`, for each the sharings in the order of `SHARINGS`."""
    least_bytes: float
    """Fewest bytes that a mapping moves; some mapping reaches it."""
    bound_bytes: float
    """Lower bound of the busiest node's bytes for any mapping and sharing; perhaps none reaches it."""


def migration_report(
    has_LEH: Bools, wants_LEN: Bools, state_bytes: float, domain_N: Ints | None = None
) -> MigrationReport:
    """Compare ways to turn the live nodes into the nodes of a plan.

    An `InfeasiblePlanError` says that there are too few live nodes, or that an expert is on none of them.

    Parameters
    ----------
    has_LEH, wants_LEN
        Expert states that each live node holds, shape (L, E, H), and that each node of the plan needs, shape (L, E, N)
        with ``N <= H``. Live nodes outside the plan still send their states.
    state_bytes
        Training state of one expert of one layer.
    domain_N
        Failure domain of each node of the plan, in which it stays; the live nodes are as many and in the same order.

    Notes
    -----
    The bound over all mappings is the largest of three: the bytes that the busiest node of the bottleneck assignment
    receives; an even share of `least_bytes` for every node that can send; and `balance_senders` of the states that more
    nodes need than hold.

    Examples
    --------
    Node 0 holds both experts and node 1 the second; node 1 wants both.

    >>> has = np.array([[[True, False], [True, True]]])
    >>> report = migration_report(has, np.ones((1, 2, 2), dtype=bool), state_bytes=10.0)
    >>> report.rows[0].busiest_receiver_bytes, report.least_bytes, report.bound_bytes
    (10.0, 10.0, 10.0)
    """
    _require_feasible(has_LEH, wants_LEN)
    fetched_HN = missing_HN = num_missing(has_LEH, wants_LEN)
    if domain_N is not None:
        missing_HN = keep_domains(missing_HN, domain_N, domain_N)
    # Greedy as published compares states; the other mappings compare bytes.
    bytes_HN = np.asarray(missing_HN * float(state_bytes), dtype=np.float64)
    column_N = np.arange(bytes_HN.shape[1])
    rows: list[MigrationRow] = []
    for name, mapping in MAPPINGS.items():
        chosen_N = mapping(missing_HN if mapping is map_greedily else bytes_HN)
        # Nodes outside the plan still send.
        order = np.append(chosen_N, np.setdiff1d(np.arange(len(bytes_HN)), chosen_N))
        states = has_LEH[:, :, order], with_more_nodes(wants_LEN, len(order) - len(chosen_N)), state_bytes
        moved = {sharing: share(*states) for sharing, share in SHARINGS.items()}
        received_N = fetched_HN[chosen_N, column_N] * float(state_bytes)
        received, total = float(received_N.max()), float(received_N.sum())
        bound_bytes = max(received, *(migration.sender_bound_bytes for migration in moved.values()))
        for sharing, migration in moved.items():
            sent = float(migration.bytes_NN.sum(axis=1).max())
            rows.append(MigrationRow(name, sharing, migration.num_states, total, sent, received, bound_bytes))
    least_bytes = float(bytes_HN[map_optimally(bytes_HN), column_N].sum())
    busiest = float(bytes_HN[map_bottleneck(bytes_HN), column_N].max())
    # At least this many nodes fetch a state, whichever nodes the mapping chooses.
    has_RH = has_LEH.reshape(-1, has_LEH.shape[2])
    more_R = np.maximum(wants_LEN.reshape(len(has_RH), -1).sum(axis=1) - has_RH.sum(axis=1), 0)
    _, sender_bytes = balance_senders(has_RH[more_R > 0], more_R[more_R > 0] * float(state_bytes))
    even_bytes = least_bytes / int(has_RH.any(axis=0).sum())
    return MigrationReport(tuple(rows), least_bytes, max(busiest, sender_bytes, even_bytes))


def _require_feasible(has_LEH: Bools, wants_LEN: Bools) -> None:
    num_hand, num_plan = has_LEH.shape[2], wants_LEN.shape[2]
    if num_hand < num_plan:
        raise InfeasiblePlanError(f"the plan is for {num_plan} nodes, but {num_hand} are alive; plan for these")
    lost = np.argwhere(wants_LEN.any(axis=2) & ~has_LEH.any(axis=2))
    if len(lost):
        layer, expert = lost[0]
        raise InfeasiblePlanError(f"expert {expert} of layer {layer} is on no live node; restart from a checkpoint")
