"""Sums over rows in which both of a pair of columns are set: what one node has of what another wants.

Axes: R rows, such as expert states; H and N columns, such as nodes.
"""

import math

import numpy as np

from lazsim.blocks import CACHED_ELEMENTS, row_blocks
from lazsim.placement.plan import Bools, Floats, Ints

PAIRS_A_TIME = 50
"""Pairs of columns that a product of matrices deals with in the time of one pair of edges, roughly."""

LARGEST_BITS = 53
"""Bits of an integer that is exact in float64."""


def pair_sums(left_RH: Bools, right_RN: Bools, weight_R: Ints) -> Floats:
    """Return, for each pair of a left and a right column, the weight of the rows in which both are set.

    Parameters
    ----------
    left_RH, right_RN
        Flags, shapes (R, H) and (R, N).
    weight_R
        Integers that add up to one of `LARGEST_BITS` at most, shape (R,). Their sums are exact, so that neither the
        order in which a library adds them up nor the way taken here changes a digit.

    Returns
    -------
    ndarray of float64, shape (H, N)

    Notes
    -----
    Nodes that hold an expert mostly follow each other, in few runs. In both directions from the first pair on, the sums
    change only at the edges of runs, and it is enough to add up these changes.

    Examples
    --------
    >>> left, right = np.array([[True, True, False], [False, True, True]]), np.array([[True, True], [False, True]])
    >>> pair_sums(left, right, np.array([10, 1])).tolist()
    [[10.0, 10.0], [10.0, 11.0], [0.0, 1.0]]
    """
    if left_RH.size > CACHED_ELEMENTS:
        edges_X, edges_Y = _edges(left_RH), _edges(right_RN)
        edges_R = np.bincount(edges_Y[0], minlength=len(weight_R))
        if edges_R[edges_X[0]].sum() * PAIRS_A_TIME <= left_RH.size * right_RN.shape[1]:
            return _sums_at_edges(edges_X, edges_Y, edges_R, weight_R, (left_RH.shape[1], right_RN.shape[1]))
    # float32, which multiplies twice as fast, is exact up to 2**24.
    dtype = np.float32 if weight_R.sum() <= 1 << 24 else np.float64
    weight_R, sums_HN = weight_R.astype(dtype), np.zeros((left_RH.shape[1], right_RN.shape[1]), dtype=dtype)
    # A product of blocks several times as large as the nearest cache is faster: a seventh on 512 nodes.
    for some in row_blocks(len(left_RH), left_RH.shape[1] // 4):
        sums_HN += (left_RH[some].T * weight_R[some]) @ right_RN[some].astype(dtype)
    return sums_HN.astype(np.float64)


def _sums_at_edges(
    edges_X: tuple[Ints, Ints, Floats],
    edges_Y: tuple[Ints, Ints, Floats],
    edges_R: Ints,
    weight_R: Ints,
    shape: tuple[int, int],
) -> Floats:
    (row_X, left_X, sign_X), (_, right_Y, sign_Y) = edges_X, edges_Y
    # Each edge on the left meets those on the right in the same row.
    pairs_X = edges_R[row_X]
    on_left = np.arange(len(row_X)).repeat(pairs_X)
    first_X = (edges_R.cumsum() - edges_R)[row_X] - (pairs_X.cumsum() - pairs_X)
    on_right = np.arange(len(on_left)) + first_X[on_left]
    # Between edges nothing changes; before the first, no flag is set.
    run_H, run_N = (
        (np.bincount(at, minlength=number) > 0).cumsum() for at, number in zip((left_X, right_Y), shape, strict=True)
    )
    num_runs = int(run_H[-1]) + 1, int(run_N[-1]) + 1
    change = (sign_X * weight_R[row_X])[on_left] * sign_Y[on_right]
    changes = np.bincount(run_H[left_X[on_left]] * num_runs[1] + run_N[right_Y[on_right]], change, math.prod(num_runs))
    sums_HN: Floats = changes.reshape(num_runs).cumsum(axis=0).cumsum(axis=1).take(run_H, axis=0).take(run_N, axis=1)
    return sums_HN


def _edges(flags_RN: Bools) -> tuple[Ints, Ints, Floats]:
    """Return row and column of flags unlike the one before, and 1 where they are set, else -1; none is set at first."""
    # A comparison of all flags in a row is several times faster than one of each row.
    flags, differs_RN = flags_RN.ravel(), np.empty(flags_RN.shape, dtype=np.bool_)
    np.not_equal(flags[1:], flags[:-1], out=differs_RN.ravel()[1:])
    differs_RN[:, 0] = flags_RN[:, 0]
    edges = np.flatnonzero(differs_RN)
    row, column = np.divmod(edges, flags_RN.shape[1])
    sign: Floats = np.where(flags[edges], 1.0, -1.0)
    return row, column, sign
