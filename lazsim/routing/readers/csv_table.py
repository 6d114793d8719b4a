"""CSV and TSV: lazsim's, SGLang's dumps, counts by layer and expert, token routes, and bare matrices."""

import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from lazsim.errors import shorten
from lazsim.files.reading import numbered_lines
from lazsim.limits import MAX_WHOLE
from lazsim.routing.source import (
    LoadReader,
    LoadReading,
    LoadSource,
    LoadTable,
    refuse_gaps,
    role_of,
    roles_of,
    text_of,
    whole,
)
from lazsim.routing.table import CSV_COLUMNS, CSV_HEADER
from lazsim.units import counted, read_number

SGLANG = re.compile(r"expert_distribution_rank(\d{1,9})_timestamp(\d+(?:\.\d+)?)\.csv", re.ASCII)
BETWEEN_ROUTES = re.compile(r"[^\w.+-]+", re.ASCII)
MAX_QUOTED = 1 << 16
FEWEST_NUMBERED = 3
"""Numbers of a matrix from which on a first row or column that counts up by 1 is taken to number the others.
*Assumption*."""
MATRIX = re.compile(r"\s*[\d.eE+-]*\d[\d.eE+-]*\s*", re.ASCII)


def recognise(content: bytes) -> bool:
    """Return whether the first line that is no comment names the columns of loads, or has numbers alone."""
    text = content[: 1 << 16].decode("utf-8-sig", errors="replace").replace("\r", "\n")
    columns = _columns(next((line for _, line in numbered_lines(text) if not line.startswith("#")), ""))
    return text.startswith(CSV_HEADER) or _are_loads(columns)


def read(source: LoadSource) -> LoadReading:
    """Read the rows of all files. SGLang has a file for each dump and rank: dumps are steps, ranks add up."""
    table, dumps = LoadTable(source), Counter[str]()
    for name, content in sorted(source.files, key=_time):
        rank = SGLANG.search(name)
        file = replace(source, name=name)
        _read_file(file, text_of(file, content), table, dumps[rank[1]] if rank else 0)
        dumps.update([rank[1]] if rank else [])
    if len(set(dumps.values())) > 1:
        (most, num_most), *_, (fewest, num_fewest) = dumps.most_common()
        what = f"rank {most} has {num_most} dumps and rank {fewest} has {num_fewest}"
        source.fault("", what, "take the first dump of each rank for the same step, and so on")
    ranks = set(map(int, dumps))
    if len(ranks) > 1 and (lacking := set(range(max(ranks))) - ranks):
        what = f"rank {min(lacking)} has no dump, and rank {max(ranks)} has; add its file"
        source.fault("", what, "add up the ranks that are there")
    if len(dumps) == len(source.files) == 1:
        return table.reading("loads are those of one rank alone; give the folder to add up all ranks")
    return table.reading(*[f"loads are the sum of {counted(len(dumps), 'rank')}"] if dumps else [])


def _time(file: tuple[str, bytes]) -> float:
    found = SGLANG.search(file[0])
    return float(found[2]) if found else 0.0


def _cells(line: str) -> list[str]:
    """Return the cells of a line, between tabs, semicolons, commas or blanks: the first of these that it has."""
    delimiter = next((one for one in "\t;," if one in line), " ")
    if '"' not in line:
        return line.split(None if delimiter == " " else delimiter)
    # The module refuses a lone carriage return and longer fields; a quoted list of experts is short.
    return next(csv.reader([line.replace("\r", " ")[:MAX_QUOTED]], delimiter=delimiter))


def _columns(header: str) -> Mapping[str, list[int]]:
    """Return the columns of each role, or one role for a row of numbers alone."""
    cells = _cells(header)
    if len(cells) > 1 and all(map(MATRIX.fullmatch, cells)):
        return {"matrix": list(range(len(cells)))}
    return roles_of(cells)


def _are_loads(columns: Mapping[str, list[int]]) -> bool:
    """Return whether columns are those of loads by layer, of routes, or of a bare matrix."""
    named = "layer" in columns and not columns.keys().isdisjoint({"loads", "routes", "expert"})
    return named or "matrix" in columns


def _read_file(source: LoadSource, text: str, table: LoadTable, dump: int) -> None:
    lines = ((number, line) for number, line in numbered_lines(text) if not line.startswith("#"))
    number, header = next(lines, (2, ""))
    is_ours, columns, names = text.startswith(CSV_HEADER), _columns(header), _cells(header)
    if (is_ours and header != CSV_COLUMNS) or not _are_loads(columns):
        raise source.refuse(number, f"expected {CSV_COLUMNS if is_ours else 'columns such as layer,expert,tokens'}")
    try:
        refuse_gaps([names[at] for at in columns.get("loads", ())])
    except ValueError as error:
        raise source.refuse(number, str(error)) from None
    table.are_named = "matrix" not in columns
    table.numbers |= {0} if is_ours else set()
    values = next(columns[role] for role in ("matrix", "loads", "routes", "expert") if role in columns)
    in_parts = [at for at, name in enumerate(names) if role_of(name) == "part"]
    seen: set[tuple[object, ...]] = set()
    latest, matrix = 0, list[list[float]]()
    rows = lines if table.are_named else itertools.chain([(number, header)], lines)
    for row, (number, line) in enumerate(rows):
        try:
            cells = _cells(line)
            if any(map(str.strip, cells[len(names) :])):
                raise ValueError(f"{len(cells)} columns, not {len(names)}; quote lists with commas")
            step, layer, expert = (
                whole(cells[columns[role][0]], MAX_WHOLE) if role in columns else default
                for role, default in (("step", dump), ("layer", row), ("expert", 0))
            )
            if in_parts:
                table.part = tuple(cells[at].strip() for at in in_parts)
            if not columns.keys() & {"matrix", "loads"}:
                parts = (part for at in values for part in BETWEEN_ROUTES.split(cells[at]))
                table.add_routes(number, step, layer, [float(part) for part in parts if any(map(str.isdigit, part))])
                continue
            key = step, layer, expert, *(cells[at].strip() for at in in_parts)
            loads = [read_number(cells[at]) for at in values]
            if not all(0 <= load < math.inf for load in loads):
                raise ValueError("a load is no number from 0 up")
        except (ValueError, IndexError) as error:
            why = "too few columns" if isinstance(error, IndexError) else error
            source.fault(number, f"expected {shorten(header)}, numbers from 0 up, found {shorten(line)!r} ({why})")
            continue
        if is_ours and step < latest:
            source.fault(number, f"step {step} comes after step {latest}", "sort the steps")
        if key in seen:
            what = (
                f"a second row for step {step}, layer {layer}, expert {expert}; name what differs step, expert or rank"
            )
            source.fault(number, what, "keep the first of several")
            continue
        seen.add(key)
        latest = max(latest, step)
        table.add(number, step, layer, loads, expert)
        if not table.are_named:
            matrix.append(loads)
    _refuse_numbered(source, matrix)


def _refuse_numbered(source: LoadSource, matrix: list[list[float]]) -> None:
    """Refuse a bare matrix whose first row or column only numbers the others."""
    # Of one row, none numbers others; and experts count from 0 or 1.
    first_row = matrix[0] if len(matrix) > 1 and matrix[0][0] <= 1 else []
    for line, numbers in (("row", first_row), ("column", [row[0] for row in matrix])):
        if len(numbers) >= FEWEST_NUMBERED and all(after == before + 1 for before, after in pairwise(numbers)):
            what = f"its first {line} counts up from {numbers[0]:g}; leave it out, or name columns if it has loads"
            raise source.refuse("", what)


LOOKS = "CSV with columns layer,expert,tokens, or layer,topk_ids for each token; also step, rank"
READER = LoadReader(LOOKS, recognise, read, names="expert_distribution_rank*_timestamp*.csv")
