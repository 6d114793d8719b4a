"""Memory that a layout takes on a GPU of the stage that needs most."""

from collections.abc import Mapping

from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.parameters import StageParameters, part_parameters, stage_blocks, stage_parameters
from lazsim.stepmodel.pipeline import parts_of

PARAM_BYTES = 2

STATE_BYTES = {"adam": 12, "muon": 8}
"""fp32 master weight and the two moments of Adam (ZeRO, arXiv 1910.02054), or the one of Muon."""

LOGIT_BYTES = 6
"""Logits in 16 bits and their gradient in fp32."""

ACTIVATION_BYTES = 2

OFFLOADED_AS = {"expert_activation": "expert_hidden"}
"""What an activation needs backward is its input; recomputed, it is its output that is not kept."""

RUNTIME_BYTES = 3.0e9
"""CUDA context 0.3 GB (pytorch/pytorch#107667) and NCCL buffers, 0.69 GB a communicator (NVIDIA/nccl#964), of four."""


def memory_bytes(inputs: StepInputs) -> Mapping[str, float]:
    """Return the bytes of each part on a GPU of the stage that needs most; the values sum to what it needs.

    Notes
    -----
    Data-parallel ranks divide parameters, gradients and optimizer states as in ZeRO (arXiv 1910.02054). Activations are
    what the backward pass reads; fused attention keeps no scores (Korthikanti et al., arXiv 2205.05198, equation 2
    without dropout and scores). Stage ``s`` of ``p`` holds those of ``p - s`` micro-batches, ``(p - 1) / v`` more
    where stages are interleaved, and one more part where two passes overlap. DualPipe holds two stages and ``p + 1``
    micro-batches of one (deepseek-ai/DualPipe). Fragmentation is left out.
    """
    parallel = inputs.parallel
    parts = parts_of(inputs.model, parallel)
    blocks = stage_blocks(parts, parallel.pipeline)
    params = stage_parameters(part_parameters(inputs, parts), parallel.pipeline)
    if parallel.schedule == "dualpipe":
        blocks = [
            {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}
            for one, other in zip(blocks, reversed(blocks), strict=True)
        ]
        params = [
            StageParameters(one.dense + other.dense, one.expert + other.expert)
            for one, other in zip(params, reversed(params), strict=True)
        ]
    kept = {block: _kept_bytes(inputs, block) for block in {block for counts in blocks for block in counts}}
    needs = [
        _stage_bytes(inputs, stage, counts, kept, *held)
        for stage, (counts, held) in enumerate(zip(blocks, params, strict=True))
    ]
    return max(needs, key=lambda need: sum(need.values()))


def _stage_bytes(
    inputs: StepInputs, stage: int, counts: Mapping[str, int], kept: Mapping[str, float], dense: float, expert: float
) -> dict[str, float]:
    parallel = inputs.parallel
    ranks, expert_ranks = inputs.data * parallel.context, inputs.expert_data
    held = dense + expert
    divided = dense / ranks + expert / expert_ranks
    in_flight: float = parallel.pipeline - stage
    if parallel.virtual_stages > 1:
        in_flight += (parallel.pipeline - 1) / parallel.virtual_stages
    if parallel.overlap_expert:
        in_flight += 1 / parallel.virtual_stages
        if parallel.virtual_stages == 1:
            in_flight += parallel.pipeline - stage - 1
    if parallel.schedule == "dualpipe":
        in_flight = (parallel.pipeline + 1) / 2
    optimizer_bytes = STATE_BYTES[parallel.optimizer] * (held if parallel.sharding == "none" else divided)
    if "optimizer" in parallel.offloaded:
        optimizer_bytes = 0.0
    per_token = sum(number * kept[block] for block, number in counts.items())
    logits = LOGIT_BYTES * inputs.model.vocab_size / parallel.tensor * inputs.tokens
    return {
        "parameters": PARAM_BYTES * (divided if parallel.sharding == "full" else held),
        "gradients": parallel.gradient_bytes * (divided if parallel.sharding == "full" else held),
        "optimizer": optimizer_bytes,
        "activations": min(in_flight, inputs.num_micro_batches) * per_token * inputs.own_tokens,
        "logits": logits if "head" in counts else 0.0,
        "runtime": RUNTIME_BYTES,
    }


def _kept_bytes(inputs: StepInputs, block: str) -> float:
    """Return the bytes that a block keeps for its backward pass, for each token of a GPU."""
    model, parallel = inputs.model, inputs.parallel
    if parallel.recompute == "full" and block not in ("head", "embedding"):
        return ACTIVATION_BYTES * model.d_model
    # A norm keeps its input; a matmul its operand, in the precision of the matmul.
    operand = 1 if inputs.quantised else ACTIVATION_BYTES
    normed: list[tuple[float, str]] = [(ACTIVATION_BYTES * model.d_model, ""), (operand * model.d_model, "norm")]
    heads: list[tuple[float, str]] = normed
    if model.attention is not None:
        attention = model.attention
        latent = attention.kind == "latent"
        narrow = attention.query_rank + attention.kv_rank + attention.rope_dim if latent else 0
        heads = [
            *normed,
            ((ACTIVATION_BYTES + operand) * narrow, ""),
            (ACTIVATION_BYTES * (attention.query_dim + attention.key_value_dim), "latent_up" if latent else ""),
            ((ACTIVATION_BYTES + operand) * attention.output_dim, ""),
        ]
    inner, matrices = model.d_ff_expert / parallel.expert_tensor, model.matrices_per_expert
    routed = model.top_k * parallel.expert_tensor
    experts = [
        *normed,
        (2 * ACTIVATION_BYTES * model.num_experts, ""),
        (routed * operand * model.expert_dim, "expert_input"),
        (routed * ACTIVATION_BYTES * (matrices - 1) * inner, "expert_hidden"),
        (routed * operand * inner, "expert_activation"),
        ((ACTIVATION_BYTES * (matrices - 1) + operand) * model.shared_dim, ""),
    ]
    dense = (ACTIVATION_BYTES * (matrices - 1) + operand) * model.d_ff_dense
    space = model.state_space
    kept: dict[str, list[tuple[float, str]]] = {
        "embedding": [],
        "head": normed,
        "attention": heads,
        "window": heads,
        "moe": experts,
        "dense": [(width, "dense_block") for width, _ in normed] + [(dense, "dense_block")],
        "state_space": [*normed, (ACTIVATION_BYTES * (space.projected_dim + 3 * space.inner_dim), "")] if space else [],
        "mtp": [*heads, *experts, (3 * ACTIVATION_BYTES * model.d_model, "")],
    }
    elsewhere = {*parallel.recomputed, *(OFFLOADED_AS.get(name, name) for name in parallel.offloaded)}
    return sum(width for width, module in kept[block] if module not in elsewhere)
