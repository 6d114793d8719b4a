"""The kernels of a model, each with a plain reference.

The code that is timed is `lazsim.pytorch`, which live jobs train with. Axes: T tokens, D width, E experts, K top-k.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.optim.adam import adam

from lazsim.dispatch import dispatch_tokens
from lazsim.pytorch import dispatch, operators
from lazsim.specs import AttentionSpec, ModelSpec

NUM_RANKS = 8
"""Ranks over which the dispatch is scheduled, each with a replica of every expert, all with the same loads."""

CHECKED_EXPERTS = 4
"""Most grouped experts that are compared with the reference: more take much memory in float64."""

HEAD_WIDTH = 64
"""Width of an attention head of GPT-2 (Radford et al. 2019): 12 heads for 768, 16 for 1024."""

CHECK_TOKENS = 128
"""Tokens on which attention and head are compared with the reference."""

LOSS_SCALE = 2**12
"""Factor of the loss, as in training in half precision (Micikevicius et al., arXiv 1710.03740).

The gradient of a logit, about one over vocabulary and tokens, would be lost in float16.
"""

TOKEN_SIZES = tuple(2**power for power in range(17))
EXPERT_SIZES = (*TOKEN_SIZES, 2**17)
"""The busiest expert of deepseek-v3 on 32 nodes of eight GPUs gets 76 k tokens."""

PARAM_SIZES = tuple(2**power for power in range(12, 31))
ADAM = {"beta1": 0.9, "beta2": 0.95, "lr": 1e-4, "weight_decay": 0.0, "eps": 1e-8}


@dataclass(frozen=True)
class Random:
    """Draws inputs on a device; on the device ``meta``, where torch draws slowly, they have shapes only."""

    device: str
    dtype: Any
    generator: Any = None

    def normal(self, *shape: int, scale: float = 1.0, dtype: Any = None) -> Any:
        """Draw from a normal distribution."""
        drawn = torch.empty(shape, device=self.device, dtype=dtype or self.dtype)
        return drawn if drawn.is_meta else drawn.normal_(generator=self.generator) * scale

    def integers(self, high: int, count: int) -> Any:
        """Draw whole numbers below `high`."""
        drawn = torch.empty(count, device=self.device, dtype=torch.int64)
        return drawn if drawn.is_meta else drawn.random_(high, generator=self.generator)

    def weight(self, *shape: int) -> Any:
        """Draw a matrix that keeps the variance of its input."""
        return self.normal(*shape, scale=shape[-2] ** -0.5)


@dataclass(frozen=True)
class Kernel:
    """A kernel: random inputs, the code that is timed, and a plain reference in float64.

    Functions of a size count what forward and backward pass take together: operations, elements held between the two,
    and bytes moved given those of an element; by default each input and output is moved once in each direction.
    Gradients are taken of all inputs that are not whole numbers.
    """

    name: str
    sizes: tuple[int, ...]
    inputs: Callable[[int, Random], tuple[Any, ...]]
    forward: Callable[..., Any]
    reference: Callable[..., Any]
    flop: Callable[[int], float] = lambda _: 0.0
    inner_elements: Callable[[int], float] = lambda _: 0.0
    traffic_bytes: Callable[[int, int], float] | None = None
    has_backward: bool = True
    checked_as: "Kernel | None" = None
    """The same code on less data, compared with its reference in place of this kernel: float64 takes much memory."""


def kernels_of(model: ModelSpec, *, use_grouped_mm: bool) -> tuple[list[Kernel], dict[str, str]]:
    """Build the kernels of a model; return them with the reason for each whose shapes the model does not tell."""
    kernels = [
        _feed_forward("expert", model, model.expert_dim, model.d_ff_expert, EXPERT_SIZES),
        _all_experts(model, use_grouped_mm),
        _gate(model),
        _schedule(model),
        _permute(model),
        _head(model),
        _optimizer(),
    ]
    skipped = {}
    if model.d_expert is None:
        kernels.append(_gated(model, dispatch.there_and_back, num_copies=8))
    else:
        skipped["reorder"] = f"{model.name} makes tokens narrower between its gate and the experts"
    heads = _heads(model)
    if isinstance(heads, str):
        skipped["attention"] = heads
    else:
        kernels.append(_attention(model, heads))
    if model.num_dense_layers:
        kernels.append(_feed_forward("feed_forward", model, model.d_model, model.d_ff_dense))
    return kernels, skipped


def _feed_forward(name: str, model: ModelSpec, width: int, inner: int, sizes: tuple[int, ...] = TOKEN_SIZES) -> Kernel:
    matrices = model.matrices_per_expert
    return Kernel(
        name,
        sizes,
        lambda size, random: (random.normal(size, width), *_weights(model, width, inner, random)),
        operators.expert,
        operators.expert,
        flop=lambda size: 6.0 * size * matrices * width * inner,
        inner_elements=lambda size: 4.0 * size * matrices * inner,
    )


def _weights(model: ModelSpec, width: int, inner: int, random: Random, *stacked: int) -> list[Any]:
    """Draw up (and gate) and down projections, stacked over experts where asked."""
    ups = [random.weight(*stacked, width, inner) for _ in range(model.matrices_per_expert - 1)]
    return [*ups, random.weight(*stacked, inner, width)]


def uneven_counts(mean: int, num_experts: int) -> list[int]:
    """Split ``mean * num_experts`` tokens by rank, as 1/rank (Zipf); the last experts may get none.

    Examples
    --------
    >>> uneven_counts(4, 4)
    [10, 3, 2, 1]
    """
    total = mean * num_experts
    norm = math.fsum(1 / rank for rank in range(1, num_experts + 1))
    counts = [int(total / rank / norm) for rank in range(1, num_experts + 1)]
    counts[0] += total - sum(counts)
    return counts


def _all_experts(model: ModelSpec, use_grouped_mm: bool) -> Kernel:
    all_of_them, few = (
        grouped_kernel(model, partial(uneven_counts, num_experts=number), use_grouped_mm=use_grouped_mm)
        for number in (model.num_experts, min(model.num_experts, CHECKED_EXPERTS))
    )
    return replace(all_of_them, checked_as=few)


def grouped_kernel(model: ModelSpec, counts_of: Callable[[int], Sequence[int]], *, use_grouped_mm: bool) -> Kernel:
    """Build several experts with weights of their own, over the tokens that `counts_of` gives each at a size."""

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        counts = counts_of(size)
        stacked = (len(counts),) if use_grouped_mm else ()
        num_draws = 1 if use_grouped_mm else len(counts)
        shape = (model.expert_dim, model.d_ff_expert)
        weights = [weight for _ in range(num_draws) for weight in _weights(model, *shape, random, *stacked)]
        tokens = random.normal(sum(counts), model.expert_dim)
        # A loop takes counts that the host knows, as in training: it would wait for those on a GPU.
        return tokens, torch.tensor(counts, device=random.device if use_grouped_mm else "cpu"), *weights

    def moved_elements(counts: Sequence[int]) -> float:
        # Weights of experts with tokens are read twice; gradients of all are written. Five passes over the tokens.
        num_weights = (2 * sum(count > 0 for count in counts) + len(counts)) * model.expert_params
        return num_weights + 5.0 * sum(counts) * model.expert_dim

    return Kernel(
        "grouped",
        TOKEN_SIZES,
        inputs,
        operators.grouped_experts if use_grouped_mm else operators.looped_experts,
        operators.unstacked_experts if use_grouped_mm else operators.looped_experts,
        flop=lambda size: 6.0 * sum(counts_of(size)) * model.expert_params,
        inner_elements=lambda size: 4.0 * sum(counts_of(size)) * model.matrices_per_expert * model.d_ff_expert,
        traffic_bytes=lambda size, element_bytes: element_bytes * moved_elements(counts_of(size)),
    )


def _gate(model: ModelSpec) -> Kernel:
    return Kernel(
        "gate",
        TOKEN_SIZES,
        lambda size, random: (random.normal(size, model.d_model), random.weight(model.d_model, model.num_experts)),
        lambda x, weight: dispatch.gate(x, weight, model.top_k)[0],
        lambda x, weight: torch.softmax(x @ weight, -1).sort(-1, descending=True)[0][:, : model.top_k],
        flop=lambda size: 6.0 * size * model.d_model * model.num_experts,
        inner_elements=lambda size: 4.0 * size * (model.num_experts + model.d_model),
    )


def _even_schedule(experts_A: Any, num_experts: int) -> dispatch.Rows:
    """Schedule the last rank as if all ranks had the same tokens, and a replica of every expert each."""
    counts = dispatch.count_tokens(experts_A, num_experts)
    tokens_EI = counts[:, None].expand(-1, NUM_RANKS)
    ones_EJ = torch.ones_like(counts)[:, None].expand(-1, NUM_RANKS)
    return dispatch.schedule(experts_A, tokens_EI, ones_EJ, NUM_RANKS - 1)[0]


def _assignment_sizes(model: ModelSpec) -> tuple[int, ...]:
    return tuple(model.top_k * size for size in TOKEN_SIZES)


def _schedule(model: ModelSpec) -> Kernel:
    def send(experts_A: Any, tokens_EI: Any, replicas_EJ: Any) -> Any:
        return dispatch.schedule(experts_A, tokens_EI, replicas_EJ, NUM_RANKS - 1)[1]

    def reference(experts_A: Any, *loads: Any) -> Any:
        sent = dispatch_tokens(*(load.cpu().numpy() for load in loads))[:, NUM_RANKS - 1]
        return torch.from_numpy(sent).to(experts_A.device)

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        experts_A = random.integers(model.num_experts, size)
        others = random.integers(2 * size // model.num_experts + 1, model.num_experts * (NUM_RANKS - 1))
        tokens_EI = torch.cat(
            [others.view(model.num_experts, -1), dispatch.count_tokens(experts_A, model.num_experts)[:, None]], 1
        )
        replicas_EJ = random.integers(3, model.num_experts * NUM_RANKS).view(model.num_experts, NUM_RANKS)
        return experts_A, tokens_EI, torch.cat([replicas_EJ[:, 1:], torch.ones_like(replicas_EJ[:, :1])], 1)

    return Kernel(
        "schedule",
        _assignment_sizes(model),
        inputs,
        send,
        reference,
        inner_elements=lambda size: 8.0 * size,
        has_backward=False,
    )


def _permute(model: ModelSpec) -> Kernel:
    k = model.top_k
    return Kernel(
        "permute",
        _assignment_sizes(model),
        lambda size, random: (random.normal(size // k, model.expert_dim), random.integers(model.num_experts, size)),
        lambda x, experts_A: dispatch.there_and_back(x, _even_schedule(experts_A, model.num_experts), k),
        lambda x, _: x * k,
        inner_elements=lambda size: 4.0 * size * model.expert_dim,
        traffic_bytes=lambda size, element_bytes: 16.0 * size * model.expert_dim * element_bytes,
    )


def own_rows_kernel(model: ModelSpec) -> Kernel:
    """Build a rank's part of a reorder on its own tokens: gate, schedule, packing and unpacking."""
    return _gated(model, dispatch.pack_and_combine, num_copies=4)


def _gated(model: ModelSpec, move: Callable[..., Any], num_copies: int) -> Kernel:
    """Build a gate with the reorder that moves its tokens `num_copies` times, forward and backward."""
    k = model.top_k

    def forward(x: Any, weight: Any) -> Any:
        weights, experts, _ = dispatch.gate(x, weight, k)
        return move(x, _even_schedule(experts.flatten(), model.num_experts), k, weights)

    return Kernel(
        "reorder",
        _assignment_sizes(model),
        lambda size, random: (random.normal(size // k, model.d_model), random.weight(model.d_model, model.num_experts)),
        forward,
        lambda x, weight: x * torch.softmax(x @ weight, -1).topk(k)[0].sum(-1, keepdim=True),
        flop=lambda size: 6.0 * size / k * model.d_model * model.num_experts,
        inner_elements=lambda size: 6.0 * size * model.d_model,
        traffic_bytes=lambda size, element_bytes: 2.0 * num_copies * size * model.d_model * element_bytes,
    )


def arrived_rows_kernel(model: ModelSpec, num_runs: int) -> Kernel:
    """Build a rank's part of a reorder on the rows that it receives: sorted by expert, and put back.

    Rows come from `NUM_RANKS` ranks one after the other, from each in as many runs as there are experts here.
    """

    def inputs(size: int, random: Random) -> tuple[Any, ...]:
        rows = torch.arange(size, device=random.device)
        of_a_rank = -(-size // NUM_RANKS)
        order = torch.argsort(rows % of_a_rank * num_runs // of_a_rank, stable=True)
        return random.normal(size, model.expert_dim), order, dispatch.inverse_of(order)

    return Kernel(
        "permute",
        TOKEN_SIZES,
        inputs,
        dispatch.sort_and_unsort,
        lambda arrived, *_: arrived,
        inner_elements=lambda size: 2.0 * size * model.expert_dim,
        traffic_bytes=lambda size, element_bytes: 8.0 * size * model.expert_dim * element_bytes,
    )


def _sequence_sizes(model: ModelSpec) -> tuple[int, ...]:
    return tuple(model.sequence_length * 2**power for power in range(7))


def _heads(model: ModelSpec) -> AttentionSpec | str:
    """Return the heads of a model's attention, or why they cannot be measured."""
    heads = model.attention
    if heads is None:
        width = model.score_dim // 2
        if model.params_per_attention != 4 * model.d_model * width or width % HEAD_WIDTH:
            return f"the model specification does not tell the shapes of {model.name}'s attention"
        return AttentionSpec(num_heads=width // HEAD_WIDTH, num_kv_heads=width // HEAD_WIDTH, head_dim=HEAD_WIDTH)
    if heads.index_heads:
        return f"the attention of {model.name} has an indexer, for which lazsim has no kernel"
    if heads.gated:
        return f"the attention of {model.name} has a gate, for which lazsim has no kernel"
    if heads.num_window_layers and heads.window < model.sequence_length:
        return (
            f"{heads.num_window_layers} layers of {model.name} see {heads.window} tokens, for which torch has no kernel"
        )
    return heads


def _attention(model: ModelSpec, heads: AttentionSpec) -> Kernel:
    def of(sequence_length: int, sizes: tuple[int, ...]) -> Kernel:
        def forward(x: Any, *weights: Any, **how: Any) -> Any:
            return operators.attention_block(x, weights, sequence_length, heads, **how)[1]

        shapes = [(inputs, outputs) for outputs, inputs, _ in heads.projections(model.d_model)]
        width = heads.query_dim + heads.key_value_dim + heads.output_dim
        return Kernel(
            "attention",
            sizes,
            lambda size, random: (
                random.normal(size, model.d_model),
                *(random.weight(*shape) for shape in (*shapes, (heads.output_dim, model.d_model))),
            ),
            forward,
            partial(forward, attend=operators.plain_attention),
            # Causal: half of the pairs.
            flop=lambda size: 6.0 * size * (model.params_per_attention + sequence_length / 2 * model.score_dim),
            inner_elements=lambda size: 5.0 * size * width,
        )

    # A score for each pair of a whole sequence, in float64, would take much memory.
    short = of(CHECK_TOKENS, (CHECK_TOKENS,))
    return replace(of(model.sequence_length, _sequence_sizes(model)), checked_as=short)


def _head(model: ModelSpec) -> Kernel:
    def reference(x: Any, weight: Any, targets: Any) -> Any:
        logits = functional.layer_norm(x, x.shape[-1:]) @ weight.t()
        return (logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]).mean() * LOSS_SCALE

    kernel = Kernel(
        "head",
        _sequence_sizes(model),
        lambda size, random: (
            random.normal(size, model.d_model),
            random.normal(model.vocab_size, model.d_model, scale=model.d_model**-0.5),
            random.integers(model.vocab_size, size),
        ),
        lambda x, weight, targets: operators.head_loss(x, weight, targets) * LOSS_SCALE,
        reference,
        flop=lambda size: 6.0 * size * model.d_model * model.vocab_size,
        inner_elements=lambda size: 6.0 * size * model.vocab_size,
    )
    # Tokens are independent here, unlike in attention, so that part of a sequence checks the same.
    return replace(kernel, checked_as=replace(kernel, sizes=(CHECK_TOKENS,)))


def _optimizer() -> Kernel:
    """Build Adam on float32 parameters; in half precision from a half gradient, and to half weights."""

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
        inner_elements=lambda size: 2.0 * size,
        # Weights and both moments in float32, read and written; a gradient in float32, or in half precision and with it
        # a copy of the weights.
        traffic_bytes=lambda size, _: 28.0 * size,
        has_backward=False,
    )
