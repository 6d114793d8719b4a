"""One layer under ever more skewed loads: how fast it is, and how likely its experts survive."""

from __future__ import annotations

import numpy as np

from lazsim.costmodel.step import CostModel, StepCost
from lazsim.engine.systems import SYSTEMS, System
from lazsim.experiments.bench import Bench
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import recovery_curve
from lazsim.scenario import resolve

LAYER_PARTS = ("reorder", "expert", "all_to_all")
"""What belongs to an MoE layer alone: gate and reorder, the experts, and the exchange of tokens, there and back."""

TOKENS = 1 << 20
"""Resolution of the loads."""


class LoadRatio(Experiment, frozen=True, kw_only=True, tag="load-ratio"):
    """One layer, and the loads that it gets.

    Attributes
    ----------
    model, cluster, job : str
        Names of the catalogue; of the model only widths count.
    num_experts : int
        Experts of the layer.
    ratios : tuple of float
        Load of one expert over its even share; the others share the rest evenly.
    systems, policies : tuple of str
        Whose throughput, and whose recovery probability.
    failures : tuple of int
        How many nodes fail at once.
    """

    model: str
    cluster: str
    job: str
    num_experts: int
    ratios: tuple[float, ...]
    systems: tuple[str, ...]
    policies: tuple[str, ...]
    failures: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(0 < ratio < self.num_experts for ratio in self.ratios):
            raise ValueError(f"ratios must be above 0 and below the number of experts, {self.num_experts}")


def run_load_ratio(spec: LoadRatio, _bench: Bench) -> Outcome:
    """Find throughput and recovery probability for each ratio."""
    import pandas as pd

    from lazsim.output.plots.experiments import lines_figure

    costs = layer_costs(spec)
    loads = {ratio: skewed_load(spec.num_experts, ratio) for ratio in spec.ratios}
    speeds = pd.DataFrame(
        [
            {"load_ratio": ratio, "system": name} | layer_speed(SYSTEMS[name], costs, load_LE)
            for ratio, load_LE in loads.items()
            for name in spec.systems
        ]
    )
    probs = pd.DataFrame(
        [
            {"load_ratio": ratio, "policy": policy, "failures": count, "recovery_prob": prob}
            for ratio, load_LE in loads.items()
            for policy in spec.policies
            for count, prob in zip(spec.failures, _survival(policy, costs, load_LE, spec.failures), strict=True)
        ]
    )
    x_label = "load of one expert / even share"
    figures = {
        "throughput": lines_figure(
            speeds, x="load_ratio", y="tokens_per_s", series="system", x_label=x_label,
            y_label="layer throughput\n(tokens/s)", limits=(0, None),
        ),
        "recovery-probability": lines_figure(
            probs, x="load_ratio", y="recovery_prob", series="policy", panels=("failures",), x_label=x_label,
            y_label="recovery probability", limits=(0, 1.03),
        ),
    }  # fmt: skip
    return Outcome({"throughput": speeds, "recovery-probability": probs}, figures)


def layer_costs(spec: LoadRatio) -> CostModel:
    """Return the cost model of one such layer."""
    one_layer = {"model.num_layers": 1, "model.num_moe_layers": 1, "model.num_experts": spec.num_experts}
    return resolve({"model": spec.model, "cluster": spec.cluster, "job": spec.job} | one_layer).costs()


def skewed_load(num_experts: int, ratio: float) -> Ints:
    """Return loads of one layer, shape (1, E): one expert draws so many times its even share.

    Examples
    --------
    >>> skewed_load(4, 2.5) / TOKENS
    array([[0.625, 0.125, 0.125, 0.125]])
    """
    rest = (num_experts - ratio) / (num_experts - 1)
    share = np.array([[ratio] + [rest] * (num_experts - 1)]) / num_experts
    return np.rint(share * TOKENS).astype(np.int64)


def layer_speed(system: System, costs: CostModel, load_LE: Ints) -> dict[str, float]:
    """Return the tokens that the layer takes in a second, forward and backward, and what its time consists of."""
    cluster = costs.cluster
    used = system.usable_nodes(costs, cluster.num_nodes)
    plan = system.plan(costs, used, load_LE)
    servers = np.arange(used) // cluster.nodes_per_server
    parts = StepCost(costs, plan, system.layout(costs, servers)).parts_s(load_LE[None])
    seconds = {f"{name}_s": float(parts[name][0]) for name in LAYER_PARTS}
    tokens = used * cluster.gpus_per_node * costs.tokens_per_gpu * costs.job.num_micro_batches
    return {"tokens_per_s": tokens / sum(seconds.values()), "num_nodes": used} | seconds


def _survival(policy: str, costs: CostModel, load_LE: Ints, failures: tuple[int, ...]) -> list[float]:
    cluster = costs.cluster
    replicas = allocate(load_LE, cluster.num_nodes * cluster.slots_per_node, costs.job.fault_threshold)
    request = PlacementRequest(replicas, cluster.num_nodes, cluster.slots_per_node, cluster.gpus_per_node, load_LE)
    prob_F: list[float] = recovery_curve(place(policy, request).holds_LEN, failures, "exact").recovery_prob.tolist()
    return prob_F
