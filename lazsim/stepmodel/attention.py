"""Attention and state-space blocks, with the exchange of keys and values between context-parallel ranks."""

import math

from lazsim.costmodel.scan import SCANS, scan_work
from lazsim.specs import AttentionSpec, StateSpaceSpec
from lazsim.stepmodel.indexer import indexer_items
from lazsim.stepmodel.inputs import QUANTISE_BYTES, StepInputs
from lazsim.stepmodel.kernels import SECOND_COPY_BYTES, Kernels
from lazsim.stepmodel.operations import Item, Operation

WIDE_HEAD = 128
"""Numbers of a head from which 8 bits shorten attention. On Blackwell, the exponential of a score takes as long as the
matmuls of a head of 128 in 16 bits: 16 exponentials and 8,192 operations in a clock (FlashAttention-4)."""

KEYS_BEYOND_WINDOW = (256, 512)
"""Keys beyond its window that attention takes for a query, forward and backward: a tile of queries takes all keys that
one of them sees. Within 15 % of cuDNN 9.19 on an H200 (windows of 128 to 1,024, heads of 64 and 128)."""

ROTATION = ((4, 4), (1, 1))
"""Bytes for each number of queries and keys, and kernels, forward and backward, of a fused rotation of both."""

SCALED_ROTATION = ((24, 20), (24, 10))
"""The same without a fused kernel, which NVIDIA/Megatron-LM has for unscaled rotations only (``rope_utils.py``).

Products with cosine and sine, the turned copy in two kernels, their sum, a concatenation; before, sines and cosines."""


MERGE_BYTES, MERGE_HALF_BYTES = (4, 6), (4, 3)
"""Bytes for each number of what the kernels of a ring make, of the first one and of each further one.

The last rank adds all of its output, and of its gradients those of all queries and of the first half of keys and values
(``AttnFuncWithCPAndKVP2P`` of NVIDIA/TransformerEngine 2.9)."""

SCAN_COPY_BYTES = ((12, 16), (8, 8))
"""Bytes for each number that ranks of a sequence exchange before and after a scan, forward and backward: parts of a
projection are cut by heads, joined and put in order, and gradients cut and joined; the output is put in order and
joined (``MambaContextParallel`` of NVIDIA/Megatron-LM 0.16.1)."""


def attention_items(kernels: Kernels, attention: AttentionSpec, window: int) -> list[Item]:
    """List the items of an attention block; all tokens are seen where `window` is 0."""
    inputs = kernels.inputs
    tensor, tokens, d_model = inputs.parallel.tensor, inputs.tokens, inputs.model.d_model
    items, linears, gathered = [kernels.norm()], list[Item](), attention.rope_dim
    for outputs, width, divided in attention.projections(d_model):
        if divided:
            gathered += width
            module = "latent_up" if attention.kind == "latent" else ""
            linears.append(kernels.linear(outputs / tensor, width, tokens, module=module))
            items.append(linears[-1])
        else:
            # Each rank makes latent vectors of its own tokens (NVIDIA/Megatron-LM, ``parallel_mode`` "duplicated").
            # Their norm is part of the projection that follows, as ``layernorm`` of what it recomputes is not.
            norm = kernels.norm(outputs)._replace(module="latent_up")
            items += [kernels.linear(outputs, width, inputs.own_tokens), norm]
    items += _shared_heads(kernels, attention)
    attention = attention.across(tensor)
    written = attention.output_dim / tensor
    down = kernels.linear(d_model, written, tokens)
    # Reads both factors and writes the product; backward reads its gradient, too, and writes two.
    gate = [kernels.copy(6 * written, 10 * written, 1, 1, tokens)] * attention.gated
    return [
        *items, *_split(kernels, attention), _rotation(kernels, attention), *_core(kernels, attention, window), *gate,
        down, kernels.residual(), *kernels.tensor_exchange(gathered, d_model, (linears[-1], down)),
    ]  # fmt: skip


def _core(kernels: Kernels, attention: AttentionSpec, window: int) -> list[Item]:
    """List the items from rotated queries, keys and values to what all heads give."""
    inputs = kernels.inputs
    tensor, tokens, constants, items = inputs.parallel.tensor, inputs.tokens, inputs.constants, list[Item]()
    core_s, ratio = _scores_s(kernels, attention, window)
    if attention.index_heads:
        items, core_s = indexer_items(kernels, attention, core_s)
    sink_s = constants.sink_gradient_s * tokens * attention.num_heads / tensor if attention.sinks else 0.0
    if "attention" in inputs.parallel.eight_bit_parts:
        # Queries, keys and values along both axes, and backward the gradient of what attention gives.
        each = (QUANTISE_BYTES + SECOND_COPY_BYTES[inputs.parallel.precision]) / tensor
        read, given = each * (attention.query_dim + attention.key_value_dim), each * attention.output_dim
        items.append(kernels.copy(read, given, 3, 1, tokens))
        if attention.query_dim >= WIDE_HEAD * attention.num_heads:
            core_s /= constants.eight_bit_attention_speedup
            ratio *= constants.eight_bit_attention_speedup / constants.eight_bit_attention_backward_speedup
    # One function launches all kernels of a ring.
    steps = _ring(kernels)
    core = Item(
        (kernels.launch("attention", core_s, 2 * steps, 2),),
        (kernels.launch("attention", ratio * core_s + sink_s, 3 * steps, 3),),
        "attention_core",
    )
    return [*items, *_context_exchange(kernels, attention, core_s, ratio), core, *_merge(kernels, attention, steps)]


def _rotation(kernels: Kernels, attention: AttentionSpec) -> Item:
    """Turn queries and keys by their positions, in two calls where attention is latent."""
    inputs, passes = kernels.inputs, 2 if attention.kind == "latent" else 1
    turned = (attention.query_dim + attention.num_kv_heads * attention.head_dim) / inputs.parallel.tensor
    moved, launched = SCALED_ROTATION if attention.scaled_positions else ROTATION
    forward, backward = (passes * each * turned for each in moved)
    number, backward_number = (passes * each for each in launched)
    return kernels.copy(forward, backward, number, backward_number, inputs.tokens, calls=passes)


def _shared_heads(kernels: Kernels, attention: AttentionSpec) -> list[Item]:
    """Gather the joint projection where tensor-parallel ranks share a key-value head; its gradients are scattered.

    Each rank takes its part of the queries, and the keys and values of its head (``get_query_key_value_tensors`` of
    NVIDIA/Megatron-LM 0.16).
    """
    inputs, ranks = kernels.inputs, kernels.inputs.parallel.tensor
    if attention.across(ranks) == attention:
        return []
    seconds = inputs.collective_s("all_gather", 2 * attention.projected_dim * inputs.tokens, ranks, 1)
    gather = (kernels.exchange("tensor_exchange", seconds, 0.0, 1),)
    return [Item(gather, gather)]


def _split(kernels: Kernels, attention: AttentionSpec) -> list[Item]:
    """Cut queries out of the joint projection of grouped heads, join their gradients, norm queries and keys.

    NVIDIA/Megatron-LM makes queries contiguous and concatenates the gradients of all three; latent attention has
    projections of their own.
    """
    if attention.kind == "latent":
        return []
    inputs = kernels.inputs
    tensor = inputs.parallel.tensor
    keys = attention.num_kv_heads * attention.head_dim
    width = attention.projected_dim / tensor
    items = [kernels.copy(4 * attention.query_dim / tensor, 4 * width, 1, 1, inputs.tokens)]
    if attention.normed:
        norm = kernels.norm((attention.query_dim + keys) / tensor, inputs.tokens)
        items.append(norm._replace(module=""))
    return items


def _ring(kernels: Kernels) -> int:
    """Count the kernels of attention: one for the keys and values of each rank of a ring."""
    parallel = kernels.inputs.parallel
    return parallel.context if parallel.context_exchange == "ring" else 1


def _merge(kernels: Kernels, attention: AttentionSpec, steps: int) -> list[Item]:
    """Add up what the kernels of a ring make: the output, and the gradients of queries, keys and values."""
    if steps == 1:
        return []
    whole, half = (first + (steps - 1) * each for first, each in (MERGE_BYTES, MERGE_HALF_BYTES))
    forward = whole * attention.output_dim
    backward = whole * attention.query_dim + half * attention.key_value_dim
    tensor = kernels.inputs.parallel.tensor
    item = kernels.copy(forward / tensor, backward / tensor, steps, 2 * steps, kernels.inputs.tokens, calls=1)
    return [item._replace(module="attention_core")]


def _scores_s(kernels: Kernels, attention: AttentionSpec, window: int) -> tuple[float, float]:
    """Return the time of the attention of all heads, and how many times as long its backward pass takes."""
    inputs = kernels.inputs
    constants, parallel, tables = inputs.constants, inputs.parallel, inputs.tables
    sequence = inputs.model.sequence_length
    heads, steps = parallel.micro_batch * attention.num_heads / parallel.tensor / parallel.context, 1
    if attention.chunked and 0 < window < sequence:
        # Chunks are sequences of their own.
        heads, sequence, window = heads * sequence / window, window, 0
    elif (steps := _ring(kernels)) > 1:
        # Each kernel has all heads and as many keys and values as a rank has queries, or half of one and all of the
        # other: as much work as over a sequence of its own.
        heads *= steps
    # Attention keeps its clock where long matmuls do not: 0.92 to 1.10 times what was measured on an H200.
    rate = constants.slowest_gpu_rate * constants.training_attention_speedup
    kernel, ratio = inputs.attention_kernel
    seconds = ratio * tables.attention_s(kernel, heads, sequence / steps)
    if attention.kind == "latent":
        return steps * seconds / rate, constants.latent_attention_backward
    # The tables hold the turn of queries and keys and the write of keys and values, too, of each kernel.
    touched = (attention.num_heads + 2 * attention.num_kv_heads) * attention.head_dim / parallel.tensor
    seconds = max(seconds - inputs.copy_s(4 * touched * inputs.tokens), 0.3 * seconds)
    forward, backward = (
        min(1.0, 2 * (window + extra) / (sequence + extra)) if window else 1.0 for extra in KEYS_BEYOND_WINDOW
    )
    return forward * steps * seconds / rate, constants.grouped_attention_backward * backward / forward


def _context_exchange(kernels: Kernels, attention: AttentionSpec, core_s: float, ratio: float) -> list[Item]:
    """Exchange what the ranks of a sequence need of one another, forward and backward.

    In a ring, keys and values of one rank arrive while attention over those of the rank before runs; gradients go the
    same way backward, so twice as much. Gathered first, or heads against positions, all of it is waited for.
    """
    inputs = kernels.inputs
    parallel, ranks = inputs.parallel, inputs.parallel.context
    if ranks == 1:
        return []
    if parallel.context_exchange == "all_to_all":
        each = attention.key_value_dim / 2
        seconds = [_exchanged_heads_s(inputs, attention.query_dim, each, each, attention.output_dim)] * 2
    else:
        gathered_bytes = 2 * inputs.tokens / parallel.tensor * attention.key_value_dim * ranks
        gathered_s = inputs.collective_s("all_gather", gathered_bytes, ranks, parallel.tensor)
        seconds = [gathered_s, 2 * gathered_s]
    behind = [(1 - 1 / ranks) * core_s, (1 - 1 / ranks) * ratio * core_s]
    hidden = [min(*pair) if parallel.context_exchange == "ring" else 0.0 for pair in zip(seconds, behind, strict=True)]
    # A ring sends and receives for each further rank, gradients with what they are of. Keys and values are gathered,
    # and again backward, where their gradients are summed; for heads, queries and output go, too.
    numbers = {"all_gather": (2, 4), "all_to_all": (4, 4)}.get(parallel.context_exchange, [2 * (ranks - 1)] * 2)
    forward, backward = (
        kernels.exchange("context_exchange", total_s - hidden_s, hidden_s, number)
        for total_s, hidden_s, number in zip(seconds, hidden, numbers, strict=True)
    )
    return [Item((forward,), (backward,))]


def _exchanged_heads_s(inputs: StepInputs, *widths: float) -> float:
    """Return the time in which ranks of a sequence exchange positions for heads, of one tensor after the other.

    Each has one of the `widths` in numbers of a token, and each rank sends what a gather of a share of it would bring.
    """
    tensor, context = inputs.parallel.tensor, inputs.parallel.context
    tensors_bytes = [2 * inputs.tokens / tensor * width for width in widths]
    return math.fsum(inputs.collective_s("all_gather", num_bytes, context, tensor) for num_bytes in tensors_bytes)


def state_space_items(kernels: Kernels, space: StateSpaceSpec) -> list[Item]:
    """List the items of a state-space block."""
    inputs = kernels.inputs
    tensor, tokens, d_model = inputs.parallel.tensor, inputs.tokens, inputs.model.d_model
    rate = inputs.constants.scan_peak_share * inputs.gpu.peak_flop_per_s

    def scan(flop: int, moved: float, num_kernels: int) -> Operation:
        seconds = flop * tokens / tensor / rate + inputs.copy_s(moved * tokens / tensor)
        return kernels.launch("state_space", seconds, num_kernels)

    forward, backward = scan_work(space)
    launched, launched_back = SCANS[space.kind].kernels
    up = kernels.linear(space.projected_dim / tensor, d_model, tokens)
    down = kernels.linear(d_model, space.inner_dim / tensor, tokens)
    exchange: tuple[Operation, ...] = ()
    before, after = list[Item](), list[Item]()
    if inputs.parallel.context > 1:
        # Positions go for heads before a scan, as five tensors, and back after it; ranks that share a group have copies
        # (``MambaContextParallel`` of NVIDIA/Megatron-LM). *Assumed* is that a delta rule does alike.
        keys = max(space.num_groups, tensor * inputs.parallel.context) * space.state_dim
        times = space.projected_dim - 2 * space.inner_dim - 2 * space.num_groups * space.state_dim
        widths = space.inner_dim, space.inner_dim, keys, keys, times, space.inner_dim
        exchange = (kernels.exchange("context_exchange", _exchanged_heads_s(inputs, *widths), 0.0, len(widths)),)
        ends = zip(*SCAN_COPY_BYTES, strict=True)
        copied, copied_back = ((each * sum(widths[:-1]) + last * widths[-1]) / tensor for each, last in ends)
        before = [kernels.copy(copied, copied_back, 9, 14, tokens)]
    if inputs.parallel.micro_batch > 1:
        # Megatron-LM puts sequences first for the scan and back (``mamba_mixer``); of one sequence both are the same.
        # The copies of a delta rule's inputs are counted with its scan.
        each = 4 * inputs.constants.strided_copy_slowdown / tensor
        projected = each * space.projected_dim
        before += [kernels.copy(projected, projected, 1, 1, tokens)] if space.kind == "mamba" else []
        after = [kernels.copy(each * space.inner_dim, 0, 1, 0, tokens)]
    return [
        kernels.norm(), up, *before,
        Item((*exchange, scan(*forward, launched)), (scan(*backward, launched_back), *exchange)),
        *after, down, kernels.residual(), *kernels.tensor_exchange(d_model, d_model, (up, down)),
    ]  # fmt: skip
