"""The operators of a transformer: attention, experts one or several at once, and the output layer with its loss."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from lazsim.errors import first_line
from lazsim.specs import AttentionSpec, ModelSpec

ROW_ALIGNMENT_BYTES = 16
"""``grouped_mm`` takes operands with rows of a multiple of this."""

Heads = tuple[Any, Any, Any]
"""Queries, keys and values of sequences, each of shape (sequences, heads, tokens, width)."""


def causal_attention(query: Any, key: Any, value: Any) -> Any:
    """Attend to the tokens before, by torch's fastest kernel; query heads share key-value heads if these are fewer."""
    shares = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shares)


def plain_attention(query: Any, key: Any, value: Any) -> Any:
    """Attend to the tokens before, written out as the definition has it."""
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    ahead = torch.ones(query.shape[-2], query.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(ahead, float("-inf")), -1) @ value


def attention_block(
    x: Any,
    weights: Sequence[Any],
    sequence_length: int,
    heads: AttentionSpec,
    *,
    norms: tuple[Sequence[Any], Sequence[Any]] = ((), ()),
    attend: Callable[[Any, Any, Any], Any] = causal_attention,
) -> tuple[Any, Any]:
    """Run layer norm, projections, attention, residual sum, and the layer norm of what follows.

    Tokens of whole sequences have shape (T, D). The `weights` are those of `AttentionSpec.projections`, each of shape
    (inputs, outputs), and of the projection back. The `norms` are gain and bias of each layer norm, if any. Heads are
    not rotated by position. Return the residual stream, and it after its layer norm.
    """
    *into, out = weights
    normed = functional.layer_norm(x, x.shape[-1:], *norms[0]).view(-1, sequence_length, x.shape[-1])
    split = _latent_heads if heads.kind == "latent" else _grouped_heads
    parts = (part.transpose(1, 2) for part in split(normed, into, heads))
    after = x + attend(*parts).transpose(1, 2).reshape(-1, heads.output_dim) @ out
    return after, functional.layer_norm(after, x.shape[-1:], *norms[1])


def _grouped_heads(x: Any, weights: Sequence[Any], heads: AttentionSpec) -> Heads:
    """Project queries, keys and values side by side."""
    numbers = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
    query, key, value = (x @ weights[0]).unflatten(-1, (-1, heads.head_dim)).split(numbers, -2)
    if heads.normed:
        query, key = (functional.rms_norm(part, (heads.head_dim,)) for part in (query, key))
    return query, key, value


def _latent_heads(x: Any, weights: Sequence[Any], heads: AttentionSpec) -> Heads:
    """Project queries, and keys and values from a latent vector, beside one key for positions that all heads share."""
    *of_query, down, up = weights
    query = x
    for place, weight in enumerate(of_query):
        query = (functional.rms_norm(query, query.shape[-1:]) if place else query) @ weight
    latent, position = (x @ down).split((heads.kv_rank, heads.rope_dim), -1)
    both = (functional.rms_norm(latent, latent.shape[-1:]) @ up).unflatten(-1, (heads.num_heads, -1))
    key, value = both.split((heads.nope_dim, heads.value_dim), -1)
    shared = position.unsqueeze(-2).expand(*key.shape[:-1], -1)
    return query.unflatten(-1, (heads.num_heads, -1)), torch.cat([key, shared], -1), value


def head_loss(x: Any, weight: Any, targets: Any, norm: Sequence[Any] = (), reduction: str = "mean") -> Any:
    """Run the last layer norm, the output layer and the cross-entropy; logits are at least in float32."""
    at_least = torch.promote_types(x.dtype, torch.float32)
    logits = (functional.layer_norm(x, x.shape[-1:], *norm) @ weight.t()).to(at_least)
    return functional.cross_entropy(logits, targets, reduction=reduction)


def expert(x: Any, *weights: Any) -> Any:
    """Run one expert: GELU between two matrices, or SwiGLU of three."""
    return activate([x @ up for up in weights[:-1]]) @ weights[-1]


def activate(ups: list[Any]) -> Any:
    """Apply GELU to one projection, SwiGLU to two."""
    return functional.silu(ups[0]) * ups[1] if len(ups) == 2 else functional.gelu(ups[0])


def looped_experts(x: Any, counts: Any, *weights: Any) -> Any:
    """Run the experts one after the other; their weights follow each other, those of the first expert first."""
    groups = x.split(counts.tolist())
    size = len(weights) // len(groups)
    return torch.cat([expert(group, *weights[e * size : (e + 1) * size]) for e, group in enumerate(groups)])


def unstacked_experts(x: Any, counts: Any, *weights: Any) -> Any:
    """Run the experts one after the other, from weights stacked over them."""
    by_expert = zip(*(weight.unbind(0) for weight in weights), strict=True)
    return looped_experts(x, counts, *(weight for own in by_expert for weight in own))


def grouped_experts(x: Any, counts: Any, *weights: Any) -> Any:
    """Run all experts by grouped matmuls."""
    ends = counts.cumsum(0).to(torch.int32)
    inner = activate([functional.grouped_mm(x, up, offs=ends) for up in weights[:-1]])
    return functional.grouped_mm(inner, weights[-1], offs=ends)


def use_grouped_mm(model: ModelSpec, device: str, dtype: Any) -> bool:
    """Tell whether experts run by grouped matmuls, and not in a loop."""
    return not why_looped(model, device, dtype)


def why_looped(model: ModelSpec, device: str, dtype: Any) -> str:
    """Return why experts run in a loop; empty where grouped matmuls work here, and the model's rows are aligned."""
    if any(width * dtype.itemsize % ROW_ALIGNMENT_BYTES for width in (model.expert_dim, model.d_ff_expert)):
        return f"rows are no multiples of {ROW_ALIGNMENT_BYTES} bytes"
    return grouped_mm_fault(device, dtype)


@cache
def grouped_mm_fault(device: str, dtype: Any) -> str:
    """Try whether torch and the device have native grouped matmuls, also backward, with right results.

    Return what is wrong, empty if nothing is.
    """
    if not hasattr(functional, "grouped_mm"):
        return "this torch has no grouped_mm"
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((24, 32), (3, 32, 64), (3, 64, 32))
    tensors = [torch.randn(s, device=device, dtype=dtype, generator=generator).requires_grad_() for s in shapes]
    counts = torch.tensor([19, 0, 5], device=device)
    try:
        with no_waiting(device):
            ours = grouped_experts(tensors[0], counts, *tensors[1:])
            # The gradient of a sum has strides of 0, which grouped_mm refuses.
            gradient = torch.randn_like(ours)
            gradients = torch.autograd.grad(ours, tensors, gradient)
        expected = unstacked_experts(tensors[0], counts, *tensors[1:])
        wanted = torch.autograd.grad(expected, tensors, gradient)
    except RuntimeError as error:
        return f"{type(error).__name__}: {first_line(error)}"
    pairs = zip((ours, *gradients), (expected, *wanted), strict=True)
    is_right = all(float((a - b).detach().norm()) <= 0.05 * float(b.detach().norm()) for a, b in pairs)
    return "" if is_right else "wrong results"


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Make the host fail instead of waiting for the device: torch's fallback loop waits in each matmul."""
    if device != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch warns that it does not find every operation that waits.
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
