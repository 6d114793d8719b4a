import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import InfeasiblePlanError, LazsimError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_size, ep_unit_nodes, place_ep, place_ep_on_most
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import is_recoverable
from lazsim.placement.policies import (
    POLICIES,
    REGISTRY,
    NamedPolicy,
    find_policy,
    place,
    policy_names,
)
from lazsim.placement.request import PlacementRequest


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


@pytest.mark.parametrize("name", POLICIES)
@given(allocations(), st.integers(1, 3), st.integers(0, 5))
def test_every_policy_makes_a_valid_plan_of_the_replicas_allocated(name, problem, gpus_per_node, seed):
    replicas_LE, num_nodes, num_slots = problem
    request = PlacementRequest(replicas_LE, num_nodes, num_slots, gpus_per_node, seed=seed)
    try:
        plan = place(name, request)
    except InfeasiblePlanError:
        assert name == "ep"
        return
    assert plan.slots_LNS.shape == (len(replicas_LE), num_nodes, num_slots)
    plan.check(None if POLICIES[name].allocates else replicas_LE)
    assert np.array_equal(plan.slots_LNS, place(find_policy(name), request).slots_LNS)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"domains", "euclid", "random"}))
def test_policies_plan_each_layer_by_itself_but_the_one_that_draws_and_those_that_align(name):
    load = np.random.default_rng(3).integers(0, 1000, size=(3, 8))
    request = PlacementRequest(allocate(load, 24, 2), 4, 6, load_LE=load)
    layers = [PlacementRequest(request.replicas_LE[i : i + 1], 4, 6, load_LE=load[i : i + 1]) for i in range(3)]
    alone = np.concatenate([place(name, layer).slots_LNS for layer in layers])
    assert np.array_equal(place(name, request).slots_LNS, alone)


def test_eplb_goes_by_the_load_and_not_by_the_allocation():
    request = PlacementRequest(np.array([[4, 1, 1]]), num_nodes=3, num_slots=2, load_LE=np.array([[1, 1, 10]]))
    assert place("eplb", request).replicas_LE.tolist() == [[1, 1, 4]]


def test_nobody_can_write_to_a_request():
    replicas = np.array([[1, 1]])
    request = PlacementRequest(replicas, 1, 2)
    for array in (request.replicas_LE, request.load_LE):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 2
    replicas[0, 0] = 1


@pytest.mark.parametrize(
    ("replicas", "loads", "expected"),
    [
        ([[2, 2], [2, 1]], [], "`replicas`: 3 in layer 1 for 4 slots; give 4"),
        ([[2, 3]], [], "`replicas`: 5 in layer 0 for 4 slots; give 4"),
        ([[5, -1]], [], "`replicas`: expert 1 of layer 0 has -1; give each at least 1"),
        ([[0, 4]], [], "`replicas`: expert 0 of layer 0 has 0; give each at least 1"),
        ([2, 2], [], "`replicas`: expected integers of shape (layers, experts), found int64 of shape (2,)"),
        ([[2.0, 2.0]], [], "`replicas`: expected integers of shape (layers, experts), found float64 of shape (1, 2)"),
        ([[2, 2]], [[3, -4]], "`loads`: expert 1 of layer 0 has -4; give each at least 0"),
        ([[2, 2]], [[3]], "`loads`: expected integers of shape (1, 2), found shape (1, 1)"),
        ([[2, 2]], [[0.5, 1]], "`loads`: expected integers of shape (layers, experts), found float64 of shape (1, 2)"),
    ],
)
def test_a_request_that_nothing_can_fulfil_is_refused(replicas, loads, expected):
    with pytest.raises(LazsimError) as refused:
        PlacementRequest(np.array(replicas), num_nodes=2, num_slots=2, load_LE=np.array(loads))
    assert str(refused.value) == expected


@given(st.integers(1, 32), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_expert_parallelism_fills_all_whole_groups_or_says_that_it_does_not_apply(
    num_experts, num_nodes, num_slots, gpus_per_node
):
    try:
        plan = place_ep_on_most(2, num_experts, num_nodes, num_slots, gpus_per_node).check()
    except InfeasiblePlanError:
        fits = num_slots >= gpus_per_node and num_nodes * gpus_per_node >= num_experts
        unit = fits and ep_unit_nodes(num_experts, gpus_per_node, num_slots // gpus_per_node)
        assert not unit or unit > num_nodes
        return
    unit = ep_unit_nodes(num_experts, gpus_per_node, num_slots // gpus_per_node)
    empty_N = (plan.slots_LNS == -1).all(axis=(0, 2))
    assert empty_N.tolist() == [node >= num_nodes // unit * unit for node in range(num_nodes)]
    assert (plan.replicas_LE == plan.replicas_LE[0, 0]).all()


@pytest.mark.parametrize(
    ("experts", "nodes", "slots", "gpus", "expected"),
    [
        (16, 3, 6, 1, "needs 4 nodes to hold 16 experts in equal chunks of at most 6 on a GPU, and there are 3"),
        (7, 6, 6, 1, "needs 7 nodes to hold 7 experts in equal chunks of at most 6 on a GPU, and there are 6"),
        (8, 6, 3, 4, "needs a slot on every GPU, but nodes have 3 for 4 GPUs"),
    ],
)
def test_expert_parallelism_says_why_it_does_not_apply(experts, nodes, slots, gpus, expected):
    request = PlacementRequest(allocate(np.ones((1, experts), dtype=np.int64), nodes * slots, 1), nodes, slots, gpus)
    with pytest.raises(InfeasiblePlanError) as caught:
        place("ep", request)
    assert str(caught.value) == f"plain expert parallelism {expected}"


def test_a_broken_policy_of_our_own_is_a_bug_and_not_bad_input(monkeypatch):
    monkeypatch.setattr(
        "lazsim.placement.policies.POLICIES",
        {"spread": NamedPolicy("spread", lambda request: place_mro(request.replicas_LE[:, ::-1], 2, 2))},
    )
    with pytest.raises(AssertionError, match="every allocated replica is placed"):
        place("spread", PlacementRequest(np.array([[1, 3]]), 2, 2))


def test_every_policy_is_described_in_a_line():
    assert policy_names()[: len(POLICIES)] == list(POLICIES)
    for name in policy_names():
        assert REGISTRY.describe()[name].strip()
        assert "\n" not in REGISTRY.describe()[name]


def test_an_unknown_policy_is_refused_with_the_nearest():
    with pytest.raises(LazsimError) as caught:
        find_policy("sprad")
    assert "unknown policy 'sprad': did you mean 'spread'? known: mro, " in str(caught.value)
    assert str(caught.value).endswith("; or path.py:function")
