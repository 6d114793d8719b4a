"""Convert text such as ``80min`` to seconds and back; no other module does."""

import math
import re
from collections.abc import Mapping

from lazsim.errors import LazsimError
from lazsim.limits import LONGEST_S

MIB = 1024**2
GIB = 1024**3
MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 86400.0

DURATIONS_S: Mapping[str, float] = {
    "ms": 1e-3,
    "s": 1.0,
    "min": MINUTE_S,
    "h": HOUR_S,
    "d": DAY_S,
}


def _parse(text: str, what: str, example: str, units: Mapping[str, float]) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-z/]*)\s*", text)
    factor = units.get(match[2]) if match else None
    if match and not match[2] and float(match[1]) == 0:
        return 0.0
    if not match or factor is None or not math.isfinite(float(match[1])):
        raise LazsimError(f"{text!r} is not a {what}: give a number with a unit ({', '.join(units)}), as {example}")
    if float(match[1]) * factor > LONGEST_S:
        raise LazsimError(f"{text!r} is more than a century: give a shorter {what}")
    return float(match[1]) * factor


def parse_duration(text: str) -> float:
    """Read a duration.

    Parameters
    ----------
    text
        A number with one of the units ``ms``, ``s``, ``min``, ``h``, ``d``; a bare ``0`` needs none.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    LazsimError
        When the unit is missing or unknown, or the number negative or more than a century.

    Examples
    --------
    >>> parse_duration("80min")
    4800.0
    """
    return _parse(text, "duration", "80min", DURATIONS_S)


def format_duration(seconds: float) -> str:
    """Write seconds in the largest unit that keeps the number readable.

    Examples
    --------
    >>> [format_duration(s) for s in (0.25, 42, 4800, 40920, 2592000)]
    ['250 ms', '42 s', '80 min', '11.4 h', '30 d']
    """
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 10 * MINUTE_S:
        return f"{seconds:.3g} s"
    if seconds < 3 * HOUR_S:
        return f"{seconds / MINUTE_S:.3g} min"
    if seconds < 3 * DAY_S:
        return f"{seconds / HOUR_S:.3g} h"
    return f"{seconds / DAY_S:.3g} d"
