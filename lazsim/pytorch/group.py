"""A communicator among ranks, whose calls can be aborted: by gloo through the host's memory, by NCCL between GPUs."""

import contextlib
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

from lazsim.pytorch.device import Device

dist: Any = torch.distributed
"""Its stubs lack process groups beside the global one."""

TIMEOUT = timedelta(seconds=60)
"""Time after which a collective gives up by itself; the coordinator hears of failures long before."""

MEET_S = 3 * TIMEOUT.total_seconds()
"""Longest time in which ranks meet: the store, gloo and NCCL wait for a third of it each."""

PATIENCE = timedelta(milliseconds=50)
"""Interval at which a rank that waits for gloo looks whether it was aborted."""

POLL_S = 2e-5
"""Interval at which a rank looks whether a collective of NCCL is done."""

CLOSE_S = 1.0
"""Longest wait for the end of NCCL's connections."""


class Transport(ABC):
    """Exchanges of one group, of tensors on `device`; every call raises RuntimeError when a rank is lost or aborts."""

    device: torch.device

    def __init__(self) -> None:
        self._group: Any = None
        self._is_aborted = False

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
        """Wait for a collective."""

    def close(self) -> None:
        """Close the connections."""
        self._group = None


class Gloo(Transport):
    """Exchanges of one group by gloo."""

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
            if inode in self._sockets_before:
                continue
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    # A listening socket has no peer and stays: gloo ends the process when it breaks.
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> dict[str, int]:
    """Return the sockets of this process: descriptor by inode."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{name}")] = int(name)
    return {target: descriptor for target, descriptor in found.items() if target.startswith("socket:")}


class Nccl(Transport):
    """Exchanges of one group by NCCL, whose ranks have a GPU each.

    Data from a rank that has aborted may be anything, without an error at once. So every message that decides how the
    job goes on goes by gloo, and confirms the data that came by NCCL before.
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

    def close(self) -> None:
        """Close the connections; all ranks have met since their last collective, or one is lost."""
        thread = self.abort()
        self._group = None
        thread.join(CLOSE_S)

    def abort(self) -> threading.Thread:
        """Make a call that waits in another thread fail, and end its work on the GPU.

        The thread that does so may take long, and the thread that drops the group last waits with it.
        """
        self._is_aborted = True
        thread = threading.Thread(target=_abort, args=(self._group,), daemon=True)
        thread.start()
        return thread


def _abort(group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        if group is not None:
            group.abort()


def survive_failed_collectives() -> None:
    """Keep this process alive when it loses a peer of its NCCL group: by default, and under torchrun, torch ends it."""
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
    # Torch's monitors of groups would end the process too, and block the thread that drops a group.
    os.environ["TORCH_NCCL_ENABLE_MONITORING"] = "0"
    os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "0"


class ProcessGroup:
    """Ranks that exchange tensors. A member that dies makes every call fail on all others.

    Tensors of the host go by gloo. Those of GPUs go by NCCL if each rank has a GPU of its own, else through the host.
    The ranks meet at a `store` of torch under the name `prefix`; each listens to the others at its own `host`.
    """

    def __init__(self, store: Any, prefix: str, rank: int, size: int, host: str, device: Device) -> None:
        self.rank, self.size = rank, size
        self.device = device.torch
        # The store is kept, since torch does not keep one that is written in Python.
        self._store, self._prefix, self._host, self._own = store, prefix, host, device
        self._gloo = Gloo()
        self._nccl: Nccl | None = None
        # Done once the ranks have met, or never will: one of them is lost, or this one was called away.
        self._met: Future[None] = Future()

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
        try:
            self._met.result(MEET_S)
        except TimeoutError:
            told = f"ranks did not meet in {MEET_S:.0f} s; NCCL_SOCKET_IFNAME may name a wrong network"
            raise RuntimeError(told) from None

    def _meet(self) -> None:
        try:
            meeting = dist.PrefixStore(self._prefix, self._store)
            self._gloo.meet(meeting, self.rank, self.size, self._host)
            if self._have_a_gpu_each(meeting) and not self._met.done():
                self._nccl = Nccl(self._own.torch)
                if self._met.done():
                    # Another thread aborted before it could see this transport.
                    self._nccl.abort()
                self._nccl.meet(meeting, self.rank, self.size, self._host)
            self._settle(None)
        except Exception as error:
            self._settle(error)

    def _settle(self, failure: Exception | None) -> None:
        """End the wait for the other ranks, where it has not ended yet, with a failure if any."""
        with contextlib.suppress(InvalidStateError):
            self._met.set_exception(failure) if failure else self._met.set_result(None)

    def _have_a_gpu_each(self, meeting: Any) -> bool:
        """Tell whether every rank has a GPU that it shares with no other rank."""
        if not self._own.may_differ:
            return False
        meeting.set(f"gpu/{self.rank}", self._own.gpu)
        gpus = {meeting.get(f"gpu/{rank}").decode() for rank in range(self.size)}
        return len(gpus - {""}) == self.size

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
        self._settle(RuntimeError("called away before all ranks had met"))
        self._gloo.abort()
        if self._nccl is not None:
            self._nccl.abort()

    def close(self) -> None:
        """Close the connections; ranks that still wait for this one fail."""
        self._gloo.close()
        if self._nccl is not None:
            self._nccl.close()
