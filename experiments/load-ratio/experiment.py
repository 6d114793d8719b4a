"""One layer under ever more skewed loads.

When one expert draws several times its even share, how fast is the layer, and do its experts survive failures?

Axes: L layers, E experts.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from lazsim import recovery_curve
from lazsim.costmodel.step import StepCost
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import SpecError
from lazsim.output.plots.charts import lines_figure
from lazsim.placement.policies import find_policy
from lazsim.scenario import resolve
from lazsim.study.experiment import Outcome

SETTINGS = {
    # Of the model only widths count: a d_model of 1024.
    "model": "gpt-m",
    "cluster": "rtx3090x10",
    "job": "testbed-a",
    "num_experts": 8,
    # Load of one expert over its even share; the others share the rest evenly.
    "ratios": [1, 1.5, 2, 3, 4, 5, 6, 7],
    "systems": ["lazarus", "dropless", "tutel", "ds"],
    "policies": ["mro", "spread", "compact", "euclid", "ep"],
    "failures": [2, 3, 4, 5],
}

SMALL = {"ratios": [1, 2, 4]}

LAYER_PARTS = ("reorder", "expert", "all_to_all")
"""Parts of a step in an MoE layer alone: gate and reorder, the experts, and the exchange of tokens, there and back."""

TOKENS = 1 << 20
"""Resolution of the loads."""

X_LABEL = "load of one expert / even share"


def run(context, settings):
    """Find throughput and recovery probability for each ratio."""
    costs = layer_costs(settings)
    loads = {ratio: skewed_load(settings["num_experts"], ratio) for ratio in settings["ratios"]}
    speeds = pd.DataFrame(
        {"load_ratio": ratio, "system": name} | layer_speed(SYSTEMS[name], costs, load_LE)
        for ratio, load_LE in loads.items()
        for name in settings["systems"]
    )
    failures = settings["failures"]
    probs = pd.DataFrame(
        {"load_ratio": ratio, "policy": policy, "failures": count, "recovery_prob": prob}
        for ratio, load_LE in loads.items()
        for policy in settings["policies"]
        for count, prob in zip(failures, recovery_probs(policy, costs, load_LE, failures), strict=True)
    )
    figures = {
        "throughput": lines_figure(
            speeds, x="load_ratio", y="tokens_per_s", series="system", x_label=X_LABEL,
            y_label="layer throughput\n(tokens/s)", limits=(0, None),
        ),
        "recovery-probability": lines_figure(
            probs, x="load_ratio", y="recovery_prob", series="policy", panels=("failures",), x_label=X_LABEL,
            y_label="recovery probability", limits=(0, 1.03),
        ),
    }  # fmt: skip
    return Outcome({"throughput": speeds, "recovery-probability": probs}, figures)


def layer_costs(settings):
    """Return the cost model of one such layer."""
    shape = {"model.num_layers": 1, "model.num_moe_layers": 1, "model.num_experts": settings["num_experts"]}
    return resolve({key: settings[key] for key in ("model", "cluster", "job")} | shape).costs()


def skewed_load(num_experts, ratio):
    """Return loads of one layer, shape (1, E): one expert draws `ratio` times its even share.

    Examples
    --------
    >>> skewed_load(4, 2.5) / TOKENS
    array([[0.625, 0.125, 0.125, 0.125]])
    """
    if not 0 < ratio < num_experts:
        raise SpecError(f"ratios: {ratio}: give more than 0 and less than the number of experts, {num_experts}")
    rest = (num_experts - ratio) / (num_experts - 1)
    share = np.array([[ratio] + [rest] * (num_experts - 1)]) / num_experts
    return np.rint(share * TOKENS).astype(np.int64)


def layer_speed(system, costs, load_LE):
    """Return the tokens that pass the layer in a second, forward and backward, and the parts of its time."""
    cluster = costs.cluster
    used = system.usable_nodes(costs, cluster.num_nodes)
    plan = system.plan(costs, used, load_LE)
    servers = np.arange(used) // cluster.nodes_per_server
    parts = StepCost(costs, plan, system.dispatch(costs, servers)).parts_s(load_LE[None])
    seconds = {f"{name}_s": float(parts[name][0]) for name in LAYER_PARTS}
    tokens = used * cluster.gpus_per_node * costs.tokens_per_gpu * costs.job.num_micro_batches
    return {"tokens_per_s": tokens / math.fsum(seconds.values()), "num_nodes": used} | seconds


def recovery_probs(policy, costs, load_LE, failures):
    """Return the exact probabilities that every expert survives, one for each number of failed nodes."""
    plan = replace(SYSTEMS["lazarus"], policy=find_policy(policy)).plan(costs, costs.cluster.num_nodes, load_LE)
    return recovery_curve(plan.holds_LEN, failures, "exact").recovery_prob.tolist()
