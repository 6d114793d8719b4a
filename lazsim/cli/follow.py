"""How live runs get on, shown as a bar on stderr where that is a terminal."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lazsim.live.controller import Controller

    Watch = Callable[[Controller], None]
    Follow = Callable[[str, float | None], Watch]

LOOK_S = 0.5
"""How often to look how a run gets on."""


@contextmanager
def following() -> "Iterator[Follow]":
    """Give what makes, of what a run does and how many seconds it takes, if that is known, the `watch` of the run."""
    if not sys.stderr.isatty():
        yield lambda _doing, _wall_s: lambda _controller: None
        return
    from rich.console import Console
    from rich.progress import Progress

    tasks: set[asyncio.Task[None]] = set()
    with Progress(console=Console(stderr=True), transient=True) as bar:

        def follow(doing: str, wall_s: float | None) -> "Watch":
            def watch(controller: "Controller") -> None:
                is_known = wall_s is not None or controller.spec.num_steps is not None
                line = bar.add_task(doing, total=1.0 if is_known else None)
                task = asyncio.get_running_loop().create_task(_follow(controller, bar, line, doing, wall_s))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            return watch

        yield follow


async def _follow(controller: "Controller", bar: "Progress", line: "TaskID", doing: str, wall_s: float | None) -> None:
    """Show steps, nodes and loss until the run is over."""
    try:
        while controller.stopped is None:
            await asyncio.sleep(LOOK_S)
            record, last = controller.record, controller.spec.num_steps
            done = [controller.now_s() / wall_s] if wall_s else []
            done += [controller.step / last] if last else []
            loss = f", loss {record.steps[-1].loss:.3f}" if record.steps else ""
            told = f"{doing}: step {controller.step}, {record.num_used} nodes{loss}"
            bar.update(line, description=told, completed=max(done, default=0.0))
    finally:
        bar.remove_task(line)
