"""Parcae's traces, as lists of events and as counts (github.com/JF-D/Parcae)."""

import json
import math
import re

from lazsim.trace.reading.mapped import read_mapped
from lazsim.trace.reading.mapping import Columns, TraceMapping
from lazsim.trace.reading.rows import open_table
from lazsim.trace.reading.times import to_seconds
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_lines, number
from lazsim.trace.table import Event

EVENT_LOOKS = '[ms, "add"|"remove"|"no-op", {"nodes": [...], "duration": ms}]'
COUNT_LOOKS = "milliseconds,live count"
COUNT_ROW = r"(-?[\d.]+|nan|inf)\s*,\s*-?[\d.]+$"
COUNTS = TraceMapping(columns=Columns(time=1, count=2), time_unit="ms")
_event_share = matching_lines(r'\[\s*-?[\d.eE+]+\s*,\s*"')
_count_share = matching_lines(COUNT_ROW)


def read(source: TraceSource) -> TraceReading:
    """Read either kind of file."""
    if _event_share(source.text) >= 0.5:
        return _read_events(source)
    return read_mapped(source, open_table(source), COUNTS)


def _read_events(source: TraceSource) -> TraceReading:
    events: list[Event] = []
    unit = source.asked.time_unit or "ms"
    stop = 0.0
    for line, (time, kind, nodes, duration) in source.readable(source.lines(), _event_row, EVENT_LOOKS):
        if kind == "add" or kind == "remove":
            time_s = to_seconds(time, unit)
            events += [Event(time_s, "add" if kind == "add" else "remove", node, line) for node in nodes]
        elif nodes:
            source.fault(line, f"a {kind!r} row names {len(nodes)} nodes; only add and remove rows may")
            continue
        if math.isfinite(time):
            stop = max(stop, time + duration)
    return TraceReading(events, to_seconds(stop, unit))


def _event_row(text: str) -> tuple[float, str, list[str], float]:
    time, kind, body = json.loads(text)
    nodes = body["nodes"]
    if not isinstance(kind, str) or not isinstance(nodes, list) or not all(n and isinstance(n, str) for n in nodes):
        raise ValueError("not a row of events")
    duration = number(body.get("duration", 0))
    if not (math.isfinite(duration) and duration >= 0):
        raise ValueError("not a duration")
    return number(time), kind, nodes, duration


def recognise(text: str) -> float:
    """Tell how well a text fits. Counts have no header: names tell more than these numbers do."""
    is_plain = re.match(rf"\s*{COUNT_ROW}", text, re.MULTILINE)
    return max(_event_share(text), _count_share(text) if is_plain else 0.0)


READER = TraceReader(
    f"{EVENT_LOOKS} or {COUNT_LOOKS}",
    recognise,
    read,
    options=("time_unit",),
)
