"""The device at hand: what it is, how much memory is free, and how fast it is at best."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from lazsim import __version__
from lazsim.errors import LazsimError
from lazsim.profiling.method import clock_of, measure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PEAK_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows, columns and inner dimension of the matmul whose rate counts as the device's peak."""

PEAK_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
PEAK_BUDGET_S = 5.0


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
    """Record what times depend on, as far as it can be read."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "num_processors": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "clock": type(clock_of(device, torch.get_num_threads())).__name__,
        "os": platform.platform(),
        "python": platform.python_version(),
        "lazsim": __version__,
        "load_average": round(os.getloadavg()[0], 2),
        "cache_bytes": cache_bytes(device),
        "memory_bytes": _memory_bytes(),
    }
    if device == "cuda":
        found |= _gpu_conditions()
    return found


def _gpu_conditions() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "gpu": properties.name,
        "num_gpus": torch.cuda.device_count(),
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
    }
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        found |= dict(zip(query.split(","), (part.strip() for part in answer.split(",")), strict=False))
    except (OSError, subprocess.SubprocessError):
        found["driver_version"] = "unknown: nvidia-smi gave no answer"
    return found


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
        return int(torch.cuda.mem_get_info()[0])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        pass
    return free


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_peaks(device: str, dtype: str, budget_s: float = PEAK_BUDGET_S) -> tuple[float, float]:
    """Measure the rates of a large square matmul, operations per second, and of a copy, bytes read and written."""
    size, num_bytes = PEAK_MATMUL_SIZE[device], PEAK_COPY_BYTES[device]
    one, other, product = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(3))
    clock = clock_of(device, torch.get_num_threads())
    matmul = measure([lambda _: _do(torch.mm(one, other, out=product))], 1, clock, budget_s)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    copy = measure([lambda _: _do(target.copy_(source))], 1, clock, budget_s)
    return 2.0 * size**3 / matmul.quartiles_s[1], 2.0 * num_bytes / copy.quartiles_s[1]


def _do(_: Any) -> None:
    return None
