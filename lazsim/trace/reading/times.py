"""Turn the times of a table into seconds since its first one."""

import copy
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from lazsim.errors import LazsimError, shorten
from lazsim.files.faults import Faults
from lazsim.limits import LONGEST_S
from lazsim.trace.reading.mapping import JOIN_DAY, TraceMapping
from lazsim.units import (
    DAY_S,
    DECIMAL_COMMA,
    THOUSANDS,
    UNIT_OF_WORD,
    UNITS_S,
    format_duration,
    read_number,
    sum_spans,
)

EPOCHS_S = (datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""Numbers between these are stamps since 1970, in the one unit in which they are."""
STAMP_UNITS = ("s", "ms", "us", "ns")

COMPACT = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d([0-5]\d)?)?", re.ASCII)
"""Dates that are written as a number, such as 20250301 or 20250301000500."""

HOURS = re.compile(r"(?:(\d{1,6})(?:-|,? |d,? ?| days?,? ))?(\d{1,6}):(\d\d):(\d\d(?:\.\d*)?)", re.ASCII)
"""Lengths of time as Slurm, Python and many others write them: ``1-02:03:04``, ``1 day, 2:03:04``."""

CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d*)?)?( ?[AP]M)?", re.IGNORECASE | re.ASCII)
"""Times of day, which another column's day makes dates."""

ISO = re.compile(r"P(?=[\dT])(\d+D)?(T(\d+H)?(\d+M)?([\d.]+S)?)?", re.ASCII)
"""Lengths of time of ISO 8601, without months and years."""

ROUNDED = re.compile(r"\d([.,]\d{1,8})?[Ee]\+(09|1[0-9])", re.ASCII)
"""Stamps since 1970 as spreadsheets and others show and save them, with fewer digits than seconds take."""

YEAR_S = 365.25 * DAY_S

LONGEST_SILENCE_S = 10 * YEAR_S
"""Longest time between two rows: the data of Los Alamos, the longest that are public, span nine years."""


def split_unit(name: str) -> tuple[str, str | None]:
    """Split the unit, and what else is in brackets, off the name of a column.

    Examples
    --------
    >>> split_unit("time_ms"), split_unit("Time (s)"), split_unit("hours since start"), split_unit("timestamp")
    (('time', 'ms'), ('time', 's'), ('sincestart', 'h'), ('timestamp', None))
    """
    units = {UNIT_OF_WORD[word] for word in re.findall("[a-z0-9]+", name.lower()) if word in UNIT_OF_WORD}
    words = re.findall("[a-z0-9]+", re.sub(r"\(.*?\)|\[.*?\]", " ", name.lower()))
    plain = "".join(word for word in words if word not in UNIT_OF_WORD)
    return plain or "time", units.pop() if len(units) == 1 else None


def read_length(text: str, unit: str | None) -> float:
    """Read a length of time in seconds: a number in a unit, ``1 02:03:04``, or numbers with units such as ``2h 30min``.

    Examples
    --------
    >>> read_length("90", "min"), read_length("1-00:00:30", None), read_length("1.5 hours", "min")
    (5400.0, 86430.0, 5400.0)
    """
    plain = text.strip()
    plain = plain[1:].replace("T", "").lower() if ISO.fullmatch(plain) else plain
    length_s = -1.0
    if is_number(plain):
        if unit is None:
            raise ValueError(f"{shorten(text)!r} is a duration without a unit; give `time_unit`")
        length_s = to_seconds(read_number(plain), unit)
    elif found := HOURS.fullmatch(plain):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        length_s = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    elif (spans_s := sum_spans(plain)) is not None:
        length_s = spans_s
    if not 0 <= length_s <= LONGEST_S:
        raise ValueError(
            f"{shorten(text)!r} is no duration, such as 90 in a unit, 2.5h or 1 02:03:04 (days, h, min, s)"
        )
    return length_s


def read_date(text: str) -> datetime:
    """Read a date of ISO 8601, also with slashes, or ``UTC`` or ``GMT`` at its end; a ValueError says that it is none.

    Examples
    --------
    >>> read_date("2025/03/01 00:05:00 UTC").isoformat()
    '2025-03-01T00:05:00+00:00'
    """
    plain = text.strip().replace("/", "-")
    plain = plain[:-3].rstrip() + "+00:00" if plain.endswith(("UTC", "GMT")) else plain
    try:
        return datetime.fromisoformat(plain if re.match(r"\d{4}-\d\d-\d\d|\d{8}T\d{4}", plain) else "")
    except ValueError:
        told = "neither a number nor a date of ISO 8601; `time_format` says how times are written"
        told = f"a time without a day; {JOIN_DAY}" if CLOCK.fullmatch(plain) else told
        raise ValueError(f"{shorten(text)!r} is {told}") from None


class TimeParser:
    """Read the times of one file, all of which are numbers or all of which are dates.

    The user or the format says what they are (`mapping`), the user alone (`asked`), who goes before the file's header,
    and the name of their column, which may have the unit. So may that of lengths of time, which else are in the unit
    that the user gives, and he need not give one for the times then.
    """

    def __init__(
        self, mapping: TraceMapping, asked: TraceMapping, column: str = "", lengths: str | None = None
    ) -> None:
        self._formats = mapping.time_format
        self._zone = _find_zone(mapping.time_zone)
        self._is_zone_idle = asked.time_zone is not None
        self._asked_unit = asked.time_unit
        self._named_unit = split_unit(column)[1]
        self._usual_unit = mapping.time_unit
        named_length_unit = split_unit(lengths or "")[1]
        self.read_length = functools.partial(read_length, unit=named_length_unit or mapping.time_unit)
        """Read a length of time, in seconds; see the function of this name."""
        self._is_unit_of_lengths = lengths is not None and named_length_unit is None
        self._unit = "s"
        self._origin = 0.0
        self._kind = ""
        self._span: tuple[float | None, float | None] = (None, None)
        self.is_local = False
        """Whether they are of a zone that nothing names, so that a change of the clock cannot be told."""
        self.assumed_unit: str | None = None
        """The unit of numbers, where only the format says it."""

    @property
    def is_absolute(self) -> bool:
        """Whether times are dates, or seconds since 1970 and the like; known after `start`."""
        return self._kind == "date" or self._origin != 0.0

    def read(self, text: str, after: float = -math.inf) -> float:
        """Read a time: a number in its unit, or the seconds since 1970 of a date.

        A date that comes twice, since the clock is set back, is the second one where the first is before `after`.
        """
        kind = "date" if self._formats or not is_number(text) else "number"
        if ROUNDED.fullmatch(text.strip()):
            raise ValueError(f"{shorten(text)!r} is rounded, as spreadsheets show long numbers; save all digits")
        time = self._read_date(text, after) if kind == "date" else read_number(text)
        if self._kind not in ("", kind):
            raise ValueError(f"{shorten(text)!r} is not a {self._kind}, as the times before are")
        self._kind = kind
        return time

    def _read_span(self, span: tuple[str, str], source: Faults) -> tuple[float | None, float | None]:
        """Read from when to when a file was observed, written as its times or as dates of ISO 8601; None is empty."""
        found = []
        for text in span:
            times = copy.copy(self)
            times._formats = () if is_date(text) else self._formats
            try:
                found.append(times.read(text) if text else None)
            except ValueError as error:
                raise source.refuse("", f"`span`: {error}") from None
            self._is_zone_idle &= times._is_zone_idle
        return found[0], found[1]

    def _read_date(self, text: str, after: float) -> float:
        date = read_date(text) if not self._formats else self._read_format(text)
        if date.tzinfo is None:
            self.is_local, self._is_zone_idle = self._zone is None, False
            date = date.replace(tzinfo=self._zone or UTC)
        first = date.timestamp()
        return max(first, date.replace(fold=1).timestamp()) if first < after else first

    def _read_format(self, text: str) -> datetime:
        for time_format, zone in itertools.product(self._formats, ("UTC", "GMT")):
            # Python's %Z takes the names of this machine's zone, too, and tells none of them.
            date_format = time_format.replace("%Z", zone)
            with suppress(ValueError):
                date = datetime.strptime(text.strip(), date_format)
                return date if date_format == time_format else date.replace(tzinfo=UTC)
        raise ValueError(f"{shorten(text)!r} is not a time as {self._formats[0]!r}")

    def start(self, times: Iterable[float], source: Faults, span: tuple[str, str] | None = None) -> None:
        """Settle the unit and the origin of all times of the file, and of what the user says that was observed.

        Raises
        ------
        TraceFormatError
            When times are numbers whose unit nothing tells, or dates for which the user gives one, or when `span`
            has no times like these.
        """
        self._span = self._read_span(span or ("", ""), source)
        known = sorted([*times, *(time for time in self._span if time is not None)]) or [0.0]
        first, last = known[0] if self._span[0] is None else self._span[0], known[-1]
        if self._kind != "number":
            if self._kind and self._asked_unit is not None and not self._is_unit_of_lengths:
                raise source.refuse("", "its times are dates, not numbers; leave `time_unit` out")
            self._origin = first
            self._refuse_silence(known, source)
            return
        epoch = stamp_unit([first, last])
        if epoch and self._is_unit_of_lengths:
            self._asked_unit = None
        unit = self._asked_unit or epoch or self._named_unit or self._usual_unit
        if unit is None:
            spans = ", ".join(f"{one}: {format_duration(to_seconds(last - first, one))}" for one in ("ms", "s", "h"))
            dates = (
                "; if they are dates, give `time_format`, as %Y%m%d%H%M%S" if COMPACT.fullmatch(f"{first:.0f}") else ""
            )
            what = f"times from {first:.15g} to {last:.15g} have no unit; give `time_unit` ({spans}){dates}"
            raise source.refuse("", what)
        if not (self._asked_unit or epoch or self._named_unit):
            self.assumed_unit = unit
        self._unit, self._origin = unit, first if _is_epoch(first, unit) else 0.0
        self._refuse_silence(known, source)

    def _refuse_silence(self, times: Sequence[float], source: Faults) -> None:
        """Refuse times of which some are of a clock that was not set, or in another unit."""
        silence_s, before = max(
            ((later - earlier, earlier) for earlier, later in itertools.pairwise(times)), default=(0.0, 0.0)
        )
        if LONGEST_SILENCE_S < to_seconds(silence_s, self._unit) <= LONGEST_S:
            what = f"nothing happens for {to_seconds(silence_s, self._unit) / YEAR_S:.0f} years after the row at "
            what += f"{self.seconds(before):.12g} s; leave out rows of a clock that was not set"
            raise source.refuse("", what)

    def end(self, times_s: Sequence[float], source: Faults, last_s: float = 0.0) -> float:
        """Return when the observation ends: as the user says, or at the last of some times and `last_s`.

        Raises
        ------
        TraceFormatError
            When one of the times is not in the span that the user says.
        """
        begin_s, end_s = (None if time is None else self.seconds(time) for time in self._span)
        if begin_s and not self.is_absolute:
            raise source.refuse("", "its times count from 0; begin `span` with 0, or with nothing")
        if begin_s is not None and end_s is not None and end_s < begin_s:
            raise source.refuse("", "`span` ends before it begins; write FROM..TO")
        before_s = 0.0 if begin_s is None else begin_s - min(times_s, default=begin_s)
        after_s = 0.0 if end_s is None else max(times_s, default=end_s) - end_s
        if before_s > 0 or after_s > 0:
            off = f"{format_duration(before_s)} before" if before_s > 0 else f"{format_duration(after_s)} after"
            what = f"has rows up to {off} what `span` says; give a longer span, and cut the trace with `start` and "
            raise source.refuse("", f"{what}`duration`")
        return max(last_s, *times_s, 0.0) if end_s is None else end_s

    def seconds(self, time: float) -> float:
        """Return the seconds since the first time where times are absolute, and else since time 0."""
        if self._origin == 0.0:
            return to_seconds(time, self._unit)
        # Stamps since 1970 have a resolution of a fraction of a microsecond.
        return round(to_seconds(time - self._origin, self._unit), 6)

    def notes(self) -> tuple[str, ...]:
        """Return what is assumed, a line each."""
        are_numbers, unit, named = self._kind == "number", self._unit, self._named_unit
        told = {
            "times name no zone: taken for UTC; `time_zone` says otherwise": self.is_local,
            "`time_zone` changes nothing: no time is a date without a zone": self._is_zone_idle,
            f"times are in {unit}, as `time_unit` says, though their column says {named}": (
                are_numbers and self._asked_unit and named not in (None, self._asked_unit)
            ),
            f"times are in {unit} since 1970": are_numbers and self.is_absolute,
        }
        return tuple(note for note, holds in told.items() if holds)


def span_note(span: tuple[str, str] | None, otherwise: str) -> str:
    """Return a note on the span that the user gives, or what is assumed otherwise."""
    if span is None:
        return otherwise
    begin, end = span
    begins, ends = begin or "with the first time in the file", end or "with the last one"
    return f"the trace begins {begins} and ends {ends}, as `span` says"


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


def is_read_by(read: Callable[[str], object], text: str) -> bool:
    """Return whether a function reads a text without a ValueError."""
    try:
        read(text)
    except ValueError:
        return False
    return True


def is_date(text: str) -> bool:
    """Return whether a text is a date of ISO 8601."""
    return is_read_by(read_date, text)


def is_when(text: str) -> bool:
    """Return whether a text is a date of ISO 8601, or a number that can be a stamp since 1970; see `EPOCHS_S`."""
    with suppress(ValueError):
        return stamp_unit([read_number(text)]) is not None
    return is_date(text)


def stamp_unit(times: Sequence[float]) -> str | None:
    """Return the unit in which all of some numbers are stamps since 1970, as their size tells; None if they are none.

    Examples
    --------
    >>> stamp_unit([1.7e9, 1.8e9]), stamp_unit([1.7e12]), stamp_unit([1.7e9, 1.7e12]), stamp_unit([1.7e10])
    ('s', 'ms', None, None)
    """
    return next((unit for unit in STAMP_UNITS if times and all(_is_epoch(time, unit) for time in times)), None)


def _is_epoch(time: float, unit: str) -> bool:
    return EPOCHS_S[0] <= to_seconds(time, unit) <= EPOCHS_S[1]


def _find_zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise LazsimError(f"`time_zone` {shorten(name)!r}: no such zone; give one such as Europe/Berlin") from None
