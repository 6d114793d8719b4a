"""Predict the time of a training step from a plan and the loads.

Axes: B samples of the loads, L layers, E experts, R experts of all layers, N nodes, S slots of a node, or
stages, V servers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from lazsim.costmodel.compute import REORDER_COPIES, AnalyticCompute
from lazsim.costmodel.costs import CostModel, NodeDispatch, StepTimes
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.dispatch import Partition, Traffic, flexible_traffic, grouped_traffic
from lazsim.placement.plan import Bools, Floats, Ints, PlacementPlan
from lazsim.row_blocks import row_blocks
from lazsim.specs import WEIGHT_BYTES_PER_PARAM

PASS_SHARES = (1 / 3, 2 / 3)
"""Shares of kernels in the forward and the backward pass, which has two matmuls for each of the former. Exchanges take
as long in both."""

SPARSE_COPIES, BUFFER_COPIES = 4, 5
"""Copies of routed tokens by sparse kernels (encode, decode, and the same backward), and of padded buffers: rows are
regrouped by expert after an exchange and back before the next, forward and backward, and two buffers are zeroed, which
is half a copy each (Tutel, ``tutel/impls/fast_dispatch.py`` and ``communicate.py``)."""

KERNELS = (53, 3), (30, 6)
"""Kernels that a MoE layer without its experts and each expert launch, forward and backward: those of
`lazsim.pytorch` as torch's profiler counted them (``python -m tests.measure_launches``: 46 and 28, 3 and 6; 47 and 30
since its operators run models of all kinds), with an exchange of counts and two of tokens, four copies of indices to
the GPU, and two exchanges backward."""


@dataclass(frozen=True)
class KernelCosts(CostModel):
    """A cost model whose steps are made up of the times of kernels and links."""

    communication: AnalyticCommunication
    compute: AnalyticCompute
    measured_part: "KernelCosts | None" = None

    @cached_property
    def dense_s(self) -> float:
        """Seconds of a micro-batch without experts and dispatch; the same for every plan."""
        return self.compute.dense_s(self.tokens_per_gpu * self.cluster.gpus_per_node)

    @cached_property
    def host_s(self) -> tuple[float, float]:
        """Seconds of the host to launch a kernel, and to read a number from the GPU and launch what depends on it."""
        slower = self.constants.host_launch_clock_hz / self.cluster.host.launch_clock_hz
        launch_s = slower * self.constants.host_launch_s
        return launch_s, slower * self.constants.host_wait_s + launch_s

    def step_times(self, plan: PlacementPlan, dispatch: NodeDispatch) -> "StepCost":
        """Return the step times of a plan."""
        return StepCost(self, plan, dispatch)


class StepCost(StepTimes):
    """Step times of one plan under any loads; parts that depend on the plan alone are computed once."""

    def __init__(self, costs: KernelCosts, plan: PlacementPlan, dispatch: NodeDispatch) -> None:
        self.costs = costs
        self.dispatch = dispatch
        gpus = costs.cluster.gpus_per_node
        # What nodes with the same slots have in common is computed once for a run of them.
        unlike, like_LN = plan.unlike_nodes
        # So it is for servers of one node each, but for their groups.
        if dispatch.servers.is_trivial and dispatch.group_N is None:
            on_servers, servers, like_LV = unlike, Partition(np.arange(unlike.num_nodes)), like_LN
        else:
            on_servers, servers = plan, dispatch.servers
            like_LV = np.arange(plan.num_layers * len(servers.sizes_V)).reshape(plan.num_layers, -1)
        self._gpus_V = servers.sizes_V * gpus
        self._layers = row_blocks(plan.num_layers, plan.num_experts * on_servers.num_nodes)
        self._traffic_of: Callable[[slice], Traffic]
        if dispatch.group_N is None:
            # A plan for flexible dispatch is soon replaced, so its traffic is computed on demand.
            self._traffic_of = lambda some: flexible_traffic(
                on_servers.layers(some).replicas_LEN, plan.replicas_LE[some], servers, gpus, plan.num_nodes
            )
        else:
            groups = Partition(dispatch.group_N)
            traffic = {
                some.start: grouped_traffic(plan.layers(some).replicas_LEN, groups, servers, gpus)
                for some in self._layers
            }
            self._traffic_of = lambda some: traffic[some.start]
        self._num_nodes = plan.num_nodes
        self._replicas_LE = plan.replicas_LE
        self._slots = slots_by_gpu(unlike, gpus)
        once, most_experts = _count_once(self._slots, plan.num_experts)
        self._launch_s = [costs.host_s[0] * (layer + expert * most_experts) for layer, expert in KERNELS]
        nic_LV, rings_XLE = _expert_rings(on_servers.holds_LEN, plan.nodes_LE, servers, costs.model.expert_params)
        # Each ring of a GPU counts once, however many replicas of the expert the GPU has.
        by_expert = np.zeros((3, plan.num_layers, plan.num_experts + 1))
        by_expert[:, :, :-1] = rings_XLE[:3]
        by_gpu = by_expert.reshape(3, -1).take(once, axis=1).sum(axis=1).reshape(3, -1, gpus)
        by_gpu = by_gpu.take(like_LN, axis=1).sum(axis=1).reshape(3, -1)
        nic_V = nic_LV.take(like_LV).sum(axis=0)
        # The dense parameters and the experts of the fullest node, evenly over its GPUs.
        num_params = costs.model.dense_params / gpus + plan.num_held_N.max() / gpus * costs.model.expert_params
        # Mostly, links are the same in both.
        gradients_s = cache(lambda links: self._gradients_s(links, nic_V, by_gpu, rings_XLE, unlike.holds_LEN))
        self._fixed_s = [
            (one, {
                "dense": one.job.num_micro_batches * one.dense_s,
                "gradients": gradients_s(one.communication),
                "optimizer": float(one.compute.optimizer_s(np.array(num_params))),
            })
            for one in (costs, costs.measured_part)
            if one is not None
        ]  # fmt: skip

    def parts_s(self, load_BLE: Ints) -> dict[str, Floats]:
        """Return the seconds of each part of a step.

        Parameters
        ----------
        load_BLE
            Tokens routed to each expert; only ratios within a layer count, shape (B, L, E).

        Returns
        -------
        dict
            Seconds by part, each of shape (B,): ``dense``, ``reorder``, ``expert`` (of each layer's slowest GPU),
            ``all_to_all`` (what of it is not behind the experts), ``host``, ``gradients`` and ``optimizer``.
        """
        costs, fixed_s = self._fixed_s[0]
        fixed = {name: np.full(len(load_BLE), seconds) for name, seconds in fixed_s.items()}
        return fixed | self._varying_s(costs, *self._tokens_and_bytes(load_BLE))

    def step_s(self, load_BLE: Ints) -> Floats:
        """See `StepTimes`."""
        return self.step_and_measured_s(load_BLE)[0]

    def step_and_measured_s(self, load_BLE: Ints) -> tuple[Floats, Floats]:
        """See `StepTimes`."""
        work = self._tokens_and_bytes(load_BLE)
        seconds = [
            sum(self._varying_s(costs, *work).values(), np.array(math.fsum(fixed_s.values())))
            for costs, fixed_s in self._fixed_s
        ]
        return seconds[0], seconds[-1]

    def _tokens_and_bytes(self, load_BLE: Ints) -> tuple[Floats, Floats]:
        """Return the rows of each expert's buffer, shape (B, L, E), and the busiest links; see `_busiest_bytes`."""
        costs = self.costs
        gpus = self._num_nodes * costs.cluster.gpus_per_node
        assignments = float(costs.tokens_per_gpu * gpus * costs.model.top_k)
        tokens = assigned_tokens(load_BLE, assignments, padded=self.dispatch.padded)
        return tokens, self._busiest_bytes(tokens)

    def _varying_s(self, costs: KernelCosts, tokens_BLE: Floats, busiest: Floats) -> dict[str, Floats]:
        """Return the parts that depend on the loads."""
        expert_s, exchange_s = self._experts_and_exchanges_s(costs, tokens_BLE, busiest)
        parts = {"reorder": self._reorder_s(costs, tokens_BLE), "expert": expert_s, "all_to_all": exchange_s}
        parts["host"] = self._host_s(costs, **parts)
        return {name: costs.job.num_micro_batches * seconds.sum(axis=1) for name, seconds in parts.items()}

    def _host_s(self, costs: KernelCosts, reorder: Floats, expert: Floats, all_to_all: Floats) -> Floats:
        """Return the seconds in which GPUs wait for the host, shape (B, L).

        In the forward pass of each layer the host waits for the counts of tokens, on which the sizes of buffers and
        messages depend whether they are padded or not, and runs ahead of the GPU from there on. In the backward pass,
        which reuses the counts, it runs ahead throughout.
        """
        compute = costs.dense_s / expert.shape[1] + reorder + expert
        forward = PASS_SHARES[0] * compute + all_to_all / 2
        backward = compute + all_to_all - forward
        late = np.maximum(0.0, self._launch_s[1] - backward.sum(axis=1, keepdims=True) / expert.shape[1])
        seconds: Floats = costs.host_s[1] + np.maximum(0.0, self._launch_s[0] - forward) + late
        return seconds

    def _gradients_s(
        self, links: AnalyticCommunication, nic_V: Floats, by_gpu: Floats, rings_XLE: Floats, holds_LEC: Bools
    ) -> float:
        """Return the seconds to all-reduce the dense gradients over all nodes, and each expert's over its nodes.

        A ring over ``n`` nodes sends ``2 (n - 1) / n`` times the gradient over each of its links, in ``2 (n - 1)`` hops
        (Thakur et al. 2005). It enters and leaves each of its ``V`` servers once, and goes at the rate of the slower of
        NICs and links inside servers, where it has both; ``2 (V - 1)`` of its hops are between servers (NCCL,
        ``src/graph/tuning.cc``). A GPU reduces its experts one after the other, and takes part in every hop of each;
        GPUs of a server share its NICs. Adding up replicas inside a node is free.

        All GPUs reduce the experts of a layer in the same order, so that a ring waits for the last of its nodes. Rings
        with some nodes in common take at least that long, and at least as long as the busiest GPU and NIC.
        """
        costs, num_nodes, num_servers, reduce_s = self.costs, self._num_nodes, len(nic_V), links.all_reduce_s
        gpus = costs.cluster.gpus_per_node
        across, inside = num_servers > 1, num_nodes > num_servers
        dense = 2 * (num_nodes - 1) / num_nodes * costs.model.dense_params * WEIGHT_BYTES_PER_PARAM
        hops = 2 * (num_servers - 1), 2 * (num_nodes - num_servers)
        experts_s = float(reduce_s(nic_V[self.dispatch.servers.part_N].repeat(gpus), *by_gpu).max())
        local_LE, *hops_LE, nic_LE = rings_XLE
        ring_s = reduce_s(nic_LE, local_LE, *(hop_LE / gpus for hop_LE in hops_LE))
        experts_s = max(experts_s, _in_turn_s(holds_LEC, ring_s))
        return float(experts_s + reduce_s(*np.array([dense * across, dense * inside / gpus, *hops])))

    def _reorder_s(self, costs: KernelCosts, tokens_BLE: Floats) -> Floats:
        gpus = self._num_nodes * costs.cluster.gpus_per_node
        if self.dispatch.masked_reorder:
            return costs.compute.masked_reorder_s(costs.tokens_per_gpu, tokens_BLE.max(axis=2) / gpus)
        rows = tokens_BLE.sum(axis=2) / gpus
        if self.dispatch.padded:
            routed = costs.tokens_per_gpu * costs.model.top_k
            rows = (SPARSE_COPIES * routed + BUFFER_COPIES * rows) / REORDER_COPIES
        return costs.compute.reorder_s(rows)

    def _experts_and_exchanges_s(
        self, costs: KernelCosts, tokens_BLE: Floats, busiest: Floats
    ) -> tuple[Floats, Floats]:
        """Return the seconds of experts and of exchanges not behind them in each layer, in the best number of chunks.

        Both of shape (B, L).
        """
        expert_s = self._expert_s(costs, tokens_BLE)
        # Ranks first exchange their counts: E integers, whose latency alone matters.
        both = np.array([busiest, busiest > 0])
        of_tokens_s, of_counts_s = costs.communication.all_to_all_s(both[:, 0], both[:, 1])
        # In one chunk there are two exchanges in each pass, and nothing to hide them.
        exchange_s = np.ascontiguousarray(4 * of_tokens_s.T)
        for num_chunks in range(2, self.dispatch.most_chunks + 1):
            more = self._in_chunks_s(costs, tokens_BLE, busiest, num_chunks)
            is_faster = sum(more) < expert_s + exchange_s
            pairs = zip(more, (expert_s, exchange_s), strict=True)
            expert_s, exchange_s = (np.where(is_faster, *pair) for pair in pairs)
        return expert_s, exchange_s + of_counts_s.T

    def _in_chunks_s(
        self, costs: KernelCosts, tokens_BLE: Floats, busiest: Floats, num_chunks: int
    ) -> tuple[Floats, Floats]:
        """Return the seconds of experts and of exchanges not behind them in each layer, in equal chunks.

        In each pass the first chunk comes in, chunks are computed while others come in and go out, and the last goes
        out. Exchanges follow each other, all that come in first (Tutel, arXiv 2206.03382): what takes longer, all
        exchanges or the experts between the first and the last of them, is the time of the pass.
        """
        expert_s = num_chunks * self._expert_s(costs, tokens_BLE / num_chunks)
        both_s = 2 * num_chunks * costs.communication.all_to_all_s(*busiest / num_chunks).T
        forward_s, backward_s = (np.maximum(both_s - share * expert_s, both_s / num_chunks) for share in PASS_SHARES)
        return expert_s, forward_s + backward_s

    def _expert_s(self, costs: KernelCosts, tokens_BLE: Floats) -> Floats:
        num_samples, num_layers, num_experts = tokens_BLE.shape
        by_expert = np.zeros((num_samples, num_layers, num_experts + 1))
        by_expert[:, :, :-1] = costs.compute.expert_s(tokens_BLE / self._replicas_LE)
        by_gpu = by_expert.reshape(num_samples, -1).take(self._slots, axis=1).sum(axis=1)
        slowest: Floats = by_gpu.max(axis=2)
        return slowest

    def _busiest_bytes(self, tokens_BLE: Floats) -> Floats:
        """Return the bytes of an exchange on the busiest NIC and the busiest link in a server, shape (2, L, B)."""
        bytes_LBE = tokens_BLE.transpose(1, 0, 2) * (self.costs.model.expert_dim * WEIGHT_BYTES_PER_PARAM)
        busiest = np.empty((2, *bytes_LBE.shape[:2]))
        for some in self._layers:
            traffic, sent = self._traffic_of(some), bytes_LBE[some]
            np.maximum(sent @ traffic.leaving_LEV, sent @ traffic.entering_LEV).max(axis=2, out=busiest[0, some])
            (sent @ traffic.local_LEV / self._gpus_V).max(axis=2, out=busiest[1, some])
        return busiest


def slots_by_gpu(plan: PlacementPlan, gpus_per_node: int) -> Ints:
    """Return where each slot finds its expert in values of shape ``(L * (E + 1),)``: each layer ends in a zero.

    The first axis goes over the slots of a GPU, then follow the layers and the GPUs of all nodes. Slot ``s`` of a node
    belongs to its GPU ``s % gpus_per_node``. Empty slots read the zero of the layer before.
    """
    slots = plan.slots_LNS + np.arange(plan.num_layers)[:, None, None] * (plan.num_experts + 1)
    by_gpu = slots.reshape(plan.num_layers, plan.num_nodes, -1, gpus_per_node)
    return by_gpu.transpose(2, 0, 1, 3).reshape(by_gpu.shape[2], plan.num_layers, -1)


def assigned_tokens(load_BLE: Ints, num_assignments: float, *, padded: bool) -> Floats:
    """Return the rows of each expert's buffer when `num_assignments` tokens are routed in each layer."""
    tokens: Floats = load_BLE * (num_assignments / load_BLE.sum(axis=2, keepdims=True))
    return np.broadcast_to(tokens.max(axis=2, keepdims=True), tokens.shape) if padded else tokens


def _expert_rings(holds_LEN: Bools, nodes_LE: Ints, servers: Partition, params: int) -> tuple[Floats, Floats]:
    """Return the rings that reduce the gradients of experts of `params` parameters, on `nodes_LE` nodes each.

    They are the bytes through the NICs of each server that nodes with `holds_LEN` are on, shape (L, V); and the bytes
    through each link inside a server, hops between servers, hops inside them and bytes through the NICs of each of its
    servers, by ring, shape (4, L, E).
    """
    nic_LV, rings_XLE = np.zeros((len(holds_LEN), len(servers.sizes_V))), np.empty((4, *nodes_LE.shape))
    for some in row_blocks(len(holds_LEN), holds_LEN[0].size):
        spans_LEV, nodes = holds_LEN[some].astype(np.float64), nodes_LE[some].astype(np.float64)
        spanned = nodes
        if not servers.is_trivial:
            spans_LEV = np.minimum(servers.add_up(spans_LEV), 1.0)
            spanned = spans_LEV @ np.ones(spans_LEV.shape[2])
        sent = 2 * (nodes - 1) / nodes * params * WEIGHT_BYTES_PER_PARAM
        across = sent * (spanned > 1)
        nic_LV[some] = (across[:, None] @ spans_LEV)[:, 0]
        rings_XLE[:, some] = sent * (nodes > spanned), 2 * (spanned - 1), 2 * (nodes - spanned), across
    return nic_LV, rings_XLE


def _in_turn_s(holds_LEN: Bools, ring_s_LE: Floats) -> float:
    """Return the time until all rings are done when each begins once all of its nodes are done with those before it.

    Examples
    --------
    Two rings without a node in common run side by side, and the one that joins them comes after both.

    >>> holds = np.array([[[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]]], dtype=bool)
    >>> _in_turn_s(holds, np.array([[1.0, 2.0, 1.0]]))
    3.0
    """
    done_LN = np.zeros((len(holds_LEN), holds_LEN.shape[2]))
    holds_ELN, ring_s_EL = holds_LEN.swapaxes(0, 1), ring_s_LE.T[:, :, None]
    for some in row_blocks(len(holds_ELN), done_LN.size):
        for holds_LN, ring_s_L in zip(holds_ELN[some].astype(np.float64, order="C"), ring_s_EL[some], strict=True):
            end_L = (done_LN * holds_LN).max(axis=1, keepdims=True) + ring_s_L
            np.maximum(done_LN, end_L * holds_LN, out=done_LN)
    return float(done_LN.max(axis=1).sum())


def _count_once(slots: Ints, num_experts: int) -> tuple[Ints, int]:
    """Return the result of `slots_by_gpu` with each expert of a GPU once, and the most experts of a layer on one.

    Its other replicas read the zero of the first layer.
    """
    once = np.sort(slots, axis=0)
    is_again = once[1:] == once[:-1]
    num_different = len(once) - is_again.sum(axis=0) - (once[0] % (num_experts + 1) == num_experts)
    np.copyto(once[1:], num_experts, where=is_again)
    return once, int(num_different.max())
