"""Analytic compute times of a kernel on a GPU, and of a model from the operations and bytes of each layer.

A kernel takes datasheet peaks times an efficiency that depends on size: a roofline with two losses, both visible in
measured matmuls. Few outputs do not fill all processors, and each output tile has a start and an end, which weigh more
the shorter the inner dimension is. Its parameters are fields of `lazsim.specs.GpuSpec`; `lazsim.costmodel.fit` finds
them from measurements.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from lazsim.costmodel.network import ring_all_reduce_s
from lazsim.costmodel.scan import scan_work
from lazsim.errors import SpecError
from lazsim.placement.plan import Floats
from lazsim.specs import (
    WEIGHT_BYTES_PER_PARAM,
    ClusterSpec,
    FusedExpertsSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    StepConstants,
)

FORWARD_AND_BACKWARD = 3
"""A backward pass repeats each forward matmul twice: for the gradients of inputs and of weights."""

OPTIMIZER_TRAFFIC_BYTES_PER_PARAM = 28
"""Adam in mixed precision: reads gradient 2, master 4, moments 8; writes master 4, moments 8, weight 2."""

REORDER_COPIES = 8
"""Copies of a token: packed and unpacked, in dispatch and in combine, forward and backward."""

MASKED_REORDER_MATMULS = 5
"""DeepSpeed-MoE (deepspeed/moe/sharded_moe.py) dispatches and combines by one einsum each; backward, dispatch needs the
inputs' gradient and combine those of both its operands."""


def matmul_s(gpu: GpuSpec, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike) -> Floats:
    """Predict the seconds of a dense half-precision matmul ``m x k @ k x n``.

    Parameters
    ----------
    gpu : GpuSpec
        Datasheet peaks and fitted efficiencies.
    m : array_like
        Rows: tokens, also fractions of one; 0 means that no kernel runs and takes 0 s.
    n, k : array_like
        Columns of the result and inner dimension; all three broadcast.

    Returns
    -------
    ndarray of float64
        Seconds, of the broadcast shape.

    Notes
    -----
    ``overhead + max(2 (m n + fill_outputs) (k + fill_k) / (efficiency peak), bytes / bandwidth)`` with
    ``bytes = 2 (m k + k n + m n)``. The roofline is Williams, Waterman and Patterson 2009; the two saturating terms are
    Hockney's half-performance length (1982) in the number of outputs and in ``k``.

    Examples
    --------
    A GPU of 100 TFLOP/s without losses: ``2 * 10240**3 / 100e12`` seconds.

    >>> gpu = GpuSpec(name="ideal", peak_flop_per_s=100e12, memory_bytes_per_s=1e12, memory_bytes=16e9,
    ...     matmul_efficiency=1.0, matmul_fill_outputs=0.0, matmul_fill_k=0.0, matmul_memory_efficiency=1.0,
    ...     memory_efficiency=1.0, kernel_overhead_s=0.0, source="none")
    >>> [round(float(seconds), 6) for seconds in matmul_s(gpu, [0, 10240], 10240, 10240)]
    [0.0, 0.021475]
    """
    rows = np.asarray(m, dtype=np.float64)
    # Arithmetic on plain numbers costs a tenth of that on arrays of one element.
    columns, inner = (
        float(size) if isinstance(size, int | float) else np.asarray(size, dtype=np.float64) for size in (n, k)
    )
    # Both sides of the roofline are a line in the rows: few passes over the array, since this runs in the main loop.
    operation = (inner + gpu.matmul_fill_k) * (2.0 / (gpu.matmul_efficiency * gpu.peak_flop_per_s))
    seconds: Floats = rows * (columns * operation)
    seconds += gpu.matmul_fill_outputs * operation
    element = WEIGHT_BYTES_PER_PARAM / (gpu.matmul_memory_efficiency * gpu.memory_bytes_per_s)
    memory = rows * ((columns + inner) * element)
    memory += columns * inner * element
    seconds = np.maximum(seconds, memory)
    seconds += gpu.kernel_overhead_s
    seconds *= rows > 0
    return seconds


def memory_s(gpu: GpuSpec, num_bytes: npt.ArrayLike) -> Floats:
    """Predict the seconds of an element-wise kernel or a copy, which reads and writes `num_bytes`; none for 0 bytes."""
    moved = np.asarray(num_bytes, dtype=np.float64)
    seconds: Floats = (moved / gpu.moved_bytes_per_s + gpu.kernel_overhead_s) * (moved > 0)
    return seconds


def fused_gpu(gpu: GpuSpec, fused: FusedExpertsSpec) -> GpuSpec:
    """Return a GPU with the matmul efficiencies of its fused expert kernels."""
    return msgspec.structs.replace(gpu, **msgspec.structs.asdict(fused))


@dataclass(frozen=True)
class AnalyticCompute:
    """Seconds of work on one GPU, forward and backward together, from operations, bytes and its fitted efficiency."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    job: JobSpec
    step: StepConstants

    def __post_init__(self) -> None:
        if self.job.expert_kernels == "fused" and self.gpu.fused_experts is None:
            raise SpecError(
                f"{self.job.name}: expert_kernels is fused, but no such kernel was measured on {self.gpu.name}: "
                "its TOML file has no table fused_experts; choose separate"
            )

    def dense_s(self, num_tokens: float) -> float:
        """All layers but experts and dispatch, for a node's micro-batch of `num_tokens`, which its GPUs share.

        Notes
        -----
        Projections, causal attention (half of the pairs), dense blocks, gate and output layer as matmuls; element-wise
        kernels by the bytes they move, scans by both. Tensor parallelism takes two all-reduces of the activations
        forward and two backward in each layer (Megatron-LM, arXiv 1909.08053). These are for layers of two blocks;
        those of a hybrid model have one.
        """
        model, gpus = self.model, self.cluster.gpus_per_node
        num_layers = model.num_layers / (1 if model.state_space is None else 2)
        params = model.params
        columns = params["attention"] + params["state space"] + params["dense blocks"] + params["shared experts"]
        matmuls_s = (
            model.num_layers * self._matmul_s(num_tokens, columns / model.num_layers / model.d_model / gpus)
            + model.attention_layers * self._matmul_s(num_tokens, model.sequence_length / 2, model.pair_dim / gpus)
            + model.num_moe_layers * self._matmul_s(num_tokens, model.num_experts / gpus)
            + self._matmul_s(num_tokens, model.vocab_size / gpus)
        )
        activations = FORWARD_AND_BACKWARD * self.job.activation_passes * num_layers * model.d_model
        logits = self.job.logit_passes * model.vocab_size
        num_bytes = num_tokens * WEIGHT_BYTES_PER_PARAM * (activations + logits) / gpus
        network, activation_bytes = self.cluster.network, num_tokens * model.d_model * WEIGHT_BYTES_PER_PARAM
        link = network.local_all_reduce_bytes_per_s, network.local_all_reduce_latency_s
        collective_s = 4 * float(ring_all_reduce_s(activation_bytes, gpus, *link))
        seconds = FORWARD_AND_BACKWARD * matmuls_s + float(memory_s(self.gpu, num_bytes)) + num_layers * collective_s
        return seconds + self._scans_s(num_tokens / gpus)

    def _scans_s(self, num_tokens: float) -> float:
        """Return the time of the scans of all state-space layers, at the share of the peak that layouts take."""
        space = self.model.state_space
        if space is None:
            return 0.0
        rate = self.step.scan_peak_share * self.gpu.peak_flop_per_s
        each_s = [
            flop * num_tokens / rate + float(memory_s(self.gpu, moved * num_tokens)) for flop, moved in scan_work(space)
        ]
        return space.num_layers * math.fsum(each_s)

    @cached_property
    def _expert_gpu(self) -> GpuSpec:
        """The GPU with the efficiencies of the job's expert kernels."""
        fused = self.gpu.fused_experts if self.job.expert_kernels == "fused" else None
        return fused_gpu(self.gpu, fused) if fused else self.gpu

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert of one layer: up (and gate) projections, activation, down projection."""
        model, gpu = self.model, self._expert_gpu
        up_s = matmul_s(gpu, num_tokens, model.d_ff_expert, model.expert_dim)
        down_s = matmul_s(gpu, num_tokens, model.expert_dim, model.d_ff_expert)
        # The activation reads what the up (and gate) projections wrote and writes one result.
        passes = model.matrices_per_expert * model.d_ff_expert * WEIGHT_BYTES_PER_PARAM
        activation_s = memory_s(gpu, num_tokens * passes)
        seconds: Floats = FORWARD_AND_BACKWARD * ((model.matrices_per_expert - 1) * up_s + down_s + activation_s)
        return seconds

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate, token reorder and its inverse in one layer, for the token assignments of one GPU.

        They go at the bandwidth of a copy, which reads and writes.
        """
        num_bytes = REORDER_COPIES * 2 * WEIGHT_BYTES_PER_PARAM * self.model.expert_dim * num_tokens
        seconds: Floats = self.job.reorder_kernels * self.gpu.kernel_overhead_s + memory_s(self.gpu, num_bytes)
        return seconds

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """Reorder by matmuls with one-hot masks over ``num_experts * capacity`` buffer rows, as in DeepSpeed-MoE."""
        rows = self.model.num_experts * capacity
        matmuls_s = MASKED_REORDER_MATMULS * matmul_s(self.gpu, rows, self.model.expert_dim, num_tokens)
        seconds: Floats = self.job.reorder_kernels * self.gpu.kernel_overhead_s + matmuls_s
        return seconds

    def optimizer_s(self, num_params: Floats) -> Floats:
        """One step of Adam, bound by memory bandwidth."""
        return memory_s(self.gpu, OPTIMIZER_TRAFFIC_BYTES_PER_PARAM * num_params)

    def _matmul_s(self, rows: float, columns: float, inner: float | None = None) -> float:
        return float(matmul_s(self.gpu, rows, columns, self.model.d_model if inner is None else inner))
