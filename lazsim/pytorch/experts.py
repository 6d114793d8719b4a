"""Experts: one, and several at once over uneven token counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from lazsim.specs import ModelSpec

ROW_ALIGNMENT_BYTES = 16
"""``grouped_mm`` takes operands with rows of a multiple of this."""


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
    """Tell whether experts run by grouped matmuls: they must work here, and the model's rows must be aligned."""
    widths = (model.d_model, model.d_ff_expert)
    aligned = all(width * dtype.itemsize % ROW_ALIGNMENT_BYTES == 0 for width in widths)
    return aligned and has_grouped_mm(device, dtype)


def has_grouped_mm(device: str, dtype: Any) -> bool:
    """Try whether torch and the device have native grouped matmuls, also backward, with right results."""
    if not hasattr(functional, "grouped_mm"):
        return False
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((24, 32), (3, 32, 64), (3, 64, 32))
    tensors = [torch.randn(s, device=device, dtype=dtype, generator=generator).requires_grad_() for s in shapes]
    counts = torch.tensor([19, 0, 5], device=device)
    try:
        with _no_waiting(device):
            ours = grouped_experts(tensors[0], counts, *tensors[1:])
            # The gradient of a sum has strides of 0, which grouped_mm refuses.
            gradient = torch.randn_like(ours)
            gradients = torch.autograd.grad(ours, tensors, gradient)
        expected = unstacked_experts(tensors[0], counts, *tensors[1:])
        wanted = torch.autograd.grad(expected, tensors, gradient)
        return all(
            float((a - b).detach().norm()) <= 0.05 * float(b.detach().norm())
            for a, b in zip((ours, *gradients), (expected, *wanted), strict=True)
        )
    except (RuntimeError, NotImplementedError):
        return False


@contextmanager
def _no_waiting(device: str) -> Iterator[None]:
    """Make the host fail instead of waiting for the device: torch's fallback loop waits in each matmul."""
    if device != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
