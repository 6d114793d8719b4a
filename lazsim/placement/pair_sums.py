"""Sums over rows in which both of a pair of columns are set: what one node has of what another wants.

Axes: R rows, such as expert states; H and N columns, such as nodes.
"""

from typing import Any

import numpy as np

from lazsim.placement.plan import Bools, Floats, Ints, differ_from_last
from lazsim.row_blocks import CACHED_ELEMENTS, row_blocks

PAIRS_A_TIME = 15
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
        edges_RH, edges_RN = _edges(left_RH), _edges(right_RN)
        num_left_R, num_right_R = (np.diff(edges.indptr).astype(np.int64) for edges in (edges_RH, edges_RN))
        if num_left_R @ num_right_R * PAIRS_A_TIME <= left_RH.size * right_RN.shape[1]:
            edges_RN.data *= weight_R.repeat(num_right_R)
            added_up: Floats = (edges_RH.T @ edges_RN).toarray(order="C").cumsum(axis=0).cumsum(axis=1)
            return added_up
    # float32, which multiplies twice as fast, is exact up to 2**24.
    dtype = np.float32 if weight_R.sum() <= 1 << 24 else np.float64
    weight_R, sums_HN = weight_R.astype(dtype), np.zeros((left_RH.shape[1], right_RN.shape[1]), dtype=dtype)
    # A product of blocks several times as large as the nearest cache is faster: a seventh on 512 nodes.
    for some in row_blocks(len(left_RH), left_RH.shape[1] // 4):
        sums_HN += (left_RH[some].T * weight_R[some]) @ right_RN[some].astype(dtype)
    return sums_HN.astype(np.float64)


def _edges(flags_RN: Bools) -> Any:
    """Return a sparse matrix of flags unlike the one before: 1 where they are set, else -1; none is set at first."""
    from scipy.sparse import csr_array

    differ_RN, num_columns = differ_from_last(flags_RN), flags_RN.shape[1]
    differ_RN[:, 0] = flags_RN[:, 0]
    edges = np.flatnonzero(differ_RN)
    ends = np.searchsorted(edges, np.arange(len(flags_RN) + 1) * num_columns)
    return csr_array((np.where(flags_RN.ravel()[edges], 1.0, -1.0), edges % num_columns, ends), flags_RN.shape)
