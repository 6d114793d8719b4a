import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.allocation import allocate
from lazsim.placement.mapping import MAPPINGS, distinct_layers, map_greedily, map_optimally, num_missing
from lazsim.placement.migration import compare_mappings, migrate
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import recovery_curve

shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6))
holdings = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape)))
pairs = hnp.arrays(np.int64, st.tuples(st.integers(3, 5), st.integers(1, 3)), elements=st.integers(0, 9))


@given(holdings)
def test_missing_states_are_those_wanted_and_not_held(problem):
    has, wants = problem
    missing = num_missing(has, wants)
    for hand in range(has.shape[2]):
        for plan in range(wants.shape[2]):
            assert missing[hand, plan] == (wants[:, :, plan] & ~has[:, :, hand]).sum()


@given(pairs)
def test_mappings_bind_distinct_nodes_and_are_the_best_of_all_permutations_in_what_they_promise(missing):
    num_hand, num_plan = missing.shape
    columns = np.arange(num_plan)
    fetched = [missing[list(bound), columns] for bound in itertools.permutations(range(num_hand), num_plan)]
    found = {name: mapping(missing) for name, mapping in MAPPINGS.items()}
    for bound in found.values():
        assert len(set(bound.tolist())) == num_plan
        assert bound.dtype == np.int64
    optimal = missing[found["optimal"], columns]
    assert optimal.sum() == min(each.sum() for each in fetched)
    assert missing[found["greedy"], columns].sum() >= optimal.sum()


@pytest.mark.parametrize("most", [3, 1000, 100_000])
def test_of_hundreds_of_nodes_the_pair_that_lacks_fewest_is_bound_first(most):
    missing = np.random.default_rng(most).integers(0, most, (230, 200))
    expected = {}
    for _, hand, plan in sorted((missing[pair], *pair) for pair in np.ndindex(missing.shape)):
        if hand not in expected.values():
            expected.setdefault(plan, hand)
    assert map_greedily(missing).tolist() == [expected[plan] for plan in range(200)]


@pytest.mark.parametrize("in_order", [np.sort, np.array])
def test_what_hundreds_of_nodes_lack_and_fetch_does_not_depend_on_which_of_them_hold_the_same(in_order):
    rng = np.random.default_rng(0)
    # Of 300 nodes, each is one of four.
    few_has, few_wants = rng.random((2, 100, 4)) < 0.5, rng.random((2, 100, 4)) < 0.5
    few_has[:, :, 0] = True
    kind_H, kind_N = in_order(rng.integers(0, 4, 300)), in_order(rng.integers(0, 4, 300))
    has, wants = few_has[:, :, kind_H], few_wants[:, :, kind_N]
    lacks = wants[:, :, None, :] & ~has[:, :, :, None]
    assert np.array_equal(num_missing(has, wants), lacks.sum(axis=(0, 1)))
    assert np.array_equal(
        num_missing(has, wants, np.array([2, 3])), 2 * lacks[0].sum(axis=0) + 3 * lacks[1].sum(axis=0)
    )
    share = (has / has.sum(axis=2, keepdims=True)).reshape(200, 300)
    fetched = np.einsum("rh,rn->hn", share, (wants & ~has).reshape(200, 300))
    bytes_NN = migrate(has, wants, 10.0).bytes_NN
    assert bytes_NN == pytest.approx(10.0 * fetched)
    # To the last digit, whatever the order in which a library sums.
    other_E = rng.permutation(100)
    assert np.array_equal(bytes_NN, migrate(has[:, other_E], wants[:, other_E], 10.0).bytes_NN)


def test_layers_that_are_alike_count_as_often_as_they_are_there():
    rng = np.random.default_rng(0)
    has, wants = rng.random((3, 7, 5)) < 0.5, rng.random((3, 7, 6)) < 0.5
    has[:, :, 0] = True
    # The layers 0, 1 and 2, of which the second is there three times and the third twice.
    kind_L = [1, 0, 1, 2, 1, 2]
    first_L, times_L = distinct_layers(has[kind_L], wants[kind_L])
    assert (first_L.tolist(), times_L.tolist()) == ([0, 1, 3], [3, 1, 2])
    some_has, some_wants = has[kind_L][first_L], wants[kind_L][first_L]
    expected = num_missing(has[kind_L], wants[kind_L])
    assert np.array_equal(num_missing(some_has, some_wants, times_L), expected)
    moved = migrate(some_has, some_wants[:, :, :5], 10.0, times_L=times_L)
    whole = migrate(has[kind_L], wants[kind_L][:, :, :5], 10.0)
    assert moved.num_states == whole.num_states
    assert np.array_equal(moved.bytes_NN, whole.bytes_NN)


def test_greedy_mapping_can_fetch_more_than_twice_the_optimum():
    # Greedy takes the free pair (0, 0), which leaves the pair (1, 1) of 5; the other two pairs need 1 each.
    missing = np.array([[0, 1], [1, 5]])
    assert missing[map_greedily(missing), [0, 1]].sum() == 5
    assert missing[map_optimally(missing), [0, 1]].sum() == 2


@given(holdings)
def test_each_missing_state_arrives_once_from_owners_in_equal_parts(problem):
    has, wants = problem
    has[:, :, 0] = True
    num_nodes = has.shape[2]
    moved = migrate(has, wants, 10.0, np.ones(num_nodes, dtype=bool), 1000.0)
    assert moved.num_states == (wants & ~has).sum()
    np.testing.assert_allclose(moved.bytes_NN.sum(axis=0), 10.0 * (wants & ~has).sum(axis=(0, 1)), rtol=1e-12)
    expected = np.zeros((num_nodes, num_nodes))
    for layer, expert, node in np.argwhere(wants & ~has):
        owners = np.flatnonzero(has[layer, expert])
        expected[owners, node] += 10.0 / len(owners)
    np.testing.assert_allclose(moved.bytes_NN, expected, rtol=1e-12)


def test_a_newcomer_also_fetches_the_dense_state():
    # Node 1 is new: it fetches the expert (10 bytes) and the dense state (100 bytes) from node 0.
    has, wants = np.array([[[True, False]]]), np.array([[[True, True]]])
    moved = migrate(has, wants, 10.0, np.array([True, False]), 100.0)
    np.testing.assert_allclose(moved.bytes_NN, [[0, 110], [0, 0]])
    assert moved.num_states == 1


def test_nothing_moves_where_nothing_is_missing():
    has = np.ones((2, 3, 4), dtype=bool)
    moved = migrate(has, has, 10.0)
    assert moved.num_states == 0
    assert not moved.bytes_NN.any()
    assert moved.bytes_NN.shape == (4, 4)


@st.composite
def changes(draw):
    """States that live nodes hold (the last ones may hold none), and those that a plan for some of these needs."""
    num_layers, num_experts, num_hand = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    num_plan = draw(st.integers(1, num_hand))
    has = draw(hnp.arrays(np.bool_, (num_layers, num_experts, num_hand)))
    wants = draw(hnp.arrays(np.bool_, (num_layers, num_experts, num_plan)))
    has[:, :, draw(st.integers(1, num_hand)) :] = False
    has[:, :, 0] |= ~has.any(axis=2)
    return has, wants


@given(changes())
def test_the_optimal_mapping_moves_least_and_nodes_outside_the_plan_send(problem):
    has, wants = problem
    num_hand, num_plan = has.shape[2], wants.shape[2]
    rows = compare_mappings(has, wants, 10.0)
    assert [row.mapping for row in rows] == [*MAPPINGS]
    moved = [10.0 * (wants & ~has[:, :, bound]).sum() for bound in itertools.permutations(range(num_hand), num_plan)]
    assert rows[1].total_bytes == min(moved)
    assert {row.total_bytes for row in rows} <= set(moved)


@given(changes(), st.data())
def test_each_row_tells_what_its_mapping_moves_and_keeps_nodes_in_their_domains(problem, data):
    has, wants = problem
    wants = np.concatenate([wants, has[:, :, : has.shape[2] - wants.shape[2]]], axis=2)
    num_nodes = has.shape[2]
    domain = np.array(data.draw(st.lists(st.integers(0, 1), min_size=num_nodes, max_size=num_nodes)))
    found = []
    for order in itertools.permutations(range(num_nodes)):
        if (domain[list(order)] == domain).all():
            fetched = (wants & ~has[:, :, order]).sum(axis=(0, 1))
            found.append((10.0 * fetched.sum(), 10.0 * fetched.max()))
    rows = compare_mappings(has, wants, 10.0, domain)
    assert min(row.total_bytes for row in rows) == min(total for total, _ in found)
    for row in rows:
        # Some permutation within the domains fetches as much, in total and at the busiest receiver.
        assert (row.total_bytes, row.busiest_receiver_bytes) in found
        assert row.total_bytes == 10.0 * row.num_states
        # What all nodes send is what all receive, and no node sends more than all of it.
        assert row.total_bytes / num_nodes <= row.busiest_sender_bytes * (1 + 1e-9)
        assert row.busiest_sender_bytes <= row.total_bytes * (1 + 1e-9)


def migrated(held, plan, layers):
    """Put a plan onto the live nodes by greedy mapping, a few layers at a time; return the states of each node."""
    slots = np.empty_like(plan.slots_LNS)
    for start in range(0, plan.num_layers, layers):
        part = slice(start, start + layers)
        slots[part, map_greedily(num_missing(held.holds_LEN[part], plan.holds_LEN[part]))] = plan.slots_LNS[part]
    return PlacementPlan(slots, plan.num_experts)


@pytest.mark.parametrize("policy", ["mro", "euclid"])
def test_layers_stay_aligned_through_losses_and_migrations(policy):
    rng = np.random.default_rng(0)
    load = rng.permuted(rng.integers(1, 1000, (4, 8)), axis=1)

    def planned(num_nodes):
        return place(policy, PlacementRequest(allocate(load, num_nodes * 6, 2), num_nodes, 6, load_LE=load))

    def survived(plan):
        return recovery_curve(plan.holds_LEN, range(plan.num_nodes + 1), "exact").recovery_prob

    together = planned(12)
    apart, apart_is_worse = together, False
    for lost in ([2], [0, 5], [3], [7, 1]):
        load = load + rng.integers(0, 300, load.shape)
        left = np.setdiff1d(np.arange(together.num_nodes), lost)
        fresh = planned(len(left))
        together, apart = migrated(together.nodes(left), fresh, 4), migrated(apart.nodes(left), fresh, 1)
        assert survived(together).tolist() == survived(fresh).tolist()
        apart_is_worse |= (survived(apart) < survived(fresh) - 0.1).any()
    # It takes whole nodes: mapped each by itself, layers get out of step.
    assert apart_is_worse


def test_rows_count_what_arithmetic_says():
    # Nodes hold experts {0, 1}, {0, 1}, {2}; the plan wants {0, 1}, {0, 2}, {1, 2}. Node 2 becomes one of the last two
    # and fetches one state, which both other nodes own; the one of those that becomes the other fetches 2 from node 2.
    has = np.array([[[1, 1, 0], [1, 1, 0], [0, 0, 1]]], dtype=bool)
    wants = np.array([[[1, 1, 0], [1, 0, 1], [0, 1, 1]]], dtype=bool)
    for row in compare_mappings(has, wants, 8.0):
        assert (row.num_states, row.total_bytes, row.busiest_sender_bytes) == (2, 16, 8)
        assert row.busiest_receiver_bytes == 8


def test_what_cannot_be_fetched_is_named():
    with pytest.raises(InfeasiblePlanError, match="expert 1 of layer 0 is on no live node"):
        compare_mappings(np.array([[[True], [False]]]), np.ones((1, 2, 1), dtype=bool), 1.0)
    with pytest.raises(InfeasiblePlanError, match="plan is for 2 nodes, but 1 are alive"):
        compare_mappings(np.ones((1, 1, 1), dtype=bool), np.ones((1, 1, 2), dtype=bool), 1.0)
