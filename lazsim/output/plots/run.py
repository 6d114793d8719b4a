"""The picture of a run: throughput over time per system above the nodes alive, samples trained beside it."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from lazsim.output.plots.export import new_figure, to_files
from lazsim.output.plots.style import COLORS, STYLE
from lazsim.study.result import RunResult
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, format_duration

Floats = npt.NDArray[np.float64]

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
    times_s = np.array([*(state[0] for state in states), wall_s], dtype=float)
    rates = np.array([state[3] for state in states], dtype=float)
    trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(times_s))])
    means: Floats = (np.interp(stop_s, times_s, trained) - np.interp(start_s, times_s, trained)) / (stop_s - start_s)
    return means


def plot_throughput(result: RunResult, axes: Axes) -> None:
    """Draw samples per second over time, a line for each system: the mean of a window around each instant."""
    wall_s = result.runs[0].wall_s
    middle_s = np.linspace(0, wall_s, 601)
    for index, run in enumerate(result.runs):
        axes.plot(
            middle_s / time_unit(wall_s)[1],
            window_means(run.states, middle_s, wall_s),
            label=run.name,
            color=COLORS[index % len(COLORS)],
            linestyle=_varied(LINE_STYLES, index),
        )
    axes.set_ylabel(f"samples/s\n(mean over {format_duration(WINDOW_SHARE * wall_s)})")
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
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.margins(x=0.35)


def _varied(styles: tuple[Any, ...], index: int) -> Any:
    """Choose a style such that runs of the same colour differ in it."""
    return styles[(index + index // len(COLORS)) % len(styles)]
