"""Pictures of runs: throughput over time above the nodes alive, and goodput over the reliability of plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from lazsim.output.plots.style import (
    COLORS,
    COLUMN_INCHES,
    MARKERS,
    PAPER,
    STYLE,
    add_legend,
    looks_of,
    new_figure,
    to_files,
)
from lazsim.study.result import RunResult
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, format_duration

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

WINDOW_SHARE = 1 / 30
"""Part of the time over which throughput is averaged: checkpoints and restarts in it lower it."""

LEGEND_COLUMNS = 4


@matplotlib.rc_context(STYLE)
def throughput_figure(result: RunResult) -> dict[str, bytes]:
    """Draw a run, with the samples trained beside it; by file type, the same bytes for the same result."""
    figure = new_figure(8, 3.4)
    mosaic: Any = [["rate", "samples"], ["nodes", "samples"]]
    axes = figure.subplot_mosaic(mosaic, height_ratios=[3, 1], width_ratios=[2.4, 1])
    axes["rate"].sharex(axes["nodes"])
    plot_throughput(result, axes["rate"])
    plot_nodes(result.runs[0].states, result.runs[0].wall_s, axes["nodes"])
    plot_samples(result, axes["samples"])
    return to_files(figure)


@matplotlib.rc_context(PAPER)
def rates_figure(runs: pd.DataFrame) -> dict[str, bytes]:
    """Draw a panel for each model, of runs with columns ``model``, ``system``, ``wall_s`` and ``states``."""
    models = list(runs["model"].unique())
    wall_s = float(runs["wall_s"].iloc[0])
    middle_s = np.linspace(0, wall_s, 301)
    figure = new_figure(COLUMN_INCHES, 0.95 * len(models) + 1.15)
    axes = figure.subplots(len(models) + 1, sharex=True, height_ratios=[1.0] * len(models) + [0.45])
    for model, panel in zip(models, axes, strict=False):
        shown = runs[runs["model"] == model].set_index("system")["states"]
        for name, look in looks_of(list(shown.index)).items():
            rates = window_means(shown[name], middle_s, wall_s)
            panel.plot(middle_s / time_unit(wall_s)[1], rates, label=name, color=look.color, linestyle=look.line)
        panel.set_ylim(bottom=0)
        panel.set_title(model)
    axes[(len(models) - 1) // 2].set_ylabel(f"samples/s\n(mean over {format_duration(WINDOW_SHARE * wall_s)})")
    plot_nodes(runs["states"].iloc[0], wall_s, axes[-1])
    axes[-1].set_ylabel("nodes")
    add_legend(figure, axes[0])
    return to_files(figure)


@matplotlib.rc_context(STYLE)
def placements_figure(result: RunResult) -> dict[str, bytes]:
    """Draw a marker for each run: goodput over the probability that every expert survives the next failure.

    Runs of one system share a colour. A bar is the interval of a probability that was sampled.
    """
    figure = new_figure(5.2, 3)
    axes = figure.subplots()
    systems = list(dict.fromkeys(run.system for run in result.runs))
    for index, run in enumerate(result.runs):
        score = run.plan_recovery
        if score is None:
            continue
        below, above = score.recovery_prob - score.ci_low, score.ci_high - score.recovery_prob
        axes.errorbar(
            score.recovery_prob, run.goodput_samples_per_s, xerr=[[max(0.0, below)], [max(0.0, above)]],
            label=run.name, color=COLORS[systems.index(run.system) % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)], markersize=6, markeredgewidth=0, linestyle="none", elinewidth=0.8,
            clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("probability that every expert\nsurvives the next failure")
    axes.set_ylabel("samples/s")
    figure.legend(loc="outside right upper")
    return to_files(figure)


def time_unit(wall_s: float) -> tuple[str, float]:
    """Choose the unit of a time axis."""
    if wall_s <= 3 * HOUR_S:
        return "min", MINUTE_S
    if wall_s <= 3 * DAY_S:
        return "h", HOUR_S
    return "days", DAY_S


def window_means(states: Sequence[Sequence[float]], middle_s: Floats, wall_s: float) -> Floats:
    """Return the mean samples per second over a window around each instant.

    Examples
    --------
    >>> states = [(0.0, 2, 2, 1.0), (30.0, 2, 2, 3.0)]
    >>> window_means(states, np.array([10.0, 30.0]), wall_s=60.0).tolist()
    [1.0, 2.0]
    """
    reach_s = WINDOW_SHARE * wall_s / 2
    start_s, stop_s = np.maximum(middle_s - reach_s, 0), np.minimum(middle_s + reach_s, wall_s)
    return span_means(states, start_s, stop_s, wall_s)


def span_means(states: Sequence[Sequence[float]], start_s: Floats, stop_s: Floats, wall_s: float) -> Floats:
    """Return the mean samples per second from each start to its stop."""
    times_s = np.array([*(state[0] for state in states), wall_s], dtype=float)
    rates = np.array([state[3] for state in states], dtype=float)
    trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(times_s))])
    means: Floats = (np.interp(stop_s, times_s, trained) - np.interp(start_s, times_s, trained)) / (stop_s - start_s)
    return means


def plot_throughput(result: RunResult, axes: Axes) -> None:
    """Draw samples per second over time, a line for each system: the mean of a window around each instant."""
    wall_s = result.runs[0].wall_s
    middle_s = np.linspace(0, wall_s, 601)
    looks = looks_of([run.name for run in result.runs])
    for run in result.runs:
        rates, look = window_means(run.states, middle_s, wall_s), looks[run.name]
        axes.plot(middle_s / time_unit(wall_s)[1], rates, label=run.name, color=look.color, linestyle=look.line)
    axes.set_ylabel(f"samples/s\n(mean over {format_duration(WINDOW_SHARE * wall_s)})")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelbottom=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(result.runs), LEGEND_COLUMNS))


def plot_nodes(states: Sequence[Sequence[float]], wall_s: float, axes: Axes) -> None:
    """Draw the nodes alive over time as a strip."""
    unit, unit_s = time_unit(wall_s)
    times = np.array([*(state[0] for state in states), wall_s]) / unit_s
    alive = [state[1] for state in states]
    axes.fill_between(times, [*alive, alive[-1]], step="post", color="0.75", edgecolor="0.35", linewidth=0.6)
    axes.set_xlim(0, wall_s / unit_s)
    axes.set_ylim(0, max(1, *alive) * 1.1)
    axes.set_ylabel("nodes alive")
    axes.set_xlabel(f"time ({unit})")


def plot_samples(result: RunResult, axes: Axes) -> None:
    """Draw the samples that each system trained and kept."""
    names = [run.name for run in result.runs]
    looks = looks_of(names)
    for index, run in enumerate(result.runs):
        look = looks[run.name]
        # These bars are wide: half as dense a hatch is enough.
        hatch = look.hatch[::2]
        axes.barh(index, run.samples, color=look.color, hatch=hatch, edgecolor="white", linewidth=0)
        axes.annotate(
            f"{run.samples:,}", (run.samples, index), ha="left", va="center", fontsize=7, xytext=(2, 0),
            textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("samples trained")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.margins(x=0.35)
