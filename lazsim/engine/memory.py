"""The memory that a job needs at its peak."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.memory import MemoryUse, fullest_share, gpu_memory
from lazsim.engine.layout import LayoutCosts
from lazsim.engine.planner import plan_each
from lazsim.engine.systems import System
from lazsim.routing import Routing
from lazsim.specs import GpuSpec

NUM_SAMPLES = 5
"""Steps at which memory is looked at: loads drift, and padded buffers and plans follow them."""


def lacks_memory(gpu: GpuSpec, memory: MemoryUse | None) -> bool:
    """Tell whether a job needs more than its GPUs have; one that never trains needs nothing."""
    return memory is not None and memory.total > gpu.memory_bytes


def sizes_held(system: System, costs: CostModel, num_nodes: int, num_seats: int) -> set[int]:
    """Return the numbers of nodes whose memory counts: of those that train, and of their plan as it was made."""
    return {system.usable_nodes(costs, num_nodes), num_seats} - {0}


def peak_memory(
    system: System, costs: CostModel, routing: Routing, sizes: Collection[int], num_steps: int
) -> MemoryUse:
    """Return the most that a GPU needs on any of these numbers of nodes; see `memory_uses`."""
    uses = (use for size in sorted(sizes) for use in memory_uses(system, costs, routing, size, num_steps))
    return max(uses, key=lambda memory: memory.total)


def memory_uses(
    system: System, costs: CostModel, routing: Routing, num_nodes: int, num_steps: int
) -> Iterator[MemoryUse]:
    """Find what the fullest GPU needs under the plans and loads of steps spread evenly over the first `num_steps`.

    Parameters
    ----------
    num_nodes
        Nodes that the system can use.
    """
    # np.unique would load numpy.ma, which takes as long as many a run.
    load_BLE = routing.loads(sorted(set(np.linspace(0, num_steps, NUM_SAMPLES, dtype=np.int64).tolist())))
    num_seats = system.num_seats(costs, num_nodes)
    dispatch = system.dispatch(costs, np.arange(num_seats))
    extra_bytes = system.extra_gpu_bytes(costs, num_seats)
    if isinstance(costs, LayoutCosts):
        uses = (costs.memory(num_seats, dispatch, load_LE) for load_LE in load_BLE)
    else:
        plans = zip(load_BLE, plan_each(system, costs, num_seats, load_BLE), strict=True)
        job, gpus_per_node = costs.job, costs.cluster.gpus_per_node
        shares = (fullest_share(costs.model, job, gpus_per_node, plan, dispatch, load_LE) for load_LE, plan in plans)
        uses = (gpu_memory(costs.model, share) for share in shares)
    for memory in uses:
        yield replace(memory, **{part: memory.parts[part] + more for part, more in extra_bytes.items()})
