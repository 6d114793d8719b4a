"""A map of the best of several alternatives over two settings, one panel for each case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from lazsim.output.plots.style import PAPER, looks_of, new_figure, to_files

if TYPE_CHECKING:
    import pandas as pd

CELL_INCHES = (2.3, 0.72)
LIGHT = 0.5
"""Luma from which on text on a colour is black."""

MOST_TIES = 2
"""Alternatives as good as the best that a cell names."""


@matplotlib.rc_context(PAPER | {"axes.grid": False})
def winners_figure(
    frame: pd.DataFrame,
    *,
    panels: str,
    x: str,
    y: str,
    name: str,
    value: str,
    is_tie: str,
    x_label: str,
    y_label: str,
) -> dict[str, bytes]:
    """Draw a cell for each pair of settings, in the colour of its best alternative.

    A cell names the best, those that may be as good, and by how much the next is behind.

    Parameters
    ----------
    frame
        A row for each alternative in each cell.
    panels, x, y, name, value
        Columns: of the panel, the settings across and up, the alternative, and the value that is the more the better.
        Settings stand in the order of the frame.
    is_tie
        Column that tells whether an alternative may be as good as the best; None counts as no.
    x_label, y_label
        Names of the axes, with units.
    """
    cases = list(dict.fromkeys(frame[panels]))
    columns = list(dict.fromkeys(frame[x]))
    lines = {case: list(dict.fromkeys(frame[frame[panels] == case][y])) for case in cases}
    num_lines = sum(map(len, lines.values()))
    width, height = CELL_INCHES
    figure = new_figure(width * len(columns), height * num_lines + 0.5 * len(cases))
    looks = looks_of(sorted(set(frame[name])))
    heights = [len(lines[case]) for case in cases]
    rows = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, case in zip(rows, cases, strict=True):
        for (at_x, at_y), cell in frame[frame[panels] == case].groupby([x, y], sort=False):
            place = columns.index(at_x), lines[case].index(at_y)
            ranked = cell.sort_values(value, ascending=False)
            best = ranked.iloc[0]
            color = looks[best[name]].color
            axes.add_patch(Rectangle(place, 1, 1, facecolor=color, edgecolor="white", linewidth=2))
            middle, text = place[0] + 0.5, {"ha": "center", "va": "center", "color": _ink(color)}
            axes.text(middle, place[1] + 0.3, best[name], fontsize=11, fontweight="bold", **text)
            axes.text(middle, place[1] + 0.7, _rest(ranked, name, value, is_tie), fontsize=7, **text)
        axes.set(xlim=(0, len(columns)), ylim=(len(lines[case]), 0), title=case, ylabel=y_label)
        axes.set_xticks([index + 0.5 for index in range(len(columns))], columns)
        axes.set_yticks([index + 0.5 for index in range(len(lines[case]))], lines[case])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    rows[-1].set_xlabel(x_label)
    return to_files(figure)


def _ink(color: str) -> str:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = to_rgb(color)
    # Rec. 709 luma; text in white needs a dark ground.
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > LIGHT else "white"


def _rest(ranked: pd.DataFrame, name: str, value: str, is_tie: str) -> str:
    """Say which alternatives may be as good as the best, and how far the next is behind."""
    others = ranked.iloc[1:]
    ties = others[others[is_tie].eq(True)]
    behind = others[~others[is_tie].eq(True)]
    said = []
    if len(ties):
        more = f" and {len(ties) - MOST_TIES} more" if len(ties) > MOST_TIES else ""
        said.append(f"or {', '.join(ties[name].iloc[:MOST_TIES])}{more}")
    if len(behind):
        said.append(f"{behind[name].iloc[0]} {1 - behind[value].iloc[0] / ranked[value].iloc[0]:.0%} behind")
    return "\n".join(said)
