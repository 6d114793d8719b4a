"""Recognise tables: by the mappings of the catalogue, or by a guess from the header or from what stands in columns."""

import functools
import itertools
import json
import re
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from lazsim.errors import SpecError, TraceFormatError, first_names, literal, shorten
from lazsim.files.faults import Faults
from lazsim.files.tables import HEAD_LINES, FileTable, read_table
from lazsim.specs import describe_spec
from lazsim.trace.reading.mapped import (
    CHANGE_WORDS,
    EVENT_NEEDED,
    OF_PARTS,
    OPEN_WORDS,
    WORDS,
    event_kind,
    find_column,
    has_time,
    is_header,
    open_table,
    read_mapped,
    sampled_value,
)
from lazsim.trace.reading.mapping import JOIN_DAY, LOSSES, OPTIONAL, SHAPES, Columns, TraceMapping, load_mapping
from lazsim.trace.reading.times import CLOCK, is_date, is_number, is_read_by, is_when, read_length, split_unit
from lazsim.trace.source import GUESSED, HEAD_CHARS, TraceReader
from lazsim.units import counted

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
ANY_WORDS = {"name", "series", "metric"}
"""Words of the names of columns that may name nodes, or anything else that is lost."""

FINAL_WORDS = {"terminated", "preempted", "evicted", "deleted", "killed", "dead", "removed", "interrupted", "revoked"}
"""States of a node that is not to come back, and names of columns that tell it: beside a start and an end, these may be
those of its life."""

SOME_WORDS = {"active", "running", "available"}
IDLE_WORDS = {"idle", "free", "spare", "standby", "reserved", "allocated", "mixed", "busy"}
"""Words of the names of columns that may count only some of the nodes that are there, and others of them."""

GONE_WORDS = {
    *WORDS["remove"].split(), "alert", "alertname", "outage", "unreachable", "error", "errors", "problem", "problems",
    "fault", "faults", "xid", "alarm", "critical",
}  # fmt: skip
"""Words of the names of columns in which 1 does not say that a node is there."""

OUTAGES = re.compile(
    "down|outage|fail|(?<!de)fault|crash|error|alert|incident|unavail|offline|dead|lost|evict|preempt|interrupt|kill|"
    "drain|maint|repair|fixed|resolved|recover|restor|cause|\\breason|symptom|severity|ttr"
)
"""Words of a header of outages, without which rows with a start and an end may be reservations or the like; those of an
``exit_reason`` may be lives."""

LIVES = re.compile("launch|creat|provision|acquired|granted|inserted|registered|(?<!re)boot|heartbeat|last.?seen")
"""Words of a header of the lives of nodes, which are the reverse of outages."""

LAST = re.compile("since|last|updated|changed|modified|transition")
"""Words of the name of a time at which a node came into the state that it has."""

SUBJECTS = {"kind", "type", "what", "object", "resource", "entity", "target", "unit", "level", "scope"}
"""Words of the names of columns that tell what rows are of: a node, or a part of one."""

PARTS = {"gpu", "gpus", "device", "card", "nic"}
RUNNING = {"job", "task", "pod", "container", "process", "actor", "rank", "run", "service", "check", "sensor"}
"""Words of the names of columns that tell parts of a node, or what is on it: when one is mended, another may still be
broken."""

_is_sample = functools.partial(is_read_by, sampled_value)
_is_event = functools.partial(is_read_by, event_kind)
_is_length = functools.partial(is_read_by, functools.partial(read_length, unit=None))
_ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
_ROLES |= {f"{name}{end}": "cluster" for name in NAMES["cluster"].split() for end in ("id", "name")}

OTHER_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}\b")
"""Begin of a date, of ISO 8601 or not."""

NEEDED = {"count": "number of nodes; give whole ones", "event": EVENT_NEEDED}
"""What some roles need in their columns."""

LONGEST_NAMES = 100
"""Names of columns that a message has, which is not read if it is long."""

UNNAMED = 0.5
"""How well a table fits whose content alone tells its columns; more is known of other formats."""

KINDS = {
    "time": ("number", "date", "length", "text"),
    "count": ("number",),
    "event": ("word",),
    "value": ("number", "word"),
    "cluster": ("text", "length"),
}
"""Kinds of content that columns of a role may have; dates in other forms than ISO's are texts, or lengths if clocks."""


def mapping_reader(name: str) -> TraceReader:
    """Return the reader of a mapping of the catalogue, or of a path that ends in ``.toml``."""
    mapping = load_mapping(name)
    if mapping.columns is None:
        raise SpecError(f"{name}: names no columns; give it a table [columns]")
    return TraceReader(
        describe_spec("mappings", name),
        lambda text: how_well(mapping, open_head(text)),
        lambda source: read_mapped(source, open_table(source, mapping), mapping),
        tuple(TraceMapping.__struct_fields__),
    )


@functools.lru_cache(maxsize=1)
def open_head(text: str) -> FileTable:
    """Read the first rows of a text, without those that are broken."""
    first, _, rest = text.strip().partition("\n")
    # One JSON value has no head that is valid.
    is_json = first[:1] in ("{", "[") and not (rest and is_read_by(json.loads, first))
    head = text if is_json or len(text) <= HEAD_CHARS else text[: text.rfind("\n", 0, HEAD_CHARS)]
    table = read_leniently(head, HEAD_LINES)
    return table._replace(rows=table.rows[:HEAD_LINES])


def read_leniently(text: str, most_values: int | None = None) -> FileTable:
    """Read the rows of a text, without those that are broken; none where it is no table."""
    try:
        return read_table(text, Faults("", TraceFormatError, lenient=True), is_header, most_values)
    except TraceFormatError:
        return FileTable((), [])


def how_well(mapping: TraceMapping, table: FileTable) -> float:
    """Return how well the first rows of a table fit a mapping of the catalogue, from 0 to 1."""
    columns = mapping.columns
    if columns is None or not table.rows:
        return 0.0
    parts = [part for role, needed in columns.given().items() if role not in OPTIONAL for part in needed]
    if any(isinstance(part, str) for part in parts):
        # A condition that stands alone needs its column, too.
        parts += [one[0].column for one in mapping.conditions() if len(one) == 1]
        return float(all(isinstance(part, int) or find_column(part, table.header) is not None for part in parts))
    if table.header:
        return 0.0  # The mapping is of files without a header; what a header says, as of the unit, goes first.
    return sum(_fits(mapping, columns, row.fields) for row in table.rows) / len(table.rows)


def _fits(mapping: TraceMapping, columns: Columns, fields: list[str]) -> bool:
    if not has_time(fields, mapping) or len(fields) != (mapping.num_columns or len(fields)):
        return False
    texts = {role: " ".join(fields[int(part) - 1] for part in parts) for role, parts in columns.given().items()}
    has_unit = mapping.time_unit is None or is_number(texts["time"])
    changes = {*CHANGE_WORDS, *mapping.add, *mapping.remove, *mapping.ignore}
    is_change = columns.event is None or texts["event"].strip().lower() in changes
    return has_unit and is_change and is_number(texts.get("count", "0"))


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
    """What most of its first texts are; see `_kind`."""
    has_dates: bool
    """Whether most of the first texts that say when are dates, or stamps since 1970."""
    is_sampled: bool
    """Whether most of the first texts say that a node is there, or is not."""


class Guess(NamedTuple):
    """What the columns of a table are taken for."""

    roles: Columns
    columns: Sequence[TableColumn]
    fit: float
    """How well they fit, from 0 to 1."""

    def of(self, role: str) -> TableColumn | None:
        """Return the column of a role."""
        place = getattr(self.roles, role)
        return next((column for column in self.columns if column.place == place), None)

    @property
    def others(self) -> list[TableColumn]:
        """The columns that are left out, but for lengths beside an end."""
        used = {part for parts in self.roles.given().values() for part in parts}
        others = [column for column in self.columns if column.place not in used and self.roles.nodes is None]
        return [one for one in others if one.name and not (one.role == "duration" and self.roles.end)]

    @property
    def span(self) -> list[TableColumn]:
        """The columns of a start and, but for losses, of an end or a length; none where rows are no outages."""
        return [one for role in ("start", "end", "duration") if (one := self.of(role))]

    @property
    def lacks_outages(self) -> bool:
        """Whether rows have a start and an end, and no name of a column speaks of outages."""
        names = [one for one in self.columns if not one.words & FINAL_WORDS]
        return len(self.span) > 1 and not OUTAGES.search(_header([*self.span, *names]))

    @property
    def doubt(self) -> str:
        """What may be wrong about it, and how to say that it is right; empty where nothing is."""
        doubts = ((find(self), told) for find, told in DOUBTS.items())
        return next((told.format(found=found, give=f"give `columns` {self}") for found, told in doubts if found), "")

    def __str__(self) -> str:
        """Return the columns as the field `columns` has them."""
        taken = ((role, self.of(role), parts[0]) for role, parts in self.roles.given().items())
        return ",".join(f"{role}={column.name if column and column.name else part}" for role, column, part in taken)


def guess_columns(table: FileTable) -> Guess:
    """Return which column of a table is which; an error says why nothing tells.

    Rows that most others are not like do not count: reading them tells what is wrong with them.

    Examples
    --------
    >>> from lazsim.files.tables import Row
    >>> table = FileTable(("When", "num_instances"), [Row(2, ["2025-03-01 00:00:00", "8"])])
    >>> str(guess_columns(table))
    'time=When,count=num_instances'
    """
    columns = _columns(table)
    guesses = (Guess(roles, columns, fit) for way, fit in WAYS.items() if (roles := way(columns)))
    if guess := next(guesses, None):
        return guess._replace(roles=_with_cluster(guess))
    names = first_names([literal(shorten(name)) for name in table.header], LONGEST_NAMES) or "without names"
    if short := next((row for row in table.rows if len(row.fields) < len(table.header)), None):
        cells = counted(len(short.fields), "cell")
        raise TraceFormatError(f"line {short.line} has {cells}, and the header {len(table.header)} ({names}); mend it")
    raise TraceFormatError(_explain(columns, names))


def _columns(table: FileTable) -> list[TableColumn]:
    """Return the columns of the rows that are as wide as the header, or else as most are."""
    widths = [len(row.fields) for row in table.rows]
    width = len(table.header) if len(table.header) in widths else statistics.mode(widths or [0])
    texts = zip(*(row.fields for row in table.rows if len(row.fields) == width), strict=True)
    columns = []
    for place, (name, one) in enumerate(itertools.zip_longest(table.header, texts, fillvalue=""), start=1):
        head = one[:HEAD_LINES]
        when = [text for text in head if text.lower() not in OPEN_WORDS]
        has_dates, words = bool(when) and _most(when, is_when), _words(name)
        role = _role(name) or _role_of_dates(words) * has_dates
        columns.append(TableColumn(place, name, words, role, one, _kind(head), has_dates, _most(head, _is_sample)))
    return columns


def _header(columns: Iterable[TableColumn]) -> str:
    return " ".join(column.name for column in columns).lower()


# Ways to tell the columns of a table.


def _by_name(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell them by their names."""
    places = _by_role(columns)
    fitting = [shape for shape in SHAPES if shape != LOSSES and all(len(places[role]) == 1 for role in shape)]
    fitting = [shape for shape in fitting if not any({*shape} < {*other} for other in fitting)]
    if len(fitting) != 1:
        return None
    [shape] = fitting
    if shape == ("time", "node", "value") and split_unit(places["value"][0].name)[0] == "value":
        # A column such as ``up`` says what 1 is, and others why it is 0.
        if any(not GONE_WORDS.isdisjoint(column.words) for column in columns):
            return None
    elif shape == ("time", "count"):
        counters = [one for one in places["node"] if one.role == "node" and one.words - ANY_WORDS]
        if places["event"] or (counters and "nodes" not in places["count"][0].words):
            return None  # Words beside a count may say that it is of nodes that are gone, or which node it is of.
        # Nodes tell by their names which is which, and counts do not.
        places["cluster"] = places["cluster"] or counters
        shape = (*shape, *["cluster"] * (len(places["cluster"]) == 1))
    return Columns(**{role: places[role][0].place for role in shape})


def _by_role(columns: Sequence[TableColumn]) -> dict[str, list[TableColumn]]:
    """Return the columns of each role by their names, of which they have the content."""
    places: dict[str, list[TableColumn]] = {role: [] for role in (*NAMES, "nodes")}
    names_nodes = any(column.role == "node" for column in columns)
    for column in filter(lambda column: column.texts, columns):
        role, kind = column.role, column.kind
        # Beside the name of a node, 0 or 1 says whether that is alive, and dates when it went down and came up.
        if role == "count" and names_nodes and column.is_sampled:
            role = "value"
        elif role == "count" and not names_nodes and kind == "text" and column.words <= COUNTED:
            role = "node"
        elif column.has_dates:
            role = {"duration": "start", "value": "end"}.get(role, role)
        is_place = role == "cluster" and not PLACES.isdisjoint(column.words)
        if role and (is_place or kind in KINDS.get(role, (kind,)) or (role == "value" and column.is_sampled)):
            places[role].append(column)
    if len(places["count"]) > 1:
        places["count"] = [column for column in places["count"] if "total" not in column.words]
    if places["end"]:
        places["duration"] = [column for column in places["duration"] if column.kind in ("number", "length")]
    return places


def _by_node(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell a time and samples, of a node in each other column: several ones, or one with labels."""
    times = [column for column in columns if column.role == "time"]
    others = [column for column in columns if column.role != "time"]
    is_labelled = all("{" in column.name for column in others)
    if len(times) != 1 or len(others) < 2 - is_labelled:
        return None
    for column in others:
        name = column.name.partition("=")[0] if is_labelled else column.name
        if not (name and column.texts and column.is_sampled) or column.role or _is_event(name) or _is_of_losses(name):
            return None
    return Columns(time=times[0].place, nodes="*")


def _by_content(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell the columns of a table that has no others by what stands in them.

    Under a header, a number may count anything, and two dates may be the life of an instance: the names must tell.
    """
    kinds = [column.kind for column in columns]
    are_named = [bool(column.name) for column in columns]
    if any(are_named) and not all(are_named):
        return None
    if kinds == ["date", "number"]:
        # Numbers such as 007 are milliseconds, which a comma parts from their date.
        are_counts = not any(re.fullmatch(r"0\d\d", text) for text in columns[1].texts)
        return Columns(time=1, count=2) if are_counts and (not any(are_named) or columns[1].role == "value") else None
    dates = [column.place for column in columns if column.kind == "date"]
    times = dates or [column.place for column in columns if column.kind == "number"]
    if len(kinds) == 3 and len(dates) == 2 and not any(are_named):
        return Columns(node=6 - sum(dates), start=dates[0], end=dates[1])
    if len(kinds) != 3 or kinds.count("word") != 1 or not (len(times) == 1 or (kinds[0] == "number" and not dates)):
        return None
    if _role_of_dates(columns[times[0] - 1].words):
        return None  # A column of states beside when nodes failed may have those of today.
    event = kinds.index("word") + 1
    node = columns[5 - times[0] - event]
    return Columns(time=times[0], event=event, node=node.place) if node.role in ("", "node") else None


def _by_loss(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell a node and when it went, where nothing says when it came."""
    nodes = [column for column in columns if column.role == "node"]
    dates = [column for column in columns if column.has_dates]
    came = any(column.kind == "word" and not _are_gone(column.texts) for column in columns)
    if len(nodes) != 1 or len(dates) != 1 or came or LIVES.search(_header(columns)) or nodes[0].words <= ANY_WORDS:
        return None
    return Columns(node=nodes[0].place, start=dates[0].place) if _role_of_dates(dates[0].words) == "start" else None


def _with_cluster(guess: Guess) -> Columns:
    """Add a column of places, in two of which a node has the same name, as that of clusters."""
    if (node := guess.of("node")) is None:
        return guess.roles
    for other in (one for one in guess.others if one.role == "cluster" and one.words & PLACES):
        if _are_several({pair for pair in zip(node.texts, other.texts, strict=True) if pair[1]}):
            return msgspec.structs.replace(guess.roles, cluster=other.place)
    return guess.roles


WAYS = {_by_name: GUESSED, _by_node: UNNAMED, _by_content: UNNAMED, _by_loss: UNNAMED}
"""Ways to tell columns, of which the first that does counts, and how well the table fits then."""


# What shows that rows may tell of other things than nodes that come and go: the name of a column, or nothing.


def _column_of_parts(guess: Guess) -> str:
    """Find what tells parts of a node apart, or what runs on it; outages of parts may overlap."""
    if (node := guess.of("node")) is None:
        return ""
    names = {text.partition("/")[0].lower() for text in node.texts if "/" in text}
    if names & RUNNING or (node.words & (PARTS | RUNNING) and "node" not in map(_ROLES.get, node.words)):
        return node.name
    if guess.roles.end is not None or guess.roles.duration is not None:
        return ""
    event, start = guess.of("event"), guess.of("start")
    gone = {*filter(_is_gone, {*event.texts})} if event else set()
    are_gone = [text in gone for text in (event or node).texts]
    for other in guess.others:
        rows = [*zip(node.texts, other.texts, are_gone, strict=True)]
        told = {row for row in rows if row[1]}
        back = {(name, text) for name, text, is_gone in told if not is_gone}
        # Several samples at a time are refused, whatever tells them apart. What fails with a node ran on it.
        are_parts = back and other.words & PARTS and _are_several({row[:2] for row in told})
        are_running = back and other.words & RUNNING and (start or (event and _are_several(back)))
        if are_parts or are_running:
            return other.name
        if event and other.role != "cluster" and (_returns_twice(rows) or _tells_parts(other, back)):
            return other.name
    return ""


def _are_several(pairs: Collection[tuple[str, str]]) -> bool:
    """Return whether a node is in several of pairs, each of a node and a text."""
    return len(pairs) > len({name for name, _ in pairs})


def _tells_parts(column: TableColumn, back: Iterable[tuple[str, str]]) -> bool:
    """Return whether a column tells what rows are of, and texts in it beside nodes that are back name parts."""
    is_of_nodes = "node" in map(_ROLES.get, column.words) or OUTAGES.search(column.name.lower())
    if is_of_nodes or not column.words & SUBJECTS:
        return False
    return any(words and words <= PARTS | RUNNING for words in (_words(text) for _, text in back))


def _returns_twice(rows: Sequence[tuple[str, str, bool]]) -> bool:
    """Return whether a node is back, and once more, by rows of two other texts, with each of which it had gone."""
    # The newest rows may come first.
    for ordered in (rows, rows[::-1]):
        went: set[tuple[str, str]] = set()
        back: dict[str, str] = {}
        for name, text, is_gone in ordered:
            if is_gone and text:
                went.add((name, text))
                back.pop(name, None)
            elif (name, text) in went:
                went.remove((name, text))
                if back.setdefault(name, text) != text:
                    return True
    return False


def _clock_of_a_day(guess: Guess) -> str:
    """Find times of day beside times that are days alone."""
    when = guess.of("time") or guess.of("start")
    if when is None or when.kind != "date" or any(re.search(r":|T\d", text) for text in when.texts):
        return ""
    others = (one for one in guess.others if any(one.texts) and one.role != "duration")
    return next((one.name for one in others if _most(one.texts, lambda text: bool(CLOCK.fullmatch(text)))), "")


def _time_of_list(guess: Guess) -> str:
    """Find a time as each node of a list has one; events of a node come one after another."""
    time, node, event = guess.of("time"), guess.of("node"), guess.of("event")
    if time is None or node is None:
        return ""
    num_pairs, num_nodes = len({*zip(node.texts, time.texts, strict=True)}), len({*node.texts})
    name = re.sub(r"since[\W_]*[a-z].*", "", time.name.lower())
    of_nodes = LIVES.search(name) or (LAST.search(name) and not (event and _are_gone(event.texts)))
    return time.name if of_nodes and (num_pairs == num_nodes or num_pairs < len(node.texts)) else ""


def _columns_beside_spans(guess: Guess) -> str:
    """Find columns beside a start and an end of which none says outage, or one that a node was there, or lived."""
    if len(guess.span) < 2 or OUTAGES.search(_header(guess.span)):
        return ""
    rows = [zip(one.texts, guess.span[1].texts, strict=True) for one in guess.others if one.kind == "word"]
    texts = {(text.lower(), end.lower() in OPEN_WORDS) for text, end in itertools.chain(*rows) if text}
    past = {text for text, is_open in texts if not is_open} - BACK_WORDS
    are_states = any(text in FINAL_WORDS or not _is_gone(text) for text in past)
    is_told = not guess.lacks_outages or any(_is_gone(text) for text, _ in texts)
    return ", ".join(literal(one.name) for one in guess.others[:5]) if are_states or not is_told else ""


def _end_of_losses(guess: Guess) -> str:
    """Find what may say when nodes are back, beside events which all say that they go."""
    event = guess.of("event")
    told = {*BACK_WORDS, "repair", "mttr", "lasted"}
    ends = [one for one in guess.others if one.role in ("end", "duration") or one.words & told]
    ends = [one for one in ends if one.kind != "text" or one.is_sampled]
    return ends[0].name if event and ends and _are_gone(event.texts) else ""


def _count_of_others(guess: Guess) -> str:
    """Find a count of nodes that are there, beside one that may not have them."""
    count = guess.of("count")
    others = [one for one in guess.others if one.words & IDLE_WORDS and one.words <= IDLE_WORDS | COUNTED]
    return others[0].name if others and count and count.words & SOME_WORDS else ""


DOUBTS = {
    _column_of_parts: (
        "its rows are of parts of a node (column {found!r}) or of what runs on it, " + OF_PARTS + " {give}"
    ),
    _clock_of_a_day: f"column {{found!r}} has times without a day; {JOIN_DAY}, or if they do not count, {{give}}",
    _time_of_list: "rows have a time in {found!r}, as a list of nodes has; if something happened then, {give}",
    _columns_beside_spans: (
        "rows with a start and an end may be outages or, beside {found}, who used a node or how it was; if a node is "
        "gone from start to end, {give}"
    ),
    _end_of_losses: (
        "rows say that nodes go, and {found!r} may say for how long; give `columns` of outages (node, start, and end "
        "or duration), or if it does not, {give}"
    ),
    _count_of_others: "nodes of {found!r} are there, too; give `columns` with a count of all, or if it is, {give}",
}
"""What a guess may be wrong about, and how to say that it is right."""


def _explain(columns: Sequence[TableColumn], names: str) -> str:
    """Return why nothing tells the columns of a table, and what is needed."""
    if not any(column.texts for column in columns):
        return f"no row follows the header ({names}); give a trace with at least one node event"
    roles = [column.role for column in columns]
    are_told = any(set(shape) <= {*roles} for shape in SHAPES if shape != LOSSES)
    for column in columns:
        text = next(iter(column.texts), "")
        if column.name and OTHER_DATE.match(text) and not is_date(text):
            return (
                f"column {column.name!r} has {shorten(text)!r}, which is no date of ISO 8601; give `time_format`, such "
                "as '%m/%d/%Y %H:%M', and `columns`, such as node=host,start=from,end=to"
            )
    for column in (column for column in columns if are_told and column.role in NEEDED):
        if column.role == "event" and "node" in roles and _most(column.texts, is_number):
            return (
                f"column {column.name!r} has 0 or 1, and nothing says which is a loss; give `columns` with value="
                f"{column.name} if 1 is a node that is there, or a mapping that has both in `add` and `remove`"
            )
        others = (text for text in column.texts if text and _kind([text]) not in KINDS[column.role])
        if other := next(others, ""):
            return f"column {column.name!r} has {shorten(other)!r}, which is no {NEEDED[column.role]}"
    are_lives = LIVES.search(_header(columns)) is not None and OUTAGES.search(_header(columns)) is None
    lives = "; if rows say from when to when a node was there, give two rows of each, as of one that is up and down"
    return (
        f"its columns ({names}) do not tell which nodes come and go; give `columns`, such as time=1,count=2, "
        "time=when,event=what,node=host, node=host,start=from,end=to (duration=for, or neither for losses), or of "
        "samples time=when,nodes=gpu-* (or node=host,value=up)"
        + lives * are_lives
        + f"; {JOIN_DAY}" * (roles.count("time") > 1)
    )


# What names and texts say.


def _role(name: str) -> str:
    if not name:
        return ""  # As of the index that pandas writes, or the edge of a table of Markdown.
    words = _words(name)
    is_count = len(words & COUNTED) == 1 and words <= COUNTED | COUNTED_WORDS
    role = _ROLES.get(split_unit(name)[0], "count" if is_count else "")
    # What is in brackets may say that it counts something else, as in count(up == 0) or nodes (down).
    inside = re.sub(r"^[^(\[]*", "", name)
    is_kind = KIND_OF_NODE.fullmatch(inside) and not _is_of_losses(inside)
    is_of_nodes = is_kind or _words(inside) <= COUNTED | COUNTED_WORDS | {"total"}
    is_other = re.search(r"[%<>!]|=(?!=* ?1\b)", name) or not is_of_nodes
    return "" if role == "count" and is_other else role


def _role_of_dates(words: set[str]) -> str:
    """Return the role of dates at which nodes went or came back, by the words of their name."""
    told = words - WHEN_WORDS
    return "" if not told else "start" if told <= LOST_WORDS else "end" if told <= BACK_WORDS else ""


def _words(name: str) -> set[str]:
    """Return the words of a name, also of one such as ``InServiceInstances``, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _is_of_losses(name: str) -> bool:
    return not GONE_WORDS.isdisjoint(_words(name))


def _kind(texts: Sequence[str]) -> str:
    """Return what most texts of a column are, but for empty ones: numbers, dates, events, lengths or others."""
    tests = (("number", is_number), ("date", is_date), ("word", _is_event), ("length", _is_length))
    return next((kind for kind, fits in tests if any(texts) and _most(texts, fits)), "text")


def _most(texts: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Return whether most texts that are not empty fit, or all are empty."""
    given = [text for text in texts if text]
    return not given or 2 * sum(map(fits, given)) > len(given)


def _are_gone(texts: Sequence[str]) -> bool:
    """Return whether all texts of a column, but for empty ones, say that a node goes."""
    return all(map(_is_gone, {*texts} - {""}))


def _is_gone(text: str) -> bool:
    return _is_event(text) and event_kind(text) == "remove"
