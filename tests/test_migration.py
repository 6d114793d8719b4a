import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from lazsim.placement.migration import map_greedily, migrate, num_missing

shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6))
holdings = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape)))


@given(holdings)
def test_missing_states_are_those_wanted_and_not_held(problem):
    has, wants = problem
    missing = num_missing(has, wants)
    for hand in range(has.shape[2]):
        for plan in range(wants.shape[2]):
            assert missing[hand, plan] == (wants[:, :, plan] & ~has[:, :, hand]).sum()


@given(hnp.arrays(np.int64, st.tuples(st.integers(4, 7), st.integers(1, 4)), elements=st.integers(0, 9)))
def test_greedy_mapping_binds_distinct_nodes_and_is_never_better_than_the_optimal_assignment(missing):
    bound = map_greedily(missing)
    assert len(set(bound.tolist())) == missing.shape[1]
    rows, columns = linear_sum_assignment(missing)
    assert missing[bound, np.arange(missing.shape[1])].sum() >= missing[rows, columns].sum()


@given(holdings)
def test_each_missing_state_arrives_once_from_owners_in_equal_parts(problem):
    has, wants = problem
    has[:, :, 0] = True
    num_nodes = has.shape[2]
    moved = migrate(has, wants, 10.0, np.ones(num_nodes, dtype=bool), 1000.0)
    assert moved.num_states == (wants & ~has).sum()
    np.testing.assert_allclose(moved.bytes_NN.sum(axis=0), 10.0 * (wants & ~has).sum(axis=(0, 1)), rtol=1e-5)
    expected = np.zeros((num_nodes, num_nodes))
    for layer, expert, node in np.argwhere(wants & ~has):
        owners = np.flatnonzero(has[layer, expert])
        expected[owners, node] += 10.0 / len(owners)
    np.testing.assert_allclose(moved.bytes_NN, expected, rtol=1e-5)


def test_a_newcomer_also_fetches_the_dense_state():
    # Node 1 is new: it fetches the expert (10 bytes) and the dense state (100 bytes) from node 0.
    has, wants = np.array([[[True, False]]]), np.array([[[True, True]]])
    assert migrate(has, wants, 10.0, np.array([True, False]), 100.0).bytes_NN.tolist() == [[0, 110], [0, 0]]
