"""Pick the rows of a table that count, and the texts in them by the roles that a mapping gives to columns."""

import collections
import fnmatch
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lazsim.errors import LONGEST_LIST, LazsimError, literal, shorten
from lazsim.files.tables import PARQUET, FileTable, read_parquet, read_table
from lazsim.trace.reading.hosts import PART, expand_hosts
from lazsim.trace.reading.mapping import NO_MAPPING, OPTIONAL, Condition, TraceMapping
from lazsim.trace.reading.times import TimeParser, is_date, is_number, is_read_by
from lazsim.trace.source import TraceSource
from lazsim.units import counted

MOST_NAMED = 3
"""Kinds of rows that are left out of which a note tells, the most frequent first."""

KUBE_LABELS = ("condition", "status")
"""Labels of the samples of kube-state-metrics, which a table may have in columns of their own."""

LISTS = ("nodes", "hosts", "machines", "instances", "servers", "nodelist", "hostlist", "hostnames")
"""Names of columns that may list several nodes."""

BETWEEN_HOSTS = re.compile(r"\s+and\s+|[\s;&+/]+")
"""What people write between several nodes in a cell, whose names are alike but for their numbers."""

RANGE_OF_HOSTS = re.compile(r"(\D+)\d+(\s*(-|to)\s*\1\d+|\.\.\1?\d+)|.*[*?].*|all(\s.*)?", re.IGNORECASE)
"""What people write for all nodes from one to another, or for all there are."""

EXPONENT = re.compile(r"\d([.,]\d+)?[Ee]\+\d+", re.ASCII)
"""Long numbers as spreadsheets and JSON show them, with too few digits to tell nodes apart."""


def open_table(source: TraceSource, mapping: TraceMapping = NO_MAPPING) -> FileTable:
    """Read the rows of a file in any form of table, of which a mapping may know more."""
    if source.content.startswith(PARQUET):
        return read_parquet(source.content, source)
    mapping = source.asked.under(mapping)
    return read_table(source.text, source, lambda fields: is_header(fields) and not has_time(fields, mapping))


def is_header(fields: list[str]) -> bool:
    """Return whether a row names columns: none of its texts is a number or a date."""
    return not any(is_number(field) or is_date(field) for field in fields)


def has_time(fields: Sequence[str], mapping: TraceMapping) -> bool:
    """Return whether a row has a time, maybe of a form of its own, in columns that a mapping tells by their numbers."""
    columns = {} if mapping.columns is None else mapping.columns.given()
    try:
        places = [int(part) - 1 for part in columns.get("time", columns.get("start", ()))]
        return bool(places) and is_read_by(TimeParser(mapping, mapping).read, _joined(fields, places))
    except (ValueError, IndexError, OverflowError):
        return False


def find_column(part: str | int, header: tuple[str, ...]) -> int | None:
    """Return the index of a column by its number from 1, or by its name: as it stands, or else by its plain name.

    Examples
    --------
    >>> find_column("prob started", ("nodes", "Prob Started (mm/dd/yy)"))
    1
    """
    if isinstance(part, int):
        return part - 1
    name, names = (part, header) if part in header else (plain_name(part), tuple(map(plain_name, header)))
    return names.index(name) if name in names else None


def plain_name(name: str) -> str:
    """Return a name of a column without case, signs and what is in brackets."""
    return re.sub(r"\(.*\)|[\W_]", "", name.lower())


def choose_rows(table: FileTable, conditions: Iterable[Sequence[Condition]]) -> FileTable:
    """Return a table of the rows that are as conditions ask, of those of its columns; of all rows where none is."""
    places = {one.column: find_column(one.column, table.header) for one in itertools.chain(*conditions)}
    known = [one for one in conditions if any(places[each.column] is not None for each in one)]
    width = max((place + 1 for place in places.values() if place is not None), default=0)
    rows = [row for row in table.rows if len(row.fields) >= width and are_met(known, row.fields, places)]
    return table._replace(rows=rows or table.rows)


def are_met(
    conditions: Iterable[Sequence[Condition]], fields: Sequence[str], places: Mapping[str | int, int | None]
) -> bool:
    """Return whether a row is as conditions ask, of each of which one must hold; `places` are those of columns."""
    texts = {column: None if place is None else fields[place] for column, place in places.items()}
    return all(any(condition.holds(texts[condition.column]) for condition in one) for one in conditions)


class MappedRows:
    """The rows of a table that count: their texts by the roles of columns, once for each node that a row lists."""

    def __init__(self, source: TraceSource, table: FileTable, mapping: TraceMapping) -> None:
        assert mapping.columns is not None, "the mapping names the columns"
        self._source, self._table = source, table
        self.places = {
            role: self._find(parts)
            for role, parts in mapping.columns.given().items()
            if role != "nodes" and (role not in OPTIONAL or None not in map(self._index, parts))
        }
        """The indices of the columns of each role, but for those of samples of a node each."""
        if "value" in self.places and None not in map(self._index, KUBE_LABELS):
            self.places |= {label: self._find((label,)) for label in KUBE_LABELS}
        self.is_sampled = mapping.columns.nodes is not None or mapping.columns.value is not None
        """Whether they are of samples."""
        self.nodes = self._find_nodes(mapping.columns.given().get("nodes", ()))
        """The names of the columns with the samples of a node, by their indices."""
        self._conditions = mapping.conditions()
        self._left_out = collections.Counter[str]()
        self.rows = list(self._chosen())
        """The line of each, and its texts by role."""
        if not self.rows and self._left_out and mapping.cluster_nodes is None:
            num = self._left_out.total()
            raise source.refuse(
                "", f"none of its {num} rows has {self._asked()}; change `where`, or give `cluster_nodes`"
            )

    def notes(self) -> list[str]:
        """Return notes on names of parts of nodes, and on rows that are left out."""
        notes = []
        names = itertools.chain(self.nodes.values(), (texts.get("node", "") for _, texts in self.rows))
        if found := next(filter(None, map(PART.fullmatch, names)), None):
            is_part = "names a part: a node is gone while one of its parts is; write a whole node without ':'"
            is_node = f"is taken for a node; a part of one is written as {found[1]}:{found[3]}0"
            notes.append(f"{shorten(found[0])!r} {is_part if found[2] == ':' else is_node}")
        for one in self._conditions:
            if len(one) > 1 and self._lacks(one):
                columns = " or ".join(sorted({str(condition.column) for condition in one}))
                notes.append(f"no column {columns}, by which some rows are left out: all count")
        if self._left_out:
            num = counted(self._left_out.total(), "row is", "rows are")
            most = ", ".join(f"{number:,} with {what}" for what, number in self._left_out.most_common(MOST_NAMED))
            others = f", {len(self._left_out) - MOST_NAMED:,} others" if len(self._left_out) > MOST_NAMED else ""
            notes.append(f"{num} left out ({most}{others}): only those with {self._asked()} count")
        return notes

    def labels(self) -> Iterator[Condition]:
        """Yield the conditions that are of labels of samples."""
        return itertools.chain(*filter(self._is_of_labels, self._conditions))

    def header(self, role: str) -> str:
        """Return the names of the columns of a role."""
        return " ".join(name for place in self.places[role] for name in self._table.header[place : place + 1])

    def _chosen(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line and the texts by role of the rows that count."""
        wanted = [one for one in self._conditions if not self._is_of_labels(one)]
        self._find(tuple(one[0].column for one in wanted if len(one) == 1 and one[0].is_wanted))
        places = {one.column: self._index(one.column) for one in itertools.chain(*wanted)}
        named = range(len(self._table.header))
        used = {*itertools.chain(*self.places.values()), *self.nodes}
        decide = {place for place in places.values() if place is not None}
        may_be_cut = sorted((used | decide).intersection(named)) if self._table.may_be_cut else ()
        # A text with separators that is not quoted moves the cells behind it, of which none may count.
        spills = len(named) > max(used) >= min({*named} - used, default=0)
        first_cluster = None
        for line, fields in self._table.rows:
            if spills and any(fields[len(named) :]):
                cells = f"{len(fields)} cells, and the header has {len(named)}"
                self._source.fault(line, f"{cells}; quote texts with separators in them")
                continue
            try:
                for cut in (fields[place] for place in may_be_cut if fields[place].endswith("+")):
                    what = f"{shorten(cut)!r} is cut to the width of its column; write all of it, as Slurm does with -P"
                    self._source.fault(line, what, "take texts that are cut as they stand")
                if not are_met(wanted, fields, places):
                    column = next(one[0].column for one in wanted if not are_met([one], fields, places))
                    place = places[column]
                    self._left_out[f"{column} {shorten(fields[place]) if place is not None else 'missing'}"] += 1
                    continue
                texts = {role: _joined(fields, places) for role, places in self.places.items()}
                texts |= {str(index): fields[index] for index in self.nodes}
            except IndexError:
                self._source.fault(line, f"{counted(len(fields), 'column')}, too few: {shorten(' '.join(fields))!r}")
                continue
            cluster = texts.get("cluster", "")
            first_cluster = cluster if first_cluster is None else first_cluster
            if cluster != first_cluster:
                raise self._several_clusters(line, first_cluster, cluster)
            if "node" not in texts:
                yield line, texts
                continue
            for node in self._hosts(line, texts["node"]):
                yield line, texts | {"node": node}

    def _several_clusters(self, line: int, first: str, second: str) -> LazsimError:
        """Return the error that rows are of two clusters, whose nodes may have the same names."""
        place = self.places["cluster"][0]
        column = self.header("cluster") or str(place + 1)
        otherwise = "a name is of one node in both, give `columns` without it"
        if "count" in self.places:
            otherwise = "each row counts all nodes, give `columns`, such as time=1,count=2"
        what = f"{column} is {first!r} before and {second!r} here, and each has nodes of its own; "
        return self._source.refuse(line, f"{what}choose one with `where` '{column}={first}', or if {otherwise}")

    def _asked(self) -> str:
        told = ", ".join(" or ".join(map(str, one)) for one in self._conditions)
        columns = dict.fromkeys(str(condition.column) for one in self._conditions for condition in one)
        return told if len(told) <= LONGEST_LIST else f"{', '.join(columns)} as the mapping says"

    def _hosts(self, line: int, text: str) -> list[str]:
        """Return the nodes that a text names, which may be a list such as ``gpu-[01-03]`` or ``gpu-01,gpu-02``."""
        try:
            is_list = " " in text and plain_name(self.header("node")) in LISTS
            if is_list or _are_several(text):
                raise ValueError(f"{shorten(text)!r} may be several nodes; write gpu-01,gpu-02, or a row for each")
            if EXPONENT.fullmatch(text):
                raise ValueError(f"{shorten(text)!r} is rounded, as spreadsheets show long numbers; save all digits")
            return expand_hosts(text) if re.search(r"[\[,]", text) and "{" not in text else [text]
        except ValueError as error:
            self._source.fault(line, str(error))
            return []

    def _lacks(self, conditions: Sequence[Condition]) -> bool:
        """Return whether the table has none of the columns of conditions."""
        return all(self._index(condition.column) is None for condition in conditions)

    def _is_of_labels(self, conditions: Sequence[Condition]) -> bool:
        """Return whether conditions are of labels of samples, since there is no such column."""
        return self.is_sampled and self._lacks(conditions)

    def _find_nodes(self, patterns: tuple[str | int, ...]) -> dict[int, str]:
        """Return the names of the columns that are nodes by their indices."""
        others = {index for places in self.places.values() for index in places}
        found = {
            index: name
            for index, name in enumerate(self._table.header)
            if index not in others and any(fnmatch.fnmatchcase(name, str(pattern)) for pattern in patterns)
        }
        if patterns and not found:
            self._find(patterns)
        return found

    def _find(self, parts: tuple[str | int, ...]) -> tuple[int, ...]:
        places = []
        for part in parts:
            index = self._index(part)
            if index is None:
                known = ", ".join(map(literal, self._table.header[:30])) or "without names"
                raise self._source.refuse("", f"no column {part!r}; its columns are {known}")
            places.append(index)
        return tuple(places)

    def _index(self, part: str | int) -> int | None:
        return find_column(part, self._table.header)


@functools.lru_cache(1 << 12)
def _are_several(text: str) -> bool:
    """Tell whether a text may name several nodes, but not in a way that tells each."""
    parts = BETWEEN_HOSTS.split(text)
    is_numbered = len(parts) > 1 and re.search(r"[A-Za-z].*\d", parts[0]) is not None
    are_alike = is_numbered and len({re.sub(r"\d+", "0", part) for part in parts}) == 1
    return are_alike or ("{" not in text and RANGE_OF_HOSTS.fullmatch(text) is not None)


def _joined(fields: Sequence[str], places: Sequence[int]) -> str:
    return fields[places[0]] if len(places) == 1 else " ".join(fields[place] for place in places)
