"""Models, their parameters and bytes."""

from lazsim.limits import MAX_MODEL_EXPERTS
from lazsim.specs.record import Amount, Count, NumExperts, NumLayers, Params, Spec

WEIGHT_BYTES_PER_PARAM = 2
"""A parameter, its gradient and an activation in half precision."""

STATE_BYTES_PER_PARAM = 14
"""Training state: fp16 weight 2, fp32 master weight 4, two fp32 Adam moments 8 (Lazarus, arXiv 2407.04656)."""


class ModelSpec(Spec, frozen=True, kw_only=True):
    """An MoE transformer.

    Attributes
    ----------
    num_layers, num_moe_layers : int
        All transformer layers, and the last layers, whose feed-forward block is an MoE layer.
    d_model : int
        Width of the residual stream.
    d_ff_expert, d_ff_dense : int
        Inner width of one expert and of the feed-forward block of a layer that is not MoE.
    matrices_per_expert : int
        2 for a plain feed-forward block, 3 for SwiGLU; the same for dense blocks.
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
    num_layers: NumLayers
    num_moe_layers: NumLayers
    d_model: Count
    d_ff_expert: Count
    d_ff_dense: Amount = 0
    matrices_per_expert: NumLayers
    num_experts: NumExperts
    num_shared_experts: Amount = 0
    top_k: NumExperts
    attention_params: Params
    attention_score_dim: Amount
    sequence_length: Count
    vocab_size: Amount
    num_vocab_matrices: Amount
    num_learned_positions: Amount = 0

    def __post_init__(self) -> None:
        if self.num_moe_layers > self.num_layers:
            raise ValueError(f"num_moe_layers ({self.num_moe_layers}) exceeds num_layers ({self.num_layers})")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k ({self.top_k}) exceeds num_experts ({self.num_experts})")
        if self.num_moe_layers * self.num_experts > MAX_MODEL_EXPERTS:
            raise ValueError(
                f"num_moe_layers ({self.num_moe_layers}) times num_experts ({self.num_experts}) exceeds "
                f"{MAX_MODEL_EXPERTS:,}"
            )

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
