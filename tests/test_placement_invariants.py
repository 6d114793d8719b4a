"""What must not change a plan or a probability: the unit of loads, and how an array lies in memory."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import SpecError
from lazsim.loads import whole_loads
from lazsim.placement.eplb import replicate_greedily
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.placement.serving import rebalance_experts
from lazsim.reliability import IndependentFailures, recovery_curve, recovery_prob
from lazsim.reliability.task import build_task
from lazsim.routing.one_step import get_loads


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=6).filter(any), st.integers(-6, 4))
def test_decimal_fractions_keep_their_ratios_exactly(digits, exponent):
    loads = np.array([[float(f"{number}e{exponent}") for number in digits]])
    whole, _ = whole_loads(loads)
    factor = Fraction(int(whole.sum()), sum(digits))
    assert [int(load) for load in whole[0]] == [number * factor for number in digits]


@pytest.mark.parametrize("loads", [[0.2, 0.8], [0.02, 0.08], [2e-9, 8e-9], [20.2, 80.8]])
def test_shares_of_two_and_eight_tenths_of_ten_slots_are_two_and_eight_replicas(loads):
    assert build_task(nodes=5, slots=2, loads=loads, min_replicas=1).replicas_LE.tolist() == [[2, 8]]


def test_loads_too_small_to_count_are_refused_in_a_line():
    with pytest.raises(SpecError, match=r"5e-305 tokens in the fullest layer; give 1e-12 or more"):
        get_loads([1e-305, 4e-305], None, None, None, 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 12), st.integers(1, 3))
def test_a_replica_above_the_threshold_goes_to_the_first_expert_with_most_load_per_replica(loads, num_more, threshold):
    expected = [threshold] * len(loads)
    weights = loads if any(loads) else [1] * len(loads)
    for _ in range(num_more):
        shares = [Fraction(load, count) for load, count in zip(weights, expected, strict=True)]
        expected[shares.index(max(shares))] += 1
    assert replicate_greedily(np.array([loads]), sum(expected), threshold).tolist() == [expected]


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any),
    st.sampled_from([2.0**-1074, 2.0**-70, 0.25, 2.0**1019]),
)
def test_the_unit_of_weights_does_not_change_a_plan_for_serving(weight, unit):
    counts, weights = ([[load * one for load in weight]] for one in (1, unit))
    plans = [rebalance_experts(one, 12, None, 2, 6)[0].tolist() for one in (counts, weights)]
    assert plans[0] == plans[1]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 2), st.data())
def test_groups_stay_whole_on_uneven_nodes_wherever_each_node_has_room_for_one_and_all_have_for_the_rest(
    gpus_N, times, data
):
    num_nodes, num_groups = len(gpus_N), len(gpus_N) * times
    # Whole groups fit where GPUs have as many slots as a group has experts, and nodes have as many GPUs as groups.
    gpus_N = gpus_N if sum(gpus_N) >= num_groups else [gpus * times for gpus in gpus_N]
    size, num_experts = 3, 3 * num_groups
    weight = [data.draw(st.lists(st.integers(0, 99), min_size=num_experts, max_size=num_experts))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        physical, _, _ = rebalance_experts(weight, size * sum(gpus_N), num_groups, num_nodes, gpus_N)
    node = np.arange(num_nodes).repeat(np.array(gpus_N) * size)
    assert all(len(set(node[physical[0] // size == group])) == 1 for group in range(num_groups))


@pytest.mark.parametrize("domains", [[0, 2, 2, 2], [7, 9, 9, 9], [-1, 0, 0, 0]])
def test_the_numbers_of_domains_do_not_change_a_plan(domains):
    replicas = np.full((1, 4), 2)
    plans = [
        place("domains", PlacementRequest(replicas, 4, 2, domain_N=np.array(numbers))).slots_LNS.tolist()
        for numbers in ([0, 1, 1, 1], domains)
    ]
    assert plans[0] == plans[1]


def test_many_experts_may_have_fractions_for_weights():
    # 2**32 a piece would be more tokens than arithmetic is exact for.
    assert rebalance_experts(np.full((1, 4096), 0.1), 4096, None, 1, 1)[2].max() == 1


@pytest.mark.parametrize("method", ["exact", "montecarlo"])
def test_the_layout_of_an_array_and_counts_for_booleans_change_no_probability(method):
    counts = np.random.default_rng(0).integers(0, 3, (2, 5, 9))
    counts[:, :, 0] = 1
    expected = recovery_curve(counts > 0, [1, 2, 3], method).recovery_prob
    model = IndependentFailures(np.linspace(0.1, 0.9, 9))
    # An index of the last axis leaves an array with another order in memory.
    for same in (counts, counts.tolist(), np.asfortranarray(counts > 0), (counts > 0)[:, :, np.arange(9)]):
        np.testing.assert_array_equal(recovery_curve(same, [1, 2, 3], method).recovery_prob, expected)
        assert recovery_prob(same, model, method) == recovery_prob(counts > 0, model, method)
        by_name = recovery_curve(same, [1, 2], method, domain_N=["a", "b", "c"] * 3)
        np.testing.assert_array_equal(
            by_name.recovery_prob, recovery_curve(counts > 0, [1, 2], method, domain_N=[0, 1, 2] * 3).recovery_prob
        )
