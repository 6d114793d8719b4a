"""Models that are small enough for tests, and what else several of them take."""

import msgspec

from lazsim.costmodel.profile import Header
from lazsim.specs import GpuSpec, ModelSpec, load_spec

TINY = msgspec.structs.replace(
    load_spec(ModelSpec, "gpt-s"), name="tiny", d_model=64, d_ff_expert=96, attention_params=4 * 64 * 64,
    attention_score_dim=128, sequence_length=16, vocab_size=101, num_experts=5, top_k=2,
)  # fmt: skip
"""GPT-2 in shape, with widths that grouped matmuls take."""

TINY_SWIGLU = msgspec.structs.replace(
    TINY, name="tiny-swiglu", matrices_per_expert=3, top_k=1, num_layers=13, d_ff_dense=80
)
"""The same with experts of three matrices, one of them for each token, and a layer without experts."""

IDEAL = GpuSpec(
    name="ideal", peak_flop_per_s=100e12, memory_bytes_per_s=1e12, memory_bytes=16e9, matmul_efficiency=1.0,
    matmul_fill_outputs=0.0, matmul_fill_k=0.0, matmul_memory_efficiency=1.0, memory_efficiency=1.0,
    kernel_overhead_s=0.0, source="assumption",
)  # fmt: skip
"""A GPU without losses."""

HEADER = Header(
    format_version=1, lazsim="0.1.0", torch="2", device="cpu", dtype="float32", model=load_spec(ModelSpec, "gpt-s"),
    conditions={}, matmul_flop_per_s=1e11, copy_bytes_per_s=1e10,
)  # fmt: skip
"""A profile of gpt-s on a processor."""
