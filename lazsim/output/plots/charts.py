"""Charts of a table in the style of a paper, and parts of charts: panels, bars, areas, numbers of axes, colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from lazsim.output.names import shown_names
from lazsim.output.plots.style import COLUMN_INCHES, PAPER, add_legend, begin_at_0, looks_of, new_figure, picture

if TYPE_CHECKING:
    import pandas as pd

INTERVAL, PLACE = ("ci_low", "ci_high"), "place on the axis"
PANEL_INCHES = 1.3
MOST_BESIDE = 3
"""Panels beside each other in a column of a page."""

MARKER_GAP = 0.06
"""Part of the distance of two names by which series are moved apart, so that equal ones can be told."""

LINE_LETTERS = 60
"""Letters of a line across a figure, beside a mark."""

TITLE_LETTERS = 54
"""Letters of the titles of a row of panels, which are larger and have gaps between them."""

TICK_LETTERS = 36
"""Letters of the names below panels up to which they stand upright."""

MOST_DECADES_IN_PARTS = 2.5
"""Decades up to which a logarithmic axis also has numbers at 2 and 5."""

FEWEST_DECADES = 0.7
"""Decades up to which numbers at equal distances are needed, since 1, 2 and 5 may be no two of them."""


@picture(PAPER)
def lines_figure(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    series: str,
    x_label: str,
    y_label: str,
    panels: Sequence[str] = (),
    interval: tuple[str, str] = INTERVAL,
    limits: tuple[float | None, float | None] | None = None,
    is_log: bool = False,
) -> Figure:
    """Draw one column over another, a line for each series; points without a line where ``x`` is no number.

    Up to two columns make `panels`: a row of panels for each value of the first, or with one up to three side by side.
    Where there are columns of an `interval`, they become error bars; `limits` and `is_log` are of the vertical axis.
    """
    places = list(itertools.product(*(frame[panel].unique() for panel in panels)))
    columns = frame[panels[-1]].nunique() if len(panels) == 2 else min(MOST_BESIDE, len(places))
    looks = looks_of(list(frame[series].unique()))
    shown_as = shown_names(list(looks), LINE_LETTERS)
    frame, names = _with_places(frame, x)
    figure, axes = panel_grid(len(places), columns)
    titles = [", ".join(map(_panel_title, panels, place)) for place in places]
    shown_titles = shown_names(titles, TITLE_LETTERS // columns)
    for panel, place, title in zip(axes.flat, places, titles, strict=False):
        shown = frame
        for name, value in zip(panels, place, strict=True):
            shown = shown[shown[name] == value]
        # A point at a number stands at that number, and one at the name of its series alone.
        gap = MARKER_GAP if names and x != series else 0.0
        for index, (name, look) in enumerate(looks.items()):
            line = shown[shown[series] == name].sort_values(PLACE)
            moved = line[PLACE].to_numpy(dtype=float) + (index - (len(looks) - 1) / 2) * gap
            panel.plot(
                moved, line[y], label=shown_as[name], color=look.color, marker=look.marker,
                linestyle="" if names else look.line, markeredgewidth=0, clip_on=False, zorder=3,
            )  # fmt: skip
            draw_intervals(panel, moved, line, y, interval, look.color)
        panel.set_title(shown_titles[title])
        if is_log:
            panel.set_yscale("log")
            number_log_axis(panel.yaxis)
        else:
            panel.yaxis.set_major_formatter(plain_number)
        if limits:
            panel.set_ylim(*limits)
        if names:
            turned = {"rotation": 30, "ha": "right"} if len("  ".join(names)) * columns > TICK_LETTERS else {}
            panel.set_xticks(range(len(names)), names, **turned)
            panel.set_xlim(-0.5, len(names) - 0.5)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not (limits or is_log) and axes[0, 0].get_ylim()[0] > 0:
        begin_at_0(*axes.flat[: len(places)])
    figure.supxlabel(x_label, fontsize=7)
    figure.supylabel(y_label, fontsize=7)
    if len(looks) > 1 and x != series:
        add_legend(figure, axes[0, 0])
    return figure


def _panel_title(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{name} {value:g}"


def stack_shares(axes: Axes, places: Any, shares: Any) -> None:
    """Stack shares of a whole in shades of grey, a row for each part."""
    greys = [str(round(grey, 3)) for grey in np.linspace(0.25, 0.95, len(shares))]
    axes.stackplot(places, shares, colors=greys, edgecolor="white", linewidth=0.2)
    axes.set_xlim(places[0], max(places[-1], places[0] + 1))
    axes.set_ylim(0, 1)


def draw_intervals(
    axes: Axes, places: Any, frame: pd.DataFrame, y: str, interval: tuple[str, str], color: str = "black"
) -> None:
    """Draw an error bar at each place, where there are intervals."""
    if interval[0] not in frame or not np.isfinite(frame[interval[0]].to_numpy(dtype=float)).any():
        return
    reach = reach_of(frame[[y, *interval]].to_numpy(dtype=float))
    axes.errorbar(places, frame[y], yerr=reach, fmt="none", ecolor=color, elinewidth=0.7, capthick=0.7, zorder=4)


def reach_of(intervals: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return how far an error bar reaches to both sides of each value, shape (2, N): not at all where it has no end.

    Examples
    --------
    >>> reach_of([(7, 4, 8), (7, 4, math.inf), (7, math.nan, math.nan)]).tolist()
    [[3.0, 3.0, 0.0], [1.0, 0.0, 0.0]]
    """
    value, low, high = np.asarray(intervals, dtype=np.float64).T
    return np.nan_to_num(np.abs([value - low, high - value]), posinf=0)


def _with_places(frame: pd.DataFrame, x: str) -> tuple[pd.DataFrame, list[str]]:
    """Add the places of the values of a column along an axis; return those that are no numbers as text, too."""
    if frame[x].dtype.kind in "iuf" and frame[x].notna().all():
        return frame.assign(**{PLACE: frame[x]}), []
    names = list(dict.fromkeys(map(str, frame[x])))
    places = [names.index(str(value)) for value in frame[x]]
    return frame.assign(**{PLACE: places}), list(shown_names(names).values())


def panel_grid(
    num_panels: int, columns: int, width: float = COLUMN_INCHES, panel_height: float = PANEL_INCHES
) -> tuple[Figure, Any]:
    """Make rows of panels, in a figure of this width; places that are left over stay empty."""
    rows = -(-num_panels // columns)
    figure = new_figure(width, rows * panel_height + 0.29)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for unused in axes.flat[num_panels:]:
        unused.set_axis_off()
    return figure, axes


def amounts_map() -> Colormap:
    """Return colours from little to much, without the darkest, on which no text can be read."""
    return ListedColormap(matplotlib.colormaps["YlGnBu"](np.linspace(0.03, 0.82, 256)))


def plain_number(value: float, _place: float = 0) -> str:
    """Write the number of a tick in few letters, as a formatter of an axis does.

    Examples
    --------
    >>> [plain_number(value) for value in (0.05, 250.0, 5000.0, 20_000.0, 2e-6)]
    ['0.05', '250', '5 k', '20 k', '2 µ']
    """
    return f"{value:g}" if value == 0 or 1e-3 <= abs(value) < 1e3 else EngFormatter(sep=" ")(value)


def number_log_axis(axis: Axis, unit: str = "") -> None:
    """Write numbers on a logarithmic axis whose data are drawn, with a prefix of the unit.

    Text is drawn as it is, so that powers of ten would show as formulas.
    """
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    parts = LogLocator(10, (1, 2, 5) if decades < MOST_DECADES_IN_PARTS else (1,))
    axis.set_major_locator(parts if decades > FEWEST_DECADES else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(unit) if unit else plain_number)
