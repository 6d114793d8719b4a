"""The memory that a job needs at its peak."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from lazsim.costmodel.memory import MemoryUse, fullest_share, gpu_memory
from lazsim.costmodel.step import CostModel
from lazsim.engine.layout import LayoutCosts
from lazsim.engine.planner import plan_each
from lazsim.engine.systems import System
from lazsim.placement.plan import Ints
from lazsim.routing import Routing

NUM_SAMPLES = 5
"""Steps at which memory is looked at: loads drift, and padded buffers and plans follow them."""


def peak_memory(
    system: System, costs: CostModel, routing: Routing, sizes: Collection[int], num_steps: int
) -> MemoryUse:
    """Return the most that a GPU needs on any of these numbers of nodes; see `memory_uses`."""
    uses = (use for size in sorted(sizes) for use in memory_uses(system, costs, routing, size, num_steps))
    return max(uses, key=lambda memory: memory.total)


def memory_uses(
    system: System, costs: CostModel, routing: Routing, num_nodes: int, num_steps: int, *, saving: bool = False
) -> Iterator[MemoryUse]:
    """Find what the fullest GPU needs under the plans and loads of steps spread evenly over the first `num_steps`.

    Parameters
    ----------
    num_nodes
        Nodes that the system can use.
    saving
        Whether activations are computed again in the backward pass and optimizer states are sharded over all GPUs that
        hold the same parameters (ZeRO). No system does so.
    """
    # np.unique would load numpy.ma, which takes as long as many a run.
    load_BLE = routing.loads(sorted(set(np.linspace(0, num_steps, NUM_SAMPLES, dtype=np.int64).tolist())))
    if isinstance(costs, LayoutCosts):
        yield from (layout_memory(system, costs, num_nodes, load_LE) for load_LE in load_BLE)
        return
    num_nodes = system.num_seats(costs, num_nodes)
    extra, layout = system.extra_gpu_bytes(costs, num_nodes), system.layout(costs, np.arange(num_nodes))
    for load_LE, plan in zip(load_BLE, plan_each(system, costs, num_nodes, load_BLE), strict=True):
        share = fullest_share(costs.model, costs.job, costs.cluster.gpus_per_node, plan, layout, load_LE)
        yield _with_extra(system, gpu_memory(costs.model, share, saving=saving), extra)


def layout_memory(system: System, costs: LayoutCosts, num_nodes: int, load_LE: Ints) -> MemoryUse:
    """Return what the fullest GPU needs of a job with a layout under some loads, with what a system adds."""
    num_seats = system.num_seats(costs, num_nodes)
    memory = costs.memory(num_seats, system.layout(costs, np.arange(num_seats)), load_LE)
    return _with_extra(system, memory, system.extra_gpu_bytes(costs, num_seats))


def _with_extra(system: System, memory: MemoryUse, num_bytes: float) -> MemoryUse:
    part = system.extra_gpu_part
    return replace(memory, **{part: memory.parts[part] + num_bytes})
