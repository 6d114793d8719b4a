"""The nodes alive, and the server in which each sits."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lazsim.trace.table import Batch


class Nodes:
    """The nodes alive now. A new node takes the lowest free place; places share servers in order."""

    def __init__(self, nodes_per_server: int) -> None:
        self._nodes_per_server = nodes_per_server
        self._place: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._place)

    def apply(self, batch: Batch) -> None:
        """Let nodes go and come."""
        for node in batch.removed:
            del self._place[node]
        taken = set(self._place.values())
        place = 0
        for node in batch.added:
            while place in taken:
                place += 1
            taken.add(place)
            self._place[node] = place

    def in_order(self) -> tuple[str, ...]:
        """Return the nodes in the order of their places."""
        return tuple(sorted(self._place, key=self._place.__getitem__))

    def servers(self, nodes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the server of each of these nodes, numbered from 0 by first appearance."""
        servers = [self._place[node] // self._nodes_per_server for node in nodes]
        number = {server: index for index, server in enumerate(dict.fromkeys(servers))}
        return np.array([number[server] for server in servers])
