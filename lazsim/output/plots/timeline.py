"""Runs over time: the throughput of each system above the nodes alive, a panel for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from lazsim.output.plots.export import subplots, to_files
from lazsim.output.plots.paper import COLUMN_INCHES, PAPER, looks_of
from lazsim.output.plots.run import WINDOW_SHARE, time_unit, window_means
from lazsim.units import format_duration

if TYPE_CHECKING:
    import pandas as pd


def rates_figure(runs: pd.DataFrame) -> dict[str, bytes]:
    """Draw runs, one of each model and system: columns ``model``, ``system``, ``wall_s`` and ``states``."""
    models = list(runs["model"].unique())
    wall_s = float(runs["wall_s"].iloc[0])
    unit, unit_s = time_unit(wall_s)
    middle_s = np.linspace(0, wall_s, 301)
    with matplotlib.rc_context(PAPER):
        figure, axes = subplots(
            len(models) + 1, figsize=(COLUMN_INCHES, 0.95 * len(models) + 1.15), sharex=True,
            height_ratios=[1.0] * len(models) + [0.45],
        )  # fmt: skip
        for model, panel in zip(models, axes, strict=False):
            shown = runs[runs["model"] == model].set_index("system")["states"]
            for name, look in looks_of(list(shown.index)).items():
                rates = window_means(shown[name], middle_s, wall_s)
                panel.plot(middle_s / unit_s, rates, label=name, color=look.color, linestyle=look.line)
            panel.set_ylim(bottom=0)
            panel.set_title(model)
        axes[(len(models) - 1) // 2].set_ylabel(f"samples/s\n(mean over {format_duration(WINDOW_SHARE * wall_s)})")
        _draw_nodes(runs["states"].iloc[0], axes[-1], wall_s, unit_s)
        axes[-1].set_xlabel(f"time ({unit})")
        axes[-1].set_xlim(0, wall_s / unit_s)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
        return to_files(figure)


def _draw_nodes(states: Any, axes: Any, wall_s: float, unit_s: float) -> None:
    times = np.array([*(state[0] for state in states), wall_s]) / unit_s
    alive = [state[1] for state in states]
    axes.fill_between(times, [*alive, alive[-1]], step="post", color="0.8", edgecolor="0.35", linewidth=0.5)
    axes.set_ylim(0, max(1.0, *alive) * 1.1)
    axes.set_ylabel("nodes")
