"""Toy placements: overlap, spread, compact, and where the published placement loses.

Why does it matter on which nodes replicas sit, when their number is the same?
"""

import numpy as np
import pandas as pd

from lazsim import recovery_curve
from lazsim.output.plots.slots import slots_figure
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
