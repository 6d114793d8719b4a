"""Nodes that hold the training state."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from lazsim.placement.grid import Grid
from lazsim.placement.plan import Bools, PlacementPlan, is_recoverable


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan that is made when it is asked for: by `make`, from its nodes and the steps made before its loads.

    It has the `domains` of its nodes where plans depend on them. Where there are `doubled_stages`, each node of these
    pipeline stages also holds the states of its place in the next one.
    """

    num_nodes: int
    step: int
    """Steps made before it."""
    make: Callable[[int, int], PlacementPlan]
    domains: tuple[int, ...] | None = None
    doubled_stages: int = 0
    loads_step: int = 0
    """Steps made before the loads that it follows: as many, or others where these stand for its own."""

    @cached_property
    def plan(self) -> PlacementPlan:
        """The plan."""
        return self.make(self.num_nodes, self.loads_step)

    @cached_property
    def holds_LEN(self) -> Bools:
        """Whether each node of the plan holds each expert, shape (L, E, N)."""
        holds_LEN = self.plan.holds_LEN
        if not self.doubled_stages:
            return holds_LEN
        doubled: Bools = holds_LEN | np.roll(holds_LEN, -(self.num_nodes // self.doubled_stages), axis=2)
        return doubled

    def dense_PN(self, grid: Grid) -> Bools:
        """Return whether each node of the plan holds each part of the dense state, shape (P, N)."""
        dense_PN = grid.holds_dense_PN(self.num_nodes)
        return dense_PN | np.roll(dense_PN, grid.matrix_nodes, axis=0) if self.doubled_stages else dense_PN


@dataclass(frozen=True, eq=False)
class Held:
    """Nodes that hold the training state, and the plan that says which part of it; None without nodes."""

    nodes: tuple[Any, ...] = ()
    """The nodes, in the order of their seats: names, or the connections of a live job."""
    made: Planned | None = None
    """The plan as it was made."""
    seats: tuple[int, ...] = ()
    """The node of the plan that each of them is."""
    begun: tuple[int, ...] = ()
    """Seats that had nodes when these last went on together."""

    @classmethod
    def full(cls, nodes: Sequence[Any], plan: Planned, seats: Sequence[int] | None = None) -> "Held":
        """Return nodes that go on together: all nodes of a plan, or those of these seats."""
        taken = tuple(range(len(nodes)) if seats is None else seats)
        return cls(tuple(nodes), plan, taken, taken)

    @cached_property
    def plan(self) -> PlacementPlan | None:
        """The part of the plan that is left, in the order of `nodes`."""
        if self.made is None:
            return None
        return self.made.plan if self.is_whole else self.made.plan.nodes(self.seats)

    @cached_property
    def holds_LEN(self) -> Bools:
        """Whether each of the nodes holds each expert, shape (L, E, N)."""
        assert self.made is not None, "some nodes hold states"
        return self.made.holds_LEN if self.is_whole else self.made.holds_LEN.take(self.seats, axis=2)

    @property
    def num_seats(self) -> int:
        """Nodes of the plan as it was made."""
        return self.made.num_nodes if self.made is not None else 0

    @property
    def size(self) -> tuple[int, int]:
        """Nodes that are there, and nodes of the plan as it was made."""
        return len(self.nodes), self.num_seats

    @property
    def is_whole(self) -> bool:
        """Whether every node of the plan is there."""
        return len(self.nodes) == self.num_seats

    @cached_property
    def alive_N(self) -> Bools:
        """Whether each node of the plan as it was made is there, shape (N,)."""
        alive_N = np.zeros(self.num_seats, dtype=np.bool_)
        alive_N[list(self.seats)] = True
        return alive_N

    def is_complete(self, grid: Grid) -> bool:
        """Tell whether every expert, and every part of the dense state, is on some node."""
        return self.has_dense(grid) and is_recoverable(self.holds_LEN)

    def has_dense(self, grid: Grid) -> bool:
        """Tell whether every part of the dense state is on some node."""
        return self.made is not None and bool(self.dense_PN(grid).any(axis=1).all())

    def dense_PN(self, grid: Grid) -> Bools:
        """Return whether each of the nodes holds each part of the dense state, shape (P, N)."""
        assert self.made is not None, "some nodes hold states"
        return self.made.dense_PN(grid).take(self.seats, axis=1)

    def without(self, failed: Collection[Any]) -> "Held":
        """Return what is left when nodes fail."""
        left = set(self.nodes).difference(failed)
        return self if len(left) == len(self.nodes) else self.only(left)

    def only(self, kept: Collection[Any]) -> "Held":
        """Return what some of the nodes hold."""
        chosen = set(kept)
        pairs = [(node, seat) for node, seat in zip(self.nodes, self.seats, strict=True) if node in chosen]
        return replace(self, nodes=tuple(node for node, _ in pairs), seats=tuple(seat for _, seat in pairs))

    def going_on(self, nodes: Sequence[Any], free_seats: Sequence[int]) -> "Held":
        """Return these of the nodes, the last of which are new and take seats that are free."""
        num_kept = len(nodes) - len(free_seats)
        kept, newcomers = self.only(nodes[:num_kept]), nodes[num_kept:]
        in_seat = dict(zip(kept.seats, kept.nodes, strict=True)) | dict(zip(free_seats, newcomers, strict=True))
        seats = tuple(sorted(in_seat))
        return replace(self, nodes=tuple(in_seat[seat] for seat in seats), seats=seats, begun=seats)


NOTHING = Held()
"""No node holds anything that counts."""
