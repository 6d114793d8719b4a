"""Read a table by a mapping of its columns: make events of the rows that count."""

import copy
import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from typing import TypeVar

from lazsim.errors import LazsimError, literal, shorten
from lazsim.files.tables import HEAD_LINES, FileTable
from lazsim.trace.order import LEAST_BACK_S, in_time_order, refuse_set_back
from lazsim.trace.reading.events import (
    RULE,
    Outage,
    Sample,
    events_from_counts,
    events_from_outages,
    events_from_states,
    settle,
)
from lazsim.trace.reading.hosts import whole_node
from lazsim.trace.reading.mapping import LOSSES, OPTIONAL, TraceMapping
from lazsim.trace.reading.rows import KUBE_LABELS, MappedRows
from lazsim.trace.reading.states import IS_THERE, SeriesSample, StateLog, choose_series, find_node, read_labels
from lazsim.trace.reading.times import TimeParser, span_note
from lazsim.trace.reading.words import CHANGE_WORDS, OPEN_WORDS, event_kind, sampled_value
from lazsim.trace.source import TraceReading, TraceSource, count, named
from lazsim.trace.table import Event
from lazsim.units import HOUR_S, MINUTE_S, counted

OF_PARTS = (
    "of which one may come back while another is gone; give outages (node, start, end), which may overlap, or if each "
    "row is of a whole node,"
)
"""Why events of parts of nodes are refused."""

UNLIKE_SHARE = 0.1
"""Share of an outage, or else a minute, by which its length and its end may differ, as where one is rounded
(assumption)."""

STAY_AWAY = "no row says that a node is back: those that go stay away"

RowT = TypeVar("RowT")


def read_mapped(source: TraceSource, table: FileTable, mapping: TraceMapping) -> TraceReading:
    """Read the rows of a table by a mapping that names the columns; the user's own wishes go first.

    Raises
    ------
    TraceFormatError
        When the table has no such columns, rows of several clusters, or a row that is wrong.
    """
    return _MappedTable(source, table, source.asked.under(mapping)).read()


class _MappedTable:
    """The rows of a table, of which columns tell live counts, events, outages or samples."""

    def __init__(self, source: TraceSource, table: FileTable, mapping: TraceMapping) -> None:
        self._source, self._table, self._mapping = source, table, mapping
        self._kept = MappedRows(source, table, mapping)
        places = self._kept.places
        self._are_losses = places.keys() - OPTIONAL == {*LOSSES}
        lengths = self._kept.header("duration") if "duration" in places else None
        times = self._kept.header("time" if "time" in places else "start")
        self._times = TimeParser(mapping, source.asked, times, lengths)
        steps = self._first_steps(copy.copy(self._times)) if "time" in places else []
        # Rows that nodes write at once, as at the start, may be out of order in any file.
        self._is_newest_first = 2 * sum(step < 0 for step in steps) > len(steps) and math.fsum(steps) < 0
        if self._is_newest_first:
            self._kept.rows.reverse()
        # The count of an hour that comes twice only repeats the time of the one before.
        self._is_hourly = "count" in self._kept.places and bool(steps) and not any(step % HOUR_S for step in steps)
        self._last = -math.inf

    def _first_steps(self, times: TimeParser) -> list[float]:
        """Return the steps between the times of the first rows, and on to the last, that differ; none without dates."""
        found = []
        for _, texts in [*self._kept.rows[:HEAD_LINES], *self._kept.rows[HEAD_LINES:][-1:]]:
            with suppress(ValueError, OverflowError):
                found.append(times.read(texts["time"]))
        with suppress(LazsimError):
            times.start(found, self._source)
        steps = [later - earlier for earlier, later in itertools.pairwise(found) if later != earlier]
        return steps if times.is_absolute else []

    def _time(self, text: str) -> float:
        """Read the time of a row; where the clock is set back, that of the row before tells which one it is."""
        after = math.nextafter(self._last, math.inf) if self._is_hourly else self._last - LEAST_BACK_S
        self._last = self._times.read(text, after)
        return self._last

    def read(self) -> TraceReading:
        """Make events of the rows, in the shape that the columns tell."""
        if self._mapping.span is not None and ("count" in self._kept.places or self._kept.is_sampled):
            raise self._source.refuse("", "its rows say when nodes were observed; leave `span` out")
        if self._kept.is_sampled:
            reading = self._read_samples()
        elif "count" in self._kept.places:
            reading = self._read_counts()
        else:
            reading = self._read_events() if "event" in self._kept.places else self._read_outages()
        notes = list(reading.notes)
        if self._is_newest_first:
            notes.append("the newest rows come first: read from the end")
        notes += self._kept.notes()
        return reading._replace(
            notes=tuple(notes), assumed_unit=self._times.assumed_unit, cluster_nodes=self._cluster_nodes()
        )

    def _read_counts(self) -> TraceReading:
        samples = self._read(lambda line, texts: Sample(self._time(texts["time"]), count(texts["count"]), line))
        self._times.start((sample.time_s for sample in samples), self._source)
        before, last = ([""] * 2 + [str(sample.num_nodes) for sample in samples])[-2:]
        may_be_cut = before != last and before.startswith(last) and self._source.text.endswith(last)
        samples = [sample._replace(time_s=self._times.seconds(sample.time_s)) for sample in samples]
        used = {place for places in self._kept.places.values() for place in places}
        if any(len(row.fields) > len(used) for row in self._table.rows[:HEAD_LINES]):
            self._refuse_several(samples)
        notes: tuple[str, ...] = (RULE, "the trace is taken to end with the last row that counts")
        if self._times.is_absolute:
            notes += ("a change happened some time before the row that shows it",)
            if self._times.is_local:
                refuse_set_back(samples, self._source, "let later rows overtake earlier ones", is_distinct=True)
            samples, more = settle(samples)
            notes += more
        else:
            samples = in_time_order(samples, self._source)
            first_s = samples[0].time_s if samples else 0.0
            if len(samples) > 1 and first_s > samples[-1].time_s - first_s:
                samples = [sample._replace(time_s=sample.time_s - first_s) for sample in samples]
                notes += (f"times count from the first one, {first_s:.10g} s: before it, nothing was counted",)
            elif first_s > 0:
                notes += (
                    f"no node is there before the first count, at {first_s:.10g} s of the trace; cut with `start`",
                )
        if 2 * sum(sample.num_nodes == 0 for sample in samples) > len(samples):
            notes += ("most counts are 0; if they count nodes that are lost, the file does not say how many are there",)
        if may_be_cut:
            notes += (f"the last line has no end, and its {last} begins as the {before} before: the file may be cut",)
        duration_s = samples[-1].time_s if samples else None
        events = events_from_counts(samples, self._source.rng, self._source.name)
        return TraceReading(events, duration_s, (*notes, *self._times.notes()), names="none")

    def _read_events(self) -> TraceReading:
        rows = self._read(self._event)
        self._times.start((event.time_s for _, event in rows), self._source, self._mapping.span)
        events = [event._replace(time_s=self._times.seconds(event.time_s)) for _, event in rows]
        words = {word for word, _ in rows}
        ends = span_note(self._mapping.span, "the trace is taken to end with its last event")
        notes = [ends, *self._times.notes()]
        if self._times.is_local:
            refuse_set_back(events, self._source, "sort what is out of order")
        end_s = self._times.end([event.time_s for event in events], self._source)
        is_states = self._mapping.states
        is_states = not (words <= CHANGE_WORDS or self._mapping.add) if is_states is None else is_states
        if is_states:
            if events and all(event.kind == "remove" for event in events):
                # One loss may have several words, such as preempted and terminated.
                is_state = re.search("stat(e|us)", self._kept.header("event"), re.IGNORECASE)
                if not (self._mapping.states or is_state):
                    self._refuse_repeats(((word, event.node), event.time_s) for word, event in rows)
                notes.append(STAY_AWAY)
            events, more = events_from_states(in_time_order(events, self._source))
            notes += more
            if 2 * len(events) < len(rows):
                told = "most rows repeat the state of a node, as samples do: where it has no row, it stays as it was; "
                notes.append(f"{told}if it was gone then, give the column as `value` of `columns`, not as `event`")
        return TraceReading(events, end_s, tuple(notes), names="some" if is_states else "all")

    def _read_outages(self) -> TraceReading:
        rows = self._read(self._outage)
        known = [time for row, _ in rows for time in (row.start_s, row.end_s) if math.isfinite(time)]
        self._times.start(known, self._source, self._mapping.span)
        outages, num_unlike = [], 0
        for row, length_s in rows:
            start_s, end_s = self._times.seconds(row.start_s), self._times.seconds(row.end_s)
            if length_s is not None and math.isinf(end_s):
                end_s = start_s + length_s
            outages.append(row._replace(start_s=start_s, end_s=end_s))
            unlike_s = 0.0 if length_s is None else abs(start_s + length_s - end_s)
            num_unlike += unlike_s > max(MINUTE_S, UNLIKE_SHARE * (end_s - start_s))
        last_s = max((one.end_s for one in outages if math.isfinite(one.end_s)), default=0.0)
        starts_s = [outage.start_s for outage in outages if math.isfinite(outage.start_s)]
        end_s = self._times.end(starts_s, self._source, last_s)
        outages = [one._replace(end_s=math.inf) if one.end_s > end_s else one for one in outages]
        events, notes = events_from_outages(outages)
        begins = "begin with the first outage and to " if self._times.is_absolute else ""
        ends = span_note(
            self._mapping.span,
            f"the trace is taken to {begins}end with the last row that counts; `span` says from when to when "
            "nodes were observed",
        )
        notes = (ends, *notes, *self._times.notes())
        if self._are_losses:
            self._refuse_repeats((one.node, one.start_s) for one in outages)
            notes += (STAY_AWAY,)
        if num_unlike:
            unlike = counted(num_unlike, "outage has", "outages have")
            notes += (f"{unlike} a length that is not that from its start to its end: the end counts",)
        return TraceReading(events, end_s, notes, names="some")

    def _refuse_repeats(self, losses: Iterable[tuple[Hashable, float]]) -> None:
        """Refuse losses of a node at several times, which say nothing of its returns."""
        found = {*losses}
        if len({node for node, _ in found}) < len(found):
            what = "says that nodes go, some more than once, and not when they are back; give outages (node, start, "
            what += "end), or if rows repeat that a node is gone, a mapping with `states`, a TOML file for `format`"
            raise self._source.refuse("", what)

    def _read_samples(self) -> TraceReading:
        rows = self._read(self._samples)
        self._times.start((time for _, time, _ in rows), self._source)
        if self._times.is_local:
            stamps = [Sample(self._times.seconds(time), 0, line) for line, time, _ in rows]
            refuse_set_back(stamps, self._source, "take the first sample of a time")
        series: dict[str, list[SeriesSample]] = {}
        for line, time, values in rows:
            for name, value in values:
                series.setdefault(name, []).append((line, self._times.seconds(time), value))
        labelled = [(read_labels(name), samples) for name, samples in series.items()]
        chosen = choose_series(labelled, self._kept.labels(), self._source)
        log = StateLog(self._source)
        log.say_series(chosen)
        notes = [IS_THERE, *self._times.notes()]
        if self._kept.nodes:
            nodes = dict.fromkeys(literal(find_node(labels)) for labels, _ in chosen)
            shown = ", ".join(list(nodes)[:3]) + ", ..." * (len(nodes) > 3)
            notes.append(f"columns are taken for nodes: {shown} ({len(nodes)} in all)")
        return log.reading(*notes)

    def _refuse_several(self, samples: list[Sample]) -> None:
        """Make faults of other counts at the same time: another column may tell zones or kinds of nodes apart."""
        first: dict[float, Sample] = {}
        for sample in samples:
            before = first.setdefault(sample.time_s, sample)
            if before.num_nodes != sample.num_nodes:
                what = f"a second count for the time of line {before.line}; choose rows by another column with `where`"
                self._source.fault(sample.line, what, "take the last count of a time")

    def _read(self, read: Callable[[int, dict[str, str]], RowT | None]) -> list[RowT]:
        """Return the rows, without those that are to be ignored; those that cannot be read are faults."""
        found = self._source.readable(((row[0], row) for row in self._kept.rows), lambda row: read(*row))
        return [row for _, row in found if row is not None]

    def _event(self, line: int, texts: dict[str, str]) -> tuple[str, Event] | None:
        """Read an event and its word."""
        kind = event_kind(texts["event"], self._mapping)
        node = named(texts["node"])
        if kind is None:
            return None
        if whole_node(node) != node:
            raise ValueError(f"{shorten(node)!r} is a part of a node, {OF_PARTS} name it alone")
        return texts["event"].strip().lower(), Event(self._time(texts["time"]), kind, node, line)

    def _outage(self, line: int, texts: dict[str, str]) -> tuple[Outage, float | None]:
        """Read an outage, and its length in seconds where it has one in place of an end."""
        node = whole_node(named(texts["node"]))
        if self._are_losses and texts["start"].lower() in OPEN_WORDS:
            return Outage(node, math.inf, math.inf, line), None  # It is there throughout.
        start = self._times.read(texts["start"])
        text, length = texts.get("end", ""), texts.get("duration", "")
        is_open = text.strip().lower() in OPEN_WORDS
        length_s = None
        # Beside an end, a length need not tell its unit.
        with suppress(*() if is_open else (ValueError,)):
            if length.strip().lower() not in OPEN_WORDS:
                # Beside ends, a length of 0 is one that is not known yet.
                length_s = self._times.read_length(length) or (None if "end" in texts else 0.0)
        try:
            end = math.inf if is_open else self._times.read(text, start)
        except ValueError as error:
            raise ValueError(f"{error}; if the outage goes on, leave its end empty") from None
        if end < start:
            hint = "; if the clock was set back, give `time_zone`" if self._times.is_local else ""
            raise ValueError(f"the outage ends, at {text!r}, before it starts, at {texts['start']!r}{hint}")
        return Outage(node, start, end, line), length_s

    def _samples(self, line: int, texts: dict[str, str]) -> tuple[int, float, list[tuple[str, float]]]:
        """Read the samples of a row: its line, its time, and the series and the value of each."""
        time = self._time(texts["time"])
        cells = [(name, texts[str(index)]) for index, name in self._kept.nodes.items()]
        if not self._kept.nodes:
            labels = "".join(f',{label}="{texts[label]}"' for label in KUBE_LABELS if label in texts)
            node = named(texts["node"])
            cells = [(f'{{node="{node}"{labels}}}' if labels else node, texts["value"])]
        values = [(name, sampled_value(text, self._mapping)) for name, text in cells]
        return line, time, [(name, value) for name, value in values if value is not None]

    def _cluster_nodes(self) -> int | tuple[str, ...] | None:
        if self._mapping.cluster_nodes is not None or "cluster_nodes" not in self._kept.places:
            return self._mapping.cluster_nodes
        return max(self._read(lambda _, texts: count(texts["cluster_nodes"]) or None), default=None)
