"""What happens to the workers of this machine: a trace, or whatever else starts and kills them."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

from lazsim.live.controller import Controller
from lazsim.live.messages import LiveError
from lazsim.live.nursery import Birth, Nursery
from lazsim.trace.table import Trace

WATCH_S = 0.5
"""How often to look whether there is still somebody to do the job."""


@dataclass
class Machine:
    """Workers of one run on this machine; what a trace, or a test, does to them."""

    controller: Controller
    nursery: Nursery
    log: Path
    _births: dict[str, int] = field(default_factory=dict)
    _local_ranks: dict[str, int] = field(default_factory=dict)

    def start(self, node: str) -> None:
        """Start a worker for a node; each time under a name of its own, and with the first number that is free."""
        self._births[node] = self._births.get(node, 0) + 1
        taken = set(self._local_ranks.values())
        self._local_ranks[node] = next(number for number in count() if number not in taken)
        self.nursery.start(
            Birth(
                self.controller.host,
                self.controller.port,
                self._worker(node),
                self._local_ranks[node],
                self.controller.secret.hex(),
                str(self.log),
            )
        )

    def kill(self, node: str) -> None:
        """Kill the worker of a node."""
        name = self._worker(node)
        self.controller.record.killed_s[name] = self.controller.now_s()
        self.nursery.kill(name)
        self._local_ranks.pop(node, None)

    def _worker(self, node: str) -> str:
        number = self._births[node]
        return node if number == 1 else f"{node}#{number}"

    async def watch(self, play: "Play") -> None:
        """End the job when there is nobody left to do it, or too few are and nothing is to come."""
        controller = self.controller
        while True:
            await asyncio.sleep(WATCH_S)
            num_left = max(len(controller.peers), self.nursery.num_workers)
            if not self.nursery.is_alive:
                controller.stop("the process that starts workers has ended")
            elif not num_left and (self._local_ranks or not play.has_more):
                # Of their own accord: those that were killed have no number any more.
                controller.stop("all workers have ended")
            elif not play.has_more and not controller.system.usable_nodes(controller.costs, num_left):
                controller.stop(f"{num_left} workers are left, too few to hold all experts, and none is to come")


class Play(Protocol):
    """What happens to the nodes of a run."""

    @property
    def has_more(self) -> bool:
        """Whether anything is yet to come: nodes, or an end that is waited for."""
        ...

    def begin(self, machine: Machine) -> None:
        """Start the first nodes."""

    async def happen(self, machine: Machine, what: str, epoch: int, step: int) -> None:
        """Act on what the controller tells of; see `lazsim.live.listener.Happening`."""


class TracePlay:
    """Starts and kills workers as a trace says, so many times as fast.

    Parameters
    ----------
    trace
        What happens to the nodes; those of its first instant are there from the start.
    speedup
        Seconds of the trace in a second of the run.
    is_awaited
        Whether the job goes on to the trace's end, also when too few nodes are left.
    """

    def __init__(self, trace: Trace, speedup: float, *, is_awaited: bool = True) -> None:
        self._batches = list(trace.batches())
        self._speedup = speedup
        self._is_awaited = is_awaited
        self._end_s = trace.duration_s / speedup
        self._task: asyncio.Task[None] | None = None
        self.has_more = True
        first = self._batches[0] if self._batches else None
        self.initial = first.added if first is not None and first.time_s == 0 else ()

    def begin(self, machine: Machine) -> None:
        """Start the nodes of the first instant."""
        for node in self.initial:
            machine.start(node)

    async def happen(self, machine: Machine, what: str, _epoch: int, _step: int) -> None:
        """Begin with the trace when the job does."""
        if what == "started":
            self._task = asyncio.create_task(self._play(machine))

    async def _play(self, machine: Machine) -> None:
        try:
            await self._act(machine)
        except LiveError as error:
            machine.controller.stop(str(error))

    async def _act(self, machine: Machine) -> None:
        for batch in self._batches[1 if self.initial else 0 :]:
            await asyncio.sleep(batch.time_s / self._speedup - machine.controller.now_s())
            for node in batch.removed:
                machine.kill(node)
            for node in batch.added:
                machine.start(node)
        self.has_more = self._is_awaited
        await asyncio.sleep(self._end_s - machine.controller.now_s())
        machine.controller.stop()
