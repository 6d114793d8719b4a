"""Models that are small enough for tests."""

import msgspec

from lazsim.specs import ModelSpec, load_spec

TINY = msgspec.structs.replace(
    load_spec(ModelSpec, "gpt-s"), name="tiny", d_model=64, d_ff_expert=96, attention_params=4 * 64 * 64,
    attention_score_dim=128, sequence_length=16, vocab_size=101, num_experts=5, top_k=2,
)  # fmt: skip
"""GPT-2 in shape, with widths that grouped matmuls take."""

TINY_SWIGLU = msgspec.structs.replace(
    TINY, name="tiny-swiglu", matrices_per_expert=3, top_k=1, num_layers=13, d_ff_dense=80
)
"""The same with experts of three matrices, one of them for each token, and a layer without experts."""
