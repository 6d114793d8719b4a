"""The picture of a run: throughput over time per system above the nodes alive, samples trained beside it."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.export import new_figure, to_files
from lazsim.output.plots.style import COLORS, STYLE
from lazsim.study.result import RunResult
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, format_duration

LINE_STYLES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)))
WINDOW_SHARE = 1 / 30
"""Part of the time over which throughput is averaged: checkpoints and restarts in it lower it."""

LEGEND_COLUMNS = 4

HATCHES = ("", "//", "..", "\\\\", "xx")


def throughput_figure(result: RunResult) -> dict[str, bytes]:
    """Draw a run; by file type, the same bytes for the same result."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(8, 3.4)
        mosaic: Any = [["rate", "samples"], ["nodes", "samples"]]
        axes = figure.subplot_mosaic(mosaic, height_ratios=[3, 1], width_ratios=[2.4, 1])
        axes["rate"].sharex(axes["nodes"])
        plot_throughput(result, axes["rate"])
        plot_nodes(result, axes["nodes"])
        plot_samples(result, axes["samples"])
        return to_files(figure)


def time_unit(wall_s: float) -> tuple[str, float]:
    """Choose the unit of a time axis."""
    if wall_s <= 3 * HOUR_S:
        return "min", MINUTE_S
    if wall_s <= 3 * DAY_S:
        return "h", HOUR_S
    return "days", DAY_S


def plot_throughput(result: RunResult, axes: Axes) -> None:
    """Draw samples per second over time, a line for each system: the mean of a window around each instant."""
    wall_s = result.runs[0].wall_s
    middle_s = np.linspace(0, wall_s, 601)
    reach_s = WINDOW_SHARE * wall_s / 2
    start_s, stop_s = np.maximum(middle_s - reach_s, 0), np.minimum(middle_s + reach_s, wall_s)
    for index, run in enumerate(result.runs):
        times_s = np.array([state.time_s for state in run.states] + [wall_s])
        rates = np.array([state.samples_per_s for state in run.states])
        trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(times_s))])
        means = (np.interp(stop_s, times_s, trained) - np.interp(start_s, times_s, trained)) / (stop_s - start_s)
        axes.plot(
            middle_s / time_unit(wall_s)[1],
            means,
            label=run.name,
            color=COLORS[index % len(COLORS)],
            linestyle=_varied(LINE_STYLES, index),
        )
    axes.set_ylabel(f"samples/s\n(mean over {format_duration(2 * reach_s)})")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelbottom=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(len(result.runs), LEGEND_COLUMNS))


def plot_nodes(result: RunResult, axes: Axes) -> None:
    """Draw the nodes alive over time as a strip."""
    run = result.runs[0]
    unit, unit_s = time_unit(run.wall_s)
    times = [state.time_s / unit_s for state in run.states] + [run.wall_s / unit_s]
    alive = [state.num_alive for state in run.states]
    axes.fill_between(times, [*alive, alive[-1]], step="post", color="0.75", edgecolor="0.35", linewidth=0.6)
    axes.set_xlim(0, run.wall_s / unit_s)
    axes.set_ylim(0, max(1, *alive) * 1.1)
    axes.set_ylabel("nodes alive")
    axes.set_xlabel(f"time ({unit})")


def plot_samples(result: RunResult, axes: Axes) -> None:
    """Draw the samples that each system trained and kept."""
    for index, run in enumerate(result.runs):
        axes.barh(
            index,
            run.samples,
            color=COLORS[index % len(COLORS)],
            hatch=_varied(HATCHES, index),
            edgecolor="white",
            linewidth=0,
        )
        axes.annotate(
            f"{run.samples:,}", (run.samples, index), ha="left", va="center", fontsize=7, xytext=(2, 0),
            textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(result.runs)), [run.name for run in result.runs])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("samples trained")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.35)


def _varied(styles: tuple[Any, ...], index: int) -> Any:
    """Choose a style such that runs of the same colour differ in it."""
    return styles[(index + index // len(COLORS)) % len(styles)]
