"""Models: the shapes of their layers, and the parameters and bytes that follow."""

import math
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lazsim.grouping import interleaved
from lazsim.limits import MAX_LAYERS, MAX_MODEL_EXPERTS
from lazsim.specs.record import Amount, Count, LayerNumber, NumExperts, NumLayers, Params, Spec

WEIGHT_BYTES_PER_PARAM = 2
"""A parameter, its gradient and an activation in half precision."""

OPTIMIZER_STATE_BYTES_PER_PARAM = {"adam": 12, "muon": 8}
"""fp32 master weight 4, and fp32 moments: two of Adam 8 (ZeRO, arXiv 1910.02054, 3.1), or the one of Muon 4 (arXiv
2502.16982, 2.1). Embeddings, which Muon leaves to Adam there, count as other weights: they are a hundredth of large
models."""


class AttentionSpec(Spec, frozen=True, kw_only=True):
    """The heads of an attention layer."""

    kind: Literal["grouped", "latent"] = "grouped"
    """``grouped``: query heads share key-value heads (GQA; MHA when there are as many of both). ``latent``: keys and
    values are projected from one latent vector of a token (MLA, arXiv 2405.04434)."""
    num_heads: Count
    """Query heads."""
    num_kv_heads: Amount = 0
    """Key-value heads; latent attention has no use for them."""
    head_dim: Amount = 0
    """Width of a head; latent attention has no use for it."""
    query_rank: Amount = 0
    """Width of the latent vector of queries; 0: queries are projected directly."""
    kv_rank: Amount = 0
    """Width of the latent vector of keys and values."""
    nope_dim: Amount = 0
    """Width of a head of latent attention without rotary positions."""
    rope_dim: Amount = 0
    """Width of a head of latent attention with rotary positions."""
    value_dim: Amount = 0
    """Width of the values of a head of latent attention."""
    normed: bool = False
    """Whether each query and key head is normed before attention."""
    gated: bool = False
    """Whether what the heads write is multiplied by a gate, which a projection as wide makes of the layer's input."""
    scaled_positions: bool = False
    """Whether rotations by position are scaled (YaRN, arXiv 2309.00071), for which trainers have no fused kernel."""
    sinks: bool = False
    """Whether each head has a learned sink, a score without a key."""
    index_heads: Amount = 0
    """Heads of an indexer, which chooses the keys that latent attention sees (DeepSeek-V3.2, arXiv 2512.02556); 0: it
    sees all."""
    index_dim: Amount = 0
    """Width of a head of the indexer; its heads share one key."""
    index_topk: Amount = 0
    """Keys that the indexer chooses for each query."""
    window: Amount = 0
    """Tokens that a sliding window sees."""
    num_window_layers: Annotated[int, Meta(ge=0, le=MAX_LAYERS)] = 0
    """Layers that have a sliding window."""
    chunked: bool = False
    """Whether a window begins anew where it ends, and does not slide: chunks of the sequence (Llama 4)."""

    def __post_init__(self) -> None:
        indexer = ("index_heads", "index_dim", "index_topk")
        needed = {"grouped": ("num_kv_heads", "head_dim"), "latent": ("kv_rank", "nope_dim", "rope_dim", "value_dim")}
        further = {"grouped": ("normed", "gated"), "latent": ("query_rank", *indexer)}
        given = {field for field in self.__struct_fields__ if getattr(self, field)}
        for kind in needed:
            for field in (*needed[kind], *further[kind]):
                if field in given and kind != self.kind:
                    raise ValueError(f"{field}: only {kind} attention has it")
        for field in ("chunked", "num_window_layers"):
            if field in given and not self.window:
                raise ValueError(f"window is missing, which {field} needs")
        for field in (*needed[self.kind], *(indexer if given & {*indexer} else ())):
            if field not in given:
                raise ValueError(f"{field} is missing, which {self.kind} attention needs")

    @property
    def query_dim(self) -> int:
        """Width of queries and keys over all heads."""
        return self.num_heads * (self.head_dim if self.kind == "grouped" else self.nope_dim + self.rope_dim)

    @property
    def output_dim(self) -> int:
        """Width of what the heads write together."""
        return self.num_heads * (self.head_dim if self.kind == "grouped" else self.value_dim)

    @property
    def key_value_dim(self) -> int:
        """Numbers in the keys and values of a token, as attention reads them."""
        return self.query_dim + self.output_dim if self.kind == "latent" else 2 * self.num_kv_heads * self.head_dim

    @property
    def projected_dim(self) -> int:
        """Outputs of the joint projection of grouped heads: queries, gate, keys and values."""
        return (self.num_heads * (2 if self.gated else 1) + 2 * self.num_kv_heads) * self.head_dim

    def across(self, num_ranks: int) -> "AttentionSpec":
        """Return the heads that tensor-parallel ranks have together: each has a key-value head, or a copy of one."""
        if self.kind == "latent" or self.num_kv_heads >= num_ranks:
            return self
        return msgspec.structs.replace(self, num_kv_heads=num_ranks)

    def projections(self, d_model: int) -> tuple[tuple[int, int, bool], ...]:
        """List the projections before the heads: outputs, inputs, and whether tensor parallelism cuts the outputs."""
        if self.kind == "grouped":
            return ((self.projected_dim, d_model, True),)
        queries: tuple[tuple[int, int, bool], ...] = ((self.query_dim, d_model, True),)
        if self.query_rank:
            queries = ((self.query_rank, d_model, False), (self.query_dim, self.query_rank, True))
        up = self.num_heads * (self.nope_dim + self.value_dim)
        return (*queries, (self.kv_rank + self.rope_dim, d_model, False), (up, self.kv_rank, True))

    def index_projections(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """List the projections of the indexer, outputs and inputs: its queries, its key, and weights of its heads."""
        read = self.query_rank or d_model
        sizes = ((self.index_heads * self.index_dim, read), (self.index_dim, d_model), (self.index_heads, d_model))
        return sizes if self.index_heads else ()

    def chosen_share(self, sequence: int) -> float:
        """Return the share of the causal pairs of positions whose keys are chosen."""
        part = min(1.0, self.index_topk / sequence) if self.index_heads else 1.0
        return part * (2 - part)

    def score_widths(self, sequence: int) -> tuple[float, float]:
        """Return the width of keys and of values for each causal pair of positions, over all heads.

        Attention to chosen keys either masks the others or reads the latent vectors of the chosen, which all heads
        share: DeepSeek-V3.2 does one for short sequences and the other for long ones when it reads a prompt. *Assumed*
        is that training does what is less.
        """
        latent = self.chosen_share(sequence) * self.num_heads
        masked = float(self.query_dim), float(self.output_dim)
        chosen = latent * (self.kv_rank + self.rope_dim), latent * self.kv_rank
        return min(masked, chosen, key=math.fsum) if self.index_heads else masked

    def num_params(self, d_model: int) -> int:
        """Count the parameters of the projections of one layer."""
        sizes = [(outputs, inputs) for outputs, inputs, _ in self.projections(d_model)]
        sizes += [*self.index_projections(d_model), (self.output_dim, d_model)]
        return sum(outputs * inputs for outputs, inputs in sizes)


class StateSpaceSpec(Spec, frozen=True, kw_only=True):
    """Layers of a state-space model (Mamba-2, arXiv 2405.21060) or of linear attention among those of a transformer."""

    kind: Literal["mamba", "gated_delta"] = "mamba"
    """``mamba``, or ``gated_delta``: the gated delta rule (arXiv 2412.06464); its heads are those of values, and its
    groups those of keys."""
    num_layers: NumLayers
    """State-space layers of the model; each replaces an attention layer and has no feed-forward block."""
    num_heads: Count
    """Heads of a layer."""
    head_dim: Count
    """Width of a head."""
    state_dim: Count
    """Width of the state of a head."""
    num_groups: Count = 1
    """Groups that share input and output projections of the state."""

    @property
    def inner_dim(self) -> int:
        """Width over all heads."""
        return self.num_heads * self.head_dim

    @property
    def projected_dim(self) -> int:
        """Outputs of the input projection: gate, heads, state inputs and outputs, time steps (one or two a head)."""
        steps = self.num_heads * (1 if self.kind == "mamba" else 2)
        return 2 * self.inner_dim + 2 * self.num_groups * self.state_dim + steps

    def num_params(self, d_model: int) -> int:
        """Count the parameters of the projections of one layer."""
        return (self.projected_dim + self.inner_dim) * d_model


class ModelSpec(Spec, frozen=True, kw_only=True, dict=True):
    """An MoE transformer."""

    name: str
    """Name in results."""
    num_layers: NumLayers
    """All transformer layers."""
    num_moe_layers: NumLayers
    """Layers whose feed-forward block is an MoE layer: the last ones, unless `num_first_dense_layers` says other."""
    num_first_dense_layers: LayerNumber | None = None
    """Of the layers that are not MoE, those before all others; the rest is spread evenly among MoE layers, as in Llama
    4 Maverick, which alternates. All when not given."""
    d_model: Count
    """Width of the residual stream."""
    d_ff_expert: Count
    """Inner width of one expert."""
    d_ff_dense: Amount = 0
    """Inner width of the feed-forward block of a layer that is not MoE, where there are any."""
    matrices_per_expert: NumLayers
    """2 for a plain feed-forward block, 3 for SwiGLU; the same for dense blocks."""
    num_experts: NumExperts
    """Routed experts of a layer."""
    num_shared_experts: Amount = 0
    """Experts that every token visits."""
    top_k: NumExperts
    """Routed experts that a token visits."""
    attention: AttentionSpec | None = None
    """Heads of an attention layer; without them, the two numbers below."""
    attention_params: Params = 0
    """Parameters of one layer's attention projections."""
    attention_score_dim: Amount = 0
    """Query-key plus value width summed over heads; scores and their product with values take ``2 *
    attention_score_dim`` operations for each pair of positions."""
    num_attention_layers: Annotated[int, Meta(ge=0, le=MAX_LAYERS)] | None = None
    """Layers with attention; all when not given."""
    state_space: StateSpaceSpec | None = None
    """State-space layers of a hybrid model."""
    d_ff_shared: Amount | None = None
    """Inner width of all shared experts of a layer together; ``num_shared_experts * d_ff_expert`` when not given."""
    d_expert: Count | None = None
    """Width of the tokens that routed experts receive; `d_model` when not given."""
    expert_bias: bool = False
    """Whether each expert adds a bias after its matmuls."""
    clamped_activation: bool = False
    """Whether what the activation of experts reads is kept within bounds."""
    num_expert_groups: NumExperts = 1
    """Groups of a layer's experts; no limit when 1."""
    num_groups_per_token: NumExperts = 1
    """Groups that one token may visit."""
    num_mtp_layers: Annotated[int, Meta(ge=0, le=MAX_LAYERS)] = 0
    """Layers that predict further tokens, each one MoE layer with a projection and a pass of the head."""
    mtp_use_repeated_layer: bool = False
    """Whether those layers are passes through one set of weights (NVIDIA/Megatron-LM), instead of one set each."""
    sequence_length: Count
    """Tokens of one sequence, which is one sample."""
    vocab_size: Amount
    """Tokens of the vocabulary."""
    num_vocab_matrices: Amount
    """Embedding matrices; 1 when input and output share theirs."""
    num_learned_positions: Amount = 0
    """Positions that have a learned embedding."""

    def __post_init__(self) -> None:
        if self.num_moe_layers > self.num_layers:
            raise ValueError(f"num_moe_layers ({self.num_moe_layers}) exceeds num_layers ({self.num_layers})")
        if self.num_dense_layers < (self.num_first_dense_layers or 0):
            raise ValueError(
                f"num_first_dense_layers ({self.num_first_dense_layers}) exceeds the {self.num_dense_layers} layers "
                "that are not MoE"
            )
        if self.num_dense_layers and not self.d_ff_dense:
            raise ValueError(f"d_ff_dense is missing, which {self.num_dense_layers} layers that are not MoE need")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k ({self.top_k}) exceeds num_experts ({self.num_experts})")
        if self.top_k * self.num_expert_groups > self.num_experts * self.num_groups_per_token:
            raise ValueError(
                f"top_k ({self.top_k}) exceeds the experts of {self.num_groups_per_token} of {self.num_expert_groups} "
                f"groups (num_groups_per_token, num_expert_groups)"
            )
        if self.num_moe_layers * self.num_experts > MAX_MODEL_EXPERTS:
            raise ValueError(
                f"num_moe_layers ({self.num_moe_layers}) times num_experts ({self.num_experts}) exceeds "
                f"{MAX_MODEL_EXPERTS:,}"
            )

    @property
    def attention_layers(self) -> int:
        """Layers with attention."""
        return self.num_layers if self.num_attention_layers is None else self.num_attention_layers

    @property
    def params_per_attention(self) -> int:
        """Parameters of one attention layer's projections."""
        return self.attention_params if self.attention is None else self.attention.num_params(self.d_model)

    @property
    def score_dim(self) -> int:
        """Query-key plus value width summed over heads."""
        if self.attention is None:
            return self.attention_score_dim
        return self.attention.query_dim + self.attention.output_dim

    @property
    def pair_dim(self) -> float:
        """Width of what attention computes for each causal pair of positions: scores, their product, an indexer."""
        if self.attention is None or not self.attention.index_heads:
            return self.score_dim
        keys, values = self.attention.score_widths(self.sequence_length)
        return keys + values + self.attention.index_heads * self.attention.index_dim

    @property
    def shared_dim(self) -> int:
        """Inner width of the shared experts of a layer together."""
        return self.num_shared_experts * self.d_ff_expert if self.d_ff_shared is None else self.d_ff_shared

    @property
    def expert_dim(self) -> int:
        """Width of the tokens that routed experts receive."""
        return self.d_model if self.d_expert is None else self.d_expert

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return self.matrices_per_expert * self.expert_dim * self.d_ff_expert

    @property
    def num_dense_layers(self) -> int:
        """Layers with a feed-forward block that is not MoE; hybrid models have none."""
        return self.num_layers - self.num_moe_layers if self.state_space is None else 0

    @cached_property
    def moe_layers(self) -> list[int]:
        """Layers whose feed-forward block is an MoE layer, counted from 0, where each layer has such a block."""
        dense = self.num_dense_layers
        first = dense if self.num_first_dense_layers is None else self.num_first_dense_layers
        kinds = interleaved([("dense", dense - first), ("moe", self.num_moe_layers)])
        return [layer for layer, kind in enumerate(kinds, first) if kind == "moe"]

    @property
    def has_paired_mixers(self) -> bool:
        """Whether each MoE layer of a hybrid model has a mixer before it, as in Granite 4 and Qwen3-Next."""
        return self.state_space is not None and 2 * self.num_moe_layers == self.num_layers

    @property
    def num_whole_layers(self) -> int:
        """Layers that pipeline stages divide: a mixer and the MoE layer after it are one."""
        return self.num_layers // 2 if self.has_paired_mixers else self.num_layers

    @cached_property
    def block_params(self) -> dict[str, int]:
        """Parameters of one block of each kind, without biases and norms.

        An attention or state-space layer, a dense feed-forward block, an MoE layer without its routed experts, one of
        these, a vocabulary matrix, and a further-token layer without its routed experts.
        """
        gate = self.d_model * self.num_experts
        narrow = 0 if self.d_expert is None else 2 * self.d_model * self.d_expert
        moe = self.matrices_per_expert * self.d_model * self.shared_dim + narrow + gate
        return {
            "attention": self.params_per_attention,
            "state_space": self.state_space.num_params(self.d_model) if self.state_space else 0,
            "dense": self.matrices_per_expert * self.d_model * self.d_ff_dense,
            "moe": moe,
            "expert": self.expert_params,
            "vocabulary": self.vocab_size * self.d_model,
            "mtp": self.params_per_attention + moe + 2 * self.d_model**2,
        }

    @cached_property
    def params(self) -> dict[str, int]:
        """Parameters by part of the model; those of further-token layers are apart, in `mtp_params`."""
        block, gates = self.block_params, self.num_moe_layers * self.d_model * self.num_experts
        return {
            "attention": self.attention_layers * block["attention"],
            "state space": self.state_space.num_layers * block["state_space"] if self.state_space else 0,
            "dense blocks": self.num_dense_layers * block["dense"],
            "shared experts": self.num_moe_layers * block["moe"] - gates,
            "gates": gates,
            "routed experts": self.num_moe_layers * self.num_experts * block["expert"],
            "embeddings": self.num_vocab_matrices * block["vocabulary"] + self.num_learned_positions * self.d_model,
        }

    @property
    def total_params(self) -> int:
        """All parameters, each counted once, without those of further-token layers."""
        return sum(self.params.values())

    @cached_property
    def dense_params(self) -> int:
        """Parameters outside the routed experts: attention, dense blocks, gates, embeddings."""
        return self.total_params - self.params["routed experts"]

    @property
    def active_params(self) -> int:
        """Parameters that a token uses, embeddings included."""
        return self.dense_params + self.num_moe_layers * self.top_k * self.expert_params

    @property
    def num_mtp_weights(self) -> int:
        """Sets of weights of the layers that predict further tokens."""
        return min(self.num_mtp_layers, 1) if self.mtp_use_repeated_layer else self.num_mtp_layers

    @property
    def mtp_params(self) -> int:
        """Parameters of the layers that predict further tokens, which `total_params` leaves out."""
        return self.num_mtp_weights * (self.block_params["mtp"] + self.num_experts * self.expert_params)

    @property
    def expert_state_bytes(self) -> int:
        """Training state of one expert of one layer under Adam."""
        return (WEIGHT_BYTES_PER_PARAM + OPTIMIZER_STATE_BYTES_PER_PARAM["adam"]) * self.expert_params
