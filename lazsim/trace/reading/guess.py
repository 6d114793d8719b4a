"""Guess what the columns of a table are, from the header or from what stands in them."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from lazsim.errors import TraceFormatError, first_names, literal, shorten
from lazsim.files.tables import FileTable
from lazsim.trace.reading.columns import (
    COUNTED,
    FINAL_WORDS,
    LIVES,
    NAMES,
    OUTAGES,
    PLACES,
    TableColumn,
    are_gone,
    header_of,
    is_event,
    is_of_losses,
    kind_of,
    most,
    role_of_dates,
    table_columns,
)
from lazsim.trace.reading.mapping import JOIN_DAY, LOSSES, SHAPES, Columns
from lazsim.trace.reading.times import is_date, is_number, split_unit
from lazsim.trace.reading.words import EVENT_NEEDED
from lazsim.trace.source import GUESSED
from lazsim.units import counted

ANY_WORDS = {"name", "series", "metric"}
"""Words of the names of columns that may name nodes, or anything else that is lost."""

OTHER_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}\b")
"""Begin of a date, of ISO 8601 or not."""

NEEDED = {"count": "number of nodes; give whole ones", "event": EVENT_NEEDED}
"""What some roles need in their columns."""

LONGEST_NAMES = 100
"""Characters of the names of columns in a message, which is not read if it is long."""

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
        return len(self.span) > 1 and not OUTAGES.search(header_of([*self.span, *names]))

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
    columns = table_columns(table)
    guesses = (Guess(roles, columns, fit) for way, fit in WAYS.items() if (roles := way(columns)))
    if guess := next(guesses, None):
        return guess._replace(roles=_with_cluster(guess))
    names = first_names([literal(shorten(name)) for name in table.header], LONGEST_NAMES) or "without names"
    if short := next((row for row in table.rows if len(row.fields) < len(table.header)), None):
        cells = counted(len(short.fields), "cell")
        raise TraceFormatError(f"line {short.line} has {cells}, and the header {len(table.header)} ({names}); mend it")
    raise TraceFormatError(_explain(columns, names))


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
        if any(is_of_losses(column.name) for column in columns):
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
        if not (name and column.texts and column.is_sampled) or column.role or is_event(name) or is_of_losses(name):
            return None
    return Columns(time=times[0].place, nodes="*")


def _by_content(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell the columns of a table that has no others by what stands in them.

    Under a header, a number may count anything, and two dates may be the life of an instance: the names must tell.
    """
    if not all(column.texts for column in columns):
        return None
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
    if role_of_dates(columns[times[0] - 1].words):
        return None  # A column of states beside when nodes failed may have those of today.
    event = kinds.index("word") + 1
    node = columns[5 - times[0] - event]
    return Columns(time=times[0], event=event, node=node.place) if node.role in ("", "node") else None


def _by_loss(columns: Sequence[TableColumn]) -> Columns | None:
    """Tell a node and when it went, where nothing says when it came."""
    nodes = [column for column in columns if column.role == "node" and column.texts]
    dates = [column for column in columns if column.has_dates]
    came = any(column.kind == "word" and not are_gone(column.texts) for column in columns)
    if len(nodes) != 1 or len(dates) != 1 or came or LIVES.search(header_of(columns)) or nodes[0].words <= ANY_WORDS:
        return None
    return Columns(node=nodes[0].place, start=dates[0].place) if role_of_dates(dates[0].words) == "start" else None


def _with_cluster(guess: Guess) -> Columns:
    """Add a column of places, in two of which a node has the same name, as that of clusters."""
    if (node := guess.of("node")) is None:
        return guess.roles
    for other in (one for one in guess.others if one.role == "cluster" and one.words & PLACES and one.texts):
        if are_several({pair for pair in zip(node.texts, other.texts, strict=True) if pair[1]}):
            return msgspec.structs.replace(guess.roles, cluster=other.place)
    return guess.roles


def are_several(pairs: Collection[tuple[str, str]]) -> bool:
    """Return whether a node is in several of pairs, each of a node and a text."""
    return len(pairs) > len({name for name, _ in pairs})


WAYS = {_by_name: GUESSED, _by_node: UNNAMED, _by_content: UNNAMED, _by_loss: UNNAMED}
"""Ways to tell columns, of which the first that does counts, and how well the table fits then."""


def _explain(columns: Sequence[TableColumn], names: str) -> str:
    """Return why nothing tells the columns of a table, and what is needed."""
    if not any(column.texts for column in columns):
        return f"no row follows the header ({names}); give a trace with at least one node event"
    roles = [column.role for column in columns]
    are_told = any(set(shape) <= {*roles} for shape in SHAPES if shape != LOSSES)
    for column in (column for column in columns if are_told and column.role in NEEDED):
        if column.role == "event" and "node" in roles and most(column.texts, is_number):
            return (
                f"column {column.name!r} has 0 or 1, and nothing says which is a loss; give `columns` with value="
                f"{column.name} if 1 is a node that is there, or a mapping that has both in `add` and `remove`"
            )
        others = (text for text in column.texts if text and kind_of([text]) not in KINDS[column.role])
        if other := next(others, ""):
            return f"column {column.name!r} has {shorten(other)!r}, which is no {NEEDED[column.role]}"
    for column in columns:
        text = next(iter(column.texts), "")
        if column.name and OTHER_DATE.match(text) and not is_date(text):
            return (
                f"column {column.name!r} has {shorten(text)!r}, which is no date of ISO 8601; give `time_format`, such "
                "as '%m/%d/%Y %H:%M', and `columns`, such as node=host,start=from,end=to"
            )
    are_lives = LIVES.search(header_of(columns)) is not None and OUTAGES.search(header_of(columns)) is None
    lives = "; if rows say from when to when a node was there, give two rows of each, as of one that is up and down"
    return (
        f"its columns ({names}) do not tell which nodes come and go; give `columns`, such as time=1,count=2, "
        "time=when,event=what,node=host, node=host,start=from,end=to (duration=for, or neither for losses), or of "
        "samples time=when,nodes=gpu-* (or node=host,value=up)"
        + lives * are_lives
        + f"; {JOIN_DAY}" * (roles.count("time") > 1)
    )
