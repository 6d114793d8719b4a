"""Faults of a file: errors that name the place, or repairs that are counted."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lazsim.errors import LazsimError, shorten
from lazsim.files.reading import STDIN

PlaceT = TypeVar("PlaceT", int, str)
RowT = TypeVar("RowT")
FoundT = TypeVar("FoundT")

NO_SUCH_VALUE = (ValueError, OverflowError)
OTHER_SHAPE = (*NO_SUCH_VALUE, TypeError, LookupError, AttributeError, RecursionError)
"""What reading raises where a text is no such value, and where plain data has another shape."""

SKIP = "skip what cannot be read"


def check_lenient(lenient: bool, *sources: object) -> None:
    """Raise a LazsimError where the repair of files is asked for, but all sources are recipes or names."""
    files = (one for one in sources if isinstance(one, str) and not one.endswith(".toml"))
    if lenient and not any(one == STDIN or Path(one).exists() for one in files):
        raise LazsimError("`lenient` repairs files of events or loads, and none is given; leave it out")


@dataclass(frozen=True)
class Faults:
    """Faults of a file: errors of one type that name the place, or repairs to count when lenient."""

    name: str
    error: type[LazsimError]
    lenient: bool = False
    repairs: Counter[str] = field(default_factory=Counter)

    def fault(self, where: int | str, what: str, repair: str = SKIP, times: int = 1) -> None:
        """Raise an error, or count the repair when lenient.

        Parameters
        ----------
        where
            Line from 1, or another place in the file; empty or 0 for the whole file.
        what, repair
            The fault, and the repair that the caller makes after this call.
        times
            Number of such faults.
        """
        if not self.lenient:
            raise self.refuse(where, f"{what}; mend it, or use `lenient` to {repair}")
        self.repairs[repair] += times

    def readable(
        self, rows: Iterable[tuple[PlaceT, RowT]], read: Callable[[RowT], FoundT], looks: str = "", repair: str = SKIP
    ) -> Iterator[tuple[PlaceT, FoundT]]:
        """Yield the places of rows, and what a function reads in them; rows that it cannot read are faults.

        A fault says how rows look, which then may have any other shape, or else what the function says of a value.
        """
        errors = OTHER_SHAPE if looks else NO_SUCH_VALUE
        for where, row in rows:
            try:
                found = read(row)
            except errors as error:
                text = row if isinstance(row, str) else json.dumps(row) if looks else ""
                self.fault(where, f"expected {looks!r}, found {shorten(text)!r}" if looks else str(error), repair)
                continue
            yield where, found

    def refuse(self, where: int | str, what: str) -> LazsimError:
        """Return the error of what no repair mends; for its place see `fault`."""
        place = f"line {where}" if isinstance(where, int) and where else where
        return self.error(f"{self.name}{f', {place}' if place else ''}: {what}")

    def notes(self) -> tuple[str, ...]:
        """Return the repairs, a line each."""
        return tuple(
            f"lenient: {times} {'time' if times == 1 else 'times'}: {repair}" for repair, times in self.repairs.items()
        )
