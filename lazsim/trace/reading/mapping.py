"""Meaning of the columns of a table of nodes that come and go: read from TOML, or given as options."""

import fnmatch
import itertools
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from lazsim.errors import SpecError, prefix_errors, shorten
from lazsim.files.decoding import convert
from lazsim.files.reading import read_lines
from lazsim.limits import MAX_NODES
from lazsim.specs import Spec, read_spec_bytes, read_toml
from lazsim.specs.record import Count, NumNodes
from lazsim.trace.reading.hosts import expand_hosts
from lazsim.units import UNITS_S

ColumnRef = str | Count | tuple[str | Count, ...]
"""A column by its name, or by its number from 1; the texts of several are joined by a space."""

LOSSES = ("node", "start")
SHAPES: tuple[tuple[str, ...], ...] = (
    ("time", "count"), ("time", "event", "node"), ("node", "start", "end"), ("node", "start", "duration"),
    ("node", "start", "end", "duration"), LOSSES, ("time", "node", "value"), ("time", "nodes"),
)  # fmt: skip
"""Roles of the columns that a table must have: live counts, events, outages, losses or samples."""

JOIN_DAY = "if another column has the day, join both in `columns`, as time=day+clock"
"""The way to dates from a column without days."""

HEADS = ("name", "node", "nodename", "nodelist", "host", "hostname", "hostnames")
"""First words of lists of nodes that are no node, as `kubectl get nodes` and `sinfo -N` have them; small letters."""

OPTIONAL = ("cluster", "cluster_nodes")
"""Roles of columns that count only where the table has them."""


class Columns(Spec, frozen=True, kw_only=True):
    """The columns of one shape: live counts, events of nodes, outages of nodes, or samples of nodes."""

    time: ColumnRef | None = None
    count: ColumnRef | None = None
    """Live counts: when, and the number of nodes alive."""
    event: ColumnRef | None = None
    node: ColumnRef | None = None
    """Events: with `time`, what happened to which node."""
    start: ColumnRef | None = None
    end: ColumnRef | None = None
    """Outages: with `node`, from when to when it was away. An empty end, or a word such as ``Unknown``, is an outage
    that goes on, as all do in a table without ends."""
    duration: ColumnRef | None = None
    """In place of `end`, or where that is empty, for how long: a number, or text such as ``2.5h`` or ``1 02:03:04``."""
    value: ColumnRef | None = None
    """Samples: with `time` and `node`, 1 or a word such as ``up`` where it is there, 0 or one such as ``down`` where it
    is gone. It is also gone at the times at which it has no sample, though other nodes have."""
    nodes: ColumnRef | None = None
    """In place of `node` and `value`, by patterns such as ``gpu-*``, the columns that each have the samples of the node
    in their header."""
    cluster: ColumnRef | None = None
    """Optional: what must be the same in all rows, since node names repeat from cluster to cluster."""
    cluster_nodes: ColumnRef | None = None
    """Optional: the number of nodes of the cluster."""

    def __post_init__(self) -> None:
        if set(self.given()) - set(OPTIONAL) not in map(set, SHAPES):
            raise ValueError(f"name the columns of one shape: {'; '.join(', '.join(shape) for shape in SHAPES)}")

    def given(self) -> dict[str, tuple[str | int, ...]]:
        """Return the columns whose texts are joined, by role, of the roles that are given."""
        columns = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: one if isinstance(one, tuple) else (one,) for name, one in columns.items() if one is not None}


class Condition(NamedTuple):
    """A pattern that the text of a column of a table, or of a label of a series, must fit, or must not."""

    column: str | int
    pattern: str
    is_wanted: bool

    def __str__(self) -> str:
        return f"{self.column}{'' if self.is_wanted else '!'}={self.pattern}"

    def holds(self, text: str | None) -> bool:
        """Return whether a text, in any case, is as the condition says; None is that of a column that is not there."""
        is_found = text is not None and fnmatch.fnmatchcase(text.lower(), self.pattern.lower())
        return is_found == self.is_wanted


class TraceMapping(Spec, frozen=True, kw_only=True):
    """Rules for reading a table; the options of ``lazsim trace info`` mean the same."""

    columns: Columns | None = None
    """Columns by role; guessed from the header when not given."""
    num_columns: Count | None = None
    """Number of columns of a file without a header, by which it is recognised."""
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    """Words of the `event` column, in any case, besides the usual ones; rows with a word to ignore change nothing."""
    states: bool | None = None
    """Whether an event is the state of a node from then on: a repeated one changes nothing, and a node that is first
    seen to go was there from the start. By default, whether words other than add and remove are used."""
    where: tuple[str | tuple[str, ...], ...] = ()
    """``COLUMN=PATTERN`` each: only rows with such a text count, in any case; ``*`` and ``?`` stand for any characters,
    ``[ab]`` for one of some. ``COLUMN!=PATTERN``: only rows with another text, or without that column. One of a list
    must hold."""
    time_unit: str | None = None
    """Unit of times and durations that are numbers: ``ns``, ``us``, ``ms``, ``s``, ``min``, ``h`` or ``d``."""
    time_format: tuple[str, ...] = ()
    """Formats of times other than ISO's, as ``strptime`` has them; the first that fits counts."""
    time_zone: str | None = None
    """Zone of times that name none, such as ``America/New_York``."""
    cluster_nodes: NumNodes | tuple[str, ...] | None = None
    """Number of nodes of the cluster, or names in their order, if the file names only those to which something
    happened. Names may be lists of hosts, such as ``gpu-[01-16]``; nodes that are not among them are left out."""

    span: tuple[str, str] | None = None
    """From when to when nodes were observed, as the file writes times, where it has only what happened to them; an
    empty text is the first or last time in the file."""

    def __post_init__(self) -> None:
        if isinstance(self.cluster_nodes, tuple):
            try:
                names = dict.fromkeys(itertools.chain.from_iterable(map(expand_hosts, self.cluster_nodes)))
            except ValueError as error:
                raise ValueError(f"`cluster_nodes` {error}") from None
            if not 0 < len(names) <= MAX_NODES:
                raise ValueError(f"`cluster_nodes`: {len(names):,} names; give 1 to {MAX_NODES:,}")
            msgspec.structs.force_setattr(self, "cluster_nodes", tuple(names))
        if self.time_unit is not None and self.time_unit not in UNITS_S:
            raise ValueError(f"`time_unit` {self.time_unit!r}: give one of {', '.join(UNITS_S)}")
        for time_format in self.time_format:
            try:
                datetime.strptime("", time_format)
            except re.error as error:
                raise ValueError(f"`time_format` {time_format!r}: {error}") from None
            except ValueError:
                # No time is as an unknown part says, which the first row tells.
                pass
            if not re.search(DAY, time_format):
                raise ValueError(f"`time_format` {time_format!r} has no day, as in %d/%m/%Y %H:%M; {JOIN_DAY}")
            if ("%p" in time_format) != ("%I" in time_format):
                raise ValueError(f"`time_format` {time_format!r}: %I, hours up to 12, and %p, AM or PM, go together")
        self.conditions()

    def conditions(self) -> list[tuple[Condition, ...]]:
        """Return the conditions of `where`, of each of which one must hold; a ValueError says that one is none."""
        texts = [(one,) if isinstance(one, str) else one for one in self.where]
        return [tuple(map(_condition, one)) for one in texts]

    def given(self) -> list[str]:
        """Return the names of the fields that are not at their defaults."""
        return [name for name in self.__struct_fields__ if getattr(self, name) not in (None, ())]

    def under(self, base: "TraceMapping") -> "TraceMapping":
        """Return a mapping with the fields that are given here, and all others of `base`."""
        return msgspec.structs.replace(base, **{name: getattr(self, name) for name in self.given()})


NO_MAPPING = TraceMapping()

DAY = r"%[djxc]|%[UWV].*%[waAu]|%[waAu].*%[UWV]"
"""Parts of a time format that say which day it is."""

MOST_DIGITS = 20
"""Digits of a number that are read: with more it is refused all the same."""


def refuse_mapping(name: str, mapping: TraceMapping, trace_format: str) -> None:
    """Raise SpecError where a trace is made by a recipe, so that no file is read, but it is said how to read one."""
    for field in [*mapping.given(), *(["trace_format"] if trace_format != "auto" else [])]:
        raise SpecError(f"{name}: a recipe has no use for `{field}`; leave it out")


def load_mapping(name: str) -> TraceMapping:
    """Read a mapping of the catalogue, or a path that ends in ``.toml``."""
    return read_toml(name, read_spec_bytes("mappings", name), TraceMapping)


def make_mapping(
    *,
    columns: str | None = None,
    where: str | Sequence[str] = (),
    time_unit: str | None = None,
    time_format: str | None = None,
    time_zone: str | None = None,
    cluster_nodes: int | str | None = None,
    span: str | None = None,
    folder: Path = Path(),
) -> TraceMapping:
    """Make a mapping of the texts of options.

    `cluster_nodes` may be a number, a list of hosts, or a file with a name on each line, whose path begins at `folder`;
    `span` is ``FROM..TO``.

    Raises
    ------
    SpecError
        When one cannot be understood.

    Examples
    --------
    >>> make_mapping(columns="time=1,count=live", time_unit="s").given()
    ['columns', 'time_unit']
    """
    fields = {
        "columns": None if columns is None else parse_columns(columns),
        "where": (where,) if isinstance(where, str) else tuple(where),
        "time_unit": time_unit,
        "time_format": () if time_format is None else (time_format,),
        "time_zone": time_zone,
        "cluster_nodes": parse_nodes(cluster_nodes, folder) if isinstance(cluster_nodes, str) else cluster_nodes,
        "span": None if span is None else parse_span(span),
    }
    return convert(fields, TraceMapping)


def _condition(text: str) -> Condition:
    before, equals, pattern = text.partition("=")
    column = _column(before.removesuffix("!"))
    if not equals or column == 0:
        raise ValueError(f"`where` {text!r}: write COLUMN=PATTERN, with the name of a column or its number from 1")
    return Condition(column, pattern, not before.endswith("!"))


def _column(text: str) -> str | int:
    """Return the number of a column, or its name."""
    return int(text[:MOST_DIGITS]) if text.isdecimal() else text


def parse_nodes(text: str, folder: Path) -> int | tuple[str, ...]:
    """Read how many nodes there are, or their names, from the text itself or the file that it names."""
    if text.isdecimal():
        return int(text[:MOST_DIGITS])
    if re.fullmatch(r"[-+]?\d*\.?\d+", text):
        raise SpecError(f"`cluster_nodes` {text}: give a whole number from 1 up, or names of nodes")
    if not os.path.exists(path := str(folder / text)):
        return (text,)
    lines = read_lines("`cluster_nodes`", path, "names of hosts, a line each")
    hosts = tuple(words[0] for line in lines if (words := line.partition("#")[0].split()))
    num_commas = {re.sub(r"\[.*?\]", "", host).count(",") for host in hosts}
    if len(hosts) > 1 and (hosts[0].lower() in HEADS or (len(num_commas) == 1 and num_commas != {0})):
        raise SpecError(f"`cluster_nodes` {text}: seems a table; give names of nodes alone, without a header")
    return hosts


def parse_span(text: str) -> tuple[str, str]:
    """Read ``FROM..TO``, of which one may be empty."""
    begin, between, end = (part.strip() for part in text.partition(".."))
    if not between or not (begin or end):
        raise SpecError(f"`span` {shorten(text)!r}: write FROM..TO, as 2025-01-01..2025-06-30")
    return begin, end


def parse_columns(text: str) -> Columns:
    """Read ``ROLE=COLUMN,...``, in which ``+`` joins columns; one that is a whole number counts from 1.

    Examples
    --------
    >>> parse_columns("time=day+clock,count=3").given()
    {'time': ('day', 'clock'), 'count': (3,)}
    """
    columns: dict[str, ColumnRef] = {}
    for role, _, column in (pair.partition("=") for pair in text.split(",")):
        parts = tuple(_column(part.strip()) for part in column.split("+"))
        columns[role.strip()] = parts if len(parts) > 1 else parts[0]
    with prefix_errors(f"`columns` {shorten(text)}"):
        return convert(columns, Columns)
