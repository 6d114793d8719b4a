"""Everything that the step of a layout depends on, and the sizes that follow from it."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lazsim.errors import SpecError
from lazsim.specs import ClusterSpec, GpuSpec, ModelSpec, ParallelSpec, StepConstants
from lazsim.specs.step import Curve
from lazsim.stepmodel.dispatchers import DISPATCHERS
from lazsim.stepmodel.layout_rules import check_layout
from lazsim.stepmodel.tables import MICROSECOND, KernelGrid, KernelTables

SCALED_BY_TENSOR_CORES = ("mxfp8", "nvfp4")
"""Precisions of GPUs that have matmuls with four bits, too: those before Blackwell scale no blocks of numbers."""

PARAM_BYTES = 2

LATENT_WIDTH = 192 + 128
"""Queries and values of the measured heads of latent attention, those of DeepSeek-V3."""

OPERAND_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp8_block": 1 + 4 / 128, "mxfp8": 1 + 1 / 32, "nvfp4": 0.5 + 1 / 16}
"""Bytes of a number of the operand that a matmul keeps for its gradient, with its scale: of 4 bytes for 128 numbers, or
1 for 32 (OCP MX specification) or, in four bits, for 16 (arXiv 2509.25149)."""

LONG_BYTES, FASTER_LINKS = 2**29, 1.25
"""A message at the rate of links; and the ratio of their measured rate to a cluster's from which bytes take longer in
full proportion. Below the middle between it and 1 they do not: ways to measure rates differ by a tenth."""

QUANTISE_BYTES = 3
"""A number of 16 bits is read, one of 8 bits is written."""


@dataclass(frozen=True, eq=False)
class StepInputs:
    """Specifications, kernel tables and constants of a step; a layout that does not fit the others is a `SpecError`."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    parallel: ParallelSpec
    tables: KernelTables
    constants: StepConstants
    known_imbalance: float = 0.0
    """Tokens of the busiest expert-parallel rank over the mean, where loads are known; 0 where they are not."""

    def __post_init__(self) -> None:
        check_layout(self.model, self.parallel, self.num_gpus)
        if self.parallel.precision in SCALED_BY_TENSOR_CORES and not self.gpu.peak_fp4_flop_per_s:
            raise SpecError(
                f"precision {self.parallel.precision!r} needs tensor cores that scale blocks of numbers, as those with "
                f"`peak_fp4_flop_per_s` do, and {self.gpu.name} has none; take 'fp8' or 'fp8_block'"
            )

    @property
    def num_gpus(self) -> int:
        """GPUs of the cluster."""
        return self.cluster.num_nodes * self.cluster.gpus_per_node

    @property
    def data(self) -> int:
        """Data-parallel ranks of the dense parameters, without context parallelism."""
        return self.num_gpus // self.parallel.gpus_per_replica

    @property
    def dense_copies(self) -> int:
        """GPUs that hold the same dense parameters; with DualPipe, those of two stages."""
        return self.data * self.parallel.context * self.parallel.stages_of_part

    @property
    def expert_copies(self) -> int:
        """GPUs that hold the same parameters of experts."""
        experts = self.parallel.pipeline * self.parallel.expert * self.parallel.expert_tensor
        return self.num_gpus // experts * self.parallel.stages_of_part

    @property
    def owners(self) -> tuple[int, int]:
        """GPUs that divide what `sharding` divides of dense parameters, and of those of experts."""
        if self.parallel.sharding == "none":
            return 1, 1
        return self.dense_copies // self.parallel.data_replicate, self.expert_copies // self.parallel.data_replicate

    @property
    def gathered_bytes(self) -> float:
        """Bytes of a matmul's parameter that is gathered.

        NVIDIA/Megatron-LM 0.16.1 gathers 8 bits with scales of tensors or of 128 numbers, and those of MXFP8 by way of
        16 (``_ParamAndGradBuffer.shared_buffer``); Megatron-FSDP 0.6.1 gathers all that have 8.
        """
        parallel = self.parallel
        in_eight = ("fp8", "fp8_block", *["mxfp8"] * (parallel.sharding == "full"))
        return 1.0 if parallel.eight_bit_parameters and parallel.precision in in_eight else PARAM_BYTES

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a data-parallel rank in a step."""
        return self.parallel.global_batch // (self.data * self.parallel.micro_batch)

    @cached_property
    def tokens(self) -> int:
        """Tokens of a micro-batch on one GPU, shared with the other tensor-parallel ranks."""
        return self.parallel.micro_batch * self.model.sequence_length // self.parallel.context

    @cached_property
    def own_tokens(self) -> float:
        """Tokens of a micro-batch that a GPU keeps to itself, between tensor-parallel blocks and in MoE layers."""
        return self.tokens / self.parallel.tensor

    @cached_property
    def domain(self) -> int:
        """GPUs that fast links join."""
        return self.cluster.gpus_per_domain or self.cluster.gpus_per_node * self.cluster.nodes_per_server

    @cached_property
    def num_domains(self) -> int:
        """Domains over which the GPUs of a group of experts spread evenly; neighbours share matrices."""
        return math.ceil(self.parallel.expert * self.parallel.expert_tensor / self.domain)

    @cached_property
    def num_pods(self) -> int:
        """Pods over which the expert-parallel ranks spread evenly; leaf switches join a pod at the rate of NICs."""
        pod = (self.cluster.network.nodes_per_pod or self.cluster.num_nodes) * self.cluster.gpus_per_node
        return math.ceil(self.parallel.expert * self.parallel.expert_tensor / pod)

    @cached_property
    def nic_bytes_per_s(self) -> float:
        """Line rate of the network for one GPU, in each direction."""
        server = self.cluster.gpus_per_node * self.cluster.nodes_per_server
        return self.cluster.network.nic_bytes_per_s / server

    @cached_property
    def link_stretch(self) -> float:
        """Times by which bytes inside a domain take longer than measured; 1 where links are as fast, or there are none.

        An H800 has 0.44 of the NVLink of an H100, whose tables stand in, and sends half of its bytes by DeepEP.
        """
        if self.domain == 1 or "all_to_all" not in self.tables.grids:
            return 1.0
        ranks = self.tables.ranks_of("all_to_all")
        rate = LONG_BYTES * (1 - 1 / ranks) / self.tables.collective_s("all_to_all", LONG_BYTES, ranks)
        faster = rate / self.cluster.network.local_bytes_per_s
        # A sweep over the rate has no jump where links begin to count as others.
        return max(1.0, min(faster, 2 * faster - FASTER_LINKS))

    @property
    def quantised(self) -> bool:
        """Whether matmul operands have fewer than 16 bits."""
        return self.parallel.precision != "bf16"

    @property
    def matmul_kernel(self) -> str:
        """Table of the layers' matmuls; scales of 32 numbers and four bits have none, and take that of 128 numbers."""
        precision = self.parallel.precision
        return f"matmul_{'fp8_block' if precision in SCALED_BY_TENSOR_CORES else precision}"

    @property
    def attention_kernel(self) -> tuple[str, float]:
        """Table of the model's attention, and the width of its heads over that of the measured ones."""
        attention = self.model.attention
        assert attention is not None, "tables are asked for heads that the model has"
        if attention.kind == "latent":
            return "attention_latent", (attention.query_dim + attention.output_dim) / attention.num_heads / LATENT_WIDTH
        width = 64 if attention.head_dim <= 64 and "attention_64" in self.tables.grids else 128
        return f"attention_{width}", attention.head_dim / width

    @property
    def exchange_kernel(self) -> str:
        """Table of the exchange of tokens; that of DeepEP stands in for HybridEP where this was not measured."""
        kernel = f"exchange_{self.parallel.dispatcher}"
        return "exchange_deepep" if kernel == "exchange_hybridep" and kernel not in self.tables.grids else kernel

    @property
    def multiprocessors(self) -> float:
        """Multiprocessors with which DeepEP sends tokens.

        HybridEP reaches its rate with its 16 on a domain of NVLink (``moe_hybridep_num_sms`` of NVIDIA/Megatron-LM
        0.16): where DeepEP stands in for it, it has all that it was measured with.
        """
        if self.parallel.dispatcher == "hybridep":
            return math.inf
        return self.parallel.exchange_multiprocessors or DISPATCHERS["deepep"].multiprocessors

    def copy_s(self, num_bytes: float) -> float:
        """Return the time to move bytes through the memory.

        Measured by kernels that read two bytes of an element and write one; else at the GPU's fitted efficiency.
        """
        if not num_bytes:
            return 0.0
        if "quantise" in self.tables.grids:
            return self.tables.time_s("quantise", max(num_bytes / QUANTISE_BYTES, 1.0))
        return self.gpu.kernel_overhead_s + num_bytes / self.gpu.moved_bytes_per_s

    def across_s(self, curve_us: Curve, num_bytes: float, share: float) -> float:
        """Return the time of bytes through a NIC by a measured curve, stretched to this NIC's rate.

        Messages as long as the longest of the curve reach a share of the rate.
        """
        size, time_us = curve_us[-1]
        as_measured = size / (MICROSECOND * time_us) / (share * self.nic_bytes_per_s)
        return _grid_of(curve_us).time_s(as_measured * num_bytes)

    def collective_s(self, kernel: str, num_bytes: float, num_ranks: int, stride: int) -> float:
        """Return the time of an all-gather or reduce-scatter over ranks `stride` GPUs apart.

        Ranks spread evenly over fast domains, and those of one share the traffic that crosses domains; both levels work
        at the same time. A ring crosses each link between pods once, so these carry no more than a NIC's rate.
        """
        if num_ranks <= 1:
            return 0.0
        domains = math.ceil(num_ranks / max(1, self.domain // stride))
        inside = math.ceil(num_ranks / domains)
        within_s = self.tables.collective_s(kernel, self.link_stretch * num_bytes, inside) if inside > 1 else 0.0
        shared = num_bytes * (domains - 1) / domains / inside
        across_s = self.across_s(self.constants.gather_curve_us, shared, self.constants.gather_nic_share)
        return max(within_s, across_s + (domains - 1) * self.cluster.network.nic_latency_s)


@lru_cache
def _grid_of(curve_us: Curve) -> KernelGrid:
    sizes, times_us = zip(*curve_us, strict=True)
    return KernelGrid((sizes,), np.multiply(MICROSECOND, times_us))
