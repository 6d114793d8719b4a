"""InfiniteHBD's fault trace: a JSON array of fault starts and ends (github.com/stepfun-ai/InfiniteHBD-Trace)."""

from typing import Any

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


def read(source: TraceSource) -> TraceReading:
    """Read the faults, a JSON array; a node is gone while at least one fault of it is open."""
    if not isinstance(parse_json(source.text, source), list):
        raise source.refuse(1, f"expected {LOOKS!r}; check the format")
    items = json_values(source.text, source.text.index("[") + 1)
    faults = [(event._replace(line=line), level) for line, (event, level) in source.readable(items, _fault, LOOKS)]
    ordered = in_time_order((event for event, _ in faults), source)
    bounds: list[Event] = []
    num_open: dict[str, int] = {}
    for event in ordered:
        if event.kind == "add" and not num_open.get(event.node):
            what = f"node {event.node!r} ends a fault that never started"
            source.fault(event.line, what, "take the node to be away from the start, or skip what cannot be")
            if event.node in num_open:
                continue
            num_open[event.node] = 1
            bounds.insert(0, event._replace(time_s=0.0, kind="remove"))
        num_open[event.node] = num_open.get(event.node, 0) + (1 if event.kind == "remove" else -1)
        bounds.append(event)
    published = load_recipe(PUBLISHED)
    assert isinstance(published, PublicSpec), "the catalogue has its address"
    events, notes = events_from_bounds(bounds)
    known = {*ordered}
    levels = [level for event, level in faults if event.kind == "remove" and event in known]
    num_other = sum("other" in level.lower() for level in levels)
    told = f"{num_other} of {counted(len(levels), 'fault')} have the level Other (stress tests, changes); all count"
    num_servers = NUM_SERVERS if sha256(source.content) == published.sha256 else None
    return TraceReading(events, notes=(*notes, told), cluster_nodes=num_servers, names="some")


def _fault(item: Any) -> tuple[Event, str]:
    """Read the begin or the end of a fault, and its level."""
    node, kind, level = item["node_id"], item["event_type"], item.get("fault_type", {}).get("Level", "")
    if kind not in ("fault_start", "fault_end") or not isinstance(node, str) or not node or not isinstance(level, str):
        raise ValueError("not a fault")
    # Times have a resolution of 1e-4 days = 8.64 s; rounding to a millisecond keeps the numbers short.
    time_s = round(number(item["event_time"]) * DAY_S, 3)
    return Event(time_s, "remove" if kind == "fault_start" else "add", node), level


TYPICAL = r'\A\s*\[(?=[\s\S]*"node_id")(?=[\s\S]*"event_t)'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=4096), read, options=("cluster_nodes",))
