"""Several nodes fail at once: recovery time and recovery probability.

When nodes fail together, how long until training goes on, and which placement keeps every expert?

Axes: L layers, E experts, H servers, S steps.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from lazsim import recovery_curve
from lazsim.costmodel.recovery_times import checkpoint_load_s, restart_s
from lazsim.costmodel.step import StepCost
from lazsim.engine.held import Held
from lazsim.engine.planner import Planner
from lazsim.engine.protocol import Action, StoppedJob, decide
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.systems import SYSTEMS
from lazsim.output.plots.charts import lines_figure
from lazsim.placement.plan import is_recoverable
from lazsim.placement.policies import find_policy
from lazsim.routing import load_routing
from lazsim.scenario import resolve
from lazsim.study.experiment import Outcome
from lazsim.study.intervals import mean_interval

SETTINGS = {
    "models": ["gpt-s", "gpt-m", "gpt-l"],
    # As published, Lazarus takes no checkpoints here: an expert that is lost takes it back to the first step.
    "base": {"cluster": "rtx3090x10", "job": "testbed-a", "job.checkpoint_interval_steps.lazarus": 0},
    "systems": ["lazarus", "ds-ft", "ds"],
    "policies": ["mro", "spread", "compact", "euclid", "ep"],
    # Steps at which nodes fail.
    "steps": [200, 4000],
    # Nodes that fail at once, and sets of nodes drawn for each of these numbers and each seed.
    "failures": [2, 3, 4, 5],
    "sets": 20,
    # Seeds draw the loads and the sets.
    "seeds": list(range(10)),
    # The published loads are those of the top experts of a public run; of which layers, and when, is not said.
    "pick_steps": [100, 200, 500, 1000, 2000, 3000, 4000, 5000],
}

SMALL = {"models": ["gpt-s"], "sets": 3, "seeds": [0, 1], "pick_steps": [200, 4000]}

SETTING = ["loads", "model", "step"]

PUBLIC_SHAPE = 24, 32
"""Layers, and experts of each, of the public run."""

PUBLIC_STEPS = np.arange(1, 5002, 10)
"""Steps that are recorded of it."""


def run(context, settings):
    """Find recovery times of sampled failures, exact recovery probabilities, and their ranges over picks of loads."""
    points = [{"step": step, "seed": seed} for step, seed in product(settings["steps"], settings["seeds"])]
    keys = ("base", "systems", "policies", "failures", "sets")
    found = context.collect(measure, list(cases(context, settings, keys, points)))
    overheads = pd.DataFrame([row for value in found for row in value["overheads"]])
    probs = pd.DataFrame([row for value in found for row in value["probs"]])
    probs = average(probs, [*SETTING, "policy", "failures"], "recovery_prob")
    probs[["ci_low", "ci_high"]] = probs[["ci_low", "ci_high"]].clip(0, 1)
    keys = [*SETTING, "system", "failures"]
    parts = overheads.groupby(keys, sort=False)[["restart_share", "pause_s", "lost_work_s"]].mean().reset_index()
    times = average(overheads, keys, "overhead_s").merge(parts, on=keys)
    by_case = context.collect(measure_picks, list(pick_cases(context, settings)))
    picked = pd.DataFrame([row for rows in by_case for row in rows])
    loads = context.best_loads
    look = {"x": "failures", "panels": ("model", "step"), "x_label": "nodes that fail at once"}
    figures = {
        "recovery-time": lines_figure(
            times[times["loads"] == loads], y="overhead_s", series="system", y_label="recovery time (s)", **look
        ),
        "recovery-probability": lines_figure(
            probs[probs["loads"] == loads], y="recovery_prob", series="policy", y_label="recovery probability",
            limits=(0, 1.03), **look,
        ),
        "recovery-picks": lines_figure(
            picked[picked["loads"] == loads], x="failures", y="median", interval=("low", "high"), series="policy",
            panels=("model",), x_label="nodes that fail at once", y_label="recovery probability,\nmedian and range",
            limits=(0, 1.03),
        ),
    }  # fmt: skip
    tables = {"recovery-time": times, "recovery-probability": probs, "recovery-picks": picked}
    return Outcome(tables, figures, (f"figures: {loads} loads",))


def cases(context, settings, keys, points):
    """Yield the inputs of a measurement at each point with a hash of all it reads, for all loads at hand and models."""
    for (loads, routing), model in product(context.routings().items(), settings["models"]):
        case = {key: settings[key] for key in keys} | {"loads": loads, "routing": routing, "model": model}
        case["seed"] = settings["seeds"][0]
        case["ids"] = [scenario.id for scenario in scenarios(case).values()]
        yield from (case | point for point in points)


def pick_cases(context, settings):
    """Yield the inputs of `measure_picks`."""
    first = settings | {"systems": settings["systems"][:1]}
    return cases(context, first, ("base", "systems", "policies", "pick_steps"), [{}])


def measure_picks(case):
    """Find the range of a model's recovery probabilities over all picks of its loads."""
    (scenario,) = scenarios(case).values()
    model, costs = scenario.model, scenario.costs()
    public = load_routing(case["routing"], *PUBLIC_SHAPE, case["seed"])
    rows = pd.DataFrame(
        {"policy": policy, "failures": count, "pick": pick, "recovery_prob": prob}
        for pick, load_LE in picks(public, case["pick_steps"], model.num_moe_layers, model.num_experts)
        for policy in case["policies"]
        for count, prob in recovery_probs(policy, costs, load_LE)
    )
    by_point = rows.set_index("pick").groupby(["policy", "failures"], sort=False)["recovery_prob"]
    table = by_point.agg(low="min", median="median", high="max", low_pick="idxmin", high_pick="idxmax", picks="size")
    labels = {key: case[key] for key in ("loads", "model")}
    return [labels | row for row in table.reset_index().to_dict("records")]


def picks(public, steps, num_layers, num_experts):
    """Yield each pick of a smaller model's loads from those of the public run, shape (L, E), after its name.

    The top experts of a layer are those with the most tokens in all of the run, or at the step.
    """
    total_LE = public.loads(PUBLIC_STEPS).sum(axis=0)
    first = {"first": 0, "middle": (public.num_layers - num_layers) // 2, "last": public.num_layers - num_layers}
    layers = {name: np.arange(num_layers) + start for name, start in first.items()}
    layers["spread"] = np.arange(num_layers) * public.num_layers // num_layers
    for step, (name, chosen) in product(steps, layers.items()):
        load_LE = public.loads([step])[0, chosen]
        for when, by_LE in (("the run", total_LE[chosen]), ("the step", load_LE)):
            top_LE = np.argsort(-by_LE, axis=1, kind="stable")[:, :num_experts]
            yield f"step {step}, {name} layers, top experts of {when}", np.take_along_axis(load_LE, top_LE, axis=1)


def scenarios(case):
    """Return the scenario of each system."""
    names = case["base"] | {key: case[key] for key in ("model", "routing", "seed")}
    return {system: resolve(names | {"system": system}) for system in case["systems"]}


def measure(case):
    """Find recovery times and probabilities of one model at one step with one seed."""
    by_system = scenarios(case)
    first = next(iter(by_system.values()))
    loads, num_nodes = first.load_routing(), first.cluster.num_nodes
    labels = {key: case[key] for key in ("loads", "model", "step", "seed")}
    rng = np.random.default_rng(case["seed"])
    drawn = {
        count: [rng.choice(num_nodes, count, replace=False).tolist() for _ in range(case["sets"])]
        for count in case["failures"]
    }
    overheads = [
        labels | {"system": name, "failures": count} | means(rows)
        for name, scenario in by_system.items()
        for count, sets in drawn.items()
        if (rows := recovery_times(SYSTEMS[name], scenario.costs(), loads, case["step"], sets))
    ]
    probs = [
        labels | {"policy": policy, "failures": count, "recovery_prob": prob}
        for policy in case["policies"]
        for count, prob in recovery_probs(policy, first.costs(), loads.loads([case["step"] - 1])[0])
    ]
    return {"overheads": overheads, "probs": probs}


def recovery_probs(policy, costs, load_LE):
    """Return each number of failed nodes with the exact probability that every expert survives."""
    plan = replace(SYSTEMS["lazarus"], policy=find_policy(policy)).plan(costs, costs.cluster.num_nodes, load_LE)
    failures = range(1, plan.num_nodes)
    curve = recovery_curve(plan.holds_LEN, list(failures), method="exact")
    return list(zip(failures, curve.recovery_prob.tolist(), strict=True))


def means(rows):
    """Return the mean of each key."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def recovery_times(system, costs, loads, step, sets):
    """Return how long a system takes to go on after each of some failures of a full cluster.

    Parameters
    ----------
    system, costs, loads
        The system, its cost model and its expert loads.
    step
        Step at which nodes fail; the plan in force was made from the loads of the step before.
    sets
        Nodes that fail at once.

    Notes
    -----
    Detection, then rebuilding and transfers where the nodes in use still hold every expert and the system recovers from
    peers; else a restart, the load of the checkpoint and the work since then, on average half of an interval; of a
    system without checkpoints all steps. A failure of nodes that are not in use costs nothing.
    """
    planner = Planner(system, costs, loads)
    num_nodes = costs.cluster.num_nodes
    used = planner.usable_nodes(num_nodes)
    plan = planner.plan(used, step)
    servers_H = np.arange(num_nodes) // costs.cluster.nodes_per_server
    step_s = float(StepCost(costs, plan, system.dispatch(costs, servers_H[:used])).step_s(loads.loads([step]))[0])
    interval_steps = costs.job.checkpoint_interval_steps[system.name]
    lost_work_s = (interval_steps / 2 if interval_steps else step) * step_s

    def recover(failed):
        kept = [node for node in range(used) if node not in failed]
        if len(kept) == used:
            return outcome()
        left = plan.nodes(kept)
        alive = tuple(node for node in range(num_nodes) if node not in failed)
        whole = is_recoverable(left.holds_LEN)
        decision = decide(system, StoppedJob(Held(tuple(kept)), alive, planner.usable_nodes, lambda _nodes: whole))
        usable = decision.num_nodes
        if decision.action is Action.RECONFIGURE:
            _, server_H = np.unique(np.array(kept) // costs.cluster.nodes_per_server, return_inverse=True)
            binding = bind_nodes(costs, left.holds_LEN, planner.plan(usable, step).holds_LEN)
            seconds = binding.transfer_s(costs, server_H.astype(np.int64))
            return outcome(costs.cluster.recovery.detect_s + costs.cluster.recovery.rebuild_s + seconds)
        load_s = checkpoint_load_s(costs, planner.plan(usable, step)) if usable and interval_steps else 0.0
        return outcome(costs.cluster.recovery.detect_s + restart_s(costs, usable) + load_s, lost_work_s, 1.0)

    return [recover(set(failed)) for failed in sets]


def outcome(pause_s=0.0, lost_work_s=0.0, restart_share=0.0):
    """Return a recovery as a row."""
    return {
        "overhead_s": pause_s + lost_work_s,
        "pause_s": pause_s,
        "lost_work_s": lost_work_s,
        "restart_share": restart_share,
    }


def average(rows, setting, value):
    """Return the mean of a value in each setting with its 95 % interval, ``ci_low`` and ``ci_high``."""
    found = []
    for key, group in rows.groupby(list(setting), sort=False):
        mean, low, high = mean_interval(group[value].tolist())
        found.append(dict(zip(setting, key, strict=True)) | {value: mean, "ci_low": low, "ci_high": high})
    return pd.DataFrame(found)
