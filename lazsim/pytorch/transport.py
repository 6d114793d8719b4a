"""The common part of all transports: a process group of torch, with calls that can be aborted."""

import os
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

dist: Any = torch.distributed
"""Its stubs lack process groups beside the global one."""

TIMEOUT = timedelta(seconds=60)
"""Time after which a collective gives up by itself; the coordinator hears of failures long before."""


class Transport(ABC):
    """Exchanges of one group.

    Attributes
    ----------
    device : torch.device
        Device on which tensors have to be.
    """

    device: torch.device

    def __init__(self) -> None:
        self._group: Any = None
        self._is_aborted = False

    @abstractmethod
    def meet(self, meeting: Any, rank: int, size: int, host: str) -> None:
        """Connect to the other ranks.

        Raises
        ------
        RuntimeError
            When they do not meet.
        """

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor in place."""
        self._wait(self._connected.allreduce([tensor]))

    def all_to_all(self, received: Tensor, rows: Tensor, counts_out: list[int], counts_in: list[int]) -> None:
        """Exchange rows."""
        self._wait(self._connected.alltoall_base(received, rows, counts_out, counts_in))

    @property
    def _connected(self) -> Any:
        if self._group is None or self._is_aborted:
            raise RuntimeError("the group is closed")
        return self._group

    @abstractmethod
    def _wait(self, work: Any) -> None:
        """Wait for a collective.

        Raises
        ------
        RuntimeError
            When a rank is lost, or this one was aborted.
        """

    @abstractmethod
    def abort(self) -> None:
        """Make a call that waits in another thread fail."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


def survive_failed_collectives() -> None:
    """Keep this process alive when it loses a peer of its NCCL group: by default, and under torchrun, torch ends it."""
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    # Torch's monitors of groups would end the process too, and block the thread that drops a group.
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "0"
