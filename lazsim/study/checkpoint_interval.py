"""Young's interval between checkpoints."""

import math

import numpy as np

from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.costmodel.step import StepCost
from lazsim.scenario import Scenario

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


def young_interval_steps(scenario: Scenario, between_failures_s: float) -> int:
    """Return Young's interval in steps of the scenario's system on its full cluster; at least 1.

    A system that recovers from survivors rarely goes back to a checkpoint: its interval is `FALLBACK_FACTOR` times it.
    """
    costs, cluster, system = scenario.costs(), scenario.cluster, scenario.find_system()
    load_LE = scenario.load_routing().loads([STEADY_STEP])[0]
    used = system.usable_nodes(costs, cluster.num_nodes)
    servers = np.arange(used) // cluster.nodes_per_server
    plan = system.plan(costs, used, load_LE)
    step_s = float(StepCost(costs, plan, system.layout(costs, servers)).step_s(load_LE[None])[0])
    interval_s = young_interval_s(checkpoint_save_s(costs), between_failures_s)
    return max(1, round(interval_s * (FALLBACK_FACTOR if system.recovers_from_peers else 1) / step_s))
