"""Processes of this machine that exchange messages: the parent's side, and what each does as its parent asks."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]

from lazsim.errors import LazsimError
from lazsim.files import signals_held
from lazsim.profiling.exchanges import ELEMENT_BYTES, EXCHANGES
from lazsim.profiling.timing import HostClock, clock_of
from lazsim.pytorch.device import synchronize
from lazsim.pytorch.memory import is_out_of_memory, release_memory
from lazsim.pytorch.transports import survive_failed_collectives

TIMEOUT_S = 60.0
"""Longest time of an answer beyond the expected time of the exchange."""

HOLD_S = 2e-4
"""Time for which a GPU is held up before an exchange: longer than the host takes to start it."""


class Ranks:
    """Processes that exchange messages; none is left when the context ends."""

    def __init__(self, num_ranks: int, backend: str, device: str, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.doing = "starting"
        if backend == "gloo":
            # By default gloo looks up the host's name, which need not lead to an interface of this machine.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._start_arguments = [(rank, self._store.port, backend, device, timeout_s) for rank in range(num_ranks)]
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []

    def __enter__(self) -> "Ranks":
        try:
            self._start()
            self._gather(self.timeout_s)
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        context = get_context("spawn")
        # It lets signals through again as it starts.
        ensure_running()
        # An interrupt of the terminal is for the parent, which ends its processes in order, and not in mid-start.
        with signals_held():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                for arguments in self._start_arguments:
                    ours, theirs = context.Pipe()
                    self._connections.append(ours)
                    process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
                    process.start()
                    self._processes.append(process)
                    theirs.close()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids by rank."""
        return [process.pid or 0 for process in self._processes]

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

    def close(self) -> None:
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
        while len(answers) < len(self._processes):
            waiting: dict[Any, int] = {c: rank for rank, c in enumerate(self._connections) if rank not in answers}
            dead = {process.sentinel: rank for rank, process in enumerate(self._processes)}
            ready = wait([*waiting, *dead], max(0.0, deadline_s - time.monotonic()))
            if not ready and failed is None:
                ranks = ", ".join(str(rank) for rank in waiting.values())
                raise LazsimError(
                    f"process of rank {ranks} gave no answer in {timeout_s:.0f} s while {self.doing}; ended all"
                )
            for one in ready:
                if one in dead:
                    raise self._lost(dead[one])
            if not ready:
                break
            for one in ready:
                rank = waiting[one]
                try:
                    status, answers[rank] = self._connections[rank].recv()
                except (EOFError, OSError):
                    raise self._lost(rank) from None
                if status == "error" and failed is None:
                    # A lost peer shows as an error at the others first: give its end a moment to be seen.
                    failed = rank, answers[rank]
                    deadline_s = min(deadline_s, time.monotonic() + 1.0)
        if failed is not None:
            raise LazsimError(f"process of rank {failed[0]} failed while {self.doing}: {failed[1]}")
        return [answers[rank] for rank in range(len(self._processes))]

    def _lost(self, rank: int) -> LazsimError:
        process = self._processes[rank]
        process.join(1.0)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return LazsimError(
            f"process of rank {rank} died ({how}) while {self.doing}; ended all others; run again to go on from there"
        )


def serve(connection: Connection, rank: int, port: int, backend: str, device: str, timeout_s: float) -> None:
    """Answer the commands of the parent until it ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    survive_failed_collectives()
    worker = RankWorker(rank, port, backend, device, timeout_s)
    _answer(connection, worker.take_device)
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        _answer(connection, partial(getattr(worker, name), *arguments))


def _answer(connection: Connection, run: Callable[[], Any]) -> None:
    try:
        connection.send(("ok", run()))
    except Exception as error:  # The parent reports it in one line, whatever it is.
        connection.send(("error", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "started by the parent"
    wait([parent.sentinel])
    os._exit(1)


class RankWorker:
    """A rank and its process group."""

    def __init__(self, rank: int, port: int, backend: str, device: str, timeout_s: float) -> None:
        self.rank, self.backend, self.device = rank, backend, device
        self.timeout = timedelta(seconds=timeout_s)
        self.port = port

    def take_device(self) -> None:
        """Take a GPU; processes share GPUs if there are fewer."""
        if self.device == "cuda":
            torch.cuda.set_device(self.rank % torch.cuda.device_count())

    def join(self, name: str, num_ranks: int) -> float:
        """Form a group, leaving the one before; return the seconds until all have met."""
        clock = HostClock()
        begin = clock.mark()
        if dist.is_initialized():
            leave_group(self.backend)
        server = TCPStore("127.0.0.1", self.port, is_master=False, timeout=self.timeout)
        store = PrefixStore(name, server)
        dist.init_process_group(self.backend, store=store, rank=self.rank, world_size=num_ranks, timeout=self.timeout)
        self._meet()
        return clock.elapsed_s(begin, clock.mark())

    def fits(self, kernel: str, num_bytes: int, num_buffers: int) -> bool:
        """Tell whether there is memory for the buffers; without it in mid-exchange the others would wait."""
        made = EXCHANGES[kernel](self.rank, dist.get_world_size(), num_bytes // ELEMENT_BYTES, self.device)
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
        made = EXCHANGES[kernel](self.rank, dist.get_world_size(), num_bytes // ELEMENT_BYTES, self.device)
        buffers = [made.prepare() for _ in range(num_buffers)]
        made.run(*buffers[0])
        error = made.error(buffers[0])
        clock = clock_of(self.device)
        samples_s = []
        for turn in range(num_repetitions + 1):
            self._meet()
            clock.hold(HOLD_S)
            begin = clock.mark()
            made.run(*buffers[turn % num_buffers])
            samples_s.append(clock.elapsed_s(begin, clock.mark()))
        # The first is a warm-up.
        return samples_s[1:], error

    def _meet(self) -> None:
        dist.barrier()
        synchronize(self.device)


def leave_group(backend: str) -> None:
    """Leave the process group, whose members may be dead: NCCL would wait for them unless aborted."""
    abort = getattr(distributed_c10d, "_abort_process_group", None)
    if backend == "nccl" and abort is not None:
        abort()
    else:
        dist.destroy_process_group()
