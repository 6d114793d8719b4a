"""The picture of plans: which expert is in which slot of which node, by popularity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from lazsim.output.maps import LayerMap, with_equals
from lazsim.output.plots.charts import amounts_map, number_log_axis
from lazsim.output.plots.style import RED, STYLE, ink, new_figure, picture, write_beside
from lazsim.units import counted

EMPTY_COLOR = "0.93"
LARGEST_INCHES, SMALLEST_INCHES = 0.24, 0.03
"""Sides of a slot: smaller ones are no squares. Numbers are written into those that hold them."""

PANEL_INCHES = 3.2
"""Side that a panel should not exceed."""

MAX_COLUMNS = 4
"""Panels side by side."""


@picture(STYLE | {"axes.grid": False}, tight=True)
def placement_figure(maps: Sequence[LayerMap]) -> Figure:
    """Draw plans beside one another."""
    num_nodes, num_slots = maps[0].slots_NS.shape
    sides = tuple(min(LARGEST_INCHES, PANEL_INCHES / number) for number in (num_slots, num_nodes))
    if min(sides) >= SMALLEST_INCHES:
        sides = (min(sides), min(sides))
    columns = min(len(maps), MAX_COLUMNS)
    rows = -(-len(maps) // columns)
    width = columns * max(num_slots * sides[0] + 0.45, 1.95) + 0.8
    height = rows * (num_nodes * sides[1] + 0.75) + 0.35
    norm = _share_norm(maps)
    figure = new_figure(width, height, ConstrainedLayoutEngine(w_pad=0.08, hspace=0.04, compress=True))
    panels = figure.subplots(rows, columns, squeeze=False)
    for unused in panels.flat[len(maps) :]:
        unused.set_axis_off()
    for one, panel in zip(maps, panels.flat, strict=False):
        _draw_placement(one, norm, panel, sides)
    for panel in panels[:, 0]:
        panel.set_ylabel("node")
    for panel in panels.flat[max(0, len(maps) - columns) : len(maps)]:
        panel.set_xlabel("slot")
    # Where all experts have the same share, all have the same colour, which says nothing.
    if isinstance(norm, LogNorm):
        bar = figure.colorbar(
            ScalarMappable(norm, amounts_map()), ax=panels.ravel().tolist(), label="expert's share of tokens",
            shrink=0.7, aspect=40, pad=0.02,
        )  # fmt: skip
        number_log_axis(bar.ax.yaxis)
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    return figure


def _share_norm(maps: Sequence[LayerMap]) -> Normalize:
    """Return one scale of popularity for all panels: logarithmic, since a few experts draw most tokens."""
    shares = np.concatenate([one.share_E for one in maps])
    high = float(shares.max())
    low = max(float(shares[shares > 0].min()), high / 1000)
    return LogNorm(low, high) if low < high else Normalize(0, 2 * high)


def _draw_placement(one: LayerMap, norm: Normalize, axes: Axes, sides_inches: tuple[float, ...]) -> None:
    """Draw nodes by slots, coloured by the expert's popularity; the most endangered expert has a red frame."""
    num_nodes, num_slots = one.slots_NS.shape
    side_inches = min(sides_inches)
    # Experts without tokens are as pale as the least popular: their logarithm has no place on the scale.
    shown_E = np.maximum(one.share_E, norm.vmin if norm.vmin is not None else 0.0)
    shown = np.where(one.slots_NS >= 0, shown_E[one.slots_NS], np.nan)
    edges = np.arange(num_slots + 1) - 0.5, np.arange(num_nodes + 1) - 0.5
    axes.pcolormesh(
        *edges, shown, norm=norm, cmap=amounts_map().with_extremes(bad=EMPTY_COLOR),
        edgecolor="white" if side_inches >= 0.08 else "none", linewidth=0.6,
    )  # fmt: skip
    axes.set_box_aspect(num_nodes * sides_inches[1] / (num_slots * sides_inches[0]))
    axes.invert_yaxis()
    digits = len(str(len(one.share_E) - 1))
    if side_inches >= 0.075 * digits + 0.05:
        inks, size = [ink(color) for color in amounts_map()(norm(shown_E))], min(8.0, 42 * side_inches * 0.75)
        for (node, slot), expert in np.ndenumerate(one.slots_NS):
            if expert >= 0:
                axes.text(slot, node, str(expert), ha="center", va="center", fontsize=size, color=inks[int(expert)])
    for node, slot in np.argwhere(one.slots_NS == one.expert).tolist():
        axes.add_patch(
            Rectangle(
                (slot - 0.5, node - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=max(0.8, 7 * side_inches),
                clip_on=False, zorder=3,
            )
        )  # fmt: skip
    axes.set_xticks(range(0, num_slots, _tick_step(sides_inches[0])))
    axes.set_yticks(range(0, num_nodes, _tick_step(sides_inches[1])))
    axes.tick_params(length=0, labelsize=6)
    axes.spines[:].set_visible(False)
    axes.set_title(one.title, loc="left", fontweight="bold", pad=14)
    named = with_equals(one.expert if one.num_as_endangered > 1 else f"expert {one.expert}", one.num_as_endangered)
    least = f"least safe: {named}, on {counted(one.num_nodes, 'node')}"
    write_beside(axes, least, (0, 1), (0, 4), color=RED)


def _tick_step(side_inches: float) -> int:
    """Return a power of two with at least a quarter of an inch between labels, if those of all would be closer."""
    return 1 if side_inches >= 0.16 else 2 ** math.ceil(math.log2(max(0.25 / side_inches, 1)))
