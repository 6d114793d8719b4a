"""The device at hand: what it is, how much memory is free, and how fast it is at best."""

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lazsim import __version__
from lazsim.errors import LazsimError
from lazsim.profiling.method import Clock, clock_of, measure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PEAK_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows, columns and inner dimension, at most, of the matmul whose rate counts as the device's peak."""

SMALLEST_MATMUL_SIZE = 128

PEAK_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
PEAK_BUDGET_S = 5.0

PEAK_SHARE = 0.05
"""Part of the budget for each of the peaks, at most."""

MEMORY_SHARE = 0.8
"""Part of the free memory that may be used."""

OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "cannot allocate memory",
    "out of memory",
    "status_alloc_failed",
)
"""What torch says when memory does not do, where it has no error of its own: on the host, and outside its allocator."""


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` takes a GPU where there is one.

    Raises
    ------
    LazsimError
        When ``cuda`` is asked for and there is no GPU that torch can use.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        raise LazsimError(f"--device cuda: torch finds no GPU{built}; use --device cpu, or a machine with a GPU")
    return ("cuda" if found else "cpu") if device == "auto" else device


def choose_dtype(dtype: str, device: str) -> str:
    """Return a type by name; ``auto`` is float32 on a CPU, and on a GPU bfloat16, or float16 before Ampere."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def conditions(device: str) -> dict[str, Any]:
    """Record what times of kernels depend on, as far as it can be read."""
    found: dict[str, Any] = {
        "num_threads": torch.get_num_threads(),
        # Where it is not "highest", float32 is multiplied in fewer bits.
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "clock": type(clock_of(device, torch.get_num_threads())).__name__,
        "lazsim": __version__,
        "cache_bytes": cache_bytes(device),
    }
    return found | machine(device) | clocks(device)


def machine(device: str) -> dict[str, Any]:
    """Record what machine this is, what runs on it, and how busy it is."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "num_processors": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    return found | _gpu_conditions() if device == "cuda" else found


def clocks(device: str) -> dict[str, Any]:
    """Read the clocks as they are now, as far as they can be read."""
    found = _processor_clock()
    return found | _gpu_clocks() if device == "cuda" else found


def _processor_clock() -> dict[str, Any]:
    """Return the fastest core's clock, which is that of the one at work."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return {"processor_mhz": max(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz"))}
    except (OSError, ValueError):
        return {}


def _gpu_conditions() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "num_gpus": torch.cuda.device_count(),
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
    }


def _gpu_clocks() -> dict[str, Any]:
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        # By its own name: CUDA_VISIBLE_DEVICES renumbers GPUs for torch, and not for nvidia-smi.
        name = gpu_name(torch.cuda.get_device_properties(0))
        command = ["nvidia-smi", "-i", name, f"--query-gpu={query}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return dict(zip(query.split(","), (part.strip() for part in answer.split(",")), strict=False))
    except (OSError, subprocess.SubprocessError):
        return {"driver_version": "unknown: nvidia-smi gave no answer"}


def gpu_name(properties: Any) -> str:
    """Name a GPU as ``nvidia-smi -i`` takes it: by its identifier where torch tells it, else by its bus.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> gpu_name(SimpleNamespace(uuid="a1b2"))
    'GPU-a1b2'
    >>> gpu_name(SimpleNamespace(pci_domain_id=0, pci_bus_id=27, pci_device_id=0))
    '00000000:1B:00.0'
    """
    if getattr(properties, "uuid", None) is not None:
        return f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    if hasattr(properties, "pci_bus_id"):
        return f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"
    return "0"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cache_bytes(device: str) -> int:
    """Return the size of the largest cache; 32 MiB where a CPU does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=32 * 2**20)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: str) -> int:
    """Return the memory that can be had now: of the GPU, or of the host and the control group we are in."""
    if device == "cuda":
        # What torch holds in reserve counts as taken for the driver, and is there for the next tensor.
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + unused
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text()) - _cached_bytes(group / "memory.stat")
        free = min(free, int((group / "memory.max").read_text()) - used)
    except (OSError, StopIteration, ValueError):
        pass
    return free


def _cached_bytes(statistics: Path) -> int:
    """Return the part of a control group's memory that only caches files, which gives way when it is needed."""
    lines = statistics.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def check_memory(what: str, needed_bytes: float, device: str) -> None:
    """Find out whether memory will do, where there is nothing smaller to measure.

    Raises
    ------
    LazsimError
        When it will not.
    """
    free = free_bytes(device)
    if needed_bytes > MEMORY_SHARE * free:
        raise LazsimError(
            f"too little memory: {what} takes {needed_bytes / 2**30:.3g} GiB, and of the {free / 2**30:.3g} GiB that "
            f"are free {MEMORY_SHARE:.0%} may be used; ask for less, or free some"
        )


def survive_failed_collectives() -> None:
    """Keep a process that loses a peer of its NCCL group: by default, and under torchrun, torch ends it."""
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    # What watches over groups would end the process, too, and make whoever lets go of a group wait.
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "0"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory did not do, on a GPU or on the host.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("size mismatch"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in OUT_OF_MEMORY)


def release_memory(device: str) -> None:
    """Give back what torch holds of a GPU's memory without using it, so that other processes can have it."""
    if device == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_budget_s(budget_s: float) -> float:
    """Return the part of a budget that each of the peaks may take."""
    return min(PEAK_BUDGET_S, PEAK_SHARE * budget_s)


def measure_peaks(device: str, dtype: str, budget_s: float = PEAK_BUDGET_S) -> tuple[float, float]:
    """Measure the rates of a large square matmul, operations per second, and of a copy, bytes read and written.

    Raises
    ------
    LazsimError
        When the memory that is free would not do.
    """
    num_bytes = PEAK_COPY_BYTES[device]
    # Three matrices, each made in float32 first; or source and target of the copy.
    check_memory("measuring the peaks", max(4 * 4 * PEAK_MATMUL_SIZE[device] ** 2, 2 * num_bytes), device)
    clock = clock_of(device, torch.get_num_threads())
    size = _peak_size(device, dtype, clock, budget_s)
    matmul_s = _matmul_s(size, device, dtype, clock, budget_s)
    return 2.0 * size**3 / matmul_s, 2.0 * num_bytes / _copy_s(num_bytes, device, clock, budget_s)


def _matmul_s(size: int, device: str, dtype: str, clock: Clock, budget_s: float) -> float:
    one, other, product = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(3))
    return _sustained_s(lambda: torch.mm(one, other, out=product), clock, budget_s)


def _peak_size(device: str, dtype: str, clock: Clock, budget_s: float) -> int:
    """Return the size of a matmul that fits into the budget: some processors are slow in half precision."""
    size = SMALLEST_MATMUL_SIZE
    while size < PEAK_MATMUL_SIZE[device]:
        # Twice the size is eight times the work; each measurement runs five times at least.
        if 5 * 8 * _matmul_s(size, device, dtype, clock, 0.0) > budget_s:
            break
        size *= 2
    return size


def _copy_s(num_bytes: int, device: str, clock: Clock, budget_s: float) -> float:
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return _sustained_s(lambda: target.copy_(source), clock, budget_s)


def _sustained_s(run: Callable[[], Any], clock: Clock, budget_s: float) -> float:
    """Return the median over the whole budget: in its first moments a device may be faster than it can stay."""

    def stage(_: int) -> None:
        run()

    return measure([stage], 1, clock, budget_s, target_width=0.0).quartiles_s[1]
