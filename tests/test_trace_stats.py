import json
import math

import numpy as np
import pytest

from lazsim.output.trace import mean_alive, sparkline
from lazsim.trace import Event, build_trace, read_trace, trace_stats
from lazsim.trace.stats import count_interval, loss_rate_text


def add(time_s, *nodes):
    return [Event(time_s, "add", node) for node in nodes]


def remove(time_s, *nodes):
    return [Event(time_s, "remove", node) for node in nodes]


def test_statistics_of_a_small_trace_by_hand():
    events = add(0.0, "a", "b", "c") + remove(3600.0, "a", "b") + add(5400.0, "d") + remove(7200.0, "c", "d")
    stats = trace_stats(build_trace(events, duration_s=10800.0))
    # 3 nodes for an hour, 1 for half, 2 for half, none for the last hour: 4.5 node hours over 3 h
    assert stats.node_hours == 4.5
    assert stats.mean_nodes == 1.5
    assert (stats.peak_nodes, stats.min_nodes, stats.num_nodes) == (3, 0, 4)
    assert stats.removals_per_node_hour == pytest.approx(4 / 4.5)
    assert (stats.num_losses, stats.num_removals, stats.loss_size_mean, stats.loss_size_max) == (2, 4, 2.0, 2)
    assert stats.take_all_share == 0.5
    # lives: a and b 3600 s, c 7200 s, d 1800 s
    assert stats.lifetime_mean_s == 4050.0
    assert stats.lifetime_median_s == 3600.0
    assert stats.num_censored == 0


def test_clockwork_losses_have_burstiness_minus_one():
    events = add(0.0, *"abcd") + [event for hour, node in enumerate("abc", 1) for event in remove(3600.0 * hour, node)]
    assert trace_stats(build_trace(events)).burstiness == -1.0


def test_poisson_losses_have_burstiness_near_zero():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(100.0, size=4000))
    events = [event for i, t in enumerate(times) for event in (*remove(t, str(i)), *add(t, str(i + 1)))]
    stats = trace_stats(build_trace(add(0.0, "0") + events))
    # the coefficient of variation of n exponential gaps has a standard deviation of about 1 / sqrt(n) = 0.016
    assert stats.loss_gap_cv == pytest.approx(1.0, abs=0.064)
    assert abs(stats.burstiness) < 0.04


def test_what_a_trace_does_not_define_is_nan():
    stats = trace_stats(build_trace(add(0.0, "a"), duration_s=60.0))
    assert stats.num_losses == 0
    for value in (stats.lifetime_mean_s, stats.burstiness, stats.loss_size_mean, stats.take_all_share):
        assert math.isnan(value)


# The limits of Garwood (1936), as tables of the chi-squared distribution give them.
GARWOOD = [(0, 0.0, 3.689), (1, 0.0253, 5.572), (2, 0.242, 7.225), (10, 4.795, 18.39)]


@pytest.mark.parametrize(("num", "low", "high"), GARWOOD)
@pytest.mark.parametrize("size", [1, 3])
def test_rate_of_losses_has_the_exact_interval_of_their_number(num, low, high, size):
    nodes = [f"n{one}" for one in range(size)]
    times_s = [3600.0 * (loss + 0.5) / num for loss in range(num)]
    losses = [event for time_s in times_s for event in remove(time_s, *nodes) + add(time_s, *nodes)]
    stats = trace_stats(build_trace(add(0.0, *nodes) + losses, duration_s=3600.0))
    size = size if num else 1
    assert stats.removals_per_node_hour_ci_low * stats.node_hours == pytest.approx(low * size, rel=2e-3)
    assert stats.removals_per_node_hour_ci_high * stats.node_hours == pytest.approx(high * size, rel=2e-3)


def test_rate_of_losses_in_one_burst_is_as_uncertain_as_the_number_of_bursts():
    losses = [event for second in range(15) for event in remove(100.0 + second, "a") + add(100.0 + second, "a")]
    stats = trace_stats(build_trace(add(0.0, "a") + losses, duration_s=3600.0))
    # Five stretches with 15, 0, 0, 0 and 0 losses: the sample variance is 45, that of their sum 5 x 45, and a quantile
    # of Student's t with 4 degrees of freedom is 2.776 where that of the normal distribution is 1.96.
    size = 5 * 45 * (2.7764 / 1.95996) ** 2 / 15
    low, high = count_interval(15 / size)
    assert stats.removals_per_node_hour_ci_low == pytest.approx(low * size, rel=1e-3)
    assert stats.removals_per_node_hour_ci_high == pytest.approx(high * size, rel=1e-3)
    # 15 losses of a variance of 451.4 tell as much as 15 x 15 / 451.4 = 0.4985 at random.
    assert stats.equivalent_losses == pytest.approx(15 / size, rel=1e-3)
    assert "as of less than one at random)" in loss_rate_text(stats)


def test_losses_that_count_for_fewer_are_told_as_the_number_that_they_count_for():
    # Three losses of 1, 1 and 4 nodes: 6 x 6 / (1 + 1 + 16) = 2.
    nodes = ["a", "b", "c", "d"]
    losses = [*remove(100.0, "a"), *add(200.0, "a"), *remove(300.0, "a"), *add(400.0, "a"), *remove(500.0, *nodes)]
    stats = trace_stats(build_trace(add(0.0, *nodes) + losses, duration_s=600.0))
    assert stats.equivalent_losses == pytest.approx(2)
    assert "as of 2 at random)" in loss_rate_text(stats)


@pytest.mark.parametrize("ends", ["2025-03-01 12:00", ""])
def test_lone_outage_tells_no_rate_and_no_lifetime(lazsim, tmp_path, ends):
    (tmp_path / "one.csv").write_text(f"node,start,end\na,2025-03-01 10:00,{ends}\n")
    code, out, err = lazsim("trace", "info", tmp_path / "one.csv", "--json")
    stats = json.loads(out)
    assert (code, stats["num_losses"], stats["num_start_removals"]) == (0, 1, 1)
    assert {stats[name] for name in ("removals_per_node_hour", "lifetime_mean_s", "loss_size_mean")} == {None}
    assert "unit of time" not in err
    assert "unknown: no node is seen alive for any time" in lazsim("trace", "info", tmp_path / "one.csv")[1]


def test_node_that_is_away_from_the_start_is_no_loss_of_the_rate():
    # b is there for 2 h, and is lost once; a is away for the first of them.
    events = add(0.0, "a", "b") + remove(0.001, "a") + add(3600.0, "a") + remove(7200.0, "b")
    trace = build_trace(events)
    stats = trace_stats(trace)
    assert (stats.num_losses, stats.num_removals, stats.num_start_removals) == (2, 2, 1)
    assert (stats.initial_nodes, trace.most_nodes(3600.0), trace.most_nodes(), trace.nodes_lost()) == (1, 1, 2, 1)
    assert (stats.node_hours, stats.removals_per_node_hour, stats.lifetime_mean_s) == (3.0, 1 / 3, 7200.0)


def test_stretch_counts_no_loss_from_before_it():
    # a is lost before the stretch and comes back in it, in which b is lost once.
    trace = build_trace(add(0.0, "a", "b") + remove(60.0, "a") + add(3600.0, "a") + remove(7200.0, "b"))
    stats = trace_stats(trace.window(1800.0))
    assert (stats.num_losses, stats.num_removals, stats.num_start_removals) == (1, 1, 0)


def test_bins_average_over_time():
    trace = build_trace(add(0.0, "a", "b") + remove(90.0, "a"), duration_s=120.0)
    assert mean_alive(trace, 2).tolist() == [2.0, 1.5]
    assert sparkline(trace, 2) == "█▆"


# The description of the reference data gives 0.06 to 0.6 of the nodes lost per node-hour and 12 to 46 % of drops in
# 16-node traces taking all; 2.3 to 6.5 failures per 1000 node-days are published for dedicated clusters.
def test_reference_traces_lie_in_the_ranges_known_of_them(shared):
    spot = trace_stats(read_trace(shared / "traces/bamboo/p3-trace.csv"))
    assert 0.06 <= spot.removals_per_node_hour <= 0.62
    sixteen = trace_stats(read_trace(shared / "traces/skypilot/availability-16node-us-east-2b_v100_1.json"))
    assert 0.12 <= sixteen.take_all_share <= 0.46
    cluster = trace_stats(read_trace(shared / "traces/infinitehbd/fault_trace.json"))
    assert 2.3 <= cluster.removals_per_node_hour * 24e3 <= 6.5


@pytest.mark.parametrize("seed", range(20))
def test_typical_nodes_are_those_of_the_middles_of_equal_parts_of_the_time_sorted_by_nodes(seed):
    rng, num_parts = np.random.default_rng(seed), 8
    # An odd number of seconds for each part: its middle is the middle of a second, in which no node comes or goes.
    duration_s = num_parts * 13
    alive, events = set(), []
    alive_at = []
    for second in range(duration_s):
        for node in rng.choice(9, size=rng.integers(0, 3), replace=False).tolist():
            events.append(Event(float(second), "remove" if node in alive else "add", f"n{node}"))
            alive ^= {node}
        alive_at.append(len(alive))
    trace = build_trace(events, duration_s=2.0 * duration_s)
    expected = [sorted(alive_at)[int(13 * (part + 0.5))] for part in range(num_parts)]
    assert trace.typical_nodes(float(duration_s), num_parts).tolist() == expected
