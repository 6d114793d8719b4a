"""Move states to the nodes that a plan needs them on, and compare ways to do so.

Axes: L layers, E experts, H live nodes, N nodes of the plan, R states to be sent.
"""

import math
from dataclasses import dataclass

import numpy as np

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.mapping import MAPPINGS, keep_domains, num_missing
from lazsim.placement.pair_sums import LARGEST_BITS, pair_sums
from lazsim.placement.plan import Bools, Floats, Ints, with_more_nodes


@dataclass(frozen=True, eq=False)
class Migration:
    """Bytes between nodes that bring every node the states of a plan."""

    bytes_NN: Floats
    """Bytes that each node sends to each other."""
    num_states: int
    """Expert states fetched."""


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


def _moving(has_LEN: Bools, wants_LEN: Bools) -> tuple[Bools, Bools, Ints]:
    """Return the owners and the receivers of each state that some node lacks, of shape (R, N), and which these are."""
    num_nodes = has_LEN.shape[2]
    has = has_LEN.reshape(-1, num_nodes)
    missing = wants_LEN.reshape(-1, num_nodes) > has
    # Most plans move the states of few experts.
    moving = np.flatnonzero(missing.any(axis=1))
    return has.take(moving, axis=0), missing.take(moving, axis=0), moving


@dataclass(frozen=True)
class MigrationRow:
    """Bytes that one mapping of `MAPPINGS` moves, of `num_states` expert states."""

    mapping: str
    num_states: int
    total_bytes: float
    busiest_sender_bytes: float
    busiest_receiver_bytes: float


def compare_mappings(
    has_LEH: Bools, wants_LEN: Bools, state_bytes: float, domain_N: Ints | None = None
) -> tuple[MigrationRow, ...]:
    """Compare ways to turn the live nodes into the nodes of a plan: one row for each of `MAPPINGS`.

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

    Examples
    --------
    Node 0 holds both experts and node 1 the second; node 1 wants both.

    >>> has = np.array([[[True, False], [True, True]]])
    >>> compare_mappings(has, np.ones((1, 2, 2), dtype=bool), state_bytes=10.0)[0].busiest_receiver_bytes
    10.0
    """
    _require_feasible(has_LEH, wants_LEN)
    missing_HN = num_missing(has_LEH, wants_LEN)
    if domain_N is not None:
        missing_HN = keep_domains(missing_HN, domain_N, domain_N)
    num_hand, num_plan = missing_HN.shape
    rows: list[MigrationRow] = []
    for name, mapping in MAPPINGS.items():
        chosen_N = mapping(missing_HN)
        # Nodes outside the plan still send.
        order = np.append(chosen_N, np.setdiff1d(np.arange(num_hand), chosen_N))
        moved = migrate(has_LEH[:, :, order], with_more_nodes(wants_LEN, num_hand - num_plan), state_bytes)
        received_N = missing_HN[chosen_N, np.arange(num_plan)] * float(state_bytes)
        sent = float(moved.bytes_NN.sum(axis=1).max())
        rows.append(MigrationRow(name, moved.num_states, float(received_N.sum()), sent, float(received_N.max())))
    return tuple(rows)


def _require_feasible(has_LEH: Bools, wants_LEN: Bools) -> None:
    num_hand, num_plan = has_LEH.shape[2], wants_LEN.shape[2]
    if num_hand < num_plan:
        raise InfeasiblePlanError(f"the plan is for {num_plan} nodes, but {num_hand} are alive; plan for these")
    lost = np.argwhere(wants_LEN.any(axis=2) & ~has_LEH.any(axis=2))
    if len(lost):
        layer, expert = lost[0]
        raise InfeasiblePlanError(f"expert {expert} of layer {layer} is on no live node; restart from a checkpoint")
