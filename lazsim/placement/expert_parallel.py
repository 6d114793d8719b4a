"""Plain expert parallelism: every group of GPUs holds each expert once."""

import math

import numpy as np

from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.loads import check_whole
from lazsim.placement.plan import PlacementPlan


def ep_size(num_experts: int, slots_per_gpu: int) -> int:
    """Return the size of an expert-parallel group: the fewest GPUs that hold every expert once in equal chunks.

    Examples
    --------
    >>> [ep_size(num_experts, 6) for num_experts in (8, 12, 16)]
    [2, 2, 4]
    """
    num_experts, slots_per_gpu = check_whole("num_experts", num_experts), check_whole("slots_per_gpu", slots_per_gpu)
    return next(ep for ep in range(1, num_experts + 1) if num_experts % ep == 0 and num_experts // ep <= slots_per_gpu)


def ep_unit_nodes(num_experts: int, gpus_per_node: int, slots_per_gpu: int) -> int:
    """Return the fewest whole nodes that whole expert-parallel groups fill."""
    return math.lcm(ep_size(num_experts, slots_per_gpu), gpus_per_node) // gpus_per_node


def place_ep(
    num_layers: int, num_experts: int, num_nodes: int, gpus_per_node: int, slots_per_gpu: int
) -> PlacementPlan:
    """Place by plain expert parallelism: GPU ``q`` of each group holds the ``q``-th chunk of every layer's experts.

    `num_nodes` is a multiple of `ep_unit_nodes`.

    Raises
    ------
    SpecError
        When it is no such multiple, or an argument is no whole number from 1 up.

    Examples
    --------
    >>> place_ep(1, 8, num_nodes=4, gpus_per_node=1, slots_per_gpu=6).slots_LNS[0].tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]
    """
    ep = ep_size(num_experts, slots_per_gpu)
    chunk = num_experts // ep
    num_layers, num_nodes = check_whole("num_layers", num_layers), check_whole("num_nodes", num_nodes)
    gpus_per_node = check_whole("gpus_per_node", gpus_per_node)
    if num_nodes * gpus_per_node % ep:
        unit = ep_unit_nodes(num_experts, gpus_per_node, slots_per_gpu)
        raise SpecError(f"`num_nodes` {num_nodes}: groups of {ep} GPUs hold every expert; give a multiple of {unit}")
    gpu = np.arange(num_nodes * gpus_per_node) % ep
    by_gpu = (gpu[:, None] * chunk + np.arange(chunk)).reshape(num_nodes, gpus_per_node, chunk)
    # Slot s of a node belongs to its GPU s % gpus_per_node.
    slots = by_gpu.transpose(0, 2, 1).reshape(num_nodes, -1)
    return PlacementPlan(np.broadcast_to(slots, (num_layers, *slots.shape)), num_experts)


def place_ep_on_most(
    num_layers: int, num_experts: int, num_nodes: int, num_slots: int, gpus_per_node: int = 1
) -> PlacementPlan:
    """Place by plain expert parallelism on the most nodes that whole groups fill; the others stay empty.

    All GPUs have equally many of a node's slots, the rest stay empty. An `InfeasiblePlanError` says that a GPU has no
    slot, or that there are too few nodes for equal chunks of the experts.

    Examples
    --------
    >>> place_ep_on_most(1, 4, num_nodes=3, num_slots=3).slots_LNS.tolist()
    [[[0, 1, -1], [2, 3, -1], [-1, -1, -1]]]
    """
    slots_per_gpu = num_slots // gpus_per_node
    if not slots_per_gpu:
        raise InfeasiblePlanError(
            f"plain expert parallelism needs a slot on every GPU, but nodes have {num_slots} for {gpus_per_node} GPUs"
        )
    unit = ep_unit_nodes(num_experts, gpus_per_node, slots_per_gpu)
    num_used = num_nodes // unit * unit
    if not num_used:
        raise InfeasiblePlanError(
            f"plain expert parallelism needs {unit} nodes to hold {num_experts} experts in equal chunks of at most "
            f"{slots_per_gpu} on a GPU, and there are {num_nodes}"
        )
    used = place_ep(num_layers, num_experts, num_used, gpus_per_node, slots_per_gpu).slots_LNS
    slots_LNS = np.full((num_layers, num_nodes, num_slots), -1)
    slots_LNS[:, :num_used, : used.shape[2]] = used
    return PlacementPlan(slots_LNS, num_experts)
