"""The kernels of an MoE layer in torch, each with a plain reference. Axes: T tokens, D width, E experts, K top-k."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.optim.adam import adam

from lazsim.dispatch import dispatch_tokens
from lazsim.profiling.dense import attention_kernel, head_kernel
from lazsim.profiling.kernel import Kernel, Random
from lazsim.pytorch.dispatch import (
    count_tokens,
    inverse_of,
    pack_and_unpack,
    schedule,
    sort_and_unsort,
    there_and_back,
)
from lazsim.pytorch.experts import expert, grouped_experts, looped_experts, uneven_counts, unstacked_experts
from lazsim.specs import ModelSpec

NUM_RANKS = 8
"""Ranks over which the dispatch is scheduled, each with a replica of every expert, all with the same loads."""

CHECKED_EXPERTS = 4
"""Experts, at most, of the grouped ones that are compared with the reference: more take much memory in float64."""

TOKEN_SIZES = tuple(2**power for power in range(17))
EXPERT_SIZES = (*TOKEN_SIZES, 2**17)
"""The busiest expert of deepseek-v3 on 32 nodes of eight GPUs gets 76 k tokens."""

PARAM_SIZES = tuple(2**power for power in range(12, 31))
ADAM = {"beta1": 0.9, "beta2": 0.95, "lr": 1e-4, "weight_decay": 0.0, "eps": 1e-8}


def kernels_of(model: ModelSpec, *, use_grouped_mm: bool) -> tuple[list[Kernel], dict[str, str]]:
    """Build the kernels of a model, and say which its specification does not tell the shapes of."""
    kernels = [
        _expert(model),
        _all_experts(model, use_grouped_mm),
        _gate(model),
        _schedule(model),
        _permute(model),
        _reorder(model),
        head_kernel(model),
        _optimizer(),
    ]
    left_out = {}
    attention = attention_kernel(model)
    if attention is not None:
        kernels.append(attention)
    else:
        left_out["attention"] = f"the model specification does not tell the shapes of {model.name}'s attention"
    if model.num_layers > model.num_moe_layers:
        kernels.append(_block("feed_forward", model, model.d_ff_dense))
    return kernels, left_out


def _expert(model: ModelSpec) -> Kernel:
    return _block("expert", model, model.d_ff_expert, EXPERT_SIZES)


def _block(name: str, model: ModelSpec, inner: int, sizes: tuple[int, ...] = TOKEN_SIZES) -> Kernel:
    matrices = model.matrices_per_expert
    return Kernel(
        name,
        sizes,
        lambda size, random: (random.normal(size, model.d_model), *block_weights(model, inner, random)),
        expert,
        expert,
        lambda size: 6.0 * size * matrices * model.d_model * inner,
        lambda size: 4.0 * size * matrices * inner,
    )


def block_weights(model: ModelSpec, inner: int, random: Random, *stacked: int) -> list[Any]:
    """Draw up (and gate) and down projections, stacked over experts where asked."""
    ups = [random.weight(*stacked, model.d_model, inner) for _ in range(model.matrices_per_expert - 1)]
    return [*ups, random.weight(*stacked, inner, model.d_model)]


def _all_experts(model: ModelSpec, use_grouped_mm: bool) -> Kernel:
    all_of_them, few = (
        grouped_kernel(model, partial(uneven_counts, num_experts=number), use_grouped_mm=use_grouped_mm)
        for number in (model.num_experts, min(model.num_experts, CHECKED_EXPERTS))
    )
    return replace(all_of_them, checked_as=few)


def grouped_kernel(model: ModelSpec, counts_of: Callable[[int], Sequence[int]], *, use_grouped_mm: bool) -> Kernel:
    """Build several experts over the tokens that `counts_of` gives each of them, all with weights of their own."""

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        counts = counts_of(size)
        stacked = (len(counts),) if use_grouped_mm else ()
        num_draws = 1 if use_grouped_mm else len(counts)
        weights = [
            weight for _ in range(num_draws) for weight in block_weights(model, model.d_ff_expert, random, *stacked)
        ]
        tokens = random.normal(sum(counts), model.d_model)
        return tokens, torch.tensor(counts, device=random.device), *weights

    return Kernel(
        "grouped",
        TOKEN_SIZES,
        inputs,
        grouped_experts if use_grouped_mm else looped_experts,
        unstacked_experts if use_grouped_mm else looped_experts,
        lambda size: 6.0 * sum(counts_of(size)) * model.expert_params,
        lambda size: 4.0 * sum(counts_of(size)) * model.matrices_per_expert * model.d_ff_expert,
    )


def top_k(x: Any, weight: Any, k: int) -> tuple[Any, Any]:
    """Choose experts; at least in float32, as in Switch Transformer (arXiv 2101.03961, selective precision)."""
    at_least = torch.promote_types(x.dtype, torch.float32)
    shares, experts = torch.topk(torch.softmax(x.to(at_least) @ weight.to(at_least), -1), k)
    return shares, experts


def _gate(model: ModelSpec) -> Kernel:
    return Kernel(
        "gate",
        TOKEN_SIZES,
        lambda size, random: (random.normal(size, model.d_model), random.weight(model.d_model, model.num_experts)),
        lambda x, weight: top_k(x, weight, model.top_k)[0],
        lambda x, weight: torch.softmax(x @ weight, -1).sort(-1, descending=True)[0][:, : model.top_k],
        lambda size: 6.0 * size * model.d_model * model.num_experts,
        lambda size: 4.0 * size * (model.num_experts + model.d_model),
    )


def _loads(experts_A: Any, num_experts: int) -> tuple[Any, Any]:
    """Count tokens as if all ranks had the same, and place a replica of every expert on each."""
    counts = count_tokens(experts_A, num_experts)
    return counts[:, None].expand(-1, NUM_RANKS), torch.ones_like(counts)[:, None].expand(-1, NUM_RANKS)


def _assignment_sizes(model: ModelSpec) -> tuple[int, ...]:
    return tuple(model.top_k * size for size in TOKEN_SIZES)


def _schedule(model: ModelSpec) -> Kernel:
    def reference(experts_A: Any, *loads: Any) -> Any:
        sent = dispatch_tokens(*(load.cpu().numpy() for load in loads))[:, NUM_RANKS - 1]
        return torch.from_numpy(sent).to(experts_A.device)

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        experts_A = random.integers(model.num_experts, size)
        others = random.integers(2 * size // model.num_experts + 1, model.num_experts * (NUM_RANKS - 1))
        tokens_EI = torch.cat(
            [others.view(model.num_experts, -1), count_tokens(experts_A, model.num_experts)[:, None]], 1
        )
        replicas_EJ = random.integers(3, model.num_experts * NUM_RANKS).view(model.num_experts, NUM_RANKS)
        return experts_A, tokens_EI, torch.cat([replicas_EJ[:, 1:], torch.ones_like(replicas_EJ[:, :1])], 1)

    def forward(experts_A: Any, tokens_EI: Any, replicas_EJ: Any) -> Any:
        return schedule(experts_A, tokens_EI, replicas_EJ, NUM_RANKS - 1)[3]

    return Kernel(
        "schedule",
        _assignment_sizes(model),
        inputs,
        forward,
        reference,
        lambda _: 0.0,
        lambda size: 8.0 * size,
        has_backward=False,
    )


def _permute(model: ModelSpec) -> Kernel:
    k = model.top_k

    def forward(x: Any, experts_A: Any) -> Any:
        moved = there_and_back(x, experts_A, *_loads(experts_A, model.num_experts), NUM_RANKS - 1, k)
        return _sum_of_k(moved, k)

    return Kernel(
        "permute",
        _assignment_sizes(model),
        lambda size, random: (random.normal(size // k, model.d_model), random.integers(model.num_experts, size)),
        forward,
        lambda x, _: x * k,
        lambda _: 0.0,
        lambda size: 4.0 * size * model.d_model,
        lambda size, element_bytes: 16.0 * size * model.d_model * element_bytes,
    )


def _reorder(model: ModelSpec) -> Kernel:
    return _gated(model, "reorder", there_and_back, 8)


def _sum_of_k(rows: Any, k: int) -> Any:
    """Add up the `k` rows of each token; one alone is not copied."""
    return rows.unflatten(0, (-1, k)).sum(1) if k > 1 else rows


def own_rows_kernel(model: ModelSpec) -> Kernel:
    """Build the part of a reorder that a rank has with its own tokens: gate, schedule, packing and unpacking."""
    return _gated(model, "reorder", pack_and_unpack, 4)


def _gated(model: ModelSpec, name: str, move: Callable[..., Any], num_copies: int) -> Kernel:
    """Build a gate with what then moves its tokens, forward and backward so many times."""
    k = model.top_k

    def forward(x: Any, weight: Any) -> Any:
        shares, experts = top_k(x, weight, k)
        experts_A = experts.flatten()
        loads = _loads(experts_A, model.num_experts)
        back = move(x, experts_A, *loads, NUM_RANKS - 1, k)
        return _sum_of_k(back * shares.to(x.dtype).view(-1, 1), k)

    return Kernel(
        name,
        _assignment_sizes(model),
        lambda size, random: (random.normal(size // k, model.d_model), random.weight(model.d_model, model.num_experts)),
        forward,
        lambda x, weight: x * torch.softmax(x @ weight, -1).topk(k)[0].sum(-1, keepdim=True),
        lambda size: 6.0 * size / k * model.d_model * model.num_experts,
        lambda size: 6.0 * size * model.d_model,
        lambda size, element_bytes: 2.0 * num_copies * size * model.d_model * element_bytes,
    )


def arrived_rows_kernel(model: ModelSpec, num_runs: int) -> Kernel:
    """Build the part of a reorder that a rank has with what it receives: rows sorted by expert, and put back.

    Rows come from `NUM_RANKS` ranks one after the other, from each in as many runs as there are experts here.
    """

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        rows = torch.arange(size, device=random.device)
        of_a_rank = -(-size // NUM_RANKS)
        order = torch.argsort(rows % of_a_rank * num_runs // of_a_rank, stable=True)
        return random.normal(size, model.d_model), order, inverse_of(order)

    return Kernel(
        "permute",
        TOKEN_SIZES,
        inputs,
        sort_and_unsort,
        lambda arrived, *_: arrived,
        lambda _: 0.0,
        lambda size: 2.0 * size * model.d_model,
        lambda size, element_bytes: 8.0 * size * model.d_model * element_bytes,
    )


def _optimizer() -> Kernel:
    """Adam on float32 parameters; in half precision from a half gradient, and to half weights."""

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        master, mean, square = (random.normal(size, dtype=torch.float32) for _ in range(3))
        num_weights = 0 if random.dtype == torch.float32 else size
        return master, random.normal(size), mean * 0.1, square.abs() * 0.1, random.normal(num_weights)

    def forward(master: Any, gradient: Any, mean: Any, square: Any, weight: Any) -> Any:
        step = torch.ones((), device=master.device)
        gradients, options = [gradient.to(master.dtype)], {"amsgrad": False, "maximize": False, "fused": True}
        adam([master], gradients, [mean], [square], [], [step], **options, **ADAM)  # type: ignore[arg-type]
        return weight.copy_(master) if weight.dtype != master.dtype else master

    def reference(master: Any, gradient: Any, mean: Any, square: Any, _: Any) -> Any:
        # Step 2, since the kernel counts up from 1; Kingma and Ba (arXiv 1412.6980), algorithm 1.
        mean = ADAM["beta1"] * mean + (1 - ADAM["beta1"]) * gradient
        square = ADAM["beta2"] * square + (1 - ADAM["beta2"]) * gradient**2
        unbiased = mean / (1 - ADAM["beta1"] ** 2), square / (1 - ADAM["beta2"] ** 2)
        return master - ADAM["lr"] * unbiased[0] / (unbiased[1].sqrt() + ADAM["eps"])

    return Kernel(
        "optimizer",
        PARAM_SIZES,
        inputs,
        forward,
        reference,
        lambda _: 0.0,
        lambda size: 2.0 * size,
        # Weights and both moments in float32, read and written; a gradient in float32, or in half precision and with it
        # a copy of the weights.
        lambda size, _: 28.0 * size,
        has_backward=False,
    )
