"""Cases of the reference data that no reader's tests have, with what was derived for each by hand."""

import math

import numpy as np
import pytest

from lazsim.trace import generate_trace, load_recipe, trace_stats


@pytest.fixture
def cases(shared):
    return shared / "cases"


def test_nodes_with_a_failure_rate_are_lost_as_often_as_the_renewal_model_says(cases):
    recipe = load_recipe(str(cases / "failure-rate-per-node" / "mtbf.toml"))
    stats = [trace_stats(generate_trace(recipe, np.random.default_rng(seed))) for seed in range(20)]
    # 100 nodes / 240 h x (240 / 242 x 720 h + 0.0164 h) = 297.5 from all alive; a standard deviation of 17 for a trace.
    assert np.mean([one.num_losses for one in stats]) == pytest.approx(297.5, abs=2 * 17 / math.sqrt(20))
    assert np.mean([one.mean_nodes for one in stats]) == pytest.approx(100 * 240 / 242, abs=0.1)


def test_a_config_of_hugging_face_has_the_parameters_that_its_shapes_have(cases, answered):
    model = answered("model", "show", cases / "hugging-face-config" / "config.json")
    # 32 (2 x 4096 x 4096 + 2 x 4096 x 1024 + 8 x 4096 + 8 x 3 x 4096 x 14336) + 2 x 32000 x 4096, without norms.
    assert model["total_params"] == 46_702_526_464
    assert model["active_params"] == pytest.approx(12.88e9, rel=5e-3)


def test_one_snapshot_of_loads_has_its_balance(cases, answered):
    layers = answered("routing", "info", cases / "one-snapshot" / "one_step.csv")["per_layer"]
    # Layer 0: 30 against a mean of 20; layer 1: 35.
    assert [layer["max_over_mean"] for layer in layers] == [1.5, 1.75]


@pytest.mark.parametrize(("trace", "waits"), [("ten.csv", True), ("twelve.csv", False)])
def test_too_few_nodes_are_said_to_be_how_many(cases, answered, trace, waits):
    folder = cases / "too-few-how-many"
    options = ("--cluster", "h100x16", "--system", "lazarus", "--system", "ds-ft")
    found = answered("run", "--trace", folder / trace, "--model", folder / "kimi.toml", *options)
    notes = "; ".join(found["notes"])
    # 384 experts / (8 GPUs x 4 slots) = 12 nodes.
    assert ("lazarus, ds-ft: nothing trained: 12 nodes are needed, and the trace has at most 10" in notes) is waits
    assert ("lazarus, ds-ft: each does not fit" in notes) is not waits


@pytest.mark.parametrize(("trace", "trains"), [("late_start_short.csv", False), ("late_start_long.csv", True)])
def test_a_job_that_never_starts_says_the_true_reason(cases, answered, trace, trains):
    path = cases / "waits-for-another-reason" / trace
    found = answered("run", "--trace", path, "--model", "gpt-s", "--system", "lazarus")
    assert (found["runs"][0]["samples"] > 0) is trains
    # 8 nodes are there for 95 s; new ones are collected for 120 s.
    said = "are there for at most 95 s in a row, and a start takes 120 s of collecting new nodes"
    assert any(said in note for note in found["notes"]) is not trains
