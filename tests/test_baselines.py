"""What spread, compact, random and eplb promise, against brute force and naive versions."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import InfeasiblePlanError
from lazsim.placement.baselines import place_compact, place_random, place_spread
from lazsim.placement.eplb import place_eplb, replicate_greedily
from tests.test_policies import allocations


@given(allocations())
def test_spread_puts_an_expert_on_as_many_nodes_as_it_has_replicas_or_on_all(problem):
    replicas_LE, num_nodes, num_slots = problem
    plan = place_spread(replicas_LE, num_nodes, num_slots).check(replicas_LE)
    assert (plan.holds_LEN.sum(axis=2) == np.minimum(replicas_LE, num_nodes)).all()


def test_spread_goes_round_robin_from_expert_to_expert():
    # Replicas in order: 0 0 1 1 1 2, dealt to nodes 0 1 2 3 0 1.
    plan = place_spread(np.array([[2, 3, 1]]), num_nodes=4, num_slots=2)
    assert plan.slots_LNS.tolist() == [[[0, 1], [0, 2], [1, -1], [1, -1]]]


@pytest.mark.parametrize("place", [place_spread, place_compact])
def test_slots_that_no_replica_needs_stay_empty(place):
    plan = place(np.array([[2, 1, 1], [1, 1, 1]]), num_nodes=3, num_slots=2).check(np.array([[2, 1, 1], [1, 1, 1]]))
    assert (plan.slots_LNS == -1).sum(axis=(1, 2)).tolist() == [2, 3]


def fewest_holders(replicas: tuple[int, ...], num_nodes: int, num_slots: int) -> int:
    """Search all ways to fill the nodes for the fewest pairs of an expert and a node that holds it."""

    @functools.cache
    def search(left: tuple[int, ...]) -> int:
        if not any(left):
            return 0
        fillings = itertools.product(*(range(min(count, num_slots) + 1) for count in left))
        return min(
            sum(count > 0 for count in filling)
            + search(tuple(sorted(have - taken for have, taken in zip(left, filling, strict=True))))
            for filling in fillings
            if sum(filling) == num_slots
        )

    assert sum(replicas) == num_nodes * num_slots
    return search(tuple(sorted(replicas)))


def partitions(total: int, parts: int, least: int = 1):
    """Yield all ascending tuples of so many positive numbers that add up to the total."""
    if parts == 1:
        if total >= least:
            yield (total,)
        return
    for first in range(least, total // parts + 1):
        for rest in partitions(total - first, parts - 1, first):
            yield (first, *rest)


@pytest.mark.parametrize(("num_nodes", "num_slots"), [(2, 2), (3, 2), (4, 2), (2, 3), (3, 3), (4, 3), (2, 4), (3, 4)])
def test_compact_uses_the_fewest_nodes_that_exhaustive_search_finds(num_nodes, num_slots):
    total = num_nodes * num_slots
    for num_experts in range(1, min(5, total) + 1):
        for replicas in partitions(total, num_experts):
            found = place_compact(np.array([replicas]), num_nodes, num_slots).holds_LEN.sum()
            assert found == fewest_holders(replicas, num_nodes, num_slots), replicas


@given(allocations())
def test_compact_needs_no_more_nodes_than_filling_them_one_by_one_and_with_two_slots_the_fewest(problem):
    replicas_LE, num_nodes, num_slots = problem
    plan = place_compact(replicas_LE, num_nodes, num_slots).check(replicas_LE)
    holders_LE = plan.holds_LEN.sum(axis=2)
    # A row of E runs cut at N - 1 places has at most E + N - 1 pieces.
    assert (holders_LE.sum(axis=1) <= replicas_LE.shape[1] + num_nodes - 1).all()
    assert (holders_LE >= -(-replicas_LE // num_slots)).all()
    if num_slots <= 2:
        assert (holders_LE == -(-replicas_LE // num_slots)).all()


@given(st.integers(0, 4), st.data())
def test_compact_splits_nothing_where_slots_and_replicas_are_powers_of_two(log_slots, data):
    # Largest first, powers of two leave room that is a multiple of the next one.
    num_slots = 2**log_slots
    replicas = data.draw(st.lists(st.sampled_from([2**i for i in range(log_slots + 1)]), min_size=1, max_size=20))
    plan = place_compact(np.array([replicas]), math.ceil(sum(replicas) / num_slots), num_slots)
    assert (plan.holds_LEN.sum(axis=2) == 1).all()


def test_random_repeats_with_its_seed_and_differs_between_seeds_and_layers():
    replicas = np.full((2, 8), 4)
    draw = [place_random(replicas, 8, 4, seed).slots_LNS for seed in (0, 0, 1)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])
    assert not np.array_equal(draw[0][0], draw[0][1])


def test_random_draws_every_arrangement_equally_often():
    # 4! / (2! 1! 1!) = 12 arrangements of replicas 2, 1, 1 in 4 slots, each drawn 1000 times of 12000 on average with a
    # standard deviation of sqrt(12000 / 12 * 11 / 12) = 30: five of them are 150.
    replicas = np.tile([2, 1, 1], (12_000, 1))
    plan = place_random(replicas, 2, 2, 7).check(replicas)
    drawn, times = np.unique(plan.slots_LNS.reshape(-1, 4), axis=0, return_counts=True)
    assert len(drawn) == 12
    assert (abs(times - 1000) < 150).all()


def naive_further(load: list[int], num_slots: int) -> list[int]:
    """One layer of greedy replication, replica by replica; the expert of each beyond the first of all."""
    added: list[int] = []
    for _ in range(num_slots - len(load)):
        added.append(max(range(len(load)), key=lambda one: (load[one] / (1 + added.count(one)), -one)))
    return added


def naive_replicas(load: list[int], num_slots: int) -> list[int]:
    """Replicas of one layer by greedy replication."""
    added = naive_further(load, num_slots)
    return [1 + added.count(expert) for expert in range(len(load))]


def naive_packing(load: list[int], replicas: list[int], num_gpus: int, room: list[int]) -> list[list[int]]:
    """One layer of greedy packing, replica by replica; the experts of each GPU."""
    experts = sorted(range(len(load)), key=lambda expert: (-load[expert] / replicas[expert], expert))
    gpus: list[list[int]] = [[] for _ in range(num_gpus)]
    total = [0.0] * num_gpus
    for expert in [each for each in experts for _ in range(replicas[each])]:
        gpu = min((gpu for gpu in range(num_gpus) if len(gpus[gpu]) < room[gpu]), key=lambda gpu: (total[gpu], gpu))
        gpus[gpu].append(expert)
        total[gpu] += load[expert] / replicas[expert]
    return gpus


@st.composite
def loads(draw):
    num_nodes, num_slots, gpus_per_node = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    num_experts = draw(st.integers(1, min(16, num_nodes * num_slots)))
    # Many equal, absent and very unequal loads.
    tokens = st.one_of(st.integers(0, 3), st.integers(90, 110), st.integers(0, 10**6))
    layer = st.lists(tokens, min_size=num_experts, max_size=num_experts)
    return np.array(draw(st.lists(layer, min_size=1, max_size=3))), num_nodes, num_slots, gpus_per_node


@given(loads())
def test_eplb_replicates_and_packs_as_the_naive_greedy_does(problem):
    load_LE, num_nodes, num_slots, gpus_per_node = problem
    plan = place_eplb(load_LE, num_nodes, num_slots, gpus_per_node).check()
    room = [len(range(gpu, num_slots, gpus_per_node)) for gpu in range(gpus_per_node)] * num_nodes
    for layer, given_load in enumerate(load_LE.tolist()):
        # A layer without load is placed as an even one.
        load = given_load if any(given_load) else [1] * len(given_load)
        replicas = naive_replicas(load, num_nodes * num_slots)
        assert plan.replicas_LE[layer].tolist() == replicas
        expected = naive_packing(load, replicas, num_nodes * gpus_per_node, room)
        if set(room) == {1}:
            # `balanced_packing` of the published code leaves packs of one in order.
            expected = [[expert] for expert in [*range(len(load)), *naive_further(load, num_nodes * num_slots)]]
        found = [node[gpu::gpus_per_node].tolist() for node in plan.slots_LNS[layer] for gpu in range(gpus_per_node)]
        assert found == expected


def test_eplb_at_the_size_of_deepseek_v3_is_the_naive_greedy_too():
    rng = np.random.default_rng(0)
    load = (rng.lognormal(sigma=1.0, size=(1, 256)) * 1e4).astype(np.int64)
    plan = place_eplb(load, num_nodes=32, num_slots=32, gpus_per_node=8)
    replicas = naive_replicas(load[0].tolist(), 1024)
    expected = naive_packing(load[0].tolist(), replicas, 256, [4] * 256)
    assert [node[gpu::8].tolist() for node in plan.slots_LNS[0] for gpu in range(8)] == expected


def test_eplb_gives_every_layer_without_tokens_even_replicas():
    assert replicate_greedily(np.array([[0, 0, 0], [0, 5, 0]]), 6).tolist() == [[2, 2, 2], [1, 4, 1]]


def test_eplb_needs_a_slot_for_every_expert():
    with pytest.raises(InfeasiblePlanError, match="5 experts need as many slots, but the nodes have 4"):
        place_eplb(np.ones((1, 5), dtype=np.int64), num_nodes=2, num_slots=2)
