"""One look for every picture: small, legible in print and in grey."""

from typing import Any

COLORS = ("#1b6ca8", "#d1761a", "#555555", "#2f8f5b", "#a23b72")
"""Distinct also in grey, in the order in which series are drawn."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "grid.color": "0.85",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "lazsim",
}
"""Settings for `matplotlib.rc_context`, whose type names each of its keys."""
