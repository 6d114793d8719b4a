"""Exchanges by gloo, between any ranks through the host's memory."""

import os
import socket
from datetime import timedelta
from typing import Any

import torch

from lazsim.pytorch.transport import TIMEOUT, Transport, dist

PATIENCE = timedelta(milliseconds=50)
"""Interval at which a waiting rank looks whether it was aborted."""


class Gloo(Transport):
    """Exchanges of one group by gloo.

    Attributes
    ----------
    device : torch.device
        Device on which tensors have to be.
    is_stuck : bool
        Whether a call still waits. The thread that drops the group would wait with it, until the call gives up.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.is_stuck = False
        self._sockets_before = _sockets()

    def meet(self, meeting: Any, rank: int, size: int, host: str) -> None:
        """Connect to the other ranks."""
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = TIMEOUT
        self._group = dist.ProcessGroupGloo(meeting, rank, size, options)

    def _wait(self, work: Any) -> None:
        """Wait for a collective, or until it is aborted: gloo sometimes misses the end of a connection."""
        while True:
            try:
                work.wait(PATIENCE)
                return
            except RuntimeError:
                if work.is_completed():
                    # It may have ended well just after this wait did; if not, this raises the reason.
                    work.wait()
                    return
                if self._is_aborted:
                    self.is_stuck = True
                    raise

    def abort(self) -> None:
        """Make a call that waits in another thread fail, here and then on all others.

        Gloo's own ``abort`` leaves a waiting call waiting; it reacts to the end of a connection.
        """
        self._is_aborted = True
        for inode, descriptor in _sockets().items():
            if inode not in self._sockets_before:
                _shut_down(descriptor)

    def close(self) -> None:
        """Close the connections."""
        self._group = None


def _sockets() -> dict[str, int]:
    """Return the sockets of this process: descriptor by inode."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found[target] = int(name)
    return found


def _shut_down(descriptor: int) -> None:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                # A listening socket has no peer and stays: gloo ends the process when it breaks.
                connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
