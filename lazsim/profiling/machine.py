"""The machine that is measured: its description, its clocks, and the peak rates of its device."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazsim import __version__
from lazsim.profiling.timing import HostClock, clock_of, measure
from lazsim.pytorch.device import DTYPES, cache_bytes, check_memory, gpu_name, keeps_memory

PEAK_MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
"""Largest size of the square matmul whose rate counts as the device's peak."""

SMALLEST_MATMUL_SIZE = 128

PEAK_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
PEAK_BUDGET_S = 5.0

PEAK_SHARE = 0.05
"""Largest share of the budget for each of the peaks."""


def conditions(device: str) -> dict[str, Any]:
    """Record the conditions of kernel times, as far as they can be read."""
    found: dict[str, Any] = {
        "num_threads": torch.get_num_threads(),
        # Where it is not "highest", float32 is multiplied in fewer bits.
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "clock": type(clock_of(device, torch.get_num_threads())).__name__,
        "lazsim": __version__,
        "cache_bytes": cache_bytes(device),
    }
    if keeps_memory(device):
        # As by `memory_kept`; earlier profiles have not, and took up to twice as long for several experts.
        found["memory"] = "kept"
    return found | machine(device) | clocks(device)


def machine(device: str) -> dict[str, Any]:
    """Record the machine, its software and its load."""
    found: dict[str, Any] = {
        "processor": next(_processors("model name"), platform.processor() or platform.machine()),
        "num_processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "num_gpus": torch.cuda.device_count(),
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }
    return found


def clocks(device: str) -> dict[str, Any]:
    """Read the present clocks, as far as they can be read; the fastest core is the one at work."""
    mhz = [float(text) for text in _processors("cpu MHz")]
    found: dict[str, Any] = {"processor_mhz": max(mhz)} if mhz else {}
    return found | _gpu_clocks() if device == "cuda" else found


def _processors(field: str) -> Iterator[str]:
    """Read a field of every processor, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(field):
                yield line.split(":", 1)[1].strip()


def _gpu_clocks() -> dict[str, Any]:
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        # By name: CUDA_VISIBLE_DEVICES renumbers GPUs for torch, but not for nvidia-smi.
        name = gpu_name(torch.cuda.get_device_properties(0))
        command = ["nvidia-smi", "-i", name, f"--query-gpu={query}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return dict(zip(query.split(","), (part.strip() for part in answer.split(",")), strict=False))
    except (OSError, subprocess.SubprocessError):
        return {}


def measure_peaks(device: str, dtype: str, total_budget_s: float) -> tuple[float, float]:
    """Measure the rates of a large square matmul, operations per second, and of a copy, bytes read and written."""
    budget_s = min(PEAK_BUDGET_S, PEAK_SHARE * total_budget_s)
    num_bytes = PEAK_COPY_BYTES[device]
    # Three matrices, each made in float32 first; or source and target of the copy.
    check_memory("measuring the peaks", max(4 * 4 * PEAK_MATMUL_SIZE[device] ** 2, 2 * num_bytes), device)
    clock = clock_of(device, torch.get_num_threads())
    size = _peak_size(device, dtype, clock, budget_s)
    matmul_s = _matmul_s(size, device, dtype, clock, budget_s)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _sustained_s(lambda: target.copy_(source), clock, budget_s)
    return 2.0 * size**3 / matmul_s, 2.0 * num_bytes / copy_s


def _matmul_s(size: int, device: str, dtype: str, clock: HostClock, budget_s: float) -> float:
    one, other, product = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(3))
    return _sustained_s(lambda: torch.mm(one, other, out=product), clock, budget_s)


def _peak_size(device: str, dtype: str, clock: HostClock, budget_s: float) -> int:
    """Return the size of a matmul that fits into the budget: some processors are slow in half precision."""
    size = SMALLEST_MATMUL_SIZE
    while size < PEAK_MATMUL_SIZE[device]:
        # Twice the size is eight times the work; each measurement runs five times at least.
        if 5 * 8 * _matmul_s(size, device, dtype, clock, 0.0) > budget_s:
            break
        size *= 2
    return size


def _sustained_s(run: Callable[[], Any], clock: HostClock, budget_s: float) -> float:
    """Return the median over the whole budget: at first a device may be faster than it can stay."""
    return float(np.median(measure([lambda _: run()], 1, clock, time.monotonic() + budget_s, target_width=0.0)))
