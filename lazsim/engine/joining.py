"""The nodes that are to join a job: until when they are collected, and which must get ready before."""

from collections.abc import Callable, Collection, Iterable

import simpy

from lazsim.engine.clock import Activity, Clock
from lazsim.engine.nodes import Nodes
from lazsim.engine.protocol import Newcomers
from lazsim.trace.table import Batch


class Joining(Newcomers):
    """Collects nodes that come until they may join, which is when `on_due` is called.

    Spares that were called, which take `spare_start_s` to start, join at once. Under some systems nodes form whole
    replicas that get ready beside training before they join.
    """

    def __init__(
        self, env: Clock, nodes: Nodes, join_wait_s: float, spare_start_s: float, on_due: Callable[[], None]
    ) -> None:
        super().__init__(join_wait_s, lambda: env.now)
        self._env, self._nodes, self._spare_start_s, self._on_due = env, nodes, spare_start_s, on_due
        self.dropped: set[str] = set()
        """Nodes alive that the job has left out, though they held states, since all started anew."""
        self.forming: list[tuple[str, ...]] = []
        """Replicas on their way into the job. Those of them that are ready are in service."""
        self._starts: list[tuple[float, tuple[str, ...], simpy.Process]] = []

    def change(self, batch: Batch, called: tuple[str, ...]) -> None:
        """Let nodes go and come, and spares be called for them."""
        for replica in [one for one in self.forming if not set(one).isdisjoint(batch.removed)]:
            # Its other nodes form another one with the next that are there.
            self.forming.remove(replica)
            self._start(replica)
        self.dropped.difference_update(batch.removed)
        self.remove(batch.removed)
        if came := [node for node in batch.added if self._nodes.serves(node)]:
            if not self._collected:
                self._env.process(self._hear_in(self._wait_s))
            self.add(came)
        if called and self._spare_start_s:
            start = self._env.process(self._start_later(called, self._spare_start_s))
            self._starts.append((self._env.now + self._spare_start_s, called, start))
        elif called:
            self._start(called)

    def spares_within(self, seconds: float) -> tuple[int, simpy.Event | None]:
        """Return how many of the spares that were called start within some seconds, and the start of the last."""
        until_s = self._env.now + seconds
        starting = [(len(self._nodes.starting(one)), start) for due_s, one, start in self._starts if due_s <= until_s]
        soon = [(number, start) for number, start in starting if number]
        return sum(number for number, _ in soon), soon[-1][1] if soon else None

    def get_ready(self, replica: tuple[str, ...], seconds: float) -> None:
        """Take the nodes of a replica out of service until they are ready to join."""
        self._nodes.call(replica)
        self.forming.append(replica)
        self._env.process(self._start_later(replica, seconds))

    def give_up(self) -> None:
        """Put nodes that were getting ready into service, as there is no one left whom they could join."""
        for replica in self.forming:
            self._nodes.start(replica)
        self.forming.clear()

    def leave(self, before: Iterable[str], held: Collection[str]) -> None:
        """Note which of the nodes before are left out, and that those that now hold states have joined."""
        self.dropped = (self.dropped | set(before)) - set(held)
        self.forming = [replica for replica in self.forming if replica[0] not in held]

    def ready(self, held: Iterable[str]) -> tuple[str, ...]:
        """Return the nodes that are in service, of these and those that got ready."""
        return tuple(node for group in (held, *self.forming) for node in group if self._nodes.serves(node))

    def _start_later(self, called: tuple[str, ...], seconds: float) -> Activity:
        yield self._env.timeout(seconds)
        self._start(called)

    def _start(self, called: tuple[str, ...]) -> None:
        """Put nodes into service, which wait for no others to join."""
        if started := self._nodes.start(called):
            self.at_next_boundary(started)
            self._env.process(self._hear_in(0.0))

    def _hear_in(self, seconds: float) -> Activity:
        yield self._env.timeout(seconds)
        if self.due_s == self._env.now:
            self._on_due()
