"""Steps that are equally long and surely end before anything else happens, with the saves between them."""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from lazsim.engine.systems.system import Save

MOST_STEPS_AHEAD = 10_000
"""Steps that are made at once, at most."""


class Lap(NamedTuple):
    """Steps from one step boundary to the next one at which something may be due."""

    stop_s: float
    """Time at which training stops for a save; that of `start_s` without one."""
    start_s: float
    end_s: float
    num_steps: int
    begins_with_save: bool


def boundaries(step: int, end: int, most_steps: int, intervals: Collection[int]) -> list[int]:
    """Return the steps, from one on, at which something may be due: multiples of `intervals` up to `end`.

    Of them, those that `most_steps` may get to.

    Examples
    --------
    >>> boundaries(3, 20, 100, [5, 8])
    [3, 5, 8, 10, 15, 16, 20]
    >>> boundaries(3, 20, 6, [5, 8])
    [3, 5, 8]
    """
    last = min(end, step + min(most_steps, MOST_STEPS_AHEAD) + 1)
    due = [range((step // interval + 1) * interval, last, interval) for interval in intervals]
    return [step, *sorted(set().union(*due)), *([end] if end == last else [])]


def saves_due(bounds: Sequence[int], interval_steps: int, saved_step: int) -> list[int]:
    """Return the boundaries at which a save is due, one at `saved_step` and then one every interval; none of 0.

    Examples
    --------
    >>> saves_due([7, 8, 10, 12, 15], 4, saved_step=3)
    [7, 8, 12]
    """
    due = list[int]()
    for step in bounds if interval_steps else ():
        if step // interval_steps > saved_step // interval_steps:
            due.append(step)
            saved_step = step
    return due


def find_laps(
    bounds: Sequence[int],
    step_s: float,
    now_s: float,
    quiet_s: float,
    saved_steps: Collection[int],
    written_s: float,
    save: Save,
) -> list[Lap]:
    """Return the laps between boundaries that end before `quiet_s`.

    Parameters
    ----------
    bounds
        See `boundaries`.
    step_s
        Seconds of each step.
    now_s, quiet_s
        The time of the first boundary, and that of the next event.
    saved_steps
        Boundaries at which a save is due, each of which takes as long as `save`.
    written_s
        Time at which the save before these is written; the next one waits for it.

    Examples
    --------
    A save at step 4 stops training for a second, and is written three seconds later.

    >>> for lap in find_laps([0, 4, 8], 1.0, 0.0, 100.0, [4], 0.0, Save(1.0, 3.0)):
    ...     print(*lap)
    0.0 0.0 4.0 4 False
    4.0 5.0 9.0 4 True
    """
    laps, end_s = list[Lap](), now_s
    for step, end in itertools.pairwise(bounds):
        stop_s = start_s = end_s
        is_save = step in saved_steps
        if is_save:
            start_s = stop_s + (max(0.0, written_s - stop_s) + save.stall_s)
            written_s = start_s + save.persist_s
        end_s = start_s + (end - step) * step_s
        if end_s >= quiet_s:
            break
        laps.append(Lap(stop_s, start_s, end_s, end - step, is_save))
    return laps
