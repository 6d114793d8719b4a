"""Read the rows of a table: a CSV with a header, or CSV with any separator, JSON lines, a JSON array, or Parquet."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from lazsim.errors import LONGEST_CAUSE, SpecError, shorten
from lazsim.files.decoding import HUGE, decode_json
from lazsim.files.faults import Faults
from lazsim.files.reading import decode_text, numbered_lines, unpack
from lazsim.limits import MAX_COLUMNS, MAX_FILE_BYTES, MAX_ROWS

PARQUET = b"PAR1"
"""First bytes of a Parquet file."""

SEPARATORS = "\t|;,"
"""Separators of columns; where most lines have several, the first of these counts, as texts have commas most often."""

RULED = re.compile(r"\s*[^\n]*\n( *-{2,}(?: +-{2,})+) *(?:\n|\Z)")
"""A header over a rule of dashes for each column: a table of columns of fixed width, as Slurm writes it."""

RULES = "-:=+ "
"""Characters of the rules of Markdown and of terminals, such as |---|:-:|, which have no texts."""

COMMENT = re.compile(r"#(?!\d)", re.ASCII)
"""Begin of a line that counts for nothing; #7 is the number of an incident or a node."""

HEAD_LINES = 20

Cells = Mapping[str, str]
"""A row of a CSV: the text of each column."""


class Row(NamedTuple):
    """Texts of a row, and its line in the file, from 1."""

    line: int
    fields: list[str]


class FileTable(NamedTuple):
    """Names of the columns, none where the file has no header, and the rows."""

    header: tuple[str, ...]
    rows: list[Row]
    may_be_cut: bool = False
    """Whether columns have a fixed width, so that a longer text is cut, and ends in ``+``."""


def read_cells(name: object, content: bytes, needed: Iterable[str]) -> dict[int, Cells]:
    r"""Read the cells of a CSV with a header, by line; it may be packed, and have other columns than those needed.

    Cells stand between semicolons or tabs where the header has no comma.

    Raises
    ------
    SpecError
        When it is no CSV, lacks a column or has one twice, or has no rows, or one with another number of cells.
    LazsimError
        When it is packed and cannot be unpacked.

    Examples
    --------
    >>> read_cells("sizes.csv", b"gpu,size\nh100,80\n", ["gpu"])
    {2: {'gpu': 'h100', 'size': '80'}}
    """
    try:
        text = decode_text(unpack(str(name), content))
        between = next((one for one in ",;\t" if one in text.partition("\n")[0]), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=between)
        columns = [name.strip() for name in next(reader, [])]
        rows = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
        lines = {line: cells for line, cells in rows if any(cells)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{name}: is no table of comma-separated UTF-8 text ({error})") from None
    needed = list(needed)
    for column in needed:
        if column not in columns:
            lacks = f"has no column {column}" if columns else "is empty"
            raise SpecError(f"{name}: {lacks}; it needs {', '.join(needed)}")
    if twice := next((column for column in columns if columns.count(column) > 1), ""):
        raise SpecError(f"{name}: has two columns {twice}; keep one of them")
    if not lines:
        raise SpecError(f"{name}: has no rows; give one or more")
    for line, cells in lines.items():
        if len(cells) != len(columns):
            raise SpecError(f"{name}, line {line}: {len(cells)} cells; give one for each of the {len(columns)} columns")
    return {line: dict(zip(columns, cells, strict=True)) for line, cells in lines.items()}


def read_table(
    text: str, faults: Faults, is_header: Callable[[list[str]], bool], most_values: int | None = None
) -> FileTable:
    """Read the rows of a text; broken ones are faults.

    Parameters
    ----------
    text
        Lines with a separator (tab, ``|``, ``;``, comma, or else spaces), in which ``#`` begins a comment, unless a
        digit follows; columns of fixed width under a rule of dashes; a JSON value on each line; or one JSON array,
        alone or in an object. JSON values are objects, whose keys name the columns, or arrays.
    faults
        The faults of the file.
    is_header
        Says whether the first row is a header.
    most_values
        Most values of JSON that are read, all where None.
    """
    if text.lstrip()[:1] in ("{", "["):
        return _align(itertools.islice(_json_values(text, faults), most_values), faults)
    # Excel's first line for the separator, which Grafana writes, too.
    text = re.sub(r"\Asep=.\r?\n", "\n", text)
    if ruled := RULED.match(text):
        header, *rows = _ruled_lines(text, ruled, faults)
        return FileTable(tuple(header.fields), rows, may_be_cut=True)
    separator = find_separator(text)
    lines = (Row(line, row.split()) for line, row in _data_lines(text) if row.strip(RULES))
    found: list[Row] = []
    for row in lines if separator is None else _separated_lines(text, separator, faults):
        found.append(row)
        _check_shape(len(found), len(row.fields), faults)
    if found and is_header(found[0].fields):
        # Files that were put behind one another have theirs again.
        return FileTable(tuple(found[0].fields), [row for row in found if row.fields != found[0].fields])
    return FileTable((), found)


def read_parquet(content: bytes, faults: Faults) -> FileTable:
    """Read the rows of a Parquet file; a row counts as a line."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        what = "Parquet, which takes pyarrow to read; pip install 'lazsim[files]', or save it as CSV"
        raise faults.refuse("", what) from None
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        _check_shape(file.metadata.num_rows, file.metadata.num_columns, faults)
        if sum(group.total_byte_size for group in groups) > MAX_FILE_BYTES:
            raise faults.refuse("", f"unpacks to more than {MAX_FILE_BYTES >> 10:,} KiB; give a smaller file")
        table = file.read()
        columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise faults.refuse("", f"not valid Parquet ({shorten(error, LONGEST_CAUSE)}); write it again") from None
    fields = zip(*columns, strict=True)
    return FileTable(tuple(table.column_names), [Row(line, list(one)) for line, one in enumerate(fields, start=1)])


def find_separator(text: str) -> str | None:
    r"""Return the first of `SEPARATORS` that most of the first lines have.

    Examples
    --------
    >>> find_separator("2025-03-01 00:00:00;8\n2025-03-01 00:05:00;7,5")
    ';'
    """
    head = list(itertools.islice((line for _, line in _data_lines(text) if line.strip(RULES)), HEAD_LINES))
    for separator in SEPARATORS:
        if 2 * sum(separator in line for line in head) > len(head):
            return separator
    return None


def parse_json(text: str, faults: Faults) -> Any:
    """Decode a text as one value of JSON, or raise the error of the file: broken JSON has no part to keep."""
    with valid_json(faults):
        return json.loads(text)


@contextmanager
def valid_json(faults: Faults) -> Iterator[None]:
    """Raise the error of a file where what decodes JSON in the block says that it is none."""
    line = 0
    try:
        yield
        return
    except json.JSONDecodeError as error:
        line, told = error.lineno, error.msg
    except RecursionError:
        told = "too deeply nested"
    except ValueError:
        told = HUGE
    raise faults.refuse(line, f"not valid JSON ({told}); fetch the file again")


def json_values(text: str, begin: int = 0) -> Iterator[tuple[int, Any]]:
    r"""Yield the values of JSON that follow one another, with the line on which each begins.

    They go on to the end of the text, or of the array that is open at `begin`.

    Examples
    --------
    >>> list(json_values("[1,\n\n[2]]", begin=1))
    [(1, 1), (3, [2])]
    """
    decoder = json.JSONDecoder()
    line, seen, position = 1, 0, begin
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position == len(text) or (begin and text[position] == "]"):
            return
        line += text.count("\n", seen, position)
        seen = position
        item, position = decoder.raw_decode(text, position)
        yield line, item


def _data_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in numbered_lines(text) if not COMMENT.match(line))


def _ruled_lines(text: str, ruled: re.Match[str], faults: Faults) -> Iterator[Row]:
    """Yield the rows of a table whose columns are as wide as the dashes of its rule."""
    spans = [dashes.span() for dashes in re.finditer("-+", ruled[1])]
    between = [slice(before[1], after[0]) for before, after in itertools.pairwise(spans)]
    rule = text.count("\n", 0, ruled.start(1)) + 1
    for number, line in enumerate(text.split("\n"), start=1):
        if number < rule - 1 or not line.strip(RULES):
            continue
        if any(line[gap].strip() for gap in between):
            faults.fault(number, f"a text is wider than its column: {shorten(line.strip())!r}")
            continue
        _check_shape(number, len(spans), faults)
        yield Row(number, [line[start:end].strip() for start, end in spans])


def _separated_lines(text: str, separator: str, faults: Faults) -> Iterator[Row]:
    lines = ("\n" if COMMENT.match(line) else line for line in io.StringIO(text, newline=None))
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    while True:
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            faults.fault(reader.line_num, f"no row of a table ({error})")
            continue
        if any(field.strip(RULES) for field in fields):
            yield Row(reader.line_num, fields)


def _json_values(text: str, faults: Faults) -> Iterator[tuple[int, Any]]:
    """Yield the values of one array, also of the only one of objects in an object, or those of the lines."""
    if text.lstrip().startswith("[") and not re.match(r"\s*\[.*\]\s*\n\s*\[", text):
        parse_json(text, faults)
        yield from json_values(text, text.index("[") + 1)
        return
    if (whole := _whole_object(text)) is not None:
        if (rows := _frame_rows(whole)) is not None:
            yield from ((1, row) for row in rows)
            return
        if (begin := _only_array(text, whole)) is not None:
            yield from json_values(text, begin)
            return
    for line, value in numbered_lines(text):
        try:
            yield line, decode_json(value.encode())
        except ValueError as error:
            faults.fault(line, f"not valid JSON ({error})")


def _whole_object(text: str) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        whole = json.loads(text)
        return whole if isinstance(whole, dict) else None
    return None


def _frame_rows(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of what pandas writes with ``orient`` split, columns or index, each with its index, or None."""
    columns, data = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        index = whole.get("index", range(len(data)))
        return [
            {"": at, **dict(zip(map(str, columns), row, strict=False))} for at, row in zip(index, data, strict=False)
        ]
    tables = [value for value in whole.values() if isinstance(value, dict)]
    if len(tables) < max(2, len(whole)) or any(table.keys() != tables[0].keys() for table in tables):
        return None
    if all(map(str.isdecimal, whole)):
        return [{"": at, **row} for at, row in whole.items()]
    if all(map(str.isdecimal, tables[0])):
        return [{"": at, **{name: column[at] for name, column in whole.items()}} for at in tables[0]]
    return None


def _only_array(text: str, whole: dict[str, Any]) -> int | None:
    """Return where the only array of objects begins of a text that is one JSON object, as CloudWatch writes it."""
    arrays = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    begins = [begin for key in arrays for begin in array_begins(text, key)]
    return begins[0] if len(begins) == 1 else None


def array_begins(text: str, key: str) -> list[int]:
    """Return where the arrays under a key begin, behind their brackets, in a text of JSON."""
    return [match.end() for match in re.finditer(rf"{re.escape(json.dumps(key))}\s*:\s*\[", text)]


def _align(values: Iterator[tuple[int, Any]], faults: Faults) -> FileTable:
    """Put the fields of objects under one header, in the order in which keys first appear."""
    index: dict[str, int] = {}
    rows: list[Row] = []
    for line, value in values:
        try:
            if isinstance(value, dict):
                named = {key: _text(field) for key, field in _flat(value)}
                for key in named:
                    index.setdefault(key, len(index))
                fields = [""] * len(index)
                for key, text in named.items():
                    fields[index[key]] = text
                rows.append(Row(line, fields))
            elif isinstance(value, list):
                rows.append(Row(line, [_text(field) for field in value]))
            else:
                faults.fault(line, "expected an object or an array of JSON")
        except RecursionError:
            # From 3.12 on, Python reads deeper JSON than its functions can walk.
            faults.fault(line, "not valid JSON (too deeply nested)")
        _check_shape(len(rows), len(index), faults)
    for row in rows:
        row.fields.extend([""] * (len(index) - len(row.fields)))
    return FileTable(tuple(index), rows)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, field in value.items():
        if isinstance(field, dict):
            yield from _flat(field, f"{prefix}{key}.")
        else:
            yield prefix + key, field


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        # As stamps in nanoseconds, and the whole numbers of a column of pandas with gaps.
        return str(int(value))
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def _check_shape(num_rows: int, num_columns: int, faults: Faults) -> None:
    if num_rows > MAX_ROWS or num_columns > MAX_COLUMNS:
        raise faults.refuse("", f"more than {MAX_ROWS:,} rows or {MAX_COLUMNS:,} columns; give a shorter file")
