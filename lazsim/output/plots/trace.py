"""The picture of a trace: nodes alive over time."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.run import plot_nodes
from lazsim.output.plots.style import RED, STYLE, new_figure, picture
from lazsim.output.windows import time_unit
from lazsim.trace.table import Trace
from lazsim.units import DAY_S, MINUTE_S, format_duration

MOST_BARS = 130
BARS_S = (1, 5, 10, 30, *(MINUTE_S * many for many in (1, 2, 5, 10, 20, 30, 60, 120)),
          *(DAY_S * many for many in (0.25, 0.5, 1, 2, 3, 7, 14, 30, 90, 365)))  # fmt: skip
"""Stretches of time in which lost nodes are counted: the shortest that make no more bars."""


@picture(STYLE)
def trace_figure(trace: Trace) -> Figure:
    """Draw the nodes alive as steps, above bars of the nodes lost in equal stretches of time."""
    figure = new_figure(6, 2.8)
    axes, lost = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    _, unit_s = time_unit(trace.duration_s)
    plot_nodes(list(zip(*trace.num_alive(), strict=True)), trace.duration_s, axes)
    bar_s = next((width_s for width_s in BARS_S if width_s * MOST_BARS >= trace.duration_s), BARS_S[-1])
    # A trace of no duration has one bar, too.
    edges_s = np.arange(0.0, max(trace.duration_s, bar_s) + bar_s, bar_s)
    removed, _ = np.histogram(trace.time_s[trace.change < 0], edges_s)
    lost.stairs(removed, edges_s / unit_s, fill=True, color=RED)
    lost.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lost.set(ylim=(0, max(1, removed.max()) * 1.1), ylabel=f"lost in\n{format_duration(bar_s)}")
    lost.set_xlabel(axes.get_xlabel())
    axes.set_xlabel("")
    figure.align_ylabels()
    return figure
