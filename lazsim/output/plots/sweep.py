"""The picture of a sweep: samples along an axis, with intervals over seeds."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.charts import lines_figure, plain_number, reach_of
from lazsim.output.plots.style import COLUMN_INCHES, PAPER, add_legend, looks_of, new_figure, picture
from lazsim.study.sweep.result import SpareCost, SweepResult, name_setting, paying_spares

MOST_PANELS = 6
MOST_LINES = 9
"""Panels and lines in which one finds one's way; beyond them, only the best settings are drawn."""

APART = 0.02
"""Distance of the intervals of two runs at a number of spares, as a share of the most spares."""

FARTHEST = 20
"""Ratio of samples from which on their axis is logarithmic."""


def sweep_figure(result: SweepResult) -> dict[str, bytes]:
    """Draw the samples of each run along the last axis, with a panel for each value of the first one.

    With more panels or lines than one can tell apart, draw the best setting of each run along the first axis.
    """
    axes = list(result.setting_keys)
    # A field that only another grid sets has no value here.
    defaults = dict.fromkeys(axes, "default")
    frame = pd.DataFrame(
        [defaults | {key: value for key, value in row.items() if value is not None} for row in result.means()]
    )
    if not axes:
        return _draw(frame, "run", [])
    *between, x = axes
    panels, names = between[:1], between[1:]
    rows = frame[["run", *names]].to_dict("records")
    lines = frame.assign(run=list(map(name_setting, rows)))
    if any(frame[panel].nunique() > MOST_PANELS for panel in panels) or lines["run"].nunique() > MOST_LINES:
        best = frame.sort_values("samples_mean", ascending=False).drop_duplicates([axes[0], "run"])
        return _draw(best.sort_index(), axes[0], [], "most samples trained")
    return _draw(lines, x, panels)


@picture(PAPER)
def spares_figure(by_run: Sequence[Sequence[SpareCost]]) -> Figure:
    """Draw what samples cost against the number of spares, with intervals; a ring marks the cheapest samples."""
    figure = new_figure(COLUMN_INCHES, 2.2)
    axes = figure.subplots()
    names = [costs[0].name for costs in by_run]
    apart = APART * max(one.num_spares for costs in by_run for one in costs)
    for place, ((name, look), costs) in enumerate(zip(looks_of(names).items(), by_run, strict=True)):
        aside = apart * (place - (len(by_run) - 1) / 2)
        numbers = [one.num_spares + aside for one in costs]
        style = {"color": look.color, "marker": look.marker, "linestyle": look.line, "label": name}
        found = [one.per_million_samples for one in costs]
        axes.errorbar(numbers, [one.value for one in found], reach_of(found), capsize=2, elinewidth=0.7, **style)
        best = paying_spares(costs)
        axes.plot(
            best.num_spares + aside, best.per_million_samples.value, "o", color=look.color, markersize=9,
            markerfacecolor="none", clip_on=False,
        )  # fmt: skip
    unit = "node-hours" if by_run[0][0].cost_usd is None else "$"
    axes.set(xlabel="spares held beside the nodes that train", ylabel=f"{unit}/M samples\n(ring: the least)")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(plain_number)
    add_legend(figure, axes)
    return figure


def _draw(frame: pd.DataFrame, x: str, panels: Sequence[str], y_label: str = "samples trained") -> dict[str, bytes]:
    titles = {panel: [name_setting({panel: value}) for value in frame[panel]] for panel in panels}
    most, least = frame["samples_mean"].max(), frame["samples_mean"].min()
    return lines_figure(
        frame.assign(**titles), x=x, y="samples_mean", series="run",
        x_label="" if x == "run" else x, y_label=y_label, panels=panels,
        interval=("samples_ci_low", "samples_ci_high"), is_log=0 < FARTHEST * least < most,
    )  # fmt: skip
