"""Toy placements: overlap, spread, compact, and where the published placement loses.

Why does it matter on which nodes replicas sit, when their number is the same?
"""

import math

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from lazsim import recovery_curve
from lazsim.output.plots.style import COLUMN_INCHES, PAPER, new_figure, picture
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.study.experiment import Outcome

SETTINGS = {
    "policies": ["mro", "spread", "compact", "euclid"],
    "examples": {
        "5 nodes of 2 slots, 4 experts with 2, 2, 3 and 3 replicas": {"nodes": 5, "slots": 2, "replicas": [2, 2, 3, 3]},
        "4 nodes of 3 slots, 6 experts with 2 replicas each": {"nodes": 4, "slots": 3, "replicas": [2] * 6},
        "3 nodes of 2 slots, 3 experts with 2 replicas each": {"nodes": 3, "slots": 2, "replicas": [2] * 3},
    },
}


SLOT_INCHES = 0.155
CAPTION_INCHES = 0.68


def run(context, settings):
    """Place each example by each policy, with the exact probability that every expert survives."""
    plans = {
        (title, policy): place(policy, PlacementRequest(np.array([one["replicas"]]), one["nodes"], one["slots"]))
        for title, one in settings["examples"].items()
        for policy in settings["policies"]
    }
    survival = pd.DataFrame(
        {"example": title, "policy": policy, "failures": failures, "recovery_prob": prob}
        for (title, policy), plan in plans.items()
        for failures, prob in recovery_probs(plan)
    )
    slots = pd.DataFrame(
        {"example": title, "policy": policy, "node": node, "experts": " ".join(map(str, sorted(experts)))}
        for (title, policy), plan in plans.items()
        for node, experts in enumerate(plan.slots_LNS[0].tolist())
    )
    captions = {
        key: [f"{failures} lost: {100 * prob:.0f} %" for failures, prob in recovery_probs(plan)[:2]]
        for key, plan in plans.items()
    }
    figure = slots_figure({key: plan.slots_LNS[0] for key, plan in plans.items()}, captions)
    return Outcome({"recovery": survival, "placements": slots}, {"placements": figure})


def recovery_probs(plan):
    """Return each number of failed nodes with the probability that every expert survives."""
    failures = range(1, plan.num_nodes)
    curve = recovery_curve(plan.holds_LEN, list(failures), method="exact")
    return list(zip(failures, curve.recovery_prob.tolist(), strict=True))


@picture(PAPER | {"axes.grid": False})
def slots_figure(slots, captions):
    """Draw a row of panels for each example, a panel for each policy, with lines of a caption below it.

    `slots` has the expert in each slot of each node, shape (N, S), by example and policy.
    """
    examples = list(dict.fromkeys(title for title, _ in slots))
    policies = list(dict.fromkeys(policy for _, policy in slots))
    rows = [max(array.shape[0] for (title, _), array in slots.items() if title == example) for example in examples]
    heights = [count * SLOT_INCHES + CAPTION_INCHES for count in rows]
    figure = new_figure(COLUMN_INCHES, math.fsum(heights), layout=None)
    top = math.fsum(heights)
    for example, num_nodes, height in zip(examples, rows, heights, strict=True):
        top -= height
        figure.text(
            0.01, (top + height - 0.11) / math.fsum(heights), example, va="center", fontsize=7, fontweight="bold"
        )
        for column, policy in enumerate(policies):
            array = slots[example, policy]
            panel = figure.add_axes(
                (
                    (column + 0.10) / len(policies),
                    (top + 0.27) / math.fsum(heights),
                    array.shape[1] * SLOT_INCHES / COLUMN_INCHES,
                    num_nodes * SLOT_INCHES / math.fsum(heights),
                )
            )
            draw_slots(array, panel)
            panel.set_title(policy, pad=2)
            panel.set_xlabel("\n".join(captions[example, policy]), fontsize=6, labelpad=2, loc="left")
    return figure


def draw_slots(array, axes):
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
