"""Time the simulator, placement, recovery and the command line: ``make bench``.

Each time is the least of several runs, beside its ratio to a yardstick timed in the same run (a fixed loop of small
numpy calls), since machines differ and are noisy. Peak memory is that of the process that ran the case. Where there is
a plain way to the same result, a line below says how many times longer that takes in the same run. Then follows how
placement and recovery grow with layers, experts and nodes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lazsim
from tests import bench_placement, bench_reliability

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("LAZSIM_SHARED", ROOT.parent / "shared"))
P3 = SHARED / "traces" / "bamboo" / "p3-trace.csv"

DAY_S = 86400.0
FAILURES_PER_NODE_DAY = 6.5e-3
"""The higher of the rates of two dedicated clusters (Meta RSC, arXiv 2410.21680)."""

REPAIR_S = 3600.0
"""*Assumption*: an hour until a failed node is replaced."""


def least_s(call: Callable[[], object], repeat: int) -> float:
    """Return the least seconds of several calls."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def yardstick() -> None:
    """Make 20,000 small numpy calls, the kind of work that a replay is made of."""
    values = np.ones((12, 16))
    for _ in range(10_000):
        (values * values).sum(axis=1)


def replay_p3(cluster: str, max_nodes: int | None = None) -> Callable[[], object]:
    """Replay the P3 trace (or the bundled one that is fitted to it) for gpt-l under lazarus."""
    path = P3 if P3.exists() else ROOT / "traces" / "spot-p3-like.csv"
    trace = lazsim.load_trace(str(path), max_nodes=max_nodes)
    return lambda: lazsim.simulate(trace, model="gpt-l", cluster=cluster, systems=["lazarus"])


def failing_nodes(
    num_nodes: int, num_days: float, per_node_day: float = FAILURES_PER_NODE_DAY, seed: int = 0
) -> lazsim.Trace:
    """Let nodes fail independently, and come back after `REPAIR_S`."""
    rng = np.random.default_rng(seed)
    events = [lazsim.Event(0.0, "add", f"node{node}") for node in range(num_nodes)]
    for node in range(num_nodes):
        time_s = rng.exponential(DAY_S / per_node_day)
        while time_s < num_days * DAY_S:
            events.append(lazsim.Event(time_s, "remove", f"node{node}"))
            time_s += REPAIR_S
            events.append(lazsim.Event(time_s, "add", f"node{node}"))
            time_s += rng.exponential(DAY_S / per_node_day)
    events = [event for event in events if event.time_s < num_days * DAY_S]
    return lazsim.build_trace(sorted(events, key=lambda event: event.time_s), duration_s=num_days * DAY_S)


def replay_days(num_nodes: int, num_days: float, planning: str, **settings: Any) -> Callable[[], object]:
    """Replay days of deepseek-v3, unless settings say otherwise, on nodes that fail and come back."""
    trace = failing_nodes(num_nodes, num_days)
    chosen = {"model": "deepseek-v3", "cluster": "h200x128", "systems": ["lazarus"], **settings}
    return lambda: lazsim.simulate(trace, planning=planning, **chosen)


CASES: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "P3 trace, 682 min, gpt-l, lazarus, on p3x32": (lambda: replay_p3("p3x32"), 5),
    "the same held to the ten nodes of rtx3090x10": (lambda: replay_p3("rtx3090x10", 10), 5),
    "the same on 32 nodes such as those": (lambda: replay_p3("rtx3090x10"), 5),
    "30 days of 128 nodes, deepseek-v3, lazarus": (lambda: replay_days(128, 30, "sampled"), 1),
    "a year of 512 nodes, deepseek-v3, lazarus": (lambda: replay_days(512, 365, "auto"), 1),
    **{name: (prepare, 5) for name, prepare in (bench_placement.CASES | bench_reliability.CASES).items()},
}
REFERENCES = {
    # The plain way to a run is to make every plan.
    "30 days of 128 nodes, deepseek-v3, lazarus": (lambda: replay_days(128, 30, "exact"), 1.0),
    **bench_placement.REFERENCES,
    **bench_reliability.REFERENCES,
}


def measure(name: str) -> None:
    """Print one case as JSON; run in a process of its own."""
    prepare, repeat = CASES[name]
    call = prepare()
    if repeat > 1:
        call()
    yardstick_s = least_s(yardstick, 5)
    seconds = least_s(call, repeat)
    plain_s = None
    if name in REFERENCES:
        prepare_plain, factor = REFERENCES[name]
        plain_s = least_s(prepare_plain(), 1) * factor
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "ratio": seconds / yardstick_s, "peak_mib": peak_mib, "plain_s": plain_s}))


def main() -> None:
    """Measure every case and print a table."""
    print(f"{'case':50} {'time':>8} {'x yardstick':>12} {'peak memory':>12}")
    for name in CASES:
        command = [sys.executable, "-m", "tests.bench", name]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        found = json.loads(done.stdout)
        print(f"{name:50} {found['seconds']:7.3f}s {found['ratio']:12.1f} {found['peak_mib']:8.0f} MiB")
        if found["plain_s"] is not None:
            times = found["plain_s"] / found["seconds"]
            print(f"{'  the plain way':50} {found['plain_s']:7.1f}s {times:12,.0f} times as long")
    help_s = least_s(
        lambda: subprocess.run([sys.executable, "-m", "lazsim", "--help"], check=True, capture_output=True), 5
    )
    print_growth()
    print(f"{'lazsim --help, interpreter included':50} {help_s:7.3f}s {help_s / least_s(yardstick, 5):12.1f}")


def print_growth() -> None:
    """Print how long parts take along each axis, all else as in deepseek-v3; ``make growth`` draws it."""
    print("\ngrowth from 58 layers, 256 experts, 128 nodes of 32 slots, in ms (make growth draws it)")
    rows = bench_placement.growth(repeat=1)
    for axis, sizes in bench_placement.SIZES.items():
        print(f"  {axis.removeprefix('num_'):36}" + "".join(f"{size:>8}" for size in sizes))
        for part in dict.fromkeys(row[0] for row in rows):
            times = [1e3 * seconds for name, along, _, seconds in rows if (name, along) == (part, axis)]
            print(f"    {part:34}" + "".join(f"{time_ms:8.1f}" for time_ms in times))
    print()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()
