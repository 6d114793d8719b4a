"""The picture of a validation: throughput over time as measured and as predicted, above the nodes in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from lazsim.plots.export import to_files
from lazsim.plots.style import COLORS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazsim.engine.simulate import SystemRun
    from lazsim.live.record import LiveRun

MOST_WINDOWS = 120
STEPS_PER_WINDOW = 8
"""Throughput is averaged over parts of the time, each long enough for so many steps: fewer only show whole steps."""


def validation_figure(measured: LiveRun, predicted: SystemRun) -> dict[str, bytes]:
    """Draw a validation.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``.
    """
    with plt.rc_context(STYLE):
        figure, (rate, nodes) = plt.subplots(
            2, 1, sharex=True, height_ratios=[3, 1], figsize=(6.5, 3.4), layout="constrained"
        )
        _plot_rates(measured, predicted, rate)
        for index, run in enumerate((measured.run, predicted)):
            times = [state.time_s for state in run.states] + [run.wall_s]
            used = [state.num_used for state in run.states]
            nodes.step(times, [*used, used[-1]], where="post", color=COLORS[index], linestyle=("-", "--")[index])
        nodes.set_ylim(bottom=0)
        nodes.yaxis.set_major_locator(MaxNLocator(integer=True))
        nodes.set_ylabel("nodes in use")
        nodes.set_xlabel("time (s)")
        return to_files(figure)


def _plot_rates(measured: LiveRun, predicted: SystemRun, axes: Axes) -> None:
    wall_s = measured.run.wall_s
    num_windows = max(1, min(MOST_WINDOWS, len(measured.steps) // STEPS_PER_WINDOW))
    bounds = np.linspace(0, wall_s, num_windows + 1)
    middle = (bounds[1:] + bounds[:-1]) / 2
    done_s = np.array([step.at_s for step in measured.steps])
    batch = measured.run.samples / max(measured.run.steps, 1)
    counts, _ = np.histogram(done_s, bounds)
    axes.plot(middle, counts * batch / np.diff(bounds), color=COLORS[0], label="measured")
    times = np.array([state.time_s for state in predicted.states] + [wall_s])
    rates = np.array([state.samples_per_s for state in predicted.states])
    trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(times))])
    means = np.diff(np.interp(bounds, times, trained)) / np.diff(bounds)
    axes.plot(middle, means, color=COLORS[1], linestyle="--", label="predicted")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"samples/s\n(mean over {wall_s / num_windows:.2g} s)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
