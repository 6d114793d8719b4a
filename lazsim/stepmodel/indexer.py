"""The indexer of sparse attention: its heads score all keys, and each query sees those with the best scores."""

from lazsim.specs import AttentionSpec
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.operations import Item

ROTATED_BYTES = 12
"""Bytes for each number of the indexer's queries and keys: rotation, concatenation, Hadamard transform (``dsa.py`` of
NVIDIA/Megatron-LM 0.16.1), each a read and a write; backward as much."""

SCORE_BYTES = 4
"""A score, in fp32, and the number of a chosen key, in 32 bits."""


def indexer_items(kernels: Kernels, attention: AttentionSpec, dense_s: float) -> tuple[list[Item], float]:
    """List the items of an indexer, and return the time of attention to chosen keys where dense attention takes some.

    Notes
    -----
    Work as in ``dsa.py`` of NVIDIA/Megatron-LM 0.16.1. Each tensor-parallel rank indexes all tokens with all heads, of
    inputs that are gathered. No gradient goes to them, so the projections have those of weights only. The indexer
    learns from the attention to chosen keys, summed over heads and ranks, for which their scores are made once more;
    backward, it makes its scores for them again, and the gradients of queries and keys (as FlashAttention does).
    *Assumed* is what `remarks.UNMEASURED` says, and that scores are written and read once to choose the best.
    """
    inputs, d_model = kernels.inputs, kernels.inputs.model.d_model
    sequence, ranks, tokens = inputs.model.sequence_length, inputs.parallel.tensor, inputs.tokens
    chosen = min(attention.index_topk, sequence)
    numbers = attention.index_dim * (attention.index_heads + 1)
    keys, values = attention.score_widths(sequence)
    # Of one number of all causal pairs; the ranks have divided the heads.
    number_s = dense_s * ranks / (attention.query_dim + attention.output_dim)
    index_s = number_s * attention.index_heads * attention.index_dim
    items = []
    if ranks > 1:
        gathered_s = inputs.collective_s("all_gather", 2 * (d_model + attention.query_rank) * tokens, ranks, 1)
        items.append(Item((kernels.exchange("tensor_exchange", gathered_s, 0.0, 2),), ()))
    for outputs, width in attention.index_projections(d_model):
        item = kernels.linear(outputs, width, tokens)
        items.append(item._replace(backward=(*item.backward[:-2], item.backward[-1])))
    turned = ROTATED_BYTES * numbers
    items += [kernels.norm(attention.index_dim, tokens), kernels.copy(turned, turned, 6, 6, tokens)]
    # Half of the keys come before a token, on average.
    chooses = kernels.copy(SCORE_BYTES * (sequence + chosen), 0, 1, 0, tokens)
    learned = kernels.copy(3 * SCORE_BYTES * chosen, 3 * SCORE_BYTES * chosen, 3, 2, tokens)
    share = attention.chosen_share(sequence)
    forward = [kernels.launch("attention", index_s, 1), *chooses.forward]
    forward += [kernels.launch("attention", number_s * keys / ranks, 1), *learned.forward]
    if ranks > 1:
        # A sum over the ranks is scattered and gathered.
        summed_s = 2 * inputs.collective_s("all_gather", SCORE_BYTES * chosen * tokens, ranks, 1)
        forward.append(kernels.exchange("tensor_exchange", summed_s, 0.0, 1))
    backward = (*learned.backward, kernels.launch("attention", 3 * share * index_s, 2))
    return [*items, Item(tuple(forward), backward)], number_s * (keys + values) / ranks


def indexer_bytes(attention: AttentionSpec, sequence: int, ranks: int) -> float:
    """Return the bytes that an indexer keeps of a token: queries, keys and weights; keys chosen, scores and targets."""
    numbers = attention.index_dim * (attention.index_heads + 1) + attention.index_heads
    return ranks * (2 * numbers + 3 * SCORE_BYTES * min(attention.index_topk, sequence)) if numbers else 0.0
