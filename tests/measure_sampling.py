"""Hold sampled runs against exact ones over fixed seeds, for docs/guides/speed.md.

``python -m tests.measure_sampling`` prints the rows of its table; words keep the regimes whose names have one of them.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.test_sampling import both, failing_nodes

Inputs = tuple[Any, dict[str, Any]]


def spot(seed: int) -> Inputs:
    """Return a trace on which nodes change as often as plans, and the settings."""
    return "spot-p3-like", {"systems": ["lazarus"], "model": "gpt-l", "max_nodes": 10, "seed": seed, **ALONE}


def failing(num_nodes: int, hours: float, node_mtbf_h: float, seed: int, **settings: Any) -> Inputs:
    """Return failures at random on loads that drift or have hardly any memory, and the settings of GPT-S."""
    rng = np.random.default_rng(seed)
    loads = {
        "routing.skew": f"x{rng.uniform(0.3, 1.2):.2f}",
        "routing.slow_steps": float(10 ** rng.uniform(3, 5)),
        "routing.fast_share": float(rng.choice([0.0005, 0.1, 0.5])),
    }
    trace = failing_nodes(rng, num_nodes, hours, node_mtbf_h)
    return trace, {"systems": ["lazarus"], "model": "gpt-s", "seed": seed, **ALONE, **loads, **settings}


def few_nodes(seed: int) -> Inputs:
    """Return a run of 5 to 10 nodes that fail rarely or often, long enough for blocks of windows."""
    rng = np.random.default_rng(seed)
    num_nodes, node_mtbf_h = int(rng.integers(5, 11)), float(rng.choice([5, 20, 100]))
    return failing(num_nodes, 3.0, node_mtbf_h, seed)


def fixed_plans(seed: int) -> Inputs:
    """Return such a run under a system whose plans do not change."""
    trace, settings = few_nodes(seed)
    return trace, settings | {"systems": [("ds", "ds-ft", "tutel", "tutel-ft")[seed % 4]]}


ALONE = {"cluster.nodes_per_server": 1}
SELDOM = {"job.rebalance_interval_steps": 2000}
REGIMES: dict[str, Callable[[int], Inputs]] = {
    "spot trace": spot,
    "24 nodes, each fails every 36 minutes": partial(failing, 24, 3.0, 0.6),
    "24 nodes, each fails every 15 minutes": partial(failing, 24, 3.0, 0.25),
    "8 nodes, plans change every 2,000 steps": partial(failing, 8, 24.0, 20.0, **SELDOM),
    "24 nodes, plans change every 2,000 steps": partial(failing, 24, 24.0, 5.0, **SELDOM),
    "5 to 10 nodes": few_nodes,
    "plans do not change": fixed_plans,
    "without checkpoints": partial(failing, 8, 3.0, 5.0, interval=0),
}
NUM_SEEDS = 20


def main() -> None:
    """Print of each regime how many runs were further off than told, and the median told and of what was found."""
    for name, inputs in REGIMES.items():
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        runs = [both(*inputs(seed)) for seed in range(NUM_SEEDS)]
        print(row(name, [(exact.samples, sampled.samples, sampled.samples_error) for exact, sampled in runs]))


def row(name: str, runs: list[tuple[float, float, float]]) -> str:
    """Return a row of the table: samples of exact and sampled runs, and the error told."""
    exact, sampled, told = np.array(runs).T
    off = exact / sampled - 1
    num_off = int((np.abs(off) > told).sum())
    largest, mean = float(np.quantile(np.abs(off), 0.95)), float(off.mean())
    return f"| {name} | {num_off} of {len(runs)} | {np.median(told):.1%} | {largest:.1%} | {mean:+.2%} |"


if __name__ == "__main__":
    main()
