"""Against Tutel on testbed B: random failures, and failures of nodes that it leaves unused.

How do systems compare with Tutel and with dropless training, also when only nodes fail that these do not use?
"""

from itertools import product

import numpy as np
import pandas as pd
from lazsim_experiments.shared import compare, samples_figure, young_interval_steps

from lazsim import ClusterSpec, Event, ModelSpec, build_trace, load_spec
from lazsim.placement.expert_parallel import ep_unit_nodes
from lazsim.scenario import resolve
from lazsim.study.experiment import Outcome

RANDOM, SPARING = "random", "sparing"
YOUNG, TESTBED_A = "Young", "as on testbed A"

SETTINGS = {
    "models": ["gpt-s", "gpt-m", "gpt-l"],
    "systems": ["lazarus", "dropless-ft", "tutel-ft", "tutel"],
    # Seeds draw the nodes that fail and the generated loads.
    "seeds": list(range(10)),
    "failures": [RANDOM, SPARING],
    # Published; that failures stop at half of the nodes, as on testbed A, is an assumption.
    "interval_s": 300.0,
    "num_left": 8,
    "base": {"cluster": "a10gx16", "job": "testbed-b"},
    # As published, Lazarus takes no checkpoints here: an expert that is lost takes it back to the first step.
    "lazarus_interval_steps": 0,
}

SMALL = {"models": ["gpt-s"], "seeds": [0, 1], "num_left": 14}


def run(context, settings):
    """Compare the systems under both kinds of failures, with both kinds of intervals between checkpoints."""
    rows = pd.concat([replay(context, settings, intervals) for intervals in (YOUNG, TESTBED_A)], ignore_index=True)
    table = compare(rows, ["loads", "trace", "checkpoints", "model"])
    shown = table[(table["loads"] == context.best_loads) & (table["checkpoints"] == YOUNG)]
    figures = {
        f"samples-{failures}": samples_figure(shown[shown["trace"] == failures]) for failures in settings["failures"]
    }
    notes = (f"figures: {context.best_loads} loads, {YOUNG}'s intervals", *context.missing())
    return Outcome({"samples": table}, figures, notes)


def advantages(context, settings):
    """Return how many times as many samples the first system trains, with Young's intervals."""
    return compare(replay(context, settings, YOUNG), ["loads", "trace", "model", "checkpoints"])


def replay(context, settings, intervals):
    """Run all systems, models and seeds under all loads at hand and both kinds of failures."""
    frames = []
    for (loads, routing), model, failures in product(
        context.routings().items(), settings["models"], settings["failures"]
    ):
        base = settings["base"] | {"model": model, "routing": routing, "system": settings["systems"]}
        base |= young_intervals(settings, model) if intervals == YOUNG else {}
        base["job.checkpoint_interval_steps.lazarus"] = settings["lazarus_interval_steps"]
        grids = [
            {"seed": seed, "trace": context.keep_trace(failure_trace(settings, model, failures, seed))}
            for seed in settings["seeds"]
        ]
        frames.append(context.sweep(base, grids, loads=loads, trace=failures, model=model, checkpoints=intervals))
    return pd.concat(frames, ignore_index=True)


def young_intervals(settings, model):
    """Return the settings of Young's intervals, one for each system."""
    names = {"model": model, "cluster": settings["base"]["cluster"], "job": settings["base"]["job"]}
    return {
        f"job.checkpoint_interval_steps.{system}": young_interval_steps(
            resolve(names | {"system": system}), settings["interval_s"]
        )
        for system in settings["systems"]
    }


def failure_trace(settings, model, failures, seed):
    """Return a trace on the cluster of the settings."""
    cluster, num_experts = load_spec(ClusterSpec, settings["base"]["cluster"]), load_spec(ModelSpec, model).num_experts
    # In groups of one node none is ever left over, so that any node may fail.
    unit = ep_unit_nodes(num_experts, cluster.gpus_per_node, cluster.slots_per_gpu) if failures == SPARING else 1
    rng = np.random.default_rng(seed)
    return sparing_trace(cluster.num_nodes, settings["num_left"], settings["interval_s"], unit, rng)


def sparing_trace(num_nodes, num_left, interval_s, unit_nodes, rng):
    """Let a node fail at each multiple of an interval: one that plain expert parallelism leaves unused, if any.

    Parameters
    ----------
    num_nodes, num_left
        Nodes at the start, and the number at which failures stop.
    interval_s
        Time between failures; the trace ends one interval after the last.
    unit_nodes
        Nodes of a group that holds every expert once. Of the nodes alive the first whole groups are used.
    rng
        All draws.

    Examples
    --------
    Of four nodes in groups of two, the first failure must hit a group, and the second one hits the node left over.

    >>> trace = sparing_trace(4, 2, 60.0, 2, np.random.default_rng(0))
    >>> [event.node for event in trace.events() if event.kind == "remove"]
    ['node3', 'node2']
    """
    alive = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", node) for node in alive]
    for failure in range(1, num_nodes - num_left + 1):
        used = len(alive) // unit_nodes * unit_nodes
        first = used if used < len(alive) else 0
        events.append(Event(failure * interval_s, "remove", alive.pop(int(rng.integers(first, len(alive))))))
    return build_trace(events, duration_s=(num_nodes - num_left + 1) * interval_s, name="sparing", format="lazsim")
