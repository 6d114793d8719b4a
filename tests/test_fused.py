"""Triton's kernels against torch over random shapes, by its interpreter: no GPU is needed, but Triton is."""

# ruff: noqa: E402

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")
if torch.cuda.is_available():
    pytest.skip("tests/test_gpu.py runs the kernels on the GPU", allow_module_level=True)
pytest.importorskip("triton", reason="needs Triton: pip install triton")

from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.pytorch import fused

EPSILON = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Largest error of a sum, as a share of the sizes of its terms. The interpreter cuts bfloat16 off, a GPU rounds it."""


@st.composite
def problems(draw):
    """Rows of tokens that k experts each return in any order; widths of less and more than one block."""
    num_tokens, k = draw(st.integers(0, 5)), draw(st.integers(1, 8))
    width = draw(st.sampled_from([1, 40, 1023, 1024, 1025, 2500]))
    dtype, weight_dtype = draw(st.sampled_from([*((kind, kind) for kind in EPSILON), (torch.bfloat16, torch.float32)]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, gradient = (torch.randn(size, width, generator=random).to(dtype) for size in (num_tokens * k, num_tokens))
    weights = torch.rand(num_tokens, k, generator=random).to(weight_dtype)
    return rows, gradient, weights, torch.randperm(num_tokens * k, generator=random).view(num_tokens, k)


def agrees(found, terms, axis):
    """Compare sums of terms along an axis, each to the rounding of its type, relative to the size of the terms."""
    size = terms.abs().sum(axis)
    allowed = EPSILON[found.dtype] * (size + torch.finfo(found.dtype).smallest_normal)
    return found.shape == size.shape and bool(((found.double() - terms.sum(axis)).abs() <= allowed).all())


@settings(max_examples=50)
@given(problems())
def test_sums_of_rows_and_their_gradients_are_those_of_torch_in_double_precision(problem):
    rows, gradient, weights, row_of = problem
    picked, weighted = rows.double()[row_of], weights.double()[..., None]
    assert agrees(fused.sum_rows(rows, row_of, None), picked, 1)
    assert agrees(fused.sum_rows(rows, row_of, weights), picked * weighted, 1)
    to_rows, to_weights = fused.spread_rows(gradient, rows, row_of, weights)
    assert (to_rows.dtype, to_weights.dtype) == (rows.dtype, weights.dtype)
    # No sum: a single product, rounded once.
    assert agrees(to_rows[row_of], (gradient.double()[:, None] * weighted)[None], 0)
    assert agrees(to_weights, picked * gradient.double()[:, None], 2)


def spaced(rows):
    return torch.stack([rows, -rows], -1)[..., 0]


def by_column(rows):
    return rows.t().contiguous().t()


@pytest.mark.parametrize("lay", [spaced, by_column])
@settings(max_examples=20)
@given(problems())
def test_rows_need_not_be_contiguous(lay, problem):
    rows, gradient, weights, row_of = problem
    apart = [lay(kept) for kept in (rows, gradient, weights, row_of)]
    assert torch.equal(fused.sum_rows(apart[0], apart[3], apart[2]), fused.sum_rows(rows, row_of, weights))
    for found, expected in zip(
        fused.spread_rows(apart[1], apart[0], apart[3], apart[2]),
        fused.spread_rows(gradient, rows, row_of, weights), strict=True,
    ):  # fmt: skip
        assert torch.equal(found, expected)


@pytest.mark.parametrize("numbers", [torch.int32, torch.int64])
def test_rows_may_lie_further_away_than_32_bits_count(numbers):
    # Memory that nobody writes takes none: of four GiB, two rows are used.
    rows = torch.empty(2**21 + 2, 1024, dtype=torch.bfloat16)
    rows[0], rows[-1] = 1.0, 2.0
    row_of, weights = torch.tensor([[len(rows) - 1, 0]], dtype=numbers), torch.tensor([[0.5, 4.0]])
    gradient = torch.full((1, 1024), 0.25, dtype=torch.bfloat16)
    assert fused.sum_rows(rows, row_of, weights).tolist() == [[2.0 * 0.5 + 1.0 * 4.0] * 1024]
    to_rows, to_weights = fused.spread_rows(gradient, rows, row_of, weights)
    assert to_weights.tolist() == [[2.0 * 0.25 * 1024, 1.0 * 0.25 * 1024]]
    assert (to_rows[-1].tolist(), to_rows[0].tolist()) == ([0.25 * 0.5] * 1024, [0.25 * 4.0] * 1024)
