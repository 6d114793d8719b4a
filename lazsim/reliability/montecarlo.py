"""Survival probability by sampling, with an interval.

Axes: M failure sets, m failure sets of one size s, N nodes, B samples, W words of 64 samples, D nodes that fail in a
sample, R orders in which they do, H failure sets within the failed nodes of a sample, F numbers of failures.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Bools, Floats, Ints
from lazsim.reliability.failure_models import independent_counts
from lazsim.reliability.failure_sets import (
    all_failed,
    guaranteed_failures,
    members,
    num_survivors_needed,
    pack,
    set_bits,
    unpack,
)

Ranks = npt.NDArray[np.uint16]

CONFIDENCE = 0.95
BLOCK = 1 << 12
"""Samples drawn at once: bounds memory."""

PILOT_SAMPLES = 1 << 12
PILOT_MARGIN = 1.1
"""The variance found by the pilot run may be too small: its own standard error is at most a few percent."""

ADJUSTED_MARGIN = 0.01
"""Probabilities nearer to 0 or 1 are plain means of samples."""

NUM_ORDERS = 128
MEAN_SETS_LOST = 8
"""Failure sets within a sample, on average: with more of them samples differ less, but take longer. Measured on 128
nodes, the time to a given interval differed by at most a half from 8 to 16 of them, and between 64 and 128 orders."""


class Estimate(NamedTuple):
    """Probabilities, and the interval around each, shape (F,)."""

    prob: Floats
    ci_low: Floats
    ci_high: Floats


class Moments(NamedTuple):
    """Independent samples with values in 0..1: how many, and mean and variance of each value."""

    num_samples: int
    mean: Floats
    variance: Floats


def sample_curve(sets_MN: Bools, failures: Ints, rng: np.random.Generator, half_width: float) -> Estimate:
    """Estimate the probability that all experts survive k random node failures, for each number of failures, 0..N.

    The 95 % intervals (`korn_graubard`), each valid on its own, are at most `half_width` wide to either side.

    Notes
    -----
    Nothing is sampled where the outcome is sure: for fewer failures than the smallest failure set has nodes, and when
    fewer nodes live than there are disjoint failure sets. Sets larger than the failures asked for are left out.

    A sample is a random set of ``D`` failed nodes. The first ``k`` of them, in each of `NUM_ORDERS` orders, are as many
    random sets of ``k`` failures, and the share of orders survived is the value of the sample for ``k``. It varies much
    less than a single outcome and costs little, since only failure sets within the ``D`` nodes matter. ``D`` is so
    large that there are `MEAN_SETS_LOST` of these. Recovery never grows with failures: where nearly all samples are
    lost at ``D``, the interval for more failures is from 0 to the upper end there.

    How many failure sets are within the ``D`` nodes explains most of what differs between samples, and its mean is
    known exactly: it is a control variate (Glasserman, Monte Carlo Methods in Financial Engineering, 2003, section
    4.1).

    A pilot run shows how many samples are needed, and the slopes on the control variate. It is no part of the estimate,
    so that neither depends on the values of the samples, and the estimate is unbiased.
    """
    sure = failures < guaranteed_failures(sets_MN)
    unsure = ~sure & (failures <= sets_MN.shape[1] - num_survivors_needed(sets_MN))
    prob, ci_low, ci_high = (sure.astype(np.float64) for _ in range(3))
    if unsure.any():
        most = int(failures[unsure].max())
        sets = sets_MN[sets_MN.sum(axis=1) <= most]
        depth, draw, pilot = _pilot(sets, most, rng, half_width)
        within = unsure & (failures <= depth)
        asked = np.unique(failures[within]) if within.any() else [depth]
        found = korn_graubard(_moments(draw, samples_needed(pilot.variance[asked], half_width)))
        for values, curve in zip((prob, ci_low, ci_high), found, strict=True):
            values[within] = curve[failures[within]]
        ci_high[unsure & ~within] = found.ci_high[depth]
    return Estimate(prob, ci_low, ci_high)


def sample_independent(sets_MN: Bools, fail_prob_N: Floats, rng: np.random.Generator, half_width: float) -> Estimate:
    """Estimate the probability that all experts survive when nodes fail independently, shape (1,); see `sample_curve`.

    Notes
    -----
    Stratified by the number of failures, whose distribution is known exactly. Numbers whose outcome is sure (see
    `sample_curve`) count with their weight. The others are sampled in proportion to theirs: the samples of a block
    take the numbers at evenly spaced quantiles, from a random start. The interval is that of as many outcomes without
    strata, which vary at least as much. It is within `half_width` for the numbers that are sampled, and shrinks with
    their weight.

    A pilot run shows how many samples are needed, as in `sample_curve`; since losses may be rare in it, the variance
    that counts is the largest within its interval.
    """
    counts_prob = np.array(list(independent_counts(fail_prob_N)))
    weight, count = counts_prob[-1], np.arange(len(fail_prob_N) + 1)
    sure = count < guaranteed_failures(sets_MN)
    unsure = ~sure & (count <= len(fail_prob_N) - num_survivors_needed(sets_MN))
    sampled, kept = np.where(unsure, weight, 0.0).cumsum(), float(weight[sure].sum())
    if not sampled[-1] > 0:
        return Estimate(*(np.array([min(kept, 1.0)]) for _ in range(3)))

    def values(size: int) -> Floats:
        quantiles = (np.arange(size) + rng.random()) / size * sampled[-1]
        num_failed_B = np.searchsorted(sampled, quantiles, side="right").clip(max=int(sampled.argmax()))
        failed_NB = draw_failed(rng, fail_prob_N, counts_prob, num_failed_B)
        return has_survived(sets_MN, failed_NB).astype(np.float64)[:, None]

    pilot = korn_graubard(_moments(values, PILOT_SAMPLES))
    most_varied = np.clip(0.5, pilot.ci_low, pilot.ci_high)
    num_samples = samples_needed(most_varied * (1 - most_varied), half_width)
    found = korn_graubard(_moments(values, num_samples))
    return Estimate(*(np.minimum(kept + sampled[-1] * each, 1.0) for each in found))


def samples_needed(variance: Floats, half_width: float) -> int:
    """Return how many samples make every interval narrow enough.

    Notes
    -----
    ``z**2 * variance / half_width**2`` for the largest variance, and ``4 / half_width`` for what the interval is wider
    than that of the normal distribution, above all where no sample differed.
    """
    from scipy.special import ndtri

    normal = ndtri((1 + CONFIDENCE) / 2) ** 2 * float(variance.max()) / half_width**2
    return math.ceil(PILOT_MARGIN * normal + 4 / half_width)


def korn_graubard(moments: Moments) -> Estimate:
    """Put an interval around means of samples with values in 0..1.

    Notes
    -----
    The interval of Clopper and Pearson (Biometrika 26, 1934), which never covers less than it should, for as many
    single outcomes as would be needed to know the mean as well (Korn and Graubard, Survey Methodology 24, 1998):
    ``p (1 - p)`` over the variance of the mean, and at least the number of samples. With single outcomes as samples,
    the two agree. Unlike the normal distribution's, it is sound next to 0 and 1, and where no sample differed.

    Examples
    --------
    >>> mean = np.array([0.0, 0.9])
    >>> _, ci_low, ci_high = korn_graubard(Moments(10, mean, mean * (1 - mean)))
    >>> ci_low.round(3).tolist(), ci_high.round(3).tolist()
    ([0.0, 0.555], [0.308, 0.997])
    """
    from scipy.special import betaincinv

    mean, tail = moments.mean.clip(0, 1), (1 - CONFIDENCE) / 2
    # The variance of a value in 0..1 is at most that of an outcome with the same mean.
    per_sample = np.divide(mean * (1 - mean), moments.variance, out=np.ones_like(mean), where=moments.variance > 0)
    outcomes = moments.num_samples * per_sample.clip(1, NUM_ORDERS)
    survived, lost = mean * outcomes, (1 - mean) * outcomes
    low = betaincinv(np.maximum(survived, 1e-9), lost + 1, tail)
    high = betaincinv(survived + 1, np.maximum(lost, 1e-9), 1 - tail)
    return Estimate(mean, np.where(survived > 0, low, 0.0), np.where(lost > 0, high, 1.0))


def _pilot(
    sets_MN: Bools, most: int, rng: np.random.Generator, half_width: float
) -> tuple[int, Callable[[int], Floats], Moments]:
    """Return the number of nodes that fail in a sample, a function that draws samples, and the moments of some."""
    mean_lost = mean_sets_lost(sets_MN)
    wanted = MEAN_SETS_LOST
    while True:
        depth = int(min(np.searchsorted(mean_lost, wanted), sets_MN.shape[1]))
        draw = _curve_values(sets_MN, depth, rng)
        share, lost_B = draw(PILOT_SAMPLES)
        slope = _slopes(share, lost_B)
        pilot = Moments(PILOT_SAMPLES, share.mean(axis=0), (share - lost_B[:, None] * slope).var(axis=0))
        if depth >= most or korn_graubard(pilot).ci_high[depth] < 1.5 * half_width:
            return depth, partial(_adjusted, draw, slope, float(mean_lost[depth])), pilot
        wanted *= 2


def _adjusted(draw: Callable[[int], tuple[Floats, Ints]], slope: Floats, mean_lost: float, size: int) -> Floats:
    """Draw shares of orders survived as if as many failure sets were lost as on average."""
    share, lost_B = draw(size)
    share -= (lost_B - mean_lost)[:, None] * slope
    return share


def _slopes(share: Floats, lost_B: Ints) -> Floats:
    """Return the slopes of shares of orders survived on the failure sets lost, by least squares."""
    mean, centred_B = share.mean(axis=0), lost_B - lost_B.mean()
    slope = centred_B @ share / max(float(centred_B @ centred_B), 1.0)
    # Next to 0 and 1 a value beyond them would matter, and the variance is small anyway.
    adjusted: Floats = np.where(np.minimum(mean, 1 - mean) > ADJUSTED_MARGIN, slope, 0.0)
    return adjusted


def _curve_values(sets_MN: Bools, depth: int, rng: np.random.Generator) -> Callable[[int], tuple[Floats, Ints]]:
    """Return a function that draws samples: shares of orders that survive 0..depth failures, and failure sets lost.

    All samples share their orders, so that those of a pilot run vary as much as any.
    """
    dtype = np.uint8 if depth < 256 else np.uint16
    order_DR = rng.permuted(np.repeat(np.arange(depth, dtype=dtype)[:, None], NUM_ORDERS, axis=1), axis=0)

    def draw(size: int) -> tuple[Floats, Ints]:
        rank_NB = draw_ranks(rng, sets_MN.shape[1], depth, size)
        survived_BR, num_lost_B = failures_survived(sets_MN, rank_NB, order_DR)
        bins = np.arange(size)[:, None] * (depth + 1) + survived_BR
        orders = np.bincount(bins.ravel(), minlength=size * (depth + 1)).reshape(size, depth + 1)
        return orders[:, ::-1].cumsum(axis=1)[:, ::-1] / NUM_ORDERS, num_lost_B

    return draw


def _moments(values: Callable[[int], Floats], num_samples: int) -> Moments:
    """Draw samples block by block."""
    total = squares = np.zeros(1)
    for start in range(0, num_samples, BLOCK):
        drawn = values(min(BLOCK, num_samples - start))
        total, squares = total + drawn.sum(axis=0), squares + (drawn**2).sum(axis=0)
    mean = total / num_samples
    return Moments(num_samples, mean, np.maximum(squares / num_samples - mean**2, 0.0))


def draw_ranks(rng: np.random.Generator, num_nodes: int, depth: int, num_samples: int) -> Ranks:
    """Draw the ranks 0..depth - 1 of the nodes that fail first, and `depth` for all that live, shape (N, B).

    These are the first `depth` steps of a Fisher-Yates shuffle.
    """
    node_NB = np.repeat(np.arange(num_nodes, dtype=np.uint16)[:, None], num_samples, axis=1)
    rank_NB = np.full((num_nodes, num_samples), depth, dtype=np.uint16)
    sample = np.arange(num_samples)
    for rank in range(depth):
        chosen = rng.integers(rank, num_nodes, num_samples)
        rank_NB[node_NB[chosen, sample], sample] = rank
        node_NB[chosen, sample] = node_NB[rank]
    return rank_NB


def draw_failed(rng: np.random.Generator, fail_prob_N: Floats, counts_prob: Floats, num_failed_B: Ints) -> Bools:
    """Draw the nodes that fail, independently, given their possible number and `independent_counts`; shape (N, B).

    Notes
    -----
    From the last node to the first: if ``k`` of the first ``n`` nodes fail, node ``n`` is one of them with probability
    ``p[n] P(k - 1 of n - 1 fail) / P(k of n fail)`` (Chen and Liu, Statistica Sinica 7, 1997).
    """
    left_B = num_failed_B.copy()
    failed_NB = np.empty((len(fail_prob_N), len(left_B)), dtype=np.bool_)
    for node in reversed(range(len(fail_prob_N))):
        fails_k = np.zeros(len(fail_prob_N) + 1)
        before, after = counts_prob[node, :-1], counts_prob[node + 1, 1:]
        np.divide(fail_prob_N[node] * before, after, out=fails_k[1:], where=after > 0)
        failed_NB[node] = rng.random(len(left_B)) < fails_k[left_B]
        left_B -= failed_NB[node]
    return failed_NB


def has_survived(sets_MN: Bools, failed_NB: Bools) -> Bools:
    """Tell in which samples no failure set failed, shape (B,).

    Examples
    --------
    >>> has_survived(np.array([[True, True]]), np.array([[True, False, True], [True, True, False]])).tolist()
    [False, True, True]
    """
    failed_NW = pack(failed_NB)
    lost_W = np.zeros(failed_NW.shape[1], dtype=np.uint64)
    for nodes_ms in members(sets_MN, failed_NW.shape[1]):
        lost_W |= np.bitwise_or.reduce(all_failed(failed_NW, nodes_ms), axis=0)
    return ~unpack(lost_W, failed_NB.shape[1])


def failures_survived(sets_MN: Bools, rank_NB: Ranks, order_DR: Ranks) -> tuple[Ranks, Ints]:
    """Count the failures survived in each sample and order, (B, R), and the failure sets lost in the end, (B,).

    `order_DR` says when the node of each rank fails, 0..D - 1; a rank is ``D`` where the node lives. No set is empty.

    Notes
    -----
    A failure set is lost when its last node fails; the first set to be lost counts. Few sets are within the failed
    nodes of a sample: they are found 64 samples at a time, and only for them is the order of failures looked at.

    Examples
    --------
    The set of both nodes is lost at the second failure, and one is survived.

    >>> ranks, order = np.array([[0], [1]], dtype=np.uint16), np.array([[0, 1], [1, 0]], dtype=np.uint16)
    >>> survived, num_lost = failures_survived(np.array([[True, True]]), ranks, order)
    >>> survived.tolist(), num_lost.tolist()
    ([[1, 1]], [1])
    """
    depth = len(order_DR)
    failed_NW = pack(rank_NB < depth)
    survived_BR = np.full((rank_NB.shape[1], order_DR.shape[1]), depth, dtype=order_DR.dtype)
    num_lost_B = np.zeros(rank_NB.shape[1], dtype=np.int64)
    for nodes_ms in members(sets_MN, failed_NW.shape[1]):
        failed_set, sample = set_bits(all_failed(failed_NW, nodes_ms))
        if len(sample):
            last_HR = order_DR[rank_NB[nodes_ms[failed_set, 0], sample]]
            for nodes_m in nodes_ms.T[1:]:
                np.maximum(last_HR, order_DR[rank_NB[nodes_m[failed_set], sample]], out=last_HR)
            by_sample = np.argsort(sample, kind="stable")
            found, start, num_sets = np.unique(sample[by_sample], return_index=True, return_counts=True)
            num_lost_B[found] += num_sets
            # Reductions by sample take several times as long.
            for turn in range(num_sets.max()):
                has = num_sets > turn
                last = last_HR[by_sample[start[has] + turn]]
                survived_BR[found[has]] = np.minimum(survived_BR[found[has]], last)
    return survived_BR, num_lost_B


def mean_sets_lost(sets_MN: Bools) -> Floats:
    """Return how many failure sets are lost on average when 0..N random nodes fail, shape (N + 1,).

    Examples
    --------
    >>> mean_sets_lost(np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)).round(3).tolist()
    [0.0, 0.0, 0.667, 2.0]
    """
    num_nodes = sets_MN.shape[1]
    used_up = np.arange(num_nodes)
    # One node of a set after the other is among the failed ones, of which those before it are used up.
    next_fails = (np.arange(num_nodes + 1)[:, None] - used_up).clip(min=0) / (num_nodes - used_up)
    all_fail = np.hstack([np.ones((num_nodes + 1, 1)), next_fails.cumprod(axis=1)])
    mean: Floats = all_fail @ np.bincount(sets_MN.sum(axis=1), minlength=num_nodes + 1)
    return mean
