"""The picture of a live run: throughput over time, with its prediction or the loss, above the nodes in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.run import span_means
from lazsim.output.plots.style import COLORS, STYLE, new_figure, to_files

if TYPE_CHECKING:
    from lazsim.engine.simulate import SystemRun
    from lazsim.live.record import LiveRun

MAX_WINDOWS = 120
STEPS_PER_WINDOW = 8
"""Steps in each window of time that throughput is averaged over: with fewer, single steps show."""


@matplotlib.rc_context(STYLE)
def live_figure(measured: LiveRun, predicted: SystemRun | None = None) -> dict[str, bytes]:
    """Draw throughput and nodes in use over time, with the prediction if there is one, else with the loss.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``.
    """
    times_s = [step.at_s for step in measured.steps]
    heights = [3, 2, 1] if predicted is None else [3, 1]
    figure = new_figure(6.5, 4.4 if predicted is None else 3.4)
    rate, *others, nodes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for loss in others:
        loss.plot(times_s, [step.loss for step in measured.steps], color=COLORS[0])
        loss.set_ylabel("loss (nats)")

    num_windows = max(1, min(MAX_WINDOWS, len(times_s) // STEPS_PER_WINDOW))
    bounds_s = np.linspace(0, measured.run.wall_s, num_windows + 1)
    middle_s = (bounds_s[1:] + bounds_s[:-1]) / 2
    samples = np.histogram(times_s, bounds_s)[0] * (measured.run.samples / max(measured.run.steps, 1))
    rate.plot(middle_s, samples / np.diff(bounds_s), color=COLORS[0], label="measured")
    rate.set_ylim(bottom=0)
    rate.set_ylabel(f"samples/s\n(mean over {bounds_s[1]:.2g} s)")
    if predicted is not None:
        means = span_means(predicted.states, bounds_s[:-1], bounds_s[1:], bounds_s[-1])
        rate.plot(middle_s, means, color=COLORS[1], linestyle="--", label="predicted")
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
