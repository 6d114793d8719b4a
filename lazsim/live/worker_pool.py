"""Start and kill workers on this machine: ``python -m lazsim.live.worker_pool TEXT`` imports torch, forks on demand.

It reads a JSON line for each worker to start and answers with the worker's process number. It ends when its input
ends, and all its workers end with it.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import Self

import msgspec

from lazsim.files import when_possible
from lazsim.live.messages import LiveError
from lazsim.live.worker import end_on_signals, run_worker

PR_SET_PDEATHSIG = 1

END_TIMEOUT_S = 5.0
"""Longest wait for the end of a worker that was killed: the kernel first frees its memory."""


class WorkerArgs(msgspec.Struct, frozen=True):
    """Arguments of a worker process: `secret` is hexadecimal, `log` the file for its errors."""

    host: str
    port: int
    name: str
    local_rank: int
    secret: str
    log: str


class WorkerPool:
    """Worker processes of this machine; a context manager that ends all of them.

    A fork of a process that has imported torch and read the `text` takes milliseconds. A new Python takes seconds of
    both cores, which would disturb the workers that train.
    """

    def __init__(self, text: str = "") -> None:
        self._text = text

    def __enter__(self) -> Self:
        self._process = when_possible(
            lambda: subprocess.Popen(
                [sys.executable, "-m", "lazsim.live.worker_pool", self._text],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An interrupt of the terminal is for the command, which ends the workers in order.
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"  # noqa: PT018
        self._input, self._output = self._process.stdin, self._process.stdout
        self._workers: dict[str, int] = {}
        self._killed: list[int] = []
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill_all()
        self._process.kill()
        self._output.close()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._process.wait()

    def start(self, args: WorkerArgs) -> None:
        """Start a worker; raise a LiveError where the pool's process has ended or none can be added."""
        try:
            self._input.write(msgspec.json.encode(args) + b"\n")
            self._input.flush()
            answer = self._output.readline()
        except OSError:
            answer = b""
        if not answer:
            raise LiveError("the process that starts workers has ended; its error is above")
        if not answer.strip().isdigit():
            raise LiveError(f"{args.name}: cannot be started ({answer.decode().strip()})")
        try:
            self._workers[args.name] = when_possible(lambda: os.pidfd_open(int(answer)))
        except ProcessLookupError:
            # A worker that has ended already says why in its log.
            pass
        except OSError as error:
            raise LiveError(f"{args.name}: cannot be started ({error.strerror})") from None

    @property
    def is_alive(self) -> bool:
        """Whether the pool can start workers."""
        return self._process.poll() is None

    @property
    def num_workers(self) -> int:
        """Workers that have not ended."""
        return sum(map(self.is_running, self._workers))

    def is_running(self, name: str) -> bool:
        """Tell whether a worker was started, and has neither been killed nor ended by itself."""
        # The descriptor of a process becomes readable when the process ends.
        return name in self._workers and not wait([self._workers[name]], 0)

    def kill(self, name: str) -> None:
        """Kill a worker without warning, as a failure does."""
        self.signal(name, signal.SIGKILL)
        if name in self._workers:
            self._killed.append(self._workers.pop(name))
        self._forget_ended(0)

    def kill_all(self) -> None:
        """Kill every worker, and wait until they have ended: they write no more."""
        for name in list(self._workers):
            self.kill(name)
        while self._killed and self._forget_ended(END_TIMEOUT_S):
            pass

    def _forget_ended(self, timeout_s: float) -> bool:
        """Close the descriptors of killed workers once the first of them have ended; return whether any has in time."""
        found = wait(self._killed, timeout_s)
        for descriptor in [one for one in self._killed if one in found]:
            self._killed.remove(descriptor)
            os.close(descriptor)
        return bool(found)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker, if it has not ended."""
        with contextlib.suppress(ProcessLookupError, KeyError):
            signal.pidfd_send_signal(self._workers[name], number)


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; end at once if it has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork_worker(args: WorkerArgs) -> int:
    """Fork a worker; does not return in the child."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _die_with_parent(parent)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        code = run_worker((args.host, args.port), args.name, bytes.fromhex(args.secret), "127.0.0.1", args.local_rank)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Read lines, start workers, print their process numbers, or why one cannot be started."""
    end_on_signals()
    # A parent that is gone by now has closed the input, which ends the loop below.
    _die_with_parent(os.getppid())
    # The kernel reaps processes that end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Workers find in memory what takes seconds.
    importlib.import_module("lazsim.live.generation")
    importlib.import_module("lazsim.live.text").load_text(sys.argv[1])
    for line in sys.stdin.buffer:
        args = msgspec.json.decode(line, type=WorkerArgs)
        try:
            answer = str(when_possible(lambda args=args: _fork_worker(args)))  # type: ignore[misc]
        except OSError as error:
            answer = str(error.strerror)
        print(answer, flush=True)


def last_error(log: Path) -> str:
    """Return the last line that lazsim wrote to the log of workers, else the last line."""
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()] if log.exists() else []
    own = [line.removeprefix("lazsim: ") for line in lines if line.startswith("lazsim: ")]
    return (own or lines or [""])[-1]


if __name__ == "__main__":
    main()
