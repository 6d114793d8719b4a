import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.errors import LazsimError, SpecError
from lazsim.specs import describe_spec
from lazsim.trace import Event, build_trace, generate_trace, load_recipe, read_trace, trace_stats
from lazsim.trace.fit import compare_fit, fit_notes, fit_recipe, fit_spot
from lazsim.trace.generate import draw_weibull, generated_bytes
from lazsim.trace.pool import draw_pool
from lazsim.trace.recipes import (
    MarketSpec,
    MtbfSpec,
    PoolSpec,
    ScheduleSpec,
    SpotSpec,
    WeibullSpec,
    list_recipes,
    recipe_toml,
)
from tests.conftest import refusal

HOUR_S = 3600.0
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


def test_nodes_are_new_to_no_effect_where_failures_are_memoryless(refused, lazsim):
    asked = ("trace", "generate", "--nodes", "4", "--node-mtbf", "5d", "--repair", "1h", "--new-nodes")
    told = "--new-nodes has no effect where --shape is 1, which is memoryless: give another, or leave it out"
    assert refused(*asked) == told
    assert lazsim(*asked, "--shape", "0.7")[0] == 0


def test_schedule_brings_failed_nodes_back_and_varies_its_intervals():
    spec = ScheduleSpec(num_nodes=9, num_left=1, interval_s=60.0, absent_s=90.0, duration_s=60_000.0)
    times, alive = generate_trace(spec, np.random.default_rng(0)).num_alive()
    # One that fails every 60 s is away for 90 s: 1.5 are, in the mean.
    assert np.average(alive[:-1], weights=np.diff(times)) == pytest.approx(7.5, abs=0.05)
    varied = generate_trace(msgspec.structs.replace(spec, jitter=1.0), np.random.default_rng(0))
    gaps = np.diff(varied.time_s[varied.change < 0])
    # Uniform from 0 to 120 s.
    assert (gaps.mean(), gaps.std()) == (pytest.approx(60, rel=0.05), pytest.approx(120 / 12**0.5, rel=0.05))


def test_market_takes_nodes_by_the_hour_and_grants_them_at_clock_hours():
    spec = MarketSpec(num_nodes=200, loss_prob=0.5, duration_s=400 * 3600.0)
    trace = generate_trace(spec, np.random.default_rng(0))
    times, alive = trace.num_alive()
    hours_alive = (alive[:-1] * np.diff(times)).sum() / 3600
    # A life lasts half an hour beyond the hours survived, of which there is one in the mean: 1.5 h.
    assert hours_alive / (trace.change < 0).sum() == pytest.approx(1.5, rel=0.02)
    kept = generate_trace(msgspec.structs.replace(spec, loss_prob=0.0), np.random.default_rng(0))
    assert kept.num_alive()[1][-1] == 200


def test_pool_mends_bad_servers_until_only_chance_is_left():
    spec = PoolSpec(
        num_servers=100, num_standbys=16, pool_servers=160, spare_servers=0, failures_per_day=0.5, bad_share=0.2,
        bad_multiple=4, recovery_s=600, selection_s=180, preemption_s=1200, auto_repair_s=3600, manual_repair_s=36_000,
        manual_share=0.8, auto_fail_prob=0.3, manual_fail_prob=0.1, work_s=60 * 86400,
    )  # fmt: skip
    draws = [draw_pool(spec, np.random.default_rng(seed), "pool") for seed in range(12)]
    mean = {name: np.mean([draw.counts[name] for draw in draws]) for name in ("systematic", "escalated", "failed")}
    failures = np.mean([len(draw.events) // 2 for draw in draws])
    # All 32 bad servers are met. A repair fails in 0.2 * 0.3 + 0.8 * 0.1 of all cases, so that a bad server fails
    # 1 / 0.86 times, four times in five for what is bad about it; the others fail 100 * 0.5 * 60 times.
    assert mean["systematic"] == pytest.approx(32 / 0.86 * 0.8, rel=0.12)
    assert failures == pytest.approx(3000 + mean["systematic"], rel=0.02)
    assert mean["escalated"] == pytest.approx(0.8 * failures, rel=0.02)
    assert mean["failed"] == pytest.approx(0.14 * failures, rel=0.05)
    # The job is stopped for ten minutes by each, and for what choosing and getting servers takes.
    for draw in draws:
        stopped_s = 600 * (len(draw.events) // 2) + 180 * draw.counts["selections"] + 1200 * draw.counts["preemptions"]
        assert draw.end_s == pytest.approx(60 * 86400 + stopped_s)


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


def test_a_fit_is_compared_over_seeds():
    trace = generate_trace(spot(), np.random.default_rng(5))
    table = compare_fit(trace, fit_spot(trace), range(5))
    assert table.loc["num_losses", "real"] == trace_stats(trace).num_losses
    assert (table["p5"] <= table["median"]).all()
    assert (table["median"] <= table["p95"]).all()


def test_nodes_that_are_away_from_the_start_are_no_loss_of_a_fit():
    trace = generate_trace(spot(), np.random.default_rng(5))
    away = [Event(0.0, "away", "x"), *trace.events(), Event(trace.duration_s, "add", "x")]
    with_away = build_trace(away, duration_s=trace.duration_s)
    real, found = (compare_fit(one, fit_spot(trace), range(1))["real"] for one in (trace, with_away))
    assert found.equals(real)


@pytest.mark.parametrize(("num_back", "kind"), [(4, SpotSpec), (5, MtbfSpec)])
def test_nodes_that_are_away_from_the_start_are_among_those_of_which_half_come_back(num_back, kind):
    # Five nodes go for good and others come, five more are away from the start, of which some come back.
    events = [Event(0.0, "away", f"away{number}") for number in range(5)]
    events += [Event(0.0, "add", f"n{number}") for number in range(6)]
    events += [Event(60.0 * number + 60.0, "remove", f"n{number}") for number in range(5)]
    events += [Event(900.0, "add", f"away{number}") for number in range(num_back)]
    assert isinstance(fit_recipe(build_trace(events, duration_s=1000.0)), kind)


def failing(seed=0, **changes):
    """Generate a trace of nodes with an MTBF of 100 h and a repair time of 5 h."""
    recipe = MtbfSpec(num_nodes=200, mtbf_s=100 * HOUR_S, repair_s=5 * HOUR_S, duration_s=3000 * HOUR_S)
    return generate_trace(msgspec.structs.replace(recipe, **changes), np.random.default_rng(seed))


LAWS = {
    "exponential": {},
    "infant failures": {"shape": 0.6},
    "wear": {"shape": 2.0},
    "log-normal repair": {"repair_sigma": 1.2},
    "constant repair": {"repair_sigma": 0.0},
    "racks": {"batch_share": 0.4, "num_domains": 50, "shape": 0.7},
    "batches": {"batch_share": 0.5, "batch_nodes": 4, "repair_sigma": 0.5},
    "racks only": {"batch_share": 1.0, "num_domains": 50},
}


@pytest.mark.parametrize("law", LAWS)
def test_availability_and_rate_are_those_of_mtbf_and_repair_whatever_the_laws(law):
    stats = trace_stats(failing(**LAWS[law]))
    # 200 nodes x 3000 h / 105 h = 5700 failures, at least 1400 of them independent: 3 % error of the mean time alive,
    # and 5 % (a log-normal law of sigma 1.2 varies by 1.8 of its mean) of the 4.76 % of the time away.
    assert stats.node_hours / stats.num_removals == pytest.approx(100, rel=0.09)
    assert stats.mean_nodes / 200 == pytest.approx(100 / 105, abs=3 * 0.05 * 0.0476)


def test_a_cluster_that_has_run_for_long_fails_at_its_mean_rate_from_the_start_and_a_new_one_has_infant_failures():
    rates = []
    for new_nodes in (False, True):
        starts = [failing(seed, shape=0.5, new_nodes=new_nodes, duration_s=10 * HOUR_S) for seed in range(5)]
        rates.append(sum(trace.nodes_lost() for trace in starts) / (5 * 200 * 10))
    assert rates[0] == pytest.approx(1 / 100, abs=4 * math.sqrt(100) / 10_000)
    # P(X < 10 h) = 1 - exp(-sqrt(10 / 50)) = 0.36 of new nodes fail in their first 10 h, some of them again
    assert rates[1] > 0.36 / 10


def test_a_rack_fails_and_comes_back_as_one():
    trace = failing(num_nodes=10, batch_share=1.0, num_domains=4)
    racks = ({1, 2, 3}, {4, 5}, {6, 7, 8}, {9, 10})
    for batch in list(trace.batches())[1:]:
        for nodes in (batch.removed, batch.added):
            assert not nodes or {int(node.removeprefix("node")) for node in nodes} in racks


@pytest.mark.parametrize("law", ["exponential", "infant failures", "wear", "log-normal repair", "batches"])
def test_fit_finds_the_mtbf_and_repair_of_a_generated_trace(law):
    wanted = {"shape": 1.0, "repair_sigma": None, "batch_share": 0.0, "batch_nodes": 0, **LAWS[law]}
    found = fit_recipe(failing(1, duration_s=1000 * HOUR_S, **LAWS[law]))
    assert (found.num_nodes, found.batch_nodes) == (200, wanted["batch_nodes"])
    # 1900 failures: 2.3 % error; the shape of a Weibull law has 0.78 / sqrt(n), Bain and Engelhardt 1991
    assert found.mtbf_s == pytest.approx(100 * HOUR_S, rel=0.08)
    assert found.repair_s == pytest.approx(5 * HOUR_S, rel=0.15)
    assert found.shape == pytest.approx(wanted["shape"], rel=0.08)
    assert found.batch_share == pytest.approx(wanted["batch_share"], abs=0.05)
    assert found.repair_sigma == (wanted["repair_sigma"] and pytest.approx(wanted["repair_sigma"], rel=0.08))


@pytest.mark.parametrize("hours", [3, 5, 20])
@pytest.mark.parametrize("start", [0, 24])
def test_fit_of_a_stretch_finds_nodes_that_were_not_there_in_it(start, hours):
    # Nodes are up a quarter of the time; in 3 h, half of those that are away do not come.
    recipe = MtbfSpec(num_nodes=400, mtbf_s=HOUR_S, repair_s=3 * HOUR_S, duration_s=48 * HOUR_S)
    trace = generate_trace(recipe, np.random.default_rng(0)).window(start * HOUR_S, hours * HOUR_S)
    assert fit_recipe(trace, "mtbf").num_nodes == pytest.approx(400, rel=0.1)


def test_nodes_that_are_away_from_the_start_are_no_losses_of_a_fit():
    # An hour there, an hour away, six times; c is away for the first half.
    cycles = [
        Event(3600.0 * hour, "remove" if hour % 2 else "add", node) for hour in range(1, 13) for node in ("a", "b")
    ]
    away = [Event(0.0, "add", "c"), Event(0.001, "remove", "c")]
    start = [Event(0.0, "add", "a"), Event(0.0, "add", "b")]
    events = [*start, *away, *cycles[:11], Event(21600.0, "add", "c"), *cycles[11:]]
    with_c, without = (build_trace(one, duration_s=43200.0) for one in (events, [e for e in events if e.node != "c"]))
    spot, mtbf = fit_recipe(with_c, "spot"), fit_recipe(with_c, "mtbf")
    assert spot.tick_s == 3600.0
    # 12 node-hours of a and b and 6 of c over the losses of a and b.
    assert (mtbf.num_nodes, mtbf.mtbf_s) == (3, 18 / 12 * HOUR_S)
    assert fit_recipe(without, "mtbf").mtbf_s == HOUR_S


def test_fit_of_a_trace_of_fresh_names_is_a_spot_recipe_unless_asked():
    trace = generate_trace(spot(), np.random.default_rng(5))
    assert isinstance(fit_recipe(trace), SpotSpec)
    with pytest.raises(LazsimError, match=r"too few to fit failures and repairs: .* and 0 that come back"):
        fit_recipe(trace, "mtbf")


def test_fit_of_faults_of_a_cluster_keeps_its_nodes_and_its_rate(shared):
    trace = read_trace(shared / "traces" / "infinitehbd" / "fault_trace.json")
    recipe, stats = fit_recipe(trace), trace_stats(trace)
    drawn = trace_stats(generate_trace(recipe, np.random.default_rng(0)))
    assert recipe.num_nodes == 400
    assert drawn.mean_nodes == pytest.approx(stats.mean_nodes, rel=0.01)
    assert drawn.removals_per_node_hour == pytest.approx(stats.removals_per_node_hour, rel=0.15)


@pytest.mark.parametrize(
    ("name", "per_1000_node_days"), [("meta-rsc-1", 6.5), ("meta-rsc-2", 2.34), ("llama-3", 419 / 54 / 2.048)]
)
def test_published_rates_are_those_of_their_sources(name, per_1000_node_days):
    assert 1000 * 86400 / load_recipe(name).mtbf_s == pytest.approx(per_1000_node_days, rel=1e-6)


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


@pytest.mark.parametrize(
    "recipe",
    [spot(source='a "quoted" name'), MtbfSpec(num_nodes=2, mtbf_s=9.0, repair_s=1.0, repair_sigma=0.0, duration_s=9.0)],
    ids=["spot", "mtbf"],
)
def test_recipe_reads_back_from_the_toml_written_for_it(write, recipe):
    path = write(recipe_toml(recipe), "mine.toml")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind = 'spot'", "duration_s, tick_s, .* are missing"),
        ("kind = 'magic'", "magic"),
        ("kind = 'schedule'\nnum_nodes = 2\nnum_left = 3\ninterval_s = 1.0\nduration_s = 1.0", "num_left"),
        ("kind = 'schedule'\nnum_nodes = 2\nnum_lef = 1", "num_lef"),
        ("kind = 'market'\nnum_nodes = 2\nloss_prob = 2\nduration_s = 9", "loss_prob"),
        ("kind =", "kind|line 1|[Ii]nvalid"),
    ],
)
def test_bad_recipe_is_one_line(write, text, says):
    path = write(text, "bad.toml")
    assert re.search(says, refusal(lambda: load_recipe(str(path)), SpecError))


def test_every_recipe_of_the_catalogue_says_what_it_is():
    for name in list_recipes():
        assert len(describe_spec("traces", name)) > 20


def test_published_trace_is_not_generated():
    with pytest.raises(SpecError, match="fetch bamboo-p3"):
        generate_trace(load_recipe("bamboo-p3"), np.random.default_rng(0), "bamboo-p3")


def test_batches_are_the_failure_domains_of_a_cluster_of_which_the_last_may_be_smaller(lazsim, tmp_path):
    out = tmp_path / "racks.csv"
    fields = ("--node-mtbf", "1d", "--repair", "1h", "--duration", "30d", "--batch-share", 1, "--nodes", 40)
    code, _, err = lazsim("trace", "generate", *fields, "--cluster", "gb200-nvl72", "--out", out)
    assert code == 0, err
    lost = [
        [int(name.removeprefix("node")) for name in batch.removed]
        for batch in read_trace(out).batches()
        if batch.removed
    ]
    # Trays 1-18 and 19-36 are racks, and the other four the begin of a third.
    assert {one[0] for one in lost} == {1, 19, 37}
    assert {len(one) for one in lost} == {18, 4}
    bad = lazsim("trace", "generate", *fields, "--cluster", "rtx3090x10")
    assert bad[::2] == (2, bad[2])
    assert bad[2].startswith("lazsim: --batch-share also needs one of --domains, --batch-nodes or nodes_per_domain")
    assert lazsim("trace", "generate", *fields, "--cluster", "none-such")[2].startswith("lazsim: --cluster: ")


@pytest.mark.parametrize("name", ["spot-p3-like", "meta-rsc-2", "fail-every-5min"])
def test_a_recipe_drawn_up_to_an_earlier_end_has_the_events_of_the_whole_up_to_there(name):
    recipe = load_recipe(name)
    end_s = recipe.duration_s / 3
    whole, part = (generate_trace(recipe, np.random.default_rng(3), name, end) for end in (np.inf, end_s))
    early = [event for event in whole.events() if event.time_s <= end_s]
    assert list(part.events()) == early
    assert len(part) < len(whole)
    assert part.duration_s == whole.duration_s


def mean_fit(fit, recipe, fields):
    """Return the mean of each fitted field over traces of a recipe, with its standard error."""
    found = [fit(generate_trace(recipe, np.random.default_rng(seed))) for seed in range(20)]
    values = np.array([[getattr(one, field) for field in fields] for one in found], dtype=float)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(20)


def test_fit_of_few_failures_takes_no_shape_that_they_do_not_show():
    # About 12 failures of 64 nodes, most of which never fail. With a shape of 1, twice the gain of likelihood exceeds
    # 2 with probability 0.16: the upper tail of a chi-squared variable with one degree of freedom.
    recipe = MtbfSpec(num_nodes=64, mtbf_s=240 * HOUR_S, repair_s=6 * HOUR_S, duration_s=48 * HOUR_S)
    found = [fit_recipe(generate_trace(recipe, np.random.default_rng(seed)), "mtbf") for seed in range(40)]
    assert np.mean([one.shape == 1.0 for one in found]) > 0.84 - 3 * math.sqrt(0.84 * 0.16 / 40)
    assert np.mean([1 / one.mtbf_s for one in found]) == pytest.approx(1 / recipe.mtbf_s, rel=3 / math.sqrt(12 * 40))


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_fit_finds_the_mean_of_log_normal_repairs_that_the_end_of_the_trace_cuts_off(sigma):
    recipe = MtbfSpec(
        num_nodes=200, mtbf_s=240 * HOUR_S, repair_s=120 * HOUR_S, repair_sigma=sigma, duration_s=360 * HOUR_S
    )
    mean, error = mean_fit(fit_recipe, recipe, ("mtbf_s", "repair_s", "repair_sigma"))
    assert np.all(np.abs(mean - [recipe.mtbf_s, recipe.repair_s, sigma]) < 4 * error)


def test_fit_of_nodes_that_mostly_come_back_or_never_finds_no_repairs_beyond_the_trace():
    """Every third return has another name, as where a provider replaces the machine: repairs of two hours, or none."""
    recipe = MtbfSpec(num_nodes=10, mtbf_s=30 * HOUR_S, repair_s=2 * HOUR_S, duration_s=480 * HOUR_S)
    names, num_returns, events = dict[str, str](), 0, []
    for event in generate_trace(recipe, np.random.default_rng(0)).events():
        if event.kind == "add" and event.node in names:
            num_returns += 1
            names[event.node] += "x" * (num_returns % 3 == 0)
        events.append(event._replace(node=names.setdefault(event.node, event.node)))
    found = fit_recipe(build_trace(events, duration_s=recipe.duration_s), "mtbf")
    assert 2 * HOUR_S < found.repair_s <= recipe.duration_s
    assert found.num_nodes <= 1.2 * len({event.node for event in events})


@pytest.mark.parametrize(("nodes", "days"), [(2, 12), (6, 12)])
def test_fit_finds_batches_of_which_some_nodes_are_away_already(nodes, days):
    # Nodes are alive for two thirds of the time: a batch of two finds both in 4 of 9 cases, and one alone in as many.
    recipe = MtbfSpec(
        num_nodes=60, mtbf_s=24 * HOUR_S, repair_s=12 * HOUR_S, batch_share=0.4, batch_nodes=nodes,
        duration_s=days * 24 * HOUR_S,
    )  # fmt: skip
    mean, error = mean_fit(fit_recipe, recipe, ("batch_share",))
    assert abs(mean[0] - 0.4) < 4 * error[0]
    assert fit_recipe(generate_trace(recipe, np.random.default_rng(0))).batch_nodes == nodes


def test_fit_finds_the_shape_of_lives_of_which_many_are_shorter_than_a_second():
    # P(X < 1 s) = 1 - exp(-(1 / 389) ** 0.3) = 0.15
    recipe = MtbfSpec(num_nodes=20, mtbf_s=HOUR_S, shape=0.3, repair_s=10 * HOUR_S, duration_s=1000 * HOUR_S)
    mean, error = mean_fit(fit_recipe, recipe, ("shape",))
    assert abs(mean[0] - 0.3) < 4 * error[0] + 0.01  # the age of nodes of the start costs a little


def test_fit_says_in_what_the_trace_is_unlike_those_generated():
    frame = pd.DataFrame({"real": [1.0, 2.0], "p5": [0.5, 2.5], "p95": [1.5, 3.0]}, index=["mean_nodes", "burstiness"])
    notes = list(fit_notes(failing(), spot(age_exponent=2.0), frame))
    assert [re.findall(r"burstiness|mean_nodes|age_exponent", note) for note in notes] == [
        ["burstiness"],
        ["age_exponent"],
    ]


@pytest.mark.parametrize(("shape", "off"), [(0.7, "low"), (2.0, "high"), (1.0, "")])
def test_fit_says_how_far_off_it_is_where_nodes_were_new(shape, off):
    recipe = MtbfSpec(
        num_nodes=400, mtbf_s=120 * HOUR_S, shape=shape, new_nodes=shape != 1, repair_s=4 * HOUR_S,
        duration_s=240 * HOUR_S,
    )  # fmt: skip
    new = generate_trace(recipe, np.random.default_rng(1))
    found = fit_recipe(new)
    # Of about 800 losses, the standard error of the mean is 4 %.
    sides = {"low": found.mtbf_s < 0.9 * recipe.mtbf_s, "high": found.mtbf_s > 1.1 * recipe.mtbf_s}
    assert [side for side, is_found in sides.items() if is_found] == [off] * bool(off)
    none = pd.DataFrame({"real": [], "p5": [], "p95": []})
    assert [re.findall("had they been new, .* too (low|high)", note) for note in fit_notes(new, found, none)] == (
        [[off]] * bool(off)
    )


def test_fit_says_where_it_has_more_nodes_than_the_trace():
    nodes = build_trace([Event(0.0, "add", str(node)) for node in range(45)], duration_s=HOUR_S)
    none = pd.DataFrame({"real": [], "p5": [], "p95": []})
    known, beyond = (
        [*fit_notes(nodes, MtbfSpec(num_nodes=number, mtbf_s=HOUR_S, repair_s=HOUR_S, duration_s=HOUR_S), none)]
        for number in (45, 121)
    )
    assert not known
    assert beyond[0].startswith("`num_nodes` 121 is beyond the 45 nodes of the trace")


def test_fit_says_where_coarse_times_make_batches_of_nodes_that_fail_alone():
    fine = failing()
    lost = {"shape": 1.0, "batch_share": 0.5, "batch_nodes": 2, "num_nodes": 200, "mtbf_s": HOUR_S, "repair_s": HOUR_S}
    recipe = MtbfSpec(**lost, duration_s=HOUR_S)
    none = pd.DataFrame({"real": [], "p5": [], "p95": []})
    coarse = build_trace(
        [e._replace(time_s=HOUR_S * math.ceil(e.time_s / HOUR_S)) for e in fine.events()], lenient=True
    )
    # Of 200 nodes, each of which is lost every 100 h, two are lost in an hour.
    (note,) = fit_notes(coarse, recipe, none)
    assert re.match(r"times are multiples of 60 min, in each of which (1\.9|2) nodes are lost", note)
    assert not list(fit_notes(fine, recipe, none))


def test_fit_tells_losses_that_take_all_from_those_of_all_that_are_left():
    # Grants are slow, so that few nodes are alive and losses of any size often take all of them.
    recipe = spot(
        duration_s=200 * HOUR_S, tick_s=60.0, target_nodes=32, initial_nodes=32, take_all_prob=0.02, age_exponent=0.0,
        loss_gap=WeibullSpec(scale=900.0, shape=0.8), loss_size=WeibullSpec(scale=1.6, shape=1.0),
        refill_gap=WeibullSpec(scale=3000.0, shape=0.8), refill_size=WeibullSpec(scale=2.0, shape=0.9),
    )  # fmt: skip
    found = [fit_spot(generate_trace(recipe, np.random.default_rng(seed))) for seed in range(8)]
    probs, scales = [one.take_all_prob for one in found], [one.loss_size.scale for one in found]
    for values, true in ((probs, 0.02), (scales, 1.6)):
        assert abs(np.mean(values) - true) < 4 * np.std(values, ddof=1) / math.sqrt(len(values))


def test_a_fit_has_nodes_for_its_batches_where_many_nodes_are_there_for_a_short_time_alone():
    # On average there are fewer than two nodes, of which eight fail at once.
    many = [f"b{number}" for number in range(8)]
    at = [(0.0, "add", ["a"]), (90.0, "add", many), (95.0, "remove", many), (96.0, "add", many), (99.0, "remove", many)]
    trace = build_trace([Event(3600 * hour, kind, node) for hour, kind, nodes in at for node in nodes])
    recipe = fit_recipe(trace, "mtbf")
    assert recipe.num_nodes == len(trace.names) == 9
    # 163 hours alive for 16 losses, and 1 hour away for each return: a node is there for 91 % of the time. Of a batch
    # of nine, 8.2 nodes are there on average, of one of eight, 7.3; the trace has eight.
    assert recipe.batch_nodes == 9
