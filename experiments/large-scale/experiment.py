"""Time to train 5 M samples on 32 to 128 nodes, by failure probability, cluster size and loads.

On a large cluster that loses nodes every hour, how much longer do other systems take than Lazarus?
"""

import math

import numpy as np
import pandas as pd
from lazsim_experiments.shared import compare, young_interval_steps

from lazsim import ClusterSpec, Event, build_trace, load_spec
from lazsim.engine.memory import peak_memory
from lazsim.output.plots.charts import lines_figure
from lazsim.scenario import resolve
from lazsim.study.deadline import finish_s
from lazsim.study.experiment import Outcome
from lazsim.units import GIB, HOUR_S, divide

SETTINGS = {
    "model": "deepseek-v3",
    "systems": ["lazarus", "dropless-ft", "ds-ft", "ds"],
    # Trials: seeds draw failures, grants and loads.
    "seeds": list(range(10)),
    "clusters": ["h200x32", "h200x64", "h200x128"],
    # Probability that a node is taken within an hour. The middle cluster sees all, the others the middle one.
    "fail_probs": [0.01, 0.05, 0.1, 0.15],
    "middle_cluster": "h200x64",
    "middle_prob": 0.05,
    # DeepSeek-V3 is trained to balance. The other loads are seen at the middle point.
    "headline_loads": "balanced",
    "loads": {
        "balanced": "uniform",
        "power law 1.01": "power-law-1.01",
        "power law 1.2": "power-law-1.2",
        "as SmartMoE's": "smartmoe-fit",
    },
    # Whether nodes are taken at any time of an hour, and not together at its end.
    "at_any_time": False,
    "samples": 5_000_000,
    # Simulated at most; the time of what is not done by then is extrapolated.
    "max_hours": 30,
    # Published: tensor parallelism inside a node, 4 sequences a GPU. As DeepSeek-V3 trains: tokens go to at most four
    # nodes, there in 8 bits, behind compute.
    "base": {
        "job": "deepseek-v3",
        "job.parallel.tensor": 8,
        "job.parallel.pipeline": 1,
        "job.parallel.virtual_stages": 1,
        "job.parallel.dispatch_precision": "fp8",
        "job.parallel.gradient_bytes": 2,
    },
    "sequences_per_gpu": 4,
    # Of a GPU. With the four that are published, whole states do not fit: the first number is the one that is run.
    "slots": [2, 4],
}

SMALL = {
    "systems": ["lazarus", "ds-ft"],
    "seeds": [0, 1],
    "clusters": ["h200x32"],
    "fail_probs": [0.05],
    "loads": {"balanced": "uniform", "as SmartMoE's": "smartmoe-fit"},
    "middle_cluster": "h200x32",
    "samples": 200_000,
    "max_hours": 4,
}

POINT = ["loads", "nodes", "fail_prob"]

STEPS = 2500
"""In which the samples are trained on the middle cluster: memory is looked at over these."""


def run(context, settings):
    """Compare the systems by the time that they take: over probabilities, sizes and loads."""
    rows = times(context, settings)
    table = compare(rows, POINT, "hours", less_is_better=True)
    finished = rows.groupby([*POINT, "system"])["finished"].mean().reset_index()
    table = table.merge(finished, on=[*POINT, "system"])
    size = load_spec(ClusterSpec, settings["middle_cluster"]).num_nodes
    headline = table[table["loads"] == settings["headline_loads"]]
    by_prob = headline[headline["nodes"] == size].assign(percent=lambda frame: 100 * frame["fail_prob"])
    by_size = headline[headline["fail_prob"] == settings["middle_prob"]]
    look = {
        "y": "advantage", "series": "system", "interval": ("advantage_low", "advantage_high"), "is_log": True,
        "y_label": f"time to train, {settings['systems'][0]} = 1",
    }  # fmt: skip
    figures = {
        "by-probability": lines_figure(by_prob, x="percent", x_label="nodes taken in an hour (%)", **look),
        "by-size": lines_figure(by_size, x="nodes", x_label="nodes", **look),
    }
    notes = [f"loads are generated: no recording has as many experts as {settings['model']}"]
    if not settings["at_any_time"]:
        notes.append("nodes go on the hour: whether a checkpoint ends before they do can decide how far a system comes")
    if share := 1 - rows["finished"].mean():
        hours = settings["max_hours"]
        notes.append(f"{share:.0%} of the runs were not done after {hours} h; their time is extrapolated")
    memory = memories(settings, settings["middle_cluster"], settings["slots"])
    return Outcome({"time-to-train": table, "memory": memory}, figures, tuple(notes))


def advantages(context, settings):
    """Return how many times as long the other systems take, under the loads of the headline."""
    loads = settings["headline_loads"]
    rows = times(context, settings | {"loads": {loads: settings["loads"][loads]}})
    return compare(rows, ["trace", "model", *POINT], "hours", less_is_better=True)


def times(context, settings):
    """Return a row for each run: hours to train the samples, and whether they were all simulated."""
    middle, middle_prob = settings["middle_cluster"], settings["middle_prob"]
    headline = settings["headline_loads"]
    points = [(headline, middle, prob) for prob in settings["fail_probs"]]
    points += [(headline, cluster, middle_prob) for cluster in settings["clusters"]]
    points += [(loads, middle, middle_prob) for loads in settings["loads"]]
    frames = [times_at(context, settings, *point) for point in dict.fromkeys(points)]
    return pd.concat(frames, ignore_index=True)


def names_of(settings, cluster, loads, slots):
    """Return the settings of a point."""
    spec = load_spec(ClusterSpec, cluster)
    batch = settings["sequences_per_gpu"] * spec.num_nodes * spec.gpus_per_node
    layout = {"job.parallel.expert": 256 // slots, "job.parallel.global_batch": batch}
    names = {"model": settings["model"], "cluster": cluster, "routing": settings["loads"][loads]}
    return settings["base"] | layout | names


def memories(settings, cluster, all_slots):
    """Return what the fullest GPU needs under each system, with all loads, and whether it has that."""
    rows = []
    for slots in all_slots:
        for loads in settings["loads"]:
            for system in settings["systems"]:
                scenario = resolve(names_of(settings, cluster, loads, slots) | {"system": system})
                nodes = scenario.cluster.num_nodes
                needs = peak_memory(scenario.find_system(), scenario.costs(), scenario.load_routing(), {nodes}, STEPS)
                fits = needs.total <= scenario.gpu.memory_bytes
                rows.append({"slots": slots, "loads": loads, "system": system, "gib": needs.total / GIB, "fits": fits})
    return pd.DataFrame(rows)


def times_at(context, settings, loads, cluster, fail_prob):
    """Return the rows of one cluster, probability and kind of loads: of the systems that fit into the memory."""
    slots = settings["slots"][0]
    names = names_of(settings, cluster, loads, slots)
    memory = memories(settings | {"loads": {loads: settings["loads"][loads]}}, cluster, [slots])
    fitting = memory["system"][memory["fits"]].tolist()
    spec, batch = load_spec(ClusterSpec, cluster), names["job.parallel.global_batch"]
    between_s = between_failures_s(spec.num_nodes, fail_prob, at_any_time=settings["at_any_time"])
    intervals = {
        f"job.checkpoint_interval_steps.{system}": young_interval_steps(resolve(names | {"system": system}), between_s)
        for system in fitting
    }
    grids = [
        {"seed": seed, "trace": context.keep_trace(failure_trace(settings, spec.num_nodes, fail_prob, seed))}
        for seed in settings["seeds"]
    ]
    labels = {"loads": loads, "trace": "hourly", "model": settings["model"]}
    point = {"nodes": spec.num_nodes, "fail_prob": fail_prob}
    rows = context.sweep(intervals | names | {"history": True, "system": fitting}, grids, **labels, **point)
    samples = settings["samples"]
    # The step that completes them counts as a whole.
    trained = -(-samples // batch) * batch
    seconds = [finish_s(run.states, run.events, run.wall_s, trained) for run in rows.itertuples()]
    # What was not done in time takes as long at the mean rate so far.
    hours = [
        (divide(run.wall_s * samples, run.samples, math.inf) if found is None else found) / HOUR_S
        for found, run in zip(seconds, rows.itertuples(), strict=True)
    ]
    return rows.assign(hours=hours, finished=[found is not None for found in seconds])


def between_failures_s(num_nodes, fail_prob, *, at_any_time):
    """Return the mean time between failures of a job on all nodes.

    Examples
    --------
    Nodes that go at the same time are one failure.

    >>> round(between_failures_s(2, 0.5, at_any_time=False)), between_failures_s(2, 0.5, at_any_time=True)
    (4800, 3600.0)
    """
    per_hour = num_nodes * fail_prob if at_any_time else 1 - (1 - fail_prob) ** num_nodes
    return HOUR_S / per_hour


def failure_trace(settings, num_nodes, fail_prob, seed):
    """Return the trace of a trial; clusters of one size see the same draws at every probability."""
    rng = np.random.default_rng([seed, num_nodes])
    return hourly_trace(num_nodes, fail_prob, settings["max_hours"], rng, at_any_time=settings["at_any_time"])


def hourly_trace(num_nodes, fail_prob, num_hours, rng, *, at_any_time=False):
    """Take nodes away and grant new ones, hour by hour.

    Parameters
    ----------
    num_nodes
        Nodes at the start, and the most at any time.
    fail_prob
        Probability that a node is taken within an hour.
    num_hours
        Length of the trace.
    rng
        All draws.
    at_any_time
        Whether nodes are taken at independent times, uniform within their hour; else all at its end, at once.

    Notes
    -----
    At the end of each hour a probability is drawn, uniform from 0 to 1, and each node that was missing then already is
    granted anew with it. The published law does not say when in an hour nodes go nor how the probability of a grant is
    drawn: both are assumptions.
    """
    alive = [f"node{index}" for index in range(num_nodes)]
    num_names = num_nodes
    events = [Event(0.0, "add", node) for node in alive]
    for hour in range(1, num_hours):
        end_s = hour * HOUR_S
        num_missing = num_nodes - len(alive)
        lost = rng.random(len(alive)) < fail_prob
        times_s = end_s - rng.random(len(alive)) * HOUR_S * at_any_time
        gone = sorted((float(times_s[index]), alive[index]) for index in np.flatnonzero(lost))
        events += [Event(time_s, "remove", node) for time_s, node in gone]
        new = [f"node{num_names + index}" for index in range(rng.binomial(num_missing, rng.random()))]
        num_names += len(new)
        events += [Event(end_s, "add", node) for node in new]
        alive = [node for node, is_lost in zip(alive, lost, strict=True) if not is_lost] + new
    return build_trace(events, duration_s=num_hours * HOUR_S, name="hourly", format="lazsim")
