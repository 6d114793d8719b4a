"""From the gate's choice to rows that are sent, received and combined.

Operators on the device never make the host wait for it. Only `plan_exchange` runs on the host, which has to know how
many rows it exchanges.

Axes: A token assignments of this rank, E experts, I source ranks, J target ranks, C cells (an expert at a rank).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazsim.dispatch import dispatch_tokens
from lazsim.placement.plan import Ints
from lazsim.pytorch import fused


def gate(x: Any, weight: Any, k: int) -> tuple[Any, Any, Any]:
    """Choose experts; at least in float32, as in Switch Transformer (arXiv 2101.03961, selective precision).

    Return the probabilities of the chosen ones and their numbers, shape (T, k), and all probabilities, shape (T, E).
    """
    at_least = torch.promote_types(x.dtype, torch.float32)
    probs = torch.softmax(x.to(at_least) @ weight.to(at_least), -1)
    return *torch.topk(probs, k), probs


def sent_from(rank: int, tokens_EI: Any, replicas_EJ: Any) -> Any:
    """Decide how many tokens of a rank go to each rank for each expert, shape (E, J).

    The result equals that of `lazsim.dispatch.dispatch_tokens`, which explains the rule, on the host.
    """
    total = tokens_EI.sum(1, keepdim=True)
    shares = (replicas_EJ.cumsum(1) * total).div(replicas_EJ.sum(1, keepdim=True), rounding_mode="floor")
    capacity = shares.diff(dim=1, prepend=torch.zeros_like(total))
    own = torch.minimum(tokens_EI, capacity)
    # Cumulative sums over ranks keep the number of operations low, since each has to be launched.
    over, left = tokens_EI - own, (capacity - own).cumsum(1)
    spread = left
    for source in range(rank + 1):
        spread = (over[:, source, None] * left).div(left[:, -1:].clamp(min=1), rounding_mode="floor")
        left = left - spread
    return spread.diff(dim=1, prepend=torch.zeros_like(total)) + own * (
        torch.arange(own.shape[1], device=own.device) == rank
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """Order of a rank's assignments in the buffer that it sends; each has shape (A,).

    In the buffer the rows for one rank, and among them those for one expert, are contiguous.
    """

    by_expert: Any
    """Assignments sorted by expert."""
    row: Any
    """Row of each of them."""
    row_of: Any
    """Row of each assignment."""


def assign_rows(experts_A: Any, sent_EJ: Any) -> Rows:
    """Give each assignment its row in the buffer that is sent, from the expert of each and the numbers to send."""
    # Fewer bits sort faster on a GPU.
    by_expert = torch.argsort(experts_A.to(torch.int32), stable=True)
    position = torch.arange(len(experts_A), device=experts_A.device)
    ends_C = sent_EJ.flatten().cumsum(0)
    cell = torch.searchsorted(ends_C, position, right=True)
    starts_C = ends_C - sent_EJ.flatten()
    by_rank = sent_EJ.t().flatten()
    first_JE = (by_rank.cumsum(0) - by_rank).view(sent_EJ.shape[1], sent_EJ.shape[0])
    row = position + (first_JE.t().flatten() - starts_C)[cell]
    return Rows(by_expert, row, torch.empty_like(row).scatter_(0, by_expert, row))


def schedule(experts_A: Any, tokens_EI: Any, replicas_EJ: Any, rank: int) -> tuple[Rows, Any]:
    """Schedule flexible dispatch for a rank on its device: the rows of its assignments, and the numbers to send.

    They follow from the expert of each of its assignments, those at every rank, and the replicas on every rank.
    """
    sent_EJ = sent_from(rank, tokens_EI, replicas_EJ)
    return assign_rows(experts_A, sent_EJ), sent_EJ


def inverse_of(order: Any) -> Any:
    """Invert a permutation."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def count_tokens(experts_A: Any, num_experts: int) -> Any:
    """Count assignments by expert, on the device."""
    counts = torch.zeros(num_experts, dtype=torch.int64, device=experts_A.device)
    return counts.scatter_add_(0, experts_A, torch.ones_like(experts_A))


class _Gather(torch.autograd.Function):
    """Rows in another order, each `k` times; its gradient is a gather too, since the inverse order is known."""

    @staticmethod
    def forward(ctx: Any, x: Any, order: Any, inverse: Any, k: int) -> Any:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, order.div(k, rounding_mode="floor") if k > 1 else order)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return _sum_rows(grads[0], inverse.view(-1, ctx.k), None), None, None, None


def gather(x: Any, order: Any, inverse: Any, k: int = 1) -> Any:
    """Return ``x[order // k]``, for a permutation and its inverse."""
    return _Gather.apply(x, order, inverse, k)  # type: ignore[no-untyped-call]


class _Combine(torch.autograd.Function):
    """Sums of `k` rows each, by their numbers and weights; the order of all rows is the inverse of their numbers."""

    @staticmethod
    def forward(ctx: Any, rows: Any, row_of: Any, order: Any, weights: Any, k: int) -> Any:
        ctx.save_for_backward(rows if weights is not None else rows.new_empty(0), row_of, order, weights)
        ctx.k = k
        return _sum_rows(rows, row_of.view(-1, k), weights)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rows, row_of, order, weights = ctx.saved_tensors
        if weights is None:
            return grads[0].index_select(0, order.div(ctx.k, rounding_mode="floor")), None, None, None, None
        to_rows, to_weights = _spread_rows(grads[0], rows, row_of.view(-1, ctx.k), weights)
        return to_rows, None, None, to_weights, None


def _sum_rows(rows: Any, row_of: Any, weights: Any) -> Any:
    """Add up the rows of each token, by their numbers, shape (T, k), and weights, if any; shape (T, width)."""
    if fused.works_on(rows.device):
        return fused.sum_rows(rows, row_of, weights)
    picked = rows.index_select(0, row_of.flatten())
    if weights is not None:
        picked = picked * weights.to(rows.dtype).view(-1, 1)
    return picked.unflatten(0, row_of.shape).sum(1) if row_of.shape[1] > 1 else picked


def _spread_rows(gradient: Any, rows: Any, row_of: Any, weights: Any) -> tuple[Any, Any]:
    """Return the gradients of rows and weights from that of weighted sums."""
    if fused.works_on(rows.device):
        return fused.spread_rows(gradient, rows, row_of, weights)
    numbers = row_of.flatten()
    spread = gradient.repeat_interleave(row_of.shape[1], 0)
    to_weights = (spread * rows.index_select(0, numbers)).sum(1).view(weights.shape).to(weights.dtype)
    to_rows = torch.empty_like(rows).index_copy_(0, numbers, spread * weights.to(rows.dtype).view(-1, 1))
    return to_rows, to_weights


def sort_and_unsort(arrived: Any, order: Any, inverse: Any, between: Callable[[Any], Any] = lambda rows: rows) -> Any:
    """Sort rows that arrived by expert, compute what comes `between`, and put the rows back."""
    return gather(between(gather(arrived, order, inverse)), inverse, order)


def pack_and_combine(
    x: Any,
    rows: Rows,
    k: int,
    weights: Any = None,
    between: Callable[[Any, Any, Any], Any] = lambda packed, _row, _back: packed,
) -> Any:
    """Pack a rank's tokens to be sent, exchange and compute `between`, and add up the `k` rows of each token.

    The function `between` gets the packed rows, and the order by expert with its inverse. The `weights`, shape (T, k),
    are those of the gate. Return shape (T, width).
    """
    back = inverse_of(rows.row)
    order = rows.by_expert.index_select(0, back)
    returned = between(gather(x, order, rows.row_of, k), rows.row, back)
    return _Combine.apply(returned, rows.row_of, order, weights, k)  # type: ignore[no-untyped-call]


def there_and_back(x: Any, rows: Rows, k: int, weights: Any = None) -> Any:
    """Reorder tokens as dispatch and combine do on both sides, here both on the rank's own rows; shape (T, width)."""
    return pack_and_combine(x, rows, k, weights, between=sort_and_unsort)


@dataclass(frozen=True, eq=False)
class ExchangePlan:
    """Rows that one rank sends and receives for a layer, known to the host."""

    sent_EJ: Ints
    """Assignments of this rank for each expert to each rank."""
    row_in_buffer: Ints | None
    """Row of each packed assignment in a padded buffer; none where the buffer is not padded."""
    counts_in: list[int]
    counts_out: list[int]
    """Rows for and from each rank."""
    order: Ints
    """Received rows in the order of their experts."""
    counts_by_expert: Ints
    """Received rows of each expert, shape (E,)."""


def send_counts(tokens_EI: Ints, replicas_EJ: Ints, group_J: Ints | None) -> Ints:
    """Return the tokens of each expert from each rank to each rank, shape (E, I, J).

    Tokens stay inside the group of their rank, `group_J`; under flexible dispatch there are no groups.

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


def plan_exchange(
    tokens_EI: Ints, replicas_EJ: Ints, group_J: Ints | None, rank: int, *, padded: bool = False
) -> ExchangePlan:
    """Plan the exchange of one rank; see `send_counts`.

    Where it is `padded`, each expert's buffer is as large as the fullest: every rank sends the same number of rows for
    every expert to the rank of its group that holds it.
    """
    sent_EIJ = rows_EIJ = send_counts(tokens_EI, replicas_EJ, group_J)
    if padded:
        assert group_J is not None, "only groups of expert parallelism are padded"
        holds_EIJ = (replicas_EJ[:, None] > 0) & (group_J[:, None] == group_J)
        rows_EIJ = holds_EIJ * tokens_EI.max()
    sent_C, rows_C = sent_EIJ[:, rank].T.reshape(-1), rows_EIJ[:, rank].T.reshape(-1)
    shift_C = np.cumsum(rows_C) - rows_C - (np.cumsum(sent_C) - sent_C)
    received_IE = rows_EIJ[:, :, rank].T
    expert_of_row = np.repeat(np.tile(np.arange(len(tokens_EI)), len(received_IE)), received_IE.reshape(-1))
    return ExchangePlan(
        sent_EJ=sent_EIJ[:, rank],
        row_in_buffer=np.arange(sent_C.sum()) + np.repeat(shift_C, sent_C) if padded else None,
        counts_in=rows_EIJ[:, rank].sum(axis=0).tolist(),
        counts_out=received_IE.sum(axis=1).tolist(),
        order=np.argsort(expert_of_row, kind="stable"),
        counts_by_expert=received_IE.sum(axis=0),
    )
