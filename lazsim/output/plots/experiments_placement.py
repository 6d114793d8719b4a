"""The figure of toy placements: experts on nodes by each policy, with how likely all of them survive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lazsim.output.plots.export import to_files
from lazsim.output.plots.paper import COLUMN_INCHES, PAPER

if TYPE_CHECKING:
    import pandas as pd

SLOT_INCHES = 0.155
CAPTION_INCHES = 0.68


def toy_figure(slots: Mapping[tuple[str, str], npt.NDArray[np.int64]], survival: pd.DataFrame) -> dict[str, bytes]:
    """Draw a row of panels for each example, a panel for each policy.

    Parameters
    ----------
    slots
        Expert in each slot of each node, shape (N, S), by example and policy.
    survival
        Columns ``example``, ``policy``, ``failures``, ``recovery_prob``.
    """
    examples = list(dict.fromkeys(title for title, _ in slots))
    policies = list(dict.fromkeys(policy for _, policy in slots))
    rows = [max(array.shape[0] for (title, _), array in slots.items() if title == example) for example in examples]
    heights = [count * SLOT_INCHES + CAPTION_INCHES for count in rows]
    with plt.rc_context(PAPER | {"axes.grid": False}):
        figure = plt.figure(figsize=(COLUMN_INCHES, sum(heights)))
        top = sum(heights)
        for example, num_nodes, height in zip(examples, rows, heights, strict=True):
            top -= height
            figure.text(0.01, (top + height - 0.11) / sum(heights), example, va="center", fontsize=7, fontweight="bold")
            for column, policy in enumerate(policies):
                array = slots[example, policy]
                panel = figure.add_axes(
                    (
                        (column + 0.10) / len(policies),
                        (top + 0.27) / sum(heights),
                        array.shape[1] * SLOT_INCHES / COLUMN_INCHES,
                        num_nodes * SLOT_INCHES / sum(heights),
                    )
                )
                chosen = survival[(survival["example"] == example) & (survival["policy"] == policy)]
                _draw_slots(array, panel)
                panel.set_title(policy, pad=2)
                panel.set_xlabel(_survives(chosen["recovery_prob"].tolist()), fontsize=6, labelpad=2, loc="left")
        return to_files(figure)


def _survives(probs: list[float]) -> str:
    """Say how likely every expert survives the loss of one node and of two."""
    lines = (f"{count} lost: {100 * prob:.0f} %" for count, prob in enumerate(probs[:2], start=1))
    return "\n".join(lines)


def _draw_slots(array: npt.NDArray[np.int64], axes: Axes) -> None:
    """Draw nodes as rows of numbered slots, a shade of grey for each expert."""
    num_nodes, num_slots = array.shape
    num_experts = int(array.max()) + 1
    for node, slot in np.ndindex(num_nodes, num_slots):
        expert = int(array[node, slot])
        shade = 0.97 - 0.55 * expert / max(1, num_experts - 1)
        axes.add_patch(Rectangle((slot, node), 1, 1, facecolor=str(round(shade, 3)), edgecolor="white", linewidth=0.8))
        axes.text(slot + 0.5, node + 0.52, str(expert), ha="center", va="center", fontsize=6)
    axes.set_xlim(0, num_slots)
    axes.set_ylim(num_nodes, 0)
    axes.set_xticks([])
    axes.set_yticks([node + 0.5 for node in range(num_nodes)], [str(node) for node in range(num_nodes)], fontsize=5.5)
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)
