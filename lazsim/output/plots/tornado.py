"""The tornado chart: how far an advantage moves with each assumption, the widest on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes

from lazsim.output.plots.export import subplots, to_files
from lazsim.output.plots.paper import COLUMN_INCHES, LOOKS, PAPER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from lazsim.output.plots.paper import Look

LINE_INCHES = 0.16
SEEDS = "95 % over seeds"


def tornado_figure(
    varied: pd.DataFrame, base: float, values: Sequence[str], *, label: str, interval: tuple[float, float]
) -> dict[str, bytes]:
    """Draw the values of an advantage.

    Parameters
    ----------
    varied
        Columns ``assumption``, ``at`` (one of the values) and ``advantage``, assumptions in order.
    base
        The advantage as things stand.
    values
        Values that an assumption may take, such as ``x0.5``: each looks the same in every chart.
    label
        Name of the advantage.
    interval
        Its interval over seeds.
    """
    names = list(dict.fromkeys(varied["assumption"]))
    looks = dict(zip(values, LOOKS, strict=False))
    with matplotlib.rc_context(PAPER):
        figure, axes = subplots(figsize=(COLUMN_INCHES, 0.75 + LINE_INCHES * len(names)))
        _draw_bars(varied, base, looks, axes)
        axes.axvspan(*interval, color="0.88", zorder=0, label=SEEDS, linewidth=0)
        axes.axvline(base, color="black", linewidth=0.8)
        axes.axvline(1.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        handles, labels = axes.get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        unique = {value: by_label[value] for value in (*values, SEEDS) if value in by_label}
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=len(unique))
        return to_files(figure)


def _draw_bars(varied: pd.DataFrame, middle: float, looks: Mapping[str, Look], axes: Axes) -> None:
    place = {name: index for index, name in enumerate(dict.fromkeys(varied["assumption"]))}
    for row in varied.to_dict("records"):
        look = looks[row["at"]]
        axes.barh(
            place[row["assumption"]], row["advantage"] - middle, 0.7, left=middle, color=look.color,
            hatch=look.hatch, edgecolor="white", linewidth=0, label=row["at"], alpha=0.9,
        )  # fmt: skip
