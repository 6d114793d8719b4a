"""Read a table by a mapping of its columns: pick the rows and columns that it names, and make events of them."""

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lazsim.errors import TraceFormatError, literal
from lazsim.tables import HEAD_LINES, PARQUET, Table, read_parquet, read_table
from lazsim.trace.clock import Clock, is_date, is_number
from lazsim.trace.events import (
    RULE,
    Outage,
    Sample,
    events_from_counts,
    events_from_outages,
    events_from_states,
    other_nodes,
)
from lazsim.trace.hosts import expand_hosts
from lazsim.trace.mapping import OPTIONAL, TraceMapping
from lazsim.trace.order import NEWEST_FIRST, in_time_order, is_newest_first, refuse_set_back, settle
from lazsim.trace.source import Reading, Source, count, shorten
from lazsim.trace.table import Event, Kind
from lazsim.units import counted

WORDS: dict[Kind, str] = {
    "add": (
        "add added up join joined start started launch launched running ready online active available recovered "
        "healthy alive repaired fixed restored resumed created fault_end"
    ),
    "remove": (
        "remove removed down leave left stop stopped terminate terminated preempt preempted preemption fail failed "
        "unhealthy dead failure lost offline notready unavailable evicted killed deleted interrupted fault_start"
    ),
}
"""Usual words for what happened to a node."""

_KINDS = {word: kind for kind, words in WORDS.items() for word in words.split()}

EVENT_NEEDED = "event; a mapping may name it in `add`, `remove` or `ignore`"

CHANGE_WORDS = {"add", "remove", "added", "removed"}
"""Words for changes; all others may also be read as states."""

OPEN_WORDS = ("", "unknown", "none", "null", "nan", "nat", "-", "ongoing", "n/a")
"""Ends of outages that go on."""

ENDS = "the trace is taken to end with its last event"
RowT = TypeVar("RowT")


def open_table(source: Source) -> Table:
    """Read the rows of a file in any form of table."""
    if source.content.startswith(PARQUET):
        return read_parquet(source.content, source)
    return read_table(source.text, source, is_header)


def is_header(fields: list[str]) -> bool:
    """Return whether a row names columns: none of its texts is a number or a date."""
    return not any(is_number(field) or is_date(field) for field in fields)


def find_column(name: str, header: tuple[str, ...]) -> int | None:
    """Return the index of a column by its name: as it stands, or else without case, signs and what is in brackets.

    Examples
    --------
    >>> find_column("prob started", ("nodes", "Prob Started (mm/dd/yy)"))
    1
    """
    if name in header:
        return header.index(name)
    plain = [_plain(column) for column in header]
    return plain.index(_plain(name)) if _plain(name) in plain else None


def _plain(name: str) -> str:
    return re.sub(r"\(.*\)|[\W_]", "", name.lower())


def event_kind(text: str, mapping: TraceMapping) -> Kind | None:
    """Return what an event says, None where it is to be ignored; a ValueError says that it is unknown."""
    word = text.strip().lower()
    given: tuple[tuple[tuple[str, ...], Kind | None], ...] = (
        (mapping.ignore, None), (mapping.add, "add"), (mapping.remove, "remove"),
    )  # fmt: skip
    for words, kind in given:
        if any(word == one.lower() for one in words):
            return kind
    if word not in _KINDS:
        raise ValueError(f"{text[:40]!r} is no {EVENT_NEEDED}")
    return _KINDS[word]


def read_mapped(source: Source, table: Table, mapping: TraceMapping) -> Reading:
    """Read the rows of a table by a mapping that names the columns; the user's own wishes go first.

    Raises
    ------
    TraceFormatError
        When the table has no such columns, rows of several clusters, or a row that is wrong.
    """
    return _MappedTable(source, table, source.asked.under(mapping)).read()


class _MappedTable:
    """The rows of a table that count: their texts by the roles of columns, once for each node that a row lists."""

    def __init__(self, source: Source, table: Table, mapping: TraceMapping) -> None:
        assert mapping.columns is not None, "the mapping names the columns"
        self._source, self._table, self._mapping = source, table, mapping
        self._places = {
            role: self._find(parts)
            for role, parts in mapping.columns.given().items()
            if role not in OPTIONAL or None not in map(self._index, parts)
        }
        self._num_left_out = 0
        self._rows = list(self._chosen())
        if not self._rows and self._num_left_out and mapping.cluster_nodes is None:
            asked = ", ".join(mapping.where)
            raise TraceFormatError(f"{source.name}: none of its {self._num_left_out} rows has {asked}; change `where`")
        times = self._places.get("time") or self._places["start"]
        time_column = " ".join(table.header[index] for index in times if index < len(table.header))
        self._clock = Clock(mapping, source.asked, time_column)
        # Dates go on from that of the last row read.
        self._last = -math.inf

    def read(self) -> Reading:
        """Make events of the rows, in the shape that the columns tell."""
        if "count" in self._places:
            reading = self._read_counts()
        else:
            reading = self._read_events() if "event" in self._places else self._read_outages()
        if not self._num_left_out:
            return reading
        num = counted(self._num_left_out, "row is", "rows are")
        left_out = f"{num} left out: only those with {', '.join(self._mapping.where)} count"
        return reading._replace(notes=(*reading.notes, left_out))

    def _chosen(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line and the texts by role of the rows that count."""
        wanted = list(self._conditions())
        clusters: dict[str, int] = {}
        for line, fields in self._table.rows:
            try:
                matches = [fnmatch.fnmatchcase(_joined(fields, places), pattern) for places, pattern, _ in wanted]
                if matches != [fits for _, _, fits in wanted]:
                    self._num_left_out += 1
                    continue
                texts = {role: _joined(fields, places) for role, places in self._places.items()}
            except IndexError:
                self._source.fault(line, f"{counted(len(fields), 'column')}, too few: {shorten(' '.join(fields))}")
                continue
            clusters.setdefault(texts.get("cluster", ""), line)
            if len(clusters) > 1:
                first, second = list(clusters)[:2]
                column = self._table.header[self._places["cluster"][0]]
                raise TraceFormatError(
                    f"{self._source.name}, line {line}: {column} is {first!r} before and {second!r} here, and their "
                    f"nodes may share names; choose one with `where` '{column}={first}'"
                )
            for node in self._hosts(line, texts.get("node", "")):
                yield line, texts | {"node": node}

    def _hosts(self, line: int, text: str) -> list[str]:
        """Return the nodes that a text names, which may be a list such as ``gpu-[01-03]``."""
        try:
            return expand_hosts(text) if "[" in text else [text]
        except ValueError as error:
            self._source.fault(line, str(error))
            return []

    def _conditions(self) -> Iterator[tuple[tuple[int, ...], str, bool]]:
        """Yield the columns of each condition, its pattern, and whether rows must fit it or must not."""
        for name, _, pattern in (text.partition("=") for text in self._mapping.where):
            fits = not name.endswith("!")
            column = name.removesuffix("!")
            place = int(column) if column.isdecimal() else column
            if fits or self._index(place) is not None:
                yield self._find((place,)), pattern, fits

    def _find(self, parts: tuple[str | int, ...]) -> tuple[int, ...]:
        places = []
        for part in parts:
            index = self._index(part)
            if index is None:
                known = ", ".join(map(literal, self._table.header[:30])) or "without names"
                raise TraceFormatError(f"{self._source.name}: no column {part!r}; its columns are {known}")
            places.append(index)
        return tuple(places)

    def _index(self, part: str | int) -> int | None:
        return part - 1 if isinstance(part, int) else find_column(part, self._table.header)

    def _read_counts(self) -> Reading:
        if self._mapping.cluster_nodes is not None:
            raise TraceFormatError(f"{self._source.name}: counts all nodes that are alive; leave `cluster_nodes` out")
        samples = list(self._read(self._sample))
        self._clock.start((sample.time_s for sample in samples), self._source.name)
        samples = [sample._replace(time_s=self._clock.seconds(sample.time_s)) for sample in samples]
        used = {place for places in self._places.values() for place in places}
        if any(len(row.fields) > len(used) for row in self._table.rows[:HEAD_LINES]):
            self._refuse_several(samples)
        notes: tuple[str, ...] = (RULE, "the trace is taken to end with its last row")
        if self._clock.is_absolute:
            notes = (RULE, "a change happened some time before the row that shows it")
            if self._clock.is_local:
                refuse_set_back(samples, self._source, "let later rows overtake earlier ones")
            samples, more = settle(samples)
            notes += more
        else:
            samples = in_time_order(samples, self._source)
        duration_s = samples[-1].time_s if samples else None
        events = events_from_counts(samples, self._source.rng, self._source.name)
        return Reading(events, duration_s, (*notes, *self._clock.notes()), self._clock.assumed_unit)

    def _read_events(self) -> Reading:
        words: set[str] = set()
        rows = list(self._read(lambda line, texts: self._event(line, texts, words)))
        self._clock.start((event.time_s for event in rows), self._source.name)
        events = [event._replace(time_s=self._clock.seconds(event.time_s)) for event in rows]
        notes = [ENDS, *self._clock.notes()]
        if self._clock.is_absolute and is_newest_first(events):
            events.reverse()
            notes.append(NEWEST_FIRST)
        if self._clock.is_local:
            refuse_set_back(events, self._source, "sort what is out of order")
        end_s = max((event.time_s for event in events), default=0.0)
        is_states = self._mapping.states
        is_states = not (words <= CHANGE_WORDS or self._mapping.add) if is_states is None else is_states
        if is_states:
            events, more = events_from_states(in_time_order(events, self._source))
            notes += more
        if self._mapping.cluster_nodes is not None or is_states:
            others, more = other_nodes({event.node for event in events}, self._mapping.cluster_nodes, self._source.name)
            events, notes = [*others, *events], [*notes, *more]
        return Reading(events, end_s, tuple(notes), self._clock.assumed_unit)

    def _read_outages(self) -> Reading:
        rows = list(self._read(self._outage))
        known = [time for row in rows for time in (row.start_s, row.end_s) if math.isfinite(time)]
        self._clock.start(known, self._source.name)
        outages = [
            row._replace(start_s=self._clock.seconds(row.start_s), end_s=self._clock.seconds(row.end_s)) for row in rows
        ]
        events, notes = events_from_outages(outages)
        others, more = other_nodes({outage.node for outage in outages}, self._cluster_nodes(), self._source.name)
        events = [*others, *events]
        end_s = self._clock.seconds(max(known)) if known else None
        begins = "begin with the first outage and to " if self._clock.is_absolute else ""
        ends = f"the trace is taken to {begins}end with the last time in the file"
        return Reading(events, end_s, (ends, *notes, *more, *self._clock.notes()), self._clock.assumed_unit)

    def _refuse_several(self, samples: list[Sample]) -> None:
        """Make faults of other counts at the same time: another column may tell zones or kinds of nodes apart."""
        first: dict[float, Sample] = {}
        for sample in samples:
            before = first.setdefault(sample.time_s, sample)
            if before.num_nodes != sample.num_nodes:
                what = f"a second count for the time of line {before.line}; choose rows by another column with `where`"
                self._source.fault(sample.line, what, "take the last count of a time")

    def _read(self, read: Callable[[int, dict[str, str]], RowT | None]) -> Iterator[RowT]:
        """Yield the rows, without those that are to be ignored; those that cannot be read are faults."""
        for line, texts in self._rows:
            try:
                row = read(line, texts)
            except (ValueError, OverflowError) as error:
                self._source.fault(line, str(error))
                continue
            if row is not None:
                yield row

    def _sample(self, line: int, texts: dict[str, str]) -> Sample:
        sample = Sample(self._clock.read(texts["time"], self._last), count(texts["count"]), line)
        self._last = sample.time_s
        return sample

    def _event(self, line: int, texts: dict[str, str], words: set[str]) -> Event | None:
        """Read an event, and add its word to those seen."""
        kind = event_kind(texts["event"], self._mapping)
        node = _named(texts["node"])
        if kind is None:
            return None
        self._last = self._clock.read(texts["time"], self._last)
        words.add(texts["event"].strip().lower())
        return Event(self._last, kind, node, line)

    def _outage(self, line: int, texts: dict[str, str]) -> Outage:
        node = _named(texts["node"])
        start = self._clock.read(texts["start"])
        is_open = texts["end"].strip().lower() in OPEN_WORDS
        end = math.inf if is_open else self._clock.read(texts["end"], start)
        if end < start:
            hint = "; if the clock was set back, give `time_zone`" if self._clock.is_local else ""
            raise ValueError(f"the outage ends, at {texts['end']!r}, before it starts, at {texts['start']!r}{hint}")
        return Outage(node, start, end, line)

    def _cluster_nodes(self) -> int | tuple[str, ...] | None:
        if self._mapping.cluster_nodes is not None or "cluster_nodes" not in self._places:
            return self._mapping.cluster_nodes
        return max(self._read(lambda _, texts: count(texts["cluster_nodes"]) or None), default=None)


def _joined(fields: Sequence[str], places: tuple[int, ...]) -> str:
    return fields[places[0]] if len(places) == 1 else " ".join(fields[place] for place in places)


def _named(node: str) -> str:
    if not node:
        raise ValueError("no node is named")
    return node
