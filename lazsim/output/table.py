"""Tables as text, for a terminal of any width.

A report is a list of parts: a `Table` of data, or a paragraph. `render` writes them no wider than the terminal. A table
that is too wide first wraps its headings, then its texts, then shortens long names; then it is cut into blocks of
columns that repeat the keys; and where even a block is too wide, each row becomes a short list. No width loses a
column, a row or a digit.
"""

import itertools
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len, chop_cells

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
"""Columns to which names are shortened: so that the table stays in one piece, or so that a block fits at all."""

Kind = Literal["number", "name", "text"]
Format = str | Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    heading : str
        Text above the column; it may wrap at spaces, ``_`` and ``/``.
    format : str or callable
        How a value becomes text: a format specification such as ``",.1f"``, or a function. Text is taken as it is;
        None and NaN become ``-``.
    kind : {"number", "name", "text"}
        A number is never broken or shortened; a name is shortened where room is scarce; a text wraps at spaces.
    is_key : bool
        Whether it tells the rows apart: it is repeated where the table is cut.
    has_name : bool
        Whether the heading is a name, such as that of a system: it is shortened and not wrapped.
    """

    heading: str
    format: Format = ""
    kind: Kind = "number"
    is_key: bool = False
    has_name: bool = False


def key(heading: str, format: Format = "", kind: Kind = "name") -> Column:  # noqa: A002 - as in Column
    """Return a column that tells rows apart; a number such as a count of failures is of the kind ``"number"``."""
    return Column(heading, format, kind, is_key=True)


@dataclass(frozen=True)
class Table:
    """Data to be written as a table.

    Attributes
    ----------
    columns : sequence of Column or str
        Columns; text is the heading of a column of numbers. Without any heading the table has no head.
    rows : sequence of sequence
        A value or a text for each column.
    title : str
        A line above.
    notes : sequence of str
        Lines below.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    notes: Sequence[str] = ()


Part = Table | str


def terminal_width() -> int:
    """Return the columns of the terminal behind stdout, or `PIPED_WIDTH` where there is none."""
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if sys.stdout.isatty() else PIPED_WIDTH


def render(parts: Iterable[Part], width: int | None = None) -> str:
    """Write the parts of a report, a blank line between them.

    Parameters
    ----------
    parts
        Tables and paragraphs. The lines of a paragraph stay apart; one that is too long is wrapped.
    width
        Columns of the terminal; by default those of `terminal_width`. Less than `MIN_WIDTH` counts as that.

    Examples
    --------
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
    blocks = [_paragraph(part, width) if isinstance(part, str) else _Layout(part, width).lines() for part in parts]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Shorten the names that are wider than a width, which is 8 at least, so that different names stay different.

    Folders, and files before a colon, go first; then the end, or as much of the middle as it takes.

    Examples
    --------
    >>> shorten_names(["ds", "policies/mine.py:rarest_first"], 14)
    ['ds', 'rarest_first']
    >>> shorten_names(["lazarus-compact", "lazarus-compact-2", "lazarus"], 10)
    ['lazarus-…t', 'lazarus-…2', 'lazarus']
    >>> shorten_names(["gpt-s-smartmoe-16", "gpt-l-smartmoe-16"], 8)
    ['gpt-s-s…', 'gpt-l-s…']
    """
    width = max(width, MIN_NAMES[-1])
    distinct = list(dict.fromkeys(names))
    if all(cell_len(name) <= width for name in distinct):
        return list(names)
    short = [name if cell_len(name) <= width else re.split(r"[/:]", name)[-1] or name for name in distinct]
    if len(set(short)) < len(distinct):
        short = distinct
    for num_last in range(width - 1):
        cut = [_cut(name, width, num_last) for name in short]
        if len(set(cut)) == len(distinct):
            break
    else:
        cut = _numbered(short, width)
    found = dict(zip(distinct, cut, strict=True))
    return [found[name] for name in names]


def _cut(name: str, width: int, num_last: int) -> str:
    if cell_len(name) <= width:
        return name
    last = name[len(name) - num_last :]
    while cell_len(last) > width - 2:
        last = last[1:]
    first = chop_cells(name, width - 1 - cell_len(last))[0]
    return f"{first}…{last}"


def _numbered(names: Sequence[str], width: int) -> list[str]:
    """Tell names apart by a number where neither their beginnings nor their ends do."""
    taken = {name for name in names if cell_len(name) <= width}
    found = []
    for name in names:
        short, number = _cut(name, width, 0), 1
        while cell_len(name) > width and short in taken:
            number += 1
            short = f"{chop_cells(name, width - 1 - len(str(number)))[0]}…{number}"
        taken.add(short)
        found.append(short)
    return found


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
        start = indent if lines else ""
        first, *others = chop_cells(piece if not lines else piece.lstrip(), width - len(indent))
        lines.append(start + first)
        lines += (indent + other for other in others)
    return lines


def _paragraph(text: str, width: int) -> list[str]:
    return [line for one in text.splitlines() for line in ([one] if cell_len(one) <= width else wrap(one, width, "  "))]


def _cell(value: Any, form: Format) -> str:
    if isinstance(value, str):
        return " ".join("".join(char if char.isprintable() else " " for char in value).split())
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return form(value) if callable(form) else format(value, form)


class _Layout:
    """One table at one width: the cells as text, and the columns they need."""

    def __init__(self, table: Table, width: int) -> None:
        self.table = table
        self.width = width
        self.gap = GAPS[0]
        self.columns = [Column(one) if isinstance(one, str) else one for one in table.columns]
        assert all(len(row) == len(self.columns) for row in table.rows), "a value for each column"
        rows = [[_cell(value, one.format) for value, one in zip(row, self.columns, strict=True)] for row in table.rows]
        self.cells = [[row[index] for row in rows] for index in range(len(self.columns))]
        self.keys = [index for index, one in enumerate(self.columns) if one.is_key]
        self.values = [index for index, one in enumerate(self.columns) if not one.is_key]

    def lines(self) -> list[str]:
        head = wrap(self.table.title, self.width, INDENT) if self.table.title else []
        notes = [line for text in self.table.notes for line in wrap(text, self.width, INDENT)]
        return [*head, *self._body(), *notes]

    def _body(self) -> list[str]:
        everything = list(range(len(self.columns)))
        if not everything:
            return []
        for self.gap in GAPS:
            if widths := self._fit(everything, MIN_NAMES[0]):
                return self._write(everything, widths)
        self.gap = GAPS[0]
        for min_name in MIN_NAMES:
            if blocks := self._blocks(min_name):
                fits = [self._fit(block, min_name) for block in blocks]
                # Keys look the same in every block.
                keys = {index: min(widths[index] for widths in fits) for index in self.keys}
                written = [self._write(block, widths | keys) for block, widths in zip(blocks, fits, strict=True)]
                return "\n\n".join(map("\n".join, written)).split("\n")
        return self._records()

    def _blocks(self, min_name: int) -> list[list[int]]:
        """Give columns to blocks, as many to each as fit beside the keys; no blocks where one column does not fit."""
        blocks: list[list[int]] = []
        for value in self.values:
            if blocks and self._fit([*blocks[-1], value], min_name):
                blocks[-1].append(value)
            elif self._fit([*self.keys, value], min_name):
                blocks.append([*self.keys, value])
            else:
                return []
        return blocks

    def _fit(self, chosen: Sequence[int], min_name: int) -> dict[int, int]:
        """Return the width of each column, with as few lines of headings as fit; empty where nothing fits."""
        most_lines = max(1, *(len(self._pieces(index)) for index in chosen))
        for num_lines in range(1, most_lines + 1):
            needed = {index: self._needed(index, num_lines) for index in chosen}
            if self._total(needed) <= self.width:
                return needed
        least = {index: min(needed[index], self._least(index, min_name)) for index in chosen}
        # Short columns get all that they need; wide ones share the rest equally.
        fitting: dict[int, int] = {}
        for level in range(self.width):
            grown = {index: max(least[index], min(needed[index], level)) for index in chosen}
            if self._total(grown) > self.width:
                break
            fitting = grown
        return {index: self._used(index, width) for index, width in fitting.items()}

    def _total(self, widths: Mapping[int, int]) -> int:
        return sum(widths.values()) + self.gap * (len(widths) - 1)

    def _needed(self, index: int, num_lines: int) -> int:
        """Return the width at which a column has whole cells, and its heading no more than a number of lines."""
        pieces = self._pieces(index)
        heading = max((cell_len(piece.strip()) for piece in pieces), default=0)
        while len(_fill(pieces, heading)) > num_lines:
            heading += 1
        return max(heading, *map(cell_len, self.cells[index]), 0)

    def _least(self, index: int, min_name: int) -> int:
        """Return the width below which a column cannot go."""
        return self._used(index, MIN_TEXT if self.columns[index].kind == "text" else min_name)

    def _used(self, index: int, width: int) -> int:
        """Return the part of a width that a column uses; more where it cannot be as narrow."""
        lines = [line for cell in self._wrapped(index, width) for line in cell]
        return max(map(cell_len, (*self._heading(index, width), *lines)), default=0)

    def _pieces(self, index: int) -> list[str]:
        """Cut a heading where it may wrap."""
        column = self.columns[index]
        return (
            [column.heading]
            if column.has_name and column.heading
            else re.findall(r"\s*(?:[^\s_/]+[_/]*|[_/]+)", column.heading)
        )

    def _write(self, chosen: Sequence[int], widths: Mapping[int, int]) -> list[str]:
        heads = [self._heading(index, widths[index]) for index in chosen]
        height = max(map(len, heads))
        heads = [[""] * (height - len(lines)) + lines for lines in heads]
        rows = [heads] if height else []
        rows += map(list, zip(*(self._wrapped(index, widths[index]) for index in chosen), strict=True))
        return [
            (" " * self.gap)
            .join(
                _pad(part, widths[index], is_right=self.columns[index].kind == "number")
                for index, part in zip(chosen, line, strict=True)
            )
            .rstrip()
            for row in rows
            for line in itertools.zip_longest(*row, fillvalue="")
        ]

    def _heading(self, index: int, width: int) -> list[str]:
        if not self.columns[index].has_name:
            pieces = self._pieces(index)
            return _fill(pieces, max((width, *(cell_len(piece.strip()) for piece in pieces))))
        named = [one.heading for one in self.columns if one.has_name]
        place = sum(one.has_name for one in self.columns[:index])
        return [shorten_names(named, width)[place]]

    def _wrapped(self, index: int, width: int) -> list[list[str]]:
        """Return the lines of each cell of a column."""
        kind, cells = self.columns[index].kind, self.cells[index]
        if kind == "text":
            return [wrap(cell, width) for cell in cells]
        return [[cell] for cell in (shorten_names(cells, width) if kind == "name" else cells)]

    def _records(self) -> list[str]:
        """Write each row as a list, its keys first."""
        keys = {index: self.cells[index] for index in self.keys}
        for index in keys:
            if self.columns[index].kind == "name":
                keys[index] = shorten_names(keys[index], self.width - len(INDENT))
        lines = []
        for row in range(len(self.table.rows)):
            names = [f"{self.columns[index].heading} {cells[row]}".strip() for index, cells in keys.items()]
            lines += wrap(", ".join(names), self.width, INDENT)
            for index in self.values:
                heading, cell = self.columns[index].heading, self.cells[index][row]
                text = f"{heading}: {cell}" if heading else cell
                lines += [f"{INDENT}{line}" for line in wrap(text, self.width - len(INDENT), INDENT)]
        return lines


def _pad(text: str, width: int, *, is_right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if is_right else text + space
