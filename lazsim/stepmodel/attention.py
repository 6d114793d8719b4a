"""Attention and state-space blocks, with the exchange of keys and values between context-parallel ranks."""

from lazsim.specs import AttentionSpec, StateSpaceSpec
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.operations import Item, Operation

SCAN_CHUNK = 128
"""Tokens of a chunk of the state-space scan (arXiv 2405.21060)."""

SCAN_STATE_PASSES = (4, 8)
"""Forward and backward, reads and writes of the states of all chunks: made, passed on, used; backward made again.

Counted in the kernels of state-spaces/mamba (ssd_combined): chunk_state writes, state_passing reads and writes,
chunk_scan reads; backward does so again, and for the gradients.
"""

SCAN_TOKEN_PASSES = (16, 32)
"""Forward and backward, reads and writes of the inner width: convolution 2, chunk_state 1, chunk_scan 4, gate and norm
3, and 6 in copies of what projections make and take (mamba_mixer of NVIDIA/Megatron-LM); backward twice that."""


ROTATION = ((4, 4), (1, 1))
"""Bytes for each number of queries and keys, and kernels, forward and backward, of a fused rotation of both."""

SCALED_ROTATION = ((24, 20), (24, 10))
"""The same without a fused kernel, which NVIDIA/Megatron-LM has for unscaled rotations only (``rope_utils.py``).

Products with cosine and sine, the turned copy in two kernels, their sum, a concatenation; before, sines and cosines."""


def attention_items(kernels: Kernels, attention: AttentionSpec, window: int) -> list[Item]:
    """List the items of an attention block; all tokens are seen where `window` is 0."""
    inputs, graphed = kernels.inputs, kernels.graphed_attention
    tensor, tokens, d_model = inputs.parallel.tensor, inputs.tokens, inputs.model.d_model
    latent = attention.kind == "latent"
    items, linears = [kernels.norm(graphed)], []
    for outputs, width, divided in attention.projections(d_model):
        module = "latent_up" if latent and divided else ""
        linears.append(kernels.linear(outputs / tensor if divided else outputs, width, tokens, graphed, module=module))
        items.append(linears[-1])
        if latent and not divided:
            items.append(kernels.norm(graphed, outputs, tokens))
    items += _split(kernels, attention)
    # Queries and keys turn by their positions.
    turned = (attention.query_dim + attention.num_kv_heads * attention.head_dim) / tensor
    passes = 2 if latent else 1
    moved, launched = SCALED_ROTATION if attention.scaled_positions else ROTATION
    forward, backward = (passes * each * turned for each in moved)
    number, backward_number = (passes * each for each in launched)
    items.append(kernels.copy(forward, backward, number, backward_number, graphed, tokens, calls=passes))
    core_s, ratio = _scores_s(kernels, attention, window)
    down = kernels.linear(d_model, attention.output_dim / tensor, tokens, graphed)
    items += [
        *_context_exchange(kernels, attention, core_s, ratio),
        Item(
            kernels.launches("attention", core_s, 2, graphed),
            kernels.launches("attention", ratio * core_s, 3, graphed),
            "attention_core",
        ),
        down,
        kernels.residual(graphed),
        *kernels.tensor_exchange((linears[-1], down)),
    ]
    return items


def _split(kernels: Kernels, attention: AttentionSpec) -> list[Item]:
    """Cut queries out of the joint projection of grouped heads, join their gradients, norm queries and keys.

    NVIDIA/Megatron-LM makes queries contiguous and concatenates the gradients of all three; latent attention has
    projections of their own.
    """
    if attention.kind == "latent":
        return []
    inputs, graphed = kernels.inputs, kernels.graphed_attention
    tensor = inputs.parallel.tensor
    keys = attention.num_kv_heads * attention.head_dim
    width = (attention.query_dim + 2 * keys) / tensor
    items = [kernels.copy(4 * attention.query_dim / tensor, 4 * width, 1, 1, graphed, inputs.tokens)]
    if attention.normed:
        norm = kernels.norm(graphed, (attention.query_dim + keys) / tensor, inputs.tokens)
        items.append(norm._replace(module=""))
    return items


def _scores_s(kernels: Kernels, attention: AttentionSpec, window: int) -> tuple[float, float]:
    """Return the time of the attention of all heads, and how many times as long its backward pass takes."""
    inputs = kernels.inputs
    constants, parallel, tables = inputs.constants, inputs.parallel, inputs.tables
    sequence = inputs.model.sequence_length
    heads = parallel.micro_batch * attention.num_heads / parallel.tensor / parallel.context
    sustained = tables.sustained_rate("matmul_bf16") * constants.slowest_gpu_rate
    sustained *= constants.training_attention_speedup
    if attention.kind == "latent":
        return tables.attention_s("attention_latent", heads, sequence) / sustained, constants.latent_attention_backward
    width = 64 if attention.head_dim <= 64 and "attention_64" in tables.grids else 128
    kernel = f"attention_{width}"
    seconds = tables.attention_s(kernel, heads, sequence) * attention.head_dim / width
    if window and window < sequence:
        # Two windows of keys for each window of queries, half of the pairs outside the band masked.
        least = max(window, 512)
        seconds = min(seconds, 2 * tables.time_s(kernel, heads * sequence / window, least) * window / least)
    # The tables hold the turn of queries and keys and the write of keys and values, too.
    touched = (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_dim / parallel.tensor
    seconds = max(seconds - inputs.copy_s(4 * touched * inputs.tokens), 0.3 * seconds)
    return seconds / sustained, constants.grouped_attention_backward


def _context_exchange(kernels: Kernels, attention: AttentionSpec, core_s: float, ratio: float) -> list[Item]:
    """Exchange what the ranks of a sequence need of one another, forward and backward.

    In a ring, keys and values of one rank arrive while attention over those of the rank before runs; gradients go the
    same way backward, so twice as much. Gathered first, or heads against positions, all of it is waited for.
    """
    inputs = kernels.inputs
    parallel, ranks = inputs.parallel, inputs.parallel.context
    if ranks == 1:
        return []
    latent = attention.kind == "latent"
    keys_and_values = (
        attention.query_dim + attention.output_dim if latent else 2 * attention.num_kv_heads * attention.head_dim
    )
    token_bytes = 2 * inputs.tokens / parallel.tensor
    if parallel.context_exchange == "all_to_all":
        width = attention.query_dim + keys_and_values + attention.output_dim
        # Each rank sends what a gather of a share of the heads would bring.
        seconds = [inputs.collective_s("all_gather", token_bytes * width, ranks, parallel.tensor)] * 2
    else:
        gathered_s = inputs.collective_s("all_gather", token_bytes * keys_and_values * ranks, ranks, parallel.tensor)
        seconds = [gathered_s, 2 * gathered_s]
    behind = [(1 - 1 / ranks) * core_s, (1 - 1 / ranks) * ratio * core_s]
    hidden = [min(*pair) if parallel.context_exchange == "ring" else 0.0 for pair in zip(seconds, behind, strict=True)]
    forward, backward = (
        kernels.exchange("context_exchange", total_s - hidden_s, hidden_s, 2 * (ranks - 1), kernels.graphed_attention)
        for total_s, hidden_s in zip(seconds, hidden, strict=True)
    )
    return [Item((forward,), (backward,))]


def state_space_items(kernels: Kernels, space: StateSpaceSpec) -> list[Item]:
    """List the items of a state-space block (Mamba-2)."""
    inputs, graphed = kernels.inputs, kernels.graphed_attention
    tensor, tokens, d_model = inputs.parallel.tensor, inputs.tokens, inputs.model.d_model
    in_chunk = space.num_groups * 2 * SCAN_CHUNK * space.state_dim
    per_head = 2 * SCAN_CHUNK * space.head_dim + 4 * space.state_dim * space.head_dim
    flop = tokens * (in_chunk + space.num_heads * per_head) / tensor
    matmuls_s = flop / (inputs.constants.scan_peak_share * inputs.gpu.peak_flop_per_s)
    state_bytes = 4 * space.inner_dim * space.state_dim / SCAN_CHUNK

    def scan(direction: int, num_kernels: int) -> tuple[Operation, ...]:
        moved = SCAN_STATE_PASSES[direction] * state_bytes + SCAN_TOKEN_PASSES[direction] * 2 * space.inner_dim
        seconds = (1 + 1.5 * direction) * matmuls_s + inputs.copy_s(moved * tokens / tensor)
        return kernels.launches("state_space", seconds, num_kernels, graphed)

    up = kernels.linear(space.projected_dim / tensor, d_model, tokens, graphed)
    down = kernels.linear(d_model, space.inner_dim / tensor, tokens, graphed)
    return [
        kernels.norm(graphed), up, Item(scan(0, 8), scan(1, 16)), down, kernels.residual(graphed),
        *kernels.tensor_exchange((up, down)),
    ]  # fmt: skip
