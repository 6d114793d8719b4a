"""Time a sweep of 1,000 runs with one worker and with two: ``python -m tests.bench_sweep``.

Both are measured in this run, in turn, and the least wall time of each counts. So does that of two processes that have
half of the runs each and nothing in common: no more is to be had from two cores that share caches, and a machine with
others. CPU seconds, of this process and of its workers, tell what two workers cost more.
"""

import resource
import subprocess
import sys
import time

from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import Sweep, parse_sweep

NUM_RUNS = 1000
REPEAT = 3


def thousand_runs() -> Sweep:
    """250 seeds of the published schedule of failures, four systems each."""
    base = {"trace": "fail-every-5min", "model": "gpt-s", "seed": f"0-{NUM_RUNS // 4 - 1}"}
    return parse_sweep({"base": base, "grid": {"system": ["lazarus", "ds-ft", "ds", "tutel"]}})


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those of its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(num_workers: int) -> tuple[float, float]:
    """Return wall and CPU seconds of the sweep, the start of workers included."""
    from joblib.externals.loky import get_reusable_executor

    start_s, start_cpu_s = time.perf_counter(), cpu_s()
    rows = run_sweep(thousand_runs(), num_workers=num_workers).rows
    wall_s = time.perf_counter() - start_s
    assert len(rows) == NUM_RUNS
    if num_workers > 1:
        get_reusable_executor().shutdown(wait=True)
    return wall_s, cpu_s() - start_cpu_s


def measure_apart() -> float:
    """Return the wall seconds of two processes with half of the runs each, their start included."""
    start_s = time.perf_counter()
    halves = [
        subprocess.Popen([sys.executable, "-m", "tests.bench_sweep", f"{first}-{first + NUM_RUNS // 8 - 1}"])
        for first in (0, NUM_RUNS // 8)
    ]
    assert [half.wait() for half in halves] == [0, 0], "both halves are run"
    return time.perf_counter() - start_s


def main() -> None:
    """Print times, and how many times as fast two workers are."""
    # Code and caches that the first run warms up are no part of any.
    run_sweep(thousand_runs().changed({"seed": 0}), num_workers=1)
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    apart_s = []
    for _ in range(REPEAT):
        for num_workers, measured in times.items():
            measured.append(measure(num_workers))
        apart_s.append(measure_apart())
    for num_workers, measured in times.items():
        walls = ", ".join(f"{wall_s:.2f}" for wall_s, _ in measured)
        print(f"{NUM_RUNS} runs, {num_workers} workers: {walls} s; CPU {min(cpu for _, cpu in measured):.2f} s")
    one, two = (min(wall_s for wall_s, _ in times[number]) for number in (1, 2))
    walls = ", ".join(f"{wall_s:.2f}" for wall_s in apart_s)
    print(f"{NUM_RUNS} runs, 2 processes apart: {walls} s")
    print(f"2 workers are {one / two:.2f} times as fast as 1, 2 processes apart {one / min(apart_s):.2f} times")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        assert len(run_sweep(thousand_runs().changed({"seed": sys.argv[1]}), num_workers=1).rows) == NUM_RUNS // 2
    else:
        main()
