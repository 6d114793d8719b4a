"""What a training step takes, given a plan and the loads.

Axes: B samples of the loads, L layers, E experts, N nodes, S slots of a node, V servers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.times import CommunicationTimes, ComputeTimes, Floats
from lazsim.dispatch import Traffic, by_server, flexible_traffic, grouped_traffic
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.specs import WEIGHT_BYTES_PER_PARAM, ClusterSpec, JobSpec, ModelSpec

NUM_ALL_TO_ALLS = 4
"""Dispatch and combine, forward and backward."""


@dataclass(frozen=True)
class CostModel:
    """The specifications and the times of kernels and links that a step is made of."""

    model: ModelSpec
    cluster: ClusterSpec
    job: JobSpec
    compute: ComputeTimes
    communication: CommunicationTimes

    @property
    def tokens_per_gpu(self) -> int:
        """Tokens of one GPU in a micro-batch."""
        return self.job.sequences_per_gpu * self.model.sequence_length

    @property
    def samples_per_node(self) -> int:
        """Sequences that a node trains in a step."""
        return self.cluster.gpus_per_node * self.job.sequences_per_gpu * self.job.num_micro_batches


@dataclass(frozen=True, eq=False)
class Layout:
    """How the nodes of a plan are joined.

    Attributes
    ----------
    server_N : ndarray of int64, shape (N,)
        Server of each node, 0 .. V - 1.
    group_N : ndarray of int64, shape (N,), optional
        Nodes inside which tokens stay under expert parallelism; none under flexible dispatch.
    padded : bool
        Whether every expert's buffer is as large as the fullest expert's.
    masked_reorder : bool
        Whether tokens are reordered by a matmul with a one-hot mask.
    """

    server_N: npt.NDArray[np.int64]
    group_N: npt.NDArray[np.int64] | None = None
    padded: bool = False
    masked_reorder: bool = False


class StepCost:
    """Step times of one plan under any loads: what depends on the plan alone is computed once."""

    def __init__(self, costs: CostModel, plan: PlacementPlan, layout: Layout) -> None:
        self.costs = costs
        self.layout = layout
        gpus = costs.cluster.gpus_per_node
        replicas = plan.replicas_LEN
        self._traffic: Traffic = (
            flexible_traffic(replicas, layout.server_N, gpus)
            if layout.group_N is None
            else grouped_traffic(replicas, layout.group_N, layout.server_N, gpus)
        )
        self._gpus_V = np.bincount(layout.server_N) * gpus
        self._num_nodes = plan.num_nodes
        self._replicas_LE = plan.replicas_LE
        # Empty slots read a column of zeros behind the experts. Slot s of a node belongs to its GPU s % gpus.
        self._slots = np.where(plan.slots_LNS < 0, plan.num_experts, plan.slots_LNS)
        self._fixed_s = {
            "dense": costs.job.num_micro_batches * costs.compute.dense_s(costs.tokens_per_gpu * gpus),
            "gradients": _gradients_s(costs, plan, layout.server_N),
            "optimizer": _optimizer_s(costs, plan),
        }

    def parts_s(self, load_BLE: Ints) -> dict[str, Floats]:
        """Break the step down.

        Parameters
        ----------
        load_BLE
            Tokens routed to each expert; only ratios within a layer count, shape (B, L, E).

        Returns
        -------
        dict
            Seconds by part, each of shape (B,): ``dense``, ``reorder``, ``expert`` (of each layer's slowest GPU),
            ``all_to_all``, ``gradients`` and ``optimizer``.
        """
        costs = self.costs
        gpus = self._num_nodes * costs.cluster.gpus_per_node
        assignments = costs.tokens_per_gpu * gpus * costs.model.top_k
        tokens = load_BLE * (assignments / load_BLE.sum(axis=2, keepdims=True))
        if self.layout.padded:
            tokens = np.broadcast_to(tokens.max(axis=2, keepdims=True), tokens.shape)
        parts = {
            "reorder": self._reorder_s(tokens),
            "expert": self._expert_s(tokens),
            "all_to_all": self._all_to_all_s(tokens),
        }
        micro_batches = costs.job.num_micro_batches
        varying = {name: micro_batches * seconds.sum(axis=1) for name, seconds in parts.items()}
        return {name: np.full(len(load_BLE), seconds) for name, seconds in self._fixed_s.items()} | varying

    def step_s(self, load_BLE: Ints) -> Floats:
        """Return the seconds of a step for each sample of the loads, shape (B,)."""
        total: Floats = sum(self.parts_s(load_BLE).values(), np.zeros(len(load_BLE)))
        return total

    def _reorder_s(self, tokens_BLE: Floats) -> Floats:
        costs = self.costs
        gpus = self._num_nodes * costs.cluster.gpus_per_node
        if self.layout.masked_reorder:
            return costs.compute.masked_reorder_s(costs.tokens_per_gpu, tokens_BLE.max(axis=2) / gpus)
        return costs.compute.reorder_s(tokens_BLE.sum(axis=2) / gpus)

    def _expert_s(self, tokens_BLE: Floats) -> Floats:
        expert_s = self.costs.compute.expert_s(tokens_BLE / self._replicas_LE)
        padded = np.concatenate([expert_s, np.zeros((*expert_s.shape[:2], 1))], axis=2)
        num_layers, num_nodes, num_slots = self._slots.shape
        slot_s = padded[:, np.arange(num_layers)[:, None, None], self._slots]
        gpus = self.costs.cluster.gpus_per_node
        gpu_s = slot_s.reshape(len(padded), num_layers, num_nodes, num_slots // gpus, gpus).sum(axis=3)
        slowest: Floats = gpu_s.max(axis=(2, 3))
        return slowest

    def _all_to_all_s(self, tokens_BLE: Floats) -> Floats:
        token_bytes = self.costs.model.d_model * WEIGHT_BYTES_PER_PARAM
        tokens_LBE = tokens_BLE.transpose(1, 0, 2) * token_bytes
        traffic = self._traffic
        nic_bytes = np.maximum(tokens_LBE @ traffic.leaving_LEV, tokens_LBE @ traffic.entering_LEV).max(axis=2)
        local_bytes = (tokens_LBE @ traffic.local_LEV / self._gpus_V).max(axis=2)
        communication = self.costs.communication
        # Ranks first tell each other their counts: E integers, of which only the latency is felt.
        counts_s = communication.all_to_all_s(np.where(nic_bytes > 0, 1.0, 0.0), np.where(local_bytes > 0, 1.0, 0.0))
        seconds = NUM_ALL_TO_ALLS * communication.all_to_all_s(nic_bytes, local_bytes) + counts_s
        transposed: Floats = seconds.T
        return transposed


def _gradients_s(costs: CostModel, plan: PlacementPlan, server_N: Ints) -> float:
    """All-reduce the dense gradients over all nodes and each expert's over the nodes that hold it.

    A ring over ``n`` nodes sends ``2 (n - 1) / n`` times the gradient over each of its links (Thakur et al. 2005); it
    enters and leaves each server once, however many of its nodes take part.
    """
    holds = plan.holds_LEN
    members = holds.sum(axis=2)
    spans = by_server(plan.replicas_LEN, server_N) > 0
    crosses = spans.sum(axis=2) > 1
    sent = 2 * (members - 1) / members * costs.model.expert_params * WEIGHT_BYTES_PER_PARAM
    hops = 2 * (members - 1)
    gpus_V = np.bincount(server_N) * costs.cluster.gpus_per_node
    nic_V = (spans * (sent * crosses)[:, :, None]).sum(axis=(0, 1))
    local_V = (spans * (sent * ~crosses)[:, :, None]).sum(axis=(0, 1)) / gpus_V
    hops_V = (spans * hops[:, :, None]).sum(axis=(0, 1)) / gpus_V
    expert_s = costs.communication.all_reduce_s(nic_V, local_V, hops_V).max()
    dense = 2 * (plan.num_nodes - 1) / plan.num_nodes * costs.model.dense_params * WEIGHT_BYTES_PER_PARAM
    across = float(len(gpus_V) > 1)
    dense_s = costs.communication.all_reduce_s(
        np.array(dense * across), np.array(dense * (1 - across)), np.array(2.0 * (plan.num_nodes - 1))
    )
    return float(expert_s + dense_s)


def _optimizer_s(costs: CostModel, plan: PlacementPlan) -> float:
    """Update the dense parameters, sharded over a node's GPUs, and the experts of the GPU that holds most."""
    gpus = costs.cluster.gpus_per_node
    most_experts = plan.holds_LEN.sum(axis=(0, 1)).max() / gpus
    num_params = costs.model.dense_params / gpus + most_experts * costs.model.expert_params
    return float(costs.compute.optimizer_s(np.array(num_params)))
