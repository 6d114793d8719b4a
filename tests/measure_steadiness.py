"""Measure what moves for little and for much, for docs/guides/serving.md: ``python -m tests.measure_steadiness``."""

import numpy as np

from lazsim.placement.serving import placement_change, rebalance_experts

NUM_LAYERS, NUM_EXPERTS = 16, 256
SERVED = {"num_replicas": 288, "num_groups": 1, "num_nodes": 4, "num_gpus": 32}
"""Slots, nodes and GPUs of a serving deployment of deepseek-v3 with 32 redundant experts."""


def main() -> None:
    """Print the rows of the table."""
    rng = np.random.default_rng(0)
    shape = NUM_LAYERS, NUM_EXPERTS
    loads = rng.zipf(1.3, shape).clip(1, 2000) * 50 + rng.integers(0, 50, shape)
    changes = {
        "one token more for every seventh expert": loads + (np.arange(NUM_EXPERTS) % 7 == 0),
        "every load up or down by up to a fifth": np.rint(loads * rng.uniform(0.8, 1.2, shape)).astype(np.int64),
        "loads given to other experts": rng.permuted(loads, axis=1),
    }
    old = rebalance_experts(loads, **SERVED)[0]
    for name, changed in changes.items():
        for kind, known in (("fresh", None), ("steady", old)):
            new = rebalance_experts(changed, **SERVED, old_global_expert_indices=known)[0]
            print(f"{name}, {kind}: {placement_change(old, new, changed, SERVED['num_gpus'])}", flush=True)


if __name__ == "__main__":
    main()
