"""The picture of a trace: nodes alive over time."""

import matplotlib
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.run import time_unit
from lazsim.output.plots.style import COLORS, STYLE, new_figure, to_files
from lazsim.trace.table import Trace

ALIVE_COLOR, LOSS_COLOR = COLORS[0], "#b3261e"


@matplotlib.rc_context(STYLE)
def draw_trace(trace: Trace, file_type: str) -> bytes:
    """Return the picture of a trace as a file, ``png`` or ``pdf``; the same bytes for the same trace.

    Nodes alive are steps. The mark of a loss stands at the count after it; a thin line spans the nodes lost.
    """
    figure = new_figure(6, 2.2)
    axes = figure.subplots()
    name, unit_s = time_unit(trace.duration_s)
    times, counts = trace.num_alive()
    ends = [*(times / unit_s).tolist(), trace.duration_s / unit_s]
    axes.stairs(counts, ends, fill=True, color=ALIVE_COLOR, alpha=0.25, linewidth=0)
    axes.stairs(counts, ends, baseline=None, color=ALIVE_COLOR, label="nodes alive")
    losses, before, after = _losses(trace)
    marks = [time_s / unit_s for time_s in losses]
    axes.vlines(marks, after, before, color=LOSS_COLOR, linewidth=0.8)
    label = f"{len(after)} losses"
    axes.plot(marks, after, "v", color=LOSS_COLOR, markersize=3, linestyle="none", label=label, clip_on=False)
    axes.set_xlim(0, max(ends[-1], 1e-9))
    axes.set_ylim(0, max(1, counts.max()) * 1.05)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"time ({name})")
    axes.set_ylabel("nodes alive")
    axes.legend(loc="lower left", frameon=False, ncols=2, bbox_to_anchor=(0, 1))
    return to_files(figure, [file_type])[file_type]


def _losses(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    """Return the time of each loss, and the nodes alive before and after it."""
    times, before, after = [], [], []
    num_alive = 0
    for batch in trace.batches():
        if batch.removed:
            times.append(batch.time_s)
            before.append(num_alive)
            after.append(num_alive - len(batch.removed))
        num_alive += len(batch.added) - len(batch.removed)
    return times, before, after
