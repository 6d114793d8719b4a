"""GPUs, the links between them, and clusters of both."""

from typing import Annotated

from msgspec import Meta

from lazsim.limits import MAX_GPUS_PER_NODE
from lazsim.specs.record import Amount, Count, Factor, NumNodes, Price, Quantity, Rate, Seconds, Spec, require_numbers


class FusedExpertsSpec(Spec, frozen=True, kw_only=True):
    """Efficiencies of kernels that run all experts of a layer at once; the fields are as those of `GpuSpec`."""

    matmul_efficiency: Factor
    matmul_fill_outputs: Quantity
    matmul_fill_k: Quantity
    matmul_memory_efficiency: Factor
    kernel_overhead_s: Seconds


class GpuSpec(Spec, frozen=True, kw_only=True):
    """A GPU: its datasheet and the efficiencies of its kernels.

    A ``m x k @ k x n`` matmul takes, in the names below and with ``bytes = 2 (m k + k n + m n)``::

        overhead + max(2 (m n + fill_outputs) (k + fill_k) / (matmul_efficiency peak),
                       bytes / (matmul_memory_efficiency memory_bytes_per_s))

    and an element-wise kernel ``overhead + bytes / (memory_efficiency memory_bytes_per_s)``; see
    `lazsim.costmodel.compute`.
    """

    name: str
    """Name in results."""
    peak_flop_per_s: Rate
    """Datasheet peak of dense half-precision matmuls with fp32 accumulation."""
    memory_bytes_per_s: Rate
    """Datasheet bandwidth of the device memory."""
    memory_bytes: Rate
    """Datasheet size of the device memory; datasheets count it in units of 2^30 bytes."""
    matmul_efficiency: Factor
    """Share of the peak that a very large matmul reaches."""
    matmul_fill_outputs: Quantity
    """Output elements at which a matmul reaches half of `matmul_efficiency`, since few outputs do not fill the GPU."""
    matmul_fill_k: Quantity
    """Cost of the start and end of each output tile, as a length of the inner dimension."""
    matmul_memory_efficiency: Factor
    """Share of the memory bandwidth at which a matmul of few rows reads its weights."""
    memory_efficiency: Factor
    """Share of the memory bandwidth that an element-wise kernel or a copy reaches."""
    kernel_overhead_s: Seconds
    """Fixed time of one kernel."""
    peak_fp8_flop_per_s: Quantity = 0.0
    """Datasheet peak of dense matmuls with eight bits; 0 where the GPU has none."""
    peak_fp4_flop_per_s: Quantity = 0.0
    """Datasheet peak of dense matmuls with four bits; 0 where the GPU has none."""
    kernels: str = ""
    """Tables of measured kernels in the catalogue, or a path to those of ``lazsim profile import``, which ends in
    ``.csv``; empty where there are none."""
    kernels_speedup: Factor = 1.0
    """Rate of kernels over those of the tables, where these stand in for another GPU's."""
    source: str
    """Source of the datasheet figures and the efficiencies."""
    assumed: tuple[str, ...] = ()
    """Numbers of the above that no source tells."""
    fused_experts: FusedExpertsSpec | None = None
    """Matmul efficiencies of experts in jobs with fused kernels; none where no such kernel was measured."""

    def __post_init__(self) -> None:
        require_numbers(self, self.assumed)

    @property
    def moved_bytes_per_s(self) -> float:
        """Rate at which an element-wise kernel or a copy reads and writes the memory."""
        return self.memory_efficiency * self.memory_bytes_per_s

    def peak_of(self, precision: str) -> float:
        """Return the matmul peak of a precision of `lazsim.specs.ParallelSpec`, or of half precision if it has none."""
        peaks = {"bf16": 0.0, "nvfp4": self.peak_fp4_flop_per_s}
        return peaks.get(precision, self.peak_fp8_flop_per_s) or self.peak_flop_per_s


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """Links of a cluster."""

    nic_bytes_per_s: Rate
    """Line rate in each direction of all NICs of one server together."""
    all_to_all_efficiency: Factor
    """Share of the line rate that a large all-to-all reaches."""
    all_reduce_efficiency: Factor
    """Share of the line rate that a large all-reduce reaches."""
    point_to_point_efficiency: Factor
    """Share of the line rate that a large transfer from one to one reaches."""
    nic_latency_s: Seconds
    """Floor of one message between servers."""
    local_bytes_per_s: Rate
    """Rate of a GPU's link inside a server, in each direction: all-to-all, point to point."""
    local_latency_s: Seconds
    """Floor of one such exchange."""
    local_all_reduce_bytes_per_s: Rate
    """The same rate for all-reduces."""
    local_all_reduce_latency_s: Seconds
    """Latency of one hop of the ring of an all-reduce inside a server."""
    storage_bytes_per_s: Rate
    """Rate at which the shared storage takes checkpoints, all nodes together."""
    storage_read_bytes_per_s: Quantity = 0.0
    """Rate at which it gives them back; 0: the same."""
    nodes_per_pod: Amount = 0
    """Nodes that one set of leaf switches joins at the full rate of their NICs, such as a rail group; 0: all."""
    spine_share: Factor = 1.0
    """Share of the NICs' rate that the links between pods carry."""


class RecoverySpec(Spec, frozen=True, kw_only=True):
    """Fixed times around a failure."""

    detect_s: Seconds
    """From a failure until the survivors detect it."""
    rebuild_s: Seconds
    """To plan again and rebuild the communicators of a running job."""
    regroup_s: Seconds
    """To change the expert groups of a running job on the same nodes, as in a rebalance."""
    restart_base_s: Seconds
    """To restart the job on ``N`` nodes, without the load of the checkpoint: ``base + per_node * N``."""
    restart_per_node_s: Seconds
    """The part of that for each node."""
    connect_s: Seconds = 0.056
    """To connect two processes when the first state moves between them: 0.39 s for the 7 peers of a rank
    (NVIDIA/nccl#1646, 8 B200)."""


HOST_BYTES_PER_GPU = 256 * 2.0**30
"""Of a DGX H100, whose datasheet gives 2 TB of system memory for eight GPUs."""


class HostSpec(Spec, frozen=True, kw_only=True):
    """The processors beside the GPUs of a node."""

    clock_hz: Rate = 3.8e9
    """Datasheet clock of one core under load; the time to launch kernels goes with it."""
    launches_per_clock: Factor = 1.0
    """Launches in a clock over those of an x86 core."""
    link_bytes_per_s: Rate = 52.8e9
    """Rate from the memory of the host to a GPU, and back; 52.8 GB/s of an H100 over PCIe 5 (NVIDIA/nvbandwidth#24)."""
    serialise_bytes_per_s: Rate = 0.7e9
    """Rate at which one process turns tensors into a file and back: ``torch.save`` reaches 0.65 GiB/s on a disk of more
    than 2 (ServiceNow/Fast-LLM#26), and 0.7 GB/s both ways (Lightning-AI/litgpt#1852)."""
    memory_bytes: Quantity = 0.0
    """Memory of the processors of one node; 0: 256 GiB for each GPU, as a DGX H100 has."""

    @property
    def launch_clock_hz(self) -> float:
        """Clock of an x86 core that launches kernels as fast."""
        return self.clock_hz * self.launches_per_clock


class ClusterSpec(Spec, frozen=True, kw_only=True):
    """A cluster: its nodes, GPUs and network.

    Rates, sizes and times may be text with a unit, such as ``"400Gbps"``, ``"80GiB"`` or ``"10us"``; without one, they
    are in the unit that the name of the key ends in.
    """

    name: str
    """Name in results."""
    num_nodes: NumNodes
    """Nodes of the full cluster; a node is the unit of failure."""
    gpu: str
    """A name in the catalogue of GPUs, or a path to a TOML file."""
    gpus_per_node: Annotated[int, Meta(ge=1, le=MAX_GPUS_PER_NODE)]
    """GPUs of a node; the dense part of the model is tensor-parallel over them."""
    nodes_per_server: Count = 1
    """Nodes in one server, which share its NICs."""
    slots_per_gpu: Count
    """Expert replicas that a GPU holds in one layer."""
    gpus_per_domain: Amount = 0
    """GPUs that fast links join, such as NVLink in a rack; 0: those of a server."""
    nodes_per_domain: Amount = 0
    """Nodes of one failure domain, such as a rack, switch or zone: successive nodes, of which the last domain may have
    fewer. They may fail together. 0: no domains."""
    host: HostSpec = HostSpec()
    """Processors of a node; those of a DGX H100 where they are not given."""
    network: NetworkSpec
    """Links."""
    recovery: RecoverySpec
    """Times around a failure."""
    assumed: tuple[str, ...] = ()
    """Numbers that no source tells, such as ``"network.storage_bytes_per_s"``."""
    usd_per_node_hour: Price | None = None
    """Price of a node; a price that is asked for, or that the trace has, goes before it."""
    on_demand_usd_per_node_hour: Price | None = None
    """Price of a node that is not taken away, for comparisons of spot with on-demand nodes."""

    def __post_init__(self) -> None:
        require_numbers(self, self.assumed)

    @property
    def slots_per_node(self) -> int:
        """Expert replicas that a node holds in one layer."""
        return self.gpus_per_node * self.slots_per_gpu

    @property
    def host_memory_bytes(self) -> float:
        """Memory of the processors of one node."""
        return self.host.memory_bytes or self.gpus_per_node * HOST_BYTES_PER_GPU
