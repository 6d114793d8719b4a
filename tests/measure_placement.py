"""Measure what `euclid` wins over published MRO on a real training run: ``python -m tests.measure_placement``.

Prints the table of ``docs/placement.md``: whole-model recovery probability, the mean over all iterations of the
SmartMoE run, by the number of nodes that fail together.
"""

import os
from pathlib import Path

import numpy as np

from lazsim.placement.allocation import allocate
from lazsim.placement.euclid import place_euclid
from lazsim.placement.mro import place_mro
from lazsim.recovery import recovery_curve

SHARED = Path(os.environ.get("LAZSIM_SHARED", Path(__file__).parent.parent.parent / "shared"))
CASES = [("gpt-s", 8, 10), ("gpt-m", 12, 10), ("gpt-l", 16, 10), ("gpt-s", 8, 16), ("gpt-m", 12, 16), ("gpt-l", 16, 16)]
NUM_LAYERS, NUM_SLOTS, FAULT_THRESHOLD = 12, 6, 2


def main() -> None:
    """Print the table."""
    with np.load(SHARED / "routing" / "smartmoe.npz") as file:
        tokens = file["tokens"][:, :NUM_LAYERS]
    print("| model | nodes | failures | mro | euclid | iterations better | equal | worse |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model, num_experts, num_nodes in CASES:
        top = -np.sort(-tokens, axis=2)[:, :, :num_experts].astype(np.int64)
        failures = range(num_nodes)
        curves = np.empty((len(top), 2, num_nodes))
        for iteration, load in enumerate(top):
            replicas = allocate(load, num_nodes * NUM_SLOTS, FAULT_THRESHOLD)
            for column, place in enumerate((place_mro, place_euclid)):
                holds = place(replicas, num_nodes, NUM_SLOTS).holds_LEN
                curves[iteration, column] = recovery_curve(holds, failures, "exact").recovery_prob
        for num_failed in range(1, num_nodes * 6 // 10 + 1):
            mro, euclid = curves[:, :, num_failed].T
            counts = (euclid > mro + 1e-12).sum(), (abs(euclid - mro) <= 1e-12).sum(), (euclid < mro - 1e-12).sum()
            print(
                f"| {model} | {num_nodes} | {num_failed} | {mro.mean():.3f} | {euclid.mean():.3f} | "
                + " | ".join(map(str, counts))
                + " |"
            )


if __name__ == "__main__":
    main()
