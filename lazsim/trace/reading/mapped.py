"""Read a table by a mapping of its columns: pick the rows and columns that it names, and make events of them."""

import collections
import copy
import fnmatch
import functools
import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from lazsim.errors import LONGEST_LIST, LazsimError, literal, shorten
from lazsim.files.tables import HEAD_LINES, PARQUET, FileTable, read_parquet, read_table
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
from lazsim.trace.reading.hosts import PART, expand_hosts, whole_node
from lazsim.trace.reading.mapping import LOSSES, NO_MAPPING, OPTIONAL, Condition, TraceMapping
from lazsim.trace.reading.states import IS_THERE, SeriesSample, StateLog, choose_series, find_node, read_labels
from lazsim.trace.reading.times import TimeParser, is_date, is_number, is_read_by, span_note
from lazsim.trace.source import TraceReading, TraceSource, count, named
from lazsim.trace.table import Event, EventKind
from lazsim.units import HOUR_S, MINUTE_S, counted

WORDS: dict[EventKind, str] = {
    "add": (
        "add added up join joined start started launch launched running ready online active available "
        "healthy alive repaired fixed restored recovered recovery resumed created idle allocated alloc mixed "
        "mix comp completing resv reserved faultend ok connected inservice poweredon"
    ),
    "remove": (
        "remove removed down leave left stop stopped terminate terminated preempt preempted preemption fail failed "
        "unhealthy dead failure lost offline notready unavailable evicted eviction killed deleted "
        "interrupted interruption termination crash crashed drained faultstart revoked unreachable unreach unavail "
        "maint maintenance disconnected inactive outofservice poweredoff poweroff shutdown shuttingdown"
    ),
}
"""Usual words for what happened to a node, also as Kubernetes and Slurm have them, without signs and a word for it."""

_KINDS = {word: kind for kind, words in WORDS.items() for word in words.split()}

GONE_SIGN = re.compile(r"[*~#%^$]$")
"""Signs behind a state of Slurm, of a node that does not respond, is powered off or restarted, or is maintained; ``@``
and ``!`` say that it will be (man page of sinfo)."""

EVENT_NEEDED = "event; name it in `add`, `remove` or `ignore` of a mapping, a TOML file for `format`"

MOST_NAMED = 3
"""Kinds of rows that are left out of which a note tells, the most frequent first."""

CHANGE_WORDS = {"add", "remove", "added", "removed"}
"""Words for changes; all others may also be read as states."""

OPEN_WORDS = ("", "unknown", "none", "null", "nan", "nat", "-", "ongoing", "n/a", "\\n")
"""Ends of outages that go on."""

SAMPLES = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
"""Words of samples beside those of events."""

KUBE_LABELS = ("condition", "status")
"""Labels of the samples of kube-state-metrics, which a table may have in columns of their own."""

NO_SAMPLE = ("", "nan", "null", "none", "-", "n/a", "undefined")

LISTS = ("nodes", "hosts", "machines", "instances", "servers", "nodelist", "hostlist", "hostnames")
"""Names of columns that may list several nodes."""

BETWEEN_HOSTS = re.compile(r"\s+and\s+|[\s;&+/]+")
"""What people write between several nodes in a cell, whose names are alike but for their numbers."""

RANGE_OF_HOSTS = re.compile(r"(\D+)\d+(\s*(-|to)\s*\1\d+|\.\.\1?\d+)|.*[*?].*|all(\s.*)?", re.IGNORECASE)
"""What people write for all nodes from one to another, or for all there are."""

OF_PARTS = (
    "of which one may come back while another is gone; give outages (node, start, end), which may overlap, or if each "
    "row is of a whole node,"
)
"""Why events of parts of nodes are refused."""

EXPONENT = re.compile(r"\d([.,]\d+)?[Ee]\+\d+", re.ASCII)
"""Long numbers as spreadsheets and JSON show them, with too few digits to tell nodes apart."""

UNLIKE_SHARE = 0.1
"""Share of an outage, or else a minute, by which its length and its end may differ, as where one is rounded
(assumption)."""

STAY_AWAY = "no row says that a node is back: those that go stay away"

RowT = TypeVar("RowT")


def open_table(source: TraceSource, mapping: TraceMapping = NO_MAPPING) -> FileTable:
    """Read the rows of a file in any form of table, of which a mapping may know more."""
    if source.content.startswith(PARQUET):
        return read_parquet(source.content, source)
    mapping = source.asked.under(mapping)
    return read_table(source.text, source, lambda fields: is_header(fields) and not has_time(fields, mapping))


def is_header(fields: list[str]) -> bool:
    """Return whether a row names columns: none of its texts is a number or a date."""
    return not any(is_number(field) or is_date(field) for field in fields)


def has_time(fields: Sequence[str], mapping: TraceMapping) -> bool:
    """Return whether a row has a time, maybe of a form of its own, in columns that a mapping tells by their numbers."""
    columns = {} if mapping.columns is None else mapping.columns.given()
    try:
        places = [int(part) - 1 for part in columns.get("time", columns.get("start", ()))]
        return bool(places) and is_read_by(TimeParser(mapping, mapping).read, _joined(fields, places))
    except (ValueError, IndexError, OverflowError):
        return False


def find_column(part: str | int, header: tuple[str, ...]) -> int | None:
    """Return the index of a column by its number from 1, or by its name: as it stands, or else by its plain name.

    Examples
    --------
    >>> find_column("prob started", ("nodes", "Prob Started (mm/dd/yy)"))
    1
    """
    if isinstance(part, int):
        return part - 1
    name, names = (part, header) if part in header else (plain_name(part), tuple(map(plain_name, header)))
    return names.index(name) if name in names else None


def plain_name(name: str) -> str:
    """Return a name of a column without case, signs and what is in brackets."""
    return re.sub(r"\(.*\)|[\W_]", "", name.lower())


def event_kind(text: str, mapping: TraceMapping = NO_MAPPING) -> EventKind | None:
    """Return what an event says, None where it is to be ignored; a ValueError says that it is unknown."""
    word = text.strip().lower()
    given: tuple[tuple[tuple[str, ...], EventKind | None], ...] = (
        (mapping.ignore, None), (mapping.add, "add"), (mapping.remove, "remove"),
    )  # fmt: skip
    for words, kind in given:
        if any(word == one.lower() for one in words):
            return kind
    plain = re.sub(r"^(node|host|instance|machine|vm)(?=.)|[\s_-]|[!@]$", "", word)
    known = _KINDS.get(GONE_SIGN.sub("", plain))
    if known is None:
        raise ValueError(f"{shorten(text)!r} is no {EVENT_NEEDED}")
    return "remove" if GONE_SIGN.search(plain) else known


def choose_rows(table: FileTable, conditions: Iterable[Sequence[Condition]]) -> FileTable:
    """Return a table of the rows that are as conditions ask, of those of its columns; of all rows where none is."""
    places = {one.column: find_column(one.column, table.header) for one in itertools.chain(*conditions)}
    known = [one for one in conditions if any(places[each.column] is not None for each in one)]
    width = max((place + 1 for place in places.values() if place is not None), default=0)
    rows = [row for row in table.rows if len(row.fields) >= width and are_met(known, row.fields, places)]
    return table._replace(rows=rows or table.rows)


def are_met(
    conditions: Iterable[Sequence[Condition]], fields: Sequence[str], places: Mapping[str | int, int | None]
) -> bool:
    """Return whether a row is as conditions ask, of each of which one must hold; `places` are those of columns."""
    texts = {column: None if place is None else fields[place] for column, place in places.items()}
    return all(any(condition.holds(texts[condition.column]) for condition in one) for one in conditions)


def read_mapped(source: TraceSource, table: FileTable, mapping: TraceMapping) -> TraceReading:
    """Read the rows of a table by a mapping that names the columns; the user's own wishes go first.

    Raises
    ------
    TraceFormatError
        When the table has no such columns, rows of several clusters, or a row that is wrong.
    """
    return _MappedTable(source, table, source.asked.under(mapping)).read()


class _MappedTable:
    """The rows of a table that count: their texts by the roles of columns, once for each node that a row lists."""

    def __init__(self, source: TraceSource, table: FileTable, mapping: TraceMapping) -> None:
        assert mapping.columns is not None, "the mapping names the columns"
        self._source, self._table, self._mapping = source, table, mapping
        self._places = {
            role: self._find(parts)
            for role, parts in mapping.columns.given().items()
            if role != "nodes" and (role not in OPTIONAL or None not in map(self._index, parts))
        }
        if "value" in self._places and None not in map(self._index, KUBE_LABELS):
            self._places |= {label: self._find((label,)) for label in KUBE_LABELS}
        self._is_sampled = mapping.columns.nodes is not None or mapping.columns.value is not None
        self._nodes = self._find_nodes(mapping.columns.given().get("nodes", ()))
        self._are_losses = self._places.keys() - OPTIONAL == {*LOSSES}
        self._conditions = mapping.conditions()
        self._left_out = collections.Counter[str]()
        self._rows = list(self._chosen())
        if not self._rows and self._left_out and mapping.cluster_nodes is None:
            num = self._left_out.total()
            raise source.refuse(
                "", f"none of its {num} rows has {self._asked()}; change `where`, or give `cluster_nodes`"
            )
        times = self._places.get("time") or self._places["start"]
        lengths = self._header(self._places["duration"]) if "duration" in self._places else None
        self._times = TimeParser(mapping, source.asked, self._header(times), lengths)
        steps = self._first_steps(copy.copy(self._times)) if "time" in self._places else []
        # Rows that nodes write at once, as at the start, may be out of order in any file.
        self._is_newest_first = 2 * sum(step < 0 for step in steps) > len(steps) and math.fsum(steps) < 0
        if self._is_newest_first:
            self._rows.reverse()
        # The count of an hour that comes twice only repeats the time of the one before.
        self._is_hourly = "count" in self._places and bool(steps) and not any(step % HOUR_S for step in steps)
        self._last = -math.inf

    def _first_steps(self, times: TimeParser) -> list[float]:
        """Return the steps between the times of the first rows, and on to the last, that differ; none without dates."""
        found = []
        for _, texts in [*self._rows[:HEAD_LINES], *self._rows[HEAD_LINES:][-1:]]:
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
        if self._mapping.span is not None and ("count" in self._places or self._is_sampled):
            raise self._source.refuse("", "its rows say when nodes were observed; leave `span` out")
        if self._is_sampled:
            reading = self._read_samples()
        elif "count" in self._places:
            reading = self._read_counts()
        else:
            reading = self._read_events() if "event" in self._places else self._read_outages()
        notes = list(reading.notes)
        if self._is_newest_first:
            notes.append("the newest rows come first: read from the end")
        names = itertools.chain(self._nodes.values(), (texts.get("node", "") for _, texts in self._rows))
        if found := next(filter(None, map(PART.fullmatch, names)), None):
            is_part = "names a part: a node is gone while one of its parts is; write a whole node without ':'"
            is_node = f"is taken for a node; a part of one is written as {found[1]}:{found[3]}0"
            notes.append(f"{shorten(found[0])!r} {is_part if found[2] == ':' else is_node}")
        for one in self._conditions:
            if len(one) > 1 and self._lacks(one):
                columns = " or ".join(sorted({str(condition.column) for condition in one}))
                notes.append(f"no column {columns}, by which some rows are left out: all count")
        if self._left_out:
            num = counted(self._left_out.total(), "row is", "rows are")
            most = ", ".join(f"{number:,} with {what}" for what, number in self._left_out.most_common(MOST_NAMED))
            others = f", {len(self._left_out) - MOST_NAMED:,} others" if len(self._left_out) > MOST_NAMED else ""
            notes.append(f"{num} left out ({most}{others}): only those with {self._asked()} count")
        return reading._replace(
            notes=tuple(notes), assumed_unit=self._times.assumed_unit, cluster_nodes=self._cluster_nodes()
        )

    def _chosen(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line and the texts by role of the rows that count."""
        wanted = [one for one in self._conditions if not self._is_of_labels(one)]
        self._find(tuple(one[0].column for one in wanted if len(one) == 1 and one[0].is_wanted))
        places = {one.column: self._index(one.column) for one in itertools.chain(*wanted)}
        named = range(len(self._table.header))
        used = {*itertools.chain(*self._places.values()), *self._nodes}
        decide = {place for place in places.values() if place is not None}
        may_be_cut = sorted((used | decide).intersection(named)) if self._table.may_be_cut else ()
        # A text with separators that is not quoted moves the cells behind it, of which none may count.
        spills = len(named) > max(used) >= min({*named} - used, default=0)
        first_cluster = None
        for line, fields in self._table.rows:
            if spills and any(fields[len(named) :]):
                cells = f"{len(fields)} cells, and the header has {len(named)}"
                self._source.fault(line, f"{cells}; quote texts with separators in them")
                continue
            try:
                for cut in (fields[place] for place in may_be_cut if fields[place].endswith("+")):
                    what = f"{shorten(cut)!r} is cut to the width of its column; write all of it, as Slurm does with -P"
                    self._source.fault(line, what, "take texts that are cut as they stand")
                if not are_met(wanted, fields, places):
                    column = next(one[0].column for one in wanted if not are_met([one], fields, places))
                    place = places[column]
                    self._left_out[f"{column} {shorten(fields[place]) if place is not None else 'missing'}"] += 1
                    continue
                texts = {role: _joined(fields, places) for role, places in self._places.items()}
                texts |= {str(index): fields[index] for index in self._nodes}
            except IndexError:
                self._source.fault(line, f"{counted(len(fields), 'column')}, too few: {shorten(' '.join(fields))!r}")
                continue
            cluster = texts.get("cluster", "")
            first_cluster = cluster if first_cluster is None else first_cluster
            if cluster != first_cluster:
                raise self._several_clusters(line, first_cluster, cluster)
            if "node" not in texts:
                yield line, texts
                continue
            for node in self._hosts(line, texts["node"]):
                yield line, texts | {"node": node}

    def _several_clusters(self, line: int, first: str, second: str) -> LazsimError:
        """Return the error that rows are of two clusters, whose nodes may have the same names."""
        place = self._places["cluster"][0]
        column = self._header([place]) or str(place + 1)
        otherwise = "a name is of one node in both, give `columns` without it"
        if "count" in self._places:
            otherwise = "each row counts all nodes, give `columns`, such as time=1,count=2"
        what = f"{column} is {first!r} before and {second!r} here, and each has nodes of its own; "
        return self._source.refuse(line, f"{what}choose one with `where` '{column}={first}', or if {otherwise}")

    def _asked(self) -> str:
        told = ", ".join(" or ".join(map(str, one)) for one in self._conditions)
        columns = dict.fromkeys(str(condition.column) for one in self._conditions for condition in one)
        return told if len(told) <= LONGEST_LIST else f"{', '.join(columns)} as the mapping says"

    def _hosts(self, line: int, text: str) -> list[str]:
        """Return the nodes that a text names, which may be a list such as ``gpu-[01-03]`` or ``gpu-01,gpu-02``."""
        try:
            is_list = " " in text and plain_name(self._header(self._places["node"])) in LISTS
            if is_list or _are_several(text):
                raise ValueError(f"{shorten(text)!r} may be several nodes; write gpu-01,gpu-02, or a row for each")
            if EXPONENT.fullmatch(text):
                raise ValueError(f"{shorten(text)!r} is rounded, as spreadsheets show long numbers; save all digits")
            return expand_hosts(text) if re.search(r"[\[,]", text) and "{" not in text else [text]
        except ValueError as error:
            self._source.fault(line, str(error))
            return []

    def _lacks(self, conditions: Sequence[Condition]) -> bool:
        """Return whether the table has none of the columns of conditions."""
        return all(self._index(condition.column) is None for condition in conditions)

    def _is_of_labels(self, conditions: Sequence[Condition]) -> bool:
        """Return whether conditions are of labels of samples, since there is no such column."""
        return self._is_sampled and self._lacks(conditions)

    def _find_nodes(self, patterns: tuple[str | int, ...]) -> dict[int, str]:
        """Return the names of the columns that are nodes by their indices."""
        others = {index for places in self._places.values() for index in places}
        found = {
            index: name
            for index, name in enumerate(self._table.header)
            if index not in others and any(fnmatch.fnmatchcase(name, str(pattern)) for pattern in patterns)
        }
        if patterns and not found:
            self._find(patterns)
        return found

    def _header(self, places: Iterable[int]) -> str:
        return " ".join(self._table.header[index] for index in places if index < len(self._table.header))

    def _find(self, parts: tuple[str | int, ...]) -> tuple[int, ...]:
        places = []
        for part in parts:
            index = self._index(part)
            if index is None:
                known = ", ".join(map(literal, self._table.header[:30])) or "without names"
                raise self._source.refuse("", f"no column {part!r}; its columns are {known}")
            places.append(index)
        return tuple(places)

    def _index(self, part: str | int) -> int | None:
        return find_column(part, self._table.header)

    def _read_counts(self) -> TraceReading:
        samples = self._read(lambda line, texts: Sample(self._time(texts["time"]), count(texts["count"]), line))
        self._times.start((sample.time_s for sample in samples), self._source)
        before, last = ([""] * 2 + [str(sample.num_nodes) for sample in samples])[-2:]
        may_be_cut = before != last and before.startswith(last) and self._source.text.endswith(last)
        samples = [sample._replace(time_s=self._times.seconds(sample.time_s)) for sample in samples]
        used = {place for places in self._places.values() for place in places}
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
                is_state = re.search("stat(e|us)", self._header(self._places["event"]), re.IGNORECASE)
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
        wanted = itertools.chain(*filter(self._is_of_labels, self._conditions))
        chosen = choose_series([(read_labels(name), samples) for name, samples in series.items()], wanted, self._source)
        log = StateLog(self._source)
        log.say_series(chosen)
        notes = [IS_THERE, *self._times.notes()]
        if self._nodes:
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
        found = self._source.readable(((row[0], row) for row in self._rows), lambda row: read(*row))
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
        cells = [(name, texts[str(index)]) for index, name in self._nodes.items()]
        if not self._nodes:
            labels = "".join(f',{label}="{texts[label]}"' for label in KUBE_LABELS if label in texts)
            node = named(texts["node"])
            cells = [(f'{{node="{node}"{labels}}}' if labels else node, texts["value"])]
        values = [(name, sampled_value(text, self._mapping)) for name, text in cells]
        return line, time, [(name, value) for name, value in values if value is not None]

    def _cluster_nodes(self) -> int | tuple[str, ...] | None:
        if self._mapping.cluster_nodes is not None or "cluster_nodes" not in self._places:
            return self._mapping.cluster_nodes
        return max(self._read(lambda _, texts: count(texts["cluster_nodes"]) or None), default=None)


def sampled_value(text: str, mapping: TraceMapping = NO_MAPPING) -> float | None:
    """Return 1 where a sample says that a node is there, 0 where not, None where there is none; else a ValueError."""
    word = text.strip().lower()
    if word in NO_SAMPLE:
        return None
    if word in SAMPLES:
        return SAMPLES[word]
    if is_number(word):
        if float(word) in (0, 1):
            return float(word)
        raise ValueError(f"{shorten(text)!r} is neither 0 nor 1, as a sample of a node is")
    kind = event_kind(text, mapping)
    return None if kind is None else float(kind == "add")


@functools.lru_cache(1 << 12)
def _are_several(text: str) -> bool:
    """Tell whether a text may name several nodes, but not in a way that tells each."""
    parts = BETWEEN_HOSTS.split(text)
    is_numbered = len(parts) > 1 and re.search(r"[A-Za-z].*\d", parts[0]) is not None
    are_alike = is_numbered and len({re.sub(r"\d+", "0", part) for part in parts}) == 1
    return are_alike or ("{" not in text and RANGE_OF_HOSTS.fullmatch(text) is not None)


def _joined(fields: Sequence[str], places: Sequence[int]) -> str:
    return fields[places[0]] if len(places) == 1 else " ".join(fields[place] for place in places)
