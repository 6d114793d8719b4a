"""How long allocation and placement take, beside placing replica by replica; ``make growth`` plots how cost grows."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lazsim.placement.allocation import allocate
from lazsim.placement.euclid import place_euclid
from lazsim.placement.mro import place_mro
from lazsim.placement.serving import rebalance_experts
from lazsim.reliability import recovery_curve
from tests.bench_reliability import DEEPSEEK, NUM_LAYERS, Place, least_cpu_s, placed_at_random, zipf_loads
from tests.test_baselines import naive_packing, naive_replicas
from tests.test_policies import published_mro


def plan_from_loads(
    place: Place, num_layers: int = NUM_LAYERS, num_experts: int = 256, num_nodes: int = 128, num_slots: int = 32
) -> Callable[[], object]:
    """Allocate and place skewed loads, by default of deepseek-v3."""
    loads = zipf_loads(num_layers, num_experts, 1.2, np.random.default_rng(0))
    return lambda: place(allocate(loads, num_nodes * num_slots, 2), num_nodes, num_slots)


SERVED = {"num_replicas": 288, "num_nodes": 4, "num_gpus": 32}
"""Slots, nodes and GPUs of a serving deployment of deepseek-v3 with 32 redundant experts."""


def rebalance(**options: object) -> Callable[[], object]:
    """Plan skewed loads of all layers for serving."""
    loads = zipf_loads(NUM_LAYERS, DEEPSEEK["num_experts"], 1.2, np.random.default_rng(0))
    return partial(rebalance_experts, loads, **SERVED, **({"num_groups": 1} | options))


def rebalance_steadily() -> Callable[[], object]:
    """Change such a plan after the loads of all experts have changed by up to a tenth."""
    rng = np.random.default_rng(0)
    loads = zipf_loads(NUM_LAYERS, DEEPSEEK["num_experts"], 1.2, rng)
    old = rebalance_experts(loads, **SERVED, num_groups=1)[0]
    changed = loads * rng.uniform(0.9, 1.1, loads.shape)
    return partial(rebalance_experts, changed, **SERVED, num_groups=1, old_global_expert_indices=old)


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "allocate and place deepseek-v3, 128 nodes, mro": partial(plan_from_loads, place_mro),
    "the same, euclid": partial(plan_from_loads, place_euclid),
    "the same, 24 slots, which do not divide 256": partial(plan_from_loads, place_euclid, num_slots=24),
    "rebalance_experts, 58 x 256, 288 slots": rebalance,
    "the same by the policy eplb": partial(rebalance, policy="eplb"),
    "the same, 8 groups whole on nodes": partial(rebalance, num_groups=8),
    "the same, changed from an old placement": rebalance_steadily,
}
"""Name -> what makes the call that is timed."""


def place_plainly() -> Callable[[], object]:
    """One layer of the same loads, replica by replica."""
    loads = zipf_loads(1, DEEPSEEK["num_experts"], 1.2, np.random.default_rng(0))
    replicas = np.sort(allocate(loads, DEEPSEEK["num_nodes"] * DEEPSEEK["num_slots"], 2)[0]).tolist()
    return lambda: published_mro(replicas, DEEPSEEK["num_nodes"], DEEPSEEK["num_slots"])


def rebalance_plainly() -> Callable[[], object]:
    """All layers of the same loads by DeepSeek's greedy rules (github.com/deepseek-ai/EPLB), replica by replica."""
    loads = zipf_loads(NUM_LAYERS, DEEPSEEK["num_experts"], 1.2, np.random.default_rng(0)).tolist()
    num_replicas, num_gpus = SERVED["num_replicas"], SERVED["num_gpus"]
    room = [num_replicas // num_gpus] * num_gpus

    def call() -> list[list[list[int]]]:
        return [naive_packing(load, naive_replicas(load, num_replicas), num_gpus, room) for load in loads]

    return call


REFERENCES: dict[str, tuple[Callable[[], Callable[[], object]], float]] = {
    "allocate and place deepseek-v3, 128 nodes, mro": (place_plainly, NUM_LAYERS),
    "rebalance_experts, 58 x 256, 288 slots": (rebalance_plainly, 1),
}
"""Case -> what makes the call of the plain way, and how many times longer the whole of it takes."""

SIZES = {
    "layers": (1, 4, 16, 58, 116),
    "experts": (32, 64, 128, 256, 512),
    "nodes": (16, 32, 64, 128, 256, 512),
}


def growth(repeat: int = 3) -> list[tuple[str, str, int, float]]:
    """Time each part along each axis from deepseek-v3 on: part, axis, size, least CPU seconds of several."""
    rows = []
    for axis, sizes in SIZES.items():
        for size in sizes:
            num_nodes = size if axis == "nodes" else DEEPSEEK["num_nodes"]
            for place in (place_euclid, placed_at_random):
                call = plan_from_loads(place, **{f"num_{axis}": size})
                holds = call().holds_LEN
                curve = partial(recovery_curve, holds, range(num_nodes + 1), "auto", np.random.default_rng(0))
                name = place.__name__.removeprefix("place_").replace("_", " ")
                parts = {f"recovery, {name}": curve}
                if place is place_euclid:
                    parts = {"allocation and placement, euclid": call, **parts}
                rows += [(part, axis, size, least_cpu_s(part_call, repeat)) for part, part_call in parts.items()]
    return rows


def plot_growth(
    rows: Sequence[tuple[str, str, float, float]], sizes_of: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Draw the cost of each part along each axis."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    from lazsim.output.plots.style import LOOKS, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(sizes_of), figsize=(7.2, 2.4), sharey=True, layout="constrained")
        for panel, (axis, sizes) in zip(axes, sizes_of.items(), strict=True):
            for look, part in zip(LOOKS, dict.fromkeys(row[0] for row in rows), strict=False):
                points = [(size, seconds) for name, along, size, seconds in rows if (name, along) == (part, axis)]
                panel.loglog(*zip(*points, strict=True), marker="o", markersize=3, color=look.color, label=part)
            panel.set_xlabel(axis)
            panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
            panel.minorticks_off()
        axes[0].set_ylabel("CPU time (s)")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes[0].yaxis.set_major_formatter("{x:g}")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    plot_growth(growth(), SIZES, Path(sys.argv[1]))
