import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_size, ep_unit_nodes, place_ep
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import is_recoverable


def published_mro(replicas: list[int], num_nodes: int, num_slots: int) -> list[list[int]]:
    """One layer of MRO, replica by replica, as the description says it; experts come ascending."""
    nodes: list[list[int]] = [[] for _ in range(num_nodes)]
    left, first = list(replicas), 0
    groups = [range(start, min(start + num_slots, len(replicas))) for start in range(0, len(replicas), num_slots)]
    for group in groups:
        size = replicas[group[0]]
        if group is groups[-1]:
            size = min(size, num_nodes - first)
        for node, expert in itertools.product(range(first, first + size), group):
            nodes[node].append(expert)
            left[expert] -= 1
        first += size
    for expert, count in enumerate(left):
        for _ in range(count):
            free = [node for node in nodes if len(node) < num_slots]
            min(free, key=lambda node: (expert in node, len(node))).append(expert)
    return nodes


@st.composite
def allocations(draw):
    num_slots = draw(st.integers(1, 6))
    num_nodes = draw(st.integers(1, 10))
    num_experts = draw(st.integers(1, min(16, num_slots * num_nodes)))
    num_layers = draw(st.integers(1, 3))
    load = st.lists(st.integers(0, 1000), min_size=num_experts, max_size=num_experts)
    loads = np.array(draw(st.lists(load, min_size=num_layers, max_size=num_layers)))
    return allocate(loads, num_nodes * num_slots, draw(st.integers(1, 3))), num_nodes, num_slots


@given(allocations())
def test_mro_places_every_replica_where_the_description_says(problem):
    replicas_LE, num_nodes, num_slots = problem
    plan = place_mro(replicas_LE, num_nodes, num_slots).check(replicas_LE)
    for layer, replicas in enumerate(replicas_LE):
        order = np.argsort(replicas, kind="stable")
        expected = published_mro(replicas[order].tolist(), num_nodes, num_slots)
        found = plan.slots_LNS[layer]
        for node in range(num_nodes):
            assert sorted(order[expected[node]].tolist()) == sorted(found[node][found[node] >= 0].tolist())


def test_mro_loses_a_single_failure_that_another_placement_survives():
    # The known counterexample to the published theorem: 2 of 3 single failures survived.
    plan = place_mro(np.array([[2, 2, 2]]), num_nodes=3, num_slots=2)
    survived = [is_recoverable(plan.nodes([n for n in range(3) if n != lost]).holds_LEN) for lost in range(3)]
    assert sum(survived) == 2


def test_mro_with_a_short_last_group_survives_5_of_8_failures_with_the_known_probability():
    # E=8, N=8, c=6, r=(6, ..., 6): 0.643 = 36/56 survivor sets of 3 nodes.
    plan = place_mro(np.full((1, 8), 6), num_nodes=8, num_slots=6)
    survivors = list(itertools.combinations(range(8), 3))
    survived = sum(is_recoverable(plan.nodes(alive).holds_LEN) for alive in survivors)
    assert survived / len(survivors) == pytest.approx(0.643, abs=5e-4)


def test_expert_parallel_group_sizes_are_the_published_ones():
    assert [(ep_size(e, 6), e // ep_size(e, 6)) for e in (8, 12, 16)] == [(2, 4), (2, 6), (4, 4)]


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 6), st.integers(1, 3))
def test_each_expert_parallel_group_holds_every_expert_once(num_experts, gpus_per_node, slots_per_gpu, num_units):
    unit = ep_unit_nodes(num_experts, gpus_per_node, slots_per_gpu)
    ep = ep_size(num_experts, slots_per_gpu)
    num_nodes = unit * num_units
    plan = place_ep(2, num_experts, num_nodes, gpus_per_node, slots_per_gpu)
    assert (plan.replicas_LE == num_nodes * gpus_per_node // ep).all()
    by_unit = plan.replicas_LEN.reshape(2, num_experts, num_units, unit).sum(axis=3)
    assert (by_unit == unit * gpus_per_node // ep).all()
    assert num_experts // ep <= slots_per_gpu
    assert unit == math.lcm(ep, gpus_per_node) // gpus_per_node
