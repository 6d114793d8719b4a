"""A map of the best of several alternatives over two settings, one panel for each case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
from matplotlib.patches import Rectangle

from lazsim.output.plots.style import PAPER, looks_of, new_figure, to_files

if TYPE_CHECKING:
    import pandas as pd

PANEL_INCHES = (5.6, 1.7)
TIE = 0.98
"""Share of the best value from which on an alternative is named beside the best."""


@matplotlib.rc_context(PAPER | {"axes.grid": False})
def winners_figure(
    frame: pd.DataFrame, *, panels: str, x: str, y: str, name: str, value: str, x_label: str, y_label: str
) -> dict[str, bytes]:
    """Draw a cell for each pair of settings, in the colour of its best alternative.

    A cell names the best, by how much the next is behind, and those within 2 % of the best.

    Parameters
    ----------
    frame
        A row for each alternative in each cell.
    panels, x, y, name, value
        Columns: of the panel, the settings across and up, the alternative, and the value that is the more the better.
    x_label, y_label
        Names of the axes, with units.
    """
    cases = list(dict.fromkeys(frame[panels]))
    figure = new_figure(PANEL_INCHES[0], PANEL_INCHES[1] * len(cases) + 0.3)
    looks = looks_of(sorted(set(frame[name])))
    rows = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(rows, cases, strict=True):
        part = frame[frame[panels] == case]
        columns, lines = sorted(set(part[x])), sorted(set(part[y]))
        for (at_x, at_y), cell in part.groupby([x, y], sort=False):
            ranked = cell.sort_values(value, ascending=False)
            best, ties = ranked.iloc[0], ranked[ranked[value] >= TIE * ranked[value].iloc[0]][name].to_list()
            place = columns.index(at_x), lines.index(at_y)
            axes.add_patch(Rectangle(place, 1, 1, facecolor=looks[best[name]].color, edgecolor="white", alpha=0.85))
            others = ranked[~ranked[name].isin(ties)]
            text = "\n= ".join(ties)
            if len(others):
                behind = 1 - others[value].iloc[0] / best[value]
                text += f"\n{others[name].iloc[0]} {behind:.0%} behind"
            axes.text(
                place[0] + 0.5, place[1] + 0.5, text, ha="center", va="center", color="white", fontsize=5.5, wrap=True
            )
        axes.set(xlim=(0, len(columns)), ylim=(0, len(lines)), title=case, ylabel=y_label)
        axes.set_xticks([index + 0.5 for index in range(len(columns))], [f"{column:g}" for column in columns])
        axes.set_yticks([index + 0.5 for index in range(len(lines))], [f"{line:g}" for line in lines])
    rows[-1].set_xlabel(x_label)
    return to_files(figure)
