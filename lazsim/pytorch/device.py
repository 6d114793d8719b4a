"""The device of a process: chosen by name, named so that no other has the name, waited for, and its memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from lazsim.errors import LazsimError
from lazsim.processes import MEMORY_SHARE, free_memory_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
"""Environment variables of torchrun, Slurm, Open MPI and MPICH that hold a process's number on its machine."""

OUT_OF_MEMORY = (
    "can't allocate memory", "not enough memory", "bad_alloc", "cannot allocate memory", "out of memory",
    "status_alloc_failed",
)  # fmt: skip
"""Texts by which torch reports a lack of memory where it has no error class for it."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's ``mallopt``."""


@dataclass(frozen=True)
class Device:
    """The device that one rank computes on."""

    torch: torch.device
    gpu: str = ""
    """Name of the GPU, unique across machines; empty on a CPU and where NCCL is not built in."""
    may_differ: bool = False
    """Whether other ranks may have another kind of device, so that ranks have to tell each other."""


CPU = Device(torch.device("cpu"))


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` takes a GPU if there is one, and ``cuda`` without one is refused."""
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        raise LazsimError(f"`device` cuda: torch finds no GPU{built}; choose cpu, or use a machine with a GPU")
    return ("cuda" if found else "cpu") if device == "auto" else device


def choose_dtype(dtype: str, device: str) -> str:
    """Return a type by name; ``auto`` is float32 on a CPU, and on a GPU bfloat16, or float16 before Ampere."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def take_device(choice: str, local_rank: int) -> Device:
    """Choose the device of a rank as `choose_device` does; the processes of a machine take its GPUs in turn."""
    if choose_device(choice) == "cpu":
        return Device(torch.device("cpu"), may_differ=choice == "auto")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    name = gpu_name(torch.cuda.get_device_properties(device)) if torch.distributed.is_nccl_available() else ""
    return Device(device, name, may_differ=True)


def local_rank_from_environment() -> int:
    """Read the number of this process on its machine; 0 where no launcher tells it."""
    told = (os.environ.get(name, "") for name in LOCAL_RANK_VARIABLES)
    return next((int(text) for text in told if text.isdigit()), 0)


def gpu_name(properties: Any) -> str:
    """Name a GPU by its identifier, which differs from that on any other machine, as ``nvidia-smi -i`` takes it.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> gpu_name(SimpleNamespace(uuid="a1b2"))
    'GPU-a1b2'
    """
    return f"GPU-{str(properties.uuid).removeprefix('GPU-')}"


def synchronize(device: str) -> None:
    """Wait until the device has finished all work given to it."""
    if device == "cuda":
        torch.cuda.synchronize()


def cache_bytes(device: str) -> int:
    """Return the size of the largest cache; 32 MiB where a CPU does not report it."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=32 * 2**20)


def free_bytes(device: str) -> int:
    """Return the free memory: of the GPU, or of the host within the control group of this process."""
    if device == "cuda":
        # The driver counts torch's reserve as used, but torch gives it to the next tensor.
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + unused
    return free_memory_bytes()


def check_memory(what: str, needed_bytes: float, device: str) -> None:
    """Refuse work that needs more than the share of the free memory that may be used."""
    free = free_bytes(device)
    if needed_bytes > MEMORY_SHARE * free:
        raise LazsimError(
            f"too little memory: {what} takes {needed_bytes / 2**30:.3g} GiB, and {MEMORY_SHARE:.0%} of the "
            f"{free / 2**30:.3g} GiB that are free may be used; ask for less, or free some"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error reports a lack of memory, on a GPU or on the host.

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
    """Return a GPU's unused memory from torch's reserve to the driver."""
    if device == "cuda":
        torch.cuda.empty_cache()


def keeps_memory(device: str) -> bool:
    """Tell whether `memory_kept` has an effect."""
    return device == "cpu" and hasattr(ctypes.CDLL(None), "mallopt")


@contextmanager
def memory_kept(device: str) -> Iterator[None]:
    """Let the host keep memory that is freed for the next tensor, as torch does on a GPU, until the block is done.

    The C library gives large blocks back, and fresh pages cost as much time as small matrix products. No other one than
    glibc's can be told to keep them.
    """
    if not keeps_memory(device):
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for option, usual in ((M_MMAP_MAX, 65536), (M_TRIM_THRESHOLD, 128 * 2**10)):
            library.mallopt(option, usual)
        library.malloc_trim(0)
