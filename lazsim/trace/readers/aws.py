"""AWS: scaling activities of a group, and events of EC2 from EventBridge or CloudTrail, such as spot interruptions."""

import json
import re
from typing import Any

from lazsim.files.decoding import decode_json
from lazsim.trace.reading.states import OPTIONS, StateLog, json_records, text_at
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, matching_json
from lazsim.trace.table import EventKind
from lazsim.units import counted

LOOKS = (
    'aws autoscaling describe-scaling-activities: {"Activities": [{"Description": "Terminating EC2 instance: i-1"}]}, '
    'or EventBridge: {"detail-type": "EC2 Spot Instance Interruption Warning", ...}'
)
ACTIVITIES: dict[str, EventKind] = {
    "launching": "add",
    "attaching": "add",
    "terminating": "remove",
    "detaching": "remove",
}
"""First words of a description."""
STANDBY: dict[str, EventKind] = {"out of standby": "add", "to standby": "remove", "into standby": "remove"}
STATES: dict[str, EventKind] = {
    "running": "add",
    "stopping": "remove",
    "stopped": "remove",
    "shutting-down": "remove",
    "terminated": "remove",
}
"""States of an instance that take it in or out; ``pending`` comes before ``running``."""
DETAILS: dict[str, EventKind] = {
    "EC2 Instance Launch Successful": "add",
    "EC2 Instance Terminate Successful": "remove",
    "EC2 Spot Instance Interruption Warning": "remove",
}
CALLS: dict[str, EventKind] = {
    "RunInstances": "add",
    "StartInstances": "add",
    "StopInstances": "remove",
    "TerminateInstances": "remove",
    "BidEvictedEvent": "remove",
}
"""Calls and events of CloudTrail; the last is a spot interruption."""
WARNING_S = 120.0
"""A warning comes two minutes before the interruption, but for hibernation, which begins at once (EC2 user guide)."""
_INSTANCE = re.compile(r"\bm?i-[0-9a-zA-Z]+\b")


def read(source: TraceSource) -> TraceReading:
    """Read activities and events, in any order."""
    log = StateLog(source)
    records = json_records(source, "Activities", "events", "Events", "Records")
    warnings = [one for _, found in source.readable(records, lambda record: _read_record(log, record)) for one in found]
    notes = ["an instance is there from the end of its launch, and gone from the start of its termination"]
    losses = log.losses()
    for time_s, instance in warnings:
        if not any(time_s <= lost_s <= time_s + WARNING_S for lost_s in losses.get(instance, ())):
            log.say(time_s + WARNING_S, "remove", instance)
    if warnings:
        notes.append(
            f"{counted(len(warnings), 'spot interruption warning')}: the instance is lost {WARNING_S:g} s after it, or "
            "as soon as the log says that it goes"
        )
    return log.reading(*notes)


def _read_record(log: StateLog, record: dict[str, Any]) -> list[tuple[float, str]]:
    """Read a record; return the time and the instance of a warning in it."""
    # Records of a log group hold the event as text.
    if text := text_at(record, "message") or text_at(record, "CloudTrailEvent"):
        record = decode_json(text, dict)
    if "Description" in record:
        _read_activity(log, record)
    elif "detail-type" in record:
        return _read_event(log, record)
    elif "eventName" in record:
        _read_call(log, record)
    return []


def _read_activity(log: StateLog, activity: dict[str, Any]) -> None:
    text, status = text_at(activity, "Description"), text_at(activity, "StatusCode")
    start_s = log.at(text_at(activity, "StartTime"))
    end_s = log.at(end) if (end := text_at(activity, "EndTime")) else start_s
    kind = ACTIVITIES.get(text.split(" ", 1)[0].lower())
    for words, standby in STANDBY.items():
        kind = standby if words in text.lower() else kind
    if kind is None or (status not in ("Successful", "") if kind == "add" else status in ("Failed", "Cancelled")):
        return
    for instance in _INSTANCE.findall(text):
        log.say(end_s if kind == "add" else start_s, kind, instance)


def _read_call(log: StateLog, call: dict[str, Any]) -> None:
    """Read an entry of CloudTrail: the instances in the answer to a call, or of an event."""
    time_s, kind = log.at(text_at(call, "eventTime")), CALLS.get(text_at(call, "eventName"))
    if kind is None or call.get("errorCode"):
        log.leave_out(text_at(call, "eventName"))
        return
    told = json.dumps([call.get("responseElements"), call.get("serviceEventDetails")])
    for instance in dict.fromkeys(_INSTANCE.findall(told)):
        log.say(time_s, kind, instance)


def _read_event(log: StateLog, event: dict[str, Any]) -> list[tuple[float, str]]:
    """Read an event; return its time and instance where it is a warning of what comes later."""
    name, detail = text_at(event, "detail-type"), event.get("detail")
    kind = DETAILS.get(name, STATES.get(text_at(detail, "state")))
    time_s = log.at(text_at(event, "time"))
    if kind is None:
        log.leave_out(text_at(detail, "state") or name)
        return []
    instance = text_at(detail, "instance-id") or text_at(detail, "EC2InstanceId")
    if not instance:
        raise ValueError("no instance is named")
    if name.endswith("Warning") and text_at(detail, "instance-action") != "hibernate":
        return [(time_s, instance)]
    log.say(time_s, kind, instance)
    return []


TYPICAL = (
    r'"(eventSource"\s*:\s*"ec2\.amazonaws|CloudTrailEvent"|Activities"|AutoScalingGroupName"|detail-type")|'
    r'\\"detail-type\\"'
)
READER = TraceReader(LOOKS, matching_json(TYPICAL), read, OPTIONS)
