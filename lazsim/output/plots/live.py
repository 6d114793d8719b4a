"""The picture of a live run: throughput over time, with its prediction or the loss, above the nodes in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.charts import plain_number
from lazsim.output.plots.run import plot_rates
from lazsim.output.plots.style import LOOKS, STYLE, begin_at_0, new_figure, picture
from lazsim.output.windows import time_unit, windows

if TYPE_CHECKING:
    from lazsim.engine.simulate import SystemRun
    from lazsim.live.record import LiveRun

MAX_WINDOWS = 120
STEPS_PER_WINDOW = 8
"""Steps in each window of time that throughput is averaged over: with fewer, single steps show."""


@picture(STYLE)
def live_figure(measured: LiveRun, predicted: SystemRun | None = None) -> Figure:
    """Draw throughput and nodes in use over time, with the prediction if there is one, else with the loss."""
    unit, unit_s = time_unit(measured.run.wall_s)
    step_times = [step.at_s / unit_s for step in measured.steps]
    heights = [3, 2, 1] if predicted is None else [3, 1]
    figure = new_figure(6.5, 4.4 if predicted is None else 3.4)
    rate, *others, nodes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for loss in others:
        loss.plot(step_times, [step.loss for step in measured.steps], color=LOOKS[0].color)
        loss.set_ylabel("loss (nats)")

    shortest_s = measured.run.wall_s / max(1, min(MAX_WINDOWS, len(step_times) // STEPS_PER_WINDOW))
    runs = {"measured": measured.run} | ({} if predicted is None else {"predicted": predicted})
    for (label, run), look in zip(runs.items(), LOOKS, strict=False):
        times = np.array([*(state.time_s for state in run.states), run.wall_s]) / unit_s
        if predicted is None:
            plot_rates(rate, windows(run.states, run.wall_s, shortest_s, at_any_change=True), label, look, unit_s)
        else:
            made = np.cumsum([0.0, *(np.diff(times) * unit_s * [state.samples_per_s for state in run.states])])
            rate.plot(times, made, label=label, color=look.color, linestyle=look.line)
        used = [state.num_used for state in run.states]
        nodes.step(times, [*used, used[-1]], where="post", color=look.color, linestyle=look.line, clip_on=False)
    begin_at_0(rate)
    rate.yaxis.set_major_formatter(plain_number)
    rate.set_ylabel("samples/s kept\n(shaded: lost again)" if predicted is None else "samples kept so far")
    if predicted is not None:
        rate.legend(loc="upper left")
    begin_at_0(nodes)
    nodes.yaxis.set_major_locator(MaxNLocator(integer=True))
    end_s = max(run.wall_s for run in runs.values())
    nodes.set(xlim=(0, end_s / unit_s), xlabel=f"time ({unit})", ylabel="nodes in use")
    figure.align_ylabels()
    return figure
