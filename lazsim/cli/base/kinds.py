"""Kinds of values that options take: times with units, numbers in a range, lists, places to write to."""

import math
import os
import re
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from lazsim import limits, units
from lazsim.errors import LazsimError, SpecError, prefix_errors, shorten, unknown_name

STDOUT = "-"
"""Path that stands for stdout."""

COUNT_TEXT = re.compile(r"[0-9]{1,15}", re.ASCII)
GROUP_TEXT = re.compile(r"0[0-9]+", re.ASCII)
"""Digits after a separator of thousands, which would be a number of its own in a list."""
SPAN_TEXT = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


class OutPath(click.Path):
    """An option that takes a place to write to.

    A file is refused before any work where it cannot be written, or its name has none of the `suffixes`; ``-`` is
    stdout where that is allowed.
    """

    def __init__(self, *, is_file: bool = False, stdout: bool = False, suffixes: Collection[str] = ()) -> None:
        super().__init__(path_type=Path)
        self.is_file, self._stdout, self._suffixes = is_file, stdout, suffixes
        self.name = "file" if is_file else "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make a path of the text of the option."""
        if value == STDOUT and not self._stdout:
            self.fail("'-' is stdout, which does not take this; give a path", param, ctx)
        path: Any = super().convert(value, param, ctx)
        if self.is_file and str(value).endswith(os.sep):
            self.fail(f"{value} is a folder; give the name of a file", param, ctx)
        if self.is_file and value != STDOUT:
            from lazsim.files.writing import check_file

            check_file(path)
            if self._suffixes and path.suffix not in self._suffixes:
                raise LazsimError(f"`out` {value}: give a name that ends in {' or '.join(self._suffixes)}")
        return path


class OutFolder(OutPath):
    """The same for a folder, which the command alone writes to until it ends.

    One that cannot be written to, or holds some of the files in `names` though lazsim did not write them, is refused
    before any work.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make a path of the text of the option."""
        from lazsim.files.folders import hold_folder, refuse_foreign

        folder = super().convert(value, param, ctx)
        assert ctx is not None, "options are read for a command"
        ctx.obj.enter_context(hold_folder(folder))
        refuse_foreign(folder, self._names, ctx.command_path)
        return folder


class OneOf(click.Choice):  # type: ignore[type-arg]  # not generic before click 8.2
    """An option that takes one of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word, or fail with the one that is nearest."""
        if value not in self.choices:
            self.fail(unknown_name("value", str(value), list(self.choices)), param, ctx)
        return value


class Whole(click.IntRange):
    """An option that takes a whole number in a range."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option."""
        try:
            return super().convert(_as_in_files(value), param, ctx)
        except (ValueError, click.BadParameter):
            self.fail(f"expected a whole number from {self.min:,} to {self.max:,}, found {value!r}", param, ctx)


class Number(click.FloatRange):
    """An option that takes a finite number in a range: NaN is in none, though click does not say so."""

    name = "x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option."""
        try:
            number = super().convert(_as_in_files(value), param, ctx)
        except (ValueError, click.BadParameter):
            number = math.nan
        if not math.isfinite(number):
            low = f"above {self.min:g}" if self.min_open else f"from {self.min:g}"
            high = "up" if self.max is None else f"{'to less than' if self.max_open else 'to'} {self.max:g}"
            bounds = low if self.min_open and self.max is None else f"{low} {high}"
            self.fail(f"expected a number {bounds}, found {value!r}", param, ctx)
        return number


def _as_in_files(value: Any) -> Any:
    """Return the value of an option, or raise ValueError for a text such as ``1_000``, which Python alone reads."""
    if isinstance(value, str):
        units.read_number(value)
    return value


class Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """An option whose text a function such as `parse_spans` reads, which is told the field for its errors."""

    def __init__(self, parse: Callable[[str, str], Any], name: str = "text") -> None:
        self.parse, self.name = parse, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option; a default is a value already."""
        return self.parse(f"`{param.name if param else ''}`", value) if isinstance(value, str) else value


def parse_time(field: str, text: str) -> float:
    """Read a time with a unit, as seconds."""
    with prefix_errors(field):
        return units.parse_duration(text)


OUT_PATH = OutPath()
OUT_FILE = OutPath(is_file=True)
OUT_FILE_OR_STDOUT = OutPath(is_file=True, stdout=True)
OUT_CSV = OutPath(is_file=True, suffixes=(".csv",))
OUT_PICTURE = OutPath(is_file=True, suffixes=(".png", ".pdf"))
DURATION = Parsed(parse_time, "duration")

NODES = Whole(1, limits.MAX_NODES)
SLOTS = Whole(1, limits.MAX_SLOTS)
GPUS = Whole(1, limits.MAX_GPUS_PER_NODE)
EXPERTS = Whole(1, limits.MAX_EXPERTS)
LAYERS = Whole(1, limits.MAX_LAYERS)
LAYER = Whole(0, limits.MAX_LAYERS)
COUNT = Whole(1, limits.MAX_DIMENSION)
WHOLE = Whole(0, limits.MAX_WHOLE)
WORKERS = Whole(1, limits.MAX_WORKERS)
COMPARED = Whole(1, limits.MAX_COMPARED)
"""Whole numbers that are limited as inputs of each kind are."""


def parse_counts(field: str, text: str) -> list[int]:
    """Read whole numbers from 0 up, separated by commas.

    Examples
    --------
    >>> parse_counts("`replicas`", "2,2,3")
    [2, 2, 3]
    """
    return [int(_match(COUNT_TEXT, part, field, text, "2,2,3")[0]) for part in _numbers(field, text)]


def parse_spans(field: str, text: str) -> list[int]:
    """Read numbers and spans of numbers, separated by commas, each given once; ascending.

    Examples
    --------
    >>> parse_spans("`failures`", "6,1-3")
    [1, 2, 3, 6]
    """
    numbers: set[int] = set()
    num_given = 0
    for part in _numbers(field, text):
        first, last = _match(SPAN_TEXT, part, field, text, "1-5 or 1,2,4").groups()
        if last is not None and int(last) < int(first):
            raise SpecError(f"{field} {text}: {part} ends before it starts; give {last}-{first}")
        num_given += int(last or first) - int(first) + 1
        if num_given > limits.MAX_NODES:
            raise SpecError(f"{field} {text}: more than {limits.MAX_NODES:,} numbers; give fewer")
        span = range(int(first), int(last or first) + 1)
        if twice := sorted(numbers.intersection(span)):
            raise SpecError(f"{field} {shorten(text)}: {twice[0]} is given twice: give it once")
        numbers.update(span)
    return sorted(numbers)


def parse_probs(field: str, text: str) -> list[float]:
    """Read probabilities, separated by commas.

    Examples
    --------
    >>> parse_probs("`node_fail_prob`", "0.01,0.5")
    [0.01, 0.5]
    """
    return _floats(field, text, 1.0, "probability; give a number from 0 to 1, or one per node")


def parse_domains(field: str, text: str) -> list[str]:
    """Read the name of each node's failure domain, from the text itself or the file that it names.

    In a file names are separated by commas, blanks or line ends; a ``#`` starts a comment. One name is that of a
    file where it has the signs of a path, or there is such a file.

    Examples
    --------
    >>> parse_domains("`domains`", "rack0,rack0,rack1"), parse_domains("`domains`", "rack0")
    (['rack0', 'rack0', 'rack1'], ['rack0'])
    """
    if os.path.exists(text) or not re.fullmatch(r"[\w -]*|[^,]*,.*", text, re.DOTALL) or not text:
        from lazsim.files.reading import read_lines

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
    what = "number of tokens, and there is no such file; give numbers from 0 up"
    return _floats(field, text, sys.float_info.max, what)


def _floats(field: str, text: str, most: float, what: str) -> list[float]:
    """Read numbers from 0 to `most`, separated by commas; an error says that a part is none of what they are."""
    numbers = []
    for part in _numbers(field, text):
        number = math.nan
        with suppress(ValueError):
            number = units.read_number(part)
        if not 0 <= number <= most:
            raise SpecError(f"{field} {text}: {part!r} is no {what}")
        numbers.append(number)
    return numbers


def _numbers(field: str, text: str) -> list[str]:
    """Split a list of numbers; a part such as ``000`` was one with its thousands apart."""
    parts = _parts(text)
    for part in filter(GROUP_TEXT.fullmatch, parts):
        raise SpecError(
            f"{field} {shorten(text)}: {shorten(part)!r} begins with 0; commas part numbers, as 1000,2 does"
        )
    return parts


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _match(pattern: re.Pattern[str], part: str, field: str, text: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(part)
    if match is None:
        raise SpecError(
            f"{field} {shorten(text)}: {shorten(part)!r} is no whole number from 0 up; give them as {example}"
        )
    return match
