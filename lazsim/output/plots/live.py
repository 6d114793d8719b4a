"""The picture of a live run: throughput over time, with its prediction or the loss, above the nodes in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("agg")

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.export import subplots, to_files
from lazsim.output.plots.style import COLORS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazsim.costmodel.times import Floats
    from lazsim.engine.simulate import SystemRun
    from lazsim.live.record import LiveRun

MAX_WINDOWS = 120
STEPS_PER_WINDOW = 8
"""Steps in each window of time that throughput is averaged over: with fewer, single steps show."""


def live_figure(measured: LiveRun, predicted: SystemRun | None = None) -> dict[str, bytes]:
    """Draw throughput and nodes in use over time, with the prediction if there is one, else with the loss.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``.
    """
    with matplotlib.rc_context(STYLE):
        if predicted is not None:
            figure, (rate, nodes) = subplots(2, 1, sharex=True, height_ratios=[3, 1], figsize=(6.5, 3.4))
        else:
            figure, (rate, loss, nodes) = subplots(3, 1, sharex=True, height_ratios=[3, 2, 1], figsize=(6.5, 4.4))
            loss.plot([step.at_s for step in measured.steps], [step.loss for step in measured.steps], color=COLORS[0])
            loss.set_ylabel("loss (nats)")
        _plot_measured_rate(measured, rate)
        if predicted is not None:
            _plot_predicted_rate(predicted, _bounds_s(measured), rate)
            rate.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        for index, run in enumerate([measured.run] if predicted is None else [measured.run, predicted]):
            times = [state.time_s for state in run.states] + [run.wall_s]
            used = [state.num_used for state in run.states]
            nodes.step(times, [*used, *used[-1:]], where="post", color=COLORS[index], linestyle=("-", "--")[index])
        nodes.set_ylim(bottom=0)
        nodes.yaxis.set_major_locator(MaxNLocator(integer=True))
        nodes.set_ylabel("nodes in use")
        nodes.set_xlabel("time (s)")
        return to_files(figure)


def _bounds_s(measured: LiveRun) -> Floats:
    """Return the bounds of the windows that throughput is averaged over."""
    num_windows = max(1, min(MAX_WINDOWS, len(measured.steps) // STEPS_PER_WINDOW))
    return np.linspace(0, measured.run.wall_s, num_windows + 1)


def _plot_measured_rate(measured: LiveRun, axes: Axes) -> None:
    bounds_s = _bounds_s(measured)
    batch = measured.run.samples / max(measured.run.steps, 1)
    counts, _ = np.histogram([step.at_s for step in measured.steps], bounds_s)
    middle_s = (bounds_s[1:] + bounds_s[:-1]) / 2
    axes.plot(middle_s, counts * batch / np.diff(bounds_s), color=COLORS[0], label="measured")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"samples/s\n(mean over {bounds_s[1]:.2g} s)")


def _plot_predicted_rate(predicted: SystemRun, bounds_s: Floats, axes: Axes) -> None:
    times_s = np.array([state.time_s for state in predicted.states] + [bounds_s[-1]])
    rates = np.array([state.samples_per_s for state in predicted.states])
    trained = np.concatenate([[0.0], np.cumsum(rates * np.diff(times_s))])
    means = np.diff(np.interp(bounds_s, times_s, trained)) / np.diff(bounds_s)
    axes.plot((bounds_s[1:] + bounds_s[:-1]) / 2, means, color=COLORS[1], linestyle="--", label="predicted")
