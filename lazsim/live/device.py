"""Where a worker computes: chosen once, since what it holds lies there from epoch to epoch."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed

from lazsim.profiling.device import choose_device, gpu_name

LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
"""Where torchrun, Slurm, Open MPI and MPICH tell a process its number among those of its machine."""


@dataclass(frozen=True)
class Device:
    """Where a worker computes.

    Attributes
    ----------
    torch : torch.device
        As torch has it.
    gpu : str
        The GPU, by a name that no other has anywhere; empty on a CPU, and where NCCL is not built in.
    may_differ : bool
        Whether other workers may be better or worse off, so that ranks have to tell each other.
    """

    torch: torch.device
    gpu: str = ""
    may_differ: bool = False


CPU = Device(torch.device("cpu"))


def take_device(choice: str, local_rank: int) -> Device:
    """Choose where a worker computes, and take it.

    Parameters
    ----------
    choice
        ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    local_rank
        Number of the worker on its machine: workers of a machine take its GPUs in turn.

    Raises
    ------
    LazsimError
        When ``cuda`` is asked for and there is no GPU that torch can use.
    """
    if choose_device(choice) == "cpu":
        return Device(torch.device("cpu"), may_differ=choice == "auto")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    name = gpu_name(torch.cuda.get_device_properties(device))
    # Only a GPU's own identifier tells it from those of other machines.
    name = name if name.startswith("GPU-") else f"{socket.gethostname()}/{name}"
    return Device(device, name if torch.distributed.is_nccl_available() else "", may_differ=True)


def local_rank_from_environment() -> int:
    """Read a worker's number on its machine; 0 where nothing tells it, as where each sees its own GPU only."""
    told = (os.environ.get(name, "") for name in LOCAL_RANK_VARIABLES)
    return next((int(text) for text in told if text.isdigit()), 0)


def each_has_its_own(gpus: Sequence[str]) -> bool:
    """Tell whether each rank has a GPU that it shares with no other.

    Examples
    --------
    >>> each_has_its_own(["GPU-a", "GPU-b"]), each_has_its_own(["GPU-a", "GPU-a"]), each_has_its_own(["GPU-a", ""])
    (True, False, False)
    """
    return all(gpus) and len(set(gpus)) == len(gpus)
