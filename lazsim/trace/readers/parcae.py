"""Parcae's traces, as lists of events and as counts (github.com/JF-D/Parcae)."""

import json
import math

from lazsim.trace.counts import RULE, Sample, events_from_counts
from lazsim.trace.source import Reader, Reading, Source, count, matching_lines, number, shorten
from lazsim.trace.table import Event, in_time_order

EVENT_LOOKS = '[ms, "add"|"remove"|"no-op", {"nodes": [...], "duration": ms}]'
COUNT_LOOKS = "milliseconds,live count"
_event_share = matching_lines(r'\[\s*-?[\d.eE+]+\s*,\s*"')
_count_share = matching_lines(r"(-?[\d.]+|nan|inf)\s*,\s*-?[\d.]+$")


def read(source: Source) -> Reading:
    """Read either kind of file."""
    return _read_events(source) if _event_share(source.text) >= 0.5 else _read_counts(source)


def _read_events(source: Source) -> Reading:
    events: list[Event] = []
    stop_ms = 0.0
    for line, text in source.lines():
        try:
            time_ms, kind, nodes, duration_ms = _event_row(text)
        except (ValueError, TypeError, KeyError, RecursionError):
            source.fault(line, f"expected {EVENT_LOOKS!r}, found {shorten(text)}")
            continue
        if kind == "add" or kind == "remove":
            events += [Event(time_ms / 1e3, "add" if kind == "add" else "remove", node, line) for node in nodes]
        elif nodes:
            source.fault(line, f"a {kind!r} row names {len(nodes)} nodes; only add and remove rows may")
            continue
        if math.isfinite(time_ms):
            stop_ms = max(stop_ms, time_ms + duration_ms)
    return Reading(events, stop_ms / 1e3)


def _event_row(text: str) -> tuple[float, str, list[str], float]:
    time_ms, kind, body = json.loads(text)
    nodes = body["nodes"]
    if not isinstance(kind, str) or not isinstance(nodes, list) or not all(n and isinstance(n, str) for n in nodes):
        raise ValueError("not a row of events")
    duration_ms = number(body.get("duration", 0))
    if not (math.isfinite(duration_ms) and duration_ms >= 0):
        raise ValueError("not a duration")
    return number(time_ms), kind, nodes, duration_ms


def _read_counts(source: Source) -> Reading:
    samples: list[Sample] = []
    for line, text in source.lines():
        try:
            time_ms, num_nodes = text.split(",")
            samples.append(Sample(number(time_ms) / 1e3, count(num_nodes), line))
        except ValueError:
            source.fault(line, f"expected {COUNT_LOOKS!r}, found {shorten(text)}")
    ordered = in_time_order(samples, source)
    notes = (RULE, "the trace is taken to end with its last row")
    duration_s = ordered[-1].time_s if ordered else None
    return Reading(events_from_counts(ordered, source.rng, source.name), duration_s, notes)


READER = Reader(f"{EVENT_LOOKS} or {COUNT_LOOKS}", lambda text: max(_event_share(text), _count_share(text)), read)
