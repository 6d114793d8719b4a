"""Sums of gathered rows in one pass over them, by Triton: torch alone writes every product before it adds any.

Axes: T tokens, A = T k rows, k of each token, D width.
"""

from functools import cache
from typing import Any, Literal

import torch

from lazsim.errors import first_line

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 1024
"""Numbers of a row that a program loads at once, by 16 bytes for each of its 128 threads in half precision."""

TOLERANCE = 1e-5
"""Largest relative error of the trial: that of sums of a few float32 numbers."""


def works_on(device: torch.device) -> bool:
    """Tell whether Triton does the work on a device, and not torch."""
    return not why_not(device)


def rows_by(device: torch.device) -> Literal["torch", "triton"]:
    """Return the name of what does the work on a device."""
    return "triton" if works_on(device) else "torch"


@cache
def why_not(device: torch.device) -> str:
    """Try whether Triton compiles for a device and gets right results; return what is wrong, empty if nothing is.

    It needs a GPU and a compiler for C.
    """
    if device.type != "cuda":
        return "no GPU"
    if triton is None:
        return "Triton is not installed"
    generator = torch.Generator(device).manual_seed(0)
    rows, gradient = (torch.randn(size, 40, device=device, generator=generator) for size in (6, 3))
    row_of = torch.randperm(6, device=device, generator=generator).view(3, 2)
    weights = torch.rand(3, 2, device=device, generator=generator)
    try:
        found = sum_rows(rows, row_of, weights), *spread_rows(gradient, rows, row_of, weights)
    except Exception as error:  # Whatever Triton and the compiler behind it raise: torch does the work then.
        return f"{type(error).__name__}: {first_line(error)}"
    picked = rows[row_of]
    to_rows = torch.empty_like(rows)
    to_rows[row_of] = gradient[:, None] * weights[..., None]
    expected = (picked * weights[..., None]).sum(1), to_rows, (picked * gradient[:, None]).sum(-1)
    pairs = zip(found, expected, strict=True)
    return "" if all(float((a - b).norm()) <= TOLERANCE * float(b.norm()) for a, b in pairs) else "wrong results"


def sum_rows(rows: Any, row_of: Any, weights: Any) -> Any:
    """Add up the rows of each token by their numbers and weights, shape (T, k), if any; shape (T, D)."""
    (num_tokens, k), width = row_of.shape, rows.shape[1]
    sums = rows.new_empty(num_tokens, width)
    if num_tokens:
        grid = (num_tokens, triton.cdiv(width, BLOCK))
        _sum_rows[grid](
            rows.contiguous(), row_of.contiguous(), row_of if weights is None else weights.contiguous(), sums, width,
            k, weights is not None, _wide(rows), BLOCK,
        )  # fmt: skip
    return sums


def spread_rows(gradient: Any, rows: Any, row_of: Any, weights: Any) -> tuple[Any, Any]:
    """Return the gradients of rows, shape (A, D), and weights, shape (T, k), from that of their sums, shape (T, D)."""
    rows, weights = rows.contiguous(), weights.contiguous()
    to_rows, to_weights = torch.empty_like(rows), torch.empty_like(weights)
    if row_of.numel():
        _spread_rows[(row_of.numel(),)](
            gradient.contiguous(), rows, row_of.contiguous(), weights, to_rows, to_weights, rows.shape[1],
            row_of.shape[1], _wide(rows), BLOCK,
        )  # fmt: skip
    return to_rows, to_weights


def _wide(rows: Any) -> Any:
    """Return the type to add up in."""
    return tl.float64 if rows.dtype == torch.float64 else tl.float32


if triton is not None:

    @triton.jit
    def _sum_rows(
        rows, row_of, weights, sums, WIDTH: tl.constexpr, K: tl.constexpr, WEIGHTED: tl.constexpr, WIDE: tl.constexpr,
        BLOCK: tl.constexpr,
    ):  # fmt: skip
        token = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), WIDE)
        for place in tl.static_range(K):
            row = tl.load(row_of + token * K + place).to(tl.int64)
            values = tl.load(rows + row * WIDTH + column, mask=column < WIDTH).to(WIDE)
            if WEIGHTED:
                values *= tl.load(weights + token * K + place).to(WIDE)
            total += values
        tl.store(sums + token * WIDTH + column, total.to(sums.dtype.element_ty), mask=column < WIDTH)

    @triton.jit
    def _spread_rows(
        gradient, rows, row_of, weights, to_rows, to_weights, WIDTH: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr,
        BLOCK: tl.constexpr,
    ):  # fmt: skip
        place = tl.program_id(0).to(tl.int64)
        row = tl.load(row_of + place).to(tl.int64)
        weight = tl.load(weights + place).to(WIDE)
        product = tl.zeros((BLOCK,), WIDE)
        for begin in range(0, WIDTH, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            inside = column < WIDTH
            own = tl.load(gradient + place // K * WIDTH + column, mask=inside, other=0.0).to(WIDE)
            product += own * tl.load(rows + row * WIDTH + column, mask=inside, other=0.0).to(WIDE)
            tl.store(to_rows + row * WIDTH + column, (own * weight).to(to_rows.dtype.element_ty), mask=inside)
        tl.store(to_weights + place, tl.sum(product).to(to_weights.dtype.element_ty))
