"""Progress of many runs and of live ones, as a bar on stderr where that is a terminal."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lazsim.live.coordinator import Coordinator
    from lazsim.live.run import OnStart

    ShowProgress = Callable[[str, float | None], OnStart]

REFRESH_S = 0.5


@contextmanager
def live_progress() -> "Iterator[ShowProgress]":
    """Give a function that turns a run's purpose, and its seconds if they are known, into its `on_start`."""
    if not sys.stderr.isatty():
        yield lambda _purpose, _wall_s: lambda _coordinator: None
        return
    from rich.console import Console
    from rich.progress import Progress

    tasks: set[asyncio.Task[None]] = set()
    with Progress(console=Console(stderr=True), transient=True) as bar:

        def show(purpose: str, wall_s: float | None) -> "OnStart":
            def on_start(coordinator: "Coordinator") -> None:
                is_known = wall_s is not None or coordinator.spec.num_steps is not None
                line = bar.add_task(purpose, total=1.0 if is_known else None)
                task = asyncio.get_running_loop().create_task(_refresh(coordinator, bar, line, purpose, wall_s))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            return on_start

        yield show


async def _refresh(
    coordinator: "Coordinator", bar: "Progress", line: "TaskID", purpose: str, wall_s: float | None
) -> None:
    """Show steps, nodes and loss until the run is over."""
    try:
        while coordinator.server.stopped is None:
            await asyncio.sleep(REFRESH_S)
            record, last = coordinator.record, coordinator.spec.num_steps
            done = [coordinator.now_s() / wall_s] if wall_s else []
            done += [coordinator.step / last] if last else []
            loss = f", loss {record.steps[-1].loss:.3f}" if record.steps else ""
            text = f"{purpose}: step {coordinator.step}, {record.num_used} nodes{loss}"
            bar.update(line, description=text, completed=max(done, default=0.0))
    finally:
        bar.remove_task(line)


@contextmanager
def progress_bar(num_done: int, num_total: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr, where that is a terminal, how many runs are done and how long the others will take."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=60) as bar:
        task = bar.add_task("runs", total=num_total, completed=num_done)
        yield lambda number: bar.advance(task, number)
