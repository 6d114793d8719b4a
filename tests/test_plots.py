"""Figures show what happened, and leave the program that draws them as it was."""

import re
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.markers import MarkerStyle

import lazsim
from lazsim.costmodel.profile import PROFILES, read_profile
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.log import State
from lazsim.engine.systems import SYSTEMS
from lazsim.output.maps import layer_maps
from lazsim.output.plots import charts
from lazsim.output.plots.charts import number_log_axis
from lazsim.output.plots.placement import placement_figure
from lazsim.output.plots.profile import kernel_looks
from lazsim.output.plots.recovery import failure_sets_figure, recovery_figure
from lazsim.output.plots.run import plot_nodes, throughput_figure
from lazsim.output.plots.style import (
    BUCKET_COLORS,
    DOTS_PER_INCH,
    LOOKS,
    STYLE,
    SYSTEM_LOOKS,
    add_legend,
    looks_of,
    new_figure,
)
from lazsim.output.plots.sweep import sweep_figure
from lazsim.output.plots.trace import trace_figure
from lazsim.output.windows import windows
from lazsim.placement.policies import POLICIES
from lazsim.reliability.failure_scenarios import build_scenarios
from lazsim.reliability.survival import assess_plans
from lazsim.reliability.task import build_task
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep

DRAWS = """
import sys
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["font.size"] = 13
before = dict(matplotlib.rcParams)
import importlib, pkgutil
import lazsim.output.plots as plots
for module in pkgutil.iter_modules(plots.__path__):
    if module.name not in {skipped}:
        importlib.import_module(f"lazsim.output.plots.{{module.name}}")
import lazsim
from lazsim.output.recovery import reliability_files
from lazsim.output.run import run_files
from lazsim.reliability.failure_scenarios import build_scenarios
from lazsim.reliability.survival import assess_plans
from lazsim.reliability.task import build_task
task = build_task(4, 2, experts=4)
trace = lazsim.build_trace([lazsim.Event(0, "add", f"n{{i}}") for i in range(4)], duration_s=60)
written = [reliability_files(assess_plans(task, build_scenarios(4))), run_files(lazsim.simulate(trace))]
assert all(content for files in written for content in files.values())
assert dict(matplotlib.rcParams) == before
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""


def test_drawing_leaves_backend_and_settings_of_the_host_alone(run_script):
    # A picture of live runs needs torch, which a host may lack.
    assert run_script(DRAWS.format(skipped={"live", "profile"})) == "svg False"


@st.composite
def timelines(draw):
    """Spans of a run: no node alive, none used, kept work, a checkpoint, or lost work."""
    kinds = [(0, 0, 0.0, 0.0), (3, 0, 0.0, 0.0), (3, 3, 9.0, 0.0), (4, 4, 0.0, 0.0), (4, 4, 0.0, 12.0)]
    spans = draw(st.lists(st.tuples(st.sampled_from([0.5, 3.0, 40.0, 700.0]), st.sampled_from(kinds)), min_size=1))
    times_s = np.cumsum([0.0, *(seconds for seconds, _ in spans)]).tolist()
    states = [State(time_s, *kind) for time_s, (_, kind) in zip(times_s, spans, strict=False)]
    return states, times_s[-1], [seconds for seconds, _ in spans]


@given(timelines(), st.booleans())
def test_a_throughput_curve_adds_up_to_the_samples_and_shows_none_where_no_node_is_alive(timeline, at_any_change):
    states, wall_s, spans_s = timeline
    bounds_s, kept, lost = windows(states, wall_s, at_any_change=at_any_change)
    assert set(bounds_s.tolist()) <= {*(state.time_s for state in states), wall_s}
    for rates, name in ((kept, "samples_per_s"), (lost, "lost_samples_per_s")):
        total = sum(getattr(state, name) * span_s for state, span_s in zip(states, spans_s, strict=True))
        assert rates @ np.diff(bounds_s) == pytest.approx(total)
    for state in states:
        window = np.searchsorted(bounds_s, state.time_s, side="right") - 1
        assert state.num_alive or not kept[window] + lost[window]
        # No spike: no window is faster than the fastest training.
        assert kept[window] + lost[window] <= 12 + 1e-9


def test_a_checkpoint_makes_no_spikes_in_a_throughput_curve():
    # Cycles of 50 s of training at 6 samples/s and 10 s of checkpoint: 5 samples/s, whatever the failure at 890 s cuts.
    cycles = [State(60.0 * cycle + at_s, 2, 2, rate) for cycle in range(15) for at_s, rate in ((0, 6.0), (50, 0.0))]
    bounds_s, kept, _ = windows([*cycles, State(900.0, 1, 0)], wall_s=1000.0)
    assert (bounds_s.tolist(), kept.tolist()) == ([0, 900, 1000], [5, 0])


@pytest.mark.parametrize(
    ("bounds", "unit", "shown"),
    [
        ((400, 9000), "", ["500", "1 k", "2 k", "5 k"]),
        # Of 1, 2 and 5 this holds 1 alone.
        ((0.9, 1.9), "", ["1", "1.25", "1.5", "1.75"]),
        # Many decades have their powers only.
        ((1e-6, 10), "s", ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]),
    ],
)
def test_a_logarithmic_axis_has_numbers_and_no_formulas(bounds, unit, shown):
    with matplotlib.rc_context(STYLE):
        axes = new_figure(4, 4).subplots()
        axes.set(yscale="log", ylim=bounds)
        number_log_axis(axes.yaxis, unit)
        labels = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        assert [label.get_text() for value, label in labels if bounds[0] <= value <= bounds[1]] == shown


def test_panels_share_an_axis_that_begins_at_0_and_holds_the_points_of_all(figures):
    frame = pd.DataFrame({"panel": ["a", "a", "b", "b"], "x": [1, 2, 1, 2], "y": [3.0, 4.0, 30.0, 40.0], "run": "r"})
    charts.lines_figure(frame, x="x", y="y", series="run", x_label="", y_label="", panels=["panel"])
    for panel in figures[0].axes:
        low, high = panel.get_ylim()
        assert low == 0
        assert high > 40
        # A point stands at its number.
        assert panel.lines[0].get_xdata().tolist() == [1, 2]


def test_long_titles_of_panels_leave_room_for_what_is_drawn(figures):
    titles = [f"trace a_rather_long_name_of_a_trace_of_cluster_{name}.csv" for name in ("alpha", "beta", "gamma")]
    frame = pd.DataFrame([{"x": x, "y": 1, "run": "ds", "panel": title} for title in titles for x in (6, 8)])
    charts.lines_figure(frame, x="x", y="y", series="run", x_label="", y_label="", panels=["panel"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures[0].draw_without_rendering()
    shown = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert len(set(shown)) == 3
    # Three share 54 letters.
    assert max(map(len, shown)) <= 18
    # A title may end beyond its panel, which is a quarter of the figure wide or more.
    assert all(axes.get_position().width > 0.25 for axes in figures[0].axes)


def test_a_sweep_without_axes_draws_each_system_in_its_look_above_its_name(figures):
    systems = ["tutel", "lazarus", "ds"]
    base = {"trace": "fail-every-5min", "duration": "1min", "system": systems}
    sweep_figure(run_sweep(parse_sweep({"base": base}), num_workers=1))
    [panel] = figures[0].axes
    lines = [line for line in panel.lines if line.get_label() in systems]
    assert [line.get_color() for line in lines] == [SYSTEM_LOOKS[name].color for name in systems]
    assert [line.get_xdata().tolist() for line in lines] == [[0], [1], [2]]
    assert [label.get_text() for label in panel.get_xticklabels()] == systems
    assert not figures[0].legends


@pytest.mark.parametrize("name", ["ds", "lazarus, fault 1", "lazarus, fault_threshold 1, spares 2"])
def test_a_legend_is_no_wider_than_its_figure(name):
    figure = new_figure(4.0, 3.0)
    axes = figure.subplots()
    for _ in range(6):
        axes.plot([0, 1], label=name)
    add_legend(figure, axes)
    [legend] = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_figure_grows_by_its_legend():
    heights = []
    for count in (2, 30):
        figure = new_figure(4.0, 3.0)
        axes = figure.subplots()
        for number in range(count):
            axes.plot([0, 1], label=f"system {number}")
        add_legend(figure, axes)
        figure.draw_without_rendering()
        heights.append(axes.get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], abs=5)


def test_a_rate_that_never_changes_is_not_on_the_edge_of_the_picture(figures):
    trace = lazsim.build_trace([lazsim.Event(0, "add", f"n{index}") for index in range(4)], duration_s=60)
    result = lazsim.simulate(trace, systems=["lazarus", "ds"])
    throughput_figure(result)
    rates = figures[0].axes[0]
    # The curve of each system ends in the mean over a window without changes: the whole run.
    most = max(run.samples for run in result.runs) / 60
    assert rates.get_ylim() == (0, pytest.approx(1.05 * most))
    # Each system has a row of its own, and rows have one scale.
    rows = [axes for axes in figures[0].axes if axes.get_shared_y_axes().joined(axes, rates)]
    assert len(rows) == 2


def test_a_pdf_has_the_places_of_the_png():
    task = build_task(10, 6, experts=16)
    report = assess_plans(task, build_scenarios(10), ["mro", "spread", "compact", "ep", "eplb"])
    drawn = placement_figure(layer_maps(task, report.plans, None))
    width, height = (int.from_bytes(drawn["png"][start : start + 4], "big") for start in (16, 20))
    page = re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", drawn["pdf"])
    points = [72 * dots / DOTS_PER_INCH for dots in (width, height)]
    # Where each has a layout of its own, they differ by 24 points.
    assert points == pytest.approx(list(map(float, page.groups())), abs=2)


def test_every_system_looks_different():
    looks = looks_of(list(SYSTEMS))
    for part in zip(*looks.values(), strict=True):
        assert len(set(map(str, part))) == len(SYSTEMS)


def test_markers_are_seen_without_an_edge():
    # Several pictures draw them so.
    assert all(MarkerStyle(look.marker).is_filled() for look in LOOKS)


def test_a_policy_looks_the_same_alone_beside_others_and_as_the_placement_of_a_system():
    looks = looks_of(list(POLICIES))
    assert len(set(map(str, looks.values()))) == len(POLICIES)
    for name, look in looks.items():
        assert looks_of(["mine.py:place", name])[name] == look
        assert looks_of([f"lazarus:{name}", "lazarus:mine.py:place"])[f"lazarus:{name}"] == look


def hue(color):
    return matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(color))[0]


def test_series_of_a_system_among_others_have_shades_of_its_colour():
    own = {name: look.color for name, look in looks_of(list(SYSTEMS)).items()}
    names = [
        f"{system}{rest}" for system in ("ds-ft", "bamboo") for rest in (", spares 1", ", spares 2", ":mro, spares 3")
    ]
    looks = looks_of(names)
    assert list(looks) == names
    for system in ("ds-ft", "bamboo"):
        mine = [look for name, look in looks.items() if name.startswith(system)]
        assert mine[0].color == own[system]
        assert [hue(look.color) for look in mine] == pytest.approx([hue(own[system])] * 3, abs=0.02)
        assert len({look.color for look in mine}) == len({str(look.line) for look in mine}) == 3


def test_what_a_job_does_has_no_colour_of_a_system():
    assert set(BUCKET_COLORS) == set(BUCKETS)
    assert not {look.color for look in looks_of(list(SYSTEMS)).values()} & set(BUCKET_COLORS.values())
    assert len(set(BUCKET_COLORS.values())) == len(BUCKET_COLORS)


def test_nodes_alive_are_whole_numbers():
    figure = new_figure(4.0, 1.0)
    axes = figure.subplots()
    plot_nodes([State(0.0, 4, 4, 1.0), State(3.0, 3, 3, 1.0)], 9.0, axes)
    assert all(tick == round(tick) for tick in axes.get_yticks())


def test_a_trace_of_no_duration_is_drawn():
    trace = lazsim.build_trace([lazsim.Event(0, "add", "a"), lazsim.Event(0, "add", "b")], duration_s=0)
    assert trace_figure(trace)["png"].startswith(b"\x89PNG")


def test_long_names_leave_room_for_what_is_drawn(figures):
    trace = lazsim.build_trace([lazsim.Event(0, "add", f"n{index}") for index in range(4)], duration_s=60)
    result = lazsim.simulate(trace, systems=["lazarus", "ds"])
    runs = tuple(
        replace(run, name=f"a_folder_of_policies/{run.name}_with_a_name_that_is_long.py:place_{index}")
        for index, run in enumerate(result.runs)
    )
    throughput_figure(replace(result, runs=runs))
    (figure,) = figures
    with warnings.catch_warnings(action="error"):
        figure.draw_without_rendering()
    rates, samples = figure.axes[:2]
    assert rates.get_position().width > 0.5
    assert [label.get_text() for label in samples.get_yticklabels()] == ["place_0", "place_1"]


@pytest.mark.parametrize("num_nodes", [4, 48])
def test_points_of_plans_that_are_equal_stand_side_by_side(figures, num_nodes):
    # Two replicas of each expert survive any failure of one node, whatever the policy.
    task = build_task(num_nodes, 2, experts=num_nodes)
    recovery_figure(assess_plans(task, build_scenarios(num_nodes), ["mro", "spread", "balanced"]))
    firsts = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figures[0].axes[0].lines]
    places = sorted({place for place, _ in firsts})
    assert {prob for _, prob in firsts} == {1}
    assert len(places) == 3
    assert 0.5 < places[0] < 1 < places[2] < 1.5
    assert places[1] == pytest.approx(1)


@pytest.mark.parametrize(("num_nodes", "num_failures", "is_whole"), [(64, 2, False), (4, 3, True)])
def test_probabilities_near_1_are_drawn_apart_and_others_on_the_whole_axis(figures, num_nodes, num_failures, is_whole):
    # Each expert is on two nodes: few pairs of 64 nodes hold all of one, and most triples of 4.
    task = build_task(num_nodes, 2, experts=num_nodes)
    report = assess_plans(task, build_scenarios(num_nodes, failures=[num_failures]), ["mro", "spread"])
    recovery_figure(report)
    failure_sets_figure(report)
    low, high = figures[0].axes[0].get_ylim()
    least = min(float(found.curve.ci_low.min()) for found in report.policies.values())
    assert (high, low == 0) == (1, is_whole)
    assert low <= least
    assert is_whole or high - low < 1.5 * (1 - least)
    shares = [axes.get_ylim()[1] for axes in figures[1].axes if axes.get_xlabel()]
    assert len(set(shares)) == 1
    assert shares[0] == pytest.approx(1 - low)


def test_a_kernel_looks_the_same_in_the_pictures_of_all_profiles():
    whole = read_profile(PROFILES / "h200" / "gpt-l.csv")
    some = replace(whole, points=tuple(point for point in whole.points if point.kernel in ("expert", "optimizer")))
    units = ("tokens", "assignments", "params")
    of_whole, of_some = (kernel_looks(profile, units) for profile in (whole, some))
    assert [*of_some] == [kernel for kernel in of_whole if kernel in ("expert", "optimizer")]
    assert of_some.items() <= of_whole.items()
