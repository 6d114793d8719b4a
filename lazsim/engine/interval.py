"""Steps between checkpoints: from the mean time between failures."""

import math

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine.systems.system import Save, System
from lazsim.placement.plan import PlacementPlan
from lazsim.routing import Routing

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


def daly_interval_s(save_s: float, between_failures_s: float) -> float:
    """Return Daly's higher-order interval between checkpoints, without the save.

    Notes
    -----
    With ``x = save / (2 M)`` it is ``sqrt(2 save M) (1 + sqrt(x) / 3 + x / 9) - save``, and ``M`` where the save takes
    ``2 M`` or more: Daly, Future Generation Computer Systems 22 (2006) 303, equation 37.

    Examples
    --------
    >>> round(daly_interval_s(save_s=2.0, between_failures_s=100.0), 3)
    18.689
    """
    if save_s >= 2 * between_failures_s:
        return between_failures_s
    share = save_s / (2 * between_failures_s)
    return young_interval_s(save_s, between_failures_s) * (1 + math.sqrt(share) / 3 + share / 9) - save_s


def interval_steps(system: System, costs: CostModel, routing: Routing, num_nodes: int, between_s: float) -> int:
    """Return the steps between checkpoints of a system on the most nodes that it can use of `num_nodes`; at least 1.

    They are those that are published for the system (`System.interval_s`), else Young's. A system that outlives the
    loss of any one node rarely goes back to a checkpoint: its interval is `FALLBACK_FACTOR` times Young's. One that
    writes beside training saves as soon as the last save is written.
    """
    plan, step_s = _steady(system, costs, routing, num_nodes)
    save = system.save(costs, plan.num_nodes, step_s)
    interval_s = system.interval_s(costs, plan, save, between_s)
    if interval_s is None:
        rarely = system.outlives_a_loss(costs, plan, num_nodes)
        rarely = rarely or system.memory_lag_steps(costs, num_nodes, step_s) is not None
        interval_s = young_interval_s(save.stall_s, between_s) * (FALLBACK_FACTOR if rarely else 1)
    return max(round(interval_s / step_s), _written_steps(save, step_s))


def fewest_steps(system: System, costs: CostModel, routing: Routing, num_nodes: int) -> int:
    """Return the fewest steps between checkpoints: the next save waits until the last one is written."""
    plan, step_s = _steady(system, costs, routing, num_nodes)
    return _written_steps(system.save(costs, plan.num_nodes, step_s), step_s)


def _written_steps(save: Save, step_s: float) -> int:
    return max(1, math.ceil(save.persist_s / step_s))


def steady_step_s(system: System, costs: CostModel, routing: Routing, num_nodes: int) -> float:
    """Return the seconds of a step on the most nodes that a system can use of `num_nodes`."""
    return _steady(system, costs, routing, num_nodes)[1]


def _steady(system: System, costs: CostModel, routing: Routing, num_nodes: int) -> tuple[PlacementPlan, float]:
    load_LE = routing.loads([STEADY_STEP])[0]
    used = system.usable_nodes(costs, num_nodes)
    plan = system.plan(costs, system.num_seats(costs, used), load_LE)
    num_timed, factor, _ = system.timed(costs, used, plan.num_nodes)
    timed = plan if num_timed == plan.num_nodes else system.plan(costs, num_timed, load_LE)
    servers = np.arange(num_timed) // costs.cluster.nodes_per_server
    times = costs.step_times(timed, system.dispatch(costs, servers))
    return plan, factor * float(times.step_s(load_LE[None])[0])
