"""Gather what a log, or samples as Prometheus and Grafana have them, say of nodes, and make a trace of it."""

import itertools
import math
import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from lazsim.errors import LONGEST_CAUSE, LazsimError, first_names, shorten
from lazsim.files.faults import Faults
from lazsim.files.tables import json_values, valid_json
from lazsim.grouping import grouped
from lazsim.trace.reading.events import events_from_states
from lazsim.trace.reading.hosts import whole_node
from lazsim.trace.reading.mapping import Condition
from lazsim.trace.reading.times import TimeParser, span_note
from lazsim.trace.source import TraceReading, TraceSource
from lazsim.trace.table import Event, EventKind
from lazsim.units import counted

OPTIONS = ("time_zone", "cluster_nodes", "span")
"""Fields of `TraceSource.asked` that a log of states heeds."""

LEAST_SHARE = 0.75
"""Of the times of samples between its first and its last, the node that has most has at least this share. Of two nodes
that take turns, each has a half, or two of three (assumption)."""

LEAST_GAP = 1.5
"""Time between samples in which some are missing, as a multiple of the usual time: one that is missing makes it 2."""

NOT_READY = ("false", "unknown")
"""Values of the label ``status`` of a series of kube-state-metrics that is 1 where a node is not ready."""

QUERIES = 'up{job="..."} or kube_node_status_condition{condition="Ready",status="true"}'
METRICS = ("", "up", "probe_success", "kube_node_status_condition")
NODE_LABELS = ("node", "nodename", "hostname", "host", "kubernetes_node", "instance")

PORT = re.compile(r":\d+$")
"""Port behind the name of a node, at which what is sampled listens."""

SamplesT = TypeVar("SamplesT")
SeriesSample = tuple[int | str, float, float | None]
"""Its place in the file, for faults, its time in seconds, and its value."""

NEXT_PAGE = (("NextToken",), ("nextToken",), ("nextPageToken",), ("metadata", "continue"))
"""Where an answer of AWS, Google or Kubernetes has text while pages follow."""

IS_THERE = "a node changed some time before the sample that shows it, and is gone where it has no sample"


class StateLog:
    """The states of nodes at the dates of a log; the trace begins with the first date and ends with the last."""

    def __init__(self, source: TraceSource) -> None:
        self.source = source
        """The file; its faults count what cannot be read."""
        self._times = TimeParser(source.asked, source.asked)
        self._rows: list[Event] = []
        self._nodes: dict[str, EventKind] = {}
        self._seen: list[float] = []
        self._notes: list[str] = []
        self._others: list[str] = []

    def at(self, stamp: str, after_s: float = -math.inf) -> float:
        """Return the time of a date, at which the log was being written; see `TimeParser.read`."""
        return self.observe(self._times.read(stamp, after_s))

    def observe(self, time_s: float) -> float:
        """Count a time, in seconds since 1970, as one at which the log was being written."""
        self._seen.append(time_s)
        return time_s

    def say(self, time_s: float, kind: EventKind, node: str, line: int = 0) -> None:
        """Say that a node is there (``add``) from a time on, or is not (``remove``)."""
        self._rows.append(Event(time_s, kind, node, line))

    def losses(self) -> dict[str, list[float]]:
        """Return the times at which nodes were said to be there no more, by node."""
        return grouped((row.node, row.time_s) for row in self._rows if row.kind == "remove")

    def know(self, node: str, kind: EventKind = "add") -> None:
        """Say that a node exists: it is there from the start, or away, unless a row says what happened to it."""
        self._nodes[node] = kind

    def leave_out(self, what: str) -> None:
        """Count an entry of this kind, which says of no node that it comes or goes, for a note."""
        self._others.append(what)

    def say_series(self, series: Iterable[tuple[Mapping[str, Any], Iterable[SeriesSample]]]) -> None:
        """Say what series of samples at common times, each with labels, tell of nodes.

        A node is there while all its series are 1. It is gone where one has no sample, though another node has. Series
        of a node of which one ends before the other begins are one.

        Raises
        ------
        TraceFormatError
            When a series names no node, or nodes have samples at different times, so that one without may be there.
        """
        states: dict[str, list[dict[float, bool]]] = {}
        of_ports: dict[frozenset[tuple[str, str]], dict[float, bool]] = {}
        for labels, samples in series:
            there = 0.0 if labels.get("status") in NOT_READY else 1.0
            if not (node := find_node(labels)):
                raise refusal(self.source, f"a series that names no node ({shorten(dict(labels))})")
            found: dict[float, bool] = {}
            # What listens at several ports of a node may fail without it.
            same = of_ports.setdefault(frozenset((name, PORT.sub("", str(text))) for name, text in labels.items()), {})
            for where, time, value in samples:
                found[time] = same.setdefault(time, value == there)
                if found[time] != (value == there):
                    what = f"another sample of {shorten(node)!r} at the time {time:.15g}; choose with `where`"
                    ports = [(label, PORT.search(str(labels.get(label)))) for label in NODE_LABELS]
                    hint = next((f", such as '{label}=*{port[0]}'" for label, port in ports if port), "")
                    self.source.fault(where, what + hint, "take the first sample of a time")
            of_node = states.setdefault(node, [])
            # Where an exporter of states of nodes is replaced, a new series goes on where another one ends.
            apart = (one for one in of_node if one and found and (max(one) < min(found) or max(found) < min(one)))
            if (before := next(apart, None)) is None:
                of_node.append(found)
            else:
                before.update(found)
        grid = sorted({self.observe(time) for of_node in states.values() for samples in of_node for time in samples})
        _refuse_uncommon(grid, states, self.source)
        if grid and not any(any(samples.values()) for of_node in states.values() for samples in of_node):
            what = "no sample says that a node is there; give those of healthy nodes, too, as a query for"
            raise self.source.refuse("", f"{what} {QUERIES} does")
        steps = [later - earlier for earlier, later in itertools.pairwise(grid)]
        usual = statistics.median_low(steps or [0.0])
        if num_gaps := sum(step > LEAST_GAP * usual for step in steps):
            gaps = counted(num_gaps, "gap")
            self._notes.append(f"no node has a sample in {gaps} of time: all are taken to have stayed as they were")
        num_there, num_sampled = 0, 0
        for node, of_node in states.items():
            self.know(node, "away")
            was_there = False
            for time in grid:
                is_there = all(samples.get(time, False) for samples in of_node)
                num_there += is_there
                num_sampled += any(time in samples for samples in of_node)
                if is_there != was_there:
                    self.say(time, "add" if is_there else "remove", node)
                was_there = is_there
        if 2 * num_there < num_sampled:
            self._notes.append(
                "nodes are gone at most of their samples; if 1 says that a node is gone, turn 0 and 1 round"
            )

    def reading(self, *notes: str) -> TraceReading:
        """Return the events of the nodes, and what was assumed."""
        asked = self.source.asked.span if self._rows else None
        self._times.start(self._seen, self.source, asked)
        rows = [row._replace(time_s=self._times.seconds(row.time_s)) for row in self._rows]
        last_s = max(map(self._times.seconds, self._seen), default=0.0)
        duration_s = self._times.end([row.time_s for row in rows], self.source, last_s)
        events, more = events_from_states(sorted(rows, key=attrgetter("time_s")))
        named = {row.node for row in rows}
        events = [*(Event(0.0, kind, node) for node, kind in self._nodes.items() if node not in named), *events]
        begins = span_note(asked, "the trace begins with the first date that counts and ends with the last")
        if self._others:
            kinds = first_names([*dict.fromkeys(self._others)], LONGEST_CAUSE)
            told = counted(len(self._others), "entry tells of no loss and does", "entries tell of no loss and do")
            notes = (*notes, f"{told} not count ({kinds})")
        notes = (begins, *notes, *more, *self._notes, *self._times.notes())
        return TraceReading(events, duration_s, notes, names="some")


def read_labels(name: str) -> dict[str, str]:
    r"""Return the labels in the name of a series; a name without any is that of a node.

    Examples
    --------
    >>> read_labels('up{instance="a:9100", job="node"}')
    {'__name__': 'up', 'instance': 'a:9100', 'job': 'node'}
    >>> read_labels("node-1")
    {'node': 'node-1'}
    """
    found = re.fullmatch(r"\s*([\w:]*)\s*\{(.*)\}\W*", name)
    if not found:
        return {"node": name}
    return {"__name__": found[1], **dict(re.findall(r'(\w+)\s*=[\\"]*([^",}\\]*)', found[2]))}


def find_node(labels: Mapping[str, Any]) -> str:
    """Return the node that labels name, without a port or a part of it, or an empty text."""
    name = next((str(labels[label]) for label in NODE_LABELS if labels.get(label)), "")
    return whole_node(PORT.sub("", name))


def refusal(source: Faults, what: str) -> LazsimError:
    """Return what to raise where a file is not the answer to a query that tells of nodes."""
    return source.refuse("", f"{what}; ask /api/v1/query_range for {QUERIES}")


def choose_series(
    series: Iterable[tuple[Mapping[str, Any], SamplesT]], where: Iterable[Condition], source: Faults
) -> list[tuple[Mapping[str, Any], SamplesT]]:
    """Return the series with the labels that are asked for; of the conditions of a node, readiness alone counts.

    Raises
    ------
    TraceFormatError
        When there is none, one is of a metric that does not tell of nodes, or they are of several jobs.
    """
    wanted = list(where)
    series = list(series)
    for labels, _ in series:
        if (metric := str(labels.get("__name__", ""))) not in METRICS:
            raise refusal(source, f"Prometheus's {shorten(metric)}, which does not say whether a node is there")
    ready = [one for one in series if one[0].get("condition", "Ready") == "Ready"]
    chosen = [one for one in ready if all(each.holds(str(one[0].get(str(each.column), ""))) for each in wanted)]
    if not chosen:
        raise refusal(source, "no series of a node in it")
    jobs = sorted({str(labels.get("job", "")) for labels, _ in chosen if labels.get("__name__") == "up"})
    if len(jobs) > 1:
        what = f"targets of the jobs {shorten(', '.join(jobs))}, one of which may fail without its node"
        raise source.refuse("", f"{what}; choose one with `where` 'job={jobs[0]}'")
    return chosen


def _refuse_uncommon(
    grid: Sequence[float], states: Mapping[str, Sequence[Mapping[float, bool]]], source: Faults
) -> None:
    """Refuse samples of which no node has most, from its first to its last."""
    shares = [
        len(samples) / (bisect_right(grid, max(samples)) - bisect_left(grid, min(samples)))
        for of_node in states.values()
        for samples in of_node
        if len(samples) > 1
    ]
    if max(shares, default=1.0) < LEAST_SHARE:
        what = (
            f"no node has samples at more than {max(shares):.0%} of the times from its first to its last; take samples "
            "of all nodes at the same times, or leave rows without a change out and name `columns` of events"
        )
        raise source.refuse("", what)


def json_records(source: TraceSource, *lists: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON file with their place in it, for faults.

    The file has one value or several, such as one on each line. An array stands for its elements, and so does an object
    with an array under one of the names `lists`.

    Raises
    ------
    TraceFormatError
        When a value is no valid JSON, or says that more follow.
    """
    number, follow = 0, False
    with valid_json(source):
        for _, value in json_values(source.text):
            follow = any(text_at(value, *path) for path in NEXT_PAGE)
            name = next((name for name in lists if isinstance(value, dict) and isinstance(value.get(name), list)), None)
            found = value if isinstance(value, list) else [value] if name is None else value[name]
            for record in found:
                number += 1
                if isinstance(record, dict):
                    yield f"entry {number}", record
                else:
                    source.fault(f"entry {number}", "expected an object of JSON")
    if follow:
        source.fault("", "says that more pages follow; fetch all of them", "take the first ones for all")


def value_at(record: Any, *path: str) -> Any:
    """Return the value at a path of keys of nested objects, None where there is none.

    Examples
    --------
    >>> value_at({"metadata": {"name": "gpu-01"}}, "metadata", "name")
    'gpu-01'
    """
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def text_at(record: Any, *path: str) -> str:
    """Return the text at a path of keys of nested objects, empty where there is none."""
    value = value_at(record, *path)
    return value if isinstance(value, str) else ""
