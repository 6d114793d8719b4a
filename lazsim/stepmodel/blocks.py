"""Operations of every kind of block of a model, forward and backward."""

from lazsim.stepmodel.attention import attention_items, state_space_items
from lazsim.stepmodel.experts import moe_items
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.operations import Item, block_of, in_graph


def blocks_of(inputs: StepInputs) -> dict[str, Item]:
    """Build the operations of every kind of block of a model."""
    model, parallel, kernels = inputs.model, inputs.parallel, Kernels(inputs)
    items: dict[str, list[Item]] = {"moe": moe_items(kernels)}
    if model.attention is not None:
        items["attention"] = attention_items(kernels, model.attention, 0)
        if model.attention.num_window_layers:
            items["window"] = attention_items(kernels, model.attention, model.attention.window)
    if model.state_space is not None:
        items["state_space"] = state_space_items(kernels, model.state_space)
    if model.num_dense_layers:
        dense = [kernels.norm(), *kernels.mlp(model.d_ff_dense), kernels.residual()]
        items["dense"] = [item._replace(module="dense_block") for item in dense]
    blocks = {}
    for name, some in items.items():
        graphed = kernels.graphed if name in ("moe", "dense") else kernels.graphed_attention
        num_again = len(some) if parallel.recompute == "full" else 0
        ends_layer = name in ("moe", "dense") or (model.state_space is not None and not model.has_paired_mixers)
        if parallel.recompute_stops_early and ends_layer:
            # The backward pass reads what the last matmul of a layer got, and nothing that comes after it.
            num_again = max(
                i for i, item in enumerate(some, 1) if any(one.part.endswith("matmul") for one in item.forward)
            )
        blocks[name] = block_of(in_graph(some, graphed), parallel.recomputed, num_again)
    width = model.d_model
    # Tensor-parallel ranks each look up all tokens, of which a sum leaves them their own.
    lookup = [kernels.copy(4 * width, 8 * width, 1, 1, inputs.tokens), *kernels.tensor_exchange(0, width)]
    blocks["embedding"] = block_of(in_graph(lookup, kernels.graphed))
    blocks["head"] = block_of(in_graph(_head(kernels), kernels.graphed))
    if model.num_mtp_layers:
        join = kernels.linear(width / parallel.tensor, 2 * width, inputs.tokens)
        # Norms of what the layer before gives and of the further token's embedding, and both in one tensor
        # (``MultiTokenPredictionLayer`` of NVIDIA/Megatron-LM 0.16); selective recomputation leaves these norms out.
        norms = [kernels.norm()._replace(module="")] * 2
        further = [*lookup, *norms, kernels.copy(8 * width, 8 * width, 1, 2), join]
        joined = in_graph([*further, *kernels.tensor_exchange(2 * width, width, [join])], kernels.graphed)
        blocks["mtp"] = block_of([block_of(joined), blocks["attention"], blocks["moe"], blocks["head"]])
    return blocks


def _head(kernels: Kernels) -> list[Item]:
    inputs = kernels.inputs
    columns = inputs.model.vocab_size / inputs.parallel.tensor
    kernel = inputs.matmul_kernel if "head" in inputs.parallel.eight_bit_parts else "matmul_bf16"
    return [
        kernels.norm(),
        kernels.linear(columns, inputs.model.d_model, inputs.tokens, kernel),
        kernels.copy(6 * columns, 4 * columns, 3, 2, inputs.tokens),
        *kernels.tensor_exchange(inputs.model.d_model, 0),
    ]
