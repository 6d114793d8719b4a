"""Where the token rows of a layer go and come from: the dispatch plan of one rank, as indices.

Axes: E experts, I source ranks, J target ranks.
"""

from dataclasses import dataclass

import numpy as np

from lazsim.dispatch import Ints, dispatch_tokens


@dataclass(frozen=True, eq=False)
class Route:
    """How one rank sends its token assignments of a layer, and handles those it receives.

    Attributes
    ----------
    source : ndarray of int64
        Position, among own assignments sorted by expert, of each row sent.
    place : ndarray of int64
        Its row in the send buffer, which has empty rows where buffers are padded.
    counts_in, counts_out : list of int
        Rows for and from each rank.
    by_expert : ndarray of int64
        Received rows in the order of their experts.
    counts_by_expert : list of int
        Received rows of each expert, shape (E,).
    """

    source: Ints
    place: Ints
    counts_in: list[int]
    counts_out: list[int]
    by_expert: Ints
    counts_by_expert: list[int]


def send_counts(tokens_EI: Ints, replicas_EJ: Ints, group_J: Ints | None) -> Ints:
    """Return the tokens of each expert from each rank to each rank, shape (E, I, J).

    Parameters
    ----------
    tokens_EI
        Tokens routed to each expert at each rank.
    replicas_EJ
        Replicas on each rank.
    group_J
        The group of each rank, inside which tokens stay; none under flexible dispatch.

    Examples
    --------
    >>> send_counts(np.array([[4, 2]]), np.array([[1, 1]]), np.array([0, 1])).tolist()
    [[[4, 0], [0, 2]]]
    """
    if group_J is None:
        return dispatch_tokens(tokens_EI, replicas_EJ)
    sent_EIJ = np.zeros((*tokens_EI.shape, tokens_EI.shape[1]), dtype=np.int64)
    for group in np.unique(group_J):
        own = np.flatnonzero(group_J == group)
        sent_EIJ[:, own[:, None], own] = dispatch_tokens(tokens_EI[:, own], replicas_EJ[:, own])
    return sent_EIJ


def plan_route(tokens_EI: Ints, replicas_EJ: Ints, group_J: Ints | None, rank: int, *, padded: bool = False) -> Route:
    """Plan the dispatch of one rank.

    Parameters
    ----------
    tokens_EI, replicas_EJ, group_J
        See `send_counts`.
    padded
        Whether each expert's buffer is as large as the fullest: every rank sends as many rows for every expert to the
        rank of its group that holds it.
    """
    sent_EIJ = send_counts(tokens_EI, replicas_EJ, group_J)
    rows_EIJ = sent_EIJ
    if padded:
        assert group_J is not None, "only groups of expert parallelism are padded"
        holds_EIJ = (replicas_EJ[:, None] > 0) & (group_J[:, None] == group_J)
        rows_EIJ = holds_EIJ * tokens_EI.max()
    # Rows for a rank lie together, and among them those of an expert; they are taken from runs of one expert each.
    sent_JE, rows_JE = sent_EIJ[:, rank].T, rows_EIJ[:, rank].T
    run_E = np.cumsum(tokens_EI[:, rank]) - tokens_EI[:, rank]
    start_JE = run_E + np.cumsum(sent_JE, axis=0) - sent_JE
    received_IE = rows_EIJ[:, :, rank].T
    return Route(
        source=_ranges(start_JE.reshape(-1), sent_JE.reshape(-1)),
        place=_ranges(_starts(rows_JE), sent_JE.reshape(-1)),
        counts_in=rows_JE.sum(axis=1).tolist(),
        counts_out=received_IE.sum(axis=1).tolist(),
        by_expert=_ranges(_starts(received_IE).reshape(received_IE.shape).T.reshape(-1), received_IE.T.reshape(-1)),
        counts_by_expert=received_IE.sum(axis=0).tolist(),
    )


def _starts(counts: Ints) -> Ints:
    """Return where each count begins when all follow each other."""
    flat = counts.reshape(-1)
    starts: Ints = np.cumsum(flat) - flat
    return starts


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Join ranges.

    Examples
    --------
    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    joined: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return joined
