"""SkyPilot's spot traces: one JSON object with a live count, maybe a price, per tick (skypilot-org/spot-traces)."""

import math
from collections.abc import Mapping
from typing import Any

from lazsim.files.tables import array_begins, json_values, parse_json
from lazsim.trace.prices import Prices
from lazsim.trace.reading.events import RULE, Sample, events_from_counts
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, count, matching_json, number, usd_per_hour

LOOKS = '{"metadata": {"gap_seconds": 300}, "data": [live count, ...]}'
AVAILABILITY = (
    "an availability trace says that a launch would have worked, not that a node lived on; "
    "here a drop of the count is taken for a loss of nodes"
)


def read(source: TraceSource) -> TraceReading:
    """Read the ticks, and their prices; raise TraceFormatError when the gap or the list of counts is missing."""
    document = parse_json(source.text, source)
    try:
        gap_s, ticks = number(document["metadata"]["gap_seconds"]), document["data"]
        if not (isinstance(ticks, list) and math.isfinite(gap_s) and gap_s > 0):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise source.refuse(1, f"expected {LOOKS!r}; check the format") from None
    lines = _tick_lines(source.text, len(ticks))
    rows = ((f"line {line}, tick {tick}", tick) for tick, line in enumerate(lines))
    found = source.readable(rows, lambda tick: Sample(tick * gap_s, count(ticks[tick]), lines[tick]))
    samples = [sample for _, sample in found]
    notes = [RULE]
    if "availability" in source.name.rsplit("/", 1)[-1]:
        notes.append(AVAILABILITY)
    events = events_from_counts(samples, source.rng, source.name)
    prices = _prices(source, document, len(ticks), gap_s)
    return TraceReading(events, len(ticks) * gap_s, tuple(notes), prices=prices, names="none")


def _prices(source: TraceSource, document: Mapping[str, Any], num_ticks: int, gap_s: float) -> Prices | None:
    """Return the prices of the ticks, where there are any."""
    prices = document.get("prices", [])
    if not isinstance(prices, list) or len(prices) not in (0, num_ticks):
        source.fault("prices", f"expected a list of {num_ticks} prices, one for each tick", "leave all prices out")
        return None
    rows = ((f"prices, tick {tick}", (tick * gap_s, value)) for tick, value in enumerate(prices))
    repair = "keep the price of the tick before"
    samples = [one for _, one in source.readable(rows, lambda row: (row[0], usd_per_hour(row[1])), repair=repair)]
    return Prices.changes(samples) if samples else None


def _tick_lines(text: str, num_ticks: int) -> list[int]:
    """Return the line of each tick; the metadata may have a list named data, too."""
    lists = ([line for line, _ in json_values(text, begin)] for begin in array_begins(text, "data"))
    return next((lines for lines in lists if len(lines) == num_ticks), [1] * num_ticks)


TYPICAL = r'\A\s*\{[\s\S]*?(?:"gap_seconds"|"data"\s*:\s*\[\s*[-\d\]])'
READER = TraceReader(LOOKS, matching_json(TYPICAL, num_chars=None), read)
