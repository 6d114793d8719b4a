"""The interval between checkpoints: given, computed, or the best that simulations find."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lazsim.engine.interval import between_failures_s, interval_steps, steady_step_s
from lazsim.engine.simulate import simulate_system
from lazsim.errors import SpecError, prefix_errors
from lazsim.routing import Routing
from lazsim.scenario import Scenario
from lazsim.study.comparison import BySeed
from lazsim.study.intervals import Interval, ratio_interval
from lazsim.trace import Trace
from lazsim.units import parse_duration

AUTO = "auto"
"""Interval that stands for the best one."""

REFINEMENTS = (2.0, math.sqrt(2), 2**0.25)
"""Ratios of neighbouring intervals in each round of a search."""

MOST_ROUNDS = 12
"""Simulations of one ratio, at most: intervals of 2**12 times Young's are beyond any run."""


def young_interval_steps(scenario: Scenario, between_failures_s: float) -> int:
    """Return Young's interval in steps of the scenario's system on its full cluster; at least 1."""
    system, costs = scenario.find_system(), scenario.costs()
    return interval_steps(system, costs, scenario.load_routing(), scenario.cluster.num_nodes, between_failures_s)


def parse_interval(value: Any) -> str | int | float | None:
    """Read an interval: ``auto``, a number of steps, or a duration such as ``30min``, in seconds.

    Examples
    --------
    >>> parse_interval("auto"), parse_interval("250"), parse_interval("30min")
    ('auto', 250, 1800.0)
    """
    if value is None:
        return None
    if value == AUTO:
        return AUTO
    if isinstance(value, str) and not value.isdecimal():
        return parse_duration(value)
    steps = int(value)
    if not steps:
        raise SpecError("0 steps: give `auto`, 1 step or more, or a duration such as 30min")
    return steps


def choose_interval(scenario: Scenario, trace: Trace, loads: Routing) -> int:
    """Return the steps between checkpoints that a scenario asks for.

    The job's own where none is asked for, and Young's where that has none.
    """
    with prefix_errors("`interval`"):
        asked = parse_interval(scenario.interval)
    own = scenario.job.checkpoint_interval_steps.get(scenario.system)
    if asked is None and own is not None:
        return own
    if isinstance(asked, int):
        return asked
    system, costs, wall_s = scenario.find_system(), scenario.costs(), scenario.wall_s(trace)
    num_nodes = max(scenario.cluster.num_nodes, trace.most_nodes(wall_s))
    if not system.usable_nodes(costs, num_nodes):
        # The simulation says why.
        return 1
    if isinstance(asked, float):
        return max(1, round(asked / steady_step_s(system, costs, loads, num_nodes)))
    young = interval_steps(system, costs, loads, num_nodes, between_failures_s(trace, wall_s))
    if asked is None:
        return young
    return _best(
        young,
        lambda steps: (
            simulate_system(
                trace, system, costs, loads, wall_s, interval_steps=steps, spares=scenario.spares(trace)
            ).samples
        ),
    )


def _best(start: int, score: Callable[[int], float]) -> int:
    """Climb from a start to the integer of the highest score, by smaller and smaller ratios; ties go to the larger."""
    known: dict[int, float] = {}

    def scored(steps: int) -> tuple[float, int]:
        if steps not in known:
            known[steps] = score(steps)
        return known[steps], steps

    best = start
    for ratio in REFINEMENTS:
        for _ in range(MOST_ROUNDS):
            around = {best, max(1, round(best / ratio)), round(best * ratio)}
            found = max(around, key=scored)
            if found == best:
                break
            best = found
    return best


def fit_interval(values: Mapping[int, BySeed]) -> Interval | None:
    """Return where a value is greatest over the steps between checkpoints, with its 95 % interval over seeds.

    Parameters
    ----------
    values
        The value at each seed, by steps between checkpoints, such as samples trained; seeds that not all have are left
        out.

    Returns
    -------
    Interval or None
        Steps, not a whole number; None where fewer than three intervals were tried, or the value has no maximum between
        a save too many and too much work lost.

    Notes
    -----
    Saves cost a share of the time that falls with the interval ``n``, and lost work one that grows with it: ``value = c
    - a / n - b n``, fitted by least squares, is greatest at ``sqrt(a / b)`` (Young, Communications of the ACM 17 (1974)
    530). All runs together tell the maximum far more closely than the best of them does. Fitted from half to twice the
    interval, it is up to 2 % short where a save takes a twentieth of the time between failures, by the higher orders.

    Examples
    --------
    >>> round(fit_interval({n: {0: 100 - 64 / n - n} for n in (4, 8, 16)}).value, 6)
    8.0
    """
    if len(values) < 3:
        return None
    first, *others = values.values()
    seeds = [seed for seed in first if all(seed in other for other in others)]
    if not seeds:
        return None
    centre = math.exp(sum(map(math.log, values)) / len(values))
    share_I = np.array(list(values)) / centre
    value_IS = np.array([[by_seed[seed] for seed in seeds] for by_seed in values.values()])
    terms = np.stack([-1 / share_I, -share_I, np.ones(len(share_I))], axis=1)
    save_S, lost_S, _ = np.linalg.pinv(terms) @ value_IS
    if not (save_S.sum() > 0 and lost_S.sum() > 0):
        return None
    return Interval(*(centre * math.sqrt(max(0.0, bound)) for bound in ratio_interval(list(save_S), list(lost_S))))
