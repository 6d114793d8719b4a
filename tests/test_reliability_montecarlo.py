import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.reliability import exact
from lazsim.reliability.failure_models import independent_counts
from lazsim.reliability.failure_sets import minimal_failure_sets
from lazsim.reliability.montecarlo import (
    Moments,
    draw_failed,
    draw_ranks,
    failures_survived,
    has_survived,
    korn_graubard,
    mean_sets_lost,
    sample_curve,
    sample_independent,
)
from tests.test_reliability_exact import placements

HALF_WIDTHS = [0.05, 0.01, 0.002]


def sets_of(num_nodes: int, seed: int) -> np.ndarray:
    holds_LEN = np.random.default_rng(seed).random((2, 12, num_nodes)) < 0.25
    holds_LEN[..., 0] |= ~holds_LEN.any(axis=2)
    return minimal_failure_sets(holds_LEN)


def test_95_of_100_intervals_hold_the_exact_probability():
    sets = sets_of(14, seed=3)
    failures = np.arange(15)
    expected = exact.survival_by_count(sets)
    held = []
    for seed in range(200):
        found = sample_curve(sets, failures, np.random.default_rng(seed), half_width=0.02)
        held.append((found.ci_low <= expected + 1e-12) & (expected <= found.ci_high + 1e-12))
    # 190 of 200 are expected, with a standard deviation of 3.1; seeds are fixed.
    assert np.sum(held, axis=0).min() >= 180


@pytest.mark.parametrize("half_width", HALF_WIDTHS)
@pytest.mark.parametrize(("num_nodes", "seed"), [(16, 0), (40, 1)])
def test_no_interval_is_wider_than_asked_for(num_nodes, seed, half_width):
    found = sample_curve(sets_of(num_nodes, seed), np.arange(num_nodes + 1), np.random.default_rng(0), half_width)
    assert (found.ci_low <= found.prob).all()
    assert (found.prob <= found.ci_high).all()
    assert ((found.ci_high - found.ci_low) / 2).max() <= half_width


def survived_by_enumeration(sets, fail_prob_N) -> float:
    """Add up the probabilities of all sets of failed nodes that spare a node of each failure set."""
    total = 0.0
    for failed in itertools.product([False, True], repeat=len(fail_prob_N)):
        if not (sets <= np.array(failed)).all(axis=1).any():
            total += math.prod(p if fails else 1 - p for p, fails in zip(fail_prob_N, failed, strict=True))
    return total


@pytest.mark.parametrize("highest", [0.05, 0.4, 1.0])
def test_95_of_100_intervals_hold_the_probability_of_unequal_independent_failures(highest):
    sets, fail_prob_N = sets_of(10, seed=5), np.linspace(0, highest, 10)
    expected = survived_by_enumeration(sets, fail_prob_N)
    held = 0
    for seed in range(100):
        found = sample_independent(sets, fail_prob_N, np.random.default_rng(seed), half_width=0.02)
        assert (found.ci_high[0] - found.ci_low[0]) / 2 <= 0.02
        held += found.ci_low[0] <= expected <= found.ci_high[0]
    # Stratified, they are wider than they need be. 95 with a standard deviation of 2.2; seeds are fixed.
    assert held >= 92


def test_numbers_of_failures_that_are_surely_survived_or_lost_are_not_sampled():
    # Two disjoint pairs. Only two failures are unsure: 2 of 6 pairs are lost.
    sets = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    fail_prob_N = np.array([0.001, 0.002, 0.003, 0.004])
    found = sample_independent(sets, fail_prob_N, np.random.default_rng(0), half_width=0.01)
    assert found.ci_low[0] <= (1 - 2e-6) * (1 - 12e-6) <= found.ci_high[0]
    # Pairs fail with a probability of 35e-6.
    assert found.ci_high[0] - found.ci_low[0] <= 0.02 * 36e-6


def test_nodes_fail_as_often_as_they_do_among_so_many():
    fail_prob_N = np.array([0.1, 0.5, 0.0, 0.7, 1.0])
    num_failed = np.full(60_000, 3)
    counts_prob = np.array(list(independent_counts(fail_prob_N)))
    failed = draw_failed(np.random.default_rng(0), fail_prob_N, counts_prob, num_failed)
    assert (failed.sum(axis=0) == 3).all()
    # Node 4 and two of nodes 0, 1 and 3: odds 1/9, 1 and 7/3, so that pairs are as 3 to 7 to 63.
    assert failed[[0, 1, 3]].mean(axis=1) == pytest.approx([10 / 73, 66 / 73, 70 / 73], abs=0.005)
    assert counts_prob[-1, 3] == pytest.approx(0.1 * 0.5 * 0.3 + 0.1 * 0.5 * 0.7 + 0.9 * 0.5 * 0.7)


def test_sure_outcomes_are_not_sampled():
    # Two disjoint pairs: one failure is always survived, four of four never are, nor three.
    sets = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)
    found = sample_curve(sets, np.array([0, 1, 3, 4]), np.random.default_rng(0), half_width=0.01)
    for values in found:
        assert values.tolist() == [1, 1, 0, 0]


def test_failures_beyond_the_depth_of_samples_still_have_an_interval():
    # All pairs of 40 nodes but those of neighbours: few sets of three survive.
    sets = np.zeros((0, 40), dtype=bool)
    for gap in range(2, 39):
        for node in range(40 - gap):
            sets = np.vstack([sets, np.isin(np.arange(40), [node, node + gap])])
    found = sample_curve(sets, np.arange(41), np.random.default_rng(0), half_width=0.01)
    # Two of 40 survive when they are neighbours: 39 of 780 pairs.
    assert found.ci_low[2] <= 39 / 780 <= found.ci_high[2]
    assert found.prob[3:].max() == 0
    assert found.ci_high.max() <= 1
    assert ((found.ci_high - found.ci_low) / 2).max() <= 0.01


def test_failures_that_are_all_beyond_the_depth_of_samples_have_an_interval():
    # 60 random pairs of 24 nodes: 11 failures of 24 hardly ever spare one node of each pair.
    rng = np.random.default_rng(1)
    sets = np.zeros((60, 24), dtype=bool)
    for row in sets:
        row[rng.choice(24, 2, replace=False)] = True
    sets = minimal_failure_sets(sets[None])
    found = sample_curve(sets, np.array([11]), np.random.default_rng(0), 0.001)
    assert found.ci_low[0] <= exact.survival_by_count(sets)[11] <= found.ci_high[0] <= 0.001


@given(placements(), st.integers(0, 2**32), st.data())
def test_each_sample_is_survived_up_to_the_failure_that_completes_a_set(holds_LEN, seed, data):
    rng = np.random.default_rng(seed)
    sets = minimal_failure_sets(holds_LEN)
    num_nodes = sets.shape[1]
    depth = data.draw(st.integers(1, num_nodes))
    rank_NB = draw_ranks(rng, num_nodes, depth, 70)
    order_DR = rng.permuted(np.tile(np.arange(depth, dtype=np.uint8)[:, None], 3), axis=0)
    survived, num_lost = failures_survived(sets, rank_NB, order_DR)
    assert num_lost.tolist() == [(sets <= (ranks < depth)).all(axis=1).sum() for ranks in rank_NB.T]
    for sample in range(70):
        assert sorted(rank_NB[:, sample].tolist()) == [*range(depth), *[depth] * (num_nodes - depth)]
        for order in range(3):
            fails_at = np.append(order_DR[:, order], depth)[rank_NB[:, sample]]
            lost = [k for k in range(depth + 1) if (sets <= (fails_at < k)).all(axis=1).any()]
            assert survived[sample, order] == min(lost, default=depth + 1) - 1


@given(placements(), st.integers(0, 2**32), st.integers(1, 200))
def test_a_sample_is_survived_unless_all_nodes_of_a_set_failed(holds_LEN, seed, num_samples):
    sets = minimal_failure_sets(holds_LEN)
    failed_NB = np.random.default_rng(seed).random((sets.shape[1], num_samples)) < 0.5
    expected = [not (sets <= failed).all(axis=1).any() for failed in failed_NB.T]
    assert has_survived(sets, failed_NB).tolist() == expected


def test_every_order_of_failures_is_as_likely_as_any_other():
    ranks = draw_ranks(np.random.default_rng(0), num_nodes=4, depth=2, num_samples=120_000)
    _, counts = np.unique(ranks, axis=1, return_counts=True)
    # 4 * 3 ordered pairs, 10,000 expected of each, standard deviation 96.
    assert len(counts) == 12
    assert abs(counts - 10_000).max() < 500


def test_the_mean_number_of_lost_sets_is_that_of_the_hypergeometric_distribution():
    # 2 of 5 nodes in one set and 3 in the other: of 3 failures, C(3,1)/C(5,3) = 0.3 and 1/10.
    sets = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    assert mean_sets_lost(sets)[3] == pytest.approx(0.4)


def test_intervals_of_single_outcomes_are_those_of_clopper_and_pearson():
    # Published example: 4 of 20 gives 0.0573 to 0.4366.
    found = korn_graubard(Moments(20, np.array([0.2]), np.array([0.16])))
    assert found.ci_low[0] == pytest.approx(0.0573, abs=1e-4)
    assert found.ci_high[0] == pytest.approx(0.4366, abs=1e-4)
    # Where nothing was lost in n samples: (0.025)^(1/n) to 1.
    none_lost = korn_graubard(Moments(50, np.array([1.0]), np.array([0.0])))
    assert none_lost.ci_low[0] == pytest.approx(0.025 ** (1 / 50))
    assert none_lost.ci_high[0] == 1
