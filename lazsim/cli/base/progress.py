"""What a command is doing, and how far it is, on stderr where that is a terminal."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from lazsim.errors import printable

STATUS = "lazsim.status"
"""Place in the context of a command of what it shows until its progress bar."""

ItemT = TypeVar("ItemT")


def _can_show_progress() -> bool:
    """Tell whether stderr is a terminal that can go back."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def working(doing: str = "reading inputs and choosing layouts") -> Iterator[None]:
    """Show on stderr, where that is a terminal that can go back, what is being done, until a progress bar follows."""
    if not _can_show_progress():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(doing) as status:
        click.get_current_context().meta[STATUS] = status
        yield


@contextmanager
def progress_bar(num_done: int, num_total: int | None, doing: str = "runs") -> Iterator[Callable[..., None]]:
    """Show on stderr, where that is a terminal that can go back, the runs that are done and the time for the others.

    Yield what is called with the runs, or parts of them, done since the last call, and the name of the next if it is to
    be told. How many there are need not be known.
    """
    if not _can_show_progress():
        yield lambda *_: None
        return
    from rich import progress as rich
    from rich.console import Console

    if (status := click.get_current_context().meta.pop(STATUS, None)) is not None:
        status.stop()
    name, left = rich.TextColumn("{task.description}", markup=False), rich.TextColumn("left")
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), left)
    columns = (name, rich.BarColumn(), rich.MofNCompleteColumn(), *times)
    with rich.Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=60) as bar:
        task = bar.add_task(doing, total=num_total, completed=num_done)

        def advance(number: float, item: str = "") -> None:
            bar.update(task, advance=number, description=f"{doing} {printable(item)}" if item else None)

        yield advance


def progress(items: Iterable[ItemT], doing: str) -> Iterable[ItemT]:
    """Yield items behind a progress bar, which tells their names."""
    items = list(items)
    with progress_bar(0, len(items), doing) as advance:
        for item in items:
            advance(0, item if isinstance(item, str) else "")
            yield item
            advance(1)
