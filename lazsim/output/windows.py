"""Runs and traces over time: the unit of an axis, and means over windows. W counts windows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lazsim.engine.log import State
from lazsim.placement.plan import Floats
from lazsim.units import DAY_S, HOUR_S, MINUTE_S

SHORTEST_SHARE = 1 / 300
"""Part of the time under which spans between changes are joined: lines would lie on each other."""


def time_unit(wall_s: float) -> tuple[str, float]:
    """Choose the unit of a time axis."""
    if wall_s <= 3 * MINUTE_S:
        return "s", 1.0
    if wall_s <= 3 * HOUR_S:
        return "min", MINUTE_S
    if wall_s <= 3 * DAY_S:
        return "h", HOUR_S
    return "days", DAY_S


def windows(
    states: Sequence[State], wall_s: float, shortest_s: float = 0.0, *, at_any_change: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Cut a run into windows that end at changes, and average the samples per second in each.

    Return bounds, shape (W + 1,), and mean rates of kept and of lost samples, shape (W,): times the lengths they add
    up to the samples of the run. No window mixes times with and without nodes alive. Spans that are shorter than
    `shortest_s`, or than `SHORTEST_SHARE` of the run, are joined with those after them, unless these are long stops. A
    window ends where nodes leave or join the training, and where work that was kept turns into work that was lost:
    means over stretches with other numbers of checkpoints would differ. It may end `at_any_change` instead.

    Examples
    --------
    >>> states = [State(0.0, 2, 2, 3.0), State(20.0, 2, 2), State(30.0, 2, 2, 3.0), State(50.0, 0, 0)]
    >>> for values in windows(states, wall_s=60.0, shortest_s=5.0):
    ...     print(values.tolist())
    [0.0, 50.0, 60.0]
    [2.4, 0.0]
    [0.0, 0.0]
    """
    shortest_s = max(shortest_s, SHORTEST_SHARE * wall_s)
    cuts: list[tuple[float, bool, bool]] = []
    was_lost = False
    for before, after in pairwise(states):
        # A pause belongs to the work before it.
        is_lost = after.lost_samples_per_s > 0 or (was_lost and not after.samples_per_s)
        forced = (before.num_alive == 0) != (after.num_alive == 0)
        if at_any_change or forced or before.num_used != after.num_used or is_lost != was_lost:
            cuts.append((after.time_s, forced, after.num_used == 0))
        was_lost = is_lost
    bounds = [0.0]
    for (here_s, forced, stops), (next_s, *_) in pairwise([*cuts, (wall_s, True, False)]):
        if forced or here_s - bounds[-1] >= shortest_s or (stops and next_s - here_s >= shortest_s):
            bounds.append(here_s)
    bounds_s = np.array([*bounds, wall_s])
    times_s = [*(state.time_s for state in states), wall_s]
    kept, lost = (mean_rates(times_s, [state[column] for state in states], bounds_s) for column in (3, 4))
    return bounds_s, kept, lost


def mean_rates(times_s: Sequence[float], rates: npt.ArrayLike, bounds_s: Floats) -> Floats:
    """Average rates, each of which holds from one time to the next, over windows with these bounds, shape (W + 1,).

    Examples
    --------
    >>> mean_rates([0, 20, 60], [2, 5], np.array([0.0, 30.0, 60.0])).tolist()
    [3.0, 5.0]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(rates) * np.diff(times_s))])
    means_W: Floats = np.diff(np.interp(bounds_s, times_s, total)) / np.diff(bounds_s)
    return means_W
