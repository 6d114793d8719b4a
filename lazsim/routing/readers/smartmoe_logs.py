"""SmartMoE's logs: a file for each step and rank, a line for each layer."""

import json
import re
from dataclasses import replace

import numpy as np

from lazsim.files.reading import numbered_lines
from lazsim.placement.plan import Floats
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, LoadTable, text_of
from lazsim.units import counted

NAMES = re.compile(r"table_iter(\d{1,15})_rank(\d{1,15})\.log", re.ASCII)
LAYER = re.compile(r"(\d{1,15}):(\[.*\])", re.ASCII)


def read(source: LoadSource) -> LoadReading:
    """Read the logs; ranks and micro-batches add up."""
    table, shapes = LoadTable(source), set[tuple[int, ...]]()
    ranks: dict[int, int] = {}
    for file, content in source.files:
        name, log = NAMES.search(file), replace(source, name=file)
        if name is None:
            raise log.refuse("", "expected a name with numbers, table_iter<i>_rank<r>.log")
        tokens_LE = _parse(log, text_of(log, content))
        shapes.add(tokens_LE.shape)
        if len(shapes) > 1:
            raise log.refuse("", "other layers or experts than the logs before it; keep those of one run")
        table.add_layers("", int(name[1]), tokens_LE)
        ranks[int(name[1])] = ranks.get(int(name[1]), 0) + 1
    few, many = min(ranks.values()), max(ranks.values())
    summed = counted(few, "rank") if few == many else f"{few} to {many}, as files there are, ranks"
    return table.reading(f"loads are the sum of {summed}")


def _parse(source: LoadSource, text: str) -> Floats:
    rows: list[Floats] = []
    for number, line in numbered_lines(text):
        row = LAYER.fullmatch(line)
        try:
            # As a float, a very long number becomes infinite and counts with the other bad loads.
            loads = np.array(json.loads(row[2], parse_int=float), dtype=np.float64) if row else np.zeros(0)
        except (ValueError, TypeError, RecursionError):
            loads = np.zeros(0)
        if row is None or int(row[1]) != len(rows) or loads.ndim != 2 or (rows and len(rows[0]) != loads.shape[1]):
            experts = f"{len(rows[0])} loads" if rows else "loads"
            raise source.refuse(number, f"expected {len(rows)}:[[{experts}], ...]")
        # Before the sum, in which an infinity would hide the other loads.
        bad = ~((loads >= 0) & np.isfinite(loads))
        if bad.any():
            source.fault(number, "loads that are no numbers from 0 up", "leave them out")
        rows.append(np.where(bad, 0.0, loads).sum(axis=0))
    if not rows:
        raise source.refuse("", "the file is empty; expected a line layer:[[loads], ...] for each layer")
    return np.stack(rows)


READER = LoadReader(
    "table_iter<i>_rank<r>.log of SmartMoE: a line layer:[[loads of a micro-batch], ...] for each layer",
    lambda _: False,
    read,
    names="table_iter*_rank*.log",
)
