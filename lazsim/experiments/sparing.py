"""Failures that hit everyone, and failures that hit only nodes which plain expert parallelism leaves unused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lazsim.experiments.bench import RECORDED, Bench
from lazsim.experiments.campaign import Campaign, best_loads, compare, labelled
from lazsim.experiments.checkpoints import young_interval_steps
from lazsim.experiments.failures import keep_trace, sparing_trace
from lazsim.experiments.outcome import Outcome
from lazsim.placement.expert_parallel import ep_unit_nodes
from lazsim.specs import ClusterSpec, ModelSpec, load_spec
from lazsim.study.sweep_spec import parse_sweep

if TYPE_CHECKING:
    import pandas as pd

RANDOM, SPARING = "random", "sparing"
CATALOGUE, YOUNG = "as on testbed A", "Young"
INTERVALS = (YOUNG, CATALOGUE)
"""Where the interval between checkpoints comes from."""


class Sparing(Campaign, frozen=True, kw_only=True, tag="sparing"):
    """A campaign with both kinds of failures, and checkpoints as often as the catalogue says and by Young's rule.

    Attributes
    ----------
    num_left : int
        Nodes of the cluster that are left when failures stop.
    interval_s : float
        Time between failures.
    failures : tuple of str
        Which kinds: ``random``, ``sparing``.
    """

    num_left: int
    interval_s: float
    failures: tuple[str, ...] = (RANDOM, SPARING)


def run_sparing(spec: Sparing, bench: Bench) -> Outcome:
    """Compare systems by the samples that they train under both kinds of failures."""
    import pandas as pd

    from lazsim.output.plots.experiments import bars_figure

    rows = pd.concat([sparing_rows(spec, bench, intervals=name) for name in INTERVALS], ignore_index=True)
    table = compare(rows, ["loads", "trace", "checkpoints", "model"])
    loads = best_loads(bench)
    figures = {}
    for trace in spec.failures:
        shown = table[(table["loads"] == loads) & (table["trace"] == trace) & (table["checkpoints"] == YOUNG)]
        thousands = shown.assign(thousands=shown["samples"] / 1000)
        thousands[["ci_low", "ci_high"]] /= 1000
        figures[f"samples-{trace}"] = bars_figure(
            thousands, group="model", value="thousands", series="system", y_label="samples trained (thousands)"
        )
    missing = () if RECORDED in bench.routings() else ("no recorded loads at hand: generated ones only",)
    return Outcome({"samples": table}, figures, (f"figures: {loads} loads, {YOUNG}'s intervals", *missing))


def sparing_rows(
    spec: Sparing, bench: Bench, changes: Mapping[str, Any] | None = None, intervals: str = YOUNG
) -> pd.DataFrame:
    """Return a row for each run, under all loads at hand and both kinds of failures."""
    import pandas as pd

    cluster = load_spec(ClusterSpec, spec.base["cluster"])
    seeds = parse_sweep({"base": {"trace": "-", "seed": spec.seeds}}).base["seed"]
    frames = []
    for loads, routing in bench.routings().items():
        for model in spec.models:
            base = spec.base | {"model": model, "routing": routing, "system": list(spec.systems)}
            base |= _intervals(spec, model) if intervals == YOUNG else {}
            for trace in spec.failures:
                grids = [
                    {"seed": seed, "trace": _trace(spec, cluster, model, seed, bench, is_sparing=trace == SPARING)}
                    for seed in seeds
                ]
                frame = bench.sweep(spec.name, base | dict(changes or {}), grids).to_frame()
                frame = frame.drop(columns=["trace"], errors="ignore").assign(model=model)
                if "seed" not in frame:
                    frame = frame.assign(seed=seeds[0])
                frames.append(labelled(frame, spec, loads, trace).assign(checkpoints=intervals))
    return pd.concat(frames, ignore_index=True)


def _intervals(spec: Sparing, model: str) -> dict[str, int]:
    cluster, job = spec.base["cluster"], spec.base["job"]
    return {
        f"job.checkpoint_interval_steps.{system}": young_interval_steps(
            system, model, cluster, job, "smartmoe-fit", spec.interval_s
        )
        for system in spec.systems
    }


def _trace(spec: Sparing, cluster: ClusterSpec, model: str, seed: int, bench: Bench, *, is_sparing: bool) -> str:
    experts = load_spec(ModelSpec, model).num_experts
    # In groups of one node none is ever left over, so that any node may fail.
    unit = ep_unit_nodes(experts, cluster.gpus_per_node, cluster.slots_per_gpu) if is_sparing else 1
    rng = np.random.default_rng(seed)
    return keep_trace(sparing_trace(cluster.num_nodes, spec.num_left, spec.interval_s, unit, rng), bench.store)
