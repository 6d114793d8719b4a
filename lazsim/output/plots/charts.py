"""Charts of a table in the style of a paper: lines, grouped bars, stacked bars and stacked areas, over panels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.export import subplots, to_files
from lazsim.output.plots.paper import COLUMN_INCHES, LOOKS, PAPER, looks_of

if TYPE_CHECKING:
    import pandas as pd

Limits = tuple[float | None, float | None]
Interval = tuple[str, str]
INTERVAL = ("ci_low", "ci_high")
PANEL_INCHES = 1.3
MARKER_GAP = 0.06
"""Part of the distance of two points by which series are moved apart, so that equal ones can be told."""

WIDEST_GAP = 0.01
"""The same as a part of the whole axis."""


def lines_figure(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    series: str,
    x_label: str,
    y_label: str,
    panels: Sequence[str] = (),
    interval: Interval = INTERVAL,
    limits: Limits = (None, None),
    is_log: bool = False,
) -> dict[str, bytes]:
    """Draw one column over another, a line for each series.

    Parameters
    ----------
    frame
        A row for each point.
    x, y, series
        Columns.
    x_label, y_label
        Names of the axes.
    panels
        Up to two columns: a row of panels for each value of the first, or with one column panels side by side.
    interval
        Columns that become error bars, where there are such columns.
    limits, is_log
        Of the vertical axis.
    """
    rows, columns = _panel_values(frame, panels)
    names = list(frame[series].unique())
    with matplotlib.rc_context(PAPER):
        figure, axes = _grid(len(rows), len(columns))
        for (row, row_value), (column, column_value) in itertools.product(enumerate(rows), enumerate(columns)):
            panel = axes[row, column]
            shown = _select(frame, panels, row_value, column_value)
            _draw_lines(shown, panel, names, x=x, y=y, series=series, interval=interval)
            panel.set_title(_title(panels, row_value, column_value))
            if is_log:
                panel.set_yscale("log")
            if limits != (None, None):
                panel.set_ylim(*limits)
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _label(figure, axes, x_label, y_label)
        return to_files(figure)


def bars_figure(
    frame: pd.DataFrame, *, group: str, value: str, series: str, y_label: str, divisor: float = 1.0
) -> dict[str, bytes]:
    """Draw a group of bars for each value of a column, a bar for each series, with ``ci_low`` and ``ci_high``.

    Heights are those of the column over the divisor, such as 1000 for thousands.
    """
    frame = frame.assign(**{column: frame[column] / divisor for column in (value, *INTERVAL)})
    groups, names = list(frame[group].unique()), list(frame[series].unique())
    width = 0.8 / len(names)
    with matplotlib.rc_context(PAPER):
        figure, axes = subplots(figsize=(COLUMN_INCHES, 1.7))
        for index, (name, look) in enumerate(looks_of(names).items()):
            shown = frame[frame[series] == name].set_index(group).reindex(groups)
            places = np.arange(len(groups)) + (index - (len(names) - 1) / 2) * width
            heights = shown[value].to_numpy(dtype=float)
            axes.bar(
                places, heights, width * 0.92, color=look.color, hatch=look.hatch, edgecolor="white", linewidth=0,
                label=name,
            )  # fmt: skip
            _draw_intervals(axes, places, heights, shown, INTERVAL)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside upper center", ncols=min(5, len(names)))
        return to_files(figure)


def stacked_figure(
    frame: pd.DataFrame, *, panel: str, bar: str, parts: Sequence[str], y_label: str
) -> dict[str, bytes]:
    """Draw stacked bars: a panel for each value of a column, in it a bar for each value of another."""
    values = list(frame[panel].unique())
    columns = min(3, len(values))
    with matplotlib.rc_context(PAPER):
        figure, axes = _grid(-(-len(values) // columns), columns)
        for index, place in enumerate(axes.flat):
            if index >= len(values):
                place.set_axis_off()
                continue
            shown = frame[frame[panel] == values[index]]
            below = np.zeros(len(shown))
            for part, look in zip(parts, LOOKS, strict=False):
                heights = shown[part].to_numpy(dtype=float)
                place.bar(
                    range(len(shown)), heights, 0.75, bottom=below, color=look.color, hatch=look.hatch,
                    edgecolor="white", linewidth=0, label=part.replace("_", " "),
                )  # fmt: skip
                below += heights
            place.set_xticks(range(len(shown)), shown[bar], rotation=30, ha="right")
            place.tick_params(axis="x", length=0, pad=1)
            place.set_title(values[index])
            place.grid(visible=False, axis="x")
            place.set_ylim(0, 1)
        for first in axes[:, 0]:
            first.set_ylabel(y_label)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
        return to_files(figure)


def areas_figure(
    frame: pd.DataFrame, *, panel: str, x: str, y: str, part: str, x_label: str, y_label: str
) -> dict[str, bytes]:
    """Stack the shares of some parts, the first at the bottom: a panel for each value of a column, side by side."""
    panels = list(frame[panel].unique())
    with matplotlib.rc_context(PAPER | {"axes.grid": False}):
        figure, axes = _grid(1, len(panels))
        for name, place in zip(panels, axes[0], strict=True):
            shares = frame[frame[panel] == name].pivot_table(index=part, columns=x, values=y)
            greys = [str(round(grey, 3)) for grey in np.linspace(0.25, 0.95, len(shares))]
            places = shares.columns.to_numpy()
            place.stackplot(places, shares.to_numpy(), colors=greys, edgecolor="white", linewidth=0.2)
            place.set_xlim(places[0], places[-1])
            place.set_ylim(0, 1)
            place.set_title(name)
            place.set_xlabel(x_label)
        axes[0, 0].set_ylabel(y_label)
        return to_files(figure)


def _draw_lines(
    frame: pd.DataFrame, axes: Axes, names: list[str], *, x: str, y: str, series: str, interval: Interval
) -> None:
    points = np.unique(frame[x].to_numpy(dtype=float))
    gap = min(MARKER_GAP * float(np.diff(points).min()), WIDEST_GAP * float(np.ptp(points))) if len(points) > 1 else 0.0
    for index, (name, look) in enumerate(looks_of(names).items()):
        shown = frame[frame[series] == name].sort_values(x)
        places = shown[x].to_numpy(dtype=float) + (index - (len(names) - 1) / 2) * gap
        heights = shown[y].to_numpy(dtype=float)
        axes.plot(
            places, heights, label=name, color=look.color, marker=look.marker, linestyle=look.line,
            markeredgewidth=0, clip_on=False, zorder=3,
        )  # fmt: skip
        _draw_intervals(axes, places, heights, shown, interval, look.color)


def _draw_intervals(
    axes: Axes, places: Any, heights: Any, frame: pd.DataFrame, interval: Interval, color: str = "black"
) -> None:
    if interval[0] not in frame or not np.isfinite(frame[interval[0]].to_numpy(dtype=float)).any():
        return
    low, high = (frame[column].to_numpy(dtype=float) for column in interval)
    reach = np.maximum(np.stack([heights - low, high - heights]), 0)
    axes.errorbar(places, heights, yerr=reach, fmt="none", ecolor=color, elinewidth=0.7, capthick=0.7, zorder=4)


def _panel_values(frame: pd.DataFrame, panels: Sequence[str]) -> tuple[list[Any], list[Any]]:
    if len(panels) == 2:
        return list(frame[panels[0]].unique()), list(frame[panels[1]].unique())
    return [None], list(frame[panels[0]].unique()) if panels else [None]


def _select(frame: pd.DataFrame, panels: Sequence[str], row: Any, column: Any) -> pd.DataFrame:
    chosen = (row, column) if len(panels) == 2 else (column,)
    for name, value in zip(panels, chosen, strict=False):
        frame = frame[frame[name] == value]
    return frame


def _title(panels: Sequence[str], row: Any, column: Any) -> str:
    chosen = (row, column) if len(panels) == 2 else (column,)
    named = zip(panels, chosen, strict=False)
    return ", ".join(str(value) if isinstance(value, str) else f"{name} {value:g}" for name, value in named)


def _grid(rows: int, columns: int) -> tuple[Figure, Any]:
    return subplots(rows, columns, figsize=(COLUMN_INCHES, rows * PANEL_INCHES + 0.45), sharey=True, squeeze=False)


def _label(figure: Figure, axes: Any, x_label: str, y_label: str) -> None:
    figure.supxlabel(x_label, fontsize=7)
    figure.supylabel(y_label, fontsize=7)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
