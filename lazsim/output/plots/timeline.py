"""Runs over time: the throughput of each system above the nodes alive, a panel for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lazsim.output.plots.export import to_files
from lazsim.output.plots.paper import COLUMN_INCHES, PAPER, looks_of
from lazsim.output.plots.run import time_unit
from lazsim.units import format_duration

if TYPE_CHECKING:
    import pandas as pd

WINDOW_SHARE = 1 / 30
"""Part of the time over which throughput is averaged: pauses in it lower it."""

Floats = npt.NDArray[np.float64]


def rates_figure(states: pd.DataFrame, wall_s: float) -> dict[str, bytes]:
    """Draw one run of each model and system.

    Parameters
    ----------
    states
        Columns ``model``, ``system``, ``time_s``, ``nodes_alive``, ``samples_per_s``: what holds from each time on.
    wall_s
        Where they end.
    """
    models = list(states["model"].unique())
    unit, unit_s = time_unit(wall_s)
    window = format_duration(WINDOW_SHARE * wall_s)
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(COLUMN_INCHES, 0.95 * len(models) + 1.15), layout="constrained")
        axes = figure.subplots(len(models) + 1, 1, sharex=True, height_ratios=[1.0] * len(models) + [0.45])
        for model, panel in zip(models, axes, strict=False):
            _draw_rates(states[states["model"] == model], panel, wall_s, unit_s)
            panel.set_title(model)
        axes[(len(models) - 1) // 2].set_ylabel(f"samples/s (mean over {window})")
        _draw_nodes(states[states["system"] == states["system"].iloc[0]], axes[-1], models[0], wall_s, unit_s)
        axes[-1].set_xlabel(f"time ({unit})")
        axes[-1].set_xlim(0, wall_s / unit_s)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
        return to_files(figure)


def _draw_rates(states: pd.DataFrame, axes: Axes, wall_s: float, unit_s: float) -> None:
    middle_s = np.linspace(0, wall_s, 301)
    for name, look in looks_of(list(states["system"].unique())).items():
        shown = states[states["system"] == name]
        rates = window_means(shown["time_s"].to_numpy(float), shown["samples_per_s"].to_numpy(float), middle_s, wall_s)
        axes.plot(middle_s / unit_s, rates, label=name, color=look.color, linestyle=look.line)
    axes.set_ylim(bottom=0)


def window_means(times_s: Floats, rates: Floats, middle_s: Floats, wall_s: float) -> Floats:
    """Return the mean of a rate, constant between times, over a window around each instant.

    Examples
    --------
    >>> window_means(np.array([0.0, 30.0]), np.array([1.0, 3.0]), np.array([10.0, 30.0]), wall_s=60.0).tolist()
    [1.0, 2.0]
    """
    reach_s = WINDOW_SHARE * wall_s / 2
    start_s, stop_s = np.maximum(middle_s - reach_s, 0), np.minimum(middle_s + reach_s, wall_s)
    ends = np.append(times_s, wall_s)
    trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(ends))])
    means: Floats = (np.interp(stop_s, ends, trained) - np.interp(start_s, ends, trained)) / (stop_s - start_s)
    return means


def _draw_nodes(states: pd.DataFrame, axes: Axes, model: str, wall_s: float, unit_s: float) -> None:
    shown = states[states["model"] == model]
    times = np.append(shown["time_s"].to_numpy(float), wall_s) / unit_s
    alive = shown["nodes_alive"].to_numpy(float)
    axes.fill_between(times, [*alive, alive[-1]], step="post", color="0.8", edgecolor="0.35", linewidth=0.5)
    axes.set_ylim(0, max(1.0, *alive) * 1.1)
    axes.set_ylabel("nodes")
