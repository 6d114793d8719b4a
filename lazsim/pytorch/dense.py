"""The operators outside the experts: attention, and the output layer with its loss."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

causal_attention = partial(functional.scaled_dot_product_attention, is_causal=True)
"""Attend to the tokens before, by torch's fused kernel."""


def plain_attention(query: Any, key: Any, value: Any) -> Any:
    """Attend to the tokens before, written out as the definition has it."""
    ahead = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(ahead, float("-inf")), -1) @ value


def attention_block(
    x: Any,
    into: Any,
    out: Any,
    sequence_length: int,
    head_width: int,
    *,
    norms: tuple[Sequence[Any], Sequence[Any]] = ((), ()),
    attend: Callable[[Any, Any, Any], Any] = causal_attention,
) -> tuple[Any, Any]:
    """Run layer norm, projections, attention, residual sum, and the layer norm of what follows.

    Tokens of whole sequences, shape (T, D), are projected `into` queries, keys and values side by side, and back `out`.
    The `norms` are gain and bias of each layer norm, if any. Return the residual stream, and it after its layer norm.
    """
    width = out.shape[0]
    parts = functional.layer_norm(x, x.shape[-1:], *norms[0]) @ into
    query, key, value = (
        part.unflatten(-1, (-1, head_width)).transpose(1, 2)
        for part in parts.view(-1, sequence_length, 3 * width).chunk(3, -1)
    )
    after = x + attend(query, key, value).transpose(1, 2).reshape(-1, width) @ out
    return after, functional.layer_norm(after, x.shape[-1:], *norms[1])


def head_loss(x: Any, weight: Any, targets: Any, norm: Sequence[Any] = (), reduction: str = "mean") -> Any:
    """Run the last layer norm, the output layer and the cross-entropy; logits are at least in float32."""
    at_least = torch.promote_types(x.dtype, torch.float32)
    logits = (functional.layer_norm(x, x.shape[-1:], *norm) @ weight.t()).to(at_least)
    return functional.cross_entropy(logits, targets, reduction=reduction)
