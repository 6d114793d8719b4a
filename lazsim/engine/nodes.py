"""The nodes alive, those of them on standby, and the server in which each sits."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lazsim.trace.table import Batch


class Spares(NamedTuple):
    """Nodes on standby: held, alive and not training."""

    most_in_service: int | None = None
    """Nodes that a job may use; those beyond them are spares. None where it may use all."""
    start_s: float = 0.0
    """Seconds from the call of a spare until it is in service: 0 for a warm standby."""


NO_SPARES = Spares()


class Nodes:
    """The nodes alive now, by their `places`, which share servers in order; see `lazsim.trace.table.Trace.places`.

    Of more than `most_in_service` nodes, the others are spares on standby, from which the oldest are called for those
    that go.
    """

    def __init__(
        self, places: Mapping[str, int], nodes_per_server: int = 1, most_in_service: int | None = None
    ) -> None:
        self._place = places
        self._nodes_per_server = nodes_per_server
        self._most_in_service = most_in_service
        self._alive: dict[str, None] = {}
        self._standby: dict[str, None] = {}
        self._called: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._alive)

    def apply(self, batch: Batch) -> tuple[str, ...]:
        """Let nodes go and come; return the spares that are called, which are in service when they have started."""
        for node in batch.removed:
            del self._alive[node]
            self._standby.pop(node, None)
            self._called.pop(node, None)
        called = tuple(self._standby)[: self._room()]
        for node in called:
            del self._standby[node]
        self.call(called)
        for node in batch.added:
            if self._room() == 0:
                self._standby[node] = None
            self._alive[node] = None
        return called

    def call(self, called: tuple[str, ...]) -> None:
        """Take nodes out of service until they `start`."""
        self._called |= dict.fromkeys(called, called)

    def starting(self, called: Sequence[str]) -> tuple[str, ...]:
        """Return those of some spares called together that are on their way."""
        # One that came back may have been called again, and starts later.
        return tuple(node for node in called if self._called.get(node) is called)

    def start(self, called: Sequence[str]) -> tuple[str, ...]:
        """Put spares into service that were called together; return those of them that did not go meanwhile."""
        started = self.starting(called)
        for node in started:
            del self._called[node]
        return started

    def serves(self, node: str) -> bool:
        """Tell whether a node is alive and neither on standby nor on its way from there."""
        return node in self._alive and node not in self._standby and node not in self._called

    def in_order(self) -> tuple[str, ...]:
        """Return the nodes in service in the order of their places."""
        in_service = self._alive.keys() - self._standby.keys() - self._called.keys()
        return tuple(sorted(in_service, key=self._place.__getitem__))

    def domains(self, nodes: Sequence[str], nodes_per_domain: int) -> tuple[int, ...]:
        """Return the failure domain of each of these nodes: that of its place."""
        return tuple(self._place[node] // nodes_per_domain for node in nodes)

    def domains_from(self, first: Sequence[str], nodes_per_domain: int) -> tuple[int, ...]:
        """Return the failure domain of each node alive: of these first, as far as they are, then of the others."""
        order = dict.fromkeys(node for node in (*first, *self._alive) if node in self._alive)
        return self.domains(tuple(order), nodes_per_domain)

    def _room(self) -> int | None:
        """Return how many nodes may still come into service; None where there is no limit."""
        if self._most_in_service is None:
            return None
        return max(0, self._most_in_service - (len(self._alive) - len(self._standby)))

    def servers(self, nodes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the server of each of these nodes, numbered from 0 by first appearance."""
        if self._nodes_per_server == 1:
            return np.arange(len(nodes))
        servers = [self._place[node] // self._nodes_per_server for node in nodes]
        number = {server: index for index, server in enumerate(dict.fromkeys(servers))}
        return np.array([number[server] for server in servers])
