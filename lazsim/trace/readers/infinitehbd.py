"""InfiniteHBD's fault trace: a JSON array of fault starts and ends (github.com/stepfun-ai/InfiniteHBD-Trace)."""

import json
from typing import Any, NamedTuple

from lazsim.errors import shorten
from lazsim.files.tables import json_values, parse_json
from lazsim.specs import sha256
from lazsim.trace.order import in_time_order
from lazsim.trace.reading.events import events_from_bounds
from lazsim.trace.recipes import PublicSpec, load_recipe
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_json, number
from lazsim.trace.table import Event
from lazsim.units import DAY_S, counted

LOOKS = '[{"node_id": ..., "event_time": days, "event_type": "fault_start"|"fault_end", ...}, ...]'
PUBLISHED = "infinitehbd-faults"
NUM_SERVERS = 400
"""The published file in the catalogue, and the servers of its cluster, by its description."""


class _Fault(NamedTuple):
    time_s: float
    starts: bool
    node: str
    level: str
    line: int


def read(source: TraceSource) -> TraceReading:
    """Read the faults, a JSON array; a node is gone while at least one fault of it is open."""
    if not isinstance(parse_json(source.text, source), list):
        raise source.refuse(1, f"expected {LOOKS!r}; check the format")
    faults: list[_Fault] = []
    for line, item in json_values(source.text, source.text.index("[") + 1):
        try:
            faults.append(_fault(item, line))
        except (KeyError, TypeError, ValueError, AttributeError):
            source.fault(line, f"expected {LOOKS!r}, found {shorten(json.dumps(item))!r}")
    faults = in_time_order(faults, source)
    bounds: list[Event] = []
    num_open: dict[str, int] = {}
    for fault in faults:
        if not fault.starts and not num_open.get(fault.node):
            what = f"node {fault.node!r} ends a fault that never started"
            source.fault(fault.line, what, "take the node to be away from the start, or skip what cannot be")
            if fault.node in num_open:
                continue
            num_open[fault.node] = 1
            bounds.insert(0, Event(0.0, "remove", fault.node, fault.line))
        num_open[fault.node] = num_open.get(fault.node, 0) + (1 if fault.starts else -1)
        bounds.append(Event(fault.time_s, "remove" if fault.starts else "add", fault.node, fault.line))
    published = load_recipe(PUBLISHED)
    assert isinstance(published, PublicSpec), "the catalogue has its address"
    events, notes = events_from_bounds(bounds, num_open)
    levels = [fault.level for fault in faults if fault.starts]
    num_other = sum("other" in level.lower() for level in levels)
    told = f"{num_other} of {counted(len(levels), 'fault')} have the level Other (stress tests, changes); all count"
    num_servers = NUM_SERVERS if sha256(source.content) == published.sha256 else None
    return TraceReading(events, notes=(*notes, told), cluster_nodes=num_servers, names="some")


def _fault(item: Any, line: int) -> _Fault:
    node, kind, level = item["node_id"], item["event_type"], item.get("fault_type", {}).get("Level", "")
    if kind not in ("fault_start", "fault_end") or not isinstance(node, str) or not node or not isinstance(level, str):
        raise ValueError("not a fault")
    # Times have a resolution of 1e-4 days = 8.64 s; rounding to a millisecond keeps the numbers short.
    return _Fault(round(number(item["event_time"]) * DAY_S, 3), kind == "fault_start", node, level, line)


TYPICAL = r'\A\s*\[(?=[\s\S]*"node_id")(?=[\s\S]*"event_t)'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=4096), read, options=("cluster_nodes",))
