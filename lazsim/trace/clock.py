"""Turn the times of a table into seconds since its first one."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from lazsim.errors import LazsimError, TraceFormatError
from lazsim.limits import LONGEST_S
from lazsim.trace.mapping import UNITS_S, TraceMapping
from lazsim.units import DAY_S, DECIMAL_COMMA, THOUSANDS, format_duration, read_number

EPOCHS_S = (datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""Numbers between these are stamps since 1970, in the one unit in which they are."""

UNIT_WORDS = {
    "ns": ("ns", "nanos", "nanosecond", "nanoseconds"),
    "us": ("us", "micros", "microsecond", "microseconds", "usec"),
    "ms": ("ms", "millis", "millisecond", "milliseconds", "msec"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
_UNITS = {word: unit for unit, words in UNIT_WORDS.items() for word in words}

YEAR_S = 365.25 * DAY_S

LONGEST_SILENCE_S = 10 * YEAR_S
"""Longest time between two rows: the data of Los Alamos, the longest that are public, span nine years."""


def split_unit(name: str) -> tuple[str, str | None]:
    """Split the unit off the name of a column.

    Examples
    --------
    >>> split_unit("time_ms"), split_unit("Time (s)"), split_unit("hours since start"), split_unit("timestamp")
    (('time', 'ms'), ('time', 's'), ('sincestart', 'h'), ('timestamp', None))
    """
    words = re.findall("[a-z0-9]+", name.lower())
    units = {_UNITS[word] for word in words if word in _UNITS}
    return "".join(word for word in words if word not in _UNITS) or "time", units.pop() if len(units) == 1 else None


def read_date(text: str) -> datetime:
    """Read a date as ISO 8601 has it, also with slashes, or with ``UTC`` at its end; a ValueError says that it is none.

    Examples
    --------
    >>> read_date("2025/03/01 00:05:00 UTC").isoformat()
    '2025-03-01T00:05:00+00:00'
    """
    plain = text.strip().replace("/", "-")
    plain = plain.removesuffix("UTC").rstrip() + "+00:00" if plain.endswith("UTC") else plain
    try:
        return datetime.fromisoformat(plain if re.match(r"\d{4}-\d\d-\d\d|\d{8}T\d{4}", plain) else "")
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is neither a number nor a date of ISO 8601; `time_format` says how times are written"
        ) from None


class Clock:
    """Read the times of one file, all of which are numbers or all of which are dates.

    The user or the format says what they are (`mapping`), the user alone (`asked`), who goes before the file's header,
    and the name of their column, which may have the unit.
    """

    def __init__(self, mapping: TraceMapping, asked: TraceMapping, column: str = "") -> None:
        self._formats = mapping.time_format
        self._zone = _find_zone(mapping.time_zone)
        self._asked_unit = asked.time_unit
        self._named_unit = split_unit(column)[1]
        self._usual_unit = mapping.time_unit
        self._unit = "s"
        self._origin = 0.0
        self._kind = ""
        self.is_local = False
        """Whether they are of a zone that nothing names, so that a change of the clock cannot be told."""
        self.assumed_unit: str | None = None
        """The unit of numbers, where only the format says it."""

    @property
    def is_absolute(self) -> bool:
        """Whether times are dates, or seconds since 1970 and the like; known after `start`."""
        return self._origin != 0.0

    def read(self, text: str, after: float = -math.inf) -> float:
        """Read a time: a number in its unit, or the seconds since 1970 of a date.

        A date that comes twice, since the clock is set back, is the second one where the first is before `after`.
        """
        kind = "date" if self._formats or not is_number(text) else "number"
        time = self._read_date(text, after) if kind == "date" else read_number(text)
        if self._kind not in ("", kind):
            raise ValueError(f"{text[:40]!r} is not a {self._kind}, as the times before are")
        self._kind = kind
        return time

    def _read_date(self, text: str, after: float) -> float:
        date = read_date(text) if not self._formats else self._read_format(text)
        if date.tzinfo is None:
            self.is_local = self._zone is None
            date = date.replace(tzinfo=self._zone or UTC)
        first = date.timestamp()
        return max(first, date.replace(fold=1).timestamp()) if first < after else first

    def _read_format(self, text: str) -> datetime:
        for time_format in self._formats:
            try:
                return datetime.strptime(text.strip(), time_format)
            except ValueError:
                continue
        raise ValueError(f"{text[:40]!r} is not a time as {self._formats[0]!r}")

    def start(self, times: Iterable[float], name: str) -> None:
        """Settle the unit and the origin of all times of the file.

        Raises
        ------
        TraceFormatError
            When times are numbers whose unit nothing tells, or dates for which the user gives one.
        """
        known = sorted(times) or [0.0]
        first, last = known[0], known[-1]
        if self._kind == "date":
            if self._asked_unit is not None:
                raise TraceFormatError(f"{name}: its times are dates, not numbers; leave `time_unit` out")
            self._origin = first
            self._refuse_silence(known, name)
            return
        epoch = next(
            (unit for unit in ("s", "ms", "us", "ns") if _is_epoch(first, unit) and _is_epoch(last, unit)), None
        )
        unit = self._asked_unit or epoch or self._named_unit or self._usual_unit
        if unit is None:
            spans = ", ".join(f"{one}: {format_duration(to_seconds(last - first, one))}" for one in ("ms", "s", "h"))
            raise TraceFormatError(f"{name}: times from {first:g} to {last:g} have no unit; give `time_unit` ({spans})")
        if not (self._asked_unit or epoch or self._named_unit):
            self.assumed_unit = unit
        self._unit, self._origin = unit, first if _is_epoch(first, unit) else 0.0
        self._refuse_silence(known, name)

    def _refuse_silence(self, times: Sequence[float], name: str) -> None:
        """Refuse times of which some are of a clock that was not set, or in another unit."""
        silence_s, before = max(((later - earlier, earlier) for earlier, later in pairwise(times)), default=(0.0, 0.0))
        if LONGEST_SILENCE_S < to_seconds(silence_s, self._unit) <= LONGEST_S:
            raise TraceFormatError(
                f"{name}: nothing happens for {to_seconds(silence_s, self._unit) / YEAR_S:.0f} years after the row at "
                f"{self.seconds(before):g} s; leave out rows of a clock that was not set"
            )

    def seconds(self, time: float) -> float:
        """Return the seconds since the first time where times are absolute, and else since time 0."""
        if self._origin == 0.0:
            return to_seconds(time, self._unit)
        # Stamps since 1970 have a resolution of a fraction of a microsecond.
        return round(to_seconds(time - self._origin, self._unit), 6)

    def notes(self) -> tuple[str, ...]:
        """Return what is assumed, a line each."""
        if self.is_local:
            return ("times name no zone: taken for UTC; `time_zone` says otherwise",)
        return (f"times are in {self._unit} since 1970",) if self._kind == "number" and self.is_absolute else ()


def to_seconds(time: float, unit: str) -> float:
    """Convert a time in one of `UNITS_S` to seconds; whole numbers of a small unit stay exact decimals."""
    unit_s = UNITS_S[unit]
    return time * unit_s if unit_s >= 1 else time / round(1 / unit_s)


def is_number(text: str) -> bool:
    """Return whether a text is a finite number, or would be one with a decimal point and no other separator."""
    try:
        return any(form.fullmatch(text) for form in (THOUSANDS, DECIMAL_COMMA)) or math.isfinite(float(text))
    except ValueError:
        return False


def is_date(text: str) -> bool:
    """Return whether a text is a date of ISO 8601."""
    try:
        read_date(text)
    except ValueError:
        return False
    return True


def _is_epoch(time: float, unit: str) -> bool:
    return EPOCHS_S[0] <= to_seconds(time, unit) <= EPOCHS_S[1]


def _find_zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise LazsimError(f"`time_zone` {name[:40]!r}: no such zone; give one such as Europe/Berlin") from None
