import functools

import numpy as np
import pytest

from lazsim.errors import SpecError
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import PlacementPlan
from lazsim.reliability import (
    BatchFailures,
    IndependentFailures,
    recovery_curve,
    recovery_prob,
)
from tests.conftest import refusal

PUBLISHED = place_mro(np.array([[2, 2, 5, 11]]), num_nodes=5, num_slots=4).holds_LEN
"""4 experts and 4 slots on 5 nodes, the least replicated expert on 2 of them."""


def random_holds(num_nodes: int, chance: float = 0.1) -> np.ndarray:
    holds = np.random.default_rng(0).random((12, 16, num_nodes)) < chance
    holds[..., 0] |= ~holds.any(axis=2)
    return holds


@pytest.mark.parametrize("method", ["auto", "exact", "montecarlo"])
def test_three_of_five_failures_are_survived_in_seven_of_ten_cases(method):
    # One group of 2 nodes holds all four experts; the published figure is 7/10.
    holds = np.zeros((1, 4, 5), dtype=bool)
    holds[0, :, :2] = True
    curve = recovery_curve(holds, [0, 1, 2, 3, 4, 5], method)
    if curve.method == "exact":
        assert curve.recovery_prob.tolist() == pytest.approx([1, 1, 0.9, 0.7, 0.4, 0])
        assert (curve.ci_low == curve.recovery_prob).all()
    assert (curve.ci_low[3], curve.ci_high[3]) == pytest.approx((0.7, 0.7), abs=0.002)
    assert curve.ci_low[3] <= 0.7 <= curve.ci_high[3]
    assert curve.guaranteed == 2


def test_the_fault_threshold_is_the_one_that_holds_not_the_one_asked_for():
    # Two replicas of each expert were asked for, but one failure can lose the expert placed twice on one node.
    plan = place_mro(np.array([[2, 2, 2]]), num_nodes=3, num_slots=2)
    assert recovery_curve(plan.holds_LEN, [1]).guaranteed == 1


def test_a_layer_survives_at_least_as_often_as_the_model():
    holds = random_holds(10, chance=0.4)
    model = recovery_curve(holds, range(11))
    layers = [recovery_curve(layer, range(11)) for layer in holds[:, None]]
    assert len(layers) == 12
    assert all((layer.recovery_prob >= model.recovery_prob - 1e-12).all() for layer in layers)
    assert min(layer.guaranteed for layer in layers) == model.guaranteed


def test_only_failures_asked_for_matter_and_their_order_does_not():
    holds = random_holds(60)
    some = recovery_curve(holds, [3, 1, 1])
    assert some.failures.tolist() == [3, 1, 1]
    assert some.recovery_prob[1] == some.recovery_prob[2] >= some.recovery_prob[0]
    assert len(recovery_curve(holds, []).recovery_prob) == 0


def test_what_cannot_be_solved_is_sampled_the_same_way_each_time():
    holds = random_holds(64)
    first, second = (recovery_curve(holds, [4, 8, 16], rng=np.random.default_rng(7)) for _ in range(2))
    assert first.method == "montecarlo"
    assert first.recovery_prob.tolist() == second.recovery_prob.tolist()
    assert ((first.ci_high - first.ci_low) / 2 <= 0.001).all()


def test_batches_weigh_the_curve():
    curve = recovery_curve(PUBLISHED, range(6))
    mixed = recovery_prob(PUBLISHED, BatchFailures([1, 3, 3, 4]))
    assert mixed.recovery_prob == pytest.approx(curve.recovery_prob[[1, 3, 3, 4]].mean())
    weighted = recovery_prob(PUBLISHED, BatchFailures([1, 3, 4], [2, 4, 2]))
    assert weighted.recovery_prob == pytest.approx(mixed.recovery_prob)
    assert recovery_prob(PUBLISHED, BatchFailures([3])).recovery_prob == curve.recovery_prob[3]


def test_equal_independent_failures_are_a_binomial_mixture_of_the_curve():
    holds = random_holds(8, chance=0.5)
    curve = recovery_curve(holds, range(9)).recovery_prob
    from scipy.stats import binom

    expected = float(curve @ binom.pmf(np.arange(9), 8, 0.3))
    assert recovery_prob(holds, IndependentFailures([0.3] * 8)).recovery_prob == pytest.approx(expected)


@pytest.mark.parametrize("prob", [0.001, 0.02, 0.2])
@pytest.mark.parametrize("highest", [0.001, 0.2])
def test_sampled_independent_failures_of_many_nodes_hold_the_closed_form(prob, highest):
    # 16 experts on 4 nodes each, all different: survived with the product of 1 - p1 p2 p3 p4.
    holds = np.repeat(np.eye(16, dtype=bool), 4, axis=1)[None]
    model = IndependentFailures(np.linspace(prob, max(prob, highest), 64))
    expected = (1 - model.fail_prob_N.reshape(16, 4).prod(axis=1)).prod()
    assert recovery_prob(holds, model).recovery_prob == pytest.approx(expected, rel=1e-12)
    # Up to three failures are survived, so that at most the probability of more is unsure.
    unsure = poisson_binomial(model.fail_prob_N)[4:].sum()
    held = 0
    for seed in range(20):
        found = recovery_prob(holds, model, "montecarlo", np.random.default_rng(seed), half_width=0.005)
        assert found.method == "montecarlo"
        assert found.ci_high - found.ci_low <= 0.01 * unsure + 1e-14
        held += found.ci_low - 1e-14 <= expected <= found.ci_high + 1e-14
    # 19 of 20 are expected, with a standard deviation of 1; seeds are fixed.
    assert held >= 17


def poisson_binomial(probs) -> np.ndarray:
    """Multiply out the generating function of the number of failures."""
    return functools.reduce(np.convolve, ([1 - prob, prob] for prob in probs))


def test_equal_failures_of_what_cannot_be_solved_weigh_the_sampled_curve():
    holds = random_holds(64, chance=0.2)
    curve = recovery_curve(holds, range(65))
    found = recovery_prob(holds, IndependentFailures([0.01] * 64))
    assert (curve.method, found.method) == ("montecarlo", "montecarlo")
    weights = poisson_binomial([0.01] * 64)
    assert found.recovery_prob == pytest.approx(curve.recovery_prob @ weights, abs=0.002)
    unsure = weights[curve.guaranteed :].sum()
    assert found.ci_high - found.ci_low <= 0.002 * unsure


@pytest.mark.parametrize(
    "model", [BatchFailures([3]), BatchFailures([2, 3, 5], [5, 2, 1]), IndependentFailures(np.linspace(0, 0.5, 10))]
)
def test_sampling_agrees_with_the_exact_answer_under_every_model(model):
    holds = random_holds(10, chance=0.4)
    exact = recovery_prob(holds, model, "exact")
    sampled = recovery_prob(holds, model, "montecarlo", np.random.default_rng(0), half_width=0.004)
    assert (exact.method, sampled.method) == ("exact", "montecarlo")
    assert sampled.ci_low <= exact.recovery_prob <= sampled.ci_high
    assert (sampled.ci_high - sampled.ci_low) / 2 <= 0.004


def test_a_rack_that_holds_an_expert_alone_is_the_end():
    # Both replicas of expert 0 are in rack a, those of expert 1 in two racks.
    holds = np.array([[[1, 1, 0, 0], [1, 0, 1, 0]]], dtype=bool)
    racks = ["a", "a", "b", "c"]
    curve = recovery_curve(holds, [0, 1, 2, 3], domain_N=racks)
    assert curve.recovery_prob.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert curve.guaranteed == 1
    one_rack = recovery_prob(holds, IndependentFailures([0.25, 0.5, 0.5]), domain_N=racks)
    assert one_rack.recovery_prob == pytest.approx(0.75)


@pytest.mark.parametrize("method", ["auto", "exact", "montecarlo"])
def test_an_expert_that_no_node_holds_is_lost_from_the_start(method):
    holds = np.zeros((1, 2, 3), dtype=bool)
    holds[0, 0] = True
    curve = recovery_curve(holds, [0, 1], method)
    assert curve.recovery_prob.tolist() == [0, 0]
    assert curve.guaranteed == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: recovery_curve(h, [6]), "6 failures are impossible: expected 0 to 5, as there are 5 nodes"),
        (lambda h: recovery_curve(h, [-1]), "-1 failures are impossible"),
        (lambda h: recovery_curve(h, [1.5]), "failures must be whole numbers"),
        (lambda h: recovery_curve(h, None), "failures must be whole numbers, not None"),
        (lambda h: recovery_curve(h.astype(float), [1]), "`holds_LEN`: expected a plan, or booleans of shape (layers"),
        (lambda h: recovery_curve(h.astype(int) - 1, [1]), "`holds_LEN`: expected booleans or counts of replicas, fo"),
        (lambda h: recovery_curve(h[0], [1]), "`holds_LEN`: expected a plan, or booleans"),
        (lambda h: recovery_curve([[[True], [True, False]]], [1]), "`holds_LEN`: expected rows of equal length"),
        (lambda h: recovery_curve(None, [1], domain_N=[0]), "`holds_LEN`: expected a plan, or booleans"),
        (lambda h: recovery_prob(h, [0.1] * 5), "`model`: expected IndependentFailures([...]), with a probability for"),
        (lambda h: recovery_prob(h, IndependentFailures(["a"] * 5)), "`fail_prob_N`: expected numbers, found"),
        (lambda h: recovery_curve(h, [3], domain_N=[0, 0, 1, 1, 1]), "as there are 2 failure domains"),
        (lambda h: recovery_curve(h, [1], domain_N=[0, 1]), "2 failure domains named for 5 nodes"),
        (lambda h: recovery_curve(h, [1], "guess"), "unknown method 'guess': expected auto, exact or montecarlo"),
        (lambda h: recovery_curve(h, [1], half_width=0), "`half_width` 0: an interval needs more"),
        (
            lambda h: recovery_curve(h, [1], half_width="0.01"),
            "`half_width`: expected a finite number from 0 up, found '0.01'",
        ),
        (
            lambda h: recovery_curve(h, [1], half_width=float("nan")),
            "`half_width`: expected a finite number from 0 up, found nan",
        ),
        (lambda h: recovery_prob(h, BatchFailures([9])), "9 failures are impossible"),
        (lambda h: recovery_prob(h, IndependentFailures([0.1] * 4)), "4 failure probabilities for 5 nodes"),
        (lambda h: recovery_prob(h, IndependentFailures([0.1] * 4 + [1.1])), "1.1 is not a failure probability"),
        (
            lambda h: recovery_prob(h, IndependentFailures([0.1] * 4 + [float("nan")])),
            "nan is not a failure probability",
        ),
        (lambda h: recovery_prob(h, BatchFailures([])), "no batch of failures is given"),
        (lambda h: recovery_prob(h, BatchFailures([7])), "7 failures are impossible"),
        (lambda h: recovery_prob(h, BatchFailures([1, 2], [1])), "1 weights for 2 batch sizes"),
        (lambda h: recovery_prob(h, BatchFailures([1, 2], [0, 0])), "weights of batch sizes must be"),
        (lambda h: recovery_prob(h, BatchFailures([1, 2], [1, float("nan")])), "weights of batch sizes must be"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(call, message):
    assert message in refusal(lambda: call(PUBLISHED), SpecError)


def test_a_plan_stands_for_what_its_nodes_hold_and_one_number_for_a_list_of_it():
    # Both experts are on both nodes of three; two of the three pairs of failed nodes spare one of them.
    plan = PlacementPlan(np.array([[[0, 1], [1, 0], [-1, -1]]]), num_experts=2)
    assert recovery_curve(plan, 2).recovery_prob.tolist() == [pytest.approx(2 / 3)]
    for model in (BatchFailures(2), BatchFailures([2]), BatchFailures(2, 5)):
        assert recovery_prob(plan, model, domain_N=[0, 1, 2]).recovery_prob == pytest.approx(2 / 3)


def test_an_exact_answer_that_would_take_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("lazsim.reliability.curve.MAX_EXACT_WORK", 1e6)
    with pytest.raises(SpecError, match="use method auto or montecarlo"):
        recovery_curve(random_holds(64), [4, 8, 16], "exact")
