"""Failure domains: in the cluster file, in the policy that spreads experts over them, and in what asks for both."""

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.costmodel.step import KernelCosts
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import SpecError
from lazsim.placement.allocation import allocate
from lazsim.placement.balanced import most_distinct
from lazsim.placement.policies import find_policy, place
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import IndependentFailures, recovery_curve, recovery_prob
from tests.jobs import EvenLoads, StagedCosts, costs, trace
from tests.test_euclid import optima

RACKS = ("--nodes", 6, "--slots", 2, "--experts", 6, "--domains", "a,a,b,b,c,c")
"""Two replicas of each of six experts, on three racks of two nodes."""


def experts_of(plan, domain_N):
    """Return the experts of each domain, layer by layer, from the slots themselves."""
    return [
        [set(layer[domain_N == domain].ravel().tolist()) for domain in range(domain_N.max() + 1)]
        for layer in plan.slots_LNS
    ]


def survived(domains, num_experts, num_failed):
    """Count the sets of failed domains after which every expert of a layer is left, one by one."""
    return sum(
        len(set().union(*left)) == num_experts for left in itertools.combinations(domains, len(domains) - num_failed)
    )


@st.composite
def requests(draw, sizes):
    domain_N = np.array(draw(st.permutations(np.arange(len(sizes)).repeat(sizes).tolist())))
    num_slots = draw(st.integers(1, 4))
    num_experts = draw(st.integers(1, min(12, num_slots * len(domain_N))))
    load = st.lists(st.integers(0, 1000), min_size=num_experts, max_size=num_experts)
    load_LE = np.array(draw(st.lists(load, min_size=1, max_size=3)))
    replicas_LE = allocate(load_LE, num_slots * len(domain_N), draw(st.integers(1, 5)))
    gpus = draw(st.sampled_from([gpus for gpus in (1, 2, 3) if num_slots % gpus == 0]))
    return PlacementRequest(replicas_LE, len(domain_N), num_slots, gpus, load_LE, domain_N=domain_N)


@given(data=st.data(), num_domains=st.integers(1, 5), size=st.integers(1, 4))
def test_equal_domains_keep_the_fault_threshold_of_domains_and_that_of_nodes(data, num_domains, size):
    request = data.draw(requests([size] * num_domains))
    plan = place("domains", request)
    fewest = int(request.replicas_LE.min())
    for domains in experts_of(plan, request.domain_N):
        for expert in range(plan.num_experts):
            assert sum(expert in held for held in domains) >= min(fewest, num_domains)
    assert plan.fewest_nodes >= min(fewest, request.num_nodes)


@given(data=st.data(), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_unequal_domains_keep_every_number_of_failed_domains_that_all_experts_can_survive(data, sizes):
    request = data.draw(requests(sizes))
    plan = place("domains", request)
    possible = most_distinct(plan.num_experts, np.array(sizes) * request.num_slots)
    for domains in experts_of(plan, request.domain_N):
        for expert in range(plan.num_experts):
            on_domains = sum(expert in held for held in domains)
            assert on_domains >= min(int(request.replicas_LE.min()), possible)
    assert plan.fewest_nodes >= min(int(request.replicas_LE.min()), request.num_nodes)


@given(data=st.data(), sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4))
@settings(max_examples=30)
def test_the_probability_is_the_share_of_sets_of_failed_domains_that_leave_every_expert(data, sizes):
    request = data.draw(requests(sizes))
    for policy in ("domains", "euclid", "mro"):
        plan = place(policy, request)
        for layer, domains in enumerate(experts_of(plan, request.domain_N)):
            curve = recovery_curve(
                plan.holds_LEN[layer][None], range(len(sizes) + 1), "exact", domain_N=request.domain_N
            )
            sets = [len(list(itertools.combinations(domains, k))) for k in range(len(sizes) + 1)]
            kept = [survived(domains, plan.num_experts, k) for k in range(len(sizes) + 1)]
            assert curve.recovery_prob == pytest.approx(np.divide(kept, sets))


@pytest.mark.parametrize("names", [range(12), [f"rack{rack}" for rack in range(12)], ["z", *"abcdefghijk"]])
def test_each_domain_fails_with_its_own_probability_whatever_domains_are_called(names):
    # The only expert is on the third of twelve domains, which fails in three of four cases; the others never do.
    holds_LEN = np.arange(12)[None, None] == 2
    failures = IndependentFailures([0.75 if domain == 2 else 0.0 for domain in range(12)])
    assert recovery_prob(holds_LEN, failures, domain_N=list(names)).recovery_prob == 0.25


def test_no_placement_survives_more_losses_of_equal_domains_wherever_the_optimum_is_known():
    # What a placement keeps when domains fail, one on large nodes in their place could keep: the optimum of exhaustive
    # search for these is a bound. Domains of two nodes with half of the slots each reach it.
    cases = [row for row in optima() if row[1] % 2 == 0 and row[:3] != (6, 4, (3, 3, 3, 5, 5, 5))][::12]
    assert len(cases) > 60
    for num_domains, num_slots, replicas, optimum in cases:
        if sum(replicas) != num_domains * num_slots:
            continue
        domain_N = np.arange(num_domains).repeat(2)
        request = PlacementRequest(np.array([replicas]), 2 * num_domains, num_slots // 2, domain_N=domain_N)
        (domains,) = experts_of(place("domains", request), domain_N)
        found = [survived(domains, len(replicas), num_domains - alive) for alive in range(num_domains + 1)]
        assert found == [0, *optimum][-len(found) :], replicas


@pytest.mark.parametrize("domain_N", [None, np.arange(6), np.zeros(6, dtype=np.int64)])
def test_without_domains_that_differ_from_nodes_it_places_as_euclid(domain_N):
    replicas_LE = np.array([[2, 2, 3, 5], [3, 3, 3, 3]])
    plans = [place(name, PlacementRequest(replicas_LE, 6, 2, domain_N=domain_N)) for name in ("domains", "euclid")]
    assert np.array_equal(*(plan.slots_LNS for plan in plans))


def test_a_request_has_a_domain_for_each_node():
    with pytest.raises(SpecError, match="`domains`: 2 named for 3 nodes; name one for each"):
        PlacementRequest(np.array([[1, 1, 1]]), 3, 1, domain_N=np.array([0, 1]))


def test_the_loss_of_a_rack_is_survived_by_the_policy_that_knows_of_racks_and_not_by_those_that_do_not(answered):
    # Groups of two experts fill two nodes. Published placements put these into one rack.
    found = answered("recovery", *RACKS)["policies"]
    assert found["domains"]["recovery_prob"][0] == 1
    assert found["euclid"]["recovery_prob"][0] == found["mro"]["recovery_prob"][0] == 0
    assert "domains" not in answered("recovery", *RACKS[:-2])["policies"]


def test_a_cluster_has_the_nodes_slots_and_domains_that_are_not_given(answered):
    # 64 trays in racks of 18: 18, 18, 18 and 10; 4 GPUs of 4 slots.
    asked = ("--experts", 256, "--policy", "domains", "--failures", 1)
    found = answered("recovery", "--cluster", "gb200-nvl72", *asked)
    inputs = found["inputs"]
    assert (inputs["num_nodes"], inputs["num_slots"], inputs["gpus_per_node"]) == (64, 16, 4)
    assert [inputs["domains"].count(name) for name in "0123"] == [18, 18, 18, 10]
    assert found["policies"]["domains"]["recovery_prob"] == [1]
    smaller = answered("place", "--cluster", "gb200-nvl72", "--nodes", 20, *asked[:-2])["inputs"]
    assert [smaller["domains"].count(name) for name in "01"] == [18, 2]
    assert "domains" not in answered("place", "--cluster", "h100x16", *asked[:-2])["inputs"]


def test_nodes_stay_in_their_domains_when_others_fail(answered):
    # Racks a and b of two nodes hold all four experts each. Without node 3 the other one of rack b must hold its
    # experts, and the rack of two nodes keeps its own: two states are fetched, where nodes that may change racks fetch
    # no fewer, as no expert was on two nodes of a rack.
    plan = ("--nodes", 4, "--slots", 4, "--experts", 4, "--min-replicas", 1, "--domains", "a,a,b,b")
    lost = answered("place", *plan, "--policy", "domains", "--lose", 3)["lose"]["policies"]["domains"]
    assert {row["num_states"] for row in lost["migrations"]} == {0}


@given(data=st.data(), num_nodes=st.integers(1, 8), num_new=st.integers(0, 2))
def test_each_node_of_a_plan_becomes_one_of_its_domain_however_few_states_others_would_fetch(data, num_nodes, num_new):
    domain_H = np.array(data.draw(st.lists(st.integers(0, 2), min_size=num_nodes, max_size=num_nodes)))
    num_planned = data.draw(st.integers(1, num_nodes))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    has_LEH = rng.random((2, 4, max(1, num_nodes - num_new))) < 0.5
    has_LEH[:, :, 0] = True
    wants_LEN = rng.random((2, 4, num_planned)) < 0.5
    binding = bind_nodes(costs(), has_LEH, wants_LEN, num_nodes - has_LEH.shape[2], domain_H=domain_H)
    assert np.array_equal(domain_H[binding.chosen_N], domain_H[:num_planned])


@pytest.mark.parametrize(("make", "lost"), [(KernelCosts, ("c d", "a b", "g h")), (StagedCosts, ("a b",))])
def test_a_job_that_spreads_over_racks_goes_on_when_one_is_lost_and_keeps_to_racks_in_its_next_plans(make, lost):
    # Racks of two nodes of two slots can hold all four experts each, so that any but the last may go without a restart;
    # of two stages, each has two racks, and any one may go. Other policies let two nodes of a rack hold the same.
    job = costs(checkpoint_interval_steps=dict.fromkeys(SYSTEMS, 10**6), rebalance_interval_steps=10**6)
    cluster = msgspec.structs.replace(job.cluster, nodes_per_domain=2)
    job = make(job.model, cluster, job.job, job.constants, job.communication, job.compute)
    losses = [(100 * number, "remove", pair) for number, pair in enumerate(lost, start=1)]
    restarts = {}
    for name in ("domains", "euclid", "mro"):
        system = replace(SYSTEMS["lazarus"], policy=find_policy(name), placement=name)
        events = trace((0, "add", "a b c d e f g h"), *losses)
        restarts[name] = simulate_system(events, system, job, EvenLoads(2, 4), 500.0, planning="sampled").counts[
            "restarts"
        ]
    assert restarts == {"domains": 0, "euclid": 1, "mro": 1}


@pytest.mark.parametrize("command", ["place", "recovery"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--experts", 4), "give --nodes and --slots, or the --cluster that has them"),
        (("--cluster", "h100x1x", "--experts", 4), "--cluster: unknown cluster 'h100x1x'"),
        (("--cluster", "gb200-nvl72", "--experts", 4, "--domains", "a,b"), "--domains: 2 named for 64 nodes"),
    ],
)
def test_a_cluster_or_domains_that_do_not_fit_are_refused_in_a_line(lazsim, command, options, expected):
    code, out, err = lazsim(command, *options)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert expected in err
