"""A placement plan: which expert sits in which slot of which node.

Axes: L layers, E experts, N nodes, S slots of a node, G GPUs, K slots of a GPU.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError
from lazsim.loads import as_array, check_whole
from lazsim.row_blocks import CACHED_ELEMENTS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view of an array that nobody can write to."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class PlacementPlan:
    """The replicas that every node holds.

    Raises
    ------
    SpecError
        When a slot holds no known expert, or the slots are no integers of shape (L, N, S).

    Examples
    --------
    >>> plan = PlacementPlan(np.array([[[0, 1], [1, 1]]]), num_experts=2)
    >>> plan.replicas_LEN.tolist()
    [[[1, 0], [1, 2]]]
    """

    slots_LNS: Ints
    """Expert in each slot, -1 where it is empty; read-only. An array of int64 is not copied."""
    num_experts: int
    """Experts of a layer."""

    def __post_init__(self) -> None:
        """Check the slots, since an expert beyond the last would count as one of the next layer."""
        object.__setattr__(self, "num_experts", check_whole("num_experts", self.num_experts))
        slots = as_array("slots_LNS", self.slots_LNS)
        if slots.ndim != 3:
            raise SpecError(f"`slots_LNS`: expected shape (layers, nodes, slots), found {slots.shape}")
        if slots.dtype.kind not in "iu":
            raise SpecError(f"`slots_LNS`: slots hold {slots.dtype}, not integers; -1 stands for an empty slot")
        if slots.size and not (slots.min() >= -1 and slots.max() < self.num_experts):
            layer, node, slot = np.argwhere((slots < -1) | (slots >= self.num_experts))[0]
            held, known = slots[layer, node, slot], f"experts are 0 to {self.num_experts - 1}"
            where = f"slot {slot} of node {node} in layer {layer}"
            raise SpecError(f"`slots_LNS`: {where} holds {held}; {known}, -1 stands for an empty slot")
        object.__setattr__(self, "slots_LNS", read_only(slots.astype(np.int64, copy=False)))

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.slots_LNS.shape[0])

    @property
    def num_nodes(self) -> int:
        """Nodes of the plan."""
        return int(self.slots_LNS.shape[1])

    # Plans are kept for long, so that arrays many times as large as the slots are made when they are asked for.

    def _filled(self) -> Ints:
        """Return where the expert of each filled slot is in an array of shape (L, E, N)."""
        cells: Ints = self.slots_LNS + np.arange(0, self.num_layers * self.num_experts, self.num_experts)[:, None, None]
        cells *= self.num_nodes
        cells += np.arange(self.num_nodes)[:, None]
        return cells.ravel() if self.slots_LNS.min(initial=0) >= 0 else cells[self.slots_LNS >= 0]

    @property
    def replicas_LEN(self) -> Ints:
        """Replicas of each expert on each node, shape (L, E, N)."""
        shape = self.num_layers, self.num_experts, self.num_nodes
        counts: Ints = np.bincount(self._filled(), minlength=math.prod(shape))
        return counts.reshape(shape)

    @cached_property
    def replicas_LE(self) -> Ints:
        """Replicas of each expert over all nodes, shape (L, E)."""
        unlike, _ = self.unlike_nodes
        # Empty slots are of an expert more, before the first.
        num_layers, _, num_slots = self.slots_LNS.shape
        cells = unlike.slots_LNS + 1 + (self.num_experts + 1) * np.arange(num_layers)[:, None, None]
        counts = np.bincount(cells.ravel(), self._num_alike_LC.repeat(num_slots), num_layers * (self.num_experts + 1))
        return counts.reshape(num_layers, -1)[:, 1:].astype(np.int64)

    @cached_property
    def holds_LEN(self) -> Bools:
        """Whether a node holds a replica, shape (L, E, N)."""
        holds = np.zeros((self.num_layers, self.num_experts, self.num_nodes), dtype=np.bool_)
        holds.ravel()[self._filled()] = True
        return holds

    @cached_property
    def unlike_nodes(self) -> tuple["PlacementPlan", Ints]:
        """The first of the nodes in a row that have the same slots in a layer: many plans have runs of them.

        Layers with fewer than others repeat their first node at the end; a small plan has all its nodes. With it comes
        the index of the one that each node is like, counted on from layer to layer, shape (L, N).

        Examples
        --------
        >>> plan = PlacementPlan(np.arange(5)[:, None, None].repeat(10_000, axis=1), num_experts=5)
        >>> unlike, like_LN = plan.unlike_nodes
        >>> unlike.slots_LNS.ravel().tolist(), like_LN.shape, like_LN[:, -1].tolist()
        ([0, 1, 2, 3, 4], (5, 10000), [0, 1, 2, 3, 4])
        """
        if self.slots_LNS.size <= CACHED_ELEMENTS:
            return self.layers(slice(None)), np.arange(self.num_layers * self.num_nodes).reshape(self.num_layers, -1)
        differs_LN = differ_from_last(self.slots_LNS)
        like_LN = differs_LN.cumsum(axis=1) - 1
        layer, node = differs_LN.nonzero()
        node_LC = np.zeros((self.num_layers, int(like_LN.max()) + 1), dtype=np.int64)
        node_LC[layer, like_LN[layer, node]] = node
        layer_L1 = np.arange(self.num_layers)[:, None]
        return PlacementPlan(self.slots_LNS[layer_L1, node_LC], self.num_experts), like_LN + layer_L1 * node_LC.shape[1]

    @cached_property
    def _num_alike_LC(self) -> Ints:
        """Nodes that are like each unlike one."""
        unlike, like_LN = self.unlike_nodes
        return np.bincount(like_LN.ravel(), minlength=self.num_layers * unlike.num_nodes).reshape(self.num_layers, -1)

    @cached_property
    def num_held_N(self) -> Ints:
        """Experts of all layers that each node holds, shape (N,)."""
        unlike, like_LN = self.unlike_nodes
        held: Ints = unlike.holds_LEN.sum(axis=1).take(like_LN).sum(axis=0)
        return held

    @cached_property
    def nodes_LE(self) -> Ints:
        """Nodes that each expert is on, shape (L, E)."""
        unlike, _ = self.unlike_nodes
        # float32 counts exactly up to 2**24.
        nodes: Ints = (unlike.holds_LEN @ self._num_alike_LC[:, :, None].astype(np.float32))[:, :, 0].astype(np.int64)
        return nodes

    @property
    def fewest_nodes(self) -> int:
        """The fewest nodes that any expert is on: fewer failures than these lose no expert."""
        return int(self.nodes_LE.min())

    def layers(self, some: slice) -> "PlacementPlan":
        """Keep some layers only."""
        return PlacementPlan(self.slots_LNS[some], self.num_experts)

    def nodes(self, columns: npt.ArrayLike) -> "PlacementPlan":
        """Keep some nodes only, in the order given by their indices."""
        return PlacementPlan(self.slots_LNS[:, np.asarray(columns, dtype=np.int64)], self.num_experts)

    def with_slots(self, num_slots: int) -> "PlacementPlan":
        """Give every node empty slots until it has this number."""
        num_empty = num_slots - self.slots_LNS.shape[2]
        slots_LNS = np.pad(self.slots_LNS, ((0, 0), (0, 0), (0, num_empty)), constant_values=-1)
        return PlacementPlan(slots_LNS, self.num_experts)

    def check(self, replicas_LE: Ints | None = None) -> "PlacementPlan":
        """Assert what holds of every plan of a policy, and that it places the allocation `replicas_LE`, if given.

        Raises
        ------
        AssertionError
            When an expert of a layer has no replica, or the replicas placed are not those allocated.
        """
        assert self.replicas_LE.min() >= 1, "every expert of every layer has a replica"
        if replicas_LE is not None:
            assert np.array_equal(self.replicas_LE, replicas_LE), "every allocated replica is placed, and no other"
        return self


def differ_from_last(entries: npt.NDArray[Any]) -> Bools:
    """Tell which entries of rows, numbers or vectors, differ from the one before; the first of a row always does.

    Examples
    --------
    >>> differ_from_last(np.array([[0, 0, 1], [1, 1, 1]])).tolist()
    [[True, False, True], [True, False, False]]
    """
    # A comparison of all entries in a row is several times faster than one of each row.
    in_a_row, differ = entries.reshape(-1, *entries.shape[2:]), np.empty(entries.shape, dtype=np.bool_)
    np.not_equal(in_a_row[1:], in_a_row[:-1], out=differ.reshape(in_a_row.shape)[1:])
    differ[:, :1] = True
    if differ.ndim > 2:
        differ = np.logical_or.reduce(differ, axis=2)
    return differ


def unique_rows(rows: Bools) -> tuple[Bools, Ints]:
    """Return the distinct rows, and for each row given its index among them."""
    if rows.shape[1] == 0:
        return rows[:1], np.zeros(len(rows), dtype=np.int64)
    packed = np.packbits(rows, axis=1)
    keys = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], inverse


def gpu_slots(plan: PlacementPlan, gpus_per_node: int) -> Ints:
    """Return the slots of a plan by GPU, shape (L, G, K); slot ``s`` of a node belongs to GPU ``s % gpus_per_node``."""
    num_layers, num_nodes, _ = plan.slots_LNS.shape
    by_gpu = plan.slots_LNS.reshape(num_layers, num_nodes, -1, gpus_per_node).swapaxes(2, 3)
    return by_gpu.reshape(num_layers, num_nodes * gpus_per_node, -1)


def node_slots(slots_LGK: Ints, num_experts: int, gpus_per_node: int) -> PlacementPlan:
    """Undo `gpu_slots`."""
    num_layers, num_gpus, per_gpu = slots_LGK.shape
    by_node = slots_LGK.reshape(num_layers, num_gpus // gpus_per_node, gpus_per_node, per_gpu).swapaxes(2, 3)
    return PlacementPlan(by_node.reshape(num_layers, num_gpus // gpus_per_node, -1), num_experts)


def count_replicas(slots_GK: Ints, num_experts: int) -> Ints:
    """Count the replicas of each expert on each GPU, shape (E + 1, G); the last row counts empty slots."""
    num_gpus = len(slots_GK)
    row_GK = np.where(slots_GK < 0, num_experts, slots_GK)
    bins = row_GK * num_gpus + np.arange(num_gpus)[:, None]
    return np.bincount(bins.ravel(), minlength=(num_experts + 1) * num_gpus).reshape(-1, num_gpus)


def with_more_nodes(holds_LEN: Bools, num_more: int) -> Bools:
    """Add nodes that hold nothing."""
    if not num_more:
        return holds_LEN
    return np.concatenate([holds_LEN, np.zeros((*holds_LEN.shape[:2], num_more), dtype=np.bool_)], axis=2)


def is_recoverable(holds_LEN: Bools) -> bool:
    """Tell whether every expert of every layer is on some of the nodes, which hold `holds_LEN`."""
    return bool(holds_LEN.any(axis=2).all())
