"""A communicator among the ranks of an epoch: gloo among CPUs and shared GPUs, NCCL where each rank has its own GPU."""

import os
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

dist: Any = torch.distributed
"""Its stubs lack what is used here: groups without the one global group."""

TIMEOUT = timedelta(seconds=60)
"""After so long a collective gives up by itself; the controller is told of failures long before."""

PATIENCE = timedelta(milliseconds=50)
"""How often a rank that waits for others looks whether it was called away."""


def serve_store(host: str) -> tuple[Any, int]:
    """Serve the meeting point of ranks at an address only, and return its port."""
    listener = socket.create_server((host, 0))
    port = int(listener.getsockname()[1])
    store = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=True
    )
    return store, port


def choose_device(choice: str, local_rank: int) -> torch.device:
    """Choose where a rank computes: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is some.

    Ranks that share a machine share its GPUs in turn.
    """
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


class Group:
    """Ranks that exchange tensors. A member that dies makes every call fail on all others.

    Parameters
    ----------
    store
        Host and port where the ranks meet.
    prefix
        The name under which they do.
    rank, size
        This rank and how many there are.
    host
        The address on which this rank listens to the others.
    device
        Where this rank computes. Ranks with a GPU each use NCCL, all others gloo, through the host's memory.

    Attributes
    ----------
    is_stuck : bool
        Whether a call was left waiting. Who then lets go of the group waits with it, until it gives up.
    """

    def __init__(
        self, store: tuple[str, int], prefix: str, rank: int, size: int, host: str, device: torch.device
    ) -> None:
        self.rank, self.size = rank, size
        self.is_stuck = False
        self._address, self._prefix, self._host = store, prefix, host
        self._staged = device.type == "cpu" or torch.cuda.device_count() < size
        self._device = torch.device("cpu") if self._staged else device
        self._sockets_before = _sockets()
        self._group: Any = None
        self._failure: Exception | None = None
        self._is_cut = False
        self._settled = threading.Event()

    def connect(self) -> None:
        """Meet the other ranks; `cut` ends the wait for one that does not come.

        Raises
        ------
        RuntimeError
            When the ranks do not meet.

        Notes
        -----
        A connection that is cut while gloo makes it leaves gloo waiting for five times its timeout. So another thread
        meets, and is left alone with that when this one is called away.
        """
        if self.size == 1:
            return
        threading.Thread(target=self._meet, daemon=True).start()
        self._settled.wait()
        if self._failure is not None:
            raise self._failure
        if self._group is None:
            raise RuntimeError("called away before all ranks had met")

    def _meet(self) -> None:
        try:
            group = self._new_group()
            if not self._is_cut:
                self._group = group
        except Exception as error:
            # Whatever it is, the thread that waits is to know.
            self._failure = error
        self._settled.set()

    def _new_group(self) -> Any:
        store = dist.TCPStore(*self._address, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
        meeting = dist.PrefixStore(self._prefix, store)
        if not self._staged:
            return dist.ProcessGroupNCCL(meeting, self.rank, self.size)
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self._host)]
        options._timeout = TIMEOUT
        return dist.ProcessGroupGloo(meeting, self.rank, self.size, options)

    @property
    def _connected(self) -> Any:
        if self._group is None:
            raise RuntimeError("the group is closed")
        return self._group

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place and the same to the bit everywhere."""
        if self.size == 1:
            return
        moved = self._stage(tensor)
        self._wait(self._connected.allreduce([moved]))
        if moved is not tensor:
            tensor.copy_(moved)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, with the rank as first axis."""
        rows = self._stage(tensor).reshape(1, -1).repeat(self.size, 1)
        gathered = self.all_to_all(rows, [1] * self.size, [1] * self.size)
        return gathered.reshape(self.size, *tensor.shape)

    def all_to_all(self, rows: Tensor, counts_in: Sequence[int], counts_out: Sequence[int]) -> Tensor:
        """Exchange rows.

        Parameters
        ----------
        rows
            Those for rank 0, then those for rank 1, and so on.
        counts_in
            How many of `rows` go to each rank.
        counts_out
            How many come from each rank.
        """
        if self.size == 1:
            return rows.clone()
        moved = self._stage(rows.contiguous())
        received = moved.new_empty((sum(counts_out), *rows.shape[1:]))
        self._wait(self._connected.alltoall_base(received, moved, list(counts_out), list(counts_in)))
        return received.to(rows.device)

    def _wait(self, work: Any) -> None:
        """Wait for a collective, or until it is cut: gloo misses now and then that a connection has ended."""
        if not self._staged:
            work.wait()
            return
        while True:
            try:
                work.wait(PATIENCE)
                return
            except RuntimeError:
                if work.is_completed():
                    # It may have ended well just after this patience ended; if not, this says why.
                    work.wait()
                    return
                if self._is_cut:
                    self.is_stuck = True
                    raise

    def _stage(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device)

    def cut(self) -> None:
        """Make a call that waits in another thread fail, here and then on all others.

        Gloo's own ``abort`` leaves a waiting call waiting; what it does react to is the end of a connection.
        """
        self._is_cut = True
        self._settled.set()
        if not self._staged:
            if self._group is not None:
                self._group.abort()
            return
        for inode, descriptor in _sockets().items():
            if inode not in self._sockets_before:
                _shut_down(descriptor)

    def close(self) -> None:
        """Give up the connections; ranks that still wait for this one fail."""
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
            # One that only listens has no peer, and is left alone: gloo ends the process when it breaks.
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
