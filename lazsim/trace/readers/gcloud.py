"""Bamboo's Google Cloud traces: ``YYYY-MM-DD, HH:MM:SS, live count`` (github.com/uclasystem/bamboo, traces/gcloud)."""

import itertools
from datetime import UTC, datetime

from lazsim.trace.counts import RULE, Sample, events_from_counts
from lazsim.trace.source import Reader, Reading, Source, count, matching_lines, shorten

LOOKS = "YYYY-MM-DD, HH:MM:SS, live count"


def read(source: Source) -> Reading:
    """Read the samples; sort rows that step back in time, and use the last row of equal stamps.

    Both come from restarts of the sampler, so they are notes and no faults.
    """
    samples: list[Sample] = []
    for line, text in source.lines():
        fields = [field.strip() for field in text.split(",")]
        try:
            day, clock, num_nodes = fields
            stamp = datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            samples.append(Sample(stamp.timestamp(), count(num_nodes), line))
        except ValueError:
            source.fault(line, f"expected {LOOKS!r}, found {shorten(text)}")
    num_back = sum(later.time_s < earlier.time_s for earlier, later in itertools.pairwise(samples))
    by_stamp = {sample.time_s: sample for sample in samples}
    notes = [RULE, "samples are irregular: a change happened some time before the row that shows it"]
    if num_back:
        notes.append(f"{num_back} rows step back in time: sorted")
    if len(by_stamp) < len(samples):
        notes.append(f"{len(samples) - len(by_stamp)} rows repeat a stamp: the last row of each stamp counts")
    if not samples:
        return Reading([], notes=tuple(notes))
    start_s, stop_s = min(by_stamp), max(by_stamp)
    ordered = [by_stamp[stamp]._replace(time_s=stamp - start_s) for stamp in sorted(by_stamp)]
    return Reading(events_from_counts(ordered, source.rng, source.name), stop_s - start_s, tuple(notes))


READER = Reader(LOOKS, matching_lines(r"\d{4}-\d\d-\d\d\s*,\s*\d\d:\d\d:\d\d\s*,"), read)
