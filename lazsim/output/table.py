"""Tables as text, for a terminal of any width.

A report is a list of parts: a `Table` of data, or a paragraph, which is a text or a list of lines. `render` writes them
no wider than the terminal. A table that is too wide first wraps its headings, then its texts, then long names; then it
is cut into blocks of columns that repeat the keys; and where even a block is too wide, each row becomes a short list.
No width loses a column, a row, a letter or a digit.
"""

import itertools
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len, chop_cells

from lazsim.errors import printable
from lazsim.units import share_text

if TYPE_CHECKING:
    from lazsim.study.intervals import Interval

PIPED_WIDTH = 80
MIN_WIDTH = 20
"""Columns below which a terminal is treated as this wide."""

MISSING = "-"
INDENT = "  "
GAPS = (2, 1)
"""Blanks between columns; one where that keeps a table in one piece."""

MIN_TEXT = 18
"""Columns that a wrapped text gets at least."""

MIN_NAMES = (16, 8)
"""Columns to which names are wrapped: so that the table stays in one piece, or so that a block fits at all."""

BREAKS = r"_/"
BREAKS_OF_NAMES = r"_/.:-"
"""Characters behind which headings and names may wrap, beside spaces."""

Kind = Literal["number", "name", "text"]
Format = str | Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    """Text above the column; it may wrap at spaces and `BREAKS`."""
    format: Format = ""
    """Rule that turns a value into text: a format specification such as ``",.1f"``, or a function. Text is taken as it
    is; None and NaN become ``-``."""
    kind: Kind = "number"
    """A number is never broken; a name wraps where room is scarce, also behind ``-`` and the like; a text at spaces."""
    is_key: bool = False
    """Whether it tells the rows apart: it is repeated where the table is cut."""
    has_name: bool = False
    """Whether the heading is a name, such as that of a system."""
    of: str | Callable[[Any], Any] = ""
    """Path by which `Table.of` takes the value from the object of a row: dotted attributes or keys, or a function. By
    default it is the heading, with ``_`` for a blank."""


def key(
    heading: str,
    format: Format = "",  # noqa: A002 - as in Column
    kind: Kind = "name",
    of: str | Callable[[Any], Any] = "",
) -> Column:
    """Return a column that tells rows apart; a number such as a count of failures is of the kind ``"number"``."""
    return Column(heading, format, kind, is_key=True, of=of)


@dataclass(frozen=True)
class Table:
    """Data to be written as a table."""

    columns: Sequence[Column]
    """Columns; text is the heading of a column of numbers. Without any heading the table has no head."""
    rows: Sequence[Sequence[Any]]
    """A value or a text for each column."""
    title: str = ""
    """A line above."""
    notes: Sequence[str] = ()
    """Lines below."""

    @classmethod
    def of(
        cls, things: Iterable[Any], columns: Sequence[Column], title: str = "", notes: Sequence[str] = ()
    ) -> "Table":
        """Return a table with a row for each thing, of which each column has what its `of` says.

        Of a mapping, the first column has the names.

        Examples
        --------
        >>> print(render([Table.of([3 + 4j, 1j], [key("number", of=str), Column("imaginary", ".1f", of="imag")])]))
        number  imaginary
        (3+4j)        4.0
        1j            1.0
        """
        paths = [one.of or one.heading.replace(" ", "_") for one in columns]
        values = [partial(_part_of, path.split(".")) if isinstance(path, str) else path for path in paths]
        if isinstance(things, Mapping):
            named = [[name, *(value(thing) for value in values[1:])] for name, thing in things.items()]
            return cls(columns, named, title, notes)
        return cls(columns, [[value(thing) for value in values] for thing in things], title, notes)


def _part_of(names: Sequence[str], thing: Any) -> Any:
    """Return what a thing has under a name, and so on; None where one on the way is."""
    for name in names:
        thing = thing[name] if isinstance(thing, Mapping) else None if thing is None else getattr(thing, name)
    return thing


def facts(rows: Iterable[tuple[str, str]], title: str = "") -> Table:
    """Return a table without a head: a name and a text in each row."""
    return Table([key("", kind="text"), Column("", kind="text")], list(rows), title)


Part = Table | Sequence[str]
"""A table, or a paragraph: a text, or a list of its lines."""


def terminal_width() -> int:
    """Return the columns of the terminal behind stdout, or `PIPED_WIDTH` where there is none."""
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if sys.stdout.isatty() else PIPED_WIDTH


def render(parts: Iterable[Part], width: int | None = None) -> str:
    r"""Write the parts of a report, a blank line between them; a table without rows is left out.

    The lines of a paragraph stay apart, and too long ones are wrapped to the width, by default that of the terminal.
    What a name or a file has in them begins no other line.

    Examples
    --------
    >>> print(render([["policy a\nb.py:own", "moves 3"]]))
    policy a\nb.py:own
    moves 3
    >>> columns = [key("system"), Column("samples", ","), Column("lost steps"), Column("goodput, samples/s", ".2f")]
    >>> table = Table(columns, [["lazarus", 12345, 7, 2.571], ["ds", 8000, 93, None]], title="what 80 min gave")
    >>> print(render([table]))
    what 80 min gave
    system   samples  lost steps  goodput, samples/s
    lazarus   12,345           7                2.57
    ds         8,000          93                   -
    >>> print(render([table], width=36))
    what 80 min gave
                       lost   goodput,
    system   samples  steps  samples/s
    lazarus   12,345      7       2.57
    ds         8,000     93          -
    >>> print(render([table], width=24))
    what 80 min gave
                       lost
    system   samples  steps
    lazarus   12,345      7
    ds         8,000     93
    <BLANKLINE>
              goodput,
    system   samples/s
    lazarus       2.57
    ds               -
    """
    width = max(MIN_WIDTH, terminal_width() if width is None else width)
    blocks = [_table(part, width) if isinstance(part, Table) else _paragraph(part, width) for part in parts]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text at spaces, and within words only where a word is wider than a line; later lines are indented.

    Examples
    --------
    >>> wrap("no plan for the survivors", 12, indent="  ")
    ['no plan for', '  the', '  survivors']
    """
    return _fill(re.findall(r"\s*\S+", text), width, indent) or [""]


def _fill(pieces: Sequence[str], width: int, indent: str = "") -> list[str]:
    """Fill lines with pieces, which begin with the space before them."""
    lines: list[str] = []
    for piece in pieces:
        if lines and cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
            continue
        start, text = (indent, piece.lstrip()) if lines else ("", piece)
        is_whole = cell_len(start + text) <= width
        first, *others = [text] if is_whole else chop_cells(text, width - len(indent))
        lines.append(start + first)
        lines += (indent + other for other in others)
    return lines


def _pieces(text: str, breaks: str) -> list[str]:
    """Cut a text where it may wrap."""
    return re.findall(rf"\s*(?:[^\s{breaks}]+[{breaks}]*|[{breaks}]+)", text)


def _paragraph(part: Sequence[str], width: int) -> list[str]:
    lines = map(printable, [part] if isinstance(part, str) else part)
    return [line for one in lines for line in ([one] if cell_len(one) <= width else wrap(one, width, "  "))]


def cell_text(value: Any, form: Format) -> str:
    """Write a value of a column."""
    if isinstance(value, str):
        return printable(" ".join(value.split()))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return form(value) if callable(form) else number_text(value, form)


def number_text(value: Any, form: str) -> str:
    """Write a number, with all of its whole digits where it has more than a format like ``.3g`` keeps.

    Examples
    --------
    >>> number_text(4239.7, ".3g"), number_text(42.397, ".3g"), number_text(127810.4, ",.4g"), number_text(7e-6, ".3g")
    ('4,240', '42.4', '127,810', '7e-06')
    """
    if form.endswith("%") and not form.startswith("+"):
        return share_text(value, form)
    kept = re.fullmatch(r",?\.(\d+)g", form)
    is_longer = kept and 10 ** int(kept[1]) - 0.5 <= abs(value) < math.inf
    return format(value, ",.0f" if is_longer else form)


@dataclass(frozen=True)
class _Strip:
    """A column with its cells as text."""

    column: Column
    cells: Sequence[str]

    def lines(self, width: int) -> list[list[str]]:
        """Return the lines of the heading and of each cell; they are wider where they cannot be as narrow."""
        heading = _fill(self.pieces, width if self.column.has_name else max(width, *map(_width, self.pieces), 0))
        if self.column.kind == "text":
            # What tells rows apart must not read as another row.
            indent = INDENT if self.column.is_key else ""
            return [heading, *(wrap(cell, width, indent) for cell in self.cells)]
        if self.column.kind == "name":
            return [heading, *(_fill(_pieces(cell, BREAKS_OF_NAMES), width, INDENT) or [""] for cell in self.cells)]
        return [heading, *([cell] for cell in self.cells)]

    def used(self, width: int) -> int:
        """Return the part of a width that the column uses; more where it cannot be as narrow."""
        return max((cell_len(line) for lines in self.lines(width) for line in lines), default=0)

    def needed(self, num_lines: int) -> int:
        """Return the width at which cells are whole, and the heading has no more than a number of lines."""
        heading = max(map(_width, self.pieces), default=0)
        while len(_fill(self.pieces, heading)) > num_lines:
            heading += 1
        return max(heading, *map(cell_len, self.cells), 0)

    @property
    def pieces(self) -> list[str]:
        """The heading, cut where it may wrap."""
        return _pieces(self.column.heading, BREAKS_OF_NAMES if self.column.has_name else BREAKS)


def _width(piece: str) -> int:
    return cell_len(piece.strip())


def _table(table: Table, width: int) -> list[str]:
    if not table.rows:
        return []
    columns = [replace(one, heading=printable(one.heading)) for one in table.columns]
    rows = [[cell_text(value, one.format) for value, one in zip(row, columns, strict=True)] for row in table.rows]
    strips = [_Strip(one, [row[index] for row in rows]) for index, one in enumerate(columns)]
    head = wrap(printable(table.title), width, INDENT) if table.title else []
    notes = (line for text in table.notes for line in wrap(printable(text), width, INDENT))
    return [*head, *_body(strips, width), *notes]


def _body(strips: Sequence[_Strip], width: int) -> list[str]:
    for min_name, gap in itertools.product((width, MIN_NAMES[0]), GAPS if strips else ()):
        if widths := _fit(strips, width, gap, min_name):
            return _write(strips, widths, gap)
    keys = [one for one in strips if one.column.is_key]
    for min_name in MIN_NAMES:
        if blocks := _blocks(keys, strips, width, min_name):
            fits = [_fit(block, width, GAPS[0], min_name) for block in blocks]
            # Keys look the same in every block.
            key_widths = [min(sizes) for sizes in zip(*(widths[: len(keys)] for widths in fits), strict=True)]
            lines: list[str] = []
            for block, widths in zip(blocks, fits, strict=True):
                lines += ["", *_write(block, [*key_widths, *widths[len(keys) :]], GAPS[0])]
            return lines[1:]
    return _records(keys, strips, width)


def _blocks(keys: list[_Strip], strips: Sequence[_Strip], width: int, min_name: int) -> list[list[_Strip]]:
    """Give columns to blocks, as many to each as fit beside the keys; no blocks where one column does not fit."""
    blocks: list[list[_Strip]] = []
    for one in strips:
        if one.column.is_key:
            continue
        if blocks and _fit([*blocks[-1], one], width, GAPS[0], min_name):
            blocks[-1].append(one)
        elif _fit([*keys, one], width, GAPS[0], min_name):
            blocks.append([*keys, one])
        else:
            return []
    return blocks


def _fit(strips: Sequence[_Strip], width: int, gap: int, min_name: int) -> list[int]:
    """Return the width of each column, with as few lines of headings as fit; empty where nothing fits."""
    room = width - gap * (len(strips) - 1)
    needed: list[int] = []
    for num_lines in range(1, max(1, *(len(one.pieces) for one in strips)) + 1):
        needed = [one.needed(num_lines) for one in strips]
        if sum(needed) <= room:
            return needed
    narrow = [one.used(MIN_TEXT if one.column.kind == "text" else min_name) for one in strips]
    least = [min(need, low) for need, low in zip(needed, narrow, strict=True)]
    # Short columns get all that they need; wide ones share the rest equally.
    fitting: list[int] = []
    for level in range(width):
        grown = [max(low, min(need, level)) for need, low in zip(needed, least, strict=True)]
        if sum(grown) > room:
            break
        fitting = grown
    return [one.used(size) for one, size in zip(strips, fitting, strict=bool(fitting))]


def _write(strips: Sequence[_Strip], widths: Sequence[int], gap: int) -> list[str]:
    columns = [one.lines(width) for one, width in zip(strips, widths, strict=True)]
    height = max(len(heading) for heading, *_ in columns)
    written = []
    for heading, *_ in columns:
        heading[:0] = [""] * (height - len(heading))
    for row in zip(*columns, strict=True):
        for line in itertools.zip_longest(*row, fillvalue=""):
            parts = []
            for one, text, width in zip(strips, line, widths, strict=True):
                space = " " * (width - cell_len(text))
                parts.append(space + text if one.column.kind == "number" else text + space)
            written.append((" " * gap).join(parts).rstrip())
    return written


def _records(keys: Sequence[_Strip], strips: Sequence[_Strip], width: int) -> list[str]:
    """Write each row as a list, its keys first."""
    room = width - len(INDENT)
    lines = []
    for row in range(len(strips[0].cells) if strips else 0):
        names = [f"{one.column.heading} {one.cells[row]}".strip() for one in keys]
        lines += wrap(", ".join(names), width, INDENT)
        for one in strips:
            if not one.column.is_key:
                heading = f"{one.column.heading}: " if one.column.heading else ""
                # One blank more and no further: a number of 17 digits fits into the narrowest terminal.
                lines += [f"{INDENT}{line}" for line in wrap(heading + one.cells[row], room, " ")]
    return lines


def with_interval(found: "Interval", form: str) -> str:
    """Write a mean with half of its interval, or with its bounds where it is not their middle as numbers are written.

    Examples
    --------
    >>> from lazsim.study.intervals import Interval
    >>> [with_interval(Interval(*bounds), ".0f") for bounds in ((7, 4, 10), (7, 0, 20), (7, 4, math.inf))]
    ['7 +- 3', '7 (0 to 20)', '7 (4 or more)']
    """
    if math.isnan(found.value):
        return MISSING
    if math.isnan(found.low):
        return number_text(found.value, form)
    if math.isinf(found.high):
        return f"{number_text(found.value, form)} ({number_text(found.low, form)} or more)"
    halves = {number_text(half, form) for half in (abs(found.high - found.value), abs(found.value - found.low))}
    if len(halves) > 1:
        low, high = (number_text(bound, form) if bound else "0" for bound in found[1:])
        return f"{number_text(found.value, form)} ({low} to {high})"
    return f"{number_text(found.value, form)} +- {halves.pop()}"


def percent_above(ratio: "Interval") -> str:
    """Write by how much a ratio is above 1, with its interval."""
    if math.isinf(ratio.value):
        return "all"
    found = with_interval(type(ratio)(*(100 * (bound - 1) for bound in ratio)), ".1f")
    return found if found == MISSING else f"{found} %"
