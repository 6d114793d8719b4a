"""Lists of numbers and names that options take; errors name the field."""

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from lazsim.errors import SpecError
from lazsim.files import read_lines
from lazsim.limits import MAX_NODES

WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


def parse_counts(field: str, text: str) -> list[int]:
    """Read whole numbers from 0 up, separated by commas.

    Examples
    --------
    >>> parse_counts("`lose`", "0,3")
    [0, 3]
    """
    return [int(_match(WHOLE, part, field, text, "2,2,3")[0]) for part in _parts(text)]


def parse_spans(field: str, text: str) -> list[int]:
    """Read numbers and spans of numbers, separated by commas; ascending, each once.

    Examples
    --------
    >>> parse_spans("`failures`", "1-3,6,2")
    [1, 2, 3, 6]
    """
    numbers: set[int] = set()
    num_given = 0
    for part in _parts(text):
        first, last = _match(SPAN, part, field, text, "1-5 or 1,2,4").groups()
        if last is not None and int(last) < int(first):
            raise SpecError(f"{field} {text}: {part} ends before it starts; give {last}-{first}")
        num_given += int(last or first) - int(first) + 1
        if num_given > MAX_NODES:
            raise SpecError(f"{field} {text}: more than {MAX_NODES:,} numbers; give fewer")
        numbers |= set(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def parse_probs(field: str, text: str) -> list[float]:
    """Read probabilities, separated by commas.

    Examples
    --------
    >>> parse_probs("`node_fail_prob`", "0.01,0.5")
    [0.01, 0.5]
    """
    probs = []
    for part in _parts(text):
        prob = math.nan
        with suppress(ValueError):
            prob = float(part)
        if not 0 <= prob <= 1:
            raise SpecError(f"{field} {text}: {part!r} is no probability; give a number from 0 to 1, or one per node")
        probs.append(prob)
    return probs


def parse_domains(field: str, text: str) -> list[str]:
    """Read the name of each node's failure domain, from the text itself or the file that it names.

    In a file names are separated by commas, blanks or line ends; a ``#`` starts a comment.

    Examples
    --------
    >>> parse_domains("`domains`", "rack0,rack0,rack1")
    ['rack0', 'rack0', 'rack1']
    """
    if os.path.exists(text) or "," not in text:
        lines = read_lines(field, text, "one name per node")
        return [name for line in lines for name in line.split("#")[0].replace(",", " ").split()]
    names = _parts(text)
    if "" in names:
        raise SpecError(f"{field} {text}: a name is empty; give one name per node, as 0,0,1,1")
    return names


def parse_loads(field: str, text: str) -> str | list[float]:
    """Read tokens or shares of each expert, separated by commas; any other text is the name or path of loads.

    Examples
    --------
    >>> parse_loads("`loads`", "60,30,10"), parse_loads("`loads`", "zipf:1.2")
    ([60.0, 30.0, 10.0], 'zipf:1.2')
    """
    if "," not in text or os.path.exists(text) or text.endswith(".toml"):
        return text
    loads = []
    for part in text.split(","):
        try:
            loads.append(float(part))
        except ValueError:
            raise SpecError(f"{field} {text}: {part!r} is no number, and there is no such file") from None
        if not 0 <= loads[-1] < math.inf:
            raise SpecError(f"{field} {text}: {part} is no number of tokens; give numbers from 0 up")
    return loads


class Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """An option whose text one of these functions reads."""

    name = "text"

    def __init__(self, parse: Callable[[str, str], Any]) -> None:
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option; a default is a list already."""
        return self.parse(f"`{param.name if param else ''}`", value) if isinstance(value, str) else value


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _match(pattern: re.Pattern[str], part: str, field: str, text: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(part)
    if match is None:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise SpecError(f"{field} {shown}: {part[:40]!r} is no whole number from 0 up; give them as {example}")
    return match
