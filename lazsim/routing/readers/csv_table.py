"""CSV and TSV: lazsim's, SGLang's dumps, counts by layer and expert, token routes, and bare matrices."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace

from lazsim.files import numbered_lines
from lazsim.limits import MAX_WHOLE
from lazsim.routing.columns import are_loads, cells_of, columns_of
from lazsim.routing.source import LoadTable, Reader, Reading, Source, text_of, whole
from lazsim.routing.table import CSV_COLUMNS, CSV_HEADER

SGLANG = re.compile(r"expert_distribution_rank(\d{1,9})_timestamp[\d.]+\.csv", re.ASCII)
BETWEEN_ROUTES = re.compile(r"[^\w.+-]+", re.ASCII)


def recognise(content: bytes) -> bool:
    """Return whether the first line that is no comment names the columns of loads, or has numbers alone."""
    text = content[: 1 << 16].decode("utf-8-sig", errors="replace").replace("\r", "\n")
    columns = columns_of(next((line for _, line in numbered_lines(text) if not line.startswith("#")), ""))
    return text.startswith(CSV_HEADER) or are_loads(columns)


def read(source: Source) -> Reading:
    """Read the rows of all files. SGLang has a file for each dump and rank: dumps are steps, ranks add up."""
    table, dumps = LoadTable(source), Counter[str]()
    for name, content in source.files:
        rank = SGLANG.search(name)
        file = replace(source, name=name)
        _read_file(file, text_of(file, content), table, dumps[rank[1]] if rank else 0)
        dumps.update([rank[1]] if rank else [])
    if len(dumps) == len(source.files) == 1:
        return table.reading("loads are those of one rank alone; give the folder to add up all ranks")
    return table.reading(*[f"loads are the sum of {len(dumps)} ranks"] if dumps else [])


def _routes_of(cell: str) -> list[float]:
    """Return the numbers of the experts that a cell lists, in any brackets; a ValueError for what is none."""
    return [float(part) for part in BETWEEN_ROUTES.split(cell) if any(map(str.isdigit, part))]


def _read_file(source: Source, text: str, table: LoadTable, dump: int) -> None:
    lines = ((number, line) for number, line in numbered_lines(text) if not line.startswith("#"))
    number, header = next(lines, (2, ""))
    is_ours, columns = text.startswith(CSV_HEADER), columns_of(header)
    if (is_ours and header != CSV_COLUMNS) or not are_loads(columns):
        raise source.refuse(number, f"expected {CSV_COLUMNS if is_ours else 'columns such as layer,expert,tokens'}")
    rows = itertools.chain([(number, header)] if "matrix" in columns else [], lines)
    values = next(columns[role] for role in ("matrix", "loads", "routes", "expert") if role in columns)
    seen: set[tuple[int, ...]] = set()
    latest = 0
    for row, (number, line) in enumerate(rows):
        try:
            cells = cells_of(line)
            step, layer, expert = (
                whole(cells[columns[role][0]], MAX_WHOLE) if role in columns else default
                for role, default in (("step", dump), ("layer", row), ("expert", 0))
            )
            if not columns.keys() & {"matrix", "loads"}:
                table.add_routes(number, step, layer, [one for at in values for one in _routes_of(cells[at])])
                continue
            loads = [float(cells[at]) for at in values]
            if not all(0 <= load < math.inf for load in loads):
                raise ValueError("a load is no number from 0 up")
        except (ValueError, IndexError):
            source.fault(number, f"expected {header[:60]}, numbers from 0 up, found {line[:40]!r}")
            continue
        if is_ours and step < latest:
            source.fault(number, f"step {step} comes after step {latest}", "sort the steps")
        if "part" not in columns and (step, layer, expert) in seen:
            what = f"a second row for step {step}, layer {layer}, expert {expert}"
            source.fault(number, what, "keep the first of several")
            continue
        seen.add((step, layer, expert))
        latest = max(latest, step)
        table.add(number, step, layer, loads, expert)


LOOKS = "CSV with columns layer,expert,tokens, or layer,topk_ids for each token; also step, rank"
READER = Reader(LOOKS, recognise, read, names="expert_distribution_rank*_timestamp*.csv")
