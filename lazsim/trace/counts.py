"""Make node events from a trace that only counts nodes."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lazsim.files import Faults
from lazsim.trace.table import Event, Timed, check_size
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, format_duration

RULE = (
    "the source counts nodes without naming them: an increase adds fresh names, never used again, "
    "a decrease removes nodes drawn uniformly from those alive"
)


NEWEST_FIRST = "the newest rows come first: read from the end"

SET_BACK_S = (30 * MINUTE_S, HOUR_S)
"""Steps back of local time when summer ends: an hour, less the time between two rows."""


class Sample(NamedTuple):
    """Number of nodes alive at an instant, and its line in the file."""

    time_s: float
    num_nodes: int
    line: int = 0


def settle(
    samples: Sequence[Sample], faults: Faults, *, is_local: bool = False
) -> tuple[list[Sample], tuple[str, ...]]:
    """Put samples whose dates step back in order, each instant once.

    Parameters
    ----------
    samples
        In the order of the file.
    faults
        The faults of the file; a step that may be a change of the clock is one.
    is_local
        Whether a change of the clock could show.

    Returns
    -------
    list of Sample
        In time order. Samples from the newest to the oldest are turned round. Where each stretch begins after the one
        before, the stretches overlap, as those of a sampler that writes each observation several times: the later
        stretch holds from its begin, and what it overtakes counts for nothing. All others are sorted, and the last row
        of an instant counts.
    tuple of str
        What was done, a line each.

    Examples
    --------
    >>> overlapping = [Sample(0, 9), Sample(60, 9), Sample(30, 7), Sample(90, 7)]
    >>> [tuple(sample)[:2] for sample in settle(overlapping, Faults("log", ValueError))[0]]
    [(0, 9), (30, 7), (90, 7)]
    """
    if is_newest_first(samples):
        ordered, told = settle(samples[::-1], faults, is_local=is_local)
        return ordered, (NEWEST_FIRST, *told)
    back = [
        (earlier.time_s - later.time_s, later)
        for earlier, later in itertools.pairwise(samples)
        if later.time_s < earlier.time_s
    ]
    _refuse_set_back(samples, back, faults, is_local)
    begins = [sample.time_s for sample in (*samples[:1], *(later for _, later in back))]
    overlaps = all(earlier < later for earlier, later in itertools.pairwise(begins))
    kept: list[Sample] = []
    for sample in samples if overlaps else sorted(samples, key=lambda sample: sample.time_s):
        while kept and kept[-1].time_s >= sample.time_s:
            kept.pop()
        kept.append(sample)
    notes = []
    if back:
        far = format_duration(max(step for step, _ in back))
        what = "later rows overtake earlier ones" if overlaps else "sorted"
        notes.append(f"{len(back)} rows step back in time, by up to {far}: {what}")
    if len(kept) < len(samples):
        notes.append(f"{len(samples) - len(kept)} rows repeat a stamp or are overtaken: the last row counts")
    return kept, tuple(notes)


def _refuse_set_back(
    samples: Sequence[Sample], back: Sequence[tuple[float, Sample]], faults: Faults, is_local: bool
) -> None:
    """Make a fault of steps back by up to an hour, if there are no more than changes of the clock in so long a time."""
    hours = [(step, sample) for step, sample in back if SET_BACK_S[0] <= step <= SET_BACK_S[1]]
    times = [sample.time_s for sample in samples]
    if is_local and hours and len(back) <= 1 + (max(times) - min(times)) / (365 * DAY_S):
        step, sample = hours[0]
        what = f"steps back by {format_duration(step)}, as local time does when summer ends; give `time_zone`"
        faults.fault(sample.line, what, "let later rows overtake earlier ones", len(hours))


def is_newest_first(rows: Sequence[Timed]) -> bool:
    """Return whether rows go from the newest to the oldest."""
    return len({row.time_s for row in rows}) > 1 and all(
        later.time_s <= earlier.time_s for earlier, later in itertools.pairwise(rows)
    )


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
