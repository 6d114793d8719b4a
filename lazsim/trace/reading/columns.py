"""Columns of a table: what their names say that they are, and what stands in them."""

import functools
import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lazsim.files.tables import HEAD_LINES, FileTable
from lazsim.trace.reading.times import is_date, is_number, is_read_by, is_when, read_length, split_unit
from lazsim.trace.reading.words import OPEN_WORDS, WORDS, event_kind, sampled_value

NAMES = {
    "time": "time timestamp date datetime ts t at when eventtime elapsed offset since sincestart timein timesincestart",
    "count": (
        "count nodes numnodes nnodes instances numinstances ninstances live alive available running livenodes "
        "alivenodes livecount nodecount instancecount activenodes runningnodes availablenodes"
    ),
    "event": "event eventtype action kind state status change transition what happened",
    "node": (
        "node nodeid nodename host hostname machine machineid instance instanceid server serverid vm vmid vmname name "
        "series metric"
    ),
    "start": (
        "start starttime started begin from downsince downat downfrom failedat timestart outagestart failuretime "
        "failurestart faultstart failed failtime detected detectedat startedat"
    ),
    "end": (
        "end endtime ended until to upat upsince fixed fixedat resolved resolvedat recovered timeend outageend "
        "recoverytime recoveredat failureend faultend fixtime repaired repairedat restored restoredat endedat"
    ),
    "duration": (
        "duration down downtime downfor timedown downduration outage outagelength outageduration outagetime length "
        "repairtime timetorepair ttr"
    ),
    "value": "value up isup ready isready healthy ishealthy isalive isonline",
    "cluster": (
        "cluster zone availabilityzone az region datacenter dc site rack pool nodepool nodegroup partition queue "
        "instancetype machinetype nodetype gputype gpumodel"
    ),
}
"""Names of columns by role, without case, signs and unit."""

PLACES = {"cluster", "zone", "az", "region", "datacenter", "dc", "site", "rack"}
"""Words of the names of columns of where a node is: in two of them, a name is that of two nodes."""

COUNTED = {"nodes", "instances", "hosts", "machines", "servers", "vms", "workers"}
COUNTED_WORDS = {
    "num", "n", "number", "of", "count", "live", "alive", "up", "running", "available", "active", "healthy", "ready",
    "online", "current", "in", "service", "group",
}  # fmt: skip
"""Words of the name of a column that counts nodes: one of the first, and others of the second alone."""

KIND_OF_NODE = re.compile(
    r"[(\[](?![epqx]\d+\W$|.*\d(min|[smhd])\W$)(?=[a-z]+\S*\d)[\w.-]+[)\]]", re.IGNORECASE | re.ASCII
)
"""An instance type, a GPU or a zone in brackets, as in ``nodes (p3.2xlarge)``, and not ``p95`` or ``avg5m``."""

WHEN_WORDS = {
    "at", "on", "time", "timestamp", "ts", "date", "datetime", "when", "since", "utc", "node", "instance", "host", "vm",
    "machine", "server", "spot",
}  # fmt: skip
LOST_WORDS = {*WORDS["remove"].split(), "reclaimed"} - {"left", "leave", "maint", "maintenance"}
BACK_WORDS = {"back", "fixed", "repaired", "restored", "resolved", "recovered", "recovery", "resumed", "rejoined"}
"""Words of the names of columns of dates at which a node went or came back: some of the first, and one of the others;
the last also say so among events."""

GONE_WORDS = {
    *WORDS["remove"].split(), "alert", "alertname", "outage", "unreachable", "error", "errors", "problem", "problems",
    "fault", "faults", "xid", "alarm", "critical",
}  # fmt: skip
"""Words of the names of columns in which 1 does not say that a node is there."""

FINAL_WORDS = {"terminated", "preempted", "evicted", "deleted", "killed", "dead", "removed", "interrupted", "revoked"}
"""States of a node that is not to come back, and names of columns that tell it: beside a start and an end, these may be
those of its life."""

OUTAGES = re.compile(
    "down|outage|fail|(?<!de)fault|crash|error|alert|incident|unavail|offline|dead|lost|evict|preempt|interrupt|kill|"
    "drain|maint|repair|fixed|resolved|recover|restor|cause|\\breason|symptom|severity|ttr"
)
"""Words of a header of outages, without which rows with a start and an end may be reservations or the like; those of an
``exit_reason`` may be lives."""

LIVES = re.compile("launch|creat|provision|acquired|granted|inserted|registered|(?<!re)boot|heartbeat|last.?seen")
"""Words of a header of the lives of nodes, which are the reverse of outages."""

_is_sample = functools.partial(is_read_by, sampled_value)
is_event = functools.partial(is_read_by, event_kind)
_is_length = functools.partial(is_read_by, functools.partial(read_length, unit=None))
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
ROLES |= {f"{name}{end}": "cluster" for name in NAMES["cluster"].split() for end in ("id", "name")}


class TableColumn(NamedTuple):
    """A column of a table: its number from 1, its name and words, its texts, and what these are."""

    place: int
    name: str
    words: set[str]
    role: str
    """What its name says that it is; see `NAMES`."""
    texts: Sequence[str]
    """None where rows are shorter than the header."""
    kind: str
    """What most of its first texts are; see `kind_of`."""
    has_dates: bool
    """Whether most of the first texts that say when are dates, or stamps since 1970."""
    is_sampled: bool
    """Whether most of the first texts say that a node is there, or is not."""


def table_columns(table: FileTable) -> list[TableColumn]:
    """Return the columns of the rows that are as wide as the header, or else as most are."""
    widths = [len(row.fields) for row in table.rows]
    width = len(table.header) if len(table.header) in widths else statistics.mode(widths or [0])
    texts = zip(*(row.fields for row in table.rows if len(row.fields) == width), strict=True)
    columns = []
    for place, (name, one) in enumerate(itertools.zip_longest(table.header, texts, fillvalue=""), start=1):
        head = one[:HEAD_LINES]
        when = [text for text in head if text.lower() not in OPEN_WORDS]
        has_dates, words = bool(when) and most(when, is_when), words_of(name)
        role = _role(name) or role_of_dates(words) * has_dates
        columns.append(TableColumn(place, name, words, role, one, kind_of(head), has_dates, most(head, _is_sample)))
    return columns


def header_of(columns: Iterable[TableColumn]) -> str:
    """Return the names of columns, in small letters."""
    return " ".join(column.name for column in columns).lower()


def _role(name: str) -> str:
    if not name:
        return ""  # As of the index that pandas writes, or the edge of a table of Markdown.
    words = words_of(name)
    is_count = len(words & COUNTED) == 1 and words <= COUNTED | COUNTED_WORDS
    role = ROLES.get(split_unit(name)[0], "count" if is_count else "")
    # What is in brackets may say that it counts something else, as in count(up == 0) or nodes (down).
    inside = re.sub(r"^[^(\[]*", "", name)
    is_kind = KIND_OF_NODE.fullmatch(inside) and not is_of_losses(inside)
    is_of_nodes = is_kind or words_of(inside) <= COUNTED | COUNTED_WORDS | {"total"}
    is_other = re.search(r"[%<>!]|=(?!=* ?1\b)", name) or not is_of_nodes
    return "" if role == "count" and is_other else role


def role_of_dates(words: set[str]) -> str:
    """Return the role of dates at which nodes went or came back, by the words of their name."""
    told = words - WHEN_WORDS
    return "" if not told else "start" if told <= LOST_WORDS else "end" if told <= BACK_WORDS else ""


def words_of(name: str) -> set[str]:
    """Return the words of a name, also of one such as ``InServiceInstances``, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def is_of_losses(name: str) -> bool:
    """Tell whether 1 in a column of this name does not say that a node is there."""
    return not GONE_WORDS.isdisjoint(words_of(name))


def kind_of(texts: Sequence[str]) -> str:
    """Return what most texts of a column are, but for empty ones: numbers, dates, events, lengths or others."""
    tests = (("number", is_number), ("date", is_date), ("word", is_event), ("length", _is_length))
    return next((kind for kind, fits in tests if any(texts) and most(texts, fits)), "text")


def most(texts: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Return whether most texts that are not empty fit, or all are empty."""
    given = [text for text in texts if text]
    return not given or 2 * sum(map(fits, given)) > len(given)


def are_gone(texts: Sequence[str]) -> bool:
    """Return whether all texts of a column, but for empty ones, say that a node goes."""
    return all(map(is_gone, {*texts} - {""}))


def is_gone(text: str) -> bool:
    """Tell whether a text is an event by which a node goes."""
    return is_event(text) and event_kind(text) == "remove"
