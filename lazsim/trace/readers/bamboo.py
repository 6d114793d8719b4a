"""Bamboo's EC2 traces: ``milliseconds,add|remove,node``, no header (github.com/uclasystem/bamboo)."""

from lazsim.trace.source import Reader, Reading, Source, matching_lines, number, shorten
from lazsim.trace.table import Event

LOOKS = "milliseconds,add|remove,node"


def read(source: Source) -> Reading:
    """Read the events; the trace ends with the last of them, since nodes alive at the end get no row."""
    events: list[Event] = []
    for line, text in source.lines():
        fields = [field.strip() for field in text.split(",")]
        try:
            time_ms, kind, node = number(fields[0]), fields[1], fields[2]
        except (ValueError, IndexError):
            time_ms, kind, node = 0.0, "", ""
        if len(fields) != 3 or not node or (kind != "add" and kind != "remove"):
            source.fault(line, f"expected {LOOKS!r}, found {shorten(text)}")
            continue
        events.append(Event(time_ms / 1e3, "add" if kind == "add" else "remove", node, line))
    return Reading(events, notes=("the trace is taken to end with its last event",))


READER = Reader(LOOKS, matching_lines(r"[^,]*,\s*(add|remove)\s*(,|$)"), read)
