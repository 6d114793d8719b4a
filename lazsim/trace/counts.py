"""Make node events from a trace that only counts nodes."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lazsim.trace.table import Event, check_size

RULE = (
    "the source counts nodes without naming them: an increase adds fresh names, never used again, "
    "a decrease removes nodes drawn uniformly from those alive"
)


class Sample(NamedTuple):
    """Number of nodes alive at an instant, and its line in the file."""

    time_s: float
    num_nodes: int
    line: int = 0


def events_from_counts(samples: Iterable[Sample], rng: np.random.Generator, name: str = "") -> list[Event]:
    """Make node events of live counts.

    Parameters
    ----------
    samples
        In time order. Several samples of one instant are one batch: first all decreases, then all increases.
    rng
        Draws the nodes to remove.
    name
        Name of the file, for errors.

    Returns
    -------
    list of Event
        Names are ``node1``, ``node2``, ... in order of appearance.

    Raises
    ------
    TraceFormatError
        When a count is above the limit, or the changes make too many events.

    Notes
    -----
    A change by ``d`` makes ``|d|`` events, the fewest possible: a swap of one node for another between two samples is
    invisible. Life times are those of a memoryless choice of victims (assumption).

    Examples
    --------
    >>> samples = [Sample(0.0, 2), Sample(60.0, 0), Sample(120.0, 1)]
    >>> [(e.time_s, e.kind, e.node) for e in events_from_counts(samples, np.random.default_rng(0))]
    ... # doctest: +NORMALIZE_WHITESPACE
    [(0.0, 'add', 'node1'), (0.0, 'add', 'node2'), (60.0, 'remove', 'node1'), (60.0, 'remove', 'node2'),
     (120.0, 'add', 'node3')]
    """
    events: list[Event] = []
    alive: list[str] = []
    num_names = 0
    last = 0
    for time_s, group in itertools.groupby(samples, key=lambda sample: sample.time_s):
        rows = list(group)
        if len(rows) == 1 and rows[0].num_nodes == last:
            continue
        most = max(row.num_nodes for row in rows)
        check_size(name, rows[0].line, most, len(events))
        steps = np.diff([last, *(row.num_nodes for row in rows)])
        last = rows[-1].num_nodes
        num_removed = min(int(-steps[steps < 0].sum()), len(alive))
        num_added = last - (len(alive) - num_removed)
        gone: list[int] = sorted(rng.choice(len(alive), num_removed, replace=False).tolist()) if num_removed else []
        events += [Event(time_s, "remove", alive[index], rows[-1].line) for index in gone]
        for index in reversed(gone):
            del alive[index]
        for _ in range(num_added):
            num_names += 1
            alive.append(f"node{num_names}")
            events.append(Event(time_s, "add", alive[-1], rows[0].line))
    return events
