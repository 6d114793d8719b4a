"""Tables of what others measured or published, and what the cells of a row say."""

import math
import re
from collections.abc import Mapping, Sequence

from lazsim.errors import SpecError, prefix_errors
from lazsim.files.tables import Cells, read_cells
from lazsim.units import read_number

OWN, NEAREST, UNKNOWN_INPUTS, APART = "all known", "of the nearest recipe", "some unknown", "counted apart"
"""How well the inputs of a row are known."""

UNKNOWN = ("", "unknown", "nan", "n/a", "none")

BETWEEN = r"[\s+,;/&]+"
"""What stands between the words of a cell."""


def read_rows(name: str, content: bytes, needed: Sequence[str]) -> dict[int, Cells]:
    """Read the rows of a CSV by line; it has the columns needed, the first of which names each row."""
    rows, names = read_cells(name, content, needed), set()
    for number, row in rows.items():
        with prefix_errors(f"{name}, line {number}"):
            if not row[needed[0]]:
                raise SpecError(f"{needed[0]} is empty; give each row its own")
            if row[needed[0]] in names:
                raise SpecError(f"a second row with the {needed[0]} {row[needed[0]]}; give each row its own")
            names.add(row[needed[0]])
    return rows


def cell_choice(row: Cells, column: str, names: Mapping[str, str], default: str) -> str:
    """Return what the first word of a cell stands for; a SpecError says that it is none of `names`."""
    value = row.get(column) or ""
    # Words in brackets tell more of a setting.
    word = value.partition(" (")[0]
    if word not in (*UNKNOWN, *names):
        raise SpecError(f"{column} {value!r} is none of {', '.join({**names, 'none': '', 'unknown': ''})}")
    return names.get(word, default)


def cell_words(row: Cells, column: str, names: Mapping[str, str], between: str = BETWEEN) -> list[str]:
    """Return what the words of a cell stand for, some for nothing; a SpecError says which is none of `names`."""
    told = words_of(row.get(column) or "", between)
    if strange := told - names.keys():
        known = ", ".join(name for name, meaning in names.items() if meaning)
        raise SpecError(f"{column} {row[column]!r}: {min(strange)!r} is none of {known}")
    return [meaning for name, meaning in names.items() if name in told and meaning]


def words_of(cell: str, between: str = BETWEEN) -> set[str]:
    """Return the words of a cell before any brackets, which tell more of a setting."""
    return {*re.split(between, cell.partition(" (")[0])} - {""} if cell not in UNKNOWN else set()


def cell_number(row: Cells, column: str) -> float:
    """Read a number from 0 to 1e12; nan where it is unknown."""
    value = row.get(column) or ""
    if value in UNKNOWN:
        return math.nan
    try:
        number = read_number(value)
    except ValueError as error:
        raise SpecError(f"{column}: {error}") from None
    if not 0 <= number <= 1e12:
        raise SpecError(f"{column} {value!r}: give a number from 0 to 1e12")
    return number


def cell_whole(row: Cells, column: str, default: int = 0) -> int:
    """Read a whole number; the default where it is unknown."""
    number = cell_number(row, column)
    if math.isnan(number):
        return default
    if number != int(number):
        raise SpecError(f"{column} {row[column]}: give a whole number")
    return int(number)


def cell_flag(row: Cells, column: str, default: bool) -> bool:
    """Read 0 or 1; the default where it is unknown."""
    return cell_choice(row, column, {"0": "", "1": column}, column if default else "") != ""
