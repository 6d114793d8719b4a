"""Pictures of runs: throughput over time above the nodes alive, and goodput over the reliability of plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.names import shown_names
from lazsim.output.plots.charts import plain_number, reach_of
from lazsim.output.plots.style import STYLE, Look, begin_at_0, looks_of, new_figure, picture, write_beside
from lazsim.output.windows import time_unit, windows
from lazsim.placement.plan import Floats
from lazsim.study.result import RunResult

ROWS_INCHES, LEAST_ROW_INCHES = 2.6, 0.35
"""Height of the rows of all systems together, and the least height of one."""

CLOSE_PROB = 0.5
"""Probability of survival above which plans are drawn on an axis that does not begin at 0."""

DIGIT_SHARE = 0.045
"""Width of a digit beside a bar, as a part of the longest bar."""

LABEL_GAP = 0.055
"""Least distance of two names beside a picture, as a part of its height."""


@picture(STYLE)
def throughput_figure(result: RunResult) -> Figure:
    """Draw a run, a row for each system with its samples beside it; the same bytes by file type for the same result."""
    rows_inches = max(ROWS_INCHES, LEAST_ROW_INCHES * len(result.runs))
    figure = new_figure(8, rows_inches + 1.3)
    names = [f"rate {row}" for row in range(len(result.runs))]
    mosaic: Any = [*([name, "samples"] for name in names), ["nodes", "."]]
    heights = [*(rows_inches / len(names) for _ in names), 0.8]
    axes = figure.subplot_mosaic(mosaic, height_ratios=heights, width_ratios=[2.4, 1])
    rows = [axes[name] for name in names]
    for row in rows:
        row.sharex(axes["nodes"])
    for row in rows[1:]:
        row.sharey(rows[0])
    plot_samples(result, axes["samples"])
    plot_nodes(result.runs[0].states, result.runs[0].wall_s, axes["nodes"])
    plot_throughput(result, rows)
    return figure


@picture(STYLE)
def placements_figure(result: RunResult) -> Figure:
    """Draw a marker for each run: goodput over the probability that every expert survives the next failure.

    Markers are those of policies, and so are colours where there is one system; else runs of a system share its
    colour. A bar is the interval of a probability that was sampled. Names stand beside the picture, the fastest run on
    top, each with a line to its marker.
    """
    systems = list(dict.fromkeys(run.system for run in result.runs))
    colors, marks = looks_of(systems), looks_of([run.placement or run.system for run in result.runs])
    runs = sorted((run for run in result.runs if run.plan_recovery), key=lambda run: run.goodput_samples_per_s)
    names = [run.placement if run.placement and len(systems) == 1 else run.name for run in runs]
    top = 1.08 * max(run.goodput_samples_per_s for run in runs) or 1.0
    figure = new_figure(5.2, max(3, 0.17 * len(runs)))
    axes = figure.subplots()
    at = -LABEL_GAP
    shown = shown_names(names)
    for run, name in zip(runs, names, strict=True):
        mark = marks[run.placement or run.system]
        score, color = run.plan_recovery, (mark if len(systems) == 1 else colors[run.system]).color
        assert score
        place = score.recovery_prob, run.goodput_samples_per_s
        axes.errorbar(
            *place, xerr=reach_of([(score.recovery_prob, score.ci_low, score.ci_high)]), color=color,
            marker=mark.marker, markersize=6, markeredgewidth=0, elinewidth=0.8, clip_on=False, zorder=3,
        )  # fmt: skip
        at = max(at + LABEL_GAP, run.goodput_samples_per_s / top)
        axes.annotate(
            shown[name], place, (1.06, at), textcoords="axes fraction", va="center", color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 5},
        )  # fmt: skip
    # Plans that nearly always survive would lie on each other.
    least = min(run.plan_recovery.ci_low for run in runs if run.plan_recovery)
    low = 0 if least < CLOSE_PROB else min(0.9, math.floor(10 * least) / 10)
    axes.set(xlim=(low, 1), xlabel="probability that every expert\nsurvives the next failure")
    axes.set(ylim=(0, top), ylabel="samples/s kept" + (f" by {systems[0]}" if len(systems) == 1 else ""))
    return figure


def plot_rates(axes: Axes, rates: tuple[Floats, Floats, Floats], label: str, look: Look, unit_s: float) -> None:
    """Draw the rates of `windows` in steps, with those of lost samples shaded on top."""
    bounds_s, kept, lost = rates
    axes.stairs(kept + lost, bounds_s / unit_s, baseline=kept, fill=True, color=look.color, alpha=0.25, linewidth=0)
    axes.stairs(kept, bounds_s / unit_s, baseline=None, label=label, color=look.color, linestyle=look.line)


def plot_throughput(result: RunResult, rows: Sequence[Axes]) -> None:
    """Draw samples per second over time, a row for each system."""
    looks = looks_of([run.name for run in result.runs])
    for run, axes in zip(result.runs, rows, strict=True):
        bounds_s, kept, lost = windows(run.states, run.wall_s)
        color, bounds = looks[run.name].color, bounds_s / time_unit(run.wall_s)[1]
        axes.stairs(kept, bounds, fill=True, color=color)
        axes.stairs(kept + lost, bounds, baseline=kept, fill=True, color=color, alpha=0.35, linewidth=0)
        if not run.samples:
            axes.text(0.5, 0.5, "no samples kept", transform=axes.transAxes, ha="center", va="center", color="0.3")
        axes.yaxis.set_major_locator(MaxNLocator(max(2, 5 // len(rows))))
        axes.tick_params(bottom=False, labelbottom=False)
    rows[0].set_title("samples/s kept (lighter: lost again)", loc="left", fontsize=8)
    begin_at_0(*rows)


def plot_nodes(states: Sequence[Sequence[float]], wall_s: float, axes: Axes) -> None:
    """Draw the nodes alive over time as a strip."""
    unit, unit_s = time_unit(wall_s)
    times = np.array([*(state[0] for state in states), wall_s]) / unit_s
    alive = [state[1] for state in states]
    axes.fill_between(times, [*alive, alive[-1]], step="post", color="0.75", edgecolor="0.35", linewidth=0.6)
    axes.set(xlim=(0, wall_s / unit_s or 1), xlabel=f"time ({unit})")
    axes.set(ylim=(0, max(1, *alive) * 1.1), ylabel="nodes alive")
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def plot_samples(result: RunResult, axes: Axes) -> None:
    """Draw the samples that each system kept."""
    names = [run.name for run in result.runs]
    looks = looks_of(names)
    for index, run in enumerate(result.runs):
        axes.barh(index, run.samples, color=looks[run.name].color)
        write_beside(axes, f"{run.samples:,}", (run.samples, index), (2, 0), "data", va="center", color="black")
    axes.set_yticks(range(len(names)), shown_names(names).values())
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.xaxis.set_major_formatter(plain_number)
    # The number beside the longest bar stays within the axes.
    most = max(run.samples for run in result.runs)
    end = (1 + DIGIT_SHARE * len(f"{most:,}")) * (most or 1)
    axes.set(xlim=(0, end), xlabel="samples kept", ylim=(len(names) - 0.5, -0.5))
