"""Pick the rows and the columns of a table that a mapping names."""

import fnmatch
import re
from collections.abc import Iterator, Sequence

from lazsim.errors import TraceFormatError
from lazsim.tables import HEAD_LINES, PARQUET, Table, read_parquet, read_table
from lazsim.trace.clock import is_date, is_number
from lazsim.trace.hosts import expand_hosts
from lazsim.trace.mapping import OPTIONAL, Columns, TraceMapping
from lazsim.trace.source import Source, shorten


def open_table(source: Source) -> Table:
    """Read the rows of a file in any form of table."""
    if source.content.startswith(PARQUET):
        return read_parquet(source.content, source)
    return read_table(source.text, source, is_header)


def is_header(fields: list[str]) -> bool:
    """Return whether a row names columns: none of its texts is a number or a date."""
    return not any(is_number(field) or is_date(field) for field in fields)


def find_column(name: str, header: tuple[str, ...]) -> int | None:
    """Return the index of a column by its name: as it stands, or else without case, signs and what is in brackets.

    Examples
    --------
    >>> find_column("prob started", ("nodes", "Prob Started (mm/dd/yy)"))
    1
    """
    if name in header:
        return header.index(name)
    plain = [_plain(column) for column in header]
    return plain.index(_plain(name)) if _plain(name) in plain else None


def _plain(name: str) -> str:
    return re.sub(r"\(.*\)|[\W_]", "", name.lower())


class MappedRows:
    """The rows of a table that count, by the role of their columns.

    Attributes
    ----------
    texts : list of (int, dict)
        Line of each row, and its texts by role; a row that lists several nodes is one for each of them.
    places : dict
        Indices of the columns of each role.
    time_column : str
        Name of the column of times, empty where it has none.
    has_more_columns : bool
        Whether there are columns without a role.
    num_left_out : int
        Rows that a condition of the mapping leaves out.

    Raises
    ------
    TraceFormatError
        When the table has no such columns, or rows of several clusters.
    """

    def __init__(self, source: Source, table: Table, mapping: TraceMapping, columns: Columns) -> None:
        self._source, self._table, self._where = source, table, mapping.where
        self.places = {
            role: self._find(parts)
            for role, parts in columns.given().items()
            if role not in OPTIONAL or None not in map(self._index, parts)
        }
        times = self.places.get("time") or self.places["start"]
        self.time_column = " ".join(table.header[index] for index in times if index < len(table.header))
        used = {place for places in self.places.values() for place in places}
        self.has_more_columns = any(len(row.fields) > len(used) for row in table.rows[:HEAD_LINES])
        self.num_left_out = 0
        self.texts = list(self._chosen())

    def _chosen(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line and the texts by role of the rows that count."""
        wanted = list(self._conditions())
        clusters: dict[str, int] = {}
        for line, fields in self._table.rows:
            try:
                matches = [fnmatch.fnmatchcase(_joined(fields, places), pattern) for places, pattern, _ in wanted]
                if matches != [fits for _, _, fits in wanted]:
                    self.num_left_out += 1
                    continue
                texts = {role: _joined(fields, places) for role, places in self.places.items()}
            except IndexError:
                self._source.fault(line, f"{len(fields)} columns are too few: {shorten(' '.join(fields))}")
                continue
            clusters.setdefault(texts.get("cluster", ""), line)
            if len(clusters) > 1:
                first, second = list(clusters)[:2]
                column = self._table.header[self.places["cluster"][0]]
                raise TraceFormatError(
                    f"{self._source.name}, line {line}: {column} is {first!r} before and {second!r} here, and their "
                    f"nodes may share names; choose one with `where` '{column}={first}'"
                )
            for node in self._hosts(line, texts.get("node", "")):
                yield line, texts | {"node": node}

    def _hosts(self, line: int, text: str) -> list[str]:
        """Return the nodes that a text names, which may be a list such as ``gpu-[01-03]``."""
        try:
            return expand_hosts(text) if "[" in text else [text]
        except ValueError as error:
            self._source.fault(line, str(error))
            return []

    def _conditions(self) -> Iterator[tuple[tuple[int, ...], str, bool]]:
        """Yield the columns of each condition, its pattern, and whether rows must fit it or must not."""
        for name, _, pattern in (text.partition("=") for text in self._where):
            fits = not name.endswith("!")
            column = name.removesuffix("!")
            place = int(column) if column.isdecimal() else column
            if fits or self._index(place) is not None:
                yield self._find((place,)), pattern, fits

    def _find(self, parts: tuple[str | int, ...]) -> tuple[int, ...]:
        places = []
        for part in parts:
            index = self._index(part)
            if index is None:
                known = ", ".join(self._table.header[:30]) or "without names"
                raise TraceFormatError(f"{self._source.name}: no column {part!r}; its columns are {known}")
            places.append(index)
        return tuple(places)

    def _index(self, part: str | int) -> int | None:
        return part - 1 if isinstance(part, int) else find_column(part, self._table.header)


def _joined(fields: Sequence[str], places: tuple[int, ...]) -> str:
    return fields[places[0]] if len(places) == 1 else " ".join(fields[place] for place in places)
