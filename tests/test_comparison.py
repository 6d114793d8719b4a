"""Intervals over seeds, and the comparison of the settings of a sweep."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lazsim_experiments import shared
from lazsim_experiments.shared import compare
from scipy.stats import ttest_1samp

from lazsim.output.sweep import sweep_files, sweep_parts
from lazsim.output.table import render
from lazsim.study.comparison import rank
from lazsim.study.intervals import MIN_SAMPLES, mean_interval, ratio_interval
from lazsim.study.sweep.result import SweepResult

SIX = range(6)


def sweep(axes, cells, failures=9):
    """Make the result of a sweep from samples by seed: a list for each (system, *values of the axes)."""
    rows = [
        {"system": system, "placement": None, **dict(zip(axes, values, strict=True))}
        | {"seed": seed, "samples": count, "num_failures": failures, "layout": None, "fits_memory": True}
        for (system, *values), samples in cells.items()
        for seed, count in enumerate(samples)
    ]
    return SweepResult((*axes, "seed"), tuple(rows), (), (), ())


def test_a_sweep_says_whose_intervals_rest_on_few_failures():
    assert sweep(["x"], {("ds", 1): [5, 6] * 3, ("ds", 2): [4, 3] * 3}, failures=9).notes == ()
    (note,) = sweep(["x"], {("ds", 1): [5, 6] * 3, ("ds", 2): [4, 3] * 3}, failures=0).notes
    assert note.startswith("failures over all seeds of ds, x 1: 0, ds, x 2: 0; 95 % intervals may be too narrow")
    assert sweep(["x"], {("ds", 1): [5, 6, 5, 6, 5], ("ds", 2): [4, 3, 4, 3, 4]}, failures=0).notes == ()


def test_a_sweep_says_that_runs_which_share_one_of_two_seeds_are_alike():
    rows = [
        {"system": "ds", "placement": None, "seed": seed, "trace_seed": other, "samples": seed + 3 * other}
        | {"num_failures": 9}
        for seed in range(3)
        for other in range(3)
    ]
    crossed, paired = (SweepResult(("seed", "trace_seed"), tuple(some), (), (), ()) for some in (rows, rows[::4]))
    assert [note.startswith("runs that share a seed or a trace_seed are alike") for note in crossed.notes] == [True]
    assert paired.notes == ()


def text(result):
    return render(sweep_parts(result), 80)


def test_six_is_the_fewest_samples_whose_range_holds_the_median_95_times_in_100():
    # The median is outside when all samples are on one side of it: twice 2**-n.
    assert [1 - 2 * 0.5**n >= 0.95 for n in (MIN_SAMPLES - 1, MIN_SAMPLES)] == [False, True]


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=12), st.lists(st.floats(0.1, 1e9), min_size=12, max_size=12))
def test_intervals_need_six_samples_and_those_of_counts_never_reach_below_zero(values, below):
    for found in (mean_interval(values), ratio_interval(values, below[: len(values)])):
        if len(values) < 6:
            assert math.isnan(found.low)
            assert math.isnan(found.high)
        else:
            assert 0 <= found.low <= found.value * (1 + 1e-9)
            assert found.high >= found.value * (1 - 1e-9)


def test_an_interval_of_six_is_student_s_and_one_of_what_may_be_negative_is_not_cut_off():
    # Of -1 and 1 three times each: variance 6/5, and 2.5706 is the 97.5 % point of t with 5 degrees of freedom.
    found = mean_interval([-1, 1] * 3)
    assert found.high == -found.low == pytest.approx(2.5706 * math.sqrt(6 / 5 / 6), rel=1e-4)


def test_the_best_comes_first_and_a_tie_is_what_may_be_as_good_at_the_same_seeds():
    # b is 1 to 3 behind at every seed; c is ahead at half of the seeds; d is the same as a.
    a = dict(enumerate([100, 120, 90, 110, 105, 95]))
    values = {
        "b": {seed: value - 1 - seed % 3 for seed, value in a.items()},
        "c": {seed: value + (-1) ** seed - 0.1 for seed, value in a.items()},
        "a": a,
        "d": dict(a),
    }
    found = rank(values)
    assert [one.name for one in found] == ["a", "d", "c", "b"]
    assert [one.is_tie for one in found] == [True, True, True, False]
    # The totals are 620 and 620 - 2 (1 + 2 + 3).
    assert found[3].behind.value == pytest.approx(620 / 608)
    assert found[3].behind.low > 1


def test_what_is_far_behind_at_every_seed_is_no_tie_however_much_it_varies_itself():
    # Of 90 to 110 and of 0 to 30, differences are 80 to 100: mean 92, and t (2.5706) times 7.9 / sqrt(6) is 8.
    much, little = dict(enumerate([90, 100, 110, 95, 105, 100])), dict(enumerate([0, 0, 30, 0, 18, 0]))
    for values, best, less in (
        ({"much": much, "little": little}, "much", False),
        ({"little": little, "much": much}, "little", True),
    ):
        first, second = rank(values, less_is_better=less)
        assert (first.name, second.is_tie) == (best, False)


VALUES = st.lists(st.tuples(*[st.integers(0, 40)] * 2), min_size=6, max_size=12)


@given(VALUES, st.floats(0.01, 100))
def test_a_ratio_is_in_its_interval_where_the_mean_of_the_difference_may_be_0(pairs, ratio):
    above, below = (list(map(float, side)) for side in zip(*pairs, strict=True))
    assume(any(above) and any(below))
    found = ratio_interval(above, below)
    # A paired t-test, which scipy has.
    apart = [a - ratio * b for a, b in pairs]
    assume(np.std(apart) > 1e-9)
    p_value = ttest_1samp(apart, 0.0).pvalue
    assume(abs(p_value - 0.05) > 1e-6)
    if p_value > 0.05:
        assert found.low <= ratio <= found.high
    elif found.low > 0 or found.high < math.inf:
        assert not found.low <= ratio <= found.high


@given(VALUES)
def test_bounds_of_a_ratio_turn_round_with_it_and_tell_what_is_better_as_its_interval_does(pairs):
    above, below = (list(map(float, side)) for side in zip(*pairs, strict=True))
    assume(any(above) and any(below))
    found, turned = ratio_interval(above, below), ratio_interval(below, above)
    assert found.low * turned.high == pytest.approx(1.0) or (found.low == 0 and math.isinf(turned.high))
    first, second = rank({"above": dict(enumerate(above)), "below": dict(enumerate(below))})
    assert first.is_tie
    assert second.is_tie is (second.behind.low <= 1)


def test_few_seeds_tell_no_difference_and_runs_are_compared_at_the_seeds_of_both():
    better, worse = rank({"x": {0: 1.0, 1: 2.0}, "y": {1: 4.0, 2: 8.0}})
    assert (better.name, better.is_tie, worse.is_tie) == ("y", True, None)
    # Only seed 1 is in both.
    assert worse.behind.value == 2.0
    for less, nothing in ((False, 0.0), (True, math.inf)):
        for seeds, is_tie in ((SIX, False), ([0], None)):
            values = {"x": dict.fromkeys(seeds, 1.0), "y": dict.fromkeys(seeds, nothing)}
            assert rank(values, less_is_better=less)[1].is_tie is is_tie


def test_the_best_is_best_at_the_seeds_of_all_whatever_others_it_has():
    # At seed 0, the only one of both, a has more; seed 1 is a bad one that only a has.
    assert [one.name for one in rank({"a": {0: 10, 1: 2}, "b": {0: 9}})] == ["a", "b"]


def test_what_shares_no_seed_with_the_best_comes_last_and_is_no_tie():
    ranked = rank({"x": {7: 4.0}, "z": {0: 1.0}, "y": {0: 4.5}, "best": {0: 5.0}})
    assert [(one.name, one.is_tie) for one in ranked][-1] == ("x", None)
    assert [one.name for one in ranked][:3] == ["best", "y", "z"]


def test_a_sweep_over_one_field_is_one_table_along_it_that_names_the_best_value():
    cells = {("ds", value): [count + value * 100 + seed * value for seed in SIX] for value, count in ((1, 9), (2, 50))}
    shown = text(sweep(["job.fault_threshold"], cells))
    assert [line.split() for line in shown.splitlines() if line][:-2] == [
        ["means", "over", "6", "seeds;", "+-", "is", "a", "95", "%", "interval,", "from", "6", "seeds", "on"],
        ["samples", "trained"],
        ["job.fault_threshold", "ds"],
        # 109 + the mean of 0 to 5, and t (2.5706) times 1.8708 / sqrt(6); for 2 twice as much.
        ["1", "112", "+-", "2"],
        ["2", "255", "+-", "4"],
        ["most", "samples,", "compared", "at", "the", "same", "seeds"],
        ["of", "best", "samples", "held", "out", "times", "the", "next", "ties", "with"],
        # 1530 / 669. What a - r b grows by a seed is 2 - r, of a deviation of 1.8708, and k = 2.5706 * 1.8708 / sqrt(6)
        # is 1.9633: bounds are where 255 - 111.5 r is k (2 - r) or its opposite, (255 -+ 2 k) / (111.5 -+ k).
        ["all", "2", "255", "+-", "4", "255", "2.287", "+-", "0.005", "-"],
    ]


def test_what_is_held_out_is_judged_by_a_seed_that_did_not_choose_it():
    # One lucky seed makes 2 the best (66 / 3 = 22). Without that seed 1 is chosen, which has 20 there; else 2, with 3.
    lucky = {("ds", 1): [20, 20, 20], ("ds", 2): [60, 3, 3]}
    result = sweep(["depth"], lucky)
    assert result.contests()[0].ranking[0].name == ("ds", (2,))
    assert result.contests()[0].held_out == pytest.approx((20 + 3 + 3) / 3)
    assert "with two seeds or more, one can judge" in " ".join(
        text(sweep(["d"], {("ds", 1): [5], ("ds", 2): [6]})).split()
    )


def test_a_tie_and_too_few_seeds_are_said():
    same = {("ds", value): [5, 7, 9, 4, 6, 8] for value in (1, 2)}
    assert " ".join(text(sweep(["depth"], same)).splitlines()[-3].split()) == "all 1 6 +- 2 6 1.000 +- 0.000 2"
    few = text(sweep(["job.fault_threshold"], {("ds", 1): [5, 7], ("ds", 2): [50, 70]}))
    assert few.startswith("means over 2 seeds: too few for intervals, which need 6\n")
    assert "+-" not in few
    assert "all 2 60 60 10.000 too few seeds to tell; ahead at 2 of 2" in " ".join(few.split())


def test_a_sweep_over_two_axes_names_the_best_of_all_of_each_run_and_of_each_first_value():
    counts = {
        ("a", "m", 1): 3,
        ("b", "m", 1): 9,
        ("a", "m", 2): 5,
        ("b", "m", 2): 1,
        ("a", "n", 1): 7,
        ("b", "n", 1): 2,
    }
    result = sweep(["model", "job.fault_threshold"], {cell: [count] * 6 for cell, count in counts.items()})
    best = {tuple(one.among.values()): one.ranking[0].name for one in result.contests()}
    assert best == {
        (): ("b", ("m", 1)),
        ("a",): ("a", ("n", 1)),
        ("b",): ("b", ("m", 1)),
        ("m",): ("b", ("m", 1)),
        ("n",): ("a", ("n", 1)),
    }
    answer = json.loads(json.dumps(result.to_json()))
    assert {"rows", "summary", "failures", "notes", "comparison"} == set(answer)
    overall = answer["comparison"]["contests"][0]
    assert overall["among"] == {}
    assert overall["ranking"][1] == {
        "model": "n", "job.fault_threshold": 1, "run": "a", "num_runs": 6, "samples_mean": 7.0, "samples_ci_low": 7.0,
        "samples_ci_high": 7.0, "behind_mean": 9 / 7, "behind_ci_low": 9 / 7, "behind_ci_high": 9 / 7, "is_tie": False,
            "num_common_seeds": 6, "num_seeds_behind": 6,
    }  # fmt: skip


def test_samples_are_drawn_along_the_axis_with_intervals_where_seeds_suffice(figures):
    counts = {("ds", 1): [3, 4, 5, 3, 4, 5], ("ds", 2): [6, 7, 8, 6, 7, 8]}
    assert set(sweep_files(sweep(["depth"], counts))) == {"comparison.png", "comparison.pdf"}
    sweep_files(sweep(["depth"], {cell: samples[:2] for cell, samples in counts.items()}))
    for figure, has_intervals in zip(figures, (True, False), strict=True):
        (panel,) = figure.axes
        assert panel.lines[0].get_xydata()[:, 0].tolist() == [1, 2]
        assert bool(panel.containers) == has_intervals
    assert figures[0].axes[0].lines[0].get_ydata().tolist() == [4, 7]


def test_values_that_are_no_numbers_are_points_under_their_names(figures):
    counts = {("ds", value): [3] * 6 for value in ("x2", 15.0, True)}
    sweep_files(sweep(["gpu.efficiency"], counts))
    (panel,) = figures[0].axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["x2", "15.0", "True"]
    assert panel.lines[0].get_linestyle() == "None"


def test_two_axes_make_panels_and_more_than_one_can_read_only_the_best(figures):
    grid = {("ds", model, depth): [len(model) + depth] * 6 for model in ("m", "mm") for depth in (1, 2, 3)}
    sweep_files(sweep(["model", "depth"], grid))
    assert [panel.get_title(loc="left") for panel in figures[0].axes] == ["model m", "model mm"]
    wide = {("ds", first, second): [first + second] * 6 for first in range(8) for second in (1, 2, 3)}
    sweep_files(sweep(["first", "second"], wide))
    (panel,) = figures[1].axes
    # Of each first value the best second one: 3.
    assert panel.lines[0].get_ydata().tolist() == [first + 3 for first in range(8)]


def test_a_value_that_only_some_settings_have_is_drawn_too(figures):
    sweep_files(
        sweep(["model", "depth"], {("ds", "m", None): [3] * 6, ("ds", "m", 2): [4] * 6, ("ds", "n", 2): [5] * 6})
    )
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()] == ["default", "2"]


def test_nothing_is_drawn_where_there_is_nothing_to_compare():
    assert sweep_files(sweep([], {("ds",): [3, 4]})) == {}
    assert sweep_files(sweep([], {})) == {}


def test_bars_of_two_seeds_have_no_interval(figures):
    rows = pd.DataFrame({"system": ["a", "a"], "seed": [0, 1], "model": "m", "samples": [10, 90]})
    shared.samples_figure(compare(rows, ["model"]))
    shared.samples_figure(compare(pd.concat([rows.assign(seed=rows["seed"] + 2 * more) for more in SIX]), ["model"]))
    drawn = [{type(held).__name__ for held in figure.axes[0].containers} for figure in figures]
    assert drawn == [{"BarContainer"}, {"BarContainer", "ErrorbarContainer"}]


def test_systems_with_six_seeds_have_intervals():
    rows = pd.DataFrame(
        {"system": ["a"] * 6 + ["b"] * 6, "seed": [*SIX] * 2, "model": "m", "samples": np.arange(12) % 6 + 1}
    )
    table = compare(rows, ["model"])
    assert table[["advantage", "advantage_low", "advantage_high"]].to_numpy().tolist() == [[1.0] * 3] * 2
