"""How unevenly the placement of a run shares tokens among GPUs, beside what another policy would do."""

import contextlib
from dataclasses import replace

import numpy as np

from lazsim.costmodel.step import slots_by_gpu
from lazsim.engine.simulate import SystemRun
from lazsim.errors import InfeasiblePlanError
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.placement.policies import find_policy
from lazsim.routing import Routing
from lazsim.scenario import Scenario
from lazsim.trace.table import Trace
from lazsim.units import counted

BALANCED = "balanced"
"""The policy that spreads loads most evenly."""

TOLD_GAIN = 0.25
"""What another policy takes from the busiest GPU, as a share of the mean tokens, from which on it is told."""

LONG_SHARE = 0.1
"""Share of the time for which nodes are as many, from which on their plan counts."""


def unevenness_notes(scenario: Scenario, run: SystemRun, trace: Trace, loads: Routing) -> list[str]:
    """Say by how much the busiest GPU is ahead under the first loads, where `BALANCED` has it less far ahead.

    With some numbers of nodes, whole numbers of replicas fit the loads badly: each that lasts long counts.
    """
    system, costs = scenario.find_system(), scenario.costs()
    if not system.is_elastic or not run.steps:
        return []
    times_s, num_alive = trace.num_alive()
    spans_s = np.diff(np.append(times_s, max(run.wall_s, times_s[-1])).clip(max=run.wall_s))
    most_nodes = trace.most_nodes(run.wall_s) - scenario.num_spares
    counts, index = np.unique(num_alive.clip(max=most_nodes), return_inverse=True)
    used = np.array([system.usable_nodes(costs, count) for count in counts.tolist()])[index]
    balanced = replace(system, policy=find_policy(BALANCED))
    load_LE, gpus = loads.loads([0])[0], costs.cluster.gpus_per_node
    found = [(0.0, 0.0, 0, 0.0)]
    for num_nodes in np.unique(used[used > 0]).tolist():
        share = float(spans_s[used == num_nodes].sum()) / run.wall_s
        if share >= LONG_SHARE:
            with contextlib.suppress(InfeasiblePlanError):
                own, other = (
                    float(busiest_L(one.plan(costs, num_nodes, load_LE), load_LE, gpus).mean())
                    for one in (system, balanced)
                )
                found.append((own - other, own, num_nodes, share))
    gain, own, num_nodes, share = max(found)
    if gain < TOLD_GAIN:
        return []
    where = f"on {counted(num_nodes, 'node')}, {share:.0%} of the time"
    return [
        f"{where}, the busiest GPU has {own:.2f} times the mean tokens, and the others wait for it; "
        f"{own - gain:.2f} times with `placement` {BALANCED}; `lazsim recovery` tells what each survives"
    ]


def busiest_L(plan: PlacementPlan, load_LE: Ints, gpus_per_node: int) -> Floats:
    """Return the tokens of the busiest GPU over the mean of those that hold experts, by layer.

    Examples
    --------
    >>> busiest_L(PlacementPlan(np.array([[[0, 0], [0, 1]]]), num_experts=2), np.array([[3, 3]]), 2).tolist()
    [2.0]
    """
    share_LE = np.zeros((plan.num_layers, plan.num_experts + 1))
    share_LE[:, :-1] = load_LE / plan.replicas_LE
    gpu_LG: Floats = share_LE.reshape(-1).take(slots_by_gpu(plan, gpus_per_node)).sum(axis=0)
    ratio_L: Floats = gpu_LG.max(axis=1) * (gpu_LG > 0).sum(axis=1) / gpu_LG.sum(axis=1)
    return ratio_L
