"""A communicator among the ranks of an epoch: NCCL where each has a GPU of its own, else gloo."""

import socket
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lazsim.live.device import Device, each_has_its_own
from lazsim.live.gloo import TIMEOUT, Gloo
from lazsim.live.nccl import Nccl

dist: Any = torch.distributed
"""Its stubs lack what is used here: stores of a socket that is open already."""


def serve_store(host: str) -> tuple[Any, int]:
    """Serve the meeting point of ranks at an address only, and return its port."""
    listener = socket.create_server((host, 0))
    port = int(listener.getsockname()[1])
    store = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(), use_libuv=True
    )
    return store, port


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
        Where this rank computes.
    """

    def __init__(self, store: tuple[str, int], prefix: str, rank: int, size: int, host: str, device: Device) -> None:
        self.rank, self.size = rank, size
        self._address, self._prefix, self._host, self._device = store, prefix, host, device
        self._transport: Gloo | Nccl = Gloo()
        self._group: Any = None
        self._failure: Exception | None = None
        self._is_cut = False
        self._settled = threading.Event()

    @property
    def is_stuck(self) -> bool:
        """Whether a call was left waiting. Who then lets go of the group waits with it, until it gives up."""
        return self._transport.is_stuck

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
            store = dist.TCPStore(*self._address, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
            meeting = dist.PrefixStore(self._prefix, store)
            if self._device.may_differ and each_has_its_own(self._gpus(meeting)):
                self._transport = Nccl(self._device.torch)
            group = self._transport.meet(meeting, self.rank, self.size, self._host)
            if self._is_cut:
                self._transport.close()
            else:
                self._group = group
        except Exception as error:
            # Whatever it is, the thread that waits is to know.
            self._failure = error
        self._settled.set()

    def _gpus(self, meeting: Any) -> list[str]:
        """Tell the others which GPU this rank has, and learn which they have."""
        meeting.set(f"gpu/{self.rank}", self._device.gpu)
        return [meeting.get(f"gpu/{rank}").decode() for rank in range(self.size)]

    @property
    def _connected(self) -> Any:
        if self._group is None:
            raise RuntimeError("the group is closed")
        return self._group

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place and the same to the bit everywhere."""
        if self.size == 1:
            return
        moved = tensor.to(self._transport.device)
        self._transport.wait(self._connected.allreduce([moved]))
        if moved is not tensor:
            tensor.copy_(moved)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, with the rank as first axis."""
        rows = tensor.reshape(1, -1).repeat(self.size, 1)
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
        moved = rows.contiguous().to(self._transport.device)
        received = moved.new_empty((sum(counts_out), *rows.shape[1:]))
        self._transport.wait(self._connected.alltoall_base(received, moved, list(counts_out), list(counts_in)))
        return received.to(rows.device)

    def cut(self) -> None:
        """Make a call that waits in another thread fail, here and then on all others."""
        self._is_cut = True
        self._settled.set()
        self._transport.cut()

    def close(self) -> None:
        """Give up the connections; ranks that still wait for this one fail."""
        self._transport.close()
        self._group = None
