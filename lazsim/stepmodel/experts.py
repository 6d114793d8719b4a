"""The block of experts: gate, exchange of tokens, matmuls of the experts of a GPU."""

import math

from lazsim.stepmodel.dispatchers import DISPATCHERS
from lazsim.stepmodel.inputs import OPERAND_BYTES, StepInputs
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.operations import Item, Operation, in_graph

ROUTER_KERNELS = 25
"""Small kernels of top-k, probabilities, counts and maps, forward."""

SCORE_BYTES, GATE_INPUT_BYTES = (48, 24), (0, 18)
"""Bytes for each score and each number of a token that these move, forward and backward.

The gate reads 16 bits and writes 32. Its gradients are matmuls of 32: inputs are cast before, their gradient after, to
which that of the exchange is added (``RouterGatingLinearFunction`` of NVIDIA/Megatron-LM 0.16)."""

BIAS_BYTES = (28, 40)
"""Bytes for each number, forward and backward, of the second bias of experts; the first matmul adds the first itself.

``_apply_bias`` of NVIDIA/Megatron-LM 0.15 and later weights it by the gate in fp32, expert by expert: product, sum,
concatenation and cast each read and write all tokens of the experts; backward, so do the gradients of both factors: six
kernels an expert, and three of all."""

CLAMP_BYTES = (8, 10)
"""Bytes for each number, forward and backward, of the bounds before an activation.

Both halves are bounded and concatenated again before the fused activation of NVIDIA/Megatron-LM 0.16
(``weighted_bias_quick_geglu_impl``); backward, gradients are masked by the inputs and concatenated. A number goes to
the GPU before it (``torch.tensor(linear_offset, device=...)``), and the host waits until it is there, behind all
kernels that it launched: PyTorch copies so unless it is told not to block."""

CHOICE_BYTES, PROBABILITY_BYTES = 1, 2
"""Bytes of a token and an expert in the map of choices, and in that of probabilities. All ranks of HybridEP gather the
first before they dispatch (``metadata_preprocessing`` of deepseek-ai/DeepEP, branch hybrid-ep), an all-gather both;
backward, choices are there already. *Assumption*: probabilities have 16 bits, and with them the numbers that NCCL sums
over ranks, the default of NVIDIA/Megatron-LM 0.12 and later; with ``moe_router_dtype`` "fp32" both have 32."""

EPILOGUE_PRECISIONS = ("mxfp8", "nvfp4")
"""Types whose grouped matmuls apply activations as they write, where counts of tokens stay on the GPU: graphs of
everything take those (``grouped_mlp.py`` of NVIDIA/TransformerEngine 2.14 and later, full-iteration recipes of
NVIDIA-NeMo/Megatron-Bridge)."""


def distinct_ranks(
    top_k: int, num_experts: int, num_ranks: float, num_groups: int = 1, groups_per_token: int = 1
) -> float:
    """Return the ranks that the top-k experts of a token fall on, on average, when they lie in a few groups of experts.

    Notes
    -----
    Experts are drawn without replacement. Gates choose groups by their best experts (DeepSeek-V3, arXiv 2412.19437,
    section 2.1.2), so that one expert of each chosen group is among those of the token; any others of these groups are
    as likely as one another. Such gates with random scores give within 1.2 % as many ranks.

    Examples
    --------
    >>> distinct_ranks(8, 256, 1), distinct_ranks(2, 8, 8), distinct_ranks(2, 4, 2)
    (1.0, 2.0, 1.6666666666666667)
    >>> distinct_ranks(8, 256, 8, 8, 4), distinct_ranks(8, 256, 256, 8, 4)
    (4.0, 8.0)
    """
    chosen = min(groups_per_token, num_groups, top_k)
    if num_ranks < num_groups:
        elsewhere, missed = num_groups - num_groups / num_ranks, 1.0
        for one in range(chosen):
            missed *= max(0.0, elsewhere - one) / (num_groups - one)
        return num_ranks * (1 - missed)
    # A rank of one of the chosen groups has neither the best expert there nor any of the others.
    each, of_group = num_experts / num_ranks, num_experts / num_groups
    missed, others = 1 - each / of_group, chosen * (of_group - 1)
    for one in range(top_k - chosen):
        missed *= max(0.0, others - each - one) / (others - one)
    return chosen * num_ranks / num_groups * (1 - missed)


def consecutive_ranks(top_k: int, num_experts: int, num_ranks: float) -> float:
    """Return the ranks that the experts of a token fall on, on average, when tokens take experts in their order.

    Examples
    --------
    >>> consecutive_ranks(8, 128, 8), consecutive_ranks(8, 256, 64), consecutive_ranks(6, 64, 8)
    (1.0, 2.0, 1.5)
    """
    each = num_experts / num_ranks
    firsts = [first % num_experts for first in range(0, math.lcm(top_k, num_experts), top_k)]
    counts = [min(num_ranks, (first + top_k - 1) // each - first // each + 1) for first in firsts]
    return math.fsum(counts) / len(counts)


def ranks_of_token(inputs: StepInputs, num_ranks: float) -> float:
    """Return the ranks, or domains of ranks, that have experts of a token, on average."""
    model = inputs.model
    if inputs.parallel.routing == "consecutive":
        return consecutive_ranks(model.top_k, model.num_experts, num_ranks)
    groups = model.num_expert_groups, model.num_groups_per_token
    return distinct_ranks(model.top_k, model.num_experts, num_ranks, *groups)


def chance_imbalance(assignments_per_rank: float, num_ranks: int) -> float:
    """Return the busiest over the mean rank when each assignment falls on any of `num_ranks` ranks by chance.

    The largest of `n` normal numbers is about ``sqrt(2 ln n)`` standard deviations above the mean; a rank receives
    Poisson many assignments, `assignments_per_rank` on average.
    """
    return 1 + math.sqrt(2 * math.log(num_ranks) / assignments_per_rank) if num_ranks > 1 else 1.0


def lasting_imbalance(inputs: StepInputs) -> float:
    """Return the part of `imbalance` that is no chance, which differs from layer to layer and evens out."""
    parallel = inputs.parallel
    if parallel.pad_to_capacity:
        return parallel.capacity_factor
    is_uneven = parallel.routing == "learned" and parallel.expert > 1
    busiest = inputs.known_imbalance or (inputs.constants.learned_imbalance if is_uneven else 1.0)
    return min(busiest, parallel.capacity_factor or busiest)


def imbalance(inputs: StepInputs) -> float:
    """Return the tokens of the busiest rank over the mean; a capacity bounds them, and padding fills up to it."""
    parallel, lasting = inputs.parallel, lasting_imbalance(inputs)
    if parallel.pad_to_capacity or parallel.routing != "balanced":
        return lasting
    together = inputs.own_tokens * parallel.expert_tensor
    busiest = chance_imbalance(together * inputs.model.top_k, parallel.expert)
    return min(busiest, parallel.capacity_factor or busiest)


def routed_tokens(inputs: StepInputs) -> float:
    """Return the tokens of the experts of a GPU, those of all GPUs that share the matrices of an expert."""
    return inputs.own_tokens * inputs.parallel.expert_tensor * inputs.model.top_k * imbalance(inputs)


def moe_items(kernels: Kernels) -> list[Item]:
    """List the items of a block of experts, shared ones first."""
    inputs = kernels.inputs
    model, tokens, width = inputs.model, inputs.own_tokens, inputs.model.expert_dim
    narrow = [] if model.d_expert is None else [kernels.linear(width, model.d_model, tokens)]
    widen = [] if model.d_expert is None else [kernels.linear(model.d_model, width, tokens)]
    shared = kernels.mlp(model.shared_dim) if model.shared_dim else []
    (permute, sort, unsort, restore), (dispatch, combine) = _permutations(kernels), _exchanges(kernels)
    norm, *gate, permute = in_graph([kernels.norm(), *_gate(kernels), permute], kernels.graphed_gate)
    # Graphs of the gate hold the permutation of a plain exchange as well; counts then leave after it.
    counted = [permute, *_counts(kernels)] if kernels.graphed_gate else [*_counts(kernels), permute]
    pad = _alignment(kernels)
    return [
        norm, *shared, *gate, *narrow, *counted, dispatch, sort, *pad, *_experts(kernels), *pad, unsort, combine,
        restore, *widen, kernels.residual(), *_offload(kernels),
    ]  # fmt: skip


def _gate(kernels: Kernels) -> list[Item]:
    inputs, model = kernels.inputs, kernels.inputs.model
    tokens, width, experts = inputs.own_tokens, model.d_model, model.num_experts
    gate_s = kernels.matmul_s(tokens, experts, width, "matmul_bf16")
    wide_s = 2 * tokens * experts * width / (inputs.constants.gate_peak_share * inputs.gpu.peak_flop_per_s)
    small = [inputs.copy_s((SCORE_BYTES[way] * experts + GATE_INPUT_BYTES[way] * width) * tokens) for way in (0, 1)]
    gate = Item(
        (kernels.launch("router", gate_s, 1), kernels.launch("router", small[0], ROUTER_KERNELS)),
        (kernels.launch("router", small[1], round(0.7 * ROUTER_KERNELS)), kernels.launch("router", 2 * wide_s, 2)),
    )
    return [gate] * (inputs.parallel.routing != "consecutive")


def _needs_counts(kernels: Kernels) -> bool:
    """Tell whether the host has to know the tokens of each expert: one graph of all and fixed numbers spare it."""
    return not (kernels.graphed or kernels.inputs.parallel.pad_to_capacity)


def _counts(kernels: Kernels) -> list[Item]:
    """Send the tokens of each expert to the host, which waits for them before it launches the exchange."""
    copies = DISPATCHERS[kernels.inputs.parallel.dispatcher].count_copies
    counts = Operation("router", 0.0, copies, copies * kernels.launch_s, counts=True)
    return [Item((counts,), ())] * _needs_counts(kernels)


def _experts(kernels: Kernels) -> list[Item]:
    """Build the experts of a GPU: one matmul for each expert, all launched by one call.

    Operands are quantised expert by expert, and once for both gradients (``GroupedLinear`` of TransformerEngine 2.9).
    """
    inputs = kernels.inputs
    model, parallel = inputs.model, inputs.parallel
    local = model.num_experts // parallel.expert
    routed = routed_tokens(inputs)
    rows = max(1.0, routed / local)
    inner, width = model.d_ff_expert / parallel.expert_tensor, model.expert_dim
    matrices, kernel = model.matrices_per_expert, inputs.matmul_kernel

    def grouped(outputs: float, width: float) -> Item:
        def operation(seconds: float, quantise: int, expert_s: float = 0.0) -> Operation:
            native = local * (quantise + 1) + kernels.scale_kernels
            host_s = kernels.launch_s + native * kernels.native_launch_s + local * expert_s
            return Operation("expert_matmul", local * seconds, local, host_s)

        quantise, (forward_s, backward_s) = kernels.quantise_kernels, kernels.expert_s
        return Item(
            (
                operation(kernels.matmul_s(rows, outputs, width, kernel), quantise, forward_s),
                *kernels.second_copy(width, routed, kernel),
            ),
            (
                *kernels.second_copy(outputs, routed, kernel),
                operation(kernels.matmul_s(rows, width, outputs, kernel), quantise, backward_s),
                operation(kernels.weight_gradient_s(rows, outputs, width, kernel), 0),
            ),
        )

    def elementwise(num_bytes: tuple[int, int], width: float, number: int, backward_number: int) -> Item:
        forward, backward = (each * width for each in num_bytes)
        return kernels.copy(forward, backward, number, backward_number, routed, calls=1)

    outputs = (matrices - 1) * inner
    up, down = grouped(outputs, width), grouped(width, inner)
    activation = elementwise((2 * matrices, 2 * matrices + 4), inner, 1, 1)._replace(module="expert_activation")
    if kernels.graphed:
        # Kernels that take counts of tokens from the GPU add biases themselves.
        return [up, *([] if parallel.precision in EPILOGUE_PRECISIONS else [activation]), down]
    if model.clamped_activation:
        clamp, (activate,) = elementwise(CLAMP_BYTES, outputs, 3, 3), activation.forward
        offset = Operation("memory", 0.0, 1, kernels.launch_s, counts=True)
        activation = activation._replace(
            forward=(*clamp.forward, offset, activate._replace(waits=True)),
            backward=(*activation.backward, *clamp.backward),
        )
    biases = [elementwise(BIAS_BYTES, width, 2 * local + 2, 6 * local + 3)]
    return [up, activation, down, *(biases if model.expert_bias else [])]


def _permutations(kernels: Kernels) -> list[Item]:
    """Build the reordering of tokens before and after a dispatch, and back before and after a combine."""
    inputs, parallel = kernels.inputs, kernels.inputs.parallel
    top_k, own, rows = inputs.model.top_k, inputs.own_tokens, routed_tokens(inputs)
    gathered = own * parallel.expert * parallel.expert_tensor
    arrived = 2 * rows + 2 * rows * ranks_of_token(inputs, parallel.expert) / top_k
    # A plain exchange takes tokens in the order of their experts and returns them in that of their ranks. After an
    # all-gather, a rank makes a sum for each token of all ranks.
    moved = {
        "all_gather": (0, 4 * rows, 2 * rows + 2 * gathered, 0),
        "all_to_all": ((2 * top_k + 2) * own, 4 * rows, 4 * rows, (2 * top_k + 2) * own),
    }.get(parallel.dispatcher, (0, arrived, arrived, 0))
    return [
        kernels.copy(each, each, *numbers, tokens=inputs.model.expert_dim)
        for each, numbers in zip(moved, DISPATCHERS[parallel.dispatcher].permute_kernels, strict=True)
    ]


def _alignment(kernels: Kernels) -> list[Item]:
    """Copy the tokens of a GPU such that each expert has a multiple of what 8-bit matmuls take, and back.

    HybridEP places tokens so, graphs of everything have fixed sizes, and bf16 takes any number
    (``quantization_padding`` of NVIDIA/Megatron-LM 0.16, with the defaults of NVIDIA-NeMo/Megatron-Bridge).
    """
    inputs = kernels.inputs
    parallel, model = inputs.parallel, inputs.model
    is_aligned = DISPATCHERS[parallel.dispatcher].aligns or kernels.graphed or parallel.pad_to_capacity
    if not inputs.quantised or is_aligned:
        return []
    each = 4 * model.expert_dim
    return [kernels.copy(each, each, 2, 2, routed_tokens(inputs))]


def _exchanges(kernels: Kernels) -> tuple[Item, Item]:
    """Build the dispatch and the combine; the gradient of each is the other one.

    In 8 bits go tokens to experts, and gradients of what experts made of them (arXiv 2412.19437, section 3.3.3). After
    a plain exchange, GPUs that share the matrices of an expert gather its tokens, and scatter the sums of what they
    made of them; the other dispatchers send each of these GPUs a copy.
    """
    inputs, parallel, model = kernels.inputs, kernels.inputs.parallel, kernels.inputs.model
    latency_s = inputs.constants.exchange_latency_s if inputs.num_domains > 1 else 0.0
    shared_by, ranks = parallel.expert_tensor, parallel.expert * parallel.expert_tensor
    is_gather = parallel.dispatcher == "all_gather"

    def operation(number_bytes: float, scores: int = 0) -> Operation:
        sent_bytes = number_bytes + (scores * model.num_experts / model.expert_dim if is_gather else 0)
        seconds = exchange_s(inputs, sent_bytes) * (1.0 if is_gather else imbalance(inputs))
        seconds += latency_s if seconds else 0.0
        if parallel.dispatcher == "all_to_all":
            arrived = number_bytes * model.expert_dim * routed_tokens(inputs)
            seconds += inputs.collective_s("all_gather", arrived, shared_by, 1)
        return kernels.launch("expert_exchange", seconds, 1)

    # Tokens in 8 bits have scales of blocks.
    token_bytes = OPERAND_BYTES["fp8_block" if parallel.dispatch_precision == "fp8" else "bf16"]
    dispatch = operation(token_bytes, CHOICE_BYTES + PROBABILITY_BYTES)
    if DISPATCHERS[parallel.dispatcher].gathers_choices:
        choices = CHOICE_BYTES * model.num_experts * shared_by * inputs.own_tokens * ranks
        dispatch = dispatch._replace(gpu_s=dispatch.gpu_s + inputs.collective_s("all_gather", choices, ranks, 1))
    return (
        Item((dispatch._replace(waits=_needs_counts(kernels)),), (operation(2.0, PROBABILITY_BYTES),)),
        Item((operation(2.0),), (operation(token_bytes),)),
    )


def exchange_s(inputs: StepInputs, number_bytes: float = 2.0) -> float:
    """Return the time to send the tokens of a micro-batch to their experts, without fixed times.

    Notes
    -----
    A plain all-to-all sends a copy for each expert of a token, the others one for each rank; copies that stay on the
    rank are not sent. Across domains one copy goes to each domain of a token.
    An all-gather sends every token to every rank. Links inside a domain, NICs and the links between pods work at the
    same time. Ranks are all GPUs of a group of experts, but for a plain exchange, which sends tokens to one of those
    that share the matrices of an expert (``MoEFlexTokenDispatcher``, ``MoEAllGatherTokenDispatcher`` of
    NVIDIA/Megatron-LM 0.16.1). Beyond the ranks of its table, a deduplicating exchange grows with all copies of a
    token, that on its own rank among them: from 8 to 16 ranks of a GB200 it takes 1.07 times as long (copies 1.23,
    remote ones 1.32), from 4 to 8 Blackwell GPUs under DeepEP 1.21 times (1.46, 1.70; ai-dynamo/aiconfigurator).
    """
    model, parallel, constants = inputs.model, inputs.parallel, inputs.constants
    experts, tokens, domains = parallel.expert, inputs.own_tokens, inputs.num_domains
    sharing = 1 if parallel.dispatcher == "all_to_all" else parallel.expert_tensor
    ranks = experts * sharing
    if ranks == 1:
        return 0.0
    sent = number_bytes * model.expert_dim * tokens
    if parallel.dispatcher == "all_gather":
        return inputs.collective_s("all_gather", sent * ranks, ranks, 1)
    if parallel.dispatcher == "all_to_all":
        sent *= model.top_k
        inside = max(1.0, ranks / domains)
        within_s = inputs.tables.collective_s("all_to_all", inputs.link_stretch * sent * inside / ranks, inside)
        curve_us, share = constants.gather_curve_us, constants.all_to_all_nic_share
        across, between = sent * (1 - inside / ranks), sent * (1 - 1 / inputs.num_pods)
    else:
        kernel = inputs.exchange_kernel
        sent_share = 1 - 1 / min(ranks, inputs.tables.ranks_of(kernel), inputs.domain)
        each = inputs.link_stretch * sharing * ranks_of_token(inputs, experts) * sent_share * sent / tokens
        if kernel == "exchange_deepep":
            within_s = inputs.tables.sent_s(tokens, each, inputs.multiprocessors)
        else:
            within_s = inputs.tables.time_s(kernel, tokens * each)
        # The GPUs that share the matrices of an expert may fill domains.
        copies = ranks_of_token(inputs, min(domains, experts)) * max(1.0, domains / experts)
        curve_us, share = constants.exchange_curve_us, constants.deduplicated_nic_share
        across, between = copies * (1 - 1 / domains) * sent, copies * (1 - 1 / inputs.num_pods) * sent
    return max(within_s, inputs.across_s(curve_us, max(across, between / inputs.cluster.network.spine_share), share))


def _offload(kernels: Kernels) -> list[Item]:
    """Move inputs or activations of experts to the host and back, behind the pass of the layer that keeps them."""
    inputs = kernels.inputs
    model, parallel = inputs.model, inputs.parallel
    inner = model.d_ff_expert / parallel.expert_tensor
    widths = {"expert_input": model.expert_dim, "expert_activation": (model.matrices_per_expert - 1) * inner}
    moved = math.fsum(
        (OPERAND_BYTES[parallel.precision] if name == "expert_input" else 2) * width
        for name, width in widths.items()
        if name in parallel.offloaded
    )
    if not moved:
        return []
    seconds = moved * routed_tokens(inputs) / inputs.cluster.host.link_bytes_per_s
    operation = Operation("offload", 0.0, 0, kernels.launch_s, hidden_s=seconds)
    return [Item((operation,), (operation,))]
