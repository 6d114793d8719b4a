"""Google Cloud: operations of Compute Engine, and its audit log, as ``gcloud logging read --format=json`` gives it."""

import re
from typing import Any

from lazsim.grouping import grouped
from lazsim.trace.reading.states import OPTIONS, StateLog, json_records, text_at, value_at
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_json
from lazsim.trace.table import EventKind

LOOKS = (
    'gcloud compute operations list --format=json: [{"operationType": "compute.instances.preempted", ...}, ...], or '
    'an audit log: [{"protoPayload": {"methodName": "compute.instances.preempted", ...}, ...}]'
)
OPERATIONS: dict[str, tuple[EventKind, ...]] = {
    "insert": ("add",),
    "start": ("add",),
    "startWithEncryptionKey": ("add",),
    "resume": ("add",),
    "compute.instances.automaticRestart": ("add",),
    "compute.instances.preempted": ("remove",),
    "compute.instances.hostError": ("remove",),
    "compute.instances.guestTerminate": ("remove",),
    "compute.instances.instanceManagerHaltForRestart": ("remove",),
    "compute.instances.terminateOnHostMaintenance": ("remove",),
    "delete": ("remove",),
    "stop": ("remove",),
    "suspend": ("remove",),
    "reset": ("remove", "add"),
}
"""Operations on an instance that take it in or out. A live migration, such as for maintenance, does neither."""
_TARGET = re.compile(r"/zones/([^/]+)/instances/([^/]+)$")


def read(source: TraceSource) -> TraceReading:
    """Read the operations on instances, in any order."""
    log = StateLog(source)
    found = source.readable(json_records(source, "items"), lambda entry: _read_operation(log, entry))
    rows = [row for _, rows in found for row in rows]
    zones = grouped((name, zone) for _, _, zone, name in rows)
    for time_s, kind, zone, name in rows:
        log.say(time_s, kind, name if len(set(zones[name])) == 1 else f"{zone}/{name}")
    return log.reading(
        "an instance is there from the end of an operation that starts it, and gone from the start of others"
    )


def _of_audit(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the operation of an entry of an audit log, which has one for its begin and one for its end."""
    is_begin = value_at(entry, "operation", "first") and not value_at(entry, "operation", "last")
    method = text_at(entry, "protoPayload", "methodName")
    return {
        "operationType": re.sub(r"^(v1|beta|alpha)\.compute\.instances\.", "", method),
        "targetLink": "/" + text_at(entry, "protoPayload", "resourceName"),
        "startTime": text_at(entry, "timestamp"),
        "error": value_at(entry, "protoPayload", "status", "code") or text_at(entry, "severity") == "ERROR",
        "status": "RUNNING" if is_begin else "DONE",
    }


def _read_operation(log: StateLog, entry: dict[str, Any]) -> list[tuple[float, EventKind, str, str]]:
    operation = _of_audit(entry) if "protoPayload" in entry else entry
    if not (name := text_at(operation, "operationType")):
        raise ValueError(f"expected an operation of Compute Engine, with its operationType, found {list(entry)[:5]}")
    start = text_at(operation, "startTime") or text_at(operation, "insertTime")
    start_s = log.at(start or text_at(operation, "endTime"))
    end_s = log.at(end) if (end := text_at(operation, "endTime")) else start_s
    target = _TARGET.search(text_at(operation, "targetLink"))
    has_failed = bool(operation.get("error")) or bool(operation.get("httpErrorStatusCode"))
    kinds = OPERATIONS.get(name, ())
    if target is None or has_failed or not kinds:
        log.leave_out(name)
        return []
    if text_at(operation, "status") not in ("DONE", ""):
        kinds = tuple(kind for kind in kinds if kind == "remove")
    return [(end_s if kind == "add" else start_s, kind, target[1], target[2]) for kind in kinds]


READER = TraceReader(
    LOOKS, matching_json(r'"operationType"\s*:|"type\.googleapis\.com/google\.cloud\.audit'), read, OPTIONS
)
