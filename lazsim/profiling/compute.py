"""Measure kernels at one size each: memory, buffers, the check against the reference, times and roofline."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lazsim.costmodel.profile import SIZE_UNITS, Header, Point
from lazsim.errors import LazsimError
from lazsim.profiling.kernel import Kernel, Random
from lazsim.profiling.kernels import kernels_of
from lazsim.profiling.points import point_of
from lazsim.profiling.task import Task
from lazsim.profiling.timing import clock_of, measure
from lazsim.pytorch.device import DTYPES, synchronize
from lazsim.pytorch.memory import MEMORY_SHARE, cache_bytes, free_bytes

CACHE_MULTIPLE = 2
"""Buffers together are this many times the largest cache, so that rotating through them leaves nothing in it."""

MAX_BUFFERS = 256
NUM_DRAWN = 4
"""Buffers with random numbers of their own; others repeat them, since to draw takes ten times as long as to copy."""

DRAW_S = {"cpu": 2e-8, "cuda": 1e-10}
"""Seconds to draw a random number, roughly; torch does so in one thread."""

REFERENCE_SIZES = {"tokens": 96, "assignments": 96, "params": 4096}
"""Size, at least, at which a kernel is compared with its reference."""

REFERENCE_INNER = 4
"""What a reference by plain means keeps, over what its kernel does: that of attention has a score for each pair."""

MAX_REFERENCE_ERROR = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
"""Relative error of outputs and gradients, some ten units in the last place of each type after sums of thousands."""


@dataclass(frozen=True)
class Device:
    """Where and in which type is measured, and its peaks."""

    name: str
    dtype: str
    matmul_flop_per_s: float
    copy_bytes_per_s: float

    def random(self, seed: int) -> Random:
        """Return a source of inputs."""
        return Random(self.name, DTYPES[self.dtype], torch.Generator(self.name).manual_seed(seed))


@dataclass(frozen=True)
class Need:
    """Memory that a kernel takes at one size."""

    buffer_bytes: float
    output_bytes: float
    inner_bytes: float
    gradient_bytes: float
    num_buffers: int

    @property
    def total_bytes(self) -> float:
        """All buffers, one repetition and its gradients."""
        return self.num_buffers * self.buffer_bytes + self.gradient_bytes + 2 * self.output_bytes + self.inner_bytes


def need_of(kernel: Kernel, size: int, device: Device) -> Need:
    """Tell what memory a kernel takes; nothing is allocated."""
    tensors = kernel.inputs(size, Random("meta", DTYPES[device.dtype]))
    buffer_bytes = float(sum(tensor.nbytes for tensor in tensors))
    output_bytes = float(tensors[0].nbytes)
    wanted = math.ceil(CACHE_MULTIPLE * cache_bytes(device.name) / max(buffer_bytes, 1.0))
    inner_bytes = kernel.inner_elements(size) * DTYPES[device.dtype].itemsize
    gradient_bytes = buffer_bytes if kernel.has_backward else 0.0
    return Need(buffer_bytes, output_bytes, inner_bytes, gradient_bytes, min(max(wanted, 1), MAX_BUFFERS))


def too_large(kernel: Kernel, size: int, device: Device, *, is_checked: bool = True) -> bool:
    """Tell whether the memory that is free now would not do, for the check against the reference either."""
    needed = need_of(kernel, size, device).total_bytes
    if not is_checked:
        needed = max(needed, check_bytes(kernel, device))
    return needed > MEMORY_SHARE * free_bytes(device.name)


def check_bytes(kernel: Kernel, device: Device) -> float:
    """Tell what memory it takes to compare a kernel with its reference; nothing is allocated."""
    kernel, size = _checked(kernel)
    tensors = kernel.inputs(size, Random("meta", DTYPES[device.dtype]))
    own = sum(tensor.nbytes for tensor in tensors)
    exact = sum(tensor.numel() * 8 for tensor in tensors)
    inner = kernel.inner_elements(size) * (REFERENCE_INNER * 8 + DTYPES[device.dtype].itemsize)
    # The tensors, a copy and gradients of both, and the difference of the two in float64.
    return float(3 * own + 4 * exact + inner)


def _checked(kernel: Kernel) -> tuple[Kernel, int]:
    """Return what is compared with the reference in place of a kernel, and at which size."""
    checked = kernel.checked_as or kernel
    least = REFERENCE_SIZES[SIZE_UNITS[kernel.name]]
    return checked, next((size for size in checked.sizes if size >= least), checked.sizes[-1])


def check_kernel(kernel: Kernel, device: Device) -> float:
    """Compare a kernel with its float64 reference on random inputs, gradients included.

    Returns
    -------
    float
        The largest relative error, in the Euclidean norm, of the output and each gradient.

    Raises
    ------
    LazsimError
        When they differ by more than the type explains: the kernel or the device is wrong.
    """
    kernel, size = _checked(kernel)
    tensors = kernel.inputs(size, device.random(1))
    exact = [_exact(tensor) for tensor in tensors]
    expected = _results(kernel, kernel.reference, exact, device)
    found = _results(kernel, kernel.forward, [_leaf(tensor.clone()) for tensor in tensors], device)
    error = max(_relative_error(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    if not error <= MAX_REFERENCE_ERROR[device.dtype]:
        raise LazsimError(
            f"{kernel.name} in {device.dtype} on {device.name} is wrong by {error:.2g} where "
            f"{MAX_REFERENCE_ERROR[device.dtype]:g} is allowed: its times mean nothing; check torch and the device"
        )
    return error


def _exact(tensor: Any) -> Any:
    return _leaf(tensor.double()) if tensor.is_floating_point() else tensor


def _leaf(tensor: Any) -> Any:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


def _results(kernel: Kernel, run: Callable[..., Any], tensors: Sequence[Any], device: Device) -> list[Any]:
    if not kernel.has_backward:
        with torch.no_grad():
            return [run(*tensors)]
    output = run(*tensors)
    generator = torch.Generator(device.name).manual_seed(2)
    weights = torch.randn(output.shape, device=device.name, generator=generator, dtype=torch.float64)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    return [output, *torch.autograd.grad(output, leaves, weights.to(output.dtype))]


def _relative_error(ours: Any, theirs: Any) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-300))


def measure_kernel(kernel: Kernel, size: int, device: Device, budget_s: float, reference_error: float) -> Point:
    """Measure a kernel at one size.

    Raises
    ------
    torch.OutOfMemoryError
        When the device's memory does not do after all.
    """
    begin_s = time.perf_counter()
    need = need_of(kernel, size, device)
    buffers = _buffers(kernel, size, device, need.num_buffers)
    stages = _stages(kernel, buffers)
    synchronize(device.name)
    left_s = budget_s - (time.perf_counter() - begin_s)
    timing = measure(stages, len(buffers), clock_of(device.name, torch.get_num_threads()), left_s)
    moved_bytes = (
        kernel.traffic_bytes(size, DTYPES[device.dtype].itemsize)
        if kernel.traffic_bytes is not None
        else (3 if kernel.has_backward else 1) * need.buffer_bytes
        + (2 * need.output_bytes if kernel.has_backward else 0)
    )
    return point_of(
        kernel.name,
        size,
        timing,
        device,
        stages_s=timing.stage_medians_s,
        flop=kernel.flop(size),
        moved_bytes=moved_bytes,
        num_buffers=need.num_buffers,
        buffer_bytes=need.buffer_bytes,
        reference_error=reference_error,
    )


def _buffers(kernel: Kernel, size: int, device: Device, num_buffers: int) -> list[tuple[Any, ...]]:
    random = device.random(size)
    drawn = [kernel.inputs(size, random) for _ in range(min(num_buffers, NUM_DRAWN))]
    copies = [tuple(tensor.clone() for tensor in drawn[turn % NUM_DRAWN]) for turn in range(NUM_DRAWN, num_buffers)]
    return [*drawn, *copies]


def ideal_s(kernel: Kernel, size: int, device: Device) -> float:
    """Tell what a kernel takes at the device's peaks, input read once."""
    return (
        kernel.flop(size) / device.matmul_flop_per_s
        + need_of(kernel, size, device).buffer_bytes / device.copy_bytes_per_s
    )


def inputs_s(kernel: Kernel, size: int, device: Device) -> float:
    """Tell what it takes to make the buffers of a kernel, roughly."""
    need = need_of(kernel, size, device)
    num_drawn = min(need.num_buffers, NUM_DRAWN) * need.buffer_bytes / DTYPES[device.dtype].itemsize
    return num_drawn * DRAW_S[device.name] + need.num_buffers * need.buffer_bytes / device.copy_bytes_per_s


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


def compute_tasks(header: Header) -> tuple[list[Task], dict[str, str]]:
    """List the kernels of a profile's model at all sizes, cheapest first; each is first checked against its reference.

    Returns
    -------
    tuple
        What is to be measured, and kernels that the model has and that are not known, with why.
    """
    device = Device(header.device, header.dtype, header.matmul_flop_per_s, header.copy_bytes_per_s)
    kernels, unknown = kernels_of(header.model, use_grouped_mm=header.conditions["grouped"] == "grouped_mm")
    checked: dict[str, float] = {}
    tasks = [_compute_task(kernel, size, device, checked) for kernel in kernels for size in kernel.sizes]
    return sorted(tasks, key=lambda task: task.least_s(())), unknown


def _compute_task(kernel: Kernel, size: int, device: Device, checked: dict[str, float]) -> Task:
    fastest_s = ideal_s(kernel, size, device)

    def predicted_s(points: Sequence[Point]) -> float:
        smaller = [point for point in points if point.size < size]
        # Times grow no faster than sizes, so that the least of these leaves out what a disturbance added.
        if smaller:
            return max(fastest_s, min(point.time_s * size / point.size for point in smaller))
        return fastest_s

    def prepare() -> None:
        if kernel.name not in checked:
            checked[kernel.name] = check_kernel(kernel, device)

    def measure(budget_s: float) -> Point:
        return measure_kernel(kernel, size, device, budget_s, checked[kernel.name])

    def obstacle() -> str | None:
        return "memory" if too_large(kernel, size, device, is_checked=kernel.name in checked) else None

    fixed_s = inputs_s(kernel, size, device)
    return Task(kernel.name, size, 1, predicted_s, measure, obstacle, fixed_s, prepare=prepare)
