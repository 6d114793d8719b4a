"""Google Cloud: ``gcloud compute operations list --format=json``."""

import re
from typing import Any

from lazsim.trace.reading.states import OPTIONS, StateLog, json_records, text_at
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_json
from lazsim.trace.table import Kind

LOOKS = 'gcloud compute operations list --format=json: [{"operationType": "compute.instances.preempted", ...}, ...]'
OPERATIONS: dict[str, tuple[Kind, ...]] = {
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
    rows: list[tuple[float, Kind, str, str]] = []
    for place, operation in json_records(source, "items"):
        try:
            rows += _read_operation(log, operation)
        except (ValueError, TypeError) as error:
            source.fault(place, str(error))
    zones: dict[str, set[str]] = {}
    for _, _, zone, name in rows:
        zones.setdefault(name, set()).add(zone)
    for time_s, kind, zone, name in rows:
        log.say(time_s, kind, name if len(zones[name]) == 1 else f"{zone}/{name}")
    return log.reading(
        "an instance is there from the end of an operation that starts it, and gone from the start of others"
    )


def _read_operation(log: StateLog, operation: dict[str, Any]) -> list[tuple[float, Kind, str, str]]:
    start = text_at(operation, "startTime") or text_at(operation, "insertTime")
    start_s = log.at(start or text_at(operation, "endTime"))
    end_s = log.at(end) if (end := text_at(operation, "endTime")) else start_s
    target = _TARGET.search(text_at(operation, "targetLink"))
    has_failed = bool(operation.get("error")) or bool(operation.get("httpErrorStatusCode"))
    if target is None or has_failed:
        return []
    kinds = OPERATIONS.get(text_at(operation, "operationType"), ())
    if "add" in kinds and text_at(operation, "status") not in ("DONE", ""):
        return []
    return [(end_s if kind == "add" else start_s, kind, target[1], target[2]) for kind in kinds]


READER = TraceReader(LOOKS, matching_json(r'"operationType"\s*:'), read, OPTIONS)
