import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazsim.placement.allocation import allocate
from lazsim.placement.gpus import pack_gpus, spread_over_gpus
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import POLICIES, place
from lazsim.placement.request import PlacementRequest


def twice(slots_NS, gpus_per_node):
    """Count replicas on a GPU that has the expert already; slot s of a node belongs to GPU s % gpus_per_node."""
    found = 0
    for slots, gpu in itertools.product(slots_NS.tolist(), range(gpus_per_node)):
        held = [expert for expert in slots[gpu::gpus_per_node] if expert >= 0]
        found += len(held) - len(set(held))
    return found


def fewest_twice(replicas_EN, gpus_per_node):
    """Try all ways to give the replicas of each expert to its nodes, so that each node keeps its number of replicas."""

    def shares(replicas_N):
        options = [range(1, sum(replicas_N) + 1) if count else [0] for count in replicas_N]
        return [share for share in itertools.product(*options) if sum(share) == sum(replicas_N)]

    used_N = replicas_EN.sum(axis=0).tolist()
    ways = itertools.product(*(shares(replicas_N) for replicas_N in replicas_EN.tolist()))
    return min(
        sum(max(0, count - gpus_per_node) for shares_N in way for count in shares_N)
        for way in ways
        if [sum(column) for column in zip(*way, strict=True)] == used_N
    )


@st.composite
def plans(draw):
    num_nodes, num_slots, num_experts = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    nodes = st.lists(st.integers(0, num_experts - 1), max_size=num_slots)
    held = draw(st.lists(nodes, min_size=num_nodes, max_size=num_nodes))
    return PlacementPlan(np.array([[node + [-1] * (num_slots - len(node)) for node in held]]), num_experts)


@given(plans(), st.integers(1, 3))
def test_gpus_hold_an_expert_twice_no_more_often_than_in_the_best_plan_with_the_same_nodes(plan, gpus_per_node):
    spread = spread_over_gpus(plan, gpus_per_node)
    assert np.array_equal(spread.holds_LEN, plan.holds_LEN)
    assert np.array_equal(spread.replicas_LE, plan.replicas_LE)
    assert np.array_equal(spread.slots_LNS < 0, plan.slots_LNS < 0)
    assert twice(spread.slots_LNS[0], gpus_per_node) == fewest_twice(plan.replicas_LEN[0], gpus_per_node)


def test_a_replica_is_passed_on_through_a_third_node_where_no_two_can_exchange():
    # Two GPUs. Node 0 has one of expert 0 too many, for node 1; that has one of expert 1 for node 2, and that one of
    # expert 2 for node 0. No two nodes alone can exchange.
    plan = PlacementPlan(np.array([[[0, 0, 0, 2], [0, 1, 1, 3], [1, 2, 2, 3]]]), num_experts=4)
    spread = spread_over_gpus(plan, 2)
    assert spread.replicas_LEN[0].T.tolist() == [[2, 0, 2, 0], [2, 1, 0, 1], [0, 2, 1, 1]]
    assert twice(spread.slots_LNS[0], 2) == 0


def test_a_node_without_an_expert_twice_on_a_gpu_keeps_its_slots():
    plan = PlacementPlan(np.array([[[2, 1, 2, 0], [2, 0, 1, 1]]]), num_experts=3)
    assert spread_over_gpus(plan, 2).slots_LNS.tolist() == [[[2, 2, 1, 0], [2, 0, 1, 1]]]


@st.composite
def requests(draw):
    num_nodes, gpus_per_node = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    num_slots = gpus_per_node * draw(st.integers(1, 3))
    num_experts = draw(st.integers(1, num_nodes * num_slots))
    load = st.lists(st.integers(0, 100), min_size=num_experts, max_size=num_experts)
    load_LE = np.array(draw(st.lists(load, min_size=1, max_size=2)))
    replicas_LE = allocate(load_LE, num_nodes * num_slots, draw(st.integers(1, 3)))
    return PlacementRequest(replicas_LE, num_nodes, num_slots, gpus_per_node, load_LE)


@given(st.sampled_from([name for name, policy in POLICIES.items() if not policy.allocates]), requests())
def test_policies_for_nodes_put_an_expert_twice_on_a_gpu_only_where_a_node_has_more_of_it_than_gpus(policy, request):
    gpus = request.gpus_per_node
    plan = place(policy, request)
    on_nodes = place(
        policy, PlacementRequest(request.replicas_LE, request.num_nodes, request.num_slots, 1, request.load_LE)
    )
    # The same nodes lose the same experts.
    assert np.array_equal(plan.holds_LEN, on_nodes.holds_LEN)
    for slots_NS, replicas_EN in zip(plan.slots_LNS, plan.replicas_LEN, strict=True):
        assert twice(slots_NS, gpus) == np.maximum(replicas_EN - gpus, 0).sum()


@given(plans(), st.integers(1, 3), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_packing_by_load_puts_an_expert_twice_on_a_gpu_only_where_a_node_has_more_of_it_than_gpus(plan, gpus, load):
    slots = np.pad(plan.slots_LNS, ((0, 0), (0, 0), (0, -plan.slots_LNS.shape[2] % gpus)), constant_values=-1)
    packed = pack_gpus(PlacementPlan(slots, plan.num_experts), np.array([load[: plan.num_experts]]), gpus)
    by_node = packed[0].swapaxes(1, 2).reshape(slots.shape[1:])
    assert np.sort(by_node, axis=1).tolist() == np.sort(slots[0], axis=1).tolist()
    assert twice(by_node, gpus) == np.maximum(plan.replicas_LEN - gpus, 0).sum()


def test_the_last_free_slots_of_a_gpu_do_not_take_an_expert_twice():
    # Two GPUs of three slots: load 10 on one, and the three of 2 fill the other. Then both of 1 would join the 10.
    plan = PlacementPlan(np.array([[[0, 1, 2, 3, 4, 4]]]), num_experts=5)
    packed = pack_gpus(plan, np.array([[10, 2, 2, 2, 2]]), 2)[0, 0].tolist()
    assert [sorted(gpu) for gpu in packed] == [[0, 1, 4], [2, 3, 4]]
