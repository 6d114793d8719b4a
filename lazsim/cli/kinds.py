"""Kinds of values that options take: times with units, numbers in a range, places to write to."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from lazsim import limits, units
from lazsim.errors import LazsimError

STDOUT = "-"
"""Path that stands for stdout."""


class Duration(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """An option that takes a time with a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text of the option."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return units.parse_duration(value)
        except LazsimError as error:
            self.fail(str(error), param, ctx)


class OutPath(click.Path):
    """An option that takes a place to write to; an empty text, as of an unset variable, is refused.

    A file is refused before any work where it cannot be written, or its name has none of the `suffixes`; ``-`` is
    stdout where that is allowed.
    """

    def __init__(self, *, is_file: bool = False, stdout: bool = False, suffixes: Collection[str] = ()) -> None:
        super().__init__(path_type=Path)
        self.is_file, self._stdout, self._suffixes = is_file, stdout, suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make a path of the text of the option."""
        if value == "":
            self.fail("is empty; give a place to write to", param, ctx)
        if value == STDOUT and not self._stdout:
            self.fail("'-' is stdout, which does not take this; give a path", param, ctx)
        path: Any = super().convert(value, param, ctx)
        if self.is_file and value != STDOUT:
            from lazsim.files import check_file

            check_file(path)
            if self._suffixes and path.suffix.lower() not in self._suffixes:
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
        from lazsim.folders import hold_folder, refuse_foreign

        folder = super().convert(value, param, ctx)
        assert ctx is not None, "options are read for a command"
        ctx.obj.enter_context(hold_folder(folder))
        refuse_foreign(folder, self._names)
        return folder


class Whole(click.IntRange):
    """An option that takes a whole number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number from {self.min:,} to {self.max:,}, found {value!r}", param, ctx)


class Number(click.FloatRange):
    """An option that takes a finite number in a range: NaN is in none, though click does not say so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text of the option."""
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            low = f"above {self.min:g}" if self.min_open else f"from {self.min:g}"
            high = "up" if self.max is None else f"{'to less than' if self.max_open else 'to'} {self.max:g}"
            bounds = low if self.min_open and self.max is None else f"{low} {high}"
            self.fail(f"expected a number {bounds}, found {value!r}", param, ctx)
        return number


OUT_PATH = OutPath()
OUT_FILE = OutPath(is_file=True)
OUT_FILE_OR_STDOUT = OutPath(is_file=True, stdout=True)
OUT_PICTURE = OutPath(is_file=True, suffixes=(".png", ".pdf"))
DURATION = Duration()

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
