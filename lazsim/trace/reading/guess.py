"""Recognise tables: by the mappings of the catalogue, or by a guess from the header or from what stands in columns."""

import functools
import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence

from lazsim.errors import SpecError, TraceFormatError, literal, shorten
from lazsim.files.faults import Faults
from lazsim.files.tables import HEAD_LINES, FileTable, read_table
from lazsim.specs import describe_spec
from lazsim.trace.reading.mapped import (
    CHANGE_WORDS,
    EVENT_NEEDED,
    OF_PARTS,
    WORDS,
    event_kind,
    find_column,
    has_time,
    is_header,
    open_table,
    read_mapped,
    sampled_value,
)
from lazsim.trace.reading.mapping import JOIN_DAY, OPTIONAL, SHAPES, Columns, TraceMapping, load_mapping
from lazsim.trace.reading.times import is_date, is_number, is_read_by, read_length, split_unit
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
        "node nodeid nodename host hostname machine machineid instance instanceid server serverid vm name series metric"
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
    "cluster": "cluster zone availabilityzone az region pool nodepool partition queue instancetype machinetype gputype",
}
"""Names of columns by role, without case, signs and unit."""

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

GONE_WORDS = {
    *WORDS["remove"].split(), "alert", "alertname", "outage", "unreachable", "error", "errors", "problem", "problems",
    "fault", "faults", "xid", "alarm", "critical",
}  # fmt: skip
"""Words of the names of columns in which 1 does not say that a node is there."""

OUTAGES = re.compile(
    "down|outage|fail|(?<!de)fault|crash|error|alert|incident|unavail|offline|dead|lost|evict|preempt|interrupt|kill|"
    "drain|maint|repair|fixed|resolved|recover|restor|cause|reason|symptom|severity|ttr"
)
"""Words of a header of outages, without which rows with a start and an end may be reservations or the like."""

LIVES = re.compile("launch|creat|provision|acquired|granted|inserted|registered|(?<!re)boot|heartbeat|last.?seen")
"""Words of a header of the lives of nodes, which are the reverse of outages."""

LAST = re.compile("since|last|updated|changed|modified|transition")
"""Words of the name of a time at which a node came into the state that it has."""

PARTS = {"gpu", "gpus", "device", "card", "nic"}
RUNNING = {"job", "task", "pod", "container", "process", "actor", "rank", "run", "service", "check", "sensor"}
"""Words of the names of columns that tell parts of a node, or what is on it: when one is mended, another may still be
broken."""

_is_sample = functools.partial(is_read_by, sampled_value)
_is_event = functools.partial(is_read_by, event_kind)
_is_length = functools.partial(is_read_by, functools.partial(read_length, unit=None))
_ROLES = {name: role for role, names in NAMES.items() for name in names.split()}

OTHER_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}\b")
"""Begin of a date, of ISO 8601 or not."""

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
    try:
        table = read_table(head, Faults("", TraceFormatError, lenient=True), is_header, HEAD_LINES)
    except TraceFormatError:
        return FileTable((), [])
    return table._replace(rows=table.rows[:HEAD_LINES])


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


def guess_columns(table: FileTable) -> tuple[Columns, float]:
    """Return which column of a table is which, and how well they fit; an error says what leaves it in doubt.

    Rows that most others are not like do not count: reading them tells what is wrong with them.

    Examples
    --------
    >>> from lazsim.files.tables import Row
    >>> table = FileTable(("When", "num_instances"), [Row(2, ["2025-03-01 00:00:00", "8"])])
    >>> guess_columns(table)[0].given()
    {'time': (1,), 'count': (2,)}
    """
    columns, fit = _guess(table)
    doubt = _explain(table) if columns is None else next(_doubts(table, columns), "")
    if columns is not None and not doubt:
        return columns, fit
    if short := next((row for row in table.rows if len(row.fields) < len(table.header)), None):
        cells = counted(len(short.fields), "cell")
        doubt = f"line {short.line} has {cells}, and the header {len(table.header)} ({_names(table)}); mend it"
    raise TraceFormatError(doubt)


def left_out(table: FileTable, columns: Columns) -> list[str]:
    """Return the names of the columns that a guess leaves out, but for lengths beside an end."""
    if columns.nodes is not None:
        return []
    used = {part for parts in columns.given().values() for part in parts}
    names = (name for place, name in enumerate(table.header, 1) if place not in used)
    return [name for name in names if name and _role(name) != "duration"]


def taken_for(table: FileTable, columns: Columns) -> str:
    """Return columns as the field `columns` has them.

    Examples
    --------
    >>> taken_for(FileTable(("host", "down", "up"), []), Columns(node=1, start=2, end=3))
    'node=host,start=down,end=up'
    """
    places = ((role, parts[0]) for role, parts in columns.given().items())
    return ",".join(
        f"{role}={table.header[part - 1] if isinstance(part, int) and table.header else part}" for role, part in places
    )


def lacks_outages(table: FileTable, columns: Columns) -> bool:
    """Tell whether rows have a start and an end, and no name of a column speaks of outages."""
    return columns.start is not None and not OUTAGES.search(" ".join(table.header).lower())


def _doubts(table: FileTable, columns: Columns) -> Iterator[str]:
    """Yield what else than nodes that come and go the rows may tell of, and how to say that it is these."""
    give, others = f"give `columns` {taken_for(table, columns)}", left_out(table, columns)
    texts = {name: _texts(table, table.header.index(name)) for name in others}
    if (columns.event or columns.value) and isinstance(columns.node, int) and isinstance(columns.time, int):
        nodes = _texts(table, columns.node - 1)
        events = _texts(table, columns.event - 1) if isinstance(columns.event, int) else []
        for name in others:
            # Several samples at a time are refused, whatever tells them apart. What fails with a node ran on it.
            which = nodes if _words(name) & PARTS else events if _words(name) & RUNNING else []
            rows = zip(nodes, texts[name], which, strict=False)
            pairs = {(node, text) for node, text, event in rows if text and not _is_gone(event)}
            if len(pairs) > len({node for node, _ in pairs}):
                yield f"its rows are of parts of a node (column {name!r}) or of what runs on it, {OF_PARTS} {give}"
        time = table.header[columns.time - 1] if table.header else "time"
        # Events of a node come one after another.
        num_pairs, num_nodes = len({*zip(nodes, _texts(table, columns.time - 1), strict=True)}), len({*nodes})
        name = re.sub(r"since[\W_]*[a-z].*", "", time.lower())
        of_nodes = LIVES.search(name) or (LAST.search(name) and not (events and all(map(_is_gone, events))))
        if of_nodes and (num_pairs == num_nodes or num_pairs < len(nodes)):
            yield f"rows have a time in {time!r}, as a list of nodes has; if something happened then, {give}"
    are_losses = any(any(one) and _most(one, _is_gone) for one in texts.values())
    if others and lacks_outages(table, columns) and not are_losses:
        shown = ", ".join(map(literal, others[:5]))
        yield (
            f"rows with a start and an end may be outages or, beside {shown}, who used a node; if a node is gone from "
            f"start to end, {give}"
        )


def _texts(table: FileTable, place: int) -> list[str]:
    """Return the texts of a column, empty where a row has none."""
    return [row.fields[place] if place < len(row.fields) else "" for row in table.rows]


def _guess(table: FileTable) -> tuple[Columns | None, float]:
    """Return the columns that the names or the content of a table tell, and how well they do."""
    if not table.rows:
        return None, 0.0
    widths = [len(row.fields) for row in table.rows]
    width = len(table.header) if len(table.header) in widths else statistics.mode(widths)
    rows = [row.fields for row in table.rows if len(row.fields) == width]
    kinds = [_kind(column) for column in zip(*rows, strict=True)]
    are_samples = [_most(column, _is_sample) for column in zip(*rows, strict=True)]
    named = _by_name(table.header, kinds, are_samples)
    columns = named or _by_node(table.header, kinds, are_samples) or _by_content(table.header, kinds)
    return columns, GUESSED if named else UNNAMED


def _names(table: FileTable) -> str:
    return ", ".join(map(literal, table.header[:30])) or "without names"


def _explain(table: FileTable) -> str:
    """Return why nothing tells the columns of a table, and what is needed."""
    if not table.rows:
        return f"no row follows the header ({_names(table)}); give a trace with at least one node event"
    for name, text in zip(table.header, table.rows[0].fields, strict=False):
        if OTHER_DATE.match(text) and not is_date(text):
            return (
                f"column {name!r} has {shorten(text)!r}, which is no date of ISO 8601; give `time_format`, such as "
                "'%m/%d/%Y %H:%M', and `columns`, such as node=host,start=from,end=to"
            )
    roles = {name: _role(name) for name in table.header}
    columns = zip(table.header, zip(*(row.fields for row in table.rows), strict=False), strict=False)
    for name, texts in columns if any(set(shape) <= {*roles.values()} for shape in SHAPES) else ():
        if roles[name] not in ("count", "event"):
            continue
        if roles[name] == "event" and "node" in roles.values() and _most(texts, is_number):
            return (
                f"column {name!r} has 0 or 1, and nothing says which is a loss; give `columns` with value={name} if 1 "
                "is a node that is there, or a mapping that has both in `add` and `remove`"
            )
        if other := next((text for text in texts if text and _kind([text]) not in KINDS[roles[name]]), ""):
            needed = {"count": "number of nodes; give whole ones", "event": EVENT_NEEDED}[roles[name]]
            return f"column {name!r} has {shorten(other)!r}, which is no {needed}"
    header = " ".join(table.header).lower()
    are_lives = LIVES.search(header) is not None and OUTAGES.search(header) is None
    lives = "; if rows say from when to when a node was there, give two rows of each, as of one that is up and down"
    lives = lives * are_lives + f"; {JOIN_DAY}" * ([*roles.values()].count("time") > 1)
    return (
        f"its columns ({_names(table)}) do not tell which nodes come and go; give `columns`, such as time=1,count=2, "
        "time=when,event=what,node=host, node=host,start=from,end=to (or duration=for), or of samples "
        "time=when,node=host,value=up or time=when,nodes=gpu-*" + lives
    )


def _by_name(header: Sequence[str], kinds: list[str], are_samples: list[bool]) -> Columns | None:
    places: dict[str, list[int]] = {role: [] for role in (*NAMES, "nodes")}
    names_nodes = any(_role(name) == "node" for name in header)
    # A row may have more fields than the header.
    for index, (name, kind, is_sample) in enumerate(zip(header, kinds, are_samples, strict=False)):
        role = _role(name)
        # Beside the name of a node, 0 or 1 says whether that is alive, and dates when it went down and came up.
        if role == "count" and names_nodes and is_sample:
            role = "value"
        elif role == "count" and not names_nodes and kind == "text" and _words(name) <= COUNTED:
            role = "node"
        elif kind == "date":
            role = {"duration": "start", "value": "end"}.get(role, role)
        if role and (kind in KINDS.get(role, (kind,)) or (role == "value" and is_sample)):
            places[role].append(index + 1)
    if len(places["count"]) > 1:
        places["count"] = [place for place in places["count"] if "total" not in _words(header[place - 1])]
    if places["end"]:
        places["duration"] = [place for place in places["duration"] if kinds[place - 1] in ("number", "length")]
    fitting = [shape for shape in SHAPES if all(len(places[role]) == 1 for role in shape)]
    fitting = [shape for shape in fitting if not any({*shape} < {*other} for other in fitting)]
    # A column such as ``up`` says what 1 is, and others why it is 0.
    is_any = fitting == [("time", "node", "value")] and split_unit(header[places["value"][0] - 1])[0] == "value"
    if is_any and any(map(_is_of_losses, header)):
        return None
    if fitting == [("time", "count")] and places["event"]:
        return None  # Words beside a count may say that it is of nodes that are gone.
    if len(fitting) != 1:
        return None
    # Nodes tell by their names which is which, and counts do not.
    roles = (*fitting[0], *["cluster"] * (fitting[0] == ("time", "count") and len(places["cluster"]) == 1))
    return Columns(**{role: places[role][0] for role in roles})


def _by_node(header: Sequence[str], kinds: list[str], are_samples: list[bool]) -> Columns | None:
    """Tell a table of a time and samples, of a node in each other column: several ones, or one with labels."""
    times = [index for index, name in enumerate(header) if _role(name) == "time"]
    others = [index for index in range(len(header)) if index not in times]
    is_labelled = all("{" in header[index] for index in others)
    if len(times) != 1 or len(header) != len(kinds) or not others or not (is_labelled or len(others) > 1):
        return None
    if any(_role(header[index]) or _is_event(header[index]) or not are_samples[index] for index in others):
        return None
    if any(_is_of_losses(header[index].partition("=")[0] if is_labelled else header[index]) for index in others):
        return None
    return Columns(time=times[0] + 1, nodes="*")


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


def _words(name: str) -> set[str]:
    """Return the words of a name, also of one such as ``InServiceInstances``, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _is_of_losses(name: str) -> bool:
    return not GONE_WORDS.isdisjoint(_words(name))


def _by_content(header: Sequence[str], kinds: list[str]) -> Columns | None:
    """Tell the columns of a table that has no others by what stands in them.

    Under a header, a number may count anything, and two dates may be the life of an instance: the names must tell.
    """
    if header and len(header) < len(kinds):
        return None
    if kinds == ["date", "number"]:
        return Columns(time=1, count=2) if not header or _role(header[1]) == "value" else None
    if len(kinds) != 3:
        return None
    dates = [index + 1 for index, kind in enumerate(kinds) if kind == "date"]
    if len(dates) == 2:
        if header:
            return None
        return Columns(node=6 - sum(dates), start=dates[0], end=dates[1])
    times = dates or [index + 1 for index, kind in enumerate(kinds) if kind == "number"]
    if kinds.count("word") != 1 or not (len(times) == 1 or kinds[0] == "number"):
        return None
    event = kinds.index("word") + 1
    if header and _role(header[5 - times[0] - event]) not in ("", "node"):
        return None
    return Columns(time=times[0], event=event, node=6 - times[0] - event)


def _kind(texts: Sequence[str]) -> str:
    """Return what most texts of a column are, but for empty ones: numbers, dates, events, lengths or others."""
    tests = (("number", is_number), ("date", is_date), ("word", _is_event), ("length", _is_length))
    return next((kind for kind, fits in tests if any(texts) and _most(texts, fits)), "text")


def _most(texts: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Return whether most texts that are not empty fit, or all are empty."""
    given = [text for text in texts if text]
    return not given or 2 * sum(map(fits, given)) > len(given)


def _is_gone(text: str) -> bool:
    return _is_event(text) and event_kind(text) == "remove"
