"""Put rows in the order of time, and tell disorder from a change of the clock."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from lazsim.files.faults import Faults
from lazsim.limits import LONGEST_S
from lazsim.units import DAY_S, HOUR_S, MINUTE_S, format_duration

LEAST_BACK_S = MINUTE_S
"""Rows may be out of order by less, as threads write them."""

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
