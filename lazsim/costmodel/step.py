"""What a training step takes, given a plan and the loads.

Axes: B samples of the loads, L layers, E experts, N nodes, S slots of a node, V servers.
"""

from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def dense_s(self) -> float:
        """Everything but experts and dispatch, of a micro-batch; the same for every plan."""
        return self.compute.dense_s(self.tokens_per_gpu * self.cluster.gpus_per_node)

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
        # Empty slots read a column of zeros behind the experts. Slot s of a node belongs to its GPU s % gpus, so that
        # the axis in front goes over the slots of a GPU and the last one over the GPUs of all nodes.
        slots = np.where(plan.slots_LNS < 0, plan.num_experts, plan.slots_LNS)
        slots += np.arange(plan.num_layers)[:, None, None] * (plan.num_experts + 1)
        by_gpu = slots.reshape(plan.num_layers, plan.num_nodes, -1, gpus)
        self._slots = by_gpu.transpose(2, 0, 1, 3).reshape(by_gpu.shape[2], plan.num_layers, -1)
        self._fixed_s = {
            "dense": costs.job.num_micro_batches * costs.dense_s,
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
        num_samples, num_layers, num_experts = tokens_BLE.shape
        by_expert = np.zeros((num_samples, num_layers, num_experts + 1))
        by_expert[:, :, :-1] = self.costs.compute.expert_s(tokens_BLE / self._replicas_LE)
        by_gpu = by_expert.reshape(num_samples, -1).take(self._slots, axis=1).sum(axis=1)
        slowest: Floats = by_gpu.max(axis=2)
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
    enters and leaves each server once, however many of its nodes take part. Adding up replicas inside a node is free.
    """
    members = plan.holds_LEN.sum(axis=2)
    spans = by_server(plan.holds_LEN, server_N) > 0
    crosses = spans.sum(axis=2) > 1
    sent = 2 * (members - 1) / members * costs.model.expert_params * WEIGHT_BYTES_PER_PARAM
    loads = np.stack([sent * crosses, sent * ~crosses, 2.0 * (members - 1)]).reshape(3, -1)
    nic_V, local_V, hops_V = loads @ spans.reshape(-1, spans.shape[2])
    gpus_V = np.bincount(server_N) * costs.cluster.gpus_per_node
    expert_s = costs.communication.all_reduce_s(nic_V, local_V / gpus_V, hops_V / gpus_V).max()
    dense = 2 * (plan.num_nodes - 1) / plan.num_nodes * costs.model.dense_params * WEIGHT_BYTES_PER_PARAM
    across = float(len(gpus_V) > 1)
    dense_s = costs.communication.all_reduce_s(
        np.array(dense * across), np.array(dense * (1 - across)), np.array(2.0 * (plan.num_nodes - 1))
    )
    return float(expert_s + dense_s)


def _optimizer_s(costs: CostModel, plan: PlacementPlan) -> float:
    """Update the dense parameters and the experts of the node that holds most, both spread evenly over its GPUs."""
    gpus = costs.cluster.gpus_per_node
    most_experts = plan.holds_LEN.sum(axis=(0, 1)).max() / gpus
    num_params = costs.model.dense_params / gpus + most_experts * costs.model.expert_params
    return float(costs.compute.optimizer_s(np.array(num_params)))
