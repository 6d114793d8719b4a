import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError
from lazsim.loads import MAX_SLOTS, MAX_TOKENS
from lazsim.placement.allocation import allocate
from lazsim.placement.eplb import place_eplb, replicate_greedily
from lazsim.placement.policies import POLICIES, place
from lazsim.placement.request import PlacementRequest
from lazsim.placement.serving import rebalance_experts


@st.composite
def problems(draw):
    num_experts = draw(st.integers(1, 12))
    num_layers = draw(st.integers(1, 3))
    load = st.lists(st.integers(0, 10**9), min_size=num_experts, max_size=num_experts)
    loads = draw(st.lists(load, min_size=num_layers, max_size=num_layers))
    num_slots = draw(st.integers(num_experts, 200))
    return np.array(loads), num_slots, draw(st.integers(1, 8))


@given(problems())
def test_every_slot_is_used_every_expert_has_f_replicas_and_replicas_ascend_with_load(problem):
    load_LE, num_slots, fault_threshold = problem
    replicas = allocate(load_LE, num_slots, fault_threshold)
    threshold = min(fault_threshold, num_slots // load_LE.shape[1])
    assert (replicas.sum(axis=1) == num_slots).all()
    assert (replicas >= threshold).all()
    for load, layer in zip(load_LE, replicas, strict=True):
        ascending = layer[np.argsort(load, kind="stable")]
        assert (np.diff(ascending) >= 0).all()


@given(problems())
def test_replicas_follow_the_published_formula_in_exact_arithmetic(problem):
    load_LE, num_slots, fault_threshold = problem
    replicas = allocate(load_LE, num_slots, fault_threshold)
    for load, layer in zip(load_LE.tolist(), replicas.tolist(), strict=True):
        load = load if any(load) else [1] * len(load)
        threshold = min(fault_threshold, num_slots // len(load))
        left, rest = num_slots, sum(load)
        for expert in sorted(range(len(load)), key=lambda e: (load[e], e)):
            expected = max(int(Fraction(load[expert] * left, rest)), threshold)
            assert layer[expert] == expected
            left, rest = left - expected, rest - load[expert]


def test_an_even_share_is_not_lost_to_rounding():
    # 1/49 of 49 slots is one slot; in floating point 49 * (1/49) falls short of 1.
    assert allocate(np.ones((1, 49), dtype=np.int64), 49, 1).tolist() == [[1] * 49]


def test_more_experts_than_slots_are_refused():
    with pytest.raises(InfeasiblePlanError, match="16 experts need as many slots, but the nodes have 12"):
        allocate(np.ones((1, 16), dtype=np.int64), 12, 2)


@st.composite
def largest_problems(draw):
    """Loads of exactly the most tokens of a layer, on slots up to the most."""
    cuts = sorted(draw(st.lists(st.integers(0, MAX_TOKENS), max_size=7)))
    load = [high - low for low, high in zip([0, *cuts], [*cuts, MAX_TOKENS], strict=True)]
    return load, draw(st.integers(MAX_SLOTS - 9, MAX_SLOTS) | st.integers(len(load), MAX_SLOTS))


@given(largest_problems(), st.integers(1, 3))
def test_the_largest_loads_are_allocated_as_in_unbounded_integers(problem, fault_threshold):
    load, num_slots = problem
    threshold = max(1, min(fault_threshold, num_slots // len(load)))
    found = allocate(np.array([load]), num_slots, fault_threshold)[0].tolist()
    left, rest = num_slots, sum(load)
    for expert in sorted(range(len(load)), key=lambda e: (load[e], e)):
        assert found[expert] == max(load[expert] * left // rest, threshold)
        left, rest = left - found[expert], rest - load[expert]


@given(largest_problems())
def test_the_heaviest_replica_of_the_largest_loads_is_as_light_as_exact_arithmetic_makes_it(problem):
    load, num_slots = problem
    replicas = replicate_greedily(np.array([load]), num_slots)[0].tolist()
    assert sum(replicas) == num_slots
    heaviest = max(map(Fraction, load, replicas))
    # Below this level, by more than the rounding of a float, the experts need more slots than there are.
    lower = heaviest * (1 - Fraction(1, 2**50))
    assert sum(max(1, math.ceil(tokens / lower)) for tokens in load) > num_slots


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, object])
@pytest.mark.parametrize("excess", [1, MAX_TOKENS, 2**55, 2**62])
def test_loads_beyond_exact_arithmetic_are_refused_wherever_they_come_in(excess, dtype):
    load = np.array([[1, 1], [MAX_TOKENS, excess]], dtype=dtype)
    takers = {
        "allocate": lambda: allocate(load, 4, 1),
        "greedily": lambda: replicate_greedily(load, 4),
        "eplb": lambda: place_eplb(load, 2, 2),
        "request": lambda: PlacementRequest(np.full((2, 2), 2), 2, 2, load_LE=load),
    }
    for taker in takers.values():
        with pytest.raises(SpecError, match=r"^(loads: layer 1 has .* tokens|`loads`: expected integers)"):
            taker()


def test_more_slots_than_exact_arithmetic_allows_are_refused():
    with pytest.raises(SpecError, match="524,289 slots in a layer; give at most 524,288"):
        allocate(np.array([[1, 1]]), MAX_SLOTS + 1, 1)


def test_loads_are_refused_in_one_line_instead_of_an_assertion():
    for load in ([[-1, 2]], [[0.5, 2.0]], [1, 2], [[]]):
        with pytest.raises(LazsimError, match=r"^`?loads`?: "):
            allocate(np.array(load), 4, 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_takes_the_largest_loads(policy):
    load = np.array([[MAX_TOKENS - 3, 1, 1, 1]], dtype=np.uint64)
    request = PlacementRequest(allocate(load, 8, 1), 2, 4, 2, load_LE=load)
    # Only the first expert has a load: policies that allocate by load give it all further replicas.
    expected = [2, 2, 2, 2] if policy == "ep" else [5, 1, 1, 1]
    assert place(policy, request).replicas_LE.tolist() == [expected]


def test_serving_takes_the_largest_counts_as_they_are_and_scales_larger_weights():
    # Of three slots the expert with one token more gets two; in weights of 2**-32 of the heaviest both are equal.
    for load, expected in (([2**41, 2**41 + 1], [1, 2]), ([2.0**70, 2.0**70 + 2.0**20], [2, 1])):
        assert rebalance_experts([load], 3, 1, 1, 1)[2].tolist() == [expected]
