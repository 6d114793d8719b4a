"""Prices of the kernels that blocks are built from, under the settings of a layout.

Bytes moved by element-wise kernels are counted per token: each operand that is read or written once, 2 bytes a number.
"""

import math
from collections.abc import Sequence

from lazsim.stepmodel.inputs import QUANTISE_BYTES, StepInputs
from lazsim.stepmodel.operations import Item, Operation

SECOND_COPY_BYTES = {"fp8": 1.03, "fp8_block": 1.03, "mxfp8": 1.03, "nvfp4": 4.1}
"""Bytes for each number of an operand's copy along the other axis, beyond those in the tables (read 2, write 1).

The same kernel writes a number of 8 bits and a scale for each 32 or more of them (OCP MX specification: 1 byte for 32).
In four bits the largest value takes a read of its own, and so does the copy, which is rotated first: 2 + 2.56 + 2.56
bytes in all (arXiv 2509.25149)."""


QUANTISE_KERNELS = {"bf16": 0, "fp8": 3, "fp8_block": 1, "mxfp8": 1, "nvfp4": 3}
"""Small kernels that quantise an operand: largest value, scale and cast of a tensor; a cast by blocks; for four bits
the largest value and a rotation as well (NVIDIA/TransformerEngine)."""


SCALE_KERNELS = {"mxfp8": 2, "nvfp4": 2}
"""Kernels that put the scales of both operands in order before a matmul, or before all matmuls of a group (``gemm.cpp``
of NVIDIA/TransformerEngine 2.7 and later)."""


TILE = 128
"""Rows and columns of a result that a matmul computes together (NVIDIA, Matrix Multiplication Background User's Guide);
sizes of the tables are whole tiles."""


def _in_tiles(size: float) -> float:
    return size if size <= TILE else math.ceil(size / TILE) * TILE


class Kernels:
    """Builds items: what a kernel takes on the GPU and on the host, forward and backward."""

    def __init__(self, inputs: StepInputs) -> None:
        self.inputs = inputs
        host, clock_hz = inputs.cluster.host, inputs.constants.host_launch_clock_hz
        constants, slower = inputs.constants, clock_hz / host.launch_clock_hz
        self.launch_s = slower * constants.host_launch_s
        expert_s = constants.host_quantised_expert_s if inputs.quantised else constants.host_expert_s
        self.expert_s = slower * expert_s[0], slower * expert_s[1]
        self.native_launch_s = clock_hz / host.clock_hz * constants.host_native_launch_s
        self.quantise_kernels = QUANTISE_KERNELS[inputs.parallel.precision]
        self.scale_kernels = SCALE_KERNELS.get(inputs.parallel.precision, 0)
        graphs = inputs.parallel.graphs
        self.graphed = graphs == "full"
        self.graphed_gate = graphs != "none"
        self.graphed_attention = graphs == "full" or (graphs == "partial" and inputs.parallel.graph_attention)

    def launch(self, part: str, gpu_s: float, kernels: int, calls: int = 0) -> Operation:
        """Build one operation of kernels that the host launches one by one, or that few calls of modules launch.

        The kernels of a call but its first are plain launches.
        """
        calls = calls or kernels
        host_s = calls * self.launch_s + (kernels - calls) * self.native_launch_s
        return Operation(part, gpu_s, kernels, host_s)

    def matmul_s(self, rows: float, columns: float, inner: float, kernel: str) -> float:
        """Return the time of a matmul at the clock that long ones sustain, on the slowest GPU.

        In 8 bits it begins with the quantisation of its first operand, for which the clock is no matter.
        """
        return math.fsum(self._matmul_parts_s(rows, columns, inner, kernel))

    def _matmul_parts_s(self, rows: float, columns: float, inner: float, kernel: str) -> tuple[float, float]:
        """Return the times to quantise, which the tables hold, at most 0.7 of a matmul, and to multiply.

        Fewer bits multiply no slower than 16: what is longer is small kernels, such as those that find a largest value.
        """
        constants, tables, quantise_s, speedup = self.inputs.constants, self.inputs.tables, 0.0, 1.0
        sizes = _in_tiles(rows), _in_tiles(columns), inner
        whole_s = tables.time_s(kernel, *sizes)
        if kernel != "matmul_bf16":
            longer_s = whole_s - tables.time_s("matmul_bf16", *sizes)
            quantise_s = min(max(self.inputs.copy_s(QUANTISE_BYTES * rows * inner), longer_s), 0.7 * whole_s)
            speedup = constants.four_bit_speedup if self.inputs.parallel.precision == "nvfp4" else 1.0
        sustained = tables.sustained_rate(kernel) * constants.slowest_gpu_rate
        return quantise_s, (whole_s - quantise_s) / sustained / speedup

    def weight_gradient_s(self, rows: float, columns: float, inner: float, kernel: str) -> float:
        """Return the time of a weight's gradient, whose operands are quantised before.

        It is added to a buffer: beyond the write of 16 bits that the tables hold, the buffer is read and written, which
        the matmul does not hide (deepseek-ai/DeepGEMM#107 and #125: such gradients wait for the memory).
        """
        _, seconds = self._matmul_parts_s(columns, inner, rows, kernel)
        if kernel == "matmul_fp8_block":
            seconds *= self.inputs.constants.block_weight_gradient_slowdown
        added_bytes = (2 * self.inputs.parallel.gradient_bytes - 2) * columns * inner
        return seconds + added_bytes / self.inputs.gpu.moved_bytes_per_s

    def second_copy(self, width: float, tokens: float, kernel: str) -> tuple[Operation, ...]:
        """Write an 8-bit operand once more, with scales along the other axis, for the gradient of the weight.

        The tables hold the first copy. One kernel makes both, so this one takes no launch.
        """
        if kernel == "matmul_bf16":
            return ()
        num_bytes = SECOND_COPY_BYTES[self.inputs.parallel.precision]
        return (Operation("memory", self.inputs.copy_s(num_bytes * width * tokens), 0, 0.0),)

    def linear(self, outputs: float, inputs: float, tokens: float, kernel: str = "", module: str = "") -> Item:
        """Build a projection: forward, gradient of its input, gradient of its weight; 8-bit operands are quantised."""
        kernel = kernel or self.inputs.matmul_kernel
        wide = kernel == "matmul_bf16"
        quantise, multiply = 0 if wide else self.quantise_kernels, 1 if wide else 1 + self.scale_kernels

        def matmul(seconds: float, quantise: int = quantise) -> Operation:
            # One call quantises, whatever its kernels, and one multiplies.
            return self.launch("dense_matmul", seconds, quantise + multiply, 1 + (quantise > 0))

        forward = (matmul(self.matmul_s(tokens, outputs, inputs, kernel)), *self.second_copy(inputs, tokens, kernel))
        backward = (
            *self.second_copy(outputs, tokens, kernel),
            matmul(self.matmul_s(tokens, inputs, outputs, kernel)),
            matmul(self.weight_gradient_s(tokens, outputs, inputs, kernel), 0),
        )
        return Item(forward, backward, module)

    def copy(
        self, forward_bytes: float, backward_bytes: float, kernels: int, backward_kernels: int, tokens: float = 0.0,
        module: str = "", calls: int = 0,
    ) -> Item:  # fmt: skip
        """Build element-wise kernels by the bytes they move for each token."""
        tokens = tokens or self.inputs.own_tokens
        return Item(
            (self.launch("memory", self.inputs.copy_s(forward_bytes * tokens), kernels, calls),),
            (self.launch("memory", self.inputs.copy_s(backward_bytes * tokens), backward_kernels, calls),),
            module,
        )

    def norm(self, width: float = 0.0, tokens: float = 0.0) -> Item:
        """Build an RMSNorm."""
        width = width or self.inputs.model.d_model
        slow = self.inputs.constants.norm_backward_slowdown
        return self.copy(4 * width, 8 * slow * width, 1, 2, tokens, module="norm")

    def residual(self) -> Item:
        """Build the sum with the residual stream; backward, the gradients of both branches are summed."""
        return self.copy(6 * self.inputs.model.d_model, 6 * self.inputs.model.d_model, 1, 1)

    def mlp(self, width: float) -> list[Item]:
        """Build a dense feed-forward block: up (and gate) in one projection, activation, down."""
        tokens, d_model = self.inputs.tokens, self.inputs.model.d_model
        matrices, width = self.inputs.model.matrices_per_expert, width / self.inputs.parallel.tensor
        up = self.linear((matrices - 1) * width, d_model, tokens)
        down = self.linear(d_model, width, tokens)
        activation = self.copy(2 * matrices * width, (2 * matrices + 4) * width, 1, 1, tokens)
        return [up, activation, down, *self.tensor_exchange(d_model, d_model, (up, down))]

    def exchange(self, part: str, exposed_s: float, hidden_s: float, kernels: int) -> Operation:
        """Build an exchange of which a part runs behind the kernels beside it."""
        return Operation(part, exposed_s, kernels, kernels * self.launch_s, hidden_s=hidden_s)

    def tensor_exchange(self, gathered: float, scattered: float, matmuls: Sequence[Item] = ()) -> list[Item]:
        """Gather numbers of each token of the tensor-parallel ranks before a block, scatter sums of others after it.

        Backward, gradients go the other way, and what was gathered is gathered again for the gradient of a weight.
        Overlapped, each exchange goes in pieces of one rank behind pieces of the matmul that needs or makes them: the
        first piece stays, and what takes longer than the matmul. Without matmuls, nothing hides it.
        """
        parallel, tokens = self.inputs.parallel, self.inputs.tokens
        ranks = parallel.tensor
        if ranks == 1:
            return []
        overlaps = parallel.overlap_tensor and matmuls
        behind_s = math.fsum(matmul.forward[0].gpu_s for matmul in matmuls) / len(matmuls) if overlaps else 0.0

        def exchanges(*some: tuple[str, float]) -> tuple[Operation, ...]:
            times_s = [
                self.inputs.collective_s(kernel, 2 * width * tokens, ranks, 1) for kernel, width in some if width
            ]
            hidden_s = math.fsum(min((1 - 1 / ranks) * each_s, behind_s) for each_s in times_s)
            return (self.exchange("tensor_exchange", math.fsum(times_s) - hidden_s, hidden_s, len(times_s)),)

        gather, scatter = "all_gather", "reduce_scatter"
        forward = (gather, gathered), (scatter, scattered)
        return [Item(exchanges(*forward), exchanges((gather, scattered), (gather, gathered), (scatter, gathered)))]
