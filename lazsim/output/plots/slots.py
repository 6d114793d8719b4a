"""Small placements side by side: the experts on each node, by example and policy, with a caption below each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lazsim.output.plots.style import COLUMN_INCHES, PAPER, new_figure, to_files

SLOT_INCHES = 0.155
CAPTION_INCHES = 0.68


@matplotlib.rc_context(PAPER | {"axes.grid": False})
def slots_figure(
    slots: Mapping[tuple[str, str], npt.NDArray[np.int64]], captions: Mapping[tuple[str, str], Sequence[str]]
) -> dict[str, bytes]:
    """Draw a row of panels for each example, a panel for each policy.

    Parameters
    ----------
    slots
        Expert in each slot of each node, shape (N, S), by example and policy.
    captions
        Lines below each panel, by example and policy.
    """
    examples = list(dict.fromkeys(title for title, _ in slots))
    policies = list(dict.fromkeys(policy for _, policy in slots))
    rows = [max(array.shape[0] for (title, _), array in slots.items() if title == example) for example in examples]
    heights = [count * SLOT_INCHES + CAPTION_INCHES for count in rows]
    figure = new_figure(COLUMN_INCHES, sum(heights), layout=None)
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
            _draw_slots(array, panel)
            panel.set_title(policy, pad=2)
            panel.set_xlabel("\n".join(captions[example, policy]), fontsize=6, labelpad=2, loc="left")
    return to_files(figure)


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
