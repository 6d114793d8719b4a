import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.cli.base.kinds import parse_domains, parse_spans
from lazsim.placement.plan import PlacementPlan
from lazsim.reliability.comparison import compare_plans, lose_nodes, make_plans, max_mean_load, score_plan
from lazsim.reliability.failure_scenarios import build_scenarios, trace_batches
from lazsim.reliability.survival import assess_plans
from lazsim.reliability.task import build_task
from lazsim.trace import Event, build_trace
from tests.conftest import refusal

MIB = 2**20


def survives(plan, failed):
    """Tell by the definition whether every expert of every layer keeps a live replica."""
    live = [node for node in range(plan.num_nodes) if node not in failed]
    return all(set(layer[live].ravel()) >= set(range(plan.num_experts)) for layer in plan.slots_LNS)


def share_survived(plan, num_failed):
    subsets = list(itertools.combinations(range(plan.num_nodes), num_failed))
    return sum(survives(plan, failed) for failed in subsets) / len(subsets)


@given(
    nodes=st.integers(1, 5),
    slots=st.integers(1, 3),
    loads=st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any),
    layers=st.sampled_from([None, 2]),
)
def test_scores_and_curves_are_those_of_the_definition(nodes, slots, loads, layers):
    if len(loads) > nodes * slots:
        return
    task = build_task(nodes, slots, loads=loads, layers=layers)
    report = assess_plans(task, build_scenarios(nodes, failures=range(nodes + 1)))
    for name, plan in report.plans.items():
        expected = [share_survived(plan, failed) for failed in range(nodes + 1)]
        assert report.policies[name].curve.recovery_prob == pytest.approx(expected)
        score = score_plan(plan, task.load_LE)
        first = next(failed for failed, share in enumerate(expected) if share < 1)
        assert score.guaranteed == first
        assert 1 - score.num_deadly / score.num_sets == pytest.approx(expected[first])


def test_load_is_shared_evenly_by_replicas():
    # Expert 0 (60 tokens) has two replicas on node 0 and one on node 1: 40 + 0 against 20 + 30.
    plan = PlacementPlan(np.array([[[0, 0], [0, 1]]]), num_experts=2)
    assert max_mean_load(plan, np.array([[60, 30]])) == pytest.approx(50 / 45)


def test_zipf_loads_fall_with_the_rank_to_the_power_given_and_differ_between_layers():
    load_LE = build_task(2, 4, experts=4, loads="zipf:1", layers=6).load_LE
    # 1, 1/2, 1/3, 1/4 add up to 25/12.
    assert load_LE[0] / load_LE[0].sum() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], abs=1e-6)
    assert len({tuple(layer) for layer in load_LE.tolist()}) > 1
    assert all(sorted(layer) == sorted(load_LE[0].tolist()) for layer in load_LE.tolist())


def test_layers_out_of_step_are_lost_to_more_failure_sets():
    # Both layers have their rare expert on two of four nodes. Aligned, one pair of six is deadly; shuffled, the pairs
    # of the layers are one or two different ones.
    task = build_task(4, 2, loads=[3, 1], layers=2)
    found = assess_plans(task, build_scenarios(4, failures=[2]), ["mro"]).policies["mro"]
    assert found.curve.recovery_prob[0] == pytest.approx(5 / 6)
    assert set(found.shuffled_RF[:, 0].round(6)) == {round(5 / 6, 6), round(4 / 6, 6)}


def test_losing_the_only_holder_of_an_expert_is_said_and_nothing_migrates():
    task = build_task(3, 2, replicas=[1, 1, 4])
    plans, _ = make_plans(task, ["spread"])
    # spread deals expert 0 to node 0 only.
    outcome = lose_nodes(task, "spread", plans["spread"], [0], 1.0)
    assert outcome.lost_experts == ((0, 0),)
    assert outcome.report is None
    assert outcome.plan.num_nodes == 2


def test_survivors_fetch_just_what_they_lack():
    # ep puts experts 0, 1 on nodes 0 and 2, and 2, 3 on nodes 1 and 3. Of nodes 0, 1 and 2 two make one whole group:
    # nothing moves.
    comparison = compare_plans(build_task(4, 2, experts=4), ["ep"], lose=[3])
    rows = comparison.losses["ep"].report.rows
    assert {(row.mapping, row.sharing) for row in rows} == {
        (mapping, sharing) for mapping in ("greedy", "optimal", "bottleneck") for sharing in ("even", "balanced")
    }
    assert all(row.total_bytes == 0 for row in rows)
    # gpt-s: 2 matrices of 768 x 3072, 14 bytes a parameter.
    assert comparison.state_bytes == 2 * 768 * 3072 * 14 == 63 * MIB


def test_survivors_with_too_few_slots_have_no_plan():
    comparison = compare_plans(build_task(2, 2, experts=4, loads="uniform"), ["mro"], lose=[0])
    assert "4 experts need as many slots" in comparison.losses["mro"].refusal


def test_batches_larger_than_the_plan_count_as_the_loss_of_all():
    adds = [Event(0, "add", name) for name in "abcdef"]
    gone = [Event(60, "remove", name) for name in "abcd"] + [Event(90, "remove", "e")]
    batches = trace_batches(build_trace(adds + gone), num_nodes=3)
    assert (batches.sizes, batches.weights, batches.num_capped) == ((1, 3), (1, 1), 1)


def test_nodes_that_are_away_from_the_start_of_a_trace_are_no_batch():
    adds = [Event(0, "add", name) for name in "abcd"]
    gone = [Event(0.001, "remove", name) for name in "abc"] + [Event(90, "remove", "d")]
    assert trace_batches(build_trace(adds + gone), num_nodes=4).sizes == (1,)


def test_failures_asked_for_by_default_are_all_of_few_nodes_and_some_of_many():
    assert build_scenarios(5).failures == (1, 2, 3, 4)
    assert build_scenarios(1).failures == (1,)
    many = build_scenarios(100).failures
    assert many == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 99)


def test_domains_are_read_from_a_file_as_from_the_option(write):
    path = write("# racks\nr0 r0\nr1, r1  # the far one\n", "domains.txt")
    assert parse_domains("--domains", str(path)) == parse_domains("--domains", "r0,r0,r1,r1")
    # Nodes that take turns among racks, some on each line.
    path = write("a b c\na b c\n", "turns.txt")
    assert parse_domains("--domains", str(path)) == ["a", "b", "c", "a", "b", "c"]


def test_numbers_of_failures_are_in_order():
    assert parse_spans("--failures", "4,1-2") == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "1-", "-1", "1.5", "a", "3-1", "1,,2", "0-9999999", "٣", "4,1-2,2"])
def test_malformed_failures_are_refused_in_one_line(text):
    assert "--failures" in refusal(lambda: parse_spans("--failures", text))


def test_results_are_plain_data():
    task = build_task(4, 2, experts=4, loads="zipf:1", layers=2)
    json.dumps(assess_plans(task, build_scenarios(4, failures=[1, 2])).to_json())
    json.dumps(compare_plans(build_task(4, 2, experts=4), lose=[1]).to_json())
