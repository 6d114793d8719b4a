"""Exchanges by NCCL: between ranks of which each has a GPU of its own, from GPU to GPU."""

import contextlib
import threading
from typing import Any

import torch
import torch.distributed

from lazsim.live.gloo import TIMEOUT
from lazsim.profiling.device import survive_failed_collectives

dist: Any = torch.distributed


class Nccl:
    """One group's exchanges by NCCL.

    Parameters
    ----------
    device
        This rank's GPU.

    Attributes
    ----------
    device : torch.device
        Where tensors have to be.
    is_stuck : bool
        Whether a call was left waiting: never, since what is aborted ends.
    """

    is_stuck = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._group: Any = None
        self._is_broken = False

    def meet(self, meeting: Any, rank: int, size: int, _host: str) -> Any:
        """Connect to the other ranks and return the group.

        Raises
        ------
        RuntimeError
            When they do not meet.
        """
        survive_failed_collectives()
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = TIMEOUT
        self._group = dist.ProcessGroupNCCL(meeting, rank, size, options)
        # NCCL connects ranks in their first collective.
        self.wait(self._group.allreduce([torch.zeros(1, device=self.device)]))
        return self._group

    def wait(self, work: Any) -> None:
        """Wait until a collective has taken place.

        Raises
        ------
        RuntimeError
            When this rank was called away: what was received means nothing then.

        Notes
        -----
        NCCL's own ``wait`` only has the stream wait. A step that counts as prepared, and a vote, must have arrived.
        """
        try:
            work.wait()
            torch.cuda.current_stream(self.device).synchronize()
        except RuntimeError:
            self._is_broken = True
            raise
        if self._is_broken:
            raise RuntimeError("called away from a collective")

    def cut(self) -> None:
        """Make a call that waits in another thread fail."""
        self._is_broken = True
        # To abort may take a while, for which who listens to the controller has no time.
        threading.Thread(target=self.close, daemon=True).start()

    def close(self) -> None:
        """Give up the connections: at once where a rank is lost, else when the others have received what was sent."""
        if self._group is not None:
            with contextlib.suppress(RuntimeError):
                (self._group.abort if self._is_broken else self._group.shutdown)()
