"""Processes of this machine that exchange messages, started, commanded and ended by the parent."""

import os
import signal
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lazsim.errors import LazsimError
from lazsim.profiling.worker import serve

TIMEOUT_S = 60.0
"""Longest time of an answer beyond the expected time of the exchange."""


class Ranks:
    """Processes that exchange messages; none is left when the context ends."""

    def __init__(self, num_ranks: int, backend: str, device: str, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.doing = "starting"
        if backend == "gloo":
            # By default gloo looks up the host's name, which need not lead to an interface of this machine.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []
        context = get_context("spawn")
        for rank in range(num_ranks):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, self._store.port, backend, device, timeout_s)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def __enter__(self) -> "Ranks":
        try:
            self._gather(self.timeout_s)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids by rank."""
        return [process.pid or 0 for process in self._processes]

    def ask(self, doing: str, *command: Any, expected_s: float = 0.0) -> list[Any]:
        """Let all processes do something; return their answers.

        Raises
        ------
        LazsimError
            When one dies, fails or does not answer in time.
        """
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
            if failed is not None and not ready:
                raise LazsimError(f"process of rank {failed[0]} failed while {self.doing}: {failed[1]}")
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
