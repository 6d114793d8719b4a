"""Exchanges by gloo: between any ranks, through the host's memory."""

import os
import socket
from datetime import timedelta
from typing import Any

import torch

from lazsim.pytorch.transport import TIMEOUT, Transport, dist

PATIENCE = timedelta(milliseconds=50)
"""How often a rank that waits for others looks whether it was called away."""


class Gloo(Transport):
    """One group's exchanges by gloo.

    Attributes
    ----------
    device : torch.device
        Where tensors have to be.
    is_stuck : bool
        Whether a call was left waiting. Who then lets go of the group waits with it, until it gives up.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.is_stuck = False
        self._sockets_before = _sockets()

    def meet(self, meeting: Any, rank: int, size: int, host: str) -> None:
        """Connect to the other ranks.

        Raises
        ------
        RuntimeError
            When they do not meet.
        """
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = TIMEOUT
        self._group = dist.ProcessGroupGloo(meeting, rank, size, options)

    def _wait(self, work: Any) -> None:
        """Wait for a collective, or until it is cut: gloo misses now and then that a connection has ended.

        Raises
        ------
        RuntimeError
            When a rank is lost, or this one was called away.
        """
        while True:
            try:
                work.wait(PATIENCE)
                return
            except RuntimeError:
                if work.is_completed():
                    # It may have ended well just after this patience ended; if not, this says why.
                    work.wait()
                    return
                if self._is_aborted:
                    self.is_stuck = True
                    raise

    def abort(self) -> None:
        """Make a call that waits in another thread fail, here and then on all others.

        Gloo's own ``abort`` leaves a waiting call waiting; what it does react to is the end of a connection.
        """
        self._is_aborted = True
        for inode, descriptor in _sockets().items():
            if inode not in self._sockets_before:
                _shut_down(descriptor)

    def close(self) -> None:
        """Give up the connections."""
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
                # One that only listens has no peer, and is left alone: gloo ends the process when it breaks.
                connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
