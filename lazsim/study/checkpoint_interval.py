"""The setting of a system: published, given, or the best that simulations find."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lazsim.engine.interval import between_failures_s, interval_steps, steady_step_s
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import System
from lazsim.errors import SpecError, prefix_errors
from lazsim.routing import Routing
from lazsim.scenario import Scenario
from lazsim.study.comparison import BySeed
from lazsim.study.intervals import Interval, ratio_interval
from lazsim.study.memory import find_obstacle
from lazsim.trace import Trace
from lazsim.units import parse_duration

AUTO = "auto"
"""Interval that stands for the best one."""

REFINEMENTS = (2.0, math.sqrt(2))
"""Ratios of neighbouring intervals in each round of a search. At the best interval saves and lost work take as long as
each other, and an interval that is off by half of the last ratio costs 1.5 % of them."""

MOST_ROUNDS = 3
"""Steps of one ratio, at most. An interval of twenty times Young's only says that a trace has no rollback:
on another one it loses all."""


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


@dataclass(frozen=True)
class Setting:
    """A system with the values of its fields, and the steps between checkpoints."""

    system: System
    interval_steps: int


def choose_setting(scenario: Scenario, trace: Trace, loads: Routing) -> Setting:
    """Return the system and the steps between checkpoints that a scenario asks for.

    Where `interval` is ``auto``, they are those of the most samples that simulations find; see `_search`. Else the
    system is as published. The interval is the one asked for, the job's own, or Young's where that has none.
    """
    with prefix_errors("`interval`"):
        asked = parse_interval(scenario.interval)
    system, own = scenario.find_system(), scenario.job.checkpoint_interval_steps.get(scenario.system)
    if isinstance(asked, int):
        return Setting(system, asked)
    if asked is None and own is not None:
        return Setting(system, own)
    costs, wall_s = scenario.costs(), scenario.wall_s(trace)
    num_nodes = max(scenario.cluster.num_nodes, trace.most_nodes(wall_s))
    if not system.usable_nodes(costs, num_nodes):
        # The simulation says why.
        return Setting(system, 1)
    if isinstance(asked, float):
        return Setting(system, max(1, round(asked / steady_step_s(system, costs, loads, num_nodes))))
    between_s = between_failures_s(trace, wall_s)
    start = Setting(system, own or interval_steps(system, costs, loads, num_nodes, between_s))
    return start if asked is None else _search(scenario, trace, loads, start, num_nodes)


def _search(scenario: Scenario, trace: Trace, loads: Routing, start: Setting, num_nodes: int) -> Setting:
    """Find the setting that trains most samples on a trace: first each field of the system, then the interval.

    What does not fit into the memory of the nodes or their GPUs is not tried, beside the start.
    """
    costs, wall_s = scenario.costs(), scenario.wall_s(trace)

    @functools.cache
    def samples(setting: Setting) -> int:
        return simulate_system(
            trace,
            setting.system,
            costs,
            loads,
            wall_s,
            interval_steps=setting.interval_steps,
            planning=scenario.planning,
            spares=scenario.spares(trace),
        ).samples

    best = start
    for name, values in start.system.choices().items():
        others = [replace(best.system, **dict[str, Any]({name: value})) for value in values]
        fitting = [replace(best, system=one) for one in others if not find_obstacle(scenario, one, loads, num_nodes)]
        best = max((best, *fitting), key=samples)
    steps = climb(best.interval_steps, lambda steps: samples(replace(best, interval_steps=steps)))
    return replace(best, interval_steps=steps)


def climb(start: int, score: Callable[[int], float]) -> int:
    """Climb from a start to the integer of the highest score, by smaller and smaller ratios; ties go to the larger."""
    best = start
    for ratio in REFINEMENTS:
        for _ in range(MOST_ROUNDS):
            around = {best, max(1, round(best / ratio)), round(best * ratio)}
            found = max(around, key=lambda steps: (score(steps), steps))
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
