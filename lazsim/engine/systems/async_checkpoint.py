"""Asynchronous checkpoints (CheckFreq, FAST 2021; PyTorch's distributed checkpoints)."""

from dataclasses import dataclass

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.engine.systems.system import Save, System, copy_to_host_s, saved_behind


@dataclass(frozen=True)
class AsyncCheckpoint(System):
    """Copies the state to the memory of the nodes behind a step, and writes it from there behind the next ones.

    Notes
    -----
    A save counts once it is written; one is written at a time.
    """

    def save(self, costs: CostModel, num_nodes: int, step_s: float) -> Save:
        """See `System.save`."""
        return saved_behind(copy_to_host_s(costs, num_nodes), checkpoint_save_s(costs, num_nodes), step_s)

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of the copy that the node which saves most keeps while it is written."""
        return costs.saved_bytes(num_nodes, costs.cluster.gpus_per_node)


ASYNC_CHECKPOINT = AsyncCheckpoint(
    "async-checkpoint",
    "checkpoints written behind training (CheckFreq, PyTorch's asynchronous checkpoints)",
    needs="storage for checkpoints, memory of the nodes for one copy",
)
