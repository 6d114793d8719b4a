"""Young's interval between checkpoints."""

import math

import numpy as np

from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.costmodel.step import StepCost
from lazsim.engine.systems import SYSTEMS
from lazsim.scenario import resolve

STEADY_STEP = 1000
"""A step at which loads are as skewed as they get."""

FALLBACK_FACTOR = 5
"""Published intervals are 50 steps for `ds` and 250 for `ds-ft`, or 200 and 1000 (Lazarus, arXiv 2407.04656)."""


def young_interval_s(save_s: float, between_failures_s: float) -> float:
    """Return Young's interval between checkpoints.

    Notes
    -----
    ``sqrt(2 * save * mean time between failures)``: Young, Communications of the ACM 17 (1974) 530.

    Examples
    --------
    >>> young_interval_s(save_s=2.0, between_failures_s=100.0)
    20.0
    """
    return math.sqrt(2 * save_s * between_failures_s)


def young_interval_steps(
    system: str, model: str, cluster: str, job: str, between_failures_s: float, routing: str = "smartmoe-fit"
) -> int:
    """Return Young's interval in steps of a system on its full cluster, under the loads of seed 0; at least 1.

    Notes
    -----
    A system that recovers from the states of survivors rarely goes back to a checkpoint: its interval is
    `FALLBACK_FACTOR` times as long.
    """
    scenario = resolve({"model": model, "cluster": cluster, "job": job, "routing": routing, "system": system})
    costs, cluster_spec = scenario.costs(), scenario.cluster
    load_LE = scenario.load_routing().loads([STEADY_STEP])[0]
    chosen = SYSTEMS[system]
    used = chosen.usable_nodes(costs, cluster_spec.num_nodes)
    servers = np.arange(used) // cluster_spec.nodes_per_server
    plan = chosen.plan(costs, used, load_LE)
    step_s = float(StepCost(costs, plan, chosen.layout(costs, servers)).step_s(load_LE[None])[0])
    interval_s = young_interval_s(checkpoint_save_s(costs), between_failures_s)
    return max(1, round(interval_s * (FALLBACK_FACTOR if chosen.recovers_from_peers else 1) / step_s))
