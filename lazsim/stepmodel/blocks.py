"""Operations of the blocks of a layer: attention, state space, dense and expert feed-forward, embedding and head.

Bytes moved by element-wise kernels are counted per token: each operand that is read or written once, 2 bytes a number.
"""

import math

from lazsim.specs import AttentionSpec, StateSpaceSpec
from lazsim.stepmodel.inputs import QUANTISE_BYTES, StepInputs
from lazsim.stepmodel.operations import Block, Item, Operation, block_of

ROUTER_KERNELS = 25
"""Small kernels of top-k, probabilities, counts and maps, forward."""

EXCHANGE_KERNELS = {"all_gather": 20, "all_to_all": 20, "deepep": 7, "hybridep": 7}
"""Kernels of a dispatch or a combine with its permutation, forward."""

TABLE_SCAN_CHUNK = 128
"""Tokens of a chunk of the state-space scan (arXiv 2405.21060)."""


def blocks_of(inputs: StepInputs) -> dict[str, Block]:
    """Build the operations of every kind of block of a model."""
    return _Builder(inputs).blocks()


def distinct_ranks(top_k: int, num_ranks: float) -> float:
    """Return the ranks that the top-k experts of a token fall on, on average, when each rank is as likely.

    Examples
    --------
    >>> distinct_ranks(8, 1), distinct_ranks(2, 2)
    (1.0, 1.5)
    """
    return num_ranks * (1 - (1 - 1 / num_ranks) ** top_k)


def chance_imbalance(num_assignments: float, num_ranks: int) -> float:
    """Return the busiest over the mean rank when each assignment falls on any of `num_ranks` ranks by chance.

    The largest of `n` normal numbers is about ``sqrt(2 ln n)`` standard deviations above the mean; a rank receives
    Poisson many assignments.
    """
    return 1 + math.sqrt(2 * math.log(num_ranks) / num_assignments) if num_ranks > 1 else 1.0


class _Builder:
    """Prices of operations under the settings of a layout."""

    def __init__(self, inputs: StepInputs) -> None:
        self.inputs = inputs
        self.model = inputs.model
        self.parallel = inputs.parallel
        self.constants = inputs.constants
        self.tables = inputs.tables
        graphs = inputs.parallel.graphs
        self.graphed = graphs == "full"
        self.graphed_gate = graphs != "none"
        self.graphed_attention = graphs == "full" or (graphs == "partial" and inputs.parallel.graph_attention)

    def blocks(self) -> dict[str, Block]:
        """Build every kind of block that the model has."""
        model, everything = self.model, self.parallel.recompute == "full"
        items: dict[str, list[Item]] = {"moe": self._moe()}
        if model.attention is not None:
            items["attention"] = self._attention(model.attention, 0)
            if model.attention.num_window_layers:
                items["window"] = self._attention(model.attention, model.attention.window)
        if model.state_space is not None:
            items["state_space"] = self._state_space(model.state_space)
        if model.num_dense_layers:
            dense = [self._norm(self.graphed), *self._mlp(model.d_ff_dense, self.graphed), self._residual(self.graphed)]
            items["dense"] = [item._replace(module="dense_block") for item in dense]
        blocks = {name: block_of(some, self.parallel.recomputed, everything) for name, some in items.items()}
        blocks["embedding"] = block_of([self._copy(4 * model.d_model, 8 * model.d_model, 1, 1, self.graphed)])
        blocks["head"] = block_of(self._head())
        if model.num_mtp_layers:
            join = block_of([self._linear(model.d_model, 2 * model.d_model, self.inputs.tokens, self.graphed)])
            chain = [join, blocks["attention"], blocks["moe"], blocks["head"]]
            blocks["mtp"] = Block(
                tuple(operation for block in chain for operation in block.forward),
                tuple(operation for block in reversed(chain) for operation in block.backward),
            )
        return blocks

    def _matmul_s(self, rows: float, columns: float, inner: float, kernel: str) -> float:
        sustained = self.tables.sustained_rate(kernel) * self.constants.slowest_gpu_rate
        speedup = self.constants.four_bit_speedup if self._four_bits(kernel) else 1.0
        return self.tables.time_s(kernel, rows, columns, inner) / sustained / speedup

    def _four_bits(self, kernel: str) -> bool:
        return self.parallel.precision == "nvfp4" and kernel != "matmul_bf16"

    def _weight_gradient_s(self, rows: float, columns: float, inner: float, kernel: str) -> float:
        """Time of the gradient of a weight: its operands are quantised before, and the gradient is read and written."""
        seconds = self._matmul_s(columns, inner, rows, kernel)
        if kernel != "matmul_bf16":
            quantised = self.inputs.copy_s(QUANTISE_BYTES * columns * rows)
            seconds = max(seconds - quantised, 0.3 * seconds)
        gradient_bytes = 2 * self.parallel.gradient_bytes * columns * inner
        return max(seconds, gradient_bytes / (self.inputs.gpu.memory_efficiency * self.inputs.gpu.memory_bytes_per_s))

    def _launches(self, part: str, gpu_s: float, kernels: int, graphed: bool) -> tuple[Operation, ...]:
        return (Operation(part, gpu_s, kernels, kernels * self.constants.host_launch_s, graphed),)

    def _linear(
        self, outputs: float, inputs: float, tokens: float, graphed: bool, kernel: str = "", module: str = ""
    ) -> Item:
        """Build a projection: forward, gradient of its input, gradient of its weight; 8-bit operands are quantised."""
        kernel = kernel or self.inputs.matmul_kernel
        kernels = 2 if kernel != "matmul_bf16" else 1
        forward = self._launches("dense_matmul", self._matmul_s(tokens, outputs, inputs, kernel), kernels, graphed)
        backward = (
            *self._launches("dense_matmul", self._matmul_s(tokens, inputs, outputs, kernel), kernels, graphed),
            *self._launches("dense_matmul", self._weight_gradient_s(tokens, outputs, inputs, kernel), 1, graphed),
        )
        return Item(forward, backward, module)

    def _copy(
        self, forward_bytes: float, backward_bytes: float, kernels: int, backward_kernels: int, graphed: bool,
        tokens: float = 0.0, module: str = "",
    ) -> Item:  # fmt: skip
        """Element-wise kernels by the bytes they move for each token."""
        tokens = tokens or self.inputs.own_tokens
        return Item(
            self._launches("memory", self.inputs.copy_s(forward_bytes * tokens), kernels, graphed),
            self._launches("memory", self.inputs.copy_s(backward_bytes * tokens), backward_kernels, graphed),
            module,
        )

    def _norm(self, graphed: bool, width: float = 0.0, tokens: float = 0.0) -> Item:
        width = width or self.model.d_model
        slow = self.constants.norm_backward_slowdown
        return self._copy(4 * width, 8 * slow * width, 1, 2, graphed, tokens, module="norm")

    def _residual(self, graphed: bool) -> Item:
        return self._copy(6 * self.model.d_model, 4 * self.model.d_model, 1, 1, graphed)

    def _tensor_exchange(self) -> list[Item]:
        """Gather the tokens of the tensor-parallel ranks before a block, scatter sums after it; once more backward."""
        ranks = self.parallel.tensor
        if ranks == 1:
            return []
        num_bytes = 2 * self.model.d_model * self.inputs.tokens
        exposed = self.constants.tensor_exposed_share if self.parallel.overlap_tensor else 1.0
        each_s = exposed * self.inputs.collective_s("all_gather", num_bytes, ranks, 1)
        part = "tensor_exchange"
        return [
            Item(
                self._launches(part, 2 * each_s, 2, self.graphed_attention),
                self._launches(part, 3 * each_s, 3, self.graphed_attention),
            )
        ]

    def _attention(self, attention: AttentionSpec, window: int) -> list[Item]:
        tensor, tokens, graphed = self.parallel.tensor, self.inputs.tokens, self.graphed_attention
        items = [self._norm(graphed)]
        for outputs, inputs, divided in attention.projections(self.model.d_model):
            up = attention.kind == "latent" and divided
            items.append(
                self._linear(
                    outputs / tensor if divided else outputs, inputs, tokens, graphed, module="latent_up" if up else ""
                )
            )
            if attention.kind == "latent" and not divided:
                items.append(self._norm(graphed, outputs, tokens))
        # Keys and queries turn by their positions; the tables of grouped attention do so in the forward pass.
        turned = 4 * (attention.query_dim + attention.num_kv_heads * attention.head_dim) / tensor
        if attention.kind == "latent":
            items.append(self._copy(2 * turned, 2 * turned, 2, 2, graphed, tokens))
        else:
            items.append(Item((), self._copy(0, turned, 0, 1, graphed, tokens).backward))
        core_s, ratio = self._scores_s(attention, window)
        items += [
            Item(
                self._launches("attention", core_s, 2, graphed),
                self._launches("attention", ratio * core_s, 3, graphed),
            ),
            self._linear(self.model.d_model, attention.output_dim / tensor, tokens, graphed),
            self._residual(graphed),
        ]
        return items + self._tensor_exchange()

    def _scores_s(self, attention: AttentionSpec, window: int) -> tuple[float, float]:
        """Return the time of the attention of all heads, and how many times as long its backward pass takes."""
        constants, parallel = self.constants, self.parallel
        sequence = self.model.sequence_length
        heads = parallel.micro_batch * attention.num_heads / parallel.tensor / parallel.context
        sustained = self.tables.sustained_rate("matmul_bf16") * constants.slowest_gpu_rate
        if attention.kind == "latent":
            seconds = self.tables.time_s("attention_latent", heads, sequence)
            return seconds / sustained, constants.latent_attention_backward
        width = 64 if attention.head_dim <= 64 and "attention_64" in self.tables.grids else 128
        kernel = f"attention_{width}"
        seconds = self.tables.time_s(kernel, heads, sequence) * attention.head_dim / width
        if window and window < sequence:
            # Two windows of keys for each window of queries, half of the pairs outside the band masked.
            banded_s = (
                2 * self.tables.time_s(kernel, heads * sequence / window, max(window, 512)) * window / max(window, 512)
            )
            seconds = min(seconds, banded_s)
        return seconds / sustained, constants.grouped_attention_backward

    def _state_space(self, space: StateSpaceSpec) -> list[Item]:
        tensor, tokens, graphed = self.parallel.tensor, self.inputs.tokens, self.graphed_attention
        in_chunk = space.num_groups * 2 * TABLE_SCAN_CHUNK * space.state_dim
        per_head = 2 * TABLE_SCAN_CHUNK * space.head_dim + 4 * space.state_dim * space.head_dim
        flop = tokens * (in_chunk + space.num_heads * per_head) / tensor
        scan_s = flop / (self.constants.scan_peak_share * self.inputs.gpu.peak_flop_per_s)
        # Convolution, gate, norm and the scan's own operands: twelve passes of the inner width.
        scan_s += self.inputs.copy_s(12 * 2 * space.inner_dim / tensor * tokens)
        return [
            self._norm(graphed),
            self._linear(space.projected_dim / tensor, self.model.d_model, tokens, graphed),
            Item(
                self._launches("state_space", scan_s, 8, graphed),
                self._launches("state_space", 2.5 * scan_s, 16, graphed),
            ),
            self._linear(self.model.d_model, space.inner_dim / tensor, tokens, graphed),
            self._residual(graphed),
            *self._tensor_exchange(),
        ]

    def _mlp(self, width: float, graphed: bool) -> list[Item]:
        """Build a dense feed-forward block: up (and gate) in one projection, activation, down."""
        tokens, d_model, matrices = self.inputs.tokens, self.model.d_model, self.model.matrices_per_expert
        width = width / self.parallel.tensor
        return [
            self._linear((matrices - 1) * width, d_model, tokens, graphed),
            self._copy(2 * matrices * width, (2 * matrices + 4) * width, 1, 1, graphed, tokens),
            self._linear(d_model, width, tokens, graphed),
        ]

    def _head(self) -> list[Item]:
        model, tokens, graphed = self.model, self.inputs.tokens, self.graphed
        columns = model.vocab_size / self.parallel.tensor
        return [
            self._norm(graphed),
            self._linear(columns, model.d_model, tokens, graphed, "matmul_bf16"),
            self._copy(6 * columns, 4 * columns, 3, 2, graphed, tokens),
        ]

    def _imbalance(self) -> float:
        if self.parallel.routing == "learned":
            return self.constants.learned_imbalance
        return chance_imbalance(self.inputs.own_tokens * self.model.top_k, self.parallel.expert)

    def _moe(self) -> list[Item]:
        model, constants, inputs = self.model, self.constants, self.inputs
        tokens, width = inputs.own_tokens, model.expert_dim
        gate_s = 2 * tokens * model.num_experts * model.d_model
        gate_s /= constants.gate_peak_share * inputs.gpu.peak_flop_per_s
        small = [self.inputs.copy_s((6 * model.d_model + each * model.num_experts) * tokens) for each in (48, 24)]
        gate = Item(
            (
                *self._launches("router", gate_s, 1, self.graphed_gate),
                *self._launches("router", small[0], ROUTER_KERNELS, self.graphed_gate),
            ),
            (
                *self._launches("router", small[1], round(0.7 * ROUTER_KERNELS), self.graphed_gate),
                *self._launches("router", 2 * gate_s, 2, self.graphed_gate),
            ),
        )
        # Counts of tokens reach the host before it can launch what depends on them, unless one graph holds all.
        counts = Item((Operation("router", 0.0, 2, 2 * constants.host_launch_s, False, waits=not self.graphed),), ())
        exchange, permute = self._exchange(), self._permute()
        narrow = [] if model.d_expert is None else [self._linear(width, model.d_model, tokens, self.graphed)]
        widen = [] if model.d_expert is None else [self._linear(model.d_model, width, tokens, self.graphed)]
        shared = self._mlp(model.shared_dim, self.graphed) if model.shared_dim else []
        norm = self._norm(self.graphed_gate)
        return [
            norm, gate, *narrow, *([] if self.graphed else [counts]), permute, exchange, *self._experts(), exchange,
            permute, *widen, *shared, self._residual(self.graphed),
        ]  # fmt: skip

    def _experts(self) -> list[Item]:
        """Build the experts of a GPU: one matmul for each expert, all launched by one call."""
        model, parallel = self.model, self.parallel
        local = model.num_experts // parallel.expert
        routed = self.inputs.own_tokens * model.top_k * self._imbalance()
        rows = max(1.0, routed / local)
        inner, width = model.d_ff_expert / parallel.expert_tensor, model.expert_dim
        matrices, kernel = model.matrices_per_expert, self.inputs.matmul_kernel
        host_s = self.constants.host_launch_s
        host_s += local * self.constants.host_native_launch_s * (2 if self.inputs.quantised else 1)
        slow = self.constants.grouped_backward_slowdown

        def grouped(outputs: float, inputs: float) -> Item:
            def operation(seconds: float) -> Operation:
                return Operation("expert_matmul", local * seconds, local, host_s, self.graphed)

            return Item(
                (operation(self._matmul_s(rows, outputs, inputs, kernel)),),
                (
                    operation(slow * self._matmul_s(rows, inputs, outputs, kernel)),
                    operation(slow * self._weight_gradient_s(rows, outputs, inputs, kernel)),
                ),
            )

        return [
            grouped((matrices - 1) * inner, width),
            self._copy(
                2 * matrices * inner, (2 * matrices + 4) * inner, 1, 1, self.graphed, routed, module="expert_activation"
            ),
            grouped(width, inner),
        ]

    def _permute(self) -> Item:
        """Reorder of tokens by expert, before the exchange and after it."""
        top_k, width, tokens = self.model.top_k, self.model.expert_dim, self.inputs.own_tokens
        copies = distinct_ranks(top_k, self.parallel.expert)
        passes = {
            "all_gather": 6 * top_k + 2,
            "all_to_all": 6 * top_k + 2,
            "deepep": 2 * top_k + 2 * copies,
            "hybridep": top_k + copies,
        }[self.parallel.dispatcher]
        kernels = EXCHANGE_KERNELS[self.parallel.dispatcher]
        return self._copy(passes * width, passes * width, kernels, kernels, self.graphed, tokens)

    def _exchange(self) -> Item:
        """One dispatch or combine; its gradient is the other one, of the same size."""
        seconds = exchange_s(self.inputs) * self._imbalance()
        if seconds:
            seconds += self.constants.exchange_latency_s * (1 if self.parallel.expert <= self.inputs.domain else 2)
        operation = self._launches("expert_exchange", seconds, 1, self.graphed)
        return Item(operation, operation)


def exchange_s(inputs: StepInputs) -> float:
    """Return the time to send the tokens of a micro-batch to their experts, without fixed times.

    Notes
    -----
    A plain all-to-all sends a copy for each expert of a token, the others one for each rank; copies that stay on the
    rank are not sent. Across domains one copy goes to each domain of a token, at most ``num_groups_per_token`` of them.
    An all-gather sends every token to every rank. Links inside a domain and NICs work at the same time.
    """
    model, parallel, constants = inputs.model, inputs.parallel, inputs.constants
    ranks, domain = parallel.expert, inputs.domain
    if ranks == 1:
        return 0.0
    token_bytes = 2 * model.expert_dim * inputs.own_tokens
    domains = max(1.0, ranks / domain)
    if parallel.dispatcher == "all_gather":
        return inputs.collective_s("all_gather", token_bytes * ranks, ranks, parallel.tensor)
    if parallel.dispatcher == "all_to_all":
        sent = model.top_k * token_bytes
        within_s = inputs.tables.collective_s("all_to_all", sent, ranks)
        across = sent * (1 - 1 / domains)
        return max(within_s, across / (constants.all_to_all_nic_share * inputs.nic_bytes_per_s))
    kernel = f"exchange_{parallel.dispatcher}"
    if kernel not in inputs.tables.grids:
        kernel = "exchange_deepep"
    within = distinct_ranks(model.top_k, ranks) * (1 - 1 / ranks) * token_bytes
    limit = model.num_groups_per_token if model.num_expert_groups > 1 else domains
    across = min(distinct_ranks(model.top_k, domains), limit) * (1 - 1 / domains) * token_bytes
    across_s = across / (constants.deduplicated_nic_share * inputs.nic_bytes_per_s)
    return max(inputs.tables.time_s(kernel, within), across_s)
