"""Start and kill workers on this machine: ``python -m lazsim.live.nursery`` imports torch once and forks on demand.

It reads a JSON line for each worker to start and answers with its process number. It ends when its input does, and
takes all its workers with it, however they or it end.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import msgspec

from lazsim.live.messages import LiveError


class Birth(msgspec.Struct, frozen=True):
    """A worker to start: where its controller is, its name and number, the secret in hexadecimal, where errors go."""

    host: str
    port: int
    name: str
    local_rank: int
    secret: str
    log: str


class Nursery:
    """Starts workers and kills them.

    Notes
    -----
    Forking from a process that has imported torch takes milliseconds where starting Python takes seconds of both cores,
    which would disturb the workers that train.
    """

    def __enter__(self) -> "Nursery":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lazsim.live.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # An interrupt of the terminal is for the command, which ends the workers in order.
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._workers: dict[str, int] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill_all()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None, "both are pipes"
            stream.close()
        self._process.wait()

    def start(self, birth: Birth) -> None:
        """Start a worker."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None, "both are pipes"  # noqa: PT018
        try:
            stdin.write(msgspec.json.encode(birth) + b"\n")
            stdin.flush()
            answer = stdout.readline()
        except OSError:
            answer = b""
        if not answer:
            raise LiveError("the process that starts workers has ended; its error is above")
        # One that has ended already says why in its log.
        with contextlib.suppress(ProcessLookupError):
            self._workers[birth.name] = os.pidfd_open(int(answer))

    @property
    def is_alive(self) -> bool:
        """Whether it can start workers."""
        return self._process.poll() is None

    @property
    def num_workers(self) -> int:
        """How many of its workers have not ended."""
        # The descriptor of a process becomes readable when that ends.
        ended, _, _ = select.select(self._workers.values(), (), (), 0)
        return len(self._workers) - len(ended)

    def kill(self, name: str) -> None:
        """Kill a worker as a failure does, without a word."""
        self.signal(name, signal.SIGKILL)
        descriptor = self._workers.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def kill_all(self) -> None:
        """Kill every worker."""
        for name in list(self._workers):
            self.kill(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a worker a signal; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError, KeyError):
            signal.pidfd_send_signal(self._workers[name], number)


def _bear(birth: Birth) -> int:
    """Fork a worker; does not return in the child."""
    from lazsim.live.worker import die_with_parent, work

    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(birth.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        address = (birth.host, birth.port)
        code = work(address, birth.name, bytes.fromhex(birth.secret), "127.0.0.1", birth.local_rank)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Read lines, start workers, print their process numbers."""
    from lazsim.live.text import load_text
    from lazsim.live.worker import die_with_parent

    die_with_parent()
    # The kernel takes away what has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    load_text("")
    for line in sys.stdin.buffer:
        print(_bear(msgspec.json.decode(line, type=Birth)), flush=True)


def tail(log: Path) -> str:
    """Return the last line of ours that a worker has written of its errors, else the last of any."""
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()] if log.exists() else []
    own = [line.removeprefix("lazsim: ") for line in lines if line.startswith("lazsim: ")]
    return (own or lines or [""])[-1]


if __name__ == "__main__":
    main()
