"""Exchanges by NCCL, between ranks of which each has a GPU of its own: what is on GPUs, and stays there.

What a rank receives from one that was called away, and has aborted, may be anything, and nothing says so at once. So
whatever decides how the job goes on is exchanged by gloo, and confirms what came by NCCL before.
"""

import contextlib
import os
import threading
import time
from typing import Any

import torch

from lazsim.pytorch.transport import TIMEOUT, Transport, dist, survive_failed_collectives

POLL_S = 2e-5
"""How often a rank looks whether a collective is done."""

CLOSE_S = 1.0
"""For so long the end of the connections is waited for."""


class Nccl(Transport):
    """One group's exchanges by NCCL.

    Parameters
    ----------
    device
        This rank's GPU.

    Attributes
    ----------
    device : torch.device
        Where tensors have to be.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def meet(self, meeting: Any, rank: int, size: int, host: str) -> None:
        """Connect to the other ranks.

        Raises
        ------
        RuntimeError
            When they do not meet.
        """
        survive_failed_collectives()
        if host.startswith("127."):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = TIMEOUT
        self._group = dist.ProcessGroupNCCL(meeting, rank, size, options)
        # NCCL connects ranks in their first collective.
        self.all_reduce(torch.zeros(1, device=self.device))

    def _wait(self, work: Any) -> None:
        """Wait until a collective has taken place: NCCL's own ``wait`` only has the stream wait.

        Raises
        ------
        RuntimeError
            When this rank was called away, or the others did not take part in time.
        """
        deadline_s = time.monotonic() + TIMEOUT.total_seconds()
        try:
            work.wait()
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(torch.cuda.current_stream(self.device))
            while not (self._is_aborted or done.query()):  # type: ignore[no-untyped-call]
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"ranks did not exchange in {TIMEOUT.total_seconds():.0f} s")
                time.sleep(POLL_S)
            if self._is_aborted:
                raise RuntimeError("called away from a collective")
        except RuntimeError:
            self.abort()
            raise

    def abort(self) -> None:
        """Make a call that waits in another thread fail, and what still runs on the GPU end."""
        self._start_abort()

    def close(self) -> None:
        """Give up the connections; all ranks have met since their last collective, or one is lost."""
        thread = self._start_abort()
        self._group = None
        thread.join(CLOSE_S)

    def _start_abort(self) -> threading.Thread:
        """Abort in a thread of its own: it may take long, and whoever lets go of the group last waits with it."""
        self._is_aborted = True
        thread = threading.Thread(target=_abort, args=(self._group,), daemon=True)
        thread.start()
        return thread


def _abort(group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        if group is not None:
            group.abort()
