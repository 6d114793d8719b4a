"""The table of node events, the common form of all traces."""

import bisect
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from lazsim.errors import TraceFormatError
from lazsim.files.faults import Faults
from lazsim.grouping import grouped
from lazsim.limits import LONGEST_S, MAX_EVENTS, MAX_NODES
from lazsim.placement.plan import Floats, Ints
from lazsim.specs import sha256
from lazsim.trace.order import in_time_order
from lazsim.trace.prices import EqualByValue, Prices
from lazsim.units import counted, format_duration

if TYPE_CHECKING:
    import pandas as pd

EventKind = Literal["remove", "away", "add"]
"""A node goes; it is away from the start of the trace, and comes later, if at all; it comes."""

KINDS: tuple[EventKind, ...] = get_args(EventKind)
NUMBERS = (int, float, np.integer, np.floating)

PLACES_REPAIR = "number places by the order of nodes"

START_S = 1e-3
"""Length of the start of a trace: a node that goes by then is away from the start."""


class Event(NamedTuple):
    """One node comes or goes, or is away from the start; `line` is its line in the file, 0 without a file."""

    time_s: float
    kind: EventKind
    node: str
    line: int = 0


class Batch(NamedTuple):
    """All events of one instant: the nodes that are lost, and the nodes that are new.

    A node that goes and comes back at the same instant is in both, since it loses its state.
    """

    time_s: float
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trace(EqualByValue):
    """Node events in time order, valid: a node is added while absent and removed while present.

    Examples
    --------
    >>> trace = build_trace([Event(0, "add", "a"), Event(60, "remove", "a")], duration_s=600, name="small")
    >>> trace
    <Trace 'small': 1 node, 2 events in 10 min>
    """

    time_s: Floats
    """Seconds since the trace began, ascending; shape (M,)."""
    change: npt.NDArray[np.int8]
    """+1 where a node is added, -1 where one is removed, 0 where one is away from the start; shape (M,)."""
    node: npt.NDArray[np.int32]
    """Index into `names`; shape (M,)."""
    names: tuple[str, ...]
    """Nodes by first appearance."""
    places: Mapping[str, int]
    """The place of each node, from 0: nodes of successive places share servers and failure domains."""
    duration_s: float
    """Length of the observation, at least the time of the last event."""
    name: str = ""
    format: str = ""
    sha256: str = ""
    """File or recipe of the trace, its format and the hash of its bytes."""
    notes: tuple[str, ...] = ()
    """Assumptions and repairs of the reader, a line each."""
    prices: Prices | None = None
    """Prices of a node, where the file has them."""
    is_drawn: bool = False
    """Whether a seed decides which nodes of a file come or go: it does not name all, or was capped."""

    def __len__(self) -> int:
        return len(self.time_s)

    def __repr__(self) -> str:
        nodes, events = counted(len(self.names), "node"), counted(len(self), "event")
        return f"<Trace {self.name!r}: {nodes}, {events} in {format_duration(self.duration_s)}>"

    def to_frame(self) -> "pd.DataFrame":
        """Return one row for each event: ``time_s``, ``kind`` (see `EventKind`) and ``node``."""
        import pandas as pd

        kinds, names = np.array(KINDS)[self.change + 1], np.array(self.names, dtype=object)
        return pd.DataFrame({"time_s": self.time_s, "kind": kinds, "node": names[self.node]})

    @property
    def events_sha256(self) -> str:
        """Hash of the events and the places of nodes, which does not depend on the file's format."""
        places = np.array([*self.places.values()], dtype=np.int32)
        return sha256(b"".join(one.tobytes() for one in (self.time_s, self.change, self.node, places)))

    @property
    def has_own_places(self) -> bool:
        """Whether places are not those that the order of nodes tells, as in a stretch."""
        return self.places != lowest_places([*self.events()])

    def events(self) -> Iterator[Event]:
        """Yield every event in order."""
        for time_s, change, node in zip(self.time_s.tolist(), self.change.tolist(), self.node.tolist(), strict=True):
            yield Event(time_s, KINDS[change + 1], self.names[node])

    @property
    def away(self) -> tuple[str, ...]:
        """Nodes that are away from the start: when they were lost does not show."""
        return tuple(self.names[node] for node in self.node[self.change == 0].tolist())

    def batches(self) -> Iterator[Batch]:
        """Yield the nodes that are there at the start, at time 0, then the events of each instant as one batch.

        Simultaneous removals are one failure.
        """
        if not len(self) or self.time_s[0]:
            yield Batch(0.0, (), ())
        bounds = np.flatnonzero(np.diff(self.time_s, prepend=-math.inf, append=math.inf)).tolist()
        times, changes, nodes = self.time_s.tolist(), self.change.tolist(), self.node.tolist()
        for start, stop in itertools.pairwise(bounds):
            first: dict[int, int] = {}
            last: dict[int, int] = {}
            for change, node in zip(changes[start:stop], nodes[start:stop], strict=True):
                first.setdefault(node, change)
                last[node] = change
            # Changes of a node alternate: its first one tells whether it was there before, its last whether it stays.
            removed = [node for node in last if first[node] < 0]
            added = [node for node in last if last[node] > 0]
            if removed or added or not times[start]:
                yield Batch(times[start], tuple(self.names[n] for n in removed), tuple(self.names[n] for n in added))

    def num_alive(self) -> tuple[Floats, Ints]:
        """Count the nodes alive over time.

        Returns
        -------
        time_s : ndarray, shape (K,)
            Times of events, after a leading 0.
        num_nodes : ndarray, shape (K,)
            Nodes alive from each of them on.
        """
        times, first = np.unique(np.concatenate([[0.0], self.time_s])[::-1], return_index=True)
        counts = np.concatenate([[0], np.cumsum(self.change, dtype=np.int64)])[::-1]
        return times, counts[first]

    def most_nodes(self, end_s: float = np.inf) -> int:
        """Return the largest number of nodes alive at once before a time, or at the start."""
        times_s, num_nodes = self.num_alive()
        return int(num_nodes[: max(1, times_s.searchsorted(end_s))].max())

    def typical_nodes(self, end_s: float, num_parts: int) -> Ints:
        """Return the nodes alive before a time, ascending, each number of `num_parts` for as long as any other."""
        times_s, num_nodes = self.num_alive()
        times_s, num_nodes = times_s[times_s < end_s], num_nodes[: (times_s < end_s).sum()]
        order = np.argsort(num_nodes, kind="stable")
        until_s = np.diff(times_s, append=end_s)[order].cumsum()
        return num_nodes[order][np.searchsorted(until_s, end_s * (np.arange(num_parts) + 0.5) / num_parts)]

    def nodes_lost(self, end_s: float = np.inf) -> int:
        """Count the removals of nodes before a time."""
        return int(((self.change < 0) & (self.time_s < end_s)).sum())

    def window(self, start_s: float, duration_s: float | None = None) -> "Trace":
        """Cut out a stretch, at most to the end of the trace; nodes alive at its start are added at its time 0.

        They come in the order of `names`, also those that were lost before and came back. Nodes keep their places.
        """
        stop_s = self.duration_s if duration_s is None else min(self.duration_s, start_s + duration_s)
        first: dict[str, EventKind | None] = dict.fromkeys(self.names)
        later = []
        for event in self.events():
            if event.time_s > stop_s:
                break
            if event.time_s > start_s:
                later.append(event._replace(time_s=event.time_s - start_s))
            elif event.kind == "remove":
                first[event.node] = None
            elif event.kind == "add" or not start_s:
                first[event.node] = event.kind
        events = [Event(0.0, kind, node) for node, kind in first.items() if kind] + later
        prices = self.prices and self.prices.after(start_s)
        return replace(self.with_events(events, max(0.0, stop_s - start_s), places=self.places), prices=prices)

    def with_events(
        self, events: Iterable[Event], duration_s: float, *notes: str, places: Mapping[str, int] | None = None
    ) -> "Trace":
        """Return other events, and more notes, under the name, format, hash and prices of this trace."""
        made = build_trace(
            events, duration_s=duration_s, name=self.name, format=self.format, sha256=self.sha256,
            notes=(*self.notes, *notes), prices=self.prices, places=places,
        )  # fmt: skip
        return replace(made, is_drawn=self.is_drawn)


def _checked_events(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events; refuse what is none, which no repair can mend."""
    for event in events:
        is_event = isinstance(event, Event) and isinstance(event.node, str) and isinstance(event.time_s, NUMBERS)
        if not is_event or event.kind not in KINDS or (event.kind == "away" and event.time_s > START_S):
            expected = "expected Event(seconds, 'add' or 'remove', name of a node), or 'away' at 0 s"
            raise TraceFormatError(f"`events`: {expected}, found {' '.join(repr(event).split())[:200]}")
        yield event


def check_size(name: str, line: int, num_nodes: int, num_events: int) -> None:
    """Raise TraceFormatError for more nodes at once, or more events up to here, than any trace has."""
    where = f"{name}, line {line}" if line else name
    if num_nodes > MAX_NODES:
        raise TraceFormatError(f"{where}: {counted(num_nodes, 'node')} at once; at most {MAX_NODES:,} can be")
    if num_events > MAX_EVENTS:
        raise TraceFormatError(f"{where}: more than {MAX_EVENTS:,} events of nodes; give a shorter trace")


def _possible_events(events: Iterable[Event], faults: Faults) -> tuple[list[Event], int, int]:
    """Return the events that are possible one after the other, and how many changed places within their instant.

    The last number is that of nodes that come and go within one.

    The order within an instant is that of the events, but an event that is not possible yet waits for another of its
    node at the same instant: logs with stamps of a second may have the return of a node before its loss.
    """
    kept: list[Event] = []
    present: set[str] = set()
    num_restarts = num_unseen = 0
    for _, instant in itertools.groupby(events, key=lambda event: event.time_s):
        waiting: dict[str, list[Event]] = {}
        before = len(kept)
        for event in instant:
            if event.kind != "away" and (event.node in present) == (event.kind == "add"):
                waiting.setdefault(event.node, []).append(event)
                continue
            kept.append(event)
            (present.add if event.kind == "add" else present.discard)(event.node)
            if event.kind != "away" and waiting.get(event.node):
                kept.append(waiting[event.node].pop(0))
                (present.discard if event.kind == "add" else present.add)(event.node)
                num_restarts += 1
            check_size(faults.name, event.line, len(present), len(kept))
        for event in sorted(itertools.chain.from_iterable(waiting.values()), key=lambda event: event.line):
            state = "added while present" if event.kind == "add" else "removed while absent"
            repair = "drop events of nodes added twice or removed while absent"
            faults.fault(event.line, f"node {event.node!r} is {state}", repair)
        # Up to the start, only the last event of a node counts.
        if len(kept) > before + 1 and kept[before].time_s > START_S:
            kinds = grouped((event.node, event.kind) for event in kept[before:])
            num_unseen += sum(of_node[0] == "add" and of_node[-1] == "remove" for of_node in kinds.values())
    return kept, num_restarts, num_unseen


def _with_start(events: list[Event]) -> list[Event]:
    """Say of each node once whether it is there at the start or away: its last event up to `START_S` tells."""
    num_first = bisect.bisect_right(events, START_S, key=lambda event: event.time_s)
    last = {event.node: event for event in events[:num_first]}
    first = [event._replace(time_s=0.0, kind="add" if event.kind == "add" else "away") for event in last.values()]
    return first + events[num_first:]


def lowest_places(events: Sequence[Event]) -> dict[str, int]:
    """Return the place of each node, where nothing but the order of their events says on which they stand.

    Nodes that are there at the start, or away, stand in their order. A node keeps its place while it is away. One that
    comes for the first time takes the lowest place to which no other comes back.

    Examples
    --------
    >>> first = [Event(0, "add", "a"), Event(0, "add", "b"), Event(60, "remove", "a"), Event(60, "remove", "b")]
    >>> build_trace([*first, Event(90, "add", "c"), Event(95, "add", "b"), Event(99, "add", "d")]).places
    {'a': 0, 'b': 1, 'c': 0, 'd': 2}
    """
    number = {node: index for index, node in enumerate(dict.fromkeys(event.node for event in events))}
    # Nodes are numbered by first appearance: at the same time, those before a new one have a place to leave.
    ordered = sorted(events, key=lambda event: (event.time_s, number[event.node]))
    last = {event.node: index for index, event in enumerate(ordered)}
    places, free, further = dict[str, int](), list[int](), itertools.count()
    for index, event in enumerate(ordered):
        if event.node not in places:
            places[event.node] = heapq.heappop(free) if free and event.time_s else next(further)
        if event.kind != "add" and last[event.node] == index:
            heapq.heappush(free, places[event.node])
    return {node: places[node] for node in number}


def check_places(places: Mapping[str, int], events: Sequence[Event], faults: Faults) -> dict[str, int] | None:
    """Return the places of the nodes of events; None, after a fault, where one has none or shares its place.

    Raises
    ------
    TraceFormatError
        When a place is no whole number from 0 up.
    """
    kept: dict[str, int] = {}
    for name in dict.fromkeys(event.node for event in events):
        place = places.get(name)
        if place is None:
            faults.fault("places", f"node {name!r} has none", PLACES_REPAIR)
            return None
        if not isinstance(place, int | np.integer) or not 0 <= place <= MAX_EVENTS:
            expected = f"a whole number from 0 to {MAX_EVENTS:,}"
            raise TraceFormatError(f"`places`: expected {expected} for node {name!r}, found {place!r:.200}")
        kept[name] = int(place)
    num_there = Counter[int]()
    for _, instant in itertools.groupby(events, key=lambda event: event.time_s):
        newest: dict[int, Event] = {}
        for event in instant:
            num_there[kept[event.node]] += {"add": 1, "away": 0, "remove": -1}[event.kind]
            if event.kind == "add":
                newest[kept[event.node]] = event
        # Within an instant, a node may come before the one goes whose place it takes.
        for place in sorted(place for place in newest if num_there[place] > 1):
            event, num = newest[place], num_there[place]
            what = f"node {event.node!r} comes to place {place}, which then has {num} nodes at once"
            faults.fault(event.line, what, PLACES_REPAIR)
            return None
    return kept


def build_trace(
    events: Iterable[Event],
    *,
    duration_s: float | None = None,
    name: str = "",
    format: str = "",  # noqa: A002
    sha256: str = "",
    notes: Iterable[str] = (),
    lenient: bool = False,
    prices: Prices | None = None,
    places: Mapping[str, int] | None = None,
) -> Trace:
    """Validate events and make a trace of them.

    Parameters
    ----------
    events
        In time order. The order of simultaneous events is kept, but a node that is there goes before it comes back.
    duration_s
        Length of the observation, by default up to the last event.
    name, format, sha256, notes, prices
        See `Trace`.
    lenient
        Sort events that are out of order, drop impossible ones, and count both in the notes.
    places
        The place of each node, of which no two that are there at once share one; by default that of `lowest_places`.

    Raises
    ------
    TraceFormatError
        When a time is negative, not finite or out of order, when a node is added while present or removed while
        absent, when too many nodes are present, when the duration ends before the last event, when a place is not
        valid, or when an event is of an unknown kind. The message names file and line.
    """
    faults = Faults(name or "trace", TraceFormatError, lenient)
    kept, num_restarts, num_unseen = _possible_events(in_time_order(_checked_events(events), faults), faults)
    seen = {
        counted(num_unseen, "node comes and goes", "nodes come and go"): (num_unseen, "never to be there then"),
        counted(num_restarts, "node comes before it goes", "nodes come before they go"):
            (num_restarts, "to go and come back"),
    }  # fmt: skip
    told = (f"{what} at the same instant: taken {how}" for what, (number, how) in seen.items() if number)
    # A file that lazsim wrote has them already.
    notes = dict.fromkeys((*notes, *told))
    last_s = kept[-1].time_s if kept else 0.0
    if not isinstance(prices, Prices | None):
        raise TraceFormatError(f"`prices`: expected Prices, as Prices.constant(24.5), found {prices!r:.200}")
    if not isinstance(places, Mapping | None):
        raise TraceFormatError(f"`places`: expected a dict such as {{'a': 0, 'b': 4}}, found {places!r:.200}")
    if duration_s is not None and not (isinstance(duration_s, NUMBERS) and not math.isnan(duration_s)):
        raise TraceFormatError(f"`duration_s`: expected a number of seconds, found {duration_s!r:.200}")
    if duration_s is not None and duration_s > LONGEST_S:
        faults.fault("", f"duration {duration_s:.12g} s is more than 100 years", "end with the last event")
        duration_s = last_s
    if duration_s is not None and duration_s < last_s:
        early = f"duration {duration_s:.12g} s ends before the last event at {last_s:.12g} s"
        faults.fault(kept[-1].line if kept else 0, early, "end with the last event")
        duration_s = last_s
    kept = _with_start(kept)
    names = tuple(dict.fromkeys(event.node for event in kept))
    index = {node: number for number, node in enumerate(names)}
    time_s = np.array([event.time_s for event in kept], dtype=np.float64)
    change = np.array([KINDS.index(event.kind) - 1 for event in kept], dtype=np.int8)
    node = np.array([index[event.node] for event in kept], dtype=np.int32)
    given = places and check_places(places, kept, faults)
    return Trace(
        time_s=time_s,
        change=change,
        node=node,
        names=names,
        places=given or lowest_places(kept),
        duration_s=last_s if duration_s is None else float(duration_s),
        name=name,
        format=format,
        sha256=sha256,
        notes=(*notes, *faults.notes()),
        prices=prices,
    )
