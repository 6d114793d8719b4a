"""Runs that sample plans against runs that make every plan, and the rules of a sampler by hand."""

import numpy as np
import pytest

import lazsim
from lazsim.engine import plans
from lazsim.engine.sampling import PLANNINGS, Sampler, Series, planning_by_nodes, window_s
from lazsim.errors import SpecError
from lazsim.scenario import resolve
from lazsim.study.runs import ScenarioRuns, Setting
from lazsim.study.simulation import run_scenario

HOUR_S = 3600.0


def failing_nodes(rng, num_nodes, hours, node_mtbf_h):
    """Let nodes fail and come back half an hour later, each at random."""
    events = [lazsim.Event(0.0, "add", f"node{node}") for node in range(num_nodes)]
    for node in range(num_nodes):
        time_s = rng.exponential(node_mtbf_h * HOUR_S)
        while time_s < hours * HOUR_S:
            events.append(lazsim.Event(time_s, "remove", f"node{node}"))
            events.append(lazsim.Event(time_s + HOUR_S / 2, "add", f"node{node}"))
            time_s += HOUR_S / 2 + rng.exponential(node_mtbf_h * HOUR_S)
    events = sorted((event for event in events if event.time_s < hours * HOUR_S), key=lambda event: event.time_s)
    return lazsim.build_trace(events, duration_s=hours * HOUR_S)


def random_run(seed):
    """Draw a trace and all that loads and plans depend on; nodes have servers of their own."""
    rng = np.random.default_rng(seed)
    trace = failing_nodes(rng, int(rng.integers(5, 11)), float(rng.uniform(1.5, 3.5)), float(rng.choice([5, 20, 100])))
    settings = {
        "model": str(rng.choice(["gpt-s", "gpt-l"])),
        "systems": [str(rng.choice(["lazarus", "lazarus", "ds", "tutel-ft"]))],
        "seed": seed,
        "cluster.nodes_per_server": 1,
        "job.rebalance_interval_steps": int(rng.choice([200, 500, 2000])),
        "routing.skew": f"x{rng.uniform(0.3, 1.2):.2f}",
        "routing.slow_steps": float(10 ** rng.uniform(3, 5)),
        "routing.fast_share": float(rng.choice([0.0005, 0.1, 0.5])),
    }
    return trace, settings


def both(trace, settings):
    exact, sampled = (lazsim.simulate(trace, planning=name, **settings).runs[0] for name in ("exact", "sampled"))
    assert (exact.planning, exact.samples_error) == ("exact", 0.0)
    return exact, sampled


def test_sampled_runs_agree_with_exact_ones_within_the_error_told():
    # Of 95 % intervals, two of ten may be missed: a third one has a probability of 1 %.
    missed = []
    for seed in range(10):
        exact, sampled = both(*random_run(seed))
        error = abs(sampled.samples / exact.samples - 1)
        missed += [(seed, error)] * (error > sampled.samples_error)
        assert sampled.planning == "sampled"
        assert error < 3 * sampled.samples_error + 1e-3
        assert sum(sampled.ledger_s.values()) == pytest.approx(exact.wall_s)
        for bucket, seconds in exact.ledger_s.items():
            assert sampled.ledger_s[bucket] == pytest.approx(seconds, abs=0.01 * exact.wall_s + 1.0)
    assert len(missed) <= 2


def test_sampled_runs_of_small_jobs_with_failures_count_what_exact_ones_count():
    for seed in (3, 4):
        trace, settings = random_run(seed)
        exact, sampled = both(trace, settings | {"systems": ["lazarus"]})
        assert sampled.counts["failures"] == exact.counts["failures"]
        assert sampled.counts["restarts"] == exact.counts["restarts"]


def test_plans_are_sampled_only_where_making_all_takes_long():
    trace = lazsim.build_trace(
        [lazsim.Event(0.0, "add", f"node{node}") for node in range(8)], duration_s=30 * 24 * HOUR_S
    )
    settings = {"systems": ["lazarus"], "model": "gpt-s", "cluster.nodes_per_server": 1}
    assert lazsim.simulate(trace, duration="30min", **settings).runs[0].planning == "exact"
    assert lazsim.simulate(trace, duration="2d", **settings).runs[0].planning == "sampled"


def test_where_loads_are_even_the_changes_of_nodes_decide_whether_plans_are_sampled():
    # In a month, a node of eight fails some 60 times.
    trace = failing_nodes(np.random.default_rng(0), 8, 30 * 24, 100)
    settings = {"systems": ["lazarus"], "routing": "uniform", "cluster.nodes_per_server": 1}
    assert lazsim.simulate(trace, model="gpt-s", **settings).runs[0].planning == "exact"
    costs = resolve({"trace": trace, "model": "deepseek-v3", "cluster": "dgx-h100"}).costs()
    assert [planning_by_nodes(costs, 2000, changes) for changes in (2, 400)] == ["exact", "sampled"]


@pytest.mark.parametrize("system", ["lazarus", "ds-ft"])
def test_a_change_of_nodes_is_found_once_for_all_intervals_while_plans_stay_the_same(monkeypatch, system):
    trace, bound = failing_nodes(np.random.default_rng(0), 8, 300, 10), []
    bind_nodes = plans.bind_nodes
    monkeypatch.setattr(plans, "bind_nodes", lambda *states, **other: bound.append(1) or bind_nodes(*states, **other))
    settings = {"trace": trace, "routing": "uniform", "cluster.nodes_per_server": 1, "planning": "exact"}
    scenario = resolve({**settings, "system": system})
    runs = ScenarioRuns([scenario])
    (first,), (second,) = (runs.runs(Setting(scenario.find_system(), steps)) for steps in (50, 60))
    assert first.ledger_s["checkpoint"] > second.ledger_s["checkpoint"]
    assert len(bound) < min(run.counts["reconfigurations"] for run in (first, second)) / 10


@pytest.mark.parametrize(
    ("system", "model", "cluster", "num_nodes", "measured_s"),
    [
        # CPU seconds on a shared core: the least of two runs, of one less that of another a third as long, by window.
        ("lazarus", "gpt-s", "rtx3090x10", 10, 2.1e-3),
        ("lazarus", "gpt-l", "rtx3090x10", 10, 2.6e-3),
        ("lazarus", "gpt-l", "rtx3090x10", 128, 4.5e-3),
        ("lazarus", "gpt-m", "gb200-nvl72", 36, 5.5e-3),
        ("lazarus", "gpt-s", "gb200-nvl72", 36, 6.5e-3),
        ("lazarus", "mixtral-8x7b", "h200x128", 32, 14.4e-3),
        ("lazarus", "olmoe-1b-7b", "h200x128", 256, 17.8e-3),
        ("lazarus", "deepseek-v3", "h200x128", 16, 21.7e-3),
        ("lazarus", "deepseek-v3", "h200x128", 128, 57e-3),
        ("ds", "gpt-l", "rtx3090x10", 10, 0.21e-3),
        ("ds", "deepseek-v3", "h200x128", 128, 4.8e-3),
        ("tutel", "gpt-l", "rtx3090x10", 32, 0.40e-3),
        ("tutel", "deepseek-v3", "h200x128", 128, 8.2e-3),
    ],
)
def test_the_work_of_a_window_is_estimated_within_a_factor_of_two(system, model, cluster, num_nodes, measured_s):
    settings = {"trace": "fail-every-5min", "system": system, "model": model, "cluster": cluster, "job": "testbed-a"}
    scenario = resolve(settings)
    told_s = window_s(scenario.find_system(), scenario.costs(), num_nodes)
    assert measured_s / 2 < told_s < 2 * measured_s


def test_a_window_of_ten_times_the_steps_has_ten_times_the_samples_of_the_loads_and_one_plan():
    # 6.9 ms measured as above, where plans are made every 2000 steps.
    settings = {"trace": "fail-every-5min", "system": "lazarus", "model": "gpt-l", "job.rebalance_interval_steps": 2000}
    scenario = resolve(settings)
    assert 6.9e-3 / 2 < window_s(scenario.find_system(), scenario.costs(), 10) < 2 * 6.9e-3


def test_every_plan_is_made_where_nodes_share_servers():
    trace, settings = random_run(3)
    shared = settings | {"systems": ["lazarus"], "cluster.nodes_per_server": 2}
    exact, sampled = both(trace, shared)
    assert (sampled.planning, sampled.samples) == ("exact", exact.samples)


@pytest.mark.parametrize("seed", [1, 4, 6])
def test_plans_over_racks_are_sampled_and_agree_within_the_error_told_unless_each_is_scored(seed):
    trace, settings = random_run(seed)
    del settings["systems"]
    racks = {**settings, "trace": trace, "model": "gpt-s", "placement": "domains", "cluster.nodes_per_domain": 3}
    runs = {}
    for planning in ("exact", "sampled"):
        scenario = resolve({**racks, "planning": planning})
        runs[planning] = run_scenario(scenario)
    exact, sampled = runs.values()
    assert (exact.planning, sampled.planning) == ("exact", "sampled")
    assert abs(sampled.samples / exact.samples - 1) < 3 * sampled.samples_error + 1e-3
    assert sampled.counts["failures"] == exact.counts["failures"]
    scored = scenario.replace("score_plans", True).replace("duration", 600)
    assert run_scenario(scored).planning == "exact"


def test_json_says_how_plans_were_made_and_notes_tell_the_error():
    trace, settings = random_run(5)
    result = lazsim.simulate(trace, planning="sampled", **settings)
    row = result.to_json()["runs"][0]
    assert (row["planning"], row["samples_error"]) == ("sampled", result.runs[0].samples_error)
    assert any(f"{row['samples_error']:.2%}" in note for note in result.notes)


@pytest.mark.parametrize("seed", [4, 8, 11])
def test_a_plan_that_stands_for_others_may_lose_experts_that_theirs_kept(seed):
    # `compact` has most experts on one node, so that other plans keep other experts when the same nodes fail.
    trace = failing_nodes(np.random.default_rng(seed), 8, 6, 4)
    settings = {"job.rebalance_interval_steps": 200, "routing.slow_steps": 2000.0, "cluster.nodes_per_server": 1}
    settings |= {"model": "gpt-s", "systems": ["lazarus"], "placements": ["compact"], "seed": seed}
    exact, sampled = both(trace, settings)
    assert sampled.planning == "sampled"
    # Of three 95 % intervals, none misses by half its width.
    assert abs(sampled.samples / exact.samples - 1) < 1.5 * sampled.samples_error


def test_an_unknown_planning_is_refused_in_one_line():
    trace, settings = random_run(5)
    with pytest.raises(SpecError, match=r"unknown planning 'fast'.*auto, exact, sampled"):
        lazsim.simulate(trace, planning="fast", **settings)


def test_options_have_the_names_of_plannings():
    from lazsim.cli.run import PLANNINGS as OPTIONS

    assert set(OPTIONS) == set(PLANNINGS)


def test_a_series_tells_the_variance_by_hand():
    # Three stretches of four windows, used 10 times each: 2 s, 4 s, 3 s. (10 * 2)**2 / 2 + (10 * 1)**2 / 2, and for the
    # last one the mean square of both differences: 100 * (4 + 1) / 2 / 2.
    series = Series()
    for start, seconds in ((0, 2.0), (4, 4.0), (8, 3.0)):
        series.go_on(start, 4, start + 2)
        series.record(seconds)
        series.use(10)
    assert series.variance_s2() == 200 + 50 + 125
    assert series.spent_s() == 90


def test_a_restart_in_doubt_adds_half_of_the_square_of_its_time():
    # Two draws of 0 s or 30 s, each with probability 1/2: 2 * 30**2 / 4. Two values that differ by 2 s, used 10 times:
    # (10 * 2)**2 / 2 for the first, and as much for the last.
    sampler = Sampler("sampled", 10, 1000.0, lambda: 0.0)
    series = sampler.at("key", 0)
    for start, seconds in ((0, 2.0), (4, 4.0)):
        series.go_on(start, 4, start + 2)
        series.record(seconds)
        series.use(10)
    sampler.doubted(30.0)
    assert sampler.variance_s2() == 200 + 200 + 450


def test_stretches_of_one_window_have_no_error():
    series = Series()
    for window, seconds in enumerate((2.0, 4.0, 3.0)):
        series.go_on(window, 1, window)
        series.record(seconds)
        series.use(10)
    assert series.variance_s2() == 0


def test_stretches_grow_while_values_stay_the_same_and_never_reach_beyond_the_run():
    now = 0.0
    sampler = Sampler("sampled", 10, 1000.0, lambda: now)
    lengths = []
    for window in range(100):
        now = window * 10.0
        series = sampler.at("key", window * 10)
        if series.seconds is None:
            series.record(1.0)
            lengths.append((series.start, series.length))
        series.use(10)
    assert [length for _, length in lengths[:2]] == [1, 1]
    assert max(length for _, length in lengths) > 8
    assert all(start + length <= 101 for start, length in lengths)
    assert sampler.error(1000.0) < 2e-3


def test_values_that_jump_are_found_at_every_window():
    now = 0.0
    sampler = Sampler("sampled", 10, 1000.0, lambda: now)
    for window in range(20):
        now = window * 10.0
        series = sampler.at("key", window * 10)
        assert not series.is_sampled
        series.record(1.0 + window % 2)
        series.use(10)
    assert sampler.error(1000.0) == 0
