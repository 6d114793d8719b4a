from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.allocation import allocate


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
