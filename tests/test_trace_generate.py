import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.errors import LazsimError, SpecError
from lazsim.trace import Event, build_trace, generate_trace, load_recipe, read_trace, trace_stats
from lazsim.trace.fit import fit_spot, fit_table
from lazsim.trace.generate import draw_weibull, generated_bytes
from lazsim.trace.recipes import SpotSpec, WeibullSpec, describe_recipe, list_recipes, recipe_toml

BUNDLE = sorted((Path(__file__).parent.parent / "traces").glob("*.csv"))


def law(scale, shape=1.0):
    return WeibullSpec(scale=scale, shape=shape)


def spot(**changes):
    recipe = SpotSpec(
        duration_s=360000.0, tick_s=60.0, target_nodes=16, initial_nodes=16, loss_gap=law(600.0), loss_size=law(2.0),
        take_all_prob=0.0, age_exponent=0.0, refill_gap=law(300.0), refill_size=law(3.0),
    )  # fmt: skip
    return msgspec.structs.replace(recipe, **changes)


@pytest.mark.parametrize("path", BUNDLE, ids=lambda path: path.stem)
def test_bundled_trace_is_made_again_byte_for_byte(path):
    assert path.read_bytes() == generated_bytes(load_recipe(path.stem), 0, path.stem)


def test_bundle_has_spot_traces_and_both_schedules():
    assert {"spot-p3-like", "spot-a100-like", "fail-every-5min", "fail-every-40min"} <= {path.stem for path in BUNDLE}


@pytest.mark.parametrize(("name", "minutes", "span_min"), [("fail-every-5min", 5, 30), ("fail-every-40min", 40, 240)])
def test_schedule_fails_one_node_per_interval_until_half_are_left(name, minutes, span_min):
    trace = generate_trace(load_recipe(name), np.random.default_rng(3))
    batches = list(trace.batches())
    assert [batch.time_s / 60 for batch in batches] == [0, *(minutes * i for i in range(1, 6))]
    assert all(len(batch.removed) == 1 and not batch.added for batch in batches[1:])
    assert trace.num_alive()[1].tolist() == [10, 9, 8, 7, 6, 5]
    assert trace.duration_s == span_min * 60


def test_schedule_draws_its_victims_uniformly():
    recipe = load_recipe("fail-every-5min")
    gone = [list(generate_trace(recipe, np.random.default_rng(seed)).batches())[1].removed[0] for seed in range(2000)]
    shares = np.unique(gone, return_counts=True)[1] / 2000
    # ten nodes, 2000 draws: standard deviation of a share is sqrt(0.1 * 0.9 / 2000) = 0.0067
    assert len(shares) == 10
    assert np.all(np.abs(shares - 0.1) < 4 * 0.0067)


def test_weibull_draws_follow_the_law_in_their_description():
    rng = np.random.default_rng(0)
    draws = np.array([draw_weibull(law(120.0, 0.7), 60.0, rng) for _ in range(4000)])
    for steps in (1, 2, 5):
        expected = math.exp(-((steps * 60 / 120) ** 0.7))
        assert np.mean(draws > steps) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(4000))
    assert draws.min() == 1


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 99), take_all=st.floats(0, 1), target=st.integers(1, 20), age=st.floats(-2, 2),
    size=st.floats(0.1, 30),
)  # fmt: skip
def test_spot_traces_are_valid_on_ticks_and_never_above_target(seed, take_all, target, age, size):
    recipe = spot(
        take_all_prob=take_all, target_nodes=target, initial_nodes=target // 2, age_exponent=age, loss_size=law(size),
        duration_s=36000.0,
    )  # fmt: skip
    trace = generate_trace(recipe, np.random.default_rng(seed))
    build_trace(trace.events())
    counts = trace.num_alive()[1]
    assert counts[0] == target // 2
    assert counts.max() <= target
    assert np.all(trace.time_s % 60.0 == 0)
    assert trace.duration_s == 36000.0


def test_loss_rate_batch_size_and_bursts_follow_the_parameters():
    calm = trace_stats(generate_trace(spot(duration_s=3.6e6), np.random.default_rng(0)))
    bursty = trace_stats(generate_trace(spot(duration_s=3.6e6, loss_gap=law(600.0, 0.5)), np.random.default_rng(0)))
    all_at_once = trace_stats(generate_trace(spot(duration_s=3.6e6, take_all_prob=1.0), np.random.default_rng(0)))
    # exponential gaps of mean 600 s rounded up to minutes: 60 / (1 - exp(-0.1)) = 630.5 s; 5700 gaps, so 1.3 % error
    assert calm.loss_gap_mean_s == pytest.approx(630.5, rel=0.06)
    assert bursty.burstiness > calm.burstiness + 0.2
    assert all_at_once.take_all_share == 1.0
    # sizes: 1 / (1 - exp(-0.5)) = 2.54 nodes, a little less because losses cannot take more than there are
    assert 2.3 < calm.loss_size_mean < 2.6


def test_young_nodes_go_first_when_the_age_exponent_is_negative():
    lives = [
        trace_stats(generate_trace(spot(age_exponent=exponent), np.random.default_rng(0))).lifetime_median_s
        for exponent in (-2.0, 0.0, 2.0)
    ]
    assert lives[0] < lives[1] < lives[2]


def test_fit_finds_the_parameters_of_a_long_generated_trace():
    recipe = spot(
        duration_s=6e6, loss_gap=law(900.0, 0.7), refill_gap=law(300.0, 1.3), loss_size=law(2.0), age_exponent=-0.5,
        take_all_prob=0.1,
    )  # fmt: skip
    found = fit_spot(generate_trace(recipe, np.random.default_rng(1)))
    assert (found.target_nodes, found.tick_s, found.duration_s) == (16, 60.0, 6e6)
    for name, tolerance in (("loss_gap", 0.06), ("refill_gap", 0.06), ("refill_size", 0.08)):
        assert getattr(found, name).scale == pytest.approx(getattr(recipe, name).scale, rel=tolerance)
        assert getattr(found, name).shape == pytest.approx(getattr(recipe, name).shape, rel=tolerance)
    assert found.loss_size.scale == pytest.approx(2.0, rel=0.1)
    assert found.age_exponent == pytest.approx(-0.5, abs=0.05)
    # 0.1 and those losses of drawn size that happen to take all
    assert 0.09 < found.take_all_prob < 0.14


def test_fit_table_compares_over_seeds():
    trace = generate_trace(spot(), np.random.default_rng(5))
    table = fit_table(trace, fit_spot(trace), range(5))
    assert table.loc["num_losses", "real"] == trace_stats(trace).num_losses
    assert (table["p5"] <= table["median"]).all()
    assert (table["median"] <= table["p95"]).all()


def test_trace_with_too_few_losses_cannot_be_fitted():
    trace = build_trace([Event(0.0, "add", "a"), Event(60.0, "remove", "a")])
    with pytest.raises(LazsimError, match="too few"):
        fit_spot(trace)


@pytest.mark.parametrize(
    ("name", "file"), [("spot-p3-like", "bamboo/p3-trace.csv"), ("spot-a100-like", "bamboo/a100x1-east1b.txt")]
)
def test_bundled_recipe_is_the_fit_of_the_trace_that_it_names(shared, name, file):
    recipe, found = load_recipe(name), fit_spot(read_trace(shared / "traces" / file))
    assert recipe.source == found.source
    for part in ("loss_gap", "loss_size", "refill_gap", "refill_size"):
        assert getattr(recipe, part).scale == pytest.approx(getattr(found, part).scale, rel=0.01)
        assert getattr(recipe, part).shape == pytest.approx(getattr(found, part).shape, rel=0.01)
    assert recipe.age_exponent == pytest.approx(found.age_exponent, abs=0.001)
    assert recipe.target_nodes == found.target_nodes


def test_recipe_reads_back_from_the_toml_written_for_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(recipe_toml(spot(source='a "quoted" name')))
    assert load_recipe(str(path)) == spot(source='a "quoted" name')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind = 'spot'", "missing required field"),
        ("kind = 'magic'", "magic"),
        ("kind = 'schedule'\nnum_nodes = 2\nnum_left = 3\ninterval_s = 1.0\nduration_s = 1.0", "num_left"),
        ("kind = 'schedule'\nnum_nodes = 2\nnum_lef = 1", "num_lef"),
        ("kind =", "kind|line 1|[Ii]nvalid"),
    ],
)
def test_bad_recipe_is_one_line(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=says) as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)


def test_every_recipe_of_the_catalogue_says_what_it_is():
    for name in list_recipes():
        assert len(describe_recipe(name)) > 20


def test_published_trace_is_not_generated():
    with pytest.raises(SpecError, match="fetch bamboo-p3"):
        generate_trace(load_recipe("bamboo-p3"), np.random.default_rng(0), "bamboo-p3")
