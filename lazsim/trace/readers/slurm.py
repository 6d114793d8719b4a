"""Slurm's log of its controller, ``slurmctld.log``; ``sacctmgr show event`` is a mapping of the catalogue."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Literal

from lazsim.trace.order import LEAST_BACK_S
from lazsim.trace.reading.hosts import expand_hosts
from lazsim.trace.reading.mapping import load_mapping
from lazsim.trace.reading.states import OPTIONS, StateLog
from lazsim.trace.source import HEAD_CHARS, TraceReader, TraceReading, TraceSource
from lazsim.units import counted, format_duration

LOOKS = "[2025-03-01T01:10:05.120] error: Nodes gpu-[01-02] not responding, setting DOWN"
STAMP = r"(\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)?)"
LINE = re.compile(rf"(?:\[{STAMP}\]|{STAMP}\s.*?slurmctld\S*:)\s*(.*)")
"""A line of the log, or of the journal with dates of ISO 8601."""
TYPICAL = re.compile(r"slurm|JobI[dD]=|sched|backfill|[Nn]odes? |node=", re.ASCII)
Said = Literal["add", "responds", "remove", "drained", "drain"] | None
MESSAGES: dict[str, Said] = {
    r"Nodes? (\S+) not responding, setting DOWN": "remove",
    r"Down nodes: (\S+)": "remove",
    r"[Nn]ode (\S+) unexpectedly rebooted": "remove",
    r"(?:due to failure of|on failed) node (\S+)": "remove",
    r"[Nn]odes? (\S+) not resumed by ResumeTimeout": "remove",
    r"[Nn]odes? (\S+) now responding": "responds",
    r"[Nn]ode (\S+) returned to service": "add",
    r"[Nn]odes? (\S+) state set to (\S+)": None,
    r"[Ss]etting node (\S+) (?:state )?to (\S+)": None,
    r"[Nn]odes? (\S+) (reason) set to": None,
}
"""Messages, and what they say of the nodes in them; where None, the state in them does."""
REASON = re.compile(r"reason(?: set to)?:\s*(.*)", re.IGNORECASE)
HARDWARE = [one for one in itertools.chain(*load_mapping("sacctmgr").conditions()) if one.column == "Reason"]
"""Conditions of reasons for which a node that drains has lost its jobs already."""
GONE = {"DOWN", "DRAINED", "FAIL", "ERROR", "POWER_DOWN", "POWERING_DOWN", "POWERED_DOWN"}
THERE = {"IDLE", "ALLOCATED", "ALLOC", "MIXED", "MIX", "RESUME", "UNDRAIN", "UP"}
DRAINING = {"DRAIN", "DRAINING", "INVAL"}
"""States as in Slurm's sinfo: a node that is draining, or registers with less than is configured (INVAL), goes on with
its jobs, and a drained one has none."""


def state_kind(text: str) -> Said:
    """Return whether a node in a state is there, drains, or is drained, or None where the state says nothing of that.

    Examples
    --------
    >>> [state_kind(state) for state in ("DOWN*+DRAIN", "DRAINING", "IDLE+DRAIN", "RESUME")]
    ['drained', 'drain', 'drained', 'add']
    """
    states = set(re.split(r"[^A-Z_]+", text.upper()))
    is_gone = bool(states & GONE) or (bool(states & DRAINING) and "IDLE" in states)
    if states & (DRAINING | {"DRAINED"}):
        return "drained" if is_gone else "drain"
    if is_gone:
        return "remove"
    return "add" if states & THERE else None


def recognise(text: str) -> float:
    """Return the share of the first lines that begin with a date in brackets, in a log with Slurm's words."""
    head = [line for line in text[:HEAD_CHARS].splitlines() if line.strip()]
    lines = [found[0] for line in head if (found := LINE.match(line))]
    return len(lines) / max(1, len(head)) if any(map(TYPICAL.search, lines)) else 0.0


def read(source: TraceSource) -> TraceReading:
    """Read the messages on nodes; all other lines only say that the controller was running."""
    log = StateLog(source)
    reasons: dict[str, str] = {}
    # A node that is drained gets no jobs until its state is set, though it responds.
    states: dict[str, Said] = {}
    num_drains, num_failed = 0, 0
    for line, time_s, said, node, reason in _said(source, log):
        if reason:
            reasons[node] = reason
        is_drained = states.get(node) == "drained"
        if said == "drain":
            num_drains += node not in states
            states.setdefault(node, said)
        elif said in ("remove", "drained"):
            log.say(time_s, "remove", node, line)
            states[node] = "drained" if is_drained else said
        elif said == "add" or (said == "responds" and not is_drained):
            log.say(time_s, "add", node, line)
            states.pop(node, None)
            reasons.pop(node, None)
        if states.get(node) == "drain" and any(one.holds(reasons.get(node, "")) for one in HARDWARE):
            states[node] = "drained"
            num_failed += 1
            log.say(time_s, "remove", node, line)
    notes = []
    if num_failed:
        failed = counted(num_failed, "node drains", "nodes drain")
        notes.append(f"{failed} since a GPU failed, as the reason says, which is a loss")
    if num_drains > num_failed:
        others = counted(num_drains - num_failed, "node begins", "nodes begin")
        notes.append(f"{others} to drain, which is no loss: jobs there go on")
    return log.reading(*notes)


def _said(source: TraceSource, log: StateLog) -> Iterator[tuple[int, float, Said, str, str]]:
    """Yield the line, the time, what is said, the node and the reason of each message, node by node."""
    last_s = -math.inf
    matches = ((line, found) for line, text in source.lines() if (found := LINE.match(text)))
    rows = source.readable(matches, lambda one: (log.at(one[1] or one[2], last_s - LEAST_BACK_S), *_message(one[3])))
    for line, (time_s, said, nodes, reason) in rows:
        if time_s < last_s - LEAST_BACK_S:
            back = format_duration(last_s - time_s)
            source.fault(line, f"steps back by {back}; give `time_zone` if the clock was set back", "sort the lines")
        last_s = max(last_s, time_s)
        for node in nodes:
            yield line, time_s, said, node, reason


def _message(text: str) -> tuple[Said, list[str], str]:
    """Return what a message says, of which nodes, and for which reason; of none where it is about something else."""
    told = REASON.search(text)
    reason = told[1] if told else ""
    for message, kind in MESSAGES.items():
        if found := re.search(message, text):
            said = state_kind(found[2]) if kind is None else kind
            return said, expand_hosts(found[1]) if said or reason else [], reason
    return None, [], ""


READER = TraceReader(LOOKS, recognise, read, OPTIONS)
