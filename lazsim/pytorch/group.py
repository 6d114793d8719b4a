"""A communicator among ranks: by gloo, and by NCCL for tensors on GPUs if each rank has its own GPU."""

import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lazsim.pytorch.device import Device, each_has_its_own
from lazsim.pytorch.transports import TIMEOUT, Gloo, Nccl, Transport, dist

MEET_S = 3 * TIMEOUT.total_seconds()
"""Longest time in which ranks meet: the store, gloo and NCCL wait for a third of it each."""


class Group:
    """Ranks that exchange tensors. A member that dies makes every call fail on all others.

    Tensors of the host go by gloo. Those of GPUs go by NCCL if each rank has a GPU of its own, else through the host.
    The ranks meet at a `store` of torch under the name `prefix`; each listens to the others at its own `host`.
    """

    def __init__(self, store: Any, prefix: str, rank: int, size: int, host: str, device: Device) -> None:
        self.rank, self.size = rank, size
        self.device = device.torch
        # Kept, since torch does not keep a store that is written in Python.
        self._store = store
        self._prefix, self._host, self._own = prefix, host, device
        self._gloo = Gloo()
        self._nccl: Nccl | None = None
        self._failure: Exception | None = None
        self._was_aborted = threading.Event()
        self._settled = threading.Event()
        self._has_met = False

    @property
    def is_stuck(self) -> bool:
        """Whether a call still waits. The thread that drops the group would wait with it, until the call gives up."""
        return self._gloo.is_stuck

    @property
    def by(self) -> Literal["gloo", "nccl"]:
        """Name of the transport of tensors on this rank's device."""
        return "gloo" if self._nccl is None else "nccl"

    def connect(self) -> None:
        """Meet the other ranks, or raise a RuntimeError; `abort` ends the wait.

        A connection that ends while gloo makes it leaves gloo waiting for five times its timeout. So another thread
        meets, and this one leaves it behind when it is aborted.
        """
        if self.size == 1:
            return
        threading.Thread(target=self._meet, daemon=True).start()
        self._settled.wait(MEET_S)
        if self._failure is not None:
            raise self._failure
        if self._was_aborted.is_set():
            raise RuntimeError("called away before all ranks had met")
        if not self._has_met:
            raise RuntimeError(f"ranks did not meet in {MEET_S:.0f} s; NCCL_SOCKET_IFNAME may name a wrong network")

    def _meet(self) -> None:
        try:
            meeting = dist.PrefixStore(self._prefix, self._store)
            self._gloo.meet(meeting, self.rank, self.size, self._host)
            if self._own.may_differ and each_has_its_own(self._gpus(meeting)) and not self._was_aborted.is_set():
                self._nccl = Nccl(self._own.torch)
                if self._was_aborted.is_set():
                    # Another thread aborted before it could see this transport.
                    self._nccl.abort()
                self._nccl.meet(meeting, self.rank, self.size, self._host)
            self._has_met = True
        except Exception as error:
            # The waiting thread raises it.
            self._failure = error
        self._settled.set()

    def _gpus(self, meeting: Any) -> list[str]:
        """Exchange the names of all ranks' GPUs."""
        meeting.set(f"gpu/{self.rank}", self._own.gpu)
        return [meeting.get(f"gpu/{rank}").decode() for rank in range(self.size)]

    def _carrier(self, tensor: Tensor) -> Transport:
        return self._gloo if self._nccl is None or tensor.device.type == "cpu" else self._nccl

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place and the same to the bit everywhere."""
        if self.size == 1:
            return
        carrier = self._carrier(tensor)
        moved = tensor.to(carrier.device)
        carrier.all_reduce(moved)
        if moved is not tensor:
            tensor.copy_(moved)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, with the rank as first axis."""
        rows = tensor.reshape(1, -1).repeat(self.size, 1)
        gathered = self.all_to_all(rows, [1] * self.size, [1] * self.size)
        return gathered.reshape(self.size, *tensor.shape)

    def all_to_all(self, rows: Tensor, counts_in: Sequence[int], counts_out: Sequence[int]) -> Tensor:
        """Exchange rows, which are in the order of their ranks; counts are those to, and from, each rank."""
        if self.size == 1:
            return rows.clone()
        carrier = self._carrier(rows)
        moved = rows.contiguous().to(carrier.device)
        received = moved.new_empty((sum(counts_out), *rows.shape[1:]))
        carrier.all_to_all(received, moved, list(counts_out), list(counts_in))
        return received.to(rows.device)

    def confirm(self) -> None:
        """Wait until all ranks got here without an abort, so that the data that came by NCCL is right."""
        if self._nccl is not None:
            self.all_reduce(torch.zeros(1))

    def abort(self) -> None:
        """Make a call that waits in another thread fail, here and then on all others."""
        self._was_aborted.set()
        self._settled.set()
        self._gloo.abort()
        if self._nccl is not None:
            self._nccl.abort()

    def close(self) -> None:
        """Close the connections; ranks that still wait for this one fail."""
        self._gloo.close()
        if self._nccl is not None:
            self._nccl.close()
