"""Times of exchanges between processes of this machine, and of forming process groups."""

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lazsim.costmodel.profile import Header, ProfilePoint
from lazsim.errors import FailedError, LazsimError
from lazsim.processes import MEMORY_SHARE, check_processes, starting_processes
from lazsim.profiling.exchanges import EXCHANGES, link_bytes, serve
from lazsim.profiling.scheduler import Measurement, in_proportion
from lazsim.profiling.timing import BATCH, CI_WIDTH, ci_width, make_point
from lazsim.pytorch.device import cache_bytes, free_bytes, release_memory

MESSAGE_SIZES = tuple(2**power for power in range(10, 29))
MAX_BUFFERS = 64
MAX_BATCH = 64
NUM_GROUPS = 3
"""Process groups that are created, lose a member and are created again, each by new processes."""

GROUP_S = {"gloo": 4.0, "nccl": 10.0}
"""Rough seconds in which new processes import torch, take a GPU and form both groups."""

FEWEST_IN_GROUP = 3

GROUPS = ("group_create", "group_recreate")

RANKS_PER_PROCESSOR = 8
"""With more, an exchange measures how processes take turns, and starting them takes minutes."""

PROCESS_BYTES = 200 * 2**20
"""Memory of a process that has imported torch, without its messages: 182 MiB with torch 2.13."""

PROCESS_TASKS = 10
"""Threads of a process with a group of gloo."""

CHECKED_ERROR = 1e-6

TIMEOUT_S = 60.0
"""Longest time of an answer beyond the expected time of the exchange."""


class RankProcesses:
    """Processes that exchange messages; none is left when the context ends."""

    def __init__(self, num_ranks: int, backend: str, device: str) -> None:
        self.timeout_s = TIMEOUT_S
        self.doing = "starting"
        if backend == "gloo":
            # By default gloo looks up the host's name, which need not lead to an interface of this machine.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # By itself the store would listen to other machines, too.
        listener = socket.create_server(("127.0.0.1", 0))
        port, descriptor = listener.getsockname()[1], listener.detach()
        self._store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
        self._start_arguments = [(rank, port, backend, device, TIMEOUT_S) for rank in range(num_ranks)]
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> "RankProcesses":
        try:
            self._start()
            self._gather(self.timeout_s)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        context = get_context("spawn")
        with starting_processes():
            for arguments in self._start_arguments:
                ours, theirs = context.Pipe()
                self._connections.append(ours)
                process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
                process.start()
                self._processes.append(process)
                theirs.close()

    def ask(self, doing: str, *command: Any, expected_s: float = 0.0) -> list[Any]:
        """Let all processes do something; return their answers, unless one dies, fails or does not answer in time."""
        self.doing = doing
        for rank, connection in enumerate(self._connections):
            try:
                connection.send(command)
            except OSError:
                raise self._lost(rank) from None
        return self._gather(self.timeout_s + expected_s)

    def kill_last(self) -> None:
        """Kill the process of the highest rank, as a failure does."""
        process = self._processes.pop()
        self._connections.pop().close()
        process.kill()
        process.join()

    def __exit__(self, *_: object) -> None:
        """End every process, even a busy one."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()

    def _gather(self, timeout_s: float) -> list[Any]:
        answers: dict[int, Any] = {}
        failed: tuple[int, str] | None = None
        deadline_s = time.monotonic() + timeout_s
        while len(answers) < len(self._connections):
            # The connection of a process that has answered is ready once it has died.
            ready = wait(self._connections, max(0.0, deadline_s - time.monotonic()))
            if not ready and failed is not None:
                break
            if not ready:
                ranks = ", ".join(str(rank) for rank in range(len(self._connections)) if rank not in answers)
                raise FailedError(
                    f"process of rank {ranks} gave no answer in {timeout_s:.0f} s while {self.doing}; ended all"
                )
            for rank in map(self._connections.index, ready):  # type: ignore[arg-type]
                try:
                    status, answers[rank] = self._connections[rank].recv()
                except (EOFError, OSError):
                    raise self._lost(rank) from None
                if status == "error" and failed is None:
                    # A lost peer shows as an error at the others first: give its end a moment to be seen.
                    failed = rank, answers[rank]
                    deadline_s = min(deadline_s, time.monotonic() + 1.0)
        if failed is not None:
            raise FailedError(f"process of rank {failed[0]} failed while {self.doing}: {failed[1]}")
        return [answers[rank] for rank in range(len(self._processes))]

    def _lost(self, rank: int) -> FailedError:
        process = self._processes[rank]
        process.join(1.0)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return FailedError(
            f"process of rank {rank} died ({how}) while {self.doing}; ended all others; run again to go on from there"
        )


def choose_ranks(device: str, num_ranks: int | None, backend: str | None) -> tuple[int, str, str]:
    """Choose the number of processes and the backend of exchanges; return them with the reason for none."""
    chosen = backend or ("nccl" if device == "cuda" else "gloo")
    num_gpus = torch.cuda.device_count() if chosen == "nccl" else 0
    few = f"nccl takes a GPU for each process, and there are {num_gpus}"
    if num_ranks is None and backend is None and chosen == "nccl" and num_gpus < 2:
        return 1, chosen, few
    _check_backend(chosen, device)
    ranks = num_ranks if num_ranks is not None else (num_gpus if chosen == "nccl" else 2)
    most = RANKS_PER_PROCESSOR * (os.cpu_count() or 1)
    if ranks > max(most, 2):
        raise LazsimError(
            f"`ranks` {ranks}: give at most {most}, {RANKS_PER_PROCESSOR} for each processor of this machine"
        )
    check_processes("ranks", ranks, "processes", each_bytes=PROCESS_BYTES, each_tasks=PROCESS_TASKS, each_descriptors=3)
    if chosen == "nccl" and (ranks > num_gpus or (num_gpus < 2 and num_ranks is None)):
        raise LazsimError(f"{f'`ranks` {ranks}' if num_ranks is not None else '`backend` nccl'}: {few}")
    return ranks, chosen, "" if ranks > 1 else "`ranks` 1 is one process, which exchanges nothing"


def _check_backend(backend: str, device: str) -> None:
    built = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available}
    known = [name for name, is_built in built.items() if dist.is_available() and is_built()]
    if backend not in known:
        raise LazsimError(f"`backend` {backend}: not built into this torch, which has {', '.join(known) or 'none'}")
    if backend == "nccl" and device != "cuda":
        raise LazsimError("`backend` nccl: exchanges between GPUs only; choose gloo, or `device` cuda")


@contextmanager
def exchange_measurements(header: Header, num_ranks: int, backend: str) -> Iterator[list[Measurement]]:
    """List exchanges at all sizes, smallest first; their processes start with the first and end with the context."""
    with ExitStack() as stack:

        @cache
        def ranks() -> RankProcesses:
            release_memory(header.device)
            started = stack.enter_context(RankProcesses(num_ranks, backend, header.device))
            started.ask("forming a group", "join", "measured", num_ranks)
            return started

        yield [
            _exchange(kernel, size, ranks, header, num_ranks, backend) for size in MESSAGE_SIZES for kernel in EXCHANGES
        ]


def rank_counts(num_ranks: int) -> list[int]:
    """List the numbers of processes that exchange: powers of two, and all.

    Examples
    --------
    >>> rank_counts(6), rank_counts(2)
    ([2, 4, 6], [2])
    """
    return [*(2**power for power in range(1, 31) if 2**power < num_ranks), num_ranks]


def group_measurements(header: Header, num_ranks: int, backend: str) -> list[Measurement]:
    """List process groups: formed, and formed again without a member.

    They take three processes at least, so that two are left; NCCL, where it has a GPU for each.
    """
    if backend != "nccl" or torch.cuda.device_count() >= FEWEST_IN_GROUP:
        num_ranks = max(num_ranks, FEWEST_IN_GROUP)
    release_memory(header.device)

    @cache
    def cycles() -> list[tuple[float, float]]:
        return [group_cycle(num_ranks, backend, header.device) for _ in range(NUM_GROUPS)]

    def measure(index: int, _: float) -> ProfilePoint:
        samples_s = np.array([[cycle[index]] for cycle in cycles()])
        return make_point(GROUPS[index], num_ranks, samples_s, num_ranks=num_ranks)

    def predict_s(_: Sequence[ProfilePoint]) -> float:
        # One cycle gives both kernels.
        return 0.0 if cycles.cache_info().currsize else GROUP_S[backend]

    return [
        Measurement(kernel, num_ranks, num_ranks, predict_s, partial(measure, index), fewest_runs=NUM_GROUPS)
        for index, kernel in enumerate(GROUPS)
    ]


def _exchange(
    kernel: str, size: int, ranks: Callable[[], RankProcesses], header: Header, num_ranks: int, backend: str
) -> Measurement:
    wanted = math.ceil(2 * cache_bytes(header.device) / size)
    num_buffers = min(max(wanted, 1), MAX_BUFFERS)

    def skip_reason() -> str | None:
        if kernel == "point_to_point" and backend == "gloo" and header.device == "cuda":
            return "gloo sends from the host's memory only"
        # A rank that receives from all others has a buffer for each, and one to check it by.
        needed = (2 * num_buffers + 3) * num_ranks * size
        return "memory" if needed > MEMORY_SHARE * free_bytes(header.device) else None

    def measure(end_s: float) -> ProfilePoint:
        doing = f"measuring {kernel} of {size} bytes"
        samples_s, error, batch, slowest_s = np.empty(0), 0.0, BATCH, 0.0
        if not all(ranks().ask(doing, "fits", kernel, size, num_buffers)):
            raise MemoryError(doing)
        while True:
            expected_s = 2 * (batch + 2) * slowest_s
            answers = ranks().ask(doing, "exchange", kernel, size, num_buffers, batch, expected_s=expected_s)
            error = max(error, *(answer[1] for answer in answers))
            # An exchange is over when its slowest rank is done.
            samples_s = np.concatenate([samples_s, np.max([answer[0] for answer in answers], axis=0)])
            slowest_s = float(samples_s.max())
            if ci_width(samples_s) <= CI_WIDTH or time.monotonic() >= end_s:
                break
            batch = min(2 * batch, MAX_BATCH)
        if error > CHECKED_ERROR:
            raise LazsimError(f"{kernel} of {size} bytes over {num_ranks} processes delivered wrong data; check torch")
        return make_point(
            kernel,
            size,
            samples_s[:, None],
            header,
            num_ranks=num_ranks,
            moved_bytes=link_bytes(kernel, num_ranks, size),
            num_buffers=num_buffers,
            buffers_bytes=num_buffers * size,
            reference_error=error,
        )

    # One that is checked, a warm-up, and the fewest for which an interval of the median exists.
    return Measurement(
        kernel,
        size,
        num_ranks,
        in_proportion(size, num_ranks),
        measure,
        skip_reason,
        fewest_runs=2 + BATCH,
        prepare=ranks,
    )


def group_cycle(num_ranks: int, backend: str, device: str) -> tuple[float, float]:
    """Form a group of new processes, kill one of them, and form a group of the others.

    Return the seconds to form the first group, and those in which the survivors left it and formed another, each until
    the slowest had met all others. The time to notice the loss is not included.
    """
    with RankProcesses(num_ranks, backend, device) as ranks:
        created_s = max(ranks.ask("forming a group", "join", "first", num_ranks))
        ranks.kill_last()
        return created_s, max(ranks.ask("forming a group again", "join", "second", num_ranks - 1))
