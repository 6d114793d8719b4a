import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lazsim.errors import SpecError
from lazsim.placement.balanced import most_distinct, place_on_uneven
from lazsim.placement.eplb import replicate_greedily
from lazsim.placement.local_search import Layer, Rules, best_change
from lazsim.placement.mapping import lay_on
from lazsim.placement.plan import PlacementPlan, gpu_slots, node_slots
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.placement.serving import placement_change, rebalance_experts
from lazsim.placement.steady import even_out, keep_steady, tell_change


def gpu_loads(slots_GK, load_E):
    """Load of each GPU, replica by replica."""
    held = slots_GK.ravel().tolist()
    return [sum(load_E[expert] / held.count(expert) for expert in gpu if expert >= 0) for gpu in slots_GK.tolist()]


def busiest(slots_GK, load_E):
    loads = gpu_loads(slots_GK, load_E)
    return max(loads) / (sum(loads) / len(loads))


def num_moved(held_GK, slots_GK):
    """Count the replicas that each GPU must fetch: those that are left when those that it held are taken away."""
    moved = 0
    for held, new in zip(held_GK.tolist(), slots_GK.tolist(), strict=True):
        left = list(held)
        for expert in new:
            if expert in left:
                left.remove(expert)
            else:
                moved += 1
    return moved


def cost(held_GK, slots_GK, load_E, move_cost):
    return busiest(slots_GK, load_E) + move_cost * num_moved(held_GK, slots_GK) / slots_GK.size


@st.composite
def changes(draw):
    """A plan for some loads on one layer, another for loads of today, and the rules that both keep."""
    num_nodes, gpus_per_node, per_gpu = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    num_slots = gpus_per_node * per_gpu
    num_experts = draw(st.integers(1, num_nodes * num_slots))
    load = st.lists(st.integers(1, 50), min_size=num_experts, max_size=num_experts)
    before, today = (np.array([draw(load)]) for _ in range(2))
    threshold = min(draw(st.integers(1, 2)), num_nodes, num_nodes * num_slots // num_experts)
    plans = []
    for load_LE in (before, today):
        replicas_LE = replicate_greedily(load_LE, num_nodes * num_slots, threshold)
        request = PlacementRequest(replicas_LE, num_nodes, num_slots, gpus_per_node, load_LE)
        plans.append(gpu_slots(place("balanced", request), gpus_per_node))
    return *plans, today, Rules(np.arange(num_nodes).repeat(gpus_per_node), threshold)


def nodes_of_experts(slots_GK, node_G, num_experts):
    return [len(set(node_G[(slots_GK == expert).any(axis=1)].tolist())) for expert in range(num_experts)]


@settings(max_examples=25)
@given(changes(), st.sampled_from([0.0, 0.02, 0.1, 1.0]))
def test_a_change_costs_no_more_than_none_and_no_more_than_a_fresh_plan(change, move_cost):
    held, fresh, load, rules = change
    new = keep_steady(held, fresh, load, rules, move_cost)
    found = cost(held[0], new[0], load[0], move_cost)
    assert found <= cost(held[0], held[0], load[0], move_cost) + 1e-9
    assert found <= cost(held[0], fresh[0], load[0], move_cost) + 1e-9
    assert min(nodes_of_experts(new[0], rules.node_G, load.shape[1])) >= rules.fewest_nodes
    # What follows from the two: moves are paid for, and balance is near that of the fresh plan.
    gain = busiest(held[0], load[0]) - busiest(new[0], load[0])
    assert move_cost * num_moved(held[0], new[0]) / new.size <= gain + 1e-9
    assert busiest(new[0], load[0]) <= busiest(fresh[0], load[0]) + move_cost + 1e-9


@settings(max_examples=25)
@given(changes(), st.sampled_from([0.02, 0.1]))
def test_a_plan_that_was_changed_for_these_loads_is_not_changed_for_less_than_it_costs(change, move_cost):
    held, fresh, load, rules = change
    new = keep_steady(held, fresh, load, rules, move_cost)
    again = keep_steady(new, fresh, load, rules, move_cost)
    assert cost(new[0], again[0], load[0], move_cost) <= busiest(new[0], load[0]) + 1e-9


@settings(max_examples=25)
@given(changes())
def test_replicas_that_stay_on_a_gpu_keep_their_slots(change):
    held, fresh, load, rules = change
    new = keep_steady(held, fresh, load, rules, 0.02)
    assert (new[0] != held[0]).sum() == num_moved(held[0], new[0])


@settings(max_examples=25)
@given(changes())
def test_the_loads_told_for_each_change_are_those_after_it(change):
    held, _, load, rules = change
    layer = Layer(held[0], load[0], rules)
    gpu, slots = int(layer.load_G.argmax()), np.arange(held[0].size)
    others = slots[layer.gpu_P != gpu]
    for found in (layer.swaps(gpu, others), layer.replacements(np.arange(load.shape[1]), slots)):
        fetched = layer.num_fetched(found, layer.on_EG)
        for slot, expert, other, most, squares, moved in zip(*found, fetched, strict=True):
            after = held[0].ravel().copy()
            if other >= 0:
                after[other] = after[slot]
            after[slot] = expert
            after = after.reshape(held[0].shape)
            loads = np.array(gpu_loads(after, load[0]))
            assert loads.max() == pytest.approx(most)
            assert (loads**2).sum() == pytest.approx(squares)
            assert num_moved(held[0], after) == moved
            assert min(nodes_of_experts(after, rules.node_G, load.shape[1])) >= rules.fewest_nodes


@settings(max_examples=150)
@given(changes().filter(lambda change: change[0].shape[1] <= 5), st.sampled_from([0.0, 0.1, 0.3]))
def test_of_the_changes_that_lower_the_busiest_gpu_the_cheapest_comes_first(change, move_cost):
    held, fresh, load, rules = change
    # From the fresh plan on: some changes fetch replicas, and others bring back what GPUs held.
    layer, held_EG = Layer(fresh[0], load[0], rules), Layer(held[0], load[0], rules).on_EG
    gpu, slots = int(np.argsort(layer.load_G, kind="stable")[-1]), np.arange(fresh[0].size)
    # Of up to five GPUs the others are all partners of the busiest one.
    others = slots[layer.gpu_P != gpu]
    found = layer.swaps(gpu, others), layer.replacements(np.unique(fresh[0][gpu]), others)
    costs = []
    for slot, expert, other in (row for one in found for row in zip(*one[:3], strict=True)):
        after = fresh[0].ravel().copy()
        after[other] = after[slot] if other >= 0 else after[other]
        after[slot] = expert
        after = after.reshape(fresh[0].shape)
        if busiest(after, load[0]) < busiest(fresh[0], load[0]) - 1e-9:
            costs.append(cost(held[0], after, load[0], move_cost))
    assume(costs)
    first = best_change(layer, held_EG, move_cost)
    assert cost(held[0], first.slots_GK, load[0], move_cost) <= min(costs) + 1e-9


def test_the_busiest_gpu_passes_its_load_on_by_the_exchange_that_evens_all_out():
    # GPUs have 70 and 30. After the exchange of 40 and 20 both have 50, and the cost of two of four moves is 0.05.
    held, load = np.array([[[0, 1], [2, 3]]]), np.array([[40, 30, 20, 10]])
    new = keep_steady(held, held, load, Rules(np.array([0, 1])), 0.1)
    assert new.tolist() == [[[2, 1], [0, 3]]]
    # A gain of 0.4 of the mean is not worth half of the moves at a cost of 1.
    assert keep_steady(held, held, load, Rules(np.array([0, 1])), 1.0).tolist() == held.tolist()
    assert str(tell_change(held, new, load)) == "2 of 4 replicas moved; busiest GPU 1.400 -> 1.000 of the mean"


SERVED = (288, 1, 4, 32)


def served_loads(num_layers=3):
    rng = np.random.default_rng(0)
    return rng.zipf(1.3, (num_layers, 256)).clip(1, 2000) * 50 + rng.integers(0, 50, (num_layers, 256))


def test_one_token_more_of_every_seventh_expert_moves_few_replicas():
    load = served_loads()
    held = rebalance_experts(load, *SERVED)[0]
    more = load + (np.arange(256) % 7 == 0)
    # Without the old placement, half of the slots change.
    fresh = placement_change(held, rebalance_experts(more, *SERVED)[0], more, 32)
    assert fresh.num_moved > 0.4 * fresh.num_slots
    change = placement_change(held, rebalance_experts(more, *SERVED, held)[0], more, 32, expert_bytes=2.0)
    assert change.num_moved < 0.1 * change.num_slots
    assert change.moved_bytes == 2 * change.num_moved
    assert 0.1 * change.num_moved / change.num_slots <= change.busiest_before - change.busiest_after
    assert change.busiest_after <= fresh.busiest_after


def test_other_loads_are_followed():
    load = served_loads(2)
    held, turned = rebalance_experts(load, *SERVED)[0], load[:, ::-1]
    change = placement_change(held, rebalance_experts(turned, *SERVED, held)[0], turned, 32)
    fresh = placement_change(held, rebalance_experts(turned, *SERVED)[0], turned, 32)
    assert change.busiest_before > 2
    assert change.busiest_after <= fresh.busiest_after + 0.1
    assert change.num_moved < fresh.num_moved


def test_after_the_loss_of_a_gpu_no_more_need_move_than_the_experts_that_it_alone_held():
    load = served_loads(2)
    held = rebalance_experts(load, *SERVED)[0]
    alive = np.arange(32) != 5
    left = held.reshape(2, 32, 9)[:, alive]
    num_lost = sum(256 - len(np.unique(layer)) for layer in left)
    for move_cost in (1e6, 0.1):
        new, _, count = rebalance_experts(load, *SERVED, held, alive, move_cost=move_cost)
        assert (new.reshape(2, 32, 9) >= 0).all(axis=2).tolist() == [alive.tolist()] * 2
        assert count.min() >= 1
        moved = sum(num_moved(old, now) for old, now in zip(left, new.reshape(2, 32, 9)[:, alive], strict=True))
        assert moved == num_lost if move_cost == 1e6 else moved < 0.5 * left.size


def test_groups_stay_whole_where_single_replicas_move():
    rng = np.random.default_rng(1)
    load = rng.integers(1, 200, (2, 16))
    held = rebalance_experts(load, 24, 4, 2, 4)[0]
    other = rng.integers(1, 200, (2, 16))
    new = rebalance_experts(other, 24, 4, 2, 4, held)[0]
    for layer in new:
        groups = [set((half // 4).tolist()) for half in layer.reshape(2, 12)]
        assert not groups[0] & groups[1]


def test_a_held_plan_without_an_expert_or_with_split_groups_is_mended():
    load = np.array([[9, 9, 9, 9]])
    for old in ([[0, 0, 1, 2]], [[-1] * 4], [[0, 2, 1, 3]]):
        new, _, count = rebalance_experts(load, 4, 2, 2, 2, np.array(old))
        assert count.tolist() == [[1, 1, 1, 1]]
        assert {frozenset(half) for half in new.reshape(2, 2).tolist()} == {frozenset((0, 1)), frozenset((2, 3))}


def test_a_plan_is_laid_onto_the_nodes_and_gpus_that_hold_it_already():
    node_G = np.array([0, 0, 1, 1])
    held = np.array([[[0, 1], [2, 3], [4, 5], [6, 7]]])
    # The same plan with nodes, GPUs and slots the other way round.
    assert lay_on(held[:, ::-1, ::-1], held, node_G).tolist() == held.tolist()
    # In two layers that are turned against each other, nodes that move together can only please one.
    both, turned = np.concatenate([held, held]), np.concatenate([held, held[:, [2, 3, 0, 1]]])
    assert lay_on(turned, both, node_G).tolist() == both.tolist()
    assert (lay_on(turned, both, node_G, together=True) == both).all(axis=(1, 2)).sum() == 1


def test_a_node_is_not_laid_onto_one_with_other_gpus():
    node_G = np.array([0, 1, 1])
    held, fresh = np.array([[[0], [1], [2]]]), np.array([[[1], [2], [0]]])
    # The first node has one GPU, so that it cannot take the place of the second, which holds its expert.
    assert lay_on(fresh, held, node_G).tolist() == [[[1], [0], [2]]]


def test_slots_by_gpu_and_by_node_are_the_same_plan():
    plan = PlacementPlan(np.arange(12).reshape(1, 2, 6), 12)
    by_gpu = gpu_slots(plan, 3)
    # Slot s belongs to GPU s % 3.
    assert by_gpu.tolist() == [[[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]]
    assert node_slots(by_gpu, 12, 3).slots_LNS.tolist() == plan.slots_LNS.tolist()


@settings(max_examples=25)
@given(changes())
def test_evening_out_never_loads_the_busiest_gpu_more(change):
    held, _, load, rules = change
    assert busiest(even_out(held, load, rules)[0], load[0]) <= busiest(held[0], load[0]) + 1e-9


def largest_threshold(num_experts, slots):
    """Search all ways to give each expert distinct nodes, for the most that all experts can have."""
    for threshold in range(len(slots), 0, -1):
        ways = list(itertools.combinations(range(len(slots)), threshold))
        for chosen in itertools.product(ways, repeat=num_experts):
            used = [sum(node in way for way in chosen) for node in range(len(slots))]
            if all(count <= room for count, room in zip(used, slots, strict=True)):
                return threshold
    return 0


@settings(max_examples=25)
@given(st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_on_uneven_nodes_every_threshold_that_exhaustive_search_finds_is_kept(num_experts, slots, data):
    slots_N = np.array(slots)
    if slots_N.sum() < num_experts:
        return
    threshold = largest_threshold(num_experts, slots)
    assert most_distinct(num_experts, slots_N) == threshold
    load = np.array([data.draw(st.lists(st.integers(1, 50), min_size=num_experts, max_size=num_experts))])
    replicas = replicate_greedily(load, int(slots_N.sum()), threshold)
    plan = place_on_uneven(replicas, load, slots_N, [threshold]).check(replicas)
    assert plan.fewest_nodes >= threshold
    assert (plan.slots_LNS[0] >= 0).sum(axis=1).tolist() == slots


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "much", None])
def test_a_cost_of_moves_that_is_none_is_refused(bad):
    with pytest.raises(SpecError, match=r"^`move_cost`: expected a finite number from 0 up, found "):
        rebalance_experts([[1, 1]], 2, 1, 1, 1, [[0, 1]], move_cost=bad)
