"""Recognise tables: by the mappings of the catalogue, or by a guess from the header or from what stands in columns."""

import functools
from collections.abc import Iterable

from lazsim.errors import SpecError, TraceFormatError
from lazsim.files import Faults
from lazsim.tables import HEAD_LINES, Table, read_table
from lazsim.trace.clock import Clock, is_number, split_unit
from lazsim.trace.mapped import (
    column_parts,
    event_kind,
    find_column,
    is_date,
    is_header,
    needed_columns,
    open_table,
    read_mapped,
)
from lazsim.trace.mapping import NO_MAPPING, Columns, TraceMapping, load_mapping, mapping_looks
from lazsim.trace.source import Reader

HEAD_BYTES = 20_000

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


def mapping_reader(name: str) -> Reader:
    """Return the reader of a mapping of the catalogue, or of a path that ends in ``.toml``."""
    mapping = load_mapping(name)
    if mapping.columns is None:
        raise SpecError(f"{name}: names no columns; give it a table [columns]")
    return Reader(
        mapping_looks(name),
        lambda text: how_well(mapping, open_head(text)),
        lambda source: read_mapped(source, open_table(source), mapping),
        tuple(TraceMapping.__struct_fields__),
    )


@functools.lru_cache(maxsize=1)
def open_head(text: str) -> Table:
    """Read the first rows of a text, without those that are broken."""
    head = text if len(text) <= HEAD_BYTES else text[: text.rfind("\n", 0, HEAD_BYTES)]
    try:
        table = read_table(head, Faults("", TraceFormatError, lenient=True), is_header)
    except TraceFormatError:
        return Table((), [])
    return table._replace(rows=table.rows[:HEAD_LINES])


def how_well(mapping: TraceMapping, table: Table) -> float:
    """Return how well the first rows of a table fit a mapping of the catalogue, from 0 to 1."""
    columns = mapping.columns
    if columns is None or not table.rows:
        return 0.0
    parts = [part for column in needed_columns(columns).values() for part in column_parts(column)]
    if any(isinstance(part, str) for part in parts):
        return float(all(isinstance(part, int) or find_column(part, table.header) is not None for part in parts))
    return sum(_fits(mapping, columns, row.fields) for row in table.rows) / len(table.rows)


def _fits(mapping: TraceMapping, columns: Columns, fields: list[str]) -> bool:
    try:
        texts = {role: " ".join(fields[int(part) - 1] for part in column_parts(column))
                 for role, column in columns.given().items()}  # fmt: skip
        time = texts["time"] if "time" in texts else texts["start"]
        Clock(mapping, mapping).read(time)
        if mapping.time_unit is not None and not is_number(time):
            return False
        if columns.event is not None:
            event_kind(texts["event"], mapping)
    except (IndexError, ValueError, OverflowError):
        return False
    return is_number(texts.get("count", "0")) and len(fields) == (mapping.num_columns or len(fields))


def guess_mapping(table: Table) -> TraceMapping | None:
    """Return a mapping if the table leaves no doubt which column is which, and None otherwise.

    Examples
    --------
    >>> from lazsim.tables import Row
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
