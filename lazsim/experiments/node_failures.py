"""Several nodes fail at once: what recovery takes, and how likely every expert survives."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazsim.costmodel.recovery_times import checkpoint_load_s, restart_s
from lazsim.costmodel.step import CostModel, StepCost
from lazsim.engine.planner import Planner
from lazsim.engine.reconfiguration import bind_survivors
from lazsim.engine.systems import SYSTEMS, System
from lazsim.experiments.bench import Bench
from lazsim.experiments.intervals import mean_interval
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints, PlacementPlan, is_recoverable
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import recovery_curve
from lazsim.routing import Routing
from lazsim.scenario import resolve
from lazsim.specs import ClusterSpec, load_spec, read_spec_bytes, sha256


class NodeFailures(Experiment, frozen=True, kw_only=True, tag="node-failures"):
    """Which job, at which steps, and how many nodes fail.

    Attributes
    ----------
    models, cluster, job
        Names of the catalogue.
    systems, policies : tuple of str
        Whose recovery time, and whose recovery probability.
    steps : tuple of int
        Steps at which nodes fail.
    failures : tuple of int
        How many fail at once, for recovery times.
    samples : int
        Sets of nodes drawn for each number of failures.
    seeds : tuple of int
        Of the loads and of the sets drawn.
    """

    models: tuple[str, ...]
    cluster: str
    job: str
    systems: tuple[str, ...]
    policies: tuple[str, ...]
    steps: tuple[int, ...]
    failures: tuple[int, ...]
    samples: int
    seeds: tuple[int, ...]


def run_node_failures(spec: NodeFailures, bench: Bench) -> Outcome:
    """Find recovery times of sampled failures, and exact recovery probabilities."""
    import pandas as pd

    from lazsim.output.plots.experiments import lines_figure

    inputs = _inputs(spec, bench)
    found = bench.collect(spec.name, measure_failures, inputs)
    overheads = pd.DataFrame([row for value in found for row in value["overheads"]])
    probs = pd.DataFrame([row for value in found for row in value["probs"]])
    probs = _average(probs, ["loads", "model", "step", "policy", "failures"], "recovery_prob")
    probs[["ci_low", "ci_high"]] = probs[["ci_low", "ci_high"]].clip(0, 1)
    times = _average(overheads, ["loads", "model", "step", "system", "failures"], "overhead_s")
    parts = ["loads", "model", "step", "system", "failures"]
    shares = overheads.groupby(parts, sort=False)[["restart_share", "pause_s", "lost_work_s"]].mean().reset_index()
    times = times.merge(shares, on=parts)
    source = probs["loads"].iloc[-1]
    shown = probs[(probs["loads"] == source)]
    figures = {
        "recovery-time": lines_figure(
            times[times["loads"] == source], x="failures", y="overhead_s", series="system", panels=("model", "step"),
            y_label="recovery time (s)", x_label="nodes that fail at once",
        ),
        "recovery-probability": lines_figure(
            shown, x="failures", y="recovery_prob", series="policy", panels=("model", "step"),
            y_label="recovery probability", x_label="nodes that fail at once", limits=(0, 1.03),
        ),
    }  # fmt: skip
    return Outcome({"recovery-time": times, "recovery-probability": probs}, figures, (f"figures: {source} loads",))


def _inputs(spec: NodeFailures, bench: Bench) -> list[dict[str, Any]]:
    """Return what `measure_failures` is called with, hashes of all it reads included."""
    rows = []
    for source, routing in bench.routings().items():
        for model in spec.models:
            for step in spec.steps:
                rows += [
                    {
                        "loads": source, "routing": routing, "model": model, "cluster": spec.cluster, "job": spec.job,
                        "step": step, "systems": list(spec.systems), "policies": list(spec.policies),
                        "failures": list(spec.failures), "samples": spec.samples, "seed": seed,
                        "hashes": _hashes(model, spec.cluster, spec.job),
                    }
                    for seed in spec.seeds
                ]  # fmt: skip
    return rows


def _hashes(model: str, cluster: str, job: str) -> list[str]:
    names = {"models": model, "clusters": cluster, "jobs": job, "gpus": load_spec(ClusterSpec, cluster).gpu}
    return [sha256(read_spec_bytes(kind, name)) for kind, name in names.items()]


def _average(frame: Any, keys: list[str], value: str) -> Any:
    """Return mean and interval of a value over seeds."""
    import pandas as pd

    rows = []
    for key, group in frame.groupby(keys, sort=False):
        mean, low, high = mean_interval(group[value].tolist())
        rows.append(dict(zip(keys, key, strict=True)) | {value: mean, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def measure_failures(inputs: dict[str, Any]) -> dict[str, Any]:
    """Find recovery times and probabilities of one model at one step with one seed; see `_inputs`."""
    keys = ("model", "cluster", "job", "routing", "seed")
    scenarios = {name: resolve({key: inputs[key] for key in keys} | {"system": name}) for name in inputs["systems"]}
    first = next(iter(scenarios.values()))
    costs, cluster, loads = first.costs(), first.cluster, first.load_routing()
    labels = {key: inputs[key] for key in ("loads", "model", "step", "seed")}
    rng = np.random.default_rng(inputs["seed"])
    drawn = {
        count: [rng.choice(cluster.num_nodes, count, replace=False).tolist() for _ in range(inputs["samples"])]
        for count in inputs["failures"]
    }
    overheads = [
        labels
        | {"system": name, "failures": count}
        | _mean(recovery_times(SYSTEMS[name], scenarios[name].costs(), loads, step, sets))
        for step in [inputs["step"]]
        for name in inputs["systems"]
        for count, sets in drawn.items()
    ]
    probs = [
        labels | {"policy": policy, "failures": count, "recovery_prob": prob}
        for policy in inputs["policies"]
        for count, prob in _survival(policy, costs, loads.loads([inputs["step"] - 1])[0])
    ]
    return {"overheads": overheads, "probs": probs}


def _survival(policy: str, costs: CostModel, load_LE: Ints) -> list[tuple[int, float]]:
    cluster = costs.cluster
    replicas = allocate(load_LE, cluster.num_nodes * cluster.slots_per_node, costs.job.fault_threshold)
    request = PlacementRequest(replicas, cluster.num_nodes, cluster.slots_per_node, cluster.gpus_per_node, load_LE)
    counts = range(1, cluster.num_nodes)
    curve = recovery_curve(place(policy, request).holds_LEN, list(counts), method="exact")
    return list(zip(counts, curve.recovery_prob.tolist(), strict=True))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def recovery_times(
    system: System, costs: CostModel, loads: Routing, step: int, sets: list[list[int]]
) -> list[dict[str, float]]:
    """Return what it takes a system to go on after each of some failures of a full cluster.

    Parameters
    ----------
    system, costs, loads
        What is run, what it takes and what the gate asks for.
    step
        Step at which nodes fail; the plan in force was made from the loads of the step before.
    sets
        Nodes that fail at once.

    Notes
    -----
    Detection, then rebuilding and transfers where the nodes in use still hold every expert and the system recovers from
    peers; else a restart, the load of the checkpoint and the work since then, on average half of an interval. A
    failure of nodes that are not in use costs nothing.
    """
    planner = Planner(system, costs, loads)
    all_nodes = costs.cluster.num_nodes
    used = planner.usable_nodes(all_nodes)
    held = planner.plan(used, step)
    servers = np.arange(all_nodes) // costs.cluster.nodes_per_server
    step_s = float(StepCost(costs, held, system.layout(costs, servers[:used])).step_s(loads.loads([step]))[0])
    lost_work_s = costs.job.checkpoint_interval_steps[system.name] / 2 * step_s
    return [_recover(system, costs, planner, held, step, set(failed), lost_work_s) for failed in sets]


def _recover(
    system: System, costs: CostModel, planner: Planner, held: PlacementPlan, step: int, failed: set[int],
    lost_work_s: float,
) -> dict[str, float]:  # fmt: skip
    recovery = costs.cluster.recovery
    kept = [node for node in range(held.num_nodes) if node not in failed]
    if len(kept) == held.num_nodes:
        return {"overhead_s": 0.0, "pause_s": 0.0, "lost_work_s": 0.0, "restart_share": 0.0}
    usable = planner.usable_nodes(len(kept))
    left = held.nodes(kept)
    if system.recovers_from_peers and usable and is_recoverable(left.holds_LEN):
        servers = np.array(kept) // costs.cluster.nodes_per_server
        _, server_H = np.unique(servers, return_inverse=True)
        _, seconds = bind_survivors(costs, left, planner.plan(usable, step), server_H.astype(np.int64))
        pause_s = recovery.detect_s + recovery.rebuild_s + seconds
        return {"overhead_s": pause_s, "pause_s": pause_s, "lost_work_s": 0.0, "restart_share": 0.0}
    usable = planner.usable_nodes(costs.cluster.num_nodes - len(failed))
    load_s = checkpoint_load_s(costs, planner.plan(usable, step)) if usable else 0.0
    pause_s = recovery.detect_s + restart_s(costs, usable) + load_s
    return {
        "overhead_s": pause_s + lost_work_s,
        "pause_s": pause_s,
        "lost_work_s": lost_work_s,
        "restart_share": 1.0,
    }
