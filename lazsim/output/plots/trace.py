"""The picture of a trace: nodes alive over time."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.export import new_figure, to_files
from lazsim.output.plots.run import time_unit
from lazsim.output.plots.style import COLORS, STYLE
from lazsim.trace.table import Trace

ALIVE_COLOR, LOSS_COLOR = COLORS[0], "#b3261e"


def plot_nodes_alive(trace: Trace, axes: Axes) -> None:
    """Draw the nodes alive over time as steps, with a mark at each loss of nodes.

    The mark stands at the count after the loss; a thin line spans the nodes lost.
    """
    name, unit_s = time_unit(trace.duration_s)
    times, counts = trace.num_alive()
    ends = [*(times / unit_s).tolist(), trace.duration_s / unit_s]
    axes.stairs(counts, ends, fill=True, color=ALIVE_COLOR, alpha=0.25, linewidth=0)
    axes.stairs(counts, ends, baseline=None, color=ALIVE_COLOR, label="nodes alive")
    loss_times, before, after = _losses(trace)
    loss_units = [time_s / unit_s for time_s in loss_times]
    axes.vlines(loss_units, after, before, color=LOSS_COLOR, linewidth=0.8)
    axes.plot(
        loss_units,
        after,
        "v",
        color=LOSS_COLOR,
        markersize=3,
        linestyle="none",
        label=f"{len(after)} losses",
        clip_on=False,
    )
    axes.set_xlim(0, max(ends[-1], 1e-9))
    axes.set_ylim(0, max(1, counts.max()) * 1.05)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"time ({name})")
    axes.set_ylabel("nodes alive")
    axes.legend(loc="lower left", frameon=False, ncols=2, bbox_to_anchor=(0, 1))


def _losses(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    times: list[float] = []
    before: list[int] = []
    after: list[int] = []
    num_alive = 0
    for batch in trace.batches():
        if batch.removed:
            times.append(batch.time_s)
            before.append(num_alive)
            after.append(num_alive - len(batch.removed))
        num_alive += len(batch.added) - len(batch.removed)
    return times, before, after


def draw_trace(trace: Trace, file_type: str) -> bytes:
    """Return the picture of a trace as a file, ``png`` or ``pdf``; the same bytes for the same trace."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(6, 2.2)
        plot_nodes_alive(trace, figure.subplots())
        return to_files(figure, [file_type])[file_type]
