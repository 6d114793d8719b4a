"""The blocks outside the experts: attention, and the output layer with its loss."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from lazsim.profiling.kernel import Kernel
from lazsim.specs import ModelSpec

HEAD_WIDTH = 64
"""Width of an attention head of GPT-2 (Radford et al. 2019): 12 heads for 768, 16 for 1024."""

HEAD_CHECK_TOKENS = 128

LOSS_SCALE = 2**12
"""What the loss is multiplied by, as in training in half precision (Micikevicius et al., arXiv 1710.03740).

The gradient of a logit, about one over vocabulary and tokens, would be lost in float16.
"""


def _plain_attention(query: Any, key: Any, value: Any) -> Any:
    ahead = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    scores = query @ key.transpose(-1, -2) * HEAD_WIDTH**-0.5
    return torch.softmax(scores.masked_fill(ahead, float("-inf")), -1) @ value


def attention_kernel(model: ModelSpec) -> Kernel | None:
    """Build causal attention between two layer norms, or nothing where the specification does not tell its shapes."""
    width = model.attention_score_dim // 2
    if model.attention_params != 4 * model.d_model * width or width % HEAD_WIDTH:
        return None

    def block(attend: Callable[..., Any], x: Any, into: Any, out: Any) -> Any:
        parts = functional.layer_norm(x, x.shape[-1:]) @ into
        query, key, value = (
            part.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for part in parts.view(-1, model.sequence_length, 3 * width).chunk(3, -1)
        )
        after = x + attend(query, key, value).transpose(1, 2).reshape(-1, width) @ out
        return functional.layer_norm(after, x.shape[-1:])

    return Kernel(
        "attention",
        tuple(model.sequence_length * 2**power for power in range(7)),
        lambda size, random: (
            random.normal(size, model.d_model),
            random.weight(model.d_model, 3 * width),
            random.weight(width, model.d_model),
        ),
        partial(block, partial(functional.scaled_dot_product_attention, is_causal=True)),
        partial(block, _plain_attention),
        # Causal: half of the pairs.
        lambda size: 6.0 * size * (model.attention_params + model.sequence_length / 2 * model.attention_score_dim),
        lambda size: 20.0 * size * width,
    )


def head_kernel(model: ModelSpec) -> Kernel:
    """Build the last layer norm, the output layer and the loss."""

    def loss(x: Any, weight: Any, targets: Any) -> Any:
        at_least = torch.promote_types(x.dtype, torch.float32)
        logits = (functional.layer_norm(x, x.shape[-1:]) @ weight.t()).to(at_least)
        return functional.cross_entropy(logits, targets) * LOSS_SCALE

    def reference(x: Any, weight: Any, targets: Any) -> Any:
        logits = functional.layer_norm(x, x.shape[-1:]) @ weight.t()
        return (logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]).mean() * LOSS_SCALE

    kernel = Kernel(
        "head",
        tuple(model.sequence_length * 2**power for power in range(7)),
        lambda size, random: (
            random.normal(size, model.d_model),
            random.normal(model.vocab_size, model.d_model, scale=model.d_model**-0.5),
            random.integers(model.vocab_size, size),
        ),
        loss,
        reference,
        lambda size: 6.0 * size * model.d_model * model.vocab_size,
        lambda size: 6.0 * size * model.vocab_size,
    )
    # Unlike attention it takes tokens as they come, so that a part of a sequence shows as much.
    return replace(kernel, checked_as=replace(kernel, sizes=(HEAD_CHECK_TOKENS,)))
