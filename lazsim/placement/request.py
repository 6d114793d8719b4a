"""The input of placement policies. Axes: L layers, E experts."""

from dataclasses import dataclass, field

import numpy as np

from lazsim.errors import SpecError
from lazsim.placement.plan import Ints


@dataclass(frozen=True, eq=False)
class PlacementRequest:
    """The input of a policy; its arrays are read-only.

    Attributes
    ----------
    replicas_LE : ndarray of int64, shape (L, E)
        Replicas allocated to each expert. A policy that allocates by itself may place others.
    num_nodes, num_slots : int
        Nodes, and replica slots of a node in one layer; replicas fill all slots.
    gpus_per_node : int
        GPUs of a node; slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``.
    load_LE : ndarray of int64, shape (L, E)
        Tokens routed to each expert; the replicas where loads are unknown.
    seed : int
        Seed of a policy that draws.
    """

    replicas_LE: Ints
    num_nodes: int
    num_slots: int
    gpus_per_node: int = 1
    load_LE: Ints = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    seed: int = 0

    def __post_init__(self) -> None:
        """Check replicas and loads, make both read-only, and take the replicas for loads that are not given."""
        replicas_LE = np.asarray(self.replicas_LE)
        load_LE = np.asarray(self.load_LE) if np.size(self.load_LE) else replicas_LE
        for name, array in (("replicas_LE", replicas_LE), ("load_LE", load_LE)):
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        _check_replicas(replicas_LE, self.num_nodes * self.num_slots)
        if load_LE is not replicas_LE:
            _check_loads(load_LE, replicas_LE.shape)


def _check_replicas(replicas_LE: Ints, num_slots: int) -> None:
    if replicas_LE.ndim != 2 or not replicas_LE.size or replicas_LE.dtype.kind not in "iu":
        found = f"{replicas_LE.dtype} of shape {replicas_LE.shape}"
        raise SpecError(f"replicas: expected integers of shape (layers, experts), found {found}")
    if replicas_LE.min() < 1:
        layer, expert = np.argwhere(replicas_LE < 1)[0]
        count = replicas_LE[layer, expert]
        raise SpecError(f"replicas: expert {expert} of layer {layer} has {count}; give each at least 1")
    placed_L = replicas_LE.sum(axis=1)
    if (placed_L != num_slots).any():
        layer = int((placed_L != num_slots).argmax())
        raise SpecError(f"replicas: {placed_L[layer]} in layer {layer} for {num_slots} slots; give {num_slots}")


def _check_loads(load_LE: Ints, shape: tuple[int, ...]) -> None:
    if load_LE.shape != shape or load_LE.dtype.kind not in "iu":
        raise SpecError(f"loads: expected integers of shape {shape}, found {load_LE.dtype} of shape {load_LE.shape}")
    if load_LE.min() < 0:
        layer, expert = np.argwhere(load_LE < 0)[0]
        count = load_LE[layer, expert]
        raise SpecError(f"loads: expert {expert} of layer {layer} has {count} tokens; give counts from 0 up")
