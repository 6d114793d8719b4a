"""InfiniteHBD's fault trace: a JSON array of fault starts and ends (github.com/stepfun-ai/InfiniteHBD-Trace)."""

import json
from typing import Any, NamedTuple

from lazsim.errors import shorten
from lazsim.files.tables import array_items
from lazsim.specs import sha256
from lazsim.trace.order import in_time_order
from lazsim.trace.reading.events import other_nodes
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
    if not isinstance(source.parse_json(), list):
        raise source.refuse(1, f"expected {LOOKS!r}; check the format")
    faults: list[_Fault] = []
    for line, item in array_items(source.text, source.text.index("[")):
        try:
            faults.append(_fault(item, line))
        except (KeyError, TypeError, ValueError, AttributeError):
            source.fault(line, f"expected {LOOKS!r}, found {shorten(json.dumps(item))!r}")
    faults = in_time_order(faults, source)
    names = list(dict.fromkeys(fault.node for fault in faults))
    events: list[Event] = []
    away: list[Event] = []
    depth: dict[str, int] = {}
    num_overlapping = 0
    for fault in faults:
        before = depth.get(fault.node, 0)
        if not fault.starts and before == 0:
            what = f"node {fault.node!r} ends a fault that never started"
            source.fault(fault.line, what, "take the node to be away from the start, or skip what cannot be")
            if fault.node not in depth:
                away.append(Event(0.0, "away", fault.node, fault.line))
                events.append(Event(fault.time_s, "add", fault.node, fault.line))
                depth[fault.node] = 0
            continue
        depth[fault.node] = before + (1 if fault.starts else -1)
        num_overlapping += fault.starts and before > 0
        if fault.starts and before == 0:
            events.append(Event(fault.time_s, "remove", fault.node, fault.line))
        elif not fault.starts and before == 1:
            events.append(Event(fault.time_s, "add", fault.node, fault.line))
    num_servers = source.asked.cluster_nodes
    published = load_recipe(PUBLISHED)
    assert isinstance(published, PublicSpec), "the catalogue has its address"
    if num_servers is None and sha256(source.content) == published.sha256:
        num_servers = NUM_SERVERS
    there = [Event(0.0, "add", node) for node in names]
    others, notes = other_nodes(names, num_servers, source)
    return TraceReading([*there, *others, *away, *events], notes=(*notes, *_notes(faults, num_overlapping)))


def _fault(item: Any, line: int) -> _Fault:
    node, kind, level = item["node_id"], item["event_type"], item.get("fault_type", {}).get("Level", "")
    if kind not in ("fault_start", "fault_end") or not isinstance(node, str) or not node or not isinstance(level, str):
        raise ValueError("not a fault")
    # Times have a resolution of 1e-4 days = 8.64 s; rounding to a millisecond keeps the numbers short.
    return _Fault(round(number(item["event_time"]) * DAY_S, 3), kind == "fault_start", node, level, line)


def _notes(faults: list[_Fault], num_overlapping: int) -> tuple[str, ...]:
    starts = [fault for fault in faults if fault.starts]
    num_other = sum("other" in fault.level.lower() for fault in starts)
    return (
        "every server is taken to be healthy at the start, and gone while any fault of it is open",
        f"{counted(num_overlapping, 'fault starts', 'faults start')} while another of the same server is open: "
        "both are one absence",
        f"{num_other} of {counted(len(starts), 'fault')} have the level Other (stress tests, changes); all count",
        "a fault of zero length takes the node out and brings it back at the same instant",
    )


TYPICAL = r'\A\s*\[(?=[\s\S]*"node_id")(?=[\s\S]*"event_t)'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=4096), read, options=("cluster_nodes",))
