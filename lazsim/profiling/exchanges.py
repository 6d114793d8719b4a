"""Exchanges of one rank, each with the data that it has to deliver, and the process of a rank that runs them."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]

from lazsim.errors import first_line
from lazsim.processes import end_with_parent
from lazsim.profiling.timing import clock_of, repeat
from lazsim.pytorch.device import is_out_of_memory, release_memory, synchronize, take_device
from lazsim.pytorch.group import survive_failed_collectives

ELEMENT_BYTES = 4

HOLD_S = 5e-4
"""Time for which a GPU is held up before an exchange: longer than the host takes to start it."""


class Exchange(NamedTuple):
    """An exchange of a rank; the first run has to leave what is `expected` in the last tensor of its buffer."""

    prepare: Callable[[], tuple[Any, ...]]
    """Makes a buffer."""
    run: Callable[..., Any]
    expected: Callable[[], Any]

    def error(self, buffer: tuple[Any, ...]) -> float:
        """Return the largest error of the data that arrived."""
        return float((buffer[-1] - self.expected()).abs().max()) if buffer[-1].numel() else 0.0


def _all_to_all(split: Callable[[int, int], list[int]]) -> Callable[[int, int, int, str], Exchange]:
    def make(rank: int, num_ranks: int, count: int, device: str) -> Exchange:
        sends = split(num_ranks, count)
        receives = [sends[rank]] * num_ranks
        return Exchange(
            lambda: (torch.full((count,), float(rank), device=device), torch.empty(sum(receives), device=device)),
            lambda sent, received: dist.all_to_all_single(received, sent, receives, sends),
            lambda: torch.arange(num_ranks, device=device, dtype=torch.float32).repeat_interleave(sends[rank]),
        )

    return make


def _in_place(
    run: Callable[[int, Any], Any], expected: Callable[[int, int], int]
) -> Callable[[int, int, int, str], Exchange]:
    """Build an exchange of buffers that hold each rank's number, from 1, and afterwards the expected one."""

    def make(rank: int, num_ranks: int, count: int, device: str) -> Exchange:
        def fill(value: int) -> Any:
            return torch.full((count,), float(value), device=device)

        return Exchange(lambda: (fill(rank + 1),), partial(run, rank), lambda: fill(expected(rank, num_ranks)))

    return make


def _send_to_1(rank: int, buffer: Any) -> None:
    """Send from rank 0 to rank 1."""
    if rank == 0:
        dist.send(buffer, 1)
    elif rank == 1:
        dist.recv(buffer, 0)


SPLITS: dict[str, Callable[[int, int], list[int]]] = {
    "all_to_all": lambda ranks, count: [count // ranks + (rank < count % ranks) for rank in range(ranks)],
    "all_to_all_skewed": lambda ranks, count: [
        *(count >> rank for rank in range(1, ranks)), count - sum(count >> rank for rank in range(1, ranks))
    ],
    "all_to_all_empty": lambda ranks, count: [count, *[0] * (ranks - 1)],
}  # fmt: skip
"""What each rank gets of a buffer, from the number of ranks and the elements: even parts; half to rank 0, half of the
rest to rank 1 and so on; all to rank 0."""

EXCHANGES: dict[str, Callable[[int, int, int, str], Exchange]] = {
    **{kernel: _all_to_all(split) for kernel, split in SPLITS.items()},
    # Sums of sums grow with each run, at last to infinity, which takes no longer; the first is checked.
    "all_reduce": _in_place(lambda _, buffer: dist.all_reduce(buffer), lambda _, ranks: ranks * (ranks + 1) // 2),
    "point_to_point": _in_place(_send_to_1, lambda rank, _: rank + 1 if rank > 1 else 1),
    "broadcast": _in_place(lambda _, buffer: dist.broadcast(buffer, 0), lambda *_: 1),
}
"""Exchange of each kernel, made from rank, number of ranks, elements and device."""


def link_bytes(kernel: str, num_ranks: int, num_bytes: int) -> float:
    """Return the bytes through the busiest rank's link in its busier direction.

    Examples
    --------
    >>> link_bytes("all_to_all", 4, 400), link_bytes("all_to_all_empty", 4, 400), link_bytes("all_reduce", 4, 400)
    (300.0, 1200.0, 600.0)
    """
    if kernel in SPLITS:
        parts = SPLITS[kernel](num_ranks, num_bytes)
        return float(max((num_ranks - 1) * parts[0], num_bytes - min(parts)))
    return float(num_bytes) * (2 * (num_ranks - 1) / num_ranks if kernel == "all_reduce" else 1.0)


def serve(connection: Connection, rank: int, port: int, backend: str, device: str, timeout_s: float) -> None:
    """Answer the commands of the parent until it ends."""
    end_with_parent()
    torch.set_num_threads(1)
    survive_failed_collectives()
    worker = RankWorker(rank, port, backend, device, timeout_s)
    # The end of the parent may show here first.
    with suppress(EOFError, ConnectionError):
        _answer(connection, partial(take_device, device, rank))
        while True:
            name, *arguments = connection.recv()
            _answer(connection, partial(getattr(worker, name), *arguments))


def _answer(connection: Connection, run: Callable[[], Any]) -> None:
    try:
        answer = "ok", run()
    except Exception as error:  # The parent reports it in one line, whatever it is.
        answer = "error", f"{type(error).__name__}: {first_line(error)}"
    connection.send(answer)


class RankWorker:
    """A rank and its process group."""

    def __init__(self, rank: int, port: int, backend: str, device: str, timeout_s: float) -> None:
        self.rank, self.port, self.backend, self.device = rank, port, backend, device
        self.timeout = timedelta(seconds=timeout_s)

    def join(self, name: str, num_ranks: int) -> float:
        """Form a group, leaving the one before; return the seconds until all have met."""
        begin_s = time.perf_counter()
        if dist.is_initialized():
            leave_group(self.backend)
        store = PrefixStore(name, TCPStore("127.0.0.1", self.port, is_master=False, timeout=self.timeout))
        dist.init_process_group(self.backend, store=store, rank=self.rank, world_size=num_ranks, timeout=self.timeout)
        self._meet()
        return time.perf_counter() - begin_s

    def fits(self, kernel: str, num_bytes: int, num_buffers: int) -> bool:
        """Tell whether there is memory for the buffers; without it in mid-exchange the others would wait."""
        made = self._make(kernel, num_bytes)
        try:
            return len([made.prepare() for _ in range(num_buffers)]) == num_buffers
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            release_memory(self.device)

    def exchange(
        self, kernel: str, num_bytes: int, num_buffers: int, num_repetitions: int
    ) -> tuple[list[float], float]:
        """Run a kernel repeatedly; return the seconds of each run, and the largest error in the first."""
        made = self._make(kernel, num_bytes)
        buffers = [made.prepare() for _ in range(num_buffers)]
        made.run(*buffers[0])
        error = made.error(buffers[0])
        clock = clock_of(self.device)
        stages: list[Callable[[int], Any]] = [lambda index: made.run(*buffers[index])]
        if self.backend == "nccl":
            # Hosts leave a barrier as far apart as a small exchange takes, GPUs end a sum together.
            one = torch.zeros(1, device=self.device)
            stages.insert(0, lambda _: dist.all_reduce(one))
        samples_s = []
        for turn in range(num_repetitions + 1):
            self._meet()
            samples_s += repeat(stages, turn % num_buffers, clock, HOLD_S)[0][-1:]
        # The first is a warm-up.
        return samples_s[1:], error

    def _make(self, kernel: str, num_bytes: int) -> Exchange:
        return EXCHANGES[kernel](self.rank, dist.get_world_size(), num_bytes // ELEMENT_BYTES, self.device)

    def _meet(self) -> None:
        dist.barrier()
        synchronize(self.device)


def leave_group(backend: str) -> None:
    """Leave the process group, whose members may be dead: NCCL would wait for them unless aborted."""
    if backend == "nccl":
        distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()
