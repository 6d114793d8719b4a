"""Convert text such as ``80min`` or ``400Gbps`` to numbers, and seconds to text; no other module does."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from lazsim.errors import LazsimError, shorten
from lazsim.limits import LONGEST_S, MOST_USD_PER_HOUR, SHORTEST_S

MIB = 1024**2
GIB = 1024**3
MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 86400.0

DURATIONS_S: Mapping[str, float] = {"ms": 1e-3, "s": 1.0, "min": MINUTE_S, "h": HOUR_S, "d": DAY_S}

UNITS_S: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, **DURATIONS_S}
"""Seconds of the units that numbers in files may be times in."""

_WORDS = {
    "ns": ("ns", "nanos", "nanosecond", "nanoseconds"),
    "us": ("us", "micros", "microsecond", "microseconds", "usec"),
    "ms": ("ms", "millis", "millisecond", "milliseconds", "msec"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
UNIT_OF_WORD: Mapping[str, str] = {word: unit for unit, words in _WORDS.items() for word in words}
"""The unit that a word stands for in names of columns and in prose."""

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

BYTES: Mapping[str, float] = {f"{prefix}B": factor for prefix, factor in (_PREFIXES | _BINARY).items()}

BYTES_PER_S: Mapping[str, float] = {
    **{f"{prefix}{bit}": factor / 8 for prefix, factor in _PREFIXES.items() for bit in ("bps", "b/s", "bit/s")},
    **{f"{unit}{per}": factor for unit, factor in BYTES.items() for per in ("/s", "ps")},
}

FLOP_PER_S: Mapping[str, float] = {
    f"{prefix}{flop}": factor for prefix, factor in _PREFIXES.items() for flop in ("FLOPS", "FLOP/s")
}

QUANTITIES = {
    "_flop_per_s": ("rate of operations", "989TFLOPS", FLOP_PER_S, ("GFLOPS", "TFLOPS", "PFLOPS")),
    "_bytes_per_s": ("data rate", "400Gbps", BYTES_PER_S, ("Mbps", "Gbps", "MB/s", "GB/s", "GiB/s")),
    "_bytes": ("size", "80GB", BYTES, ("MB", "GB", "MiB", "GiB")),
    "_s": ("duration", "80min", {"us": 1e-6, **DURATIONS_S}, tuple(DURATIONS_S)),
}
"""For the end of a field's name: its quantity, an example, its units, and the usual ones of these."""


_SPAN = r"([0-9]{1,9}(?:\.[0-9]*)?)\s*([a-z]+)"
_UNIT_OF_SPAN = {**UNIT_OF_WORD, "m": "min"}


def sum_spans(text: str) -> float | None:
    """Add up numbers with a unit each, such as ``2h 30min`` or ``1 day, 4 hours``, in seconds; None for other texts.

    Examples
    --------
    >>> sum_spans("1h30min"), sum_spans("2 days, 1.5 hours"), sum_spans("90"), sum_spans("5 parsecs")
    (5400.0, 178200.0, None, None)
    """
    if not re.fullmatch(rf"\s*({_SPAN}[,\s]*)+", text):
        return None
    spans = [(number, _UNIT_OF_SPAN.get(word)) for number, word in re.findall(_SPAN, text)]
    if not all(unit for _, unit in spans):
        return None
    # A sum of floats would make 66.00000000000001 s of 1.1min.
    return float(sum(Decimal(number) * Decimal(repr(UNITS_S[unit])) for number, unit in spans if unit))


def parse_quantity(field: str, text: str) -> float:
    """Read a number with a unit of the quantity that the name of a field ends in, such as ``nic_bytes_per_s``.

    Small b is a bit and capital B a byte; G is 10^9 and Gi 2^30. Durations may be sums; see `sum_spans`.

    Raises
    ------
    LazsimError
        When the unit is missing or unknown, the number negative, or the field has no quantity.

    Examples
    --------
    >>> parse_quantity("nic_bytes_per_s", "400Gbps"), parse_quantity("memory_bytes", "1GiB")
    (50000000000.0, 1073741824.0)
    >>> parse_quantity("nic_latency_s", "20us"), parse_quantity("duration_s", "1.1min")
    (2e-05, 66.0)
    """
    end = next((end for end in QUANTITIES if field.endswith(end)), None)
    if end is None:
        raise LazsimError(f"{text!r}: give a number without a unit")
    if end == "_s" and (spans_s := sum_spans(text)) is not None:
        return spans_s
    what, example, units, usual = QUANTITIES[end]
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-z/]*)\s*", text, re.ASCII)
    factor = units.get(match[2]) if match else None
    if match and not match[2] and float(match[1]) == 0:
        return 0.0
    if not match or factor is None or not math.isfinite(float(match[1])):
        raise LazsimError(f"{text!r} is not a {what}: give a number with a unit ({', '.join(usual)}), as {example}")
    # A product of floats would make 1.9999999999999998e-05 s of 20us.
    return float(Decimal(match[1]) * Decimal(repr(factor)))


def parse_duration(text: str) -> float:
    """Read numbers with units (``ms``, ``s``, ``min``, ``h``, ``d``), or a bare ``0``, as seconds.

    Raises
    ------
    LazsimError
        When the unit is missing or unknown, or the number negative, more than a century or less than a nanosecond.

    Examples
    --------
    >>> parse_duration("80min"), parse_duration("1h30min")
    (4800.0, 5400.0)
    """
    seconds = parse_quantity("duration_s", text)
    if seconds > LONGEST_S:
        raise LazsimError(f"{text!r} is more than a century: give a shorter duration")
    if 0 < seconds < SHORTEST_S:
        raise LazsimError(f"{text!r} is less than a nanosecond: give a longer duration")
    return seconds


_DOLLARS = r"(?:us\$|usd|\$)?"
_NUMBER = r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
PRICE = re.compile(rf"{_DOLLARS} ?{_NUMBER} ?{_DOLLARS}((?: ?/| per )[a-z/ -]+)?", re.ASCII)
PRICED = ("", "/node", "/node/h", "/h/node", "/gpu", "/gpu/h", "/h/gpu")
"""Not of an hour alone, as clouds write prices of a node and others those of a GPU."""


def parse_price(text: str, gpus_per_node: int) -> float:
    """Read a price in US dollars for an hour of a node, or of one GPU; the currency and the hour may be written, too.

    Raises
    ------
    LazsimError
        When it is no price, or one of anything else.

    Examples
    --------
    >>> parse_price("24.48", 8), parse_price("3/gpu", 8), parse_price("$98", 8), parse_price("4 USD per GPU-hour", 8)
    (24.48, 24.0, 98.0, 32.0)
    """
    found = PRICE.fullmatch(text.strip().lower())
    per = re.sub("hour|hr", "h", re.sub(" ?/ ?| per |[ -]", "/", found[2] or "")) if found else ""
    price = float(found[1]) * (gpus_per_node if "gpu" in per else 1) if found and per in PRICED else math.inf
    if price > MOST_USD_PER_HOUR:
        raise LazsimError(
            f"{shorten(text)!r}: give US dollars for an hour of a node, as 24.48, or of a GPU, as 3.06/gpu"
        )
    return price


THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}([,'_ \u00a0\u202f])\d{3}(\1\d{3})*(\.\d*)?\s*", re.ASCII)
DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*", re.ASCII)


def read_number(text: str) -> float:
    """Read a number of a table; a ValueError says what else a text is, and how to write one with separators.

    `nan` and `inf` are numbers, as Prometheus writes them; who reads a quantity checks its range.

    Examples
    --------
    >>> read_number("1024")
    1024.0
    >>> read_number("1,024")
    Traceback (most recent call last):
    ...
    ValueError: '1,024' has a separator of thousands; write 1024, or 1.024 if its comma begins decimals
    >>> read_number("1.128,5")
    Traceback (most recent call last):
    ...
    ValueError: '1.128,5' has a decimal comma; write 1128.5
    """
    try:
        # No number of Python has a comma, a space or an apostrophe in it, but some have underscores or other digits.
        number = float(text)
        if "_" not in text and text.strip().isascii():
            return number
    except ValueError:
        pass
    is_decimal = DECIMAL_COMMA.fullmatch(text)
    decimal = text.strip().replace(".", "").replace(",", ".")
    if found := THOUSANDS.fullmatch(text):
        plain = text.strip().replace(found[1], "") + f", or {decimal} if its comma begins decimals" * bool(is_decimal)
        raise ValueError(f"{shorten(text)!r} has a separator of thousands; write {plain}")
    if is_decimal:
        raise ValueError(f"{shorten(text)!r} has a decimal comma; write {shorten(decimal)}")
    raise ValueError(f"{shorten(text)!r} is no number")


def divide(above: float, below: float, otherwise: float = math.nan) -> float:
    """Divide; where there is nothing to divide by, return something else."""
    return above / below if below else otherwise


def four_digits(value: float) -> float:
    """Round a fitted constant to four digits.

    Examples
    --------
    >>> four_digits(12345.678)
    12350.0
    """
    return float(f"{value:.4g}")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, in the plural unless there is one; a verb may follow the noun in both.

    Examples
    --------
    >>> counted(1, "node"), counted(1024, "node"), counted(2, "row repeats", "rows repeat")
    ('1 node', '1,024 nodes', '2 rows repeat')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def share_text(share: float, form: str) -> str:
    """Write a share by a format such as ``.1%`` or ``.3f``; one that is not exactly none or all never looks so.

    Examples
    --------
    >>> [share_text(share, ".1%") for share in (0.0, 0.0001, 0.614, 0.9996, 1.0000000000000002, 1.0004)]
    ['0.0%', '<0.1%', '61.4%', '>99.9%', '100.0%', '>100.0%']
    """
    text, last = format(share, form), 10.0 ** -(int(form[1:-1]) + 2 * form.endswith("%"))
    if share > 0 and text == format(0.0, form):
        return f"<{format(last, form)}"
    # Parts that were summed in another order than the whole differ by a rounding.
    if abs(share - 1) > 1e-12 and text == format(1.0, form):
        return f">{format(1 - last if share < 1 else 1.0, form)}"
    return text


def format_duration(seconds: float, smallest: str = "ms") -> str:
    """Write seconds in the largest unit that keeps the number readable, with three digits and no exponent.

    Examples
    --------
    >>> [format_duration(s) for s in (0.25, 0.9996, 42, 4800, 40920, 2592000, 315576000)]
    ['250 ms', '1 s', '42 s', '80 min', '11.4 h', '30 d', '3,650 d']
    """
    if not math.isfinite(seconds):
        return f"{seconds} d"
    ladder = LADDER if smallest == "us" else LADDER[1:]
    # As it is shown, 599.9 s would be 600 s.
    rounded = ((Decimal(f"{seconds / unit_s:.3g}"), unit, unit_s, end_s) for unit, unit_s, end_s in ladder)
    return next(f"{number:,f} {unit}" for number, unit, unit_s, end_s in rounded if abs(float(number)) * unit_s < end_s)


LADDER = (
    ("us", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 10 * MINUTE_S), ("min", MINUTE_S, 3 * HOUR_S),
    ("h", HOUR_S, 3 * DAY_S), ("d", DAY_S, math.inf),
)  # fmt: skip
"""Units of durations, their seconds, and where the next one begins."""
