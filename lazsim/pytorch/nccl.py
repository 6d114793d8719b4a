"""Exchanges by NCCL of tensors on GPUs, between ranks that each have a GPU of their own.

Data from a rank that has aborted may be anything, without an error at once. So every message that decides how the job
goes on goes by gloo, and confirms the data that came by NCCL before.
"""

import contextlib
import os
import threading
import time
from typing import Any

import torch

from lazsim.pytorch.transport import TIMEOUT, Transport, dist, survive_failed_collectives

POLL_S = 2e-5
"""Interval at which a rank looks whether a collective is done."""

CLOSE_S = 1.0
"""Longest wait for the end of the connections."""


class Nccl(Transport):
    """Exchanges of one group by NCCL.

    Parameters
    ----------
    device
        This rank's GPU.

    Attributes
    ----------
    device : torch.device
        Device on which tensors have to be.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def meet(self, meeting: Any, rank: int, size: int, host: str) -> None:
        """Connect to the other ranks."""
        survive_failed_collectives()
        if host.startswith("127."):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = TIMEOUT
        self._group = dist.ProcessGroupNCCL(meeting, rank, size, options)
        # NCCL connects ranks in their first collective.
        self.all_reduce(torch.zeros(1, device=self.device))

    def _wait(self, work: Any) -> None:
        """Wait until a collective is done: NCCL's own ``wait`` only makes the stream wait."""
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
        """Make a call that waits in another thread fail, and end its work on the GPU."""
        self._start_abort()

    def close(self) -> None:
        """Close the connections; all ranks have met since their last collective, or one is lost."""
        thread = self._start_abort()
        self._group = None
        thread.join(CLOSE_S)

    def _start_abort(self) -> threading.Thread:
        """Abort in another thread: it may take long, and the thread that drops the group last waits with it."""
        self._is_aborted = True
        thread = threading.Thread(target=_abort, args=(self._group,), daemon=True)
        thread.start()
        return thread


def _abort(group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        if group is not None:
            group.abort()
