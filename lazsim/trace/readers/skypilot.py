"""SkyPilot's spot traces: one JSON object with a live count per tick (github.com/skypilot-org/spot-traces)."""

import math

from lazsim.errors import TraceFormatError
from lazsim.trace.counts import RULE, Sample, events_from_counts
from lazsim.trace.readers.source import Reader, Reading, Source, count, number

LOOKS = '{"metadata": {"gap_seconds": 300}, "data": [live count, ...]}'
AVAILABILITY = (
    "an availability trace says that a launch would have worked, not that a node lived on; "
    "here a drop of the count is taken for a loss of nodes"
)


def recognise(text: str) -> bool:
    """Tell whether a text opens an object that speaks of ticks."""
    return text.lstrip().startswith("{") and ('"gap_seconds"' in text or '"data"' in text[:4096])


def read(source: Source) -> Reading:
    """Read the ticks; prices, where there are any, are not used.

    Raises
    ------
    TraceFormatError
        When the gap or the list of counts is missing.
    """
    document = source.parse_json()
    try:
        gap_s, ticks = number(document["metadata"]["gap_seconds"]), document["data"]
        if not (isinstance(ticks, list) and math.isfinite(gap_s) and gap_s > 0):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise TraceFormatError(f"{source.name}, line 1: expected {LOOKS!r}; check the format") from None
    samples: list[Sample] = []
    for tick, value in enumerate(ticks):
        try:
            samples.append(Sample(tick * gap_s, count(value), 1))
        except ValueError as error:
            source.fault(f"line 1, tick {tick}", f"{error}")
    notes = [RULE]
    if "availability" in source.name.rsplit("/", 1)[-1]:
        notes.append(AVAILABILITY)
    if "prices" in document:
        notes.append("prices are not used")
    return Reading(events_from_counts(samples, source.rng, source.name), len(ticks) * gap_s, tuple(notes))


READER = Reader(LOOKS, recognise, read)
