"""The tornado chart: how far a headline moves with each assumption, the widest on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from lazsim.plots.export import to_files
from lazsim.plots.paper import COLUMN_INCHES, LOOKS, PAPER

if TYPE_CHECKING:
    import pandas as pd

LINE_INCHES = 0.16


def tornado_figure(varied: pd.DataFrame, base: pd.Series[float], label: str) -> dict[str, bytes]:
    """Draw a headline's values.

    Parameters
    ----------
    varied
        Columns ``assumption``, ``at`` (``x0.5``, ``x2`` or ``instead``) and ``advantage``, assumptions in order.
    base
        ``advantage`` as things stand, ``seeds_low`` and ``seeds_high``.
    label
        What the headline is called.
    """
    names = list(dict.fromkeys(varied["assumption"]))
    styles = dict(zip(dict.fromkeys(varied["at"]), LOOKS, strict=False))
    with plt.rc_context(PAPER):
        figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 + LINE_INCHES * len(names)), layout="constrained")
        _draw_bars(varied, float(base["advantage"]), names, axes)
        axes.axvspan(
            base["seeds_low"], base["seeds_high"], color="0.88", zorder=0, label="95 % over seeds", linewidth=0
        )
        axes.axvline(base["advantage"], color="black", linewidth=0.8)
        axes.axvline(1.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=len(styles) + 1)
        return to_files(figure)


def _draw_bars(varied: pd.DataFrame, middle: float, names: list[str], axes: Axes) -> None:
    styles = dict(zip(dict.fromkeys(varied["at"]), LOOKS, strict=False))
    for row in varied.to_dict("records"):
        look = styles[row["at"]]
        axes.barh(
            names.index(row["assumption"]), row["advantage"] - middle, 0.7, left=middle, color=look.color,
            hatch=look.hatch, edgecolor="white", linewidth=0, label=row["at"], alpha=0.9,
        )  # fmt: skip
