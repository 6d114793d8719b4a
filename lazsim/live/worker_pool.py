"""Start and kill workers on this machine: forks of a process that has imported torch."""

import atexit
import contextlib
import errno
import os
import signal
import tempfile
import threading
from functools import partial
from multiprocessing import current_process, forkserver, get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn, Self

from lazsim.errors import LazsimError
from lazsim.files.writing import scratch_folder
from lazsim.live.messages import LiveError
from lazsim.live.worker import run_worker
from lazsim.processes import end_with_parent, starting_processes, when_possible

END_TIMEOUT_S = 5.0
"""Longest wait for the end of a worker that was killed: the kernel first frees its memory."""

STUCK_S = 30.0
"""A fork server that starts nothing and gets no processor for that long hangs: one that imports torch on a machine with
much else to do gets some."""

UNKNOWN_EXIT_CODE = 255
"""What Python takes for the exit code of a worker whose fork server was killed, whether it has ended or not."""


class WorkerPool:
    """Worker processes of this machine; a context manager that ends all of them.

    Python's fork server starts them within milliseconds. A new Python takes seconds of both cores, which would disturb
    the workers that train. The server stays as long as this process.
    """

    def __init__(self) -> None:
        self._context = get_context("forkserver")
        self._workers: dict[str, ForkServerProcess] = {}
        self._killed: list[ForkServerProcess] = []

    def __enter__(self) -> Self:
        self._context.set_forkserver_preload(["lazsim.live.fork_server"])
        with starting_processes():
            _choose_folder()
            try:
                when_possible(forkserver.ensure_running)
            except OSError as error:
                # Python raises one without a number.
                if error.errno is not None:
                    raise
                folder = tempfile.gettempdir()
                raise LazsimError(f"{folder}: too long a path for a socket; set TMPDIR to a shorter one") from None
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill_all()

    def start(self, name: str, address: tuple[str, int], secret: bytes, local_rank: int, log: Path) -> None:
        """Start a worker that writes its errors to a log; raise a LiveError where none can be added."""
        arguments = (str(log), address, name, secret, local_rank)
        worker = self._context.Process(target=_work, args=arguments, daemon=True)
        try:
            with starting_processes():
                when_possible(partial(_start, worker))
                # Before the end of the block, which may raise an interrupt that has waited.
                self._workers[name] = worker
        except OSError as error:
            raise LiveError(f"{name}: cannot be started ({error.strerror})") from None

    @property
    def num_workers(self) -> int:
        """Workers that have not ended."""
        return sum(map(self.is_running, self._workers))

    def is_running(self, name: str) -> bool:
        """Tell whether a worker was started, and has neither been killed nor ended by itself."""
        return name in self._workers and self._workers[name].is_alive()

    def kill(self, name: str) -> None:
        """Kill a worker without warning, as a failure does."""
        if name in self._workers:
            worker = self._workers.pop(name)
            if worker.exitcode == UNKNOWN_EXIT_CODE:
                # To the worker, its parent has ended.
                worker.close()
                return
            worker.kill()
            self._killed.append(worker)
        self._killed = [worker for worker in self._killed if worker.is_alive()]

    def kill_all(self) -> None:
        """Kill every worker, and wait until they have ended: they write no more."""
        for name in list(self._workers):
            self.kill(name)
        for worker in self._killed:
            worker.join(END_TIMEOUT_S)
            if worker.is_alive():
                _kill_server()
        self._killed.clear()


def _choose_folder() -> None:
    """Let multiprocessing have its sockets in a folder that goes with the next run where this process is killed."""
    options: dict[str, Any] = current_process()._config  # type: ignore[attr-defined]
    if options.get("tempdir") is None:
        folder = contextlib.ExitStack()
        options["tempdir"] = str(folder.enter_context(scratch_folder()))
        # By itself it takes seconds to unload torch, and would be there after the command.
        folder.callback(_kill_server)
        atexit.register(folder.close)


def _start(worker: ForkServerProcess) -> None:
    """Start a worker; where the fork server has ended, as for want of processes, the next call starts another."""
    has_started = threading.Event()
    try:
        threading.Thread(target=_kill_stuck_server, args=(has_started,), daemon=True).start()
        worker.start()
    # The last where no thread can start.
    except (EOFError, ConnectionError, RuntimeError):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    finally:
        has_started.set()


def _kill_stuck_server(has_started: threading.Event) -> None:
    """Kill the fork server once it has done nothing for `STUCK_S`, unless the worker has started."""
    before = b""
    while not has_started.wait(STUCK_S):
        # Its processor time and page faults are among what the system tells of it.
        with contextlib.suppress(OSError):
            now = Path(f"/proc/{_server_pid()}/stat").read_bytes()
            if now == before:
                _kill_server()
            before = now


def _kill_server() -> None:
    """Kill the fork server; Python waits without end for what one that hangs, as after SIGSTOP, tells of workers."""
    if (pid := _server_pid()) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _server_pid() -> Any:
    """Return the number of the fork server; none before it starts."""
    server: Any = forkserver._forkserver
    return server._forkserver_pid


def _work(log: str, address: tuple[str, int], name: str, secret: bytes, local_rank: int) -> NoReturn:
    """Be a worker, as long as the process that has started it is there."""
    end_with_parent()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    run_worker(address, name, secret, "127.0.0.1", local_rank)


def last_error(log: Path, told: str) -> str:
    """Return the last line that lazsim wrote to the log of workers, else the last line, but for what they were told."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    lines = [line for line in lines if line.strip() and line != f"lazsim: {told}"]
    own = [line.removeprefix("lazsim: ") for line in lines if line.startswith("lazsim: ")]
    return (own or lines or [""])[-1]
