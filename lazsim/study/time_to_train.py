"""Time until a run has trained a number of samples, from its timeline and its rollbacks."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from lazsim.engine.progress import steps_in


class TrainedStretch(NamedTuple):
    """Whole steps made one after the other at the same pace."""

    start_s: float
    num_steps: int
    step_s: float
    samples_per_step: int


def time_to_train(
    states: Iterable[Sequence[float]],
    events: Iterable[Sequence[Any]],
    wall_s: float,
    samples_per_step: Callable[[int], int],
    num_samples: int,
) -> float | None:
    """Return when a run had trained a number of samples, not counting those lost again; None where it never had.

    Parameters
    ----------
    states, events
        Rows of `lazsim.engine.log.State` and `lazsim.engine.log.Event`; ascending.
    wall_s
        End of the run.
    samples_per_step
        From the nodes used to the sequences of a step.
    num_samples
        Samples to train.

    Examples
    --------
    Two nodes make a step of 10 s with 4 samples each; after 25 s the two whole steps are lost, and training goes on at
    once.

    >>> states = [(0.0, 2, 2, 0.0, 0.8), (20.0, 2, 2, 0.0, 0.0), (25.0, 2, 0, 0.0, 0.0), (30.0, 2, 2, 0.8, 0.0)]
    >>> events = [(25.0, "rolled_back", 0, 2, 0, 0, 0, 2)]
    >>> [time_to_train(states, events, 100.0, lambda nodes: 4 * nodes, samples) for samples in (16, 24)]
    [20.0, 60.0]
    """
    lost = [(event[0], event[-1]) for event in events if event[-1]]
    kept: list[TrainedStretch] = []
    for stretch in stretches(states, wall_s, samples_per_step):
        while lost and lost[0][0] <= stretch.start_s:
            roll_back(kept, lost.pop(0)[1])
        before = sum(each.num_steps * each.samples_per_step for each in kept)
        missing = math.ceil((num_samples - before) / stretch.samples_per_step)
        if missing <= stretch.num_steps:
            return stretch.start_s + missing * stretch.step_s
        kept.append(stretch)
    return None


def stretches(
    states: Iterable[Sequence[float]], wall_s: float, samples_per_step: Callable[[int], int]
) -> Iterator[TrainedStretch]:
    """Yield the stretches in which rate and nodes used stay the same; a step cut short does not count."""
    rows = [tuple(state) for state in states]
    ends = [row[0] for row in rows[1:]] + [wall_s]
    timed = zip(rows, ends, strict=True)
    for (used, rate), group in groupby(timed, key=lambda pair: (pair[0][2], pair[0][3] + pair[0][4])):
        spans = list(group)
        if rate > 0:
            per_step = samples_per_step(int(used))
            step_s = per_step / rate
            start_s, end_s = spans[0][0][0], spans[-1][1]
            yield TrainedStretch(start_s, steps_in(end_s - start_s, step_s), step_s, per_step)


def roll_back(kept: list[TrainedStretch], num_steps: int) -> None:
    """Take the last steps away."""
    while num_steps and kept:
        last = kept.pop()
        gone = min(num_steps, last.num_steps)
        num_steps -= gone
        if gone < last.num_steps:
            kept.append(last._replace(num_steps=last.num_steps - gone))
