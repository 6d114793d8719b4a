"""Bytes that training needs on a GPU, by part.

They are a lower bound: temporary tensors of kernels and the fragments between tensors are left out, of which the latter
took 3 to 16 % of the memory in published logs. A job that does not fit by this count does not fit.

Axes: L MoE layers, E experts, G GPUs of all nodes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from lazsim.costmodel.costs import NodeDispatch
from lazsim.costmodel.step import assigned_tokens, slots_by_gpu
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.specs import OPTIMIZER_STATE_BYTES_PER_PARAM, WEIGHT_BYTES_PER_PARAM, JobSpec, ModelSpec

MASK_BYTES = 4
"""An entry of both one-hot masks that DeepSpeed-MoE keeps for the backward pass, in half precision (sharded_moe.py)."""

MASK_BUFFER_BYTES = 5
"""The same in fp32 and as a boolean, of one layer at a time."""

RUNTIME_BYTES = 0.3e9 + 0.688e9
"""Assumption for every GPU: a CUDA context (pytorch issue 107667) and one communicator of NCCL (nccl issue 964)."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on one GPU, by part."""

    weights: float
    gradients: float
    """In half precision."""
    optimizer_states: float
    """Master weights and moments."""
    activations: float
    """Kept from the forward pass of a micro-batch for its backward pass."""
    buffers: float
    """Tokens on their way to experts and back, in one layer at a time."""
    runtime: float
    """CUDA and NCCL."""

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return math.fsum(self.parts.values())

    @property
    def parts(self) -> Mapping[str, float]:
        """Bytes by name of the part."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class GpuShare:
    """What one GPU holds, and what it computes in a micro-batch."""

    dense_params: float
    expert_params: float
    """Parameters outside the routed experts, and of the experts in its slots."""
    num_tokens: int
    """Tokens of its own sequences."""
    rows_L: Floats
    """Rows of tokens that its experts compute in each MoE layer, padding included."""
    sent_L: Floats
    """Rows that its own tokens take in the exchange of each layer, padding included."""
    masked_reorder: bool = False
    """See `lazsim.costmodel.costs.NodeDispatch`."""


def layer_activation_bytes(model: ModelSpec, share: GpuShare) -> tuple[list[tuple[int, float]], Floats]:
    """Return the bytes that layers keep for their backward pass.

    Those without experts by kind, how many there are and what each keeps; then each MoE layer, shape (L,).

    Notes
    -----
    Korthikanti et al. (arXiv 2205.05198, section 4.1), with the scores left on the chip by FlashAttention: inputs of
    two layer norms, of the attention and of the feed-forward block, two dropout masks of a byte; queries, keys, values
    and the attention's output. Keys and values are as wide as the projections leave after queries and output; where
    projections are of low rank, as wide as these. A feed-forward block keeps the results of its matmuls and its
    activation, an expert also its input. Each row that comes back is kept for the gradient of the gate. A layer of a
    hybrid model has one block, and one with a state space keeps what its scan reads and writes. A node's GPUs share all
    of this evenly, as under tensor and sequence parallelism.

    Examples
    --------
    The published 34 bytes a token and unit of width, where one expert gets every token and its input need not be kept
    twice:

    >>> from lazsim.specs import load_spec
    >>> model, nothing = load_spec(ModelSpec, "gpt-s"), np.zeros(12)
    >>> _, layers = layer_activation_bytes(model, GpuShare(0, 0, 1000, nothing + 1000, nothing))
    >>> float(layers[0] / (1000 * 768)) - WEIGHT_BYTES_PER_PARAM
    34.0
    """
    half, tokens = WEIGHT_BYTES_PER_PARAM, share.num_tokens
    left = model.params_per_attention / model.d_model - model.score_dim
    keys_and_values = min(left, model.score_dim) if left > 0 else model.score_dim
    # The input of a block and of its layer norm, and the dropout mask.
    block = tokens * (2 * half + 1) * model.d_model
    attention = block + tokens * half * (model.score_dim + keys_and_values)
    inner = half * model.matrices_per_expert * model.d_ff_expert
    shared: float = block + tokens * half * model.matrices_per_expert * model.shared_dim
    if (space := model.state_space) is None:
        shared += attention
        dense = attention + block + tokens * half * model.matrices_per_expert * model.d_ff_dense
        others = [(model.num_dense_layers, dense)]
    else:
        scanned = block + tokens * half * (space.projected_dim + 3 * space.inner_dim)
        others = [(model.attention_layers, attention), (space.num_layers, scanned)]
    routed_L = share.rows_L * (half * model.expert_dim + inner) + share.sent_L * half * model.expert_dim
    return others, shared + routed_L + MASK_BYTES * tokens * share.sent_L * share.masked_reorder


def gpu_memory(model: ModelSpec, share: GpuShare) -> MemoryUse:
    """Return the bytes that one GPU needs.

    As lazsim simulates training, every replica holds its whole state, so that survivors can go on without the others,
    and activations are kept.
    """
    tokens, half = share.num_tokens, WEIGHT_BYTES_PER_PARAM
    others, moe_L = layer_activation_bytes(model, share)
    kept = math.fsum(number * each for number, each in others) + float(moe_L.sum())
    # Input of the last layer norm and of the output layer, and fp32 logits (Korthikanti et al., section 4.3).
    head = 4 * tokens * (model.d_model + model.vocab_size)
    in_flight_L = half * model.expert_dim * (share.rows_L + share.sent_L)
    buffers_L = in_flight_L + MASK_BUFFER_BYTES * tokens * share.sent_L * share.masked_reorder
    params = share.dense_params + share.expert_params
    return MemoryUse(
        weights=params * half,
        gradients=params * half,
        optimizer_states=params * OPTIMIZER_STATE_BYTES_PER_PARAM["adam"],
        activations=kept + head,
        buffers=float(buffers_L.max()),
        runtime=RUNTIME_BYTES,
    )


def fullest_share(
    model: ModelSpec, job: JobSpec, gpus_per_node: int, plan: PlacementPlan, dispatch: NodeDispatch, load_LE: Ints
) -> GpuShare:
    """Return what the GPU holds and computes that needs most memory under a plan.

    Parameters
    ----------
    model, job, gpus_per_node
        The job; the dense part is tensor-parallel over the GPUs of a node, and each node holds all of it.
    plan, dispatch
        The experts in each slot, each with its whole state, and whether buffers are padded.
    load_LE
        Tokens routed to each expert; only ratios within a layer count.
    """
    num_tokens = job.sequences_per_gpu * model.sequence_length
    num_gpus = plan.num_nodes * gpus_per_node
    tokens_LE = assigned_tokens(load_LE[None], num_tokens * num_gpus * model.top_k, padded=dispatch.padded)[0]
    by_expert = np.zeros((2, plan.num_layers, plan.num_experts + 1))
    by_expert[0, :, :-1], by_expert[1, :, :-1] = tokens_LE / plan.replicas_LE, 1.0
    slots = slots_by_gpu(plan, gpus_per_node)
    rows_LG, held_LG = by_expert.reshape(2, -1).take(slots, axis=1).sum(axis=1)
    row_bytes = WEIGHT_BYTES_PER_PARAM * (model.expert_dim + model.matrices_per_expert * model.d_ff_expert)
    state_bytes = model.expert_state_bytes + WEIGHT_BYTES_PER_PARAM * model.expert_params
    fullest = int((rows_LG.sum(axis=0) * row_bytes + held_LG.sum(axis=0) * state_bytes).argmax())
    return GpuShare(
        dense_params=model.dense_params / gpus_per_node,
        expert_params=float(held_LG[:, fullest].sum()) * model.expert_params,
        num_tokens=num_tokens,
        rows_L=rows_LG[:, fullest],
        sent_L=tokens_LE.sum(axis=1) / num_gpus,
        masked_reorder=dispatch.masked_reorder,
    )
