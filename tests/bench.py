"""Time the simulator, placement, recovery and the command line: ``make bench``, or ``python -m tests.bench P3 growth``.

Words choose the parts whose names have one of them; without any, all are timed.

Each time is the least CPU time of several runs, beside its ratio to a yardstick timed in the same run (a fixed loop of
small numpy calls), since machines differ and are noisy. Peak memory is that of the process that ran the case. Where
there is a plain way to the same result, a line below says how many times longer that takes in the same run. Then
follows how the cost of runs grows with nodes, days, failures and layers, and that of placement and recovery with
layers, experts and nodes.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import bench_placement, bench_reliability, bench_runs
from tests.bench_reliability import least_cpu_s

ROOT = Path(__file__).parent.parent


def yardstick() -> None:
    """Make 20,000 small numpy calls, the kind of work that a replay is made of."""
    values = np.ones((12, 16))
    for _ in range(10_000):
        (values * values).sum(axis=1)


CASES: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    **bench_runs.CASES,
    **{name: (prepare, 5) for name, prepare in (bench_placement.CASES | bench_reliability.CASES).items()},
}
REFERENCES = bench_runs.REFERENCES | bench_placement.REFERENCES | bench_reliability.REFERENCES


def measure(name: str) -> None:
    """Print one case as JSON; run in a process of its own."""
    prepare, repeat = CASES[name]
    call = prepare()
    if repeat > 1:
        call()
    yardstick_s = least_cpu_s(yardstick, 5)
    seconds = least_cpu_s(call, repeat)
    # The plain way may take more.
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    plain_s = None
    if name in REFERENCES:
        prepare_plain, factor = REFERENCES[name]
        plain_s = least_cpu_s(prepare_plain(), 1) * factor
    print(json.dumps({"seconds": seconds, "ratio": seconds / yardstick_s, "peak_mib": peak_mib, "plain_s": plain_s}))


MEASURE = "--measure"
"""Asks a process of its own for one case, as JSON."""
HELP, GROWTH = "lazsim --help, interpreter included", "growth"


def main(words: list[str]) -> None:
    """Measure the parts asked for, or all, and print a table."""
    parts = [name for name in (*CASES, HELP, GROWTH) if not words or any(word in name for word in words)]
    print(f"{'case':50} {'time':>8} {'x yardstick':>12} {'peak memory':>12}")
    for name in parts:
        if name not in CASES:
            continue
        command = [sys.executable, "-m", "tests.bench", MEASURE, name]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        found = json.loads(done.stdout)
        print(f"{name:50} {found['seconds']:7.3f}s {found['ratio']:12.1f} {found['peak_mib']:8.0f} MiB")
        if found["plain_s"] is not None:
            times = found["plain_s"] / found["seconds"]
            print(f"{'  the plain way':50} {found['plain_s']:7.1f}s {times:12,.0f} times as long")
    if HELP in parts:
        help_s = min(help_cpu_s() for _ in range(5))
        print(f"{HELP:50} {help_s:7.3f}s {help_s / least_cpu_s(yardstick, 5):12.1f}")
    if GROWTH in parts:
        print_growth()


def help_cpu_s() -> float:
    """Return the CPU seconds of a process that prints the help."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lazsim", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_growth() -> None:
    """Print how cost grows along each axis; ``make growth`` draws it."""
    for title, rows, sizes_of in (
        (
            "runs of gpt-l under lazarus, half a day of 16 nodes that fail every other day",
            bench_runs.growth(),
            bench_runs.SIZES,
        ),
        ("58 layers, 256 experts, 128 nodes of 32 slots", bench_placement.growth(repeat=1), bench_placement.SIZES),
    ):
        print(f"\ngrowth from {title}, in ms of CPU (make growth draws it)")
        for axis, sizes in sizes_of.items():
            print(f"  {axis:36}" + "".join(f"{size:>8g}" for size in sizes))
            for part in dict.fromkeys(row[0] for row in rows):
                times = [1e3 * seconds for name, along, _, seconds in rows if (name, along) == (part, axis)]
                print(f"    {part:34}" + "".join(f"{time_ms:8.1f}" for time_ms in times))


if __name__ == "__main__":
    if MEASURE in sys.argv:
        measure(sys.argv[-1])
    else:
        main(sys.argv[1:])
