"""The interface of a reader: its input, its result, and the helpers that readers share."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lazsim.files.faults import Faults
from lazsim.files.reading import numbered_lines
from lazsim.files.tables import HEAD_LINES
from lazsim.limits import MOST_USD_PER_HOUR
from lazsim.trace.prices import Prices
from lazsim.trace.reading.mapping import NO_MAPPING, TraceMapping
from lazsim.trace.table import Event
from lazsim.units import read_number

HEAD_CHARS = 20_000
"""Characters of a text by which its format is told."""

GUESSED = 0.9
"""How well a table fits whose columns are guessed: less than a format that is known by more."""


class TraceReading(NamedTuple):
    """Result of a reader."""

    events: list[Event]
    """In file order."""
    duration_s: float | None = None
    """Seconds observed; until the last event when None."""
    notes: tuple[str, ...] = ()
    """Assumptions of the reader, a line each."""
    assumed_unit: str | None = None
    """The unit of time, where neither the file nor the user names it."""
    prices: Prices | None = None
    """Prices of a node, where the file has them."""
    places: Mapping[str, int] | None = None
    """The place of each node, where the file has them; see `lazsim.trace.Trace`."""
    cluster_nodes: int | tuple[str, ...] | None = None
    """Number of nodes, or their names, if the file or its format has them; those of the user go first."""
    names: Literal["all", "some", "none"] = "all"
    """Whether the file names all nodes, only those to which something happened, or none, which it counts."""


@dataclass(frozen=True, kw_only=True)
class TraceSource(Faults):
    """A file to read: its text, a generator for draws, and its faults."""

    text: str
    """The text, empty for a binary file."""
    content: bytes = b""
    """The same as bytes, unpacked."""
    rng: np.random.Generator
    """Source of all draws."""
    asked: TraceMapping = NO_MAPPING
    """Rules of the user for the file."""

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield line number and stripped text of every line that is not blank."""
        yield from numbered_lines(self.text)


class TraceReader(NamedTuple):
    """A format of traces."""

    looks: str
    """Pattern of a row, for people."""
    recognise: Callable[[str], float]
    """Returns how well a text fits the format, from 0 to 1; the format that fits best is chosen."""
    read: Callable[[TraceSource], TraceReading]
    """Reads a file into events."""
    options: tuple[str, ...] = ()
    """Fields of `TraceSource.asked` that `read` heeds; others are refused."""


def matching_lines(pattern: str) -> Callable[[str], float]:
    """Return a function that gives the share of a text's first lines that match a pattern."""
    matcher = re.compile(pattern)

    def recognise(text: str) -> float:
        head = [line.strip() for line in text[:HEAD_CHARS].split("\n") if line.strip()][:HEAD_LINES]
        return sum(matcher.match(line) is not None for line in head) / max(1, len(head))

    return recognise


def matching_json(pattern: str, num_chars: int | None = HEAD_CHARS) -> Callable[[str], float]:
    """Return a function that tells whether a text is JSON with a match of a pattern in its first characters, or all."""
    matcher = re.compile(pattern)
    return lambda text: float(text.lstrip()[:1] in ("{", "[") and matcher.search(text[:num_chars]) is not None)


def number(value: object) -> float:
    """Turn text or a JSON value into a number, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a number")
    try:
        return read_number(value) if isinstance(value, str) else float(value)
    except OverflowError:
        return math.inf


def count(value: object) -> int:
    """Turn text or a JSON value into a count of nodes, a whole number from 0 up, or raise ValueError."""
    result = number(value)
    if not (math.isfinite(result) and result >= 0 and result.is_integer()):
        raise ValueError(f"{value!r} is not a count of nodes")
    return int(result)


def named(node: str) -> str:
    """Return the name of a node, or raise ValueError where it is empty."""
    if not node:
        raise ValueError("no node is named")
    return node


def usd_per_hour(value: object) -> float:
    """Turn text or a JSON value into a price of a node-hour in US dollars, or raise ValueError."""
    result = number(value)
    if not 0 <= result <= MOST_USD_PER_HOUR:
        raise ValueError(f"{value!r} is not a price: expected US dollars for an hour of a node")
    return result
