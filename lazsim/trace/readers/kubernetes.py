"""Kubernetes: ``kubectl get events -A -o json``, also as a log or a watch, and ``kubectl get nodes -o json``."""

from typing import Any

from lazsim.trace.reading.states import OPTIONS, StateLog, json_records, text_at
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
    num_seen = num_hidden = num_nodes = 0
    for place, record in json_records(source, "items"):
        record = record["object"] if isinstance(record.get("object"), dict) else record
        try:
            if "involvedObject" in record or "regarding" in record:
                num_seen += 1
                num_hidden += _read_event(log, record, found)
            elif text_at(record, "kind") == "Node" or "conditions" in (record.get("status") or {}):
                num_nodes += 1
                _read_node(log, record)
        except (ValueError, TypeError, AttributeError) as error:
            source.fault(place, str(error))
    if not num_seen + num_nodes:
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
    if num_nodes:
        notes.append(
            f"{counted(num_nodes, 'node tells', 'nodes tell')} only of the first and the last change: losses "
            "between are missing"
        )
    return log.reading(*notes)


def _read_event(log: StateLog, event: dict[str, Any], found: list[tuple[float, str, str]]) -> int:
    """Find an event at its first and its last time; return how often it happened in between."""
    series = event.get("series") or {}
    stamps = [text_at(event, *path) for path in (
        ("firstTimestamp",), ("deprecatedFirstTimestamp",), ("eventTime",), ("lastTimestamp",),
        ("deprecatedLastTimestamp",), ("series", "lastObservedTime"),
    )]  # fmt: skip
    times_s = sorted({log.at(stamp) for stamp in stamps if stamp}) or [
        log.at(text_at(event, "metadata", "creationTimestamp"))
    ]
    thing = event.get("involvedObject") or event.get("regarding") or {}
    reason = text_at(event, "reason")
    if text_at(thing, "kind") != "Node" or reason not in (*REASONS, REGISTERED):
        return 0
    node = named(text_at(thing, "name"))
    found += [(time_s, reason, node) for time_s in dict.fromkeys((times_s[0], times_s[-1]))]
    count = event.get("count") or event.get("deprecatedCount") or series.get("count") or 1
    return max(0, count - 2) if isinstance(count, int) and reason in REASONS else 0


def _read_node(log: StateLog, node: dict[str, Any]) -> None:
    """Read when a node was made, and when it was last found ready or not."""
    name = named(text_at(node, "metadata", "name"))
    if created := text_at(node, "metadata", "creationTimestamp"):
        log.say(log.at(created), "add", name)
    for condition in (node.get("status") or {}).get("conditions") or []:
        if text_at(condition, "type") == "Ready":
            if seen := text_at(condition, "lastHeartbeatTime"):
                log.at(seen)
            is_ready = text_at(condition, "status") == "True"
            log.say(log.at(text_at(condition, "lastTransitionTime")), "add" if is_ready else "remove", name)


TYPICAL = r'"apiVersion"\s*:|"(?:involvedObject|regarding)"|"kind"\s*:\s*"Node"|"reason"\s*:\s*"Node(?:Not)?Ready"'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=None), read, OPTIONS)
