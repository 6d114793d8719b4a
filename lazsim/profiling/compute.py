"""Measure a kernel at one size: memory, buffers, check against the reference, times and roofline."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from lazsim.costmodel.profile import SIZE_UNITS, Header, ProfilePoint
from lazsim.errors import LazsimError
from lazsim.processes import MEMORY_SHARE
from lazsim.profiling.kernels import Kernel, Random, kernels_of
from lazsim.profiling.scheduler import Measurement
from lazsim.profiling.timing import clock_of, make_point, measure
from lazsim.pytorch import fused
from lazsim.pytorch.device import DTYPES, cache_bytes, free_bytes, keeps_memory, memory_kept, synchronize
from lazsim.pytorch.operators import why_looped
from lazsim.specs import ModelSpec

CACHE_MULTIPLE = 2
"""Size of all buffers over that of the largest cache, so that rotating through them leaves nothing in it."""

MAX_BUFFERS = 256
NUM_DRAWN = 4
"""Buffers with new random numbers; the others repeat them, since drawing takes ten times as long as copying."""

DRAW_S = {"cpu": 2e-8, "cuda": 1e-10}
"""Rough seconds to draw a random number; torch does so in one thread."""

NEAR = 4
"""Largest ratio of sizes at which one predicts the time of another: in small ones latency counts."""

REFERENCE_SIZES = {"tokens": 96, "assignments": 96, "params": 4096}
"""Least size at which a kernel is compared with its reference."""

REFERENCE_INNER = 4
"""Inner elements of a reference over those of its kernel: that of attention keeps a score for each pair."""

KEPT_PARTS = 3
"""Memory that a repetition takes on a host that keeps what is freed, over that of its tensors, since gaps between these
stay empty. *Measured* on a CPU in float32: up to 2.9 in reorders of mixtral-8x7b and deepseek-v3, and up to 1.2 in
products of matrices."""

MAX_REFERENCE_ERROR = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
"""Relative error of outputs and gradients, some ten units in the last place of each type after sums of thousands."""


@dataclass(frozen=True)
class Target:
    """Device and number type to measure, and the peaks of the device."""

    device: str
    dtype: str
    matmul_flop_per_s: float
    copy_bytes_per_s: float

    @property
    def element_bytes(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize

    def random(self, seed: int) -> Random:
        """Return a source of inputs."""
        return Random(self.device, DTYPES[self.dtype], torch.Generator(self.device).manual_seed(seed))


@dataclass(frozen=True)
class KernelMemory:
    """Memory that a kernel takes at one size; the total is all buffers, one repetition and its gradients."""

    num_buffers: int
    buffer_bytes: float
    output_bytes: float
    total_bytes: float


def memory_of(kernel: Kernel, size: int, target: Target) -> KernelMemory:
    """Compute the memory that a kernel takes; nothing is allocated."""
    tensors = kernel.inputs(size, Random("meta", DTYPES[target.dtype]))
    buffer_bytes = float(sum(tensor.nbytes for tensor in tensors))
    output_bytes = float(tensors[0].nbytes)
    wanted = math.ceil(CACHE_MULTIPLE * cache_bytes(target.device) / max(buffer_bytes, 1.0))
    num_buffers = min(max(wanted, 1), MAX_BUFFERS)
    num_copies = num_buffers + kernel.has_backward
    inner_bytes = kernel.inner_elements(size) * target.element_bytes
    repetition_bytes = (2 * output_bytes + inner_bytes) * (KEPT_PARTS if keeps_memory(target.device) else 1)
    return KernelMemory(num_buffers, buffer_bytes, output_bytes, num_copies * buffer_bytes + repetition_bytes)


def too_large(kernel: Kernel, size: int, target: Target, check: Any = None) -> bool:
    """Tell whether the kernel, or its `check` if that is still to come, takes more memory than is free."""
    is_checked = check is None or check.cache_info().currsize > 0
    needed = max(memory_of(kernel, size, target).total_bytes, 0.0 if is_checked else check_bytes(kernel, target))
    return needed > MEMORY_SHARE * free_bytes(target.device)


def check_bytes(kernel: Kernel, target: Target) -> float:
    """Compute the memory that it takes to compare a kernel with its reference; nothing is allocated."""
    kernel, size = _checked(kernel)
    tensors = kernel.inputs(size, Random("meta", DTYPES[target.dtype]))
    own = sum(tensor.nbytes for tensor in tensors)
    exact = sum(tensor.numel() * 8 for tensor in tensors)
    inner = kernel.inner_elements(size) * (REFERENCE_INNER * 8 + target.element_bytes)
    # The tensors, a copy and gradients of both, and the difference of the two in float64.
    return float(3 * own + 4 * exact + inner)


def _checked(kernel: Kernel) -> tuple[Kernel, int]:
    """Return the kernel and size that are compared with the reference in place of a kernel."""
    checked = kernel.checked_as or kernel
    least = REFERENCE_SIZES[SIZE_UNITS[kernel.name]]
    return checked, next((size for size in checked.sizes if size >= least), checked.sizes[-1])


def check_kernel(kernel: Kernel, target: Target) -> float:
    """Compare a kernel with its float64 reference on random inputs, gradients included.

    Return the largest relative error, in the Euclidean norm, of the output and each gradient; refuse to go on when it
    is more than the type explains.
    """
    kernel, size = _checked(kernel)
    tensors = kernel.inputs(size, target.random(1))
    exact = [_leaf(tensor.double()) if tensor.is_floating_point() else tensor for tensor in tensors]
    expected = _results(kernel, kernel.reference, exact, target)
    found = _results(kernel, kernel.forward, [_leaf(tensor.clone()) for tensor in tensors], target)
    pairs = zip(*((one.detach().double() for one in some) for some in (found, expected)), strict=True)
    error = max(float((ours - theirs).norm() / theirs.norm().clamp(min=1e-300)) for ours, theirs in pairs)
    if not error <= MAX_REFERENCE_ERROR[target.dtype]:
        raise LazsimError(
            f"{kernel.name} in {target.dtype} on {target.device} is wrong by {error:.2g} where "
            f"{MAX_REFERENCE_ERROR[target.dtype]:g} is allowed: its times mean nothing; check torch and the device"
        )
    return error


def _leaf(tensor: Any) -> Any:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _results(kernel: Kernel, run: Callable[..., Any], tensors: Sequence[Any], target: Target) -> list[Any]:
    if not kernel.has_backward:
        with torch.no_grad():
            return [run(*tensors)]
    output = run(*tensors)
    generator = torch.Generator(target.device).manual_seed(2)
    weights = torch.randn(output.shape, device=target.device, generator=generator, dtype=torch.float64)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    return [output, *torch.autograd.grad(output, leaves, weights.to(output.dtype))]


def measure_kernel(
    kernel: Kernel, size: int, target: Target, end_s: float, reference_error: float = 0.0
) -> ProfilePoint:
    """Measure a kernel at one size until a time on the monotonic clock, or as soon as its median is known."""
    memory = memory_of(kernel, size, target)
    random = target.random(size)
    drawn = [kernel.inputs(size, random) for _ in range(min(memory.num_buffers, NUM_DRAWN))]
    copied = (drawn[turn % NUM_DRAWN] for turn in range(NUM_DRAWN, memory.num_buffers))
    buffers = [*drawn, *(tuple(tensor.clone() for tensor in tensors) for tensors in copied)]
    stages = _stages(kernel, buffers)
    synchronize(target.device)
    with memory_kept(target.device):
        samples_s = measure(stages, len(buffers), clock_of(target.device, torch.get_num_threads()), end_s)
    if kernel.traffic_bytes is not None:
        moved_bytes = kernel.traffic_bytes(size, target.element_bytes)
    elif kernel.has_backward:
        moved_bytes = 3 * memory.buffer_bytes + 2 * memory.output_bytes
    else:
        moved_bytes = memory.buffer_bytes
    return make_point(
        kernel.name,
        size,
        samples_s,
        target,
        stages_s=np.median(samples_s, axis=0).tolist(),
        flop=kernel.flop(size),
        moved_bytes=moved_bytes,
        num_buffers=memory.num_buffers,
        buffers_bytes=memory.num_buffers * memory.buffer_bytes,
        reference_error=reference_error,
    )


def _stages(kernel: Kernel, buffers: Sequence[tuple[Any, ...]]) -> list[Callable[[int], None]]:
    held: dict[str, Any] = {}
    if not kernel.has_backward:

        def run(index: int) -> None:
            with torch.no_grad():
                kernel.forward(*buffers[index])

        return [run]
    leaves = [tuple(_leaf(tensor) for tensor in tensors) for tensors in buffers]

    def forward(index: int) -> None:
        held["output"] = kernel.forward(*leaves[index])

    def backward(index: int) -> None:
        output = held.pop("output")
        if "gradient" not in held:
            held["gradient"] = torch.randn_like(output)
        torch.autograd.grad(output, [tensor for tensor in leaves[index] if tensor.requires_grad], held["gradient"])

    return [forward, backward]


def kernel_measurement(
    kernel: Kernel, size: int, target: Target, check: Callable[[], float] | None = None, **fields: Any
) -> Measurement:
    """Build the measurement of a kernel at one size, and its `check` if it is to be checked first.

    The `fields` are further ones of the measurement.
    """
    memory = memory_of(kernel, size, target)
    drawn_elements = min(memory.num_buffers, NUM_DRAWN) * memory.buffer_bytes / target.element_bytes
    ideal_s = kernel.flop(size) / target.matmul_flop_per_s + memory.buffer_bytes / target.copy_bytes_per_s

    def predict_s(points: Sequence[ProfilePoint]) -> float:
        near = [point.time_s * size / point.size for point in points if size / NEAR <= point.size <= size]
        # Times grow no faster than sizes, so that the least of these leaves out what a disturbance added.
        return max(ideal_s, min(near, default=0.0))

    return Measurement(
        kernel.name,
        size,
        1,
        predict_s,
        measure=lambda end_s: measure_kernel(kernel, size, target, end_s, check() if check else 0.0),
        skip_reason=lambda: "memory" if too_large(kernel, size, target, check) else None,
        fixed_s=drawn_elements * DRAW_S[target.device]
        + memory.num_buffers * memory.buffer_bytes / target.copy_bytes_per_s,
        prepare=check or (lambda: None),
        **fields,
    )


def implementations(model: ModelSpec, device: str, dtype: str) -> dict[str, str]:
    """Record by what several experts run and rows are added up, and on a GPU why it is not by the faster way."""
    why = {"grouped": why_looped(model, device, DTYPES[dtype]), "rows": fused.why_not(torch.device(device))}
    by = {"grouped": "loop" if why["grouped"] else "grouped_mm", "rows": fused.rows_by(torch.device(device))}
    return by | {f"{name}_why": reason for name, reason in why.items() if reason and device == "cuda"}


def compute_measurements(header: Header) -> tuple[list[Measurement], dict[str, str]]:
    """List the kernels of a profile's model at all sizes, cheapest first; each is checked once against its reference.

    Return the reason for each kernel of the model that cannot be measured, too.
    """
    target = Target(header.device, header.dtype, header.matmul_flop_per_s, header.copy_bytes_per_s)
    kernels, unknown = kernels_of(header.model, use_grouped_mm=header.conditions["grouped"] == "grouped_mm")
    checks = [cache(partial(check_kernel, kernel, target)) for kernel in kernels]
    measurements = [
        kernel_measurement(kernel, size, target, check)
        for kernel, check in zip(kernels, checks, strict=True)
        for size in kernel.sizes
    ]
    return sorted(measurements, key=lambda one: one.least_s(())), unknown
