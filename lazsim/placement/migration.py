"""Move states to the nodes that a plan needs them on, compare ways to do so, and bound what any way moves.

Axes: L layers, E experts, H live nodes, N nodes of the plan, R states to be sent, C classes of states with the same
owners.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.mapping import MAPPINGS, keep_domains, num_missing
from lazsim.placement.pair_sums import LARGEST_BITS, pair_sums
from lazsim.placement.plan import Bools, Floats, Ints, unique_rows, with_more_nodes


@dataclass(frozen=True, eq=False)
class Migration:
    """Bytes between nodes that bring every node the states of a plan."""

    bytes_NN: Floats
    """Bytes that each node sends to each other."""
    num_states: int
    """Expert states fetched."""
    sender_bound_bytes: float = 0.0
    """Lower bound of the busiest sender's bytes, however owners share the sending; 0 where it is not computed."""


def migrate(
    has_LEN: Bools,
    wants_LEN: Bools,
    state_bytes: float,
    has_dense_N: Bools | None = None,
    dense_bytes: float = 0.0,
    times_L: Ints | None = None,
) -> Migration:
    """Fetch each missing expert state, and the dense state where a node lacks it, from the nodes that have it.

    Some node holds each state that is needed: else the caller restarts from a checkpoint.

    Parameters
    ----------
    has_LEN, wants_LEN
        Expert states that each node holds and needs, shape (L, E, N).
    state_bytes
        Training state of one expert of one layer.
    has_dense_N
        Nodes that hold the training state outside the experts, shape (N,); all by default.
    dense_bytes
        Size of that state.
    times_L
        Layers that each layer stands for; one if not given.

    Raises
    ------
    AssertionError
        When no node holds a state that is needed: the caller must have restarted from a checkpoint.

    Notes
    -----
    All owners of a state share the sending evenly, as in the system of Lazarus (arXiv 2407.04656).
    """
    has, missing, moving = _moving(has_LEN, wants_LEN)
    times_R = np.ones(len(moving), dtype=np.int64) if times_L is None else times_L[moving // has_LEN.shape[1]]
    owners_R = has.sum(axis=1)
    assert owners_R.all(), "every wanted expert has an owner"
    # In whole units, shares add up to the same in any order; a power of two of them is one state.
    unit = 2.0 ** (LARGEST_BITS - 1 - math.ceil(math.log2((times_R / owners_R).sum() + 1)))
    units_R = times_R * np.rint(unit / owners_R).astype(np.int64)
    bytes_NN = pair_sums(has, missing, units_R) / unit * state_bytes
    if has_dense_N is not None and not has_dense_N.all():
        assert has_dense_N.any(), "some node holds the dense state"
        bytes_NN += np.outer(has_dense_N / has_dense_N.sum(), ~has_dense_N) * dense_bytes
    return Migration(bytes_NN, int(times_R @ missing.sum(axis=1)))


def migrate_balanced(has_LEN: Bools, wants_LEN: Bools, state_bytes: float) -> Migration:
    """Fetch the same expert states, with the sending shared by `balance_senders`: the busiest sends least."""
    has, missing, _ = _moving(has_LEN, wants_LEN)
    parts_RN, bound_bytes = balance_senders(has, missing.sum(axis=1) * float(state_bytes))
    return Migration((parts_RN * float(state_bytes)).T @ missing, int(missing.sum()), bound_bytes)


def balance_senders(owns_RN: Bools, bytes_R: Floats) -> tuple[Floats, float]:
    """Share the sending of each state among its owners so that the busiest sender sends least.

    Parameters
    ----------
    owns_RN
        Owners of each state, at least one, shape (R, N).
    bytes_R
        Bytes of each state, for all its receivers together, shape (R,).

    Returns
    -------
    parts_RN : ndarray of float64, shape (R, N)
        Share of a state's bytes that each node sends; the shares of a state add up to 1.
    bound_bytes : float
        Lower bound of the busiest sender's bytes; the shares reach it up to rounding.

    Notes
    -----
    States with the same owners are one class, of ``d[C]`` bytes. The linear program

        minimize T  subject to  sum_N x[C, N] = d[C],  sum_C x[C, N] <= T,  x >= 0 and 0 where N owns no C

    is solved by the dual simplex of HiGHS (Huangfu and Hall, Math. Prog. Comp. 10, 2018). The bound does not depend on
    the solver: for prices ``y >= 0`` of sending from a node that add up to 1, the busiest sender is at least the
    average ``sum_N y[N] sum_C x[C, N]``, and that at least ``sum_C d[C] min(y[owners of C])``; the prices are the
    dual solution. States go straight from owners to receivers: no node passes on what it receives.

    Examples
    --------
    Only node 0 can send the first state, so node 1 sends the second.

    >>> parts, bound = balance_senders(np.array([[True, False], [True, True]]), np.array([10.0, 10.0]))
    >>> parts.round(6).tolist(), round(bound, 6)
    ([[1.0, 0.0], [0.0, 1.0]], 10.0)
    """
    assert owns_RN.any(axis=1).all(), "every wanted state has an owner"
    if not bytes_R.any():
        return owns_RN / owns_RN.sum(axis=1, keepdims=True), 0.0
    owns_CN, class_R = unique_rows(owns_RN)
    sent_CN, prices_N = _solve(owns_CN, np.bincount(class_R, bytes_R).astype(np.float64))
    # States that no node needs: their owners share evenly.
    total_C = sent_CN.sum(axis=1, keepdims=True)
    parts_CN = np.where(total_C > 0, sent_CN, owns_CN)
    parts_CN /= parts_CN.sum(axis=1, keepdims=True)
    least_R = np.where(owns_RN, prices_N, np.inf).min(axis=1)
    return parts_CN[class_R], float(bytes_R @ least_R)


def _solve(owns_CN: Bools, bytes_C: Floats) -> tuple[Floats, Floats]:
    """Return the share that each node sends of each class, shape (C, N), and the prices of the nodes, shape (N,)."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack

    num_classes, num_nodes = owns_CN.shape
    klass, node = owns_CN.nonzero()
    pair, ones = np.arange(len(klass)), np.ones(len(klass))
    load = csr_array((ones, (node, pair)), shape=(num_nodes, len(klass)))
    # The stubs of scipy know no sparse constraints.
    sent_less_limit: Any = hstack([load, csr_array(-np.ones((num_nodes, 1)))])
    sent_of_class: Any = csr_array((ones, (klass, pair)), shape=(num_classes, len(klass) + 1))
    solved = linprog(
        np.append(np.zeros(len(klass)), 1.0),
        A_ub=sent_less_limit,
        b_ub=np.zeros(num_nodes),
        A_eq=sent_of_class,
        # Shares of the total, since the solver's tolerances are absolute.
        b_eq=bytes_C / bytes_C.sum(),
        method="highs-ds",
    )
    assert solved.x is not None, f"such a program always has a solution: {solved.message}"
    sent_CN = np.zeros(owns_CN.shape)
    sent_CN[klass, node] = np.maximum(solved.x[:-1], 0.0)
    prices_N = np.maximum(-solved.ineqlin.marginals, 0.0)
    return sent_CN, prices_N / prices_N.sum()


def _moving(has_LEN: Bools, wants_LEN: Bools) -> tuple[Bools, Bools, Ints]:
    """Return the owners and the receivers of each state that some node lacks, of shape (R, N), and which these are."""
    num_nodes = has_LEN.shape[2]
    has = has_LEN.reshape(-1, num_nodes)
    missing = wants_LEN.reshape(-1, num_nodes) > has
    # Most plans move the states of few experts.
    moving = np.flatnonzero(missing.any(axis=1))
    return has.take(moving, axis=0), missing.take(moving, axis=0), moving


SHARINGS: Mapping[str, Callable[[Bools, Bools, float], Migration]] = {"even": migrate, "balanced": migrate_balanced}
"""Ways to share the sending of a state among its owners, by name."""


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
    missing_HN = num_missing(has_LEH, wants_LEN)
    if domain_N is not None:
        missing_HN = keep_domains(missing_HN, domain_N, domain_N)
    num_hand, num_plan = missing_HN.shape
    received: dict[str, Floats] = {}
    rows: list[MigrationRow] = []
    for name, mapping in MAPPINGS.items():
        chosen_N = mapping(missing_HN)
        # Nodes outside the plan still send.
        order = np.append(chosen_N, np.setdiff1d(np.arange(num_hand), chosen_N))
        states = has_LEH[:, :, order], with_more_nodes(wants_LEN, num_hand - num_plan), state_bytes
        moved = {sharing: share(*states) for sharing, share in SHARINGS.items()}
        received[name] = missing_HN[chosen_N, np.arange(num_plan)].astype(np.float64) * float(state_bytes)
        most, total = float(received[name].max()), float(received[name].sum())
        bound_bytes = max(most, *(migration.sender_bound_bytes for migration in moved.values()))
        for sharing, migration in moved.items():
            sent = float(migration.bytes_NN.sum(axis=1).max())
            rows.append(MigrationRow(name, sharing, migration.num_states, total, sent, most, bound_bytes))
    least_bytes, busiest = float(received["optimal"].sum()), float(received["bottleneck"].max())
    # At least this many nodes fetch a state, whichever nodes the mapping chooses.
    has_RH = has_LEH.reshape(-1, has_LEH.shape[2])
    more_R = np.maximum(wants_LEN.reshape(len(has_RH), -1).sum(axis=1) - has_RH.sum(axis=1), 0)
    _, sender_bytes = balance_senders(has_RH[more_R > 0], more_R[more_R > 0] * float(state_bytes))
    even_bytes = least_bytes / max(1, int(has_RH.any(axis=0).sum()))
    return MigrationReport(tuple(rows), least_bytes, max(busiest, sender_bytes, even_bytes))


def _require_feasible(has_LEH: Bools, wants_LEN: Bools) -> None:
    num_hand, num_plan = has_LEH.shape[2], wants_LEN.shape[2]
    if num_hand < num_plan:
        raise InfeasiblePlanError(f"the plan is for {num_plan} nodes, but {num_hand} are alive; plan for these")
    lost = np.argwhere(wants_LEN.any(axis=2) & ~has_LEH.any(axis=2))
    if len(lost):
        layer, expert = lost[0]
        raise InfeasiblePlanError(f"expert {expert} of layer {layer} is on no live node; restart from a checkpoint")
