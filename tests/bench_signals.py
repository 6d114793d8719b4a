"""End commands at many moments, by an interrupt and by SIGTERM: ``python -m tests.bench_signals [COUNT]``.

Each end is one line or silence, the right exit code, no process or shared memory left, and no file but a whole one.
Then any process of a live run is killed: no other is left, no traceback, and no file once the next run has begun.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazsim.files.writing import TEMPORARY, scratch_folder
from tests.conftest import end_session, start_session

WAIT_S = 120.0
"""Longest time that a command has to end."""

LEAVE_S = 10.0
"""Longest time that its processes have to follow it."""

SHARED_MEMORY = Path("/dev/shm")
"""Where semaphores and folders of workers lie, with the process that made them in their names."""

SWEEP = """
[base]
trace = "fail-every-5min"
routing = "uniform"
duration = "30min"
system = "lazarus"
[grid]
seed = "0-59"
"""

START = "import sys, lazsim.__main__ as program; print('started', flush=True); program.main()"
"""The command line, which says when its own code runs: an interrupt while Python itself starts is Python's to tell."""

COMMANDS = {
    "help": ["--help"],
    "list": ["list", "policies"],
    "run": ["run", "--trace", "spot-p3-like", "--duration", "4h", "--max-nodes", "10", "--out", "{out}"],
    "recovery": ["recovery", "--nodes", "10", "--slots", "6", "--experts", "16", "--out", "{out}"],
    "sweep": ["sweep", "{sweep}", "--out", "{out}", "--jobs", "2"],
    "experiment": ["experiment", "run", "failures-5min", "--small", "--jobs", "2", "--out", "{out}"],
}

LIVE = ["live", "--nodes", "3", "--trace", "fail-every-5min", "--duration", "10min", "--speedup", "100", "--batch", "6"]
LIVE_S = 12.0
"""Time in which such a run starts and ends."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it said, and its processes and shared memory that are left."""

    code: int
    number: int
    err: str
    left: list[int]
    shared: list[str]

    def problem(self, out: Path | None = None) -> str:
        """Tell what is wrong; empty where nothing is."""
        said = "interrupted" if self.number == signal.SIGINT else "told to end"
        if self.code not in (0, 128 + self.number):
            return f"exit code {self.code}: {self.err[-500:]}"
        told = [line for line in self.err.splitlines() if not line.startswith("note: ")]
        if self.code and told not in ([], [f"lazsim: {said}"]):
            return f"said {self.err[-500:]!r}"
        if self.left:
            return f"{len(self.left)} processes are left"
        if self.shared:
            return f"left {self.shared} in {SHARED_MEMORY}"
        names = [path.name for path in out.rglob("*")] if out is not None and out.exists() else []
        if self.code and (torn := [name for name in names if name.startswith(TEMPORARY)]):
            return f"left {torn}"
        return ""


def end_after(
    start: Callable[..., Any], command: Any, number: int, when: float | Callable[[], Any], *, to_all: bool = False
) -> Ended:
    """Start a command of lazsim, and send it a signal after a time or once something holds."""
    before = set(SHARED_MEMORY.glob("*"))
    process = start(sys.executable, "-c", START, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    begin_s = time.monotonic()
    while process.poll() is None and not (time.monotonic() - begin_s > when if isinstance(when, float) else when()):
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, number) if to_all else process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_S)
    left = left_of(process.pid)
    name = re.compile(rf"(loky-|folder_){process.pid}[-_]")
    # An earlier process of the same number may have left some.
    shared = [path.name for path in set(SHARED_MEMORY.glob("*")) - before if name.search(path.name)]
    return Ended(process.returncode, number, err, left, shared)


def left_of(session: int) -> list[int]:
    """Return the processes of a session that still run after `LEAVE_S`."""
    end_s = time.monotonic() + LEAVE_S
    while (left := list(processes_of(session))) and time.monotonic() < end_s:
        time.sleep(0.05)
    return left


def kill_any(start: Callable[..., Any], count: int) -> Iterator[str]:
    """Kill any process of a live run `count` times, at random moments; yield what is wrong."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = start(sys.executable, "-c", START, *LIVE, env={**os.environ, "TMPDIR": folder}, **streams)
            delay_s = draw.uniform(0.0, LIVE_S)
            time.sleep(delay_s)
            victim = draw.choice([*processes_of(process.pid), 0])
            if victim:
                os.kill(victim, signal.SIGKILL)
            _, err = process.communicate(timeout=WAIT_S)
            left = left_of(process.pid)
            # As the next run does.
            with scratch_folder(Path(folder)):
                pass
            killed = "the command" if victim == process.pid else f"process {victim}"
            if left or os.listdir(folder) or "Traceback" in err:
                rest = f"left {left} and {os.listdir(folder)}, said {err[-500:]!r}"
                yield f"live, {killed} killed after {delay_s:.1f} s: {rest}"


def processes_of(session: int) -> Iterator[int]:
    """Return the processes of a session that still run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, found = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(found) == session and state != "Z":
            yield int(entry.name)


def main() -> None:
    """End each command `COUNT` times by each signal, at times spread over its run."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    problems: Counter[str] = Counter()
    started = []

    def start(*command: object, **options: Any) -> "subprocess.Popen[str]":
        started.append(start_session(*command, **options))
        return started[-1]

    for name, arguments in COMMANDS.items():
        codes: Counter[int] = Counter()
        for turn in range(2 * count):
            with tempfile.TemporaryDirectory() as folder:
                out, spec = Path(folder, "out"), Path(folder, "sweep.toml")
                spec.write_text(SWEEP)
                command = [one.format(out=out, sweep=spec) for one in arguments]
                number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
                delay_s = 0.002 * 1.35 ** (turn // 2)
                ended = end_after(start, command, number, delay_s, to_all=turn % 4 < 2)
                codes[ended.code] += 1
                if problem := ended.problem(out):
                    problems[name] += 1
                    print(f"{name}, {number.name} after {delay_s:.3f} s: {problem}")
                end_session(started.pop())
        print(f"{name}: {2 * count} ends, {problems[name]} wrong; exit codes {dict(sorted(codes.items()))}", flush=True)
    for problem in kill_any(start, count):
        problems["live"] += 1
        print(problem)
        end_session(started[-1])
    print(f"live: {count} kills, {problems['live']} wrong")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
