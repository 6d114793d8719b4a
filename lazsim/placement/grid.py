"""Nodes of a job by pipeline stage, and plans over them.

Axes: L MoE layers, E experts, N nodes, P stages or parts of their dense states.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lazsim.placement.plan import Bools, Ints, PlacementPlan


@dataclass(frozen=True, eq=False)
class Grid:
    """How a job uses nodes: each pipeline stage has equally many, which follow each other in a plan."""

    stage_L: Ints
    """Stage of each MoE layer."""
    num_stages: int
    """Pipeline stages."""
    unit_nodes: int
    """Nodes of a stage in a model replica under plain expert parallelism: they hold its experts once, or more often
    where other ranks take more nodes."""
    column_nodes: int = 1
    """Nodes that divide sequences and matrices among them: a stage has a multiple of these."""
    matrix_nodes: int = 1
    """Of these, nodes that divide matrices: each has another part of the dense state of its stage."""

    @property
    def replica_nodes(self) -> int:
        """Nodes that hold the whole model once under plain expert parallelism."""
        return self.num_stages * self.unit_nodes

    def stage_N(self, num_nodes: int) -> Ints:
        """Return the stage of each node of a plan.

        Examples
        --------
        >>> Grid(np.array([0, 0, 1, 1]), num_stages=2, unit_nodes=1).stage_N(4).tolist()
        [0, 0, 1, 1]
        """
        return np.arange(num_nodes) * self.num_stages // num_nodes

    def replica_N(self, num_nodes: int) -> Ints:
        """Return the model replica of each node of a plan under plain expert parallelism.

        Examples
        --------
        >>> Grid(np.array([0, 0, 1, 1]), num_stages=2, unit_nodes=1).replica_N(4).tolist()
        [0, 1, 0, 1]
        """
        return np.arange(num_nodes) % (num_nodes // self.num_stages) // self.unit_nodes

    def by_replica_N(self, num_nodes: int) -> Ints:
        """Return the nodes of a plan, those of a model replica after each other.

        Examples
        --------
        >>> Grid(np.array([0, 0, 1, 1]), num_stages=2, unit_nodes=1).by_replica_N(4).tolist()
        [0, 2, 1, 3]
        """
        return np.argsort(self.replica_N(num_nodes), kind="stable")

    def place(
        self,
        load_LE: Ints,
        num_nodes: int,
        place_layers: Callable[[Ints, Ints], PlacementPlan],
        *,
        layers_alone: bool = False,
    ) -> PlacementPlan:
        """Plan each stage on its own nodes; slots of other stages' layers stay empty.

        Parameters
        ----------
        load_LE
            Loads of the MoE layers, once or several times one after the other.
        place_layers
            From the loads of a stage's layers and its nodes to their plan.
        layers_alone
            Whether the plan of a layer depends on that layer and the number of nodes alone. All stages are then planned
            at once, as if on the nodes of the first, which is several times faster.
        """
        if self.num_stages == 1:
            return place_layers(load_LE, np.arange(num_nodes))
        per_stage = num_nodes // self.num_stages
        stage_R = np.tile(self.stage_L, len(load_LE) // len(self.stage_L))
        together = [np.arange(len(load_LE))]
        if not layers_alone:
            together = [np.flatnonzero(stage_R == stage) for stage in np.unique(stage_R)]
        parts = [
            place_layers(load_LE[rows], stage_R[rows[0]] * per_stage + np.arange(per_stage)).slots_LNS
            for rows in together
        ]
        slots_LPNS = np.full((len(load_LE), self.num_stages, *parts[0].shape[1:]), -1)
        for rows, slots in zip(together, parts, strict=True):
            slots_LPNS[rows, stage_R[rows]] = slots
        return PlacementPlan(slots_LPNS.reshape(len(load_LE), num_nodes, -1), load_LE.shape[1])

    @property
    def num_dense_parts(self) -> int:
        """Parts of the dense state that are on different nodes."""
        return self.num_stages * self.matrix_nodes

    def holds_dense_PN(self, num_nodes: int) -> Bools:
        """Return whether a node of a plan holds a part of the dense state, those of a stage in a row, shape (P, N).

        Examples
        --------
        >>> grid = Grid(np.array([0]), num_stages=1, unit_nodes=2, column_nodes=2, matrix_nodes=2)
        >>> grid.holds_dense_PN(4).astype(int)
        array([[1, 0, 1, 0],
               [0, 1, 0, 1]])
        """
        holds: Bools = self.part_N(num_nodes, self.matrix_nodes) == np.arange(self.num_dense_parts)[:, None]
        return holds

    def part_N(self, num_nodes: int, nodes: int) -> Ints:
        """Return the part of the state of its stage that each node of a plan has, where `nodes` in a row divide it.

        Examples
        --------
        >>> Grid(np.array([0, 1]), num_stages=2, unit_nodes=2).part_N(8, 2).tolist()
        [0, 1, 0, 1, 2, 3, 2, 3]
        """
        place_N = np.arange(num_nodes) % (num_nodes // self.num_stages)
        return self.stage_N(num_nodes) * nodes + place_N % nodes
