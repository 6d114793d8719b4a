"""Memory of a device: how much is free, and which errors say that it ran out."""

from pathlib import Path

import torch

from lazsim.capacity import MEMORY_SHARE, free_memory_bytes
from lazsim.errors import LazsimError

OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "cannot allocate memory",
    "out of memory",
    "status_alloc_failed",
)
"""Texts by which torch reports a lack of memory where it has no error class for it."""


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
