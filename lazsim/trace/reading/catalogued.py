"""Read the first rows of a table, and tell by them which mapping of the catalogue it fits."""

import functools

from lazsim.errors import SpecError, TraceFormatError
from lazsim.files.decoding import decode_json
from lazsim.files.faults import Faults
from lazsim.files.tables import HEAD_LINES, FileTable, read_table
from lazsim.specs import describe_spec
from lazsim.trace.reading.mapped import read_mapped
from lazsim.trace.reading.mapping import OPTIONAL, Columns, TraceMapping, load_mapping
from lazsim.trace.reading.rows import find_column, has_time, is_header, open_table
from lazsim.trace.reading.times import is_number, is_read_by
from lazsim.trace.reading.words import CHANGE_WORDS
from lazsim.trace.source import HEAD_CHARS, TraceReader


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
    is_json = first[:1] in ("{", "[") and not (rest and is_read_by(decode_json, first))
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
        return float(None not in [find_column(part, table.header) for part in parts])
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
