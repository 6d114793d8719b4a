"""Analytic compute times of a model on a GPU, from the operations and bytes of each layer."""

from dataclasses import dataclass
from functools import cached_property

import msgspec

from lazsim.costmodel.kernels import matmul_s, memory_s
from lazsim.costmodel.network import ring_all_reduce_s
from lazsim.costmodel.times import ComputeTimes, Floats
from lazsim.errors import SpecError
from lazsim.specs import WEIGHT_BYTES_PER_PARAM, ClusterSpec, FusedExpertsSpec, GpuSpec, JobSpec, ModelSpec

FORWARD_AND_BACKWARD = 3
"""A backward pass repeats each forward matmul twice: for the gradients of inputs and of weights."""

OPTIMIZER_TRAFFIC_BYTES_PER_PARAM = 28
"""Adam in mixed precision: reads gradient 2, master 4, moments 8; writes master 4, moments 8, weight 2."""

REORDER_COPIES = 8
"""Copies of a token: packed and unpacked, in dispatch and in combine, forward and backward."""

MASKED_REORDER_MATMULS = 5
"""DeepSpeed-MoE (deepspeed/moe/sharded_moe.py) dispatches and combines by one einsum each; backward, dispatch needs the
inputs' gradient and combine those of both its operands."""


def fused_gpu(gpu: GpuSpec, fused: FusedExpertsSpec) -> GpuSpec:
    """Return a GPU with the matmul efficiencies of its fused expert kernels."""
    return msgspec.structs.replace(gpu, **msgspec.structs.asdict(fused))


@dataclass(frozen=True)
class AnalyticCompute(ComputeTimes):
    """Times from operations, bytes and the GPU's fitted efficiency; see `lazsim.costmodel.times.ComputeTimes`."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    job: JobSpec

    def __post_init__(self) -> None:
        if self.job.expert_kernels == "fused" and self.gpu.fused_experts is None:
            raise SpecError(
                f"{self.job.name}: expert_kernels is fused, but no such kernel was measured on {self.gpu.name}: "
                "its TOML file has no table fused_experts; choose separate"
            )

    def dense_s(self, num_tokens: float) -> float:
        """Everything but the experts and the dispatch, tensor-parallel over the node's GPUs.

        Notes
        -----
        Projections, causal attention (half of the pairs), dense blocks, gate and output layer as matmuls; element-wise
        kernels by the bytes they move. Tensor parallelism takes two all-reduces of the activations forward and two
        backward in each layer (Megatron-LM, arXiv 1909.08053).
        """
        model, gpus = self.model, self.cluster.gpus_per_node
        columns = model.mixer_params + model.feed_forward_params
        matmuls_s = (
            model.num_layers * self._matmul_s(num_tokens, columns / model.num_layers / model.d_model / gpus)
            + model.attention_layers * self._matmul_s(num_tokens, model.sequence_length / 2, model.score_dim / gpus)
            + model.num_moe_layers * self._matmul_s(num_tokens, model.num_experts / gpus)
            + self._matmul_s(num_tokens, model.vocab_size / gpus)
        )
        activations = FORWARD_AND_BACKWARD * self.job.activation_passes * model.num_layers * model.d_model
        logits = self.job.logit_passes * model.vocab_size
        num_bytes = num_tokens * WEIGHT_BYTES_PER_PARAM * (activations + logits) / gpus
        network, activation_bytes = self.cluster.network, num_tokens * model.d_model * WEIGHT_BYTES_PER_PARAM
        link = network.local_all_reduce_bytes_per_s, network.local_all_reduce_latency_s
        collective_s = 4 * float(ring_all_reduce_s(activation_bytes, gpus, *link))
        return FORWARD_AND_BACKWARD * matmuls_s + float(memory_s(self.gpu, num_bytes)) + model.num_layers * collective_s

    @cached_property
    def _expert_gpu(self) -> GpuSpec:
        """The GPU with the efficiencies of the job's expert kernels."""
        fused = self.gpu.fused_experts
        if self.job.expert_kernels == "separate" or fused is None:
            return self.gpu
        return fused_gpu(self.gpu, fused)

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert: up (and gate) projections, activation, down projection."""
        model, gpu = self.model, self._expert_gpu
        up_s = matmul_s(gpu, num_tokens, model.d_ff_expert, model.expert_dim)
        down_s = matmul_s(gpu, num_tokens, model.expert_dim, model.d_ff_expert)
        # The activation reads what the up (and gate) projections wrote and writes one result.
        passes = model.matrices_per_expert * model.d_ff_expert * WEIGHT_BYTES_PER_PARAM
        activation_s = memory_s(gpu, num_tokens * passes)
        seconds: Floats = FORWARD_AND_BACKWARD * ((model.matrices_per_expert - 1) * up_s + down_s + activation_s)
        return seconds

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate and token reorder at the bandwidth of a copy, which reads and writes."""
        num_bytes = REORDER_COPIES * 2 * WEIGHT_BYTES_PER_PARAM * self.model.expert_dim * num_tokens
        seconds: Floats = self.job.reorder_kernels * self.gpu.kernel_overhead_s + memory_s(self.gpu, num_bytes)
        return seconds

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """Dispatch and combine as matmuls with one-hot masks, as in DeepSpeed-MoE."""
        rows = self.model.num_experts * capacity
        matmuls_s = MASKED_REORDER_MATMULS * matmul_s(self.gpu, rows, self.model.expert_dim, num_tokens)
        seconds: Floats = self.job.reorder_kernels * self.gpu.kernel_overhead_s + matmuls_s
        return seconds

    def optimizer_s(self, num_params: Floats) -> Floats:
        """Adam, bound by memory bandwidth."""
        return memory_s(self.gpu, OPTIMIZER_TRAFFIC_BYTES_PER_PARAM * num_params)

    def _matmul_s(self, rows: float, columns: float, inner: float | None = None) -> float:
        return float(matmul_s(self.gpu, rows, columns, self.model.d_model if inner is None else inner))
