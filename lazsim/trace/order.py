"""Put rows in the order of time: overlapping stretches, a change of the clock, and mere disorder differ."""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from lazsim.files.faults import Faults
from lazsim.limits import LONGEST_S
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, counted, format_duration

SET_BACK_S = (30 * MINUTE_S, HOUR_S)
"""Steps back of local time when summer ends: an hour, less the time between two rows."""


class Timed(Protocol):
    """A row of a file with a time and a line."""

    @property
    def time_s(self) -> float:
        """Seconds since the trace began."""

    @property
    def line(self) -> int:
        """Line of the file, from 1; 0 without a file."""


TimedT = TypeVar("TimedT", bound=Timed)


def in_time_order(rows: Iterable[TimedT], faults: Faults) -> list[TimedT]:
    """Return rows by time; those without a valid time and those out of order are faults."""
    kept: list[TimedT] = []
    for row in rows:
        if not 0 <= row.time_s <= LONGEST_S:
            what = f"time {row.time_s:.12g} s is not a number from 0 up to 100 years"
            faults.fault(row.line, what, "drop what has no valid time")
            continue
        if kept and row.time_s < kept[-1].time_s:
            far = format_duration(kept[-1].time_s - row.time_s)
            what = f"time {row.time_s:.12g} s comes after {kept[-1].time_s:.12g} s, {far} back"
            faults.fault(row.line, what, "sort what is out of order")
        kept.append(row)
    return sorted(kept, key=lambda row: row.time_s)


def refuse_set_back(rows: Sequence[Timed], faults: Faults, repair: str, is_distinct: bool = False) -> None:
    """Make a fault of steps back by up to an hour, if there are no more than changes of the clock in so long a time.

    Times are dates of a zone that nothing names; `repair` is what the caller does next when lenient. Where
    `is_distinct`, no two rows are of the same time, so that one of rows an hour apart may only repeat a time.
    """
    times_s = [row.time_s for row in rows]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    is_hourly = is_distinct and 2 * gaps_s.count(HOUR_S) > len(gaps_s)
    back = [
        (-gap_s, row) for gap_s, row in zip(gaps_s, rows[1:], strict=True) if gap_s < 0 or (is_hourly and not gap_s)
    ]
    hours = [(step_s, row) for step_s, row in back if SET_BACK_S[0] * (not is_hourly) <= step_s <= SET_BACK_S[1]]
    if hours and len(back) <= 1 + (max(times_s) - min(times_s)) / (365 * DAY_S):
        step_s, row = hours[0]
        moved = f"steps back by {format_duration(step_s)}" if step_s else "repeats the time of the row before"
        what = f"{moved}, as local time does when summer ends; give `time_zone`"
        faults.fault(row.line, what, repair, len(hours))


def settle(rows: Sequence[TimedT], says: Callable[[TimedT], object]) -> tuple[list[TimedT], tuple[str, ...]]:
    """Put rows that each say how things are from then on in order, each instant once; and tell what was done.

    Where most stretches of the file begin after the one before, they overlap, as those of a sampler that writes each
    observation several times: a later stretch holds from its begin, and what it overtakes counts for nothing.
    Otherwise, rows are sorted, and the last row of an instant counts. `says` returns what a row says, and when.

    Examples
    --------
    >>> from lazsim.trace.reading.events import Sample
    >>> overlapping = [Sample(0, 9), Sample(60, 9), Sample(30, 7), Sample(90, 7)]
    >>> [tuple(sample)[:2] for sample in settle(overlapping, lambda sample: sample[:2])[0]]
    [(0, 9), (30, 7), (90, 7)]
    """
    notes = []
    back_s = [earlier.time_s - later.time_s for earlier, later in itertools.pairwise(rows)]
    back_s = [step_s for step_s in back_s if step_s > 0]
    stretches = _stretches(rows)
    begins_s = [stretch[0].time_s for stretch in stretches]
    num_overlaps = sum(earlier < later for earlier, later in itertools.pairwise(begins_s))
    overlaps = 2 * num_overlaps > len(back_s)
    by_begin = sorted(stretches, key=lambda stretch: stretch[0].time_s)
    kept: list[TimedT] = []
    for row in itertools.chain.from_iterable(by_begin) if overlaps else sorted(rows, key=lambda row: row.time_s):
        at = bisect_left(kept, row.time_s, key=lambda one: one.time_s)
        # A row that only repeats one overtakes nothing.
        if not (kept[at:] and says(kept[at]) == says(row)):
            kept[at:] = [row]
    if back_s:
        far = format_duration(max(back_s))
        what = "later rows overtake earlier ones" if overlaps else "sorted"
        notes.append(f"{counted(len(back_s), 'row steps', 'rows step')} back in time, by up to {far}: {what}")
    if len(kept) < len(rows):
        notes.append(
            f"{counted(len(rows) - len(kept), 'row repeats', 'rows repeat')} a stamp or came too late: the "
            "last row counts"
        )
    return kept, tuple(notes)


def _stretches(rows: Sequence[TimedT]) -> list[list[TimedT]]:
    """Cut rows where they step back in time."""
    stretches: list[list[TimedT]] = []
    for row in rows:
        if not stretches or row.time_s < stretches[-1][-1].time_s:
            stretches.append([])
        stretches[-1].append(row)
    return stretches
