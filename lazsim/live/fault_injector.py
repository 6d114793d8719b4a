"""Faults of a live run on this machine: start and kill its workers, as a trace says or in another way; two traces."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from lazsim.live.coordinator import Coordinator
from lazsim.live.worker_pool import WorkerPool
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import DAY_S, counted

GOLDEN_RATIO = (1 + 5**0.5) / 2
"""The fractional parts of its multiples spread evenly between 0 and 1."""

WATCH_INTERVAL_S = 0.2
"""Time between two looks for workers that have ended by themselves."""


@dataclass
class LocalNodes:
    """The nodes of one run on this machine, one worker process each.

    A worker has the place of its node, which `node_places` says, or else its local rank; `places` are those of all.
    """

    coordinator: Coordinator
    pool: WorkerPool
    log: Path
    node_places: Mapping[str, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)
    _local_ranks: dict[str, int] = field(default_factory=dict)

    def start(self, node: str) -> None:
        """Start a worker for a node, each time under a new name, with the lowest local rank that is free."""
        self._starts[node] = self._starts.get(node, 0) + 1
        taken = set(self._local_ranks.values())
        rank = self._local_ranks[node] = next(number for number in count() if number not in taken)
        server, record = self.coordinator.server, self.coordinator.record
        name = self._worker(node)
        self.places[name], record.started_s[name] = self.node_places.get(node, rank), self.coordinator.now_s()
        self.pool.start(name, (server.host, server.port), server.secret, rank, self.log)

    def kill(self, node: str) -> None:
        """Kill the worker of a node."""
        name = self._worker(node)
        self.coordinator.record.killed_s[name] = self.coordinator.now_s()
        self.pool.kill(name)
        self._local_ranks.pop(node, None)

    def _worker(self, node: str) -> str:
        number = self._starts[node]
        return node if number == 1 else f"{node}#{number}"

    def num_ended(self) -> int:
        """Count the workers that have ended by themselves, or were killed by others than the fault injector."""
        return sum(not self.pool.is_running(self._worker(node)) for node in self._local_ranks)

    def later(self, delay_s: float, change: Callable[..., None], *arguments: Any) -> None:
        """Make a change of the nodes after a delay, unless the run is over by then."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            change(*arguments)

        self.coordinator.server.start(wait())

    async def watch(self, injector: "FaultInjector") -> None:
        """Stop the job when too few workers are left and no more will come."""
        coordinator, server = self.coordinator, self.coordinator.server
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            num_left = max(len(server.workers), self.pool.num_workers)
            goes_on = injector.brings_nodes or injector.is_awaited
            if not num_left and self._local_ranks:
                # They ended by themselves: killed ones have no local rank. Before the first step, so would the next.
                goes_on = injector.brings_nodes and coordinator.has_trained
            if not goes_on and not num_left:
                server.stop("all workers have ended")
            elif not goes_on and not coordinator.suffice(num_left):
                server.stop(f"too few to train: {counted(num_left, 'worker')}, and none is to come")
            else:
                server.notify()


class FaultInjector(Protocol):
    """Starts and kills the nodes of a run."""

    initial: Sequence[str]
    """The first nodes."""
    places: Mapping[str, int] = {}
    """The place of each node, where it is known."""
    is_awaited: bool = False
    """Whether the run goes on to its end when it has lost too many nodes."""

    @property
    def brings_nodes(self) -> bool:
        """Whether more nodes will come."""

    def begin(self, nodes: LocalNodes) -> None:
        """Start the first nodes."""
        for node in self.initial:
            nodes.start(node)

    async def on_event(self, nodes: LocalNodes, event: str, generation: int, step: int) -> None:
        """Act on an event of the coordinator; see `lazsim.live.coordinator.OnEvent`."""


class TraceInjector(FaultInjector):
    """Starts and kills workers as a trace in seconds of the run says.

    Where `is_awaited`, the job goes on to the trace's end even when too few nodes are left.
    """

    def __init__(self, trace: Trace, *, is_awaited: bool = True) -> None:
        first, *self._batches = trace.batches()
        self.is_awaited = is_awaited
        self._end_s = trace.duration_s
        self.initial = first.added
        self.places = trace.places

    @property
    def brings_nodes(self) -> bool:
        """See `FaultInjector`."""
        return any(batch.added for batch in self._batches)

    async def on_event(self, nodes: LocalNodes, event: str, _generation: int, _step: int) -> None:
        """Begin the trace when the job begins."""
        if event == "started":
            nodes.coordinator.server.start(self._replay(nodes))

    async def _replay(self, nodes: LocalNodes) -> None:
        coordinator = nodes.coordinator
        while self._batches:
            await asyncio.sleep(self._batches[0].time_s - coordinator.now_s())
            batch = self._batches.pop(0)
            for node in batch.removed:
                nodes.kill(node)
            for node in batch.added:
                nodes.start(node)
        await asyncio.sleep(self._end_s - coordinator.now_s())
        coordinator.server.stop()


def kills_and_joins(num_nodes: int) -> Trace:
    """Return the default trace: half an hour with a failure every three minutes.

    By turns, some nodes are lost and come back, and all nodes are lost at once and come back. Some are one node, in the
    third turn two; each turn takes the next nodes, rank 0 among them. All are lost after turns of different lengths,
    so that not every rollback loses the same steps.
    """
    names = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", name) for name in names]
    for turn in range(5):
        begun_s = 360.0 * turn
        lost = {names[-(1 + turn + more) % num_nodes] for more in range(2 if turn == 2 else 1)}
        all_lost_s = 225.0 + 90.0 * (turn * GOLDEN_RATIO % 1)
        for removed_s, added_s, nodes in ((90.0, 135.0, sorted(lost)), (all_lost_s, all_lost_s + 6.0, names)):
            events += [Event(begun_s + removed_s, "remove", name) for name in nodes]
            events += [Event(begun_s + added_s, "add", name) for name in nodes]
    return build_trace(events, duration_s=1800.0, name="kills-and-joins")


def quiet_trace(num_nodes: int) -> Trace:
    """Return a trace of one day without events."""
    events = [Event(0.0, "add", f"node{index}") for index in range(num_nodes)]
    return build_trace(events, duration_s=DAY_S, name="quiet")
