"""The claims of docs/guides/euclid.md about `euclid`."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lazsim
from lazsim.placement.allocation import allocate
from lazsim.placement.covers import Cover, hold, lack
from lazsim.placement.euclid import place_euclid
from lazsim.placement.mro import place_mro
from lazsim.reliability import guaranteed_failures, minimal_failure_sets, recovery_curve
from tests.conftest import ROOT
from tests.exhaustive import best, instances, survivors

FAMILIES = [(10, 6, 8), (10, 6, 12), (10, 6, 16), (16, 6, 8), (16, 6, 16), (5, 6, 8), (12, 4, 10)]


def optima():
    with (ROOT / "tests" / "golden" / "placement_optima.csv").open() as file:
        for row in csv.DictReader(file):
            replicas = tuple(map(int, row["replicas"].split()))
            yield int(row["nodes"]), int(row["slots"]), replicas, list(map(int, row["survivors"].split()))


def counted(place, replicas, num_nodes, num_slots):
    """Survivors of a plan for one layer, by trying every set of live nodes."""
    plan = place(np.array([replicas]), num_nodes, num_slots).check(np.array([replicas]))
    held = [sum(1 << int(expert) for expert in np.flatnonzero(column)) for column in plan.holds_LEN[0].T]
    return survivors(held, len(replicas))


@pytest.fixture(scope="module")
def outcomes():
    return [
        (
            num_nodes,
            num_slots,
            replicas,
            optimum,
            counted(place_euclid, replicas, num_nodes, num_slots),
            counted(place_mro, replicas, num_nodes, num_slots),
        )
        for num_nodes, num_slots, replicas, optimum in optima()
    ]


def test_the_recorded_optima_are_those_of_exhaustive_search():
    recorded = {row[:3]: row[3] for row in optima()}
    searched = list(instances(4, 3, 5))
    assert len(searched) > 80
    assert all(best(replicas, nodes, slots) == recorded[nodes, slots, replicas] for nodes, slots, replicas in searched)


def test_no_number_of_failures_is_survived_less_often_than_by_published_mro(outcomes):
    assert [row for row in outcomes if any(ours < theirs for ours, theirs in zip(row[4], row[5], strict=True))] == []


def test_the_optimum_is_reached_in_all_but_one_instance_and_whenever_slots_divide_experts(outcomes):
    assert len(outcomes) == 2347
    assert [row[:3] for row in outcomes if row[4] != row[3]] == [(6, 4, (3, 3, 3, 5, 5, 5))]


def test_the_recorded_instances_are_all_up_to_a_size_but_some_of_its_largest_and_a_few_larger():
    recorded = {row[:3] for row in optima()}
    within = set(instances(6, 4, 8))
    assert {(nodes, slots, len(replicas)) for nodes, slots, replicas in within - recorded} == {(6, 4, 8)}
    assert (len(within), len(within - recorded), len(recorded - within)) == (2331, 25, 41)


def test_published_mro_misses_the_optimum_only_where_slots_do_not_divide_experts(outcomes):
    missed = [row for row in outcomes if row[5] != row[3]]
    assert missed
    assert all(len(row[2]) % row[1] for row in missed)


def test_the_smallest_counterexample_survives_every_single_failure():
    # Two of three nodes alive: 3 sets. Published MRO holds every expert on 2 of them.
    assert counted(place_mro, (2, 2, 2), 3, 2) == [0, 2, 1]
    assert counted(place_euclid, (2, 2, 2), 3, 2) == [0, 3, 1]


def test_the_promise_that_mro_breaks_is_kept():
    # 8 experts of 6 replicas on 8 nodes of 6 slots; 3 nodes live, of comb(8, 3) = 56 sets; MRO: 0.643.
    assert counted(place_mro, (6,) * 8, 8, 6)[2] / math.comb(8, 3) == pytest.approx(0.643, abs=5e-4)
    assert counted(place_euclid, (6,) * 8, 8, 6)[2] == math.comb(8, 3)


@st.composite
def layers(draw, most_layers=3):
    num_nodes, num_slots = draw(st.integers(1, 24)), draw(st.integers(1, 12))
    num_experts = draw(st.integers(1, min(num_nodes * num_slots, 36)))
    exponent = draw(st.sampled_from([0.0, 0.1, 0.5, 2.0]))
    shape = (draw(st.integers(1, most_layers)), num_experts)
    uniform = np.random.default_rng(draw(st.integers(0, 10**6))).random(shape)
    load = (1e6 * uniform**exponent).astype(np.int64) + 1
    return allocate(load, num_nodes * num_slots, draw(st.integers(1, 4))), num_nodes, num_slots


@given(layers())
def test_each_expert_is_on_as_many_nodes_as_the_least_replicated_one_can_be(instance):
    replicas, num_nodes, num_slots = instance
    plan = place_euclid(replicas, num_nodes, num_slots).check(replicas)
    assert plan.holds_LEN.sum(axis=2).min() >= min(replicas.min(), num_nodes)


@given(layers(most_layers=1))
def test_what_divides_evenly_is_survived_as_by_mro(instance):
    replicas, num_nodes, num_slots = instance
    if replicas.shape[1] % num_slots == 0:
        failures = range(num_nodes + 1)
        curves = [
            recovery_curve(place(replicas, num_nodes, num_slots).holds_LEN, failures)
            for place in (place_euclid, place_mro)
        ]
        assert np.allclose(curves[0].recovery_prob, curves[1].recovery_prob, rtol=1e-12)


@given(layers())
def test_layers_share_the_failure_sets_of_their_least_replicas(instance):
    replicas, num_nodes, num_slots = instance
    fewest = np.sort(replicas, axis=1).min(axis=0, keepdims=True)
    cover = hold(np.minimum(fewest[0], num_nodes).tolist(), num_nodes, num_slots)
    shared = np.array([[nodes >> node & 1 for node in range(num_nodes)] for nodes in cover.nodes], dtype=np.bool_)
    failures = range(num_nodes + 1)
    model = recovery_curve(place_euclid(replicas, num_nodes, num_slots).holds_LEN, failures, "exact")
    least = recovery_curve(shared[None], failures, "exact")
    assert (model.recovery_prob >= least.recovery_prob - 1e-12).all()


@given(st.integers(1, 9), st.integers(1, 5), st.data())
def test_covers_count_the_sets_of_live_nodes_that_hold_every_expert(num_nodes, num_slots, data):
    num_experts = data.draw(st.integers(1, min(12, num_nodes * num_slots)))
    replicas = np.ones(num_experts, dtype=np.int64)
    extra = data.draw(st.lists(st.integers(0, num_experts - 1), max_size=num_nodes * num_slots - num_experts))
    np.add.at(replicas, extra, 1)
    cover = hold(sorted(replicas.tolist()), num_nodes, num_slots)
    live_sets = range(1, 1 << num_nodes)
    found = sum(all(nodes & live for nodes in cover.nodes) for live in live_sets)
    # A ring, which is taken only where nothing better is found, is not counted.
    assert cover.num_surviving in (found, 0)
    on_node = [sum(nodes >> node & 1 for nodes in cover.nodes) for node in range(num_nodes)]
    assert max(on_node) <= num_slots


def test_lacking_mirrors_holding():
    # Each of 3 nodes must lack at least 1 of 3 experts, each expert at least 1 node: one block of one node each.
    assert lack([1, 1, 1], num_nodes=3, num_lacking=1) == Cover(4, [1, 2, 4])


@pytest.mark.parametrize(("num_nodes", "num_slots", "num_experts"), FAMILIES)
def test_a_model_under_real_loads_survives_at_least_as_often_as_by_mro(shared, num_nodes, num_slots, num_experts):
    with np.load(shared / "routing" / "smartmoe.npz") as file:
        tokens = file["tokens"][::50, :12]
    lost = 0
    for load in -np.sort(-tokens, axis=2)[:, :, :num_experts]:
        replicas = allocate(load.astype(np.int64), num_nodes * num_slots, 2)
        plans = [place(replicas, num_nodes, num_slots).holds_LEN for place in (place_euclid, place_mro)]
        curves = [recovery_curve(plan, range(num_nodes + 1)).recovery_prob for plan in plans]
        lost += (curves[0] < curves[1] - 1e-12).any()
        sets = minimal_failure_sets(plans[0])
        assert guaranteed_failures(sets) >= min(replicas.min(), num_nodes)
    assert lost == 0


def test_euclid_is_public():
    assert lazsim.place_euclid is place_euclid
