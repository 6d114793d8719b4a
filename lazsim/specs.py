"""What is simulated: frozen specifications of a model, a GPU, a cluster and a job, read from TOML.

A name is an entry of ``lazsim/catalog/<kind>/``; a path to a TOML file of the same shape works wherever a name does.
"""

import difflib
import hashlib
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from lazsim.errors import SpecError

WEIGHT_BYTES_PER_PARAM = 2
"""A parameter, its gradient and an activation in half precision."""

STATE_BYTES_PER_PARAM = 14
"""Training state: fp16 weight 2, fp32 master weight 4, two fp32 Adam moments 8 (Lazarus, arXiv 2407.04656)."""


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A record read from TOML; unknown keys are refused and nothing changes after it is made."""


class ModelSpec(Spec, frozen=True, kw_only=True):
    """An MoE transformer.

    Attributes
    ----------
    num_layers, num_moe_layers : int
        All transformer layers, and those of them whose feed-forward block is an MoE layer (the last ones).
    d_model : int
        Width of the residual stream.
    d_ff_expert, d_ff_dense : int
        Inner width of one expert and of the feed-forward block of a layer that is not MoE.
    matrices_per_expert : int
        2 for a plain feed-forward block, 3 for SwiGLU; holds for dense blocks too.
    num_experts, num_shared_experts, top_k : int
        Routed experts of a layer, experts that every token visits, routed experts that a token visits.
    attention_params : int
        Parameters of one layer's attention projections.
    attention_score_dim : int
        Query-key plus value width summed over heads; scores and their product with values take
        ``2 * attention_score_dim`` operations for each pair of positions.
    sequence_length : int
        Tokens of one sequence, which is one sample.
    vocab_size, num_vocab_matrices, num_learned_positions : int
        Vocabulary, embedding matrices (1 when input and output share theirs), learned positions.
    """

    name: str
    num_layers: int
    num_moe_layers: int
    d_model: int
    d_ff_expert: int
    d_ff_dense: int = 0
    matrices_per_expert: int
    num_experts: int
    num_shared_experts: int = 0
    top_k: int
    attention_params: int
    attention_score_dim: int
    sequence_length: int
    vocab_size: int
    num_vocab_matrices: int
    num_learned_positions: int = 0

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "num_layers",
            "num_moe_layers",
            "d_model",
            "d_ff_expert",
            "num_experts",
            "top_k",
            "sequence_length",
            "matrices_per_expert",
        )
        _require_not_negative(self, "d_ff_dense", "num_shared_experts", "attention_params", "attention_score_dim")
        _require_not_negative(self, "vocab_size", "num_vocab_matrices", "num_learned_positions")
        if self.num_moe_layers > self.num_layers:
            raise ValueError(f"num_moe_layers ({self.num_moe_layers}) exceeds num_layers ({self.num_layers})")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k ({self.top_k}) exceeds num_experts ({self.num_experts})")

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return self.matrices_per_expert * self.d_model * self.d_ff_expert

    @property
    def feed_forward_params(self) -> int:
        """Parameters of all feed-forward blocks that every token visits: dense layers and shared experts."""
        dense = (self.num_layers - self.num_moe_layers) * self.matrices_per_expert * self.d_model * self.d_ff_dense
        return dense + self.num_moe_layers * self.num_shared_experts * self.expert_params

    @property
    def dense_params(self) -> int:
        """Parameters outside the routed experts: attention, dense blocks, gates, embeddings."""
        gates = self.num_moe_layers * self.d_model * self.num_experts
        embeddings = (self.num_vocab_matrices * self.vocab_size + self.num_learned_positions) * self.d_model
        return self.num_layers * self.attention_params + self.feed_forward_params + gates + embeddings

    @property
    def total_params(self) -> int:
        """All parameters, each counted once."""
        return self.dense_params + self.num_moe_layers * self.num_experts * self.expert_params

    @property
    def expert_state_bytes(self) -> int:
        """Training state of one expert of one layer."""
        return STATE_BYTES_PER_PARAM * self.expert_params

    @property
    def dense_state_bytes(self) -> int:
        """Training state outside the routed experts, which every node holds."""
        return STATE_BYTES_PER_PARAM * self.dense_params


class FusedExpertsSpec(Spec, frozen=True, kw_only=True):
    """How near kernels that run all experts of a layer at once come to a GPU's datasheet; see `GpuSpec`."""

    matmul_efficiency: float
    matmul_fill_outputs: float
    matmul_fill_k: float
    matmul_memory_efficiency: float
    kernel_overhead_s: float

    def __post_init__(self) -> None:
        _require_positive(self, "matmul_efficiency", "matmul_memory_efficiency")
        _require_not_negative(self, "matmul_fill_outputs", "matmul_fill_k", "kernel_overhead_s")


class GpuSpec(Spec, frozen=True, kw_only=True):
    """A GPU: its datasheet and how near kernels come to it.

    A ``m x k @ k x n`` matmul takes, in the names below and with ``bytes = 2 (m k + k n + m n)``::

        overhead + max(2 (m n + fill_outputs) (k + fill_k) / (matmul_efficiency peak),
                       bytes / (matmul_memory_efficiency memory_bytes_per_s))

    and an element-wise kernel ``overhead + bytes / (memory_efficiency memory_bytes_per_s)``; see
    `lazsim.costmodel.kernels`.

    Attributes
    ----------
    peak_flop_per_s : float
        Datasheet peak of dense half-precision matmuls with fp32 accumulation.
    memory_bytes_per_s, memory_bytes : float
        Datasheet bandwidth and size of the device memory.
    matmul_efficiency : float
        Share of the peak that a very large matmul reaches.
    matmul_fill_outputs : float
        Output elements whose time is lost to processors that are not full: half of `matmul_efficiency` at this many.
    matmul_fill_k : float
        Length of the inner dimension that starting and ending each output tile costs.
    matmul_memory_efficiency : float
        Share of the memory bandwidth at which a matmul of few rows reads its weights.
    memory_efficiency : float
        Share of the memory bandwidth that an element-wise kernel or a copy reaches.
    kernel_overhead_s : float
        Fixed time of one kernel.
    source : str
        Where the datasheet figures and the efficiencies come from; "assumption" where there is no measurement.
    fused_experts : FusedExpertsSpec, optional
        What takes the place of the matmul efficiencies for experts where a job runs them in fused kernels; none where
        no such kernel was measured.
    """

    name: str
    peak_flop_per_s: float
    memory_bytes_per_s: float
    memory_bytes: float
    matmul_efficiency: float
    matmul_fill_outputs: float
    matmul_fill_k: float
    matmul_memory_efficiency: float
    memory_efficiency: float
    kernel_overhead_s: float
    source: str
    fused_experts: FusedExpertsSpec | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "peak_flop_per_s", "memory_bytes_per_s", "memory_bytes", "matmul_efficiency")
        _require_positive(self, "matmul_memory_efficiency", "memory_efficiency")
        _require_not_negative(self, "matmul_fill_outputs", "matmul_fill_k", "kernel_overhead_s")


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """Links of a cluster.

    Attributes
    ----------
    nic_bytes_per_s : float
        Line rate in each direction of all NICs of one server together.
    all_to_all_efficiency, all_reduce_efficiency, point_to_point_efficiency : float
        Share of the line rate that a large transfer of each kind reaches.
    nic_latency_s : float
        Floor of one message between servers.
    local_bytes_per_s, local_latency_s : float
        Rate of a GPU's link inside a server, in each direction, and floor of one exchange: all-to-all, point to point.
    local_all_reduce_bytes_per_s, local_all_reduce_latency_s : float
        The same for all-reduces, whose latency is that of one hop of the ring.
    storage_bytes_per_s : float
        Rate of the shared storage that holds checkpoints, all nodes together.
    """

    nic_bytes_per_s: float
    all_to_all_efficiency: float
    all_reduce_efficiency: float
    point_to_point_efficiency: float
    nic_latency_s: float
    local_bytes_per_s: float
    local_latency_s: float
    local_all_reduce_bytes_per_s: float
    local_all_reduce_latency_s: float
    storage_bytes_per_s: float

    def __post_init__(self) -> None:
        latencies = [field for field in self.__struct_fields__ if field.endswith("latency_s")]
        _require_positive(self, *(field for field in self.__struct_fields__ if field not in latencies))
        _require_not_negative(self, *latencies)


class RecoverySpec(Spec, frozen=True, kw_only=True):
    """Fixed times around a failure.

    Attributes
    ----------
    detect_s : float
        From a failure until the survivors know of it.
    rebuild_s : float
        To plan anew and rebuild the communicators of a running job.
    regroup_s : float
        To change the expert groups of a running job whose nodes stay the same, as a rebalance does.
    restart_base_s, restart_per_node_s : float
        To start the job again from nothing on ``N`` nodes: ``base + per_node * N``, checkpoint load not included.
    """

    detect_s: float
    rebuild_s: float
    regroup_s: float
    restart_base_s: float
    restart_per_node_s: float

    def __post_init__(self) -> None:
        _require_not_negative(self, *self.__struct_fields__)


class ClusterSpec(Spec, frozen=True, kw_only=True):
    """Nodes, what is in them and between them.

    Attributes
    ----------
    num_nodes : int
        Nodes of the full cluster; a node is the unit of failure.
    gpu : str
        A name in the catalogue of GPUs, or a path to a TOML file.
    gpus_per_node : int
        GPUs of a node; the dense part of the model is tensor-parallel over them.
    nodes_per_server : int
        Nodes that sit in one server and share its NICs.
    slots_per_gpu : int
        Expert replicas that a GPU holds in one layer.
    """

    name: str
    num_nodes: int
    gpu: str
    gpus_per_node: int
    nodes_per_server: int = 1
    slots_per_gpu: int
    network: NetworkSpec
    recovery: RecoverySpec

    def __post_init__(self) -> None:
        _require_positive(self, "num_nodes", "gpus_per_node", "nodes_per_server", "slots_per_gpu")

    @property
    def slots_per_node(self) -> int:
        """Expert replicas that a node holds in one layer."""
        return self.gpus_per_node * self.slots_per_gpu


class JobSpec(Spec, frozen=True, kw_only=True):
    """How the model is trained.

    Attributes
    ----------
    sequences_per_gpu : int
        Sequences that one GPU trains in one micro-batch.
    num_micro_batches : int
        Micro-batches whose gradients are accumulated in a step.
    fault_threshold : int
        ``f``: each expert gets at least this many replicas, where they fit.
    rebalance_interval_steps : int
        Steps between plans from newly observed loads.
    join_wait_s : float
        Time for which new nodes are collected before they join.
    checkpoint_interval_steps : mapping
        Steps between checkpoints, for each system by name.
    activation_passes : float
        Activations of width ``d_model`` that a layer's element-wise kernels read or write, per token, forward.
    logit_passes : float
        Passes over the fp16 logits by the loss, forward and backward together.
    reorder_kernels : float
        Small kernels of gate, top-k, counts and offsets in one layer, forward and backward together.
    expert_kernels : str
        ``separate``: each expert's matmuls by themselves; ``fused``: all experts of a layer at once, as measured of
        inference kernels. The latter takes a GPU of which these were measured.
    """

    name: str
    sequences_per_gpu: int
    num_micro_batches: int
    fault_threshold: int
    rebalance_interval_steps: int
    join_wait_s: float
    checkpoint_interval_steps: dict[str, int]
    activation_passes: float
    logit_passes: float
    reorder_kernels: float
    expert_kernels: Literal["separate", "fused"] = "separate"

    def __post_init__(self) -> None:
        _require_positive(self, "sequences_per_gpu", "num_micro_batches", "fault_threshold", "rebalance_interval_steps")
        _require_not_negative(self, "join_wait_s", "activation_passes", "logit_passes", "reorder_kernels")
        if any(steps <= 0 for steps in self.checkpoint_interval_steps.values()):
            raise ValueError("checkpoint_interval_steps must be positive")


def _require_positive(spec: Spec, *fields: str) -> None:
    for field in fields:
        if not 0 < getattr(spec, field) < math.inf:
            raise ValueError(f"{field} must be positive, not {getattr(spec, field)}")


def _require_not_negative(spec: Spec, *fields: str) -> None:
    for field in fields:
        if not 0 <= getattr(spec, field) < math.inf:
            raise ValueError(f"{field} must be a number from 0 up, not {getattr(spec, field)}")


SpecT = TypeVar("SpecT", bound=Spec)

CATALOG_KINDS: Mapping[type[Spec], str] = {
    ModelSpec: "models",
    GpuSpec: "gpus",
    ClusterSpec: "clusters",
    JobSpec: "jobs",
}
"""The folder of the catalogue in which each kind of specification is kept."""


def unknown_name(what: str, name: str, known: list[str]) -> str:
    """Say that a name is unknown and offer the nearest, however far it is.

    Examples
    --------
    >>> unknown_name("model", "gtp-l", ["gpt-s", "gpt-l"])
    "unknown model 'gtp-l': did you mean 'gpt-l'? known: gpt-s, gpt-l"
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}known: {', '.join(known)}"


def catalog_names(kind: str) -> list[str]:
    """List the names of a folder of the catalogue, sorted."""
    folder = resources.files("lazsim") / "catalog" / kind
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_toml(path: Path | str, text: bytes, spec_type: type[SpecT]) -> SpecT:
    """Decode a specification.

    Raises
    ------
    SpecError
        When the text is not TOML, or a key is missing, unknown or of a wrong type or value.
    """
    try:
        return msgspec.toml.decode(text, type=spec_type)
    except (msgspec.DecodeError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from None


def load_spec(spec_type: type[SpecT], name: str) -> SpecT:
    """Read a specification from the catalogue, or from a path that ends in ``.toml``.

    Raises
    ------
    SpecError
        When there is no such entry or file, or it does not hold such a specification.

    Examples
    --------
    >>> load_spec(ModelSpec, "gpt-s").num_experts
    8
    """
    return read_toml(name, read_spec_bytes(CATALOG_KINDS[spec_type], name), spec_type)


def read_spec_bytes(kind: str, name: str) -> bytes:
    """Read the bytes of a catalogue entry, or of a path that ends in ``.toml``.

    Raises
    ------
    SpecError
        When there is no such entry or file.
    """
    if name.endswith(".toml"):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise SpecError(f"{name}: cannot be read ({error.strerror}): give a TOML file or a name") from None
    known = catalog_names(kind)
    if name not in known:
        raise SpecError(unknown_name(kind.removesuffix("s"), name, known) + "; or a path to a .toml file")
    return (resources.files("lazsim") / "catalog" / kind / f"{name}.toml").read_bytes()


def sha256(content: bytes) -> str:
    """Hash an input, so that a result can name it."""
    return hashlib.sha256(content).hexdigest()
