"""Hold sampled runs against exact ones over seeds, for docs/guides/speed.md: ``python -m tests.measure_sampling``."""

import math
import sys

import numpy as np

import lazsim

COUNTS = ("failures", "reconfigurations", "restarts", "rebalances", "checkpoints", "lost_steps")
STUDENT_T = 2.09
"""Half of the 95 % interval of the mean of 20 differences, in standard errors: 19 degrees of freedom."""

NUM_SEEDS = 20


def main() -> None:
    """Print the means of both, of their difference, and half of the interval of that."""
    counts = {name: np.empty((NUM_SEEDS, 2)) for name in (*COUNTS, "samples")}
    num_missed = 0
    for seed in range(NUM_SEEDS):
        settings = {"model": "gpt-l", "max_nodes": 10, "seed": seed, "cluster.nodes_per_server": 1}
        exact, sampled = (
            lazsim.simulate("spot-p3-like", systems=["lazarus"], planning=planning, **settings).runs[0]
            for planning in ("exact", "sampled")
        )
        for name, values in counts.items():
            values[seed] = [run.samples if name == "samples" else run.counts[name] for run in (exact, sampled)]
        num_missed += abs(exact.samples / sampled.samples - 1) > sampled.samples_error
        print(f"seed {seed}", file=sys.stderr)
    print(f"{'mean of ' + str(NUM_SEEDS) + ' seeds':18} {'exact':>12} {'sampled':>12} {'difference':>12} {'+-':>10}")
    for name, values in counts.items():
        differences = values[:, 1] - values[:, 0]
        half = STUDENT_T * differences.std(ddof=1) / math.sqrt(NUM_SEEDS)
        print(
            f"{name:18} {values[:, 0].mean():12.2f} {values[:, 1].mean():12.2f} {differences.mean():12.3f} {half:10.3f}"
        )
    print(f"samples outside of the error told: {num_missed} of {NUM_SEEDS} runs")


if __name__ == "__main__":
    main()
