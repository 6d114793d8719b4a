"""Guess from a table's header, or from what stands in its columns, how it says which nodes come and go."""

from collections.abc import Iterable

from lazsim.tables import Table
from lazsim.trace.clock import is_number, split_unit
from lazsim.trace.mapped import event_kind, is_date
from lazsim.trace.mapping import NO_MAPPING, Columns, TraceMapping

NAMES = {
    "time": "time timestamp date datetime ts t at when eventtime elapsed offset",
    "count": (
        "count nodes numnodes nnodes instances numinstances ninstances live alive available running livenodes "
        "alivenodes livecount nodecount instancecount activenodes runningnodes availablenodes"
    ),
    "event": "event eventtype action kind state status change transition",
    "node": "node nodeid nodename host hostname machine machineid instance instanceid server serverid vm name",
    "start": "start starttime started begin from downsince downat downfrom failedat timestart outagestart",
    "end": "end endtime ended until to upat upsince fixed fixedat resolved resolvedat recovered timeend outageend",
}
"""Names of columns by role, without case, signs and unit."""

_ROLES = {name: role for role, names in NAMES.items() for name in names.split()}

SHAPES = (("node", "start", "end"), ("time", "event", "node"), ("time", "count"))


def guess_mapping(table: Table) -> TraceMapping | None:
    """Return a mapping if the table leaves no doubt which column is which, and None otherwise.

    Examples
    --------
    >>> table = Table(("When", "num_instances"), [Row(2, ["2025-03-01 00:00:00", "8"])])
    >>> guess_mapping(table).columns.given()
    {'time': 1, 'count': 2}
    """
    rows = [row.fields for row in table.rows]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    kinds = [_kind([row[index] for row in rows]) for index in range(len(rows[0]))]
    columns = _by_name(table.header, kinds) or _by_content(kinds)
    return None if columns is None else TraceMapping(columns=columns)


def _by_name(header: Iterable[str], kinds: list[str]) -> Columns | None:
    places: dict[str, list[int]] = {role: [] for role in NAMES}
    for index, name in enumerate(header):
        role = _ROLES.get(split_unit(name)[0])
        fits = {"count": ("number",), "event": ("word",), "time": ("number", "date", "text")}.get(role or "", kinds)
        if role is not None and kinds[index] in fits:
            places[role].append(index + 1)
    fitting = [shape for shape in SHAPES if all(len(places[role]) == 1 for role in shape)]
    if len(fitting) != 1:
        return None
    return Columns(**{role: places[role][0] for role in fitting[0]})


def _by_content(kinds: list[str]) -> Columns | None:
    """Tell the columns of a table that has no others by what stands in them."""
    if kinds == ["date", "number"]:
        return Columns(time=1, count=2)
    if len(kinds) == 3 and kinds[0] in ("date", "number") and kinds.count("word") == 1:
        event = kinds.index("word") + 1
        return Columns(time=1, event=event, node=5 - event)
    return Columns(node=1, start=2, end=3) if len(kinds) == 3 and kinds[1:] == ["date", "date"] else None


def _kind(texts: list[str]) -> str:
    """Return what stands in a column: numbers, dates, words for events, or any texts; empty texts do not count."""
    given = [text for text in texts if text]
    if given and all(map(is_number, given)):
        return "number"
    if given and all(map(is_date, given)):
        return "date"
    return "word" if given and all(map(_is_event, given)) else "text"


def _is_event(text: str) -> bool:
    try:
        event_kind(text, NO_MAPPING)
    except ValueError:
        return False
    return True
