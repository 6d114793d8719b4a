"""Flexible dispatch on the device: from the gate's choice to positions, without the host waiting for the device.

Axes: A token assignments of this rank, E experts, I source ranks, J target ranks, C cells (an expert at a rank).
"""

from collections.abc import Callable
from typing import Any

import torch


def sent_from(rank: int, tokens_EI: Any, replicas_EJ: Any) -> Any:
    """Decide how many of its tokens a rank sends to each rank for each expert, shape (E, J).

    The same integers as `lazsim.dispatch.dispatch_tokens` on the host, which says how.
    """
    total = tokens_EI.sum(1, keepdim=True)
    shares = (replicas_EJ.cumsum(1) * total).div(replicas_EJ.sum(1, keepdim=True), rounding_mode="floor")
    capacity = shares.diff(dim=1, prepend=torch.zeros_like(total))
    own = torch.minimum(tokens_EI, capacity)
    # Sums over ranks up to each, of what is left and of what is spread: few operations, since each has to be launched.
    over, left = tokens_EI - own, (capacity - own).cumsum(1)
    spread = left
    for source in range(rank + 1):
        spread = (over[:, source, None] * left).div(left[:, -1:].clamp(min=1), rounding_mode="floor")
        left = left - spread
    return spread.diff(dim=1, prepend=torch.zeros_like(total)) + own * (
        torch.arange(own.shape[1], device=own.device) == rank
    )


def schedule(experts_A: Any, tokens_EI: Any, replicas_EJ: Any, rank: int) -> tuple[Any, Any, Any, Any]:
    """Tell where each assignment of a rank goes.

    Parameters
    ----------
    experts_A
        Expert of each assignment.
    tokens_EI
        Assignments to each expert at every rank; this rank's are those of `experts_A`.
    replicas_EJ
        Replicas of each expert on each rank.
    rank
        This rank.

    Returns
    -------
    tuple
        Assignments by expert, shape (A,); for each of them its row in the buffer that is sent, shape (A,), whose rows
        for one rank, and in them those for one expert, are contiguous; the row of each assignment, shape (A,); and what
        is sent, shape (E, J).
    """
    sent_EJ = sent_from(rank, tokens_EI, replicas_EJ)
    by_expert = torch.argsort(experts_A, stable=True)
    position = torch.arange(len(experts_A), device=experts_A.device)
    ends_C = sent_EJ.flatten().cumsum(0)
    cell = torch.searchsorted(ends_C, position, right=True)
    starts_C = ends_C - sent_EJ.flatten()
    by_rank = sent_EJ.t().flatten()
    first_JE = (by_rank.cumsum(0) - by_rank).view(sent_EJ.shape[1], sent_EJ.shape[0])
    row = position + (first_JE.t().flatten() - starts_C)[cell]
    return by_expert, row, torch.empty_like(row).scatter_(0, by_expert, row), sent_EJ


def inverse_of(order: Any) -> Any:
    """Invert a permutation."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def count_tokens(experts_A: Any, num_experts: int) -> Any:
    """Count assignments by expert, on the device."""
    counts = torch.zeros(num_experts, dtype=torch.int64, device=experts_A.device)
    return counts.scatter_add_(0, experts_A, torch.ones_like(experts_A))


class _Gather(torch.autograd.Function):
    """Rows in another order, each `k` times; backward a gather too, since the order's inverse is known."""

    @staticmethod
    def forward(ctx: Any, x: Any, order: Any, inverse: Any, k: int) -> Any:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, order.div(k, rounding_mode="floor") if k > 1 else order)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        rows = grads[0].index_select(0, inverse)
        return (rows.unflatten(0, (-1, ctx.k)).sum(1) if ctx.k > 1 else rows), None, None, None


def gather(x: Any, order: Any, inverse: Any, k: int = 1) -> Any:
    """Return ``x[order // k]``, for a permutation and its inverse."""
    return _Gather.apply(x, order, inverse, k)  # type: ignore[no-untyped-call]


def pack_and_unpack(
    x: Any,
    experts_A: Any,
    tokens_EI: Any,
    replicas_EJ: Any,
    rank: int,
    k: int,
    between: Callable[[Any, Any, Any], Any] = lambda packed, _row, _back: packed,
) -> Any:
    """Reorder a rank's own tokens as dispatch and combine do: packed to be sent, and unpacked; shape (A, width).

    What happens `between` is told of the rows, and of the order by expert and its inverse.
    """
    by_expert, row, row_of, _ = schedule(experts_A, tokens_EI, replicas_EJ, rank)
    back = inverse_of(row)
    order = by_expert.index_select(0, back)
    return gather(between(gather(x, order, row_of, k), row, back), row_of, order)


def sort_and_unsort(arrived: Any, order: Any, inverse: Any) -> Any:
    """Reorder rows that arrived as dispatch and combine do: sorted by expert, and put back."""
    return gather(gather(arrived, order, inverse), inverse, order)


def there_and_back(x: Any, experts_A: Any, tokens_EI: Any, replicas_EJ: Any, rank: int, k: int) -> Any:
    """Reorder tokens as dispatch and combine do on both sides, here both of this rank's own rows; shape (A, width)."""
    return pack_and_unpack(x, experts_A, tokens_EI, replicas_EJ, rank, k, between=sort_and_unsort)
