import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.reliability import BatchFailures, exact, recovery_prob
from lazsim.reliability.diagram import build_diagram, seriate
from lazsim.reliability.failure_sets import (
    domain_holds,
    guaranteed_failures,
    minimal_failure_sets,
    num_survivors_needed,
)
from lazsim.reliability.lattice import build_lattice


@st.composite
def placements(draw, max_nodes=9, allow_unplaced=False):
    """Which nodes hold each expert: shape (L, E, N)."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, max_nodes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    holds = rng.random(shape) < draw(st.sampled_from([0.1, 0.3, 0.6, 0.9]))
    if not allow_unplaced:
        holds[..., 0] |= ~holds.any(axis=2)
    return holds


def survives(holds_LEN, failed) -> bool:
    alive = [node for node in range(holds_LEN.shape[2]) if node not in failed]
    return all(any(expert[node] for node in alive) for layer in holds_LEN for expert in layer)


def survived_by_enumeration(holds_LEN) -> list[Fraction]:
    num_nodes = holds_LEN.shape[2]
    shares = []
    for k in range(num_nodes + 1):
        outcomes = [survives(holds_LEN, failed) for failed in itertools.combinations(range(num_nodes), k)]
        shares.append(Fraction(sum(outcomes), len(outcomes)))
    return shares


@given(placements(allow_unplaced=True))
def test_survival_is_that_of_going_through_all_sets_of_failed_nodes_in_each_exact_way(holds_LEN):
    expected = [float(share) for share in survived_by_enumeration(holds_LEN)]
    sets = minimal_failure_sets(holds_LEN)
    assert exact.survival_by_count(sets) == pytest.approx(expected, abs=1e-13)
    if sets.any(axis=1).all():
        assert build_lattice(sets).survival_by_count() == pytest.approx(expected, abs=1e-13)
        assert build_diagram(sets, max_work=1e9).survival_by_count() == pytest.approx(expected, abs=1e-13)


@given(placements(max_nodes=6), st.data())
def test_independent_failures_agree_with_enumeration(holds_LEN, data):
    num_nodes = holds_LEN.shape[2]
    probs = np.array(data.draw(st.lists(st.floats(0, 1), min_size=num_nodes, max_size=num_nodes)))
    expected = 0.0
    for fails in itertools.product([False, True], repeat=num_nodes):
        if survives(holds_LEN, {node for node in range(num_nodes) if fails[node]}):
            expected += math.prod(p if failed else 1 - p for p, failed in zip(probs, fails, strict=True))
    sets = minimal_failure_sets(holds_LEN)
    assert exact.survival_prob(sets, probs) == pytest.approx(expected, abs=1e-12)
    assert build_lattice(sets).survival_prob(probs) == pytest.approx(expected, abs=1e-12)
    assert build_diagram(sets, max_work=1e9).survival_prob(probs) == pytest.approx(expected, abs=1e-12)


def test_what_survives_every_batch_does_so_for_sure_whatever_the_weights():
    # Weights that add up to 1 but for their rounding: 185 of 2000 such means were 1e-16 below 1.
    rng, holds_LEN = np.random.default_rng(0), np.ones((1, 2, 12), dtype=bool)
    for num_sizes in rng.integers(2, 8, 300):
        batches = BatchFailures(np.arange(1, num_sizes + 1), rng.integers(1, 40, num_sizes).astype(float))
        assert recovery_prob(holds_LEN, batches).recovery_prob == 1.0


@given(placements(allow_unplaced=True))
def test_failure_sets_are_the_smallest_sets_that_lose_an_expert(holds_LEN):
    num_nodes = holds_LEN.shape[2]
    losing = [
        set(failed)
        for k in range(num_nodes + 1)
        for failed in itertools.combinations(range(num_nodes), k)
        if not survives(holds_LEN, failed)
    ]
    smallest = {frozenset(failed) for failed in losing if not any(other < failed for other in losing)}
    sets = minimal_failure_sets(holds_LEN)
    assert {frozenset(np.flatnonzero(row).tolist()) for row in sets} == smallest
    assert len(sets) == len(smallest)
    assert guaranteed_failures(sets) == min(len(failed) for failed in losing)


@given(placements())
def test_fewer_survivors_than_are_needed_always_lose_an_expert(holds_LEN):
    needed = num_survivors_needed(minimal_failure_sets(holds_LEN))
    shares = survived_by_enumeration(holds_LEN)
    assert needed >= 1
    assert not any(shares[holds_LEN.shape[2] - needed + 1 :])


def test_thousands_of_failure_sets_are_reduced_as_one_by_one():
    # More sets than are compared at once.
    sets = np.random.default_rng(0).random((1, 3000, 24)) < 0.3
    rows = {frozenset(np.flatnonzero(row).tolist()) for row in sets[0]}
    expected = {row for row in rows if not any(other < row for other in rows)}
    assert {frozenset(np.flatnonzero(row).tolist()) for row in minimal_failure_sets(sets)} == expected


@pytest.mark.parametrize(("num_nodes", "chance"), [(21, 0.15), (23, 0.25)])
def test_the_ways_agree_where_enumeration_would_take_too_long(num_nodes, chance):
    rng = np.random.default_rng(num_nodes)
    holds_LEN = rng.random((2, 30, num_nodes)) < chance
    holds_LEN[..., :2] |= ~holds_LEN.any(axis=2, keepdims=True)
    sets = minimal_failure_sets(holds_LEN)
    lattice, diagram = build_lattice(sets), build_diagram(sets, max_work=1e10)
    assert lattice.survival_by_count() == pytest.approx(diagram.survival_by_count(), abs=1e-13)
    probs = rng.random(num_nodes) / 2
    assert lattice.survival_prob(probs) == pytest.approx(diagram.survival_prob(probs), abs=1e-13)


@pytest.mark.parametrize("sizes", [[2], [3, 3, 3], [16] * 8, [2, 5, 40, 70, 700, 900]])
def test_disjoint_failure_sets_have_the_product_of_their_polynomials(sizes):
    # (1 + x)^m - x^m for each set and (1 + x) for each of three more nodes, in whole numbers.
    num_nodes = sum(sizes) + 3
    product = [math.comb(3, k) for k in range(4)]
    for size in sizes:
        factor = [math.comb(size, k) for k in range(size)]
        product = [
            sum(product[i] * factor[k - i] for i in range(max(0, k - size + 1), min(k + 1, len(product))))
            for k in range(len(product) + size - 1)
        ]
    product += [0] * (num_nodes + 1 - len(product))
    expected = [float(Fraction(count, math.comb(num_nodes, k))) for k, count in enumerate(product)]
    sets = np.zeros((len(sizes), num_nodes), dtype=bool)
    for row, (start, size) in enumerate(zip(itertools.accumulate([0, *sizes]), sizes, strict=False)):
        sets[row, start : start + size] = True
    found = exact.survival_by_count(sets)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert (found[: min(sizes)] == 1).all()
    assert (found[num_nodes - len(sizes) + 1 :] == 0).all()


def test_rows_of_three_on_a_line_of_128_nodes_are_counted_exactly():
    # Subsets of a line without three neighbours, by size: runs of at most two failed nodes between live ones.
    sets = np.zeros((126, 128), dtype=bool)
    for start in range(126):
        sets[start, start : start + 3] = True

    def without_three(num_failed: int) -> int:
        gaps = 129 - num_failed
        pairs = range(max(0, num_failed - gaps), num_failed // 2 + 1)
        return sum(math.comb(gaps, p) * math.comb(gaps - p, num_failed - 2 * p) for p in pairs)

    shuffled = sets[:, np.random.default_rng(1).permutation(128)]
    expected = [float(Fraction(without_three(k), math.comb(128, k))) if k < 128 else 0.0 for k in range(129)]
    assert exact.survival_by_count(shuffled) == pytest.approx(expected, rel=1e-9)


@given(st.integers(2, 30), st.integers(0, 2**32))
def test_nodes_are_ordered_so_that_hidden_intervals_come_out(num_nodes, seed):
    rng = np.random.default_rng(seed)
    # Each pair of neighbours, so that there is one order only, and longer intervals.
    sets = np.zeros((2 * num_nodes - 2, num_nodes), dtype=bool)
    for start in range(num_nodes - 1):
        sets[start, start : start + 2] = True
        sets[num_nodes - 1 + start, start : start + rng.integers(1, 6)] = True
    hidden = sets[:, rng.permutation(num_nodes)]
    for row in hidden[:, seriate(hidden)]:
        inside = np.flatnonzero(row)
        assert inside[-1] - inside[0] + 1 == len(inside)


@given(placements(), st.data())
def test_a_domain_fails_with_all_its_nodes(holds_LEN, data):
    num_nodes = holds_LEN.shape[2]
    domain = np.array(
        data.draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=num_nodes, max_size=num_nodes))
    )
    names = sorted(set(domain.tolist()))
    by_domain = exact.survival_by_count(minimal_failure_sets(domain_holds(holds_LEN, domain)))
    for k in range(len(names) + 1):
        outcomes = [
            survives(holds_LEN, set(np.flatnonzero(np.isin(domain, failed)).tolist()))
            for failed in itertools.combinations(names, k)
        ]
        assert by_domain[k] == pytest.approx(sum(outcomes) / len(outcomes))


def test_a_diagram_of_more_nodes_than_can_be_put_in_order_is_given_up_at_once():
    # A chain of pairs has one state or two at each node, so that only the order of its nodes takes long.
    for num_nodes, is_built in ((100, True), (1 << 12, False)):
        chain = np.eye(num_nodes - 1, num_nodes, dtype=bool)
        chain |= np.roll(chain, 1, axis=1)
        start = time.process_time()
        assert (build_diagram(chain, max_work=1e12) is not None) == is_built
        assert time.process_time() - start < 2


def test_a_diagram_that_takes_too_much_work_is_given_up():
    sets = minimal_failure_sets(np.random.default_rng(0).random((20, 16, 40)) < 0.15)
    assert build_diagram(sets, max_work=1e6) is None
    assert exact.survival_by_count(sets, max_work=1e6) is None
    assert exact.survival_prob(sets, np.full(40, 0.1), max_work=1e6) is None
