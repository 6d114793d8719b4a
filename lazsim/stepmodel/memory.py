"""Parameters on the GPUs of each pipeline stage, and the memory that a layout takes on one that needs most."""

import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lazsim.specs import ModelSpec, ParallelSpec
from lazsim.stepmodel.experts import lasting_imbalance
from lazsim.stepmodel.indexer import indexer_bytes
from lazsim.stepmodel.inputs import OPERAND_BYTES, PARAM_BYTES, StepInputs
from lazsim.stepmodel.passes import kept_passes, warm_up_parts
from lazsim.stepmodel.pipeline import StagePart, parts_of, parts_of_stage

LOGIT_BYTES, SOFTMAX_BYTES = 2, 4
"""Logits in 16 bits, which go with the loss, and their softmax in fp32, which stays and becomes their gradient."""

ACTIVATION_BYTES = 2

EXCHANGE_BUFFERS = 2
"""Buffers of HybridEP, for a dispatch and a combine, each with room for all tokens of all ranks: peers write into them
before anyone knows how many come. *Assumption*, after ``HybridEPBuffer`` of deepseek-ai/DeepEP, branch hybrid-ep: no
published size was found to check it, and the smaller buffers of probabilities are left out. Its ranks share experts or
the matrices of one, and send 16 bits both ways (``MoEFlexTokenDispatcher`` and ``HybridEPDispatch`` of
NVIDIA/Megatron-LM 0.16.1). DeepEP's take 0.3 to 0.7 GB up to 64 ranks (its ``Config``), about as much as the
communicator that they replace."""

OFFLOADED_AS = {"expert_activation": "expert_hidden"}
"""What an activation needs backward is its input; recomputed, it is its output that is not kept."""

LAYOUT_RUNTIME_BYTES = 3.0e9
"""CUDA context 0.3 GB (pytorch/pytorch#107667) and NCCL buffers, 0.69 GB a communicator (NVIDIA/nccl#964), of four."""


class StageParameters(NamedTuple):
    """Parameters that one GPU of a stage computes with: of dense blocks and of experts."""

    dense: float
    expert: float


class LayerBytes(NamedTuple):
    """Bytes of a layer for each token of a GPU: kept for its backward pass, and there for a moment of it."""

    kept: float
    backward: float


def part_parameters(model: ModelSpec, parallel: ParallelSpec, parts: Sequence[StagePart]) -> list[StageParameters]:
    """Count the parameters of each part on a GPU of its stage.

    Tensor-parallel ranks divide all but gates, projections to latent vectors, and those around narrow experts. Layers
    that predict further tokens look these up in a copy of the embedding where another stage has it (``mtp_process`` of
    NVIDIA/Megatron-LM); DualPipe has both on one GPU, and tied heads are a copy already. Each part has weights that
    such layers share once.
    """
    width = model.d_model
    experts = model.num_experts / parallel.expert / parallel.expert_tensor * model.expert_params
    params = model.block_params
    positions = model.num_learned_positions * width
    head = params["vocabulary"] if model.num_vocab_matrices > 1 or parallel.pipeline > 1 else 0
    dense_of = {
        **params, "window": params["attention"], "embedding": params["vocabulary"] + positions, "head": head
    }  # fmt: skip
    projections = model.attention.projections(width) if model.attention else ()
    latents = sum(outputs * read for outputs, read, divided in projections if not divided)
    latents += sum(math.prod(sizes) for sizes in model.attention.index_projections(width)) if model.attention else 0
    gates = width * (model.num_experts + 2 * (model.d_expert or 0))
    whole_of = {"attention": latents, "window": latents, "moe": gates, "mtp": latents + gates}

    def params_of(part: StagePart) -> StageParameters:
        dense = expert = 0.0
        names = {name for name, _ in part}
        embeds = "embedding" in names or ("head" in names and model.num_vocab_matrices == 1)
        if "mtp" in names and not embeds and parallel.pipeline > 1 and parallel.schedule == "1f1b":
            dense += params["vocabulary"] / parallel.tensor
        for name, number in _own_weights(model, part):
            for block in name.split():
                whole = whole_of.get(block, 0)
                dense += number * (whole + (dense_of[block] - whole) / parallel.tensor)
                expert += number * experts if block in ("moe", "mtp") else 0.0
        return StageParameters(dense, expert)

    # Most parts are alike.
    distinct = {part: params_of(part) for part in set(parts)}
    return [distinct[part] for part in parts]


def _own_weights(model: ModelSpec, part: StagePart) -> StagePart:
    """Return a part with each layer as often as it has weights of its own."""
    return tuple((name, min(number, model.num_mtp_weights) if name == "mtp" else number) for name, number in part)


def stage_parameters(params: Sequence[StageParameters], parallel: ParallelSpec) -> list[StageParameters]:
    """Sum the parameters of the parts that the GPUs of each stage hold."""
    return [
        StageParameters(math.fsum(params[part].dense for part in some), math.fsum(params[part].expert for part in some))
        for some in (parts_of_stage(parallel, stage) for stage in range(parallel.pipeline))
    ]


def vocabulary_parameters(model: ModelSpec, parallel: ParallelSpec, parts: Sequence[StagePart]) -> float:
    """Count the parameters on a GPU of parts that are embeddings, their copies and heads."""
    words = [tuple((name, number * (name in ("embedding", "head"))) for name, number in part) for part in parts]
    return math.fsum(held.dense for held in part_parameters(model, parallel, words))


def memory_bytes(inputs: StepInputs, rerouted: float = 0.0) -> Mapping[str, float]:
    """Return the bytes of each part on a GPU of the stage that needs most; the values sum to what it needs.

    Parameters
    ----------
    rerouted
        Micro-batches that a GPU computes for others, over its own.

    Notes
    -----
    Data-parallel ranks divide parameters, gradients and optimizer states as in ZeRO (arXiv 1910.02054). Activations are
    what the backward pass reads; fused attention keeps no scores (Korthikanti et al., arXiv 2205.05198, equation 2
    without dropout and scores). A stage holds those of as many parts as went forward before its first backward pass,
    and of one more: of early parts more than of late ones. Where two passes overlap, what one makes the other frees,
    layer by layer (NVIDIA/Megatron-LM, combined 1F1B). DualPipe holds two stages and ``p + 1`` micro-batches of one
    (deepseek-ai/DualPipe). Full recomputation keeps the inputs of layers; what else is recomputed keeps what it reads.
    The tensors that a layer makes again, and the gradients that pass through it, are there for a moment (``backward``).
    Logits are gone by then: a stage needs room for the larger of the two, or for both if two passes run at once. Rows
    of experts are those of the busiest rank, as if it were the same in all layers, which is the most that it can be;
    what chance does differs from layer to layer, evens out, and counts nothing. Beside its own micro-batches, a GPU
    keeps those of others that wait for later stages, as many as of its own; the one that it computes is one of either.
    Where parameters are gathered layer by layer, what is divided are the master weights, and two layers are whole, one
    ahead, with the gradients of one (``fully_shard`` of PyTorch); or all, where they stay. Fragmentation is left out.
    """
    parallel = inputs.parallel
    parts = parts_of(inputs.model, parallel)
    names = {name for part in set(parts) for name, _ in part}
    layers = _layer_bytes(inputs, names)
    gathered = _gathered_bytes(inputs, parts[0]) if parallel.gathers_each_time else (0.0, 0.0)
    needs: dict[object, dict[str, float]] = {}
    for stage, held in enumerate(stage_parameters(part_parameters(inputs.model, parallel, parts), parallel)):
        of_stage = tuple(parts[part] for part in parts_of_stage(parallel, stage))
        # Of stages alike, the first needs most: it keeps as many of each part as any after it, or more. With DualPipe,
        # the nearer it is to one end, the farther it is from the other.
        alike = of_stage if parallel.schedule == "1f1b" else stage
        if alike not in needs:
            needs[alike] = _stage_bytes(inputs, stage, of_stage, layers, gathered, rerouted, *held)
    return max(needs.values(), key=lambda need: math.fsum(need.values()))


def _gathered_bytes(inputs: StepInputs, part: StagePart) -> tuple[float, float]:
    """Return the bytes of parameters and gradients that are whole while a layer with most goes backward."""
    parallel, needs = inputs.parallel, list[tuple[float, float]]()
    stay = not parallel.reshard_after_forward
    # Of equal layers the first, the last and one between have other neighbours.
    weights = _own_weights(inputs.model, part)
    names = [name for name, number in weights for _ in range(number if stay else min(number, 3))]
    layers = part_parameters(inputs.model, parallel, [((name, 1),) for name in names])
    number_bytes = [PARAM_BYTES if name in ("embedding", "head") else inputs.gathered_bytes for name in names]
    whole = [each * math.fsum(layer) for each, layer in zip(number_bytes, layers, strict=True)]
    for index, layer in enumerate(layers):
        others = whole[:index]
        if index and not stay:
            ahead = zip(layers[index - 1], inputs.owners, strict=True)
            others = [number_bytes[index - 1] * number for number, owners in ahead if owners > 1]
        after = math.fsum(itertools.chain(*layers[index + 1 : index + 2]))
        gradients = PARAM_BYTES * math.fsum(layer) + parallel.gradient_bytes * after
        needs.append((math.fsum([whole[index], *others]), gradients))
    return max(needs, key=math.fsum)


def _stage_bytes(
    inputs: StepInputs, stage: int, parts: Sequence[StagePart], layers: Mapping[str, LayerBytes],
    gathered: tuple[float, float], rerouted: float, dense: float, expert: float,
) -> dict[str, float]:  # fmt: skip
    parallel = inputs.parallel
    held = dense + expert
    owned = math.fsum(map(operator.truediv, (dense, expert), inputs.owners))
    pipeline, most = parallel.pipeline, len(parts) * inputs.num_micro_batches
    kept: list[tuple[int, ...]]
    if parallel.schedule == "dualpipe":
        # Each part is as far from its end of the pipeline as in 1F1B.
        near = min(stage, pipeline - 1 - stage)
        in_flight, kept = pipeline + 1, [(pipeline - near, near + 1)]
    else:
        overlap = parallel.overlaps_exchanges
        in_flight = warm_up_parts(stage, pipeline, parallel.virtual_stages, overlap) + (not overlap)
        kept = kept_passes(pipeline, parallel.virtual_stages, min(in_flight, most), most)
    part_bytes = [math.fsum(number * layers[name].kept for name, number in part) for part in parts]
    kept_bytes = max(math.fsum(map(operator.mul, numbers, part_bytes)) for numbers in kept)
    kept_bytes *= 1 + math.ceil(rerouted * min(in_flight - 1, most)) / min(in_flight, most)
    optimizer_bytes = 0.0 if "optimizer" in parallel.offloaded else parallel.optimizer_bytes * owned
    # Each layer for further tokens has a pass of the head and a loss of its own.
    num_losses = sum(number for name, number in itertools.chain(*parts) if name in ("head", "mtp"))
    word_bytes = LOGIT_BYTES * (num_losses > 0) + SOFTMAX_BYTES * num_losses
    logits = word_bytes * inputs.model.vocab_size / parallel.tensor * inputs.tokens
    backward = max((layers[name].backward for name, _ in itertools.chain(*parts)), default=0.0) * inputs.own_tokens
    if not parallel.overlaps_exchanges:
        logits, backward = (logits, 0.0) if logits > backward else (0.0, backward)
    ranks = parallel.expert * parallel.expert_tensor
    in_buffers = ranks if parallel.dispatcher == "hybridep" and ranks > 1 else 0
    parameters, gradients = PARAM_BYTES * held, parallel.gradient_bytes * held
    if parallel.gathers_each_time:
        parameters, gradients = gathered[0], gathered[1] + parallel.state_bytes * owned
        # Weights in fp32 are among the states of the optimizer, and remainders complete parameters of 16 bits.
        parameters += PARAM_BYTES * owned * (parallel.state_bytes == 2 or parallel.keeps_remainders)
    elif inputs.quantised and parallel.sharding != "full":
        # Matmuls read a copy along each axis.
        is_beside = not parallel.eight_bit_parameters or parallel.precision == "nvfp4"
        copies = 2 * OPERAND_BYTES[parallel.precision] - PARAM_BYTES * (not is_beside)
        parameters += copies * (held - vocabulary_parameters(inputs.model, parallel, parts))
    return {
        "parameters": parameters,
        "gradients": gradients,
        "optimizer": optimizer_bytes,
        "activations": kept_bytes * inputs.own_tokens,
        "backward": backward,
        "logits": logits,
        "exchange": EXCHANGE_BUFFERS * ACTIVATION_BYTES * in_buffers * inputs.model.expert_dim * inputs.own_tokens,
        "runtime": LAYOUT_RUNTIME_BYTES,
    }


def _layer_bytes(inputs: StepInputs, names: Iterable[str]) -> Mapping[str, LayerBytes]:
    """Return the bytes of each layer; those of a moment are of what it makes again and of gradients."""
    parallel, kept, passing = inputs.parallel, _kept_bytes(inputs), _passing_bytes(inputs)
    elsewhere = {*parallel.recomputed, *(OFFLOADED_AS.get(name, name) for name in parallel.offloaded)}

    def of_layer(name: str) -> LayerBytes:
        modules = defaultdict[str, float](float)
        for block in name.split():
            for width, module in kept[block]:
                modules[module] += width
        whole, again = math.fsum(modules.values()), max((modules[module] for module in elsewhere), default=0.0)
        stays = whole - math.fsum(modules[module] for module in elsewhere)
        if parallel.recompute == "full" and name not in ("head", "embedding"):
            stays = ACTIVATION_BYTES * inputs.model.d_model
            stays += math.fsum(width for width, _ in kept["further"]) * (name == "mtp")
            again = whole - stays
        return LayerBytes(stays, again + max(passing.get(block, 0.0) for block in name.split()))

    return {name: of_layer(name) for name in names}


def _passing_bytes(inputs: StepInputs) -> Mapping[str, float]:
    """Return the bytes of the gradients that a block holds at once, at most, for each token of a GPU.

    These are the gradient of the residual stream, and those of the inputs and outputs of one operation. A
    tensor-parallel rank holds the gradient of a block's input whole, and that input, gathered again.
    """
    model, parallel = inputs.model, inputs.parallel
    matrices, width, expert_width = model.matrices_per_expert, model.d_model, model.expert_dim
    whole = width if parallel.tensor == 1 else 2 * parallel.tensor * width

    def feed_forward(inner: float, read: float) -> float:
        return (matrices - 1) * inner + max(inner, read)

    routed = model.top_k * parallel.expert_tensor * lasting_imbalance(inputs)
    inner = model.d_ff_expert / parallel.expert_tensor
    experts = routed * max(2 * expert_width, feed_forward(inner, expert_width))
    if model.shared_dim:
        experts = max(experts, feed_forward(model.shared_dim, whole))
    numbers = {"moe": experts, "dense": feed_forward(model.d_ff_dense, whole)}
    if model.attention is not None:
        attention = model.attention.across(parallel.tensor)
        heads = attention.query_dim + attention.key_value_dim
        numbers["attention"] = numbers["window"] = heads + max(attention.output_dim, whole)
        numbers["mtp"] = max(numbers["attention"], experts)
    if (space := model.state_space) is not None:
        numbers["state_space"] = space.projected_dim + max(space.inner_dim, whole)
    return {block: ACTIVATION_BYTES * (width + number) for block, number in numbers.items()}


def _kept_bytes(inputs: StepInputs) -> Mapping[str, Sequence[tuple[float, str]]]:
    """Return the bytes that a block keeps for its backward pass, for each token of a GPU, by module if one has them."""
    model, parallel = inputs.model, inputs.parallel
    # A norm keeps its input; a matmul its operand, in the precision of the matmul.
    operand = OPERAND_BYTES[parallel.precision]
    width = float(model.d_model)
    normed: list[tuple[float, str]] = [(ACTIVATION_BYTES * width, ""), (operand * width, "norm")]
    heads: list[tuple[float, str]] = normed
    if model.attention is not None:
        attention = model.attention.across(parallel.tensor)
        latent = attention.kind == "latent"
        ranks = attention.query_rank + attention.kv_rank if latent else 0
        keys = attention.num_kv_heads * attention.head_dim
        # In 16 bits the output is itself the operand of the projection, unless a gate or a cast makes another tensor.
        cast = operand if attention.gated or inputs.quantised else 0
        heads = [
            *normed,
            (ACTIVATION_BYTES * (ranks + attention.rope_dim), ""),
            # The norm of a latent vector is part of the projection up from it (``MLASelfAttention``).
            (operand * ranks, "latent_up"),
            (ACTIVATION_BYTES * (attention.query_dim + keys) * attention.normed, ""),
            (ACTIVATION_BYTES * (attention.query_dim + attention.key_value_dim), "latent_up" if latent else ""),
            (ACTIVATION_BYTES * attention.output_dim, "attention_core" if cast and not attention.gated else ""),
            ((ACTIVATION_BYTES * attention.gated + cast) * attention.output_dim, ""),
            (indexer_bytes(attention, model.sequence_length, parallel.tensor), ""),
        ]
    inner, matrices = model.d_ff_expert / parallel.expert_tensor, model.matrices_per_expert
    routed = model.top_k * parallel.expert_tensor * lasting_imbalance(inputs)
    experts = [
        *normed,
        (2 * ACTIVATION_BYTES * model.num_experts, ""),
        (routed * operand * model.expert_dim, "expert_input"),
        (routed * ACTIVATION_BYTES * (matrices - 1) * inner, "expert_hidden"),
        (routed * operand * inner, "expert_activation"),
        ((ACTIVATION_BYTES * (matrices - 1) + operand) * model.shared_dim, ""),
    ]
    # The norm of a dense block is part of its first projection (``TELayerNormColumnParallelLinear``).
    dense = operand * width + (ACTIVATION_BYTES * (matrices - 1) + operand) * model.d_ff_dense
    head_operand = operand if "head" in parallel.eight_bit_parts else ACTIVATION_BYTES
    head = [((ACTIVATION_BYTES + head_operand) * width, "")]
    # The embedding of a further token, its projection's operand with the layer's input, and the pass of the head.
    further = [(3 * ACTIVATION_BYTES * width, ""), *head]
    space = model.state_space
    return {
        "embedding": [],
        "head": head,
        "attention": heads,
        "window": heads,
        "moe": experts,
        "dense": [(ACTIVATION_BYTES * width, ""), (dense, "dense_block")],
        "state_space": [*normed, (ACTIVATION_BYTES * (space.projected_dim + 3 * space.inner_dim), "")] if space else [],
        "mtp": [*heads, *experts, *further],
        "further": further,
    }
