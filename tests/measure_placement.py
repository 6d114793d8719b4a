"""Measure what `euclid` wins over published MRO under skewed loads: ``python -m tests.measure_placement``.

Prints the tables of ``docs/guides/euclid.md``: whole-model recovery probability by the number of nodes that fail
together.
First the mean over all iterations of the SmartMoE run at the published cluster sizes, then over some steps of generated
loads of ``deepseek-v3``, since no recording has 256 experts.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lazsim.placement.allocation import allocate
from lazsim.placement.euclid import place_euclid
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import Ints
from lazsim.reliability import recovery_curve
from lazsim.routing.loading import load_routing

SHARED = Path(os.environ.get("LAZSIM_SHARED", Path(__file__).parent.parent.parent / "shared"))
CASES = [("gpt-s", 8, 10), ("gpt-m", 12, 10), ("gpt-l", 16, 10), ("gpt-s", 8, 16), ("gpt-m", 12, 16), ("gpt-l", 16, 16)]
NUM_LAYERS, NUM_SLOTS, FAULT_THRESHOLD = 12, 6, 2

DEEPSEEK_LAYERS, DEEPSEEK_EXPERTS, DEEPSEEK_SLOTS = 58, 256, 32
DEEPSEEK_NODES = (32, 64, 128)
DEEPSEEK_STEPS = (0, 100, 1000, 10_000)


def compare(loads: Sequence[Ints], num_nodes: int, num_slots: int, failures: Sequence[int]) -> np.ndarray:
    """Return the probability for each of the loads, by `mro` and `euclid`, and each number of failures."""
    curves = np.empty((len(loads), 2, len(failures)))
    for row, load_LE in enumerate(loads):
        replicas = allocate(load_LE, num_nodes * num_slots, FAULT_THRESHOLD)
        for column, place in enumerate((place_mro, place_euclid)):
            holds = place(replicas, num_nodes, num_slots).holds_LEN
            curves[row, column] = recovery_curve(holds, failures, "exact").recovery_prob
    return curves


def print_rows(model: str, num_nodes: int, failures: Sequence[int], curves: np.ndarray) -> None:
    """Print a row for each number of failures."""
    for num_failed, (mro, euclid) in zip(failures, curves.transpose(2, 1, 0), strict=True):
        counts = (euclid > mro + 1e-12).sum(), (abs(euclid - mro) <= 1e-12).sum(), (euclid < mro - 1e-12).sum()
        print(
            f"| {model} | {num_nodes} | {num_failed} | {mro.mean():.4f} | {euclid.mean():.4f} | "
            f"{(euclid - mro).max():.3f} | " + " | ".join(map(str, counts)) + " |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    with np.load(SHARED / "routing" / "smartmoe.npz") as file:
        tokens = file["tokens"][:, :NUM_LAYERS]
    print("| model | nodes | failures | mro | euclid | most won | better | equal | worse |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for model, num_experts, num_nodes in CASES:
        top = -np.sort(-tokens, axis=2)[:, :, :num_experts].astype(np.int64)
        failures = range(1, num_nodes)
        print_rows(model, num_nodes, failures, compare(top, num_nodes, NUM_SLOTS, failures))
    generated = load_routing("smartmoe-fit", DEEPSEEK_LAYERS, DEEPSEEK_EXPERTS, seed=0).loads(DEEPSEEK_STEPS)
    for num_nodes in DEEPSEEK_NODES:
        failures = [num_nodes * eighths // 8 for eighths in range(1, 8)]
        print_rows("deepseek-v3", num_nodes, failures, compare(generated, num_nodes, DEEPSEEK_SLOTS, failures))


if __name__ == "__main__":
    main()
