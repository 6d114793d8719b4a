"""Kubernetes: ``kubectl get events -A -o json``, also as a log or a watch, and ``kubectl get nodes -o json``."""

import math
from typing import Any

from lazsim.trace.reading.states import OPTIONS, StateLog, json_records, text_at, value_at
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_json, named
from lazsim.trace.table import EventKind
from lazsim.units import counted

LOOKS = 'kubectl get events -A -o json: {"items": [{"kind": "Event", "reason": "NodeNotReady", ...}, ...]}'
REASONS: dict[str, tuple[EventKind, ...]] = {
    "NodeReady": ("add",),
    "NodeNotReady": ("remove",),
    "RemovingNode": ("remove",),
    "DeletingNode": ("remove",),
    "Rebooted": ("remove", "add"),
}
"""Changes of a node by the reason of its event."""
REGISTERED = "RegisteredNode"
"""A controller that starts says so of all nodes: it brings back only those that were deleted before."""
DELETED = ("RemovingNode", "DeletingNode")


def read(source: TraceSource) -> TraceReading:
    """Read the events on nodes, and what the conditions of nodes say; all others only say that events were kept."""
    log = StateLog(source)
    found: list[tuple[float, str, str]] = []
    num_hidden = num_again = 0
    nodes: set[str] = set()
    types: set[str] = set()
    last_s = -math.inf
    for place, entry in json_records(source, "items"):
        record = entry["object"] if isinstance(entry.get("object"), dict) else entry
        try:
            if "involvedObject" in record or "regarding" in record:
                types.add(text_at(record, "type"))
                num_hidden += _read_event(log, record, found)
            elif text_at(record, "kind") == "Node" or value_at(record, "status", "conditions") is not None:
                name = named(text_at(record, "metadata", "name"))
                num_again += name in nodes
                nodes.add(name)
                last_s = max(last_s, _read_node(log, record, name))
                if text_at(entry, "type") == "DELETED":
                    # A watch does not say when: some time after all that came before.
                    if last_s == -math.inf:
                        raise ValueError(f"{name} is deleted, and no entry up to here has a date")
                    log.say(last_s, "remove", name)
        except ValueError as error:
            source.fault(place, str(error))
    if not (types or nodes):
        raise source.refuse("", f"no event or node of Kubernetes in it; expected {LOOKS}")
    last: dict[str, str] = {}
    for time_s, reason, node in sorted(found, key=lambda event: event[0]):
        log.know(node)
        kinds = REASONS.get(reason, ("add",) if last.get(node) in DELETED else ())
        for kind in kinds:
            log.say(time_s, kind, node)
        last[node] = reason
    notes = [f"{counted(num_hidden, 'event')} without a time, between the first and the last of a kind: left out"] * (
        num_hidden > 0
    )
    if types == {"Warning"}:
        normal = "those of type Normal, such as NodeNotReady and NodeReady"
        notes.append(f"its events are all warnings: losses are missing, unless it was listed with {normal}")
    if nodes:
        told = f"{counted(len(nodes), 'node tells', 'nodes tell')} only of the first and the last change"
        before = " before the watch: losses before it are missing, and `start` leaves that time out"
        notes.append(told + (before if num_again else ": losses between are missing"))
    return log.reading(*notes)


def _read_event(log: StateLog, event: dict[str, Any], found: list[tuple[float, str, str]]) -> int:
    """Find an event at its first and its last time, or another warning; return how often it happened in between."""
    stamps = [text_at(event, *path) for path in (
        ("firstTimestamp",), ("deprecatedFirstTimestamp",), ("eventTime",), ("lastTimestamp",),
        ("deprecatedLastTimestamp",), ("series", "lastObservedTime"),
    )]  # fmt: skip
    times_s = sorted({log.at(stamp) for stamp in stamps if stamp}) or [
        log.at(text_at(event, "metadata", "creationTimestamp"))
    ]
    thing = event.get("involvedObject") or event.get("regarding") or {}
    reason = text_at(event, "reason")
    if text_at(thing, "kind") != "Node":
        return 0
    if reason not in (*REASONS, REGISTERED):
        if text_at(event, "type") == "Warning":
            log.leave_out(reason)
        return 0
    node = named(text_at(thing, "name"))
    found += [(time_s, reason, node) for time_s in dict.fromkeys((times_s[0], times_s[-1]))]
    count = event.get("count") or event.get("deprecatedCount") or value_at(event, "series", "count") or 1
    return max(0, count - 2) if isinstance(count, int) and reason in REASONS else 0


def _read_node(log: StateLog, node: dict[str, Any], name: str) -> float:
    """Read when a node was made, and when it was last found ready or not; return the last of its dates."""
    last_s = -math.inf
    if created := text_at(node, "metadata", "creationTimestamp"):
        last_s = log.at(created)
        log.say(last_s, "add", name)
    conditions = value_at(node, "status", "conditions")
    for condition in conditions if isinstance(conditions, list) else []:
        if text_at(condition, "type") == "Ready":
            if seen := text_at(condition, "lastHeartbeatTime"):
                last_s = max(last_s, log.at(seen))
            changed_s = log.at(text_at(condition, "lastTransitionTime"))
            last_s = max(last_s, changed_s)
            log.say(changed_s, "add" if text_at(condition, "status") == "True" else "remove", name)
    return last_s


TYPICAL = r'"apiVersion"\s*:|"(?:involvedObject|regarding)"|"kind"\s*:\s*"Node"|"reason"\s*:\s*"Node(?:Not)?Ready"'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=None), read, OPTIONS)
