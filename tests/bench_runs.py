"""Whole runs that ``make bench`` times, and how their cost grows, which ``make growth`` plots."""

import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import lazsim
from lazsim.specs.overrides import override
from lazsim.stepmodel.loading import load_inputs
from lazsim.stepmodel.passes import interleaved_passes
from lazsim.stepmodel.predict import predict_step
from lazsim.stepmodel.search import search_layouts
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace import generate_trace
from lazsim.trace.recipes import MtbfSpec
from tests.bench_placement import plot_growth
from tests.bench_reliability import least_cpu_s

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("LAZSIM_SHARED", ROOT.parent / "shared"))
P3 = SHARED / "traces" / "bamboo" / "p3-trace.csv"

DAY_S = 86400.0
FAILURES_PER_NODE_DAY = 6.5e-3
"""The higher of the rates of two dedicated clusters (Meta RSC-1, arXiv 2410.21680)."""

REPAIR_S = 3600.0
"""*Assumption*: an hour until a failed node is replaced."""


def replay_p3(cluster: str, max_nodes: int | None = None) -> Callable[[], object]:
    """Replay the P3 trace (or the bundled one that is fitted to it) for gpt-l under lazarus."""
    path = P3 if P3.exists() else ROOT / "traces" / "spot-p3-like.csv"
    trace = lazsim.load_trace(str(path), max_nodes=max_nodes)
    return partial(lazsim.simulate, trace, model="gpt-l", cluster=cluster, systems=["lazarus"])


def failing_nodes(num_nodes: int, num_days: float, per_node_day: float = FAILURES_PER_NODE_DAY) -> lazsim.Trace:
    """Let nodes fail independently, and come back after `REPAIR_S`."""
    recipe = MtbfSpec(
        num_nodes=num_nodes, mtbf_s=DAY_S / per_node_day, repair_s=REPAIR_S, repair_sigma=0, duration_s=num_days * DAY_S
    )
    return generate_trace(recipe, np.random.default_rng(0))


def replay_days(num_nodes: int, num_days: float, planning: str) -> Callable[[], object]:
    """Replay days of deepseek-v3 without a layout on nodes that fail and come back."""
    trace = failing_nodes(num_nodes, num_days)
    settings = {"model": "deepseek-v3", "cluster": "h200x128", "job": "testbed-a", "systems": ["lazarus"]}
    return partial(lazsim.simulate, trace, planning=planning, **settings)


def ten_short_runs() -> Callable[[], object]:
    """Run ten points of a sweep, each with a trace and loads of its own."""
    base = {"trace": "spot-p3-like", "max_nodes": 10, "model": "gpt-l", "duration": "80min", "seed": "0-9"}
    sweep = parse_sweep({"base": base | {"system": "lazarus"}})
    return lambda: run_sweep(sweep, num_workers=1)


def layouts_alone() -> Callable[[], object]:
    """Predict the steps of 120 layouts, each as if no other had been predicted."""
    inputs = load_inputs("qwen3-235b-a22b", "dgx-h100", None, {"global_batch": 8192}, 1024)
    stages = [(1, 1), *itertools.product((4, 8, 16), (1, 2, 4))]
    layouts = [
        {"tensor": tensor, "pipeline": pipeline, "virtual_stages": virtual, "expert": expert, "graphs": graphs}
        for tensor, (pipeline, virtual), expert, graphs in itertools.product(
            (1, 2), stages, (8, 32), ("none", "partial", "full")
        )
    ]
    parallels = [override(inputs.parallel, layout, "layout") for layout in layouts]

    def predict() -> None:
        for parallel in parallels:
            interleaved_passes.cache_clear()
            predict_step(replace(inputs, parallel=parallel, tables=replace(inputs.tables, _times={})))

    return predict


def search() -> Callable[[], object]:
    """Find the fastest layouts of deepseek-v3 that fit."""
    return partial(search_layouts, load_inputs("deepseek-v3", "dgx-h100", None, None, 2048))


CASES: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "P3 trace, 682 min, gpt-l, lazarus, on p3x32": (lambda: replay_p3("p3x32"), 5),
    "the same held to the ten nodes of rtx3090x10": (lambda: replay_p3("rtx3090x10", 10), 5),
    "the same on 32 nodes such as those": (lambda: replay_p3("rtx3090x10"), 5),
    "ten runs of a sweep, 80 min of gpt-l each": (ten_short_runs, 5),
    "30 days of 128 nodes, deepseek-v3, lazarus": (lambda: replay_days(128, 30, "auto"), 1),
    "a year of 512 nodes, deepseek-v3, lazarus": (lambda: replay_days(512, 365, "auto"), 1),
    "steps of 120 layouts, nothing shared": (layouts_alone, 5),
    "fastest of 5,040 layouts, deepseek-v3, 2,048 H100": (search, 5),
}
"""Name -> what makes the call that is timed, and how often it is."""

REFERENCES: dict[str, tuple[Callable[[], Callable[[], object]], float]] = {
    # The plain way to a long run is to make every plan.
    "30 days of 128 nodes, deepseek-v3, lazarus": (lambda: replay_days(128, 30, "exact"), 1.0),
}

MIDDLE: dict[str, Any] = {"nodes": 16, "days": 0.5, "failures per node-day": 0.5, "layers": 12}
SIZES: dict[str, tuple[float, ...]] = {
    "nodes": (8, 16, 32),
    "days": (0.125, 0.5, 2.0),
    "failures per node-day": (0.05, 0.5, 5.0),
    "layers": (6, 12, 24),
}
"""Sizes of a run of gpt-l under lazarus; all others are those of `MIDDLE`."""


def growth() -> list[tuple[str, str, float, float]]:
    """Time runs along each axis: planning, axis, size, CPU seconds."""
    times_s: dict[Any, float] = {}
    rows = []
    for axis, sizes in SIZES.items():
        for size, planning in itertools.product(sizes, ("exact", "sampled")):
            at = MIDDLE | {axis: size}
            key = planning, *at.values()
            if key not in times_s:
                times_s[key] = least_cpu_s(partial(_replay, at, planning), 1)
            rows.append((planning, axis, size, times_s[key]))
    return rows


def _replay(at: dict[str, Any], planning: str) -> object:
    trace = failing_nodes(at["nodes"], at["days"], at["failures per node-day"])
    fields = {"cluster.nodes_per_server": 1, "model.num_layers": at["layers"], "model.num_moe_layers": at["layers"]}
    return lazsim.simulate(trace, model="gpt-l", cluster="rtx3090x10", systems=["lazarus"], planning=planning, **fields)


if __name__ == "__main__":
    plot_growth(growth(), SIZES, Path(sys.argv[1]))
