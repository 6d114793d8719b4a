"""Lines of a table: their cells, and the columns that a header names."""

import csv
import re
from collections.abc import Mapping

from lazsim.routing.source import role_of

MAX_QUOTED = 1 << 16
MATRIX = re.compile(r"\s*[\d.eE+-]*\d[\d.eE+-]*\s*", re.ASCII)


def cells_of(line: str) -> list[str]:
    """Return the cells of a line, between tabs, semicolons, commas or blanks: the first of these that it has."""
    delimiter = next((one for one in "\t;," if one in line), " ")
    if '"' not in line:
        return line.split(delimiter)
    # The module refuses a lone carriage return and longer fields; a quoted list of experts is short.
    return next(csv.reader([line.replace("\r", " ")[:MAX_QUOTED]], delimiter=delimiter))


def columns_of(header: str) -> Mapping[str, list[int]]:
    """Return the columns of each role, or one role for a row of numbers alone."""
    cells = cells_of(header)
    if len(cells) > 1 and all(map(MATRIX.fullmatch, cells)):
        return {"matrix": list(range(len(cells)))}
    found: dict[str, list[int]] = {}
    for at, name in enumerate(cells):
        # Of several names for one part the first counts; only numbered columns belong together.
        if role_of(name) not in found or name.strip()[-1:].isdigit():
            found.setdefault(role_of(name), []).append(at)
    if "token" in found and "expert" not in found and "loads" in found:
        # With a token in each row, expert_0 and expert_1 are its experts.
        found["routes"] = found.pop("loads")
    return found


def are_loads(columns: Mapping[str, list[int]]) -> bool:
    """Return whether columns are those of loads by layer, of routes, or of a bare matrix."""
    named = "layer" in columns and not columns.keys().isdisjoint({"loads", "routes", "expert"})
    return named or "matrix" in columns
