"""Make node events of what files say instead: live counts, outages, or the states of nodes."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from lazsim.grouping import grouped
from lazsim.trace.table import START_S, Event, check_size
from lazsim.units import counted, format_duration

RULE = (
    "the source counts nodes without naming them: an increase adds fresh names, never used again, "
    "a decrease removes nodes drawn uniformly from those alive"
)


class Sample(NamedTuple):
    """Number of nodes alive at an instant, and its line in the file."""

    time_s: float
    num_nodes: int
    line: int = 0


def settle(rows: Sequence[Sample]) -> tuple[list[Sample], tuple[str, ...]]:
    """Put counts in the order of time, each instant once; and tell what was done.

    Where most stretches of the file begin after the one before, they overlap, as those of a sampler that writes each
    observation several times: a later stretch holds from its begin, and what it overtakes counts for nothing.
    Otherwise, rows are sorted, and the last row of an instant counts.

    Examples
    --------
    >>> overlapping = [Sample(0, 9), Sample(60, 9), Sample(30, 7), Sample(90, 7)]
    >>> [tuple(sample)[:2] for sample in settle(overlapping)[0]]
    [(0, 9), (30, 7), (90, 7)]
    """
    backs = [at for at, (one, two) in enumerate(itertools.pairwise(rows), start=1) if two.time_s < one.time_s]
    stretches = [rows[begin:end] for begin, end in itertools.pairwise([0, *backs, len(rows)])]
    num_overlaps = sum(one[0].time_s < two[0].time_s for one, two in itertools.pairwise(stretches))
    overlaps = 2 * num_overlaps > len(backs)
    parts = sorted(stretches, key=lambda one: one[0].time_s) if overlaps else [sorted(rows, key=attrgetter("time_s"))]
    kept: list[Sample] = []
    for row in itertools.chain(*parts):
        at = bisect_left(kept, row.time_s, key=lambda one: one.time_s)
        # A row that only repeats one overtakes nothing.
        if not (kept[at:] and kept[at][:2] == row[:2]):
            kept[at:] = [row]
    notes = []
    if backs:
        far = format_duration(max(rows[at - 1].time_s - rows[at].time_s for at in backs))
        what = "later rows overtake earlier ones" if overlaps else "sorted"
        notes.append(f"{counted(len(backs), 'row steps', 'rows step')} back in time, by up to {far}: {what}")
    if len(kept) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(kept), 'row repeats', 'rows repeat')} a stamp or came too late: the "
            "last row counts"
        )
    return kept, tuple(notes)


def events_from_counts(samples: Iterable[Sample], rng: np.random.Generator, name: str = "") -> list[Event]:
    """Make node events of live counts in time order, of nodes ``node1``, ``node2``, ... in order of appearance.

    Several samples of one instant are one batch: first all decreases, then all increases. Raise TraceFormatError, which
    has the file's name, for too many nodes or events.

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


class Outage(NamedTuple):
    """A node is away from `start_s` to `end_s`, which is infinite where it does not return."""

    node: str
    start_s: float
    end_s: float
    line: int = 0


def events_from_outages(outages: Iterable[Outage]) -> tuple[list[Event], tuple[str, ...]]:
    """Make node events, in time order, of outages in any order, and notes; all nodes are there at time 0.

    Outages of a node that overlap or touch are one absence. One of no length takes the node out and brings it back at
    the same instant.

    Examples
    --------
    >>> events, _ = events_from_outages([Outage("a", 60.0, 90.0), Outage("a", 80.0, math.inf), Outage("b", 70.0, 70.0)])
    >>> [(e.time_s, e.kind, e.node) for e in events]
    ... # doctest: +NORMALIZE_WHITESPACE
    [(0.0, 'add', 'a'), (0.0, 'add', 'b'), (60.0, 'remove', 'a'), (70.0, 'remove', 'b'), (70.0, 'add', 'b')]
    """
    given = list(outages)
    begins = [Event(max(one.start_s, 0.0), "remove", one.node, one.line) for one in given]
    ends = [Event(max(one.start_s, one.end_s, 0.0), "add", one.node, one.line) for one in given]
    # All that begins at an instant comes before all that ends then.
    return events_from_bounds(sorted([*begins, *ends], key=attrgetter("time_s")))


def events_from_bounds(bounds: Sequence[Event]) -> tuple[list[Event], tuple[str, ...]]:
    """Make node events, and notes, of the begins of outages (``remove``) and their ends (``add``) in time order.

    A node is there at time 0, and gone while any outage of it lasts.
    """
    num_open = {event.node: 0 for event in bounds}
    events = [Event(0.0, "add", node) for node in num_open]
    gone_s: dict[str, float] = {}
    num_merged = num_short = 0
    for event in bounds:
        is_begin = event.kind == "remove"
        num_others = num_open[event.node] - (not is_begin)
        num_open[event.node] = num_others + is_begin
        if num_others:
            num_merged += is_begin
        elif math.isfinite(event.time_s):
            events.append(event)
            num_short += gone_s.get(event.node) == event.time_s
            gone_s[event.node] = event.time_s if is_begin else math.inf
    notes = ["every node is taken to be there at the start, and gone while any outage of it lasts"]
    if num_merged:
        notes.append(
            f"{counted(num_merged, 'outage begins', 'outages begin')} while another of the same node lasts: "
            "both are one absence"
        )
    if num_short:
        notes.append("an outage of zero length takes the node out and brings it back at the same instant")
    return events, tuple(notes)


def events_from_states(states: Iterable[Event]) -> tuple[list[Event], tuple[str, ...]]:
    """Make node events, and notes, of a log where ``add`` says that a node is there, and ``remove`` that it is not.

    A state that the node is in already changes nothing. A node that the log first sees go was there from the start.
    Where a node that is there is said to be so and not to be so within an instant, it restarts.
    """
    is_there: dict[str, bool] = {}
    first: list[Event] = []
    changes: list[Event] = []
    num_repeated = num_late = 0
    for event in _possible_order(states, is_there):
        if event.node not in is_there and event.kind == "remove":
            first.append(Event(0.0, "add", event.node, event.line))
        elif is_there.get(event.node, False) == (event.kind == "add"):
            num_repeated += 1
            continue
        else:
            num_late += event.node not in is_there and event.time_s > START_S
        is_there[event.node] = event.kind == "add"
        changes.append(event)
    changes.sort(key=lambda event: event.time_s)
    notes = []
    if first:
        gone = counted(len(first), "node is", "nodes are")
        notes.append(f"{gone} first seen to go: taken to be there from the start")
    if num_late:
        late = counted(num_late, "node is", "nodes are")
        notes.append(f"{late} first seen to come later: taken to be away until then")
    if num_repeated:
        notes.append(f"{counted(num_repeated, 'row repeats', 'rows repeat')} the state of a node")
    return first + changes, tuple(notes)


def _possible_order(states: Iterable[Event], is_there: Mapping[str, bool]) -> Iterator[Event]:
    """Yield events by time; a node that is there may be said to return before its loss, in stamps of a second."""
    for _, instant in itertools.groupby(states, key=lambda event: event.time_s):
        for events in grouped((event.node, event) for event in instant).values():
            if events[0].kind == "add" and is_there.get(events[0].node):
                events.sort(key=lambda event: event.kind == "add")
            yield from events
