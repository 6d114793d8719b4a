"""Progress of live runs, as a bar on stderr where that is a terminal."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lazsim.live.coordinator import Coordinator
    from lazsim.live.run import OnStart
    from lazsim.live.validate import ShowProgress

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
