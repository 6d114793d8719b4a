"""Time to train so many samples on a large cluster whose nodes are taken and granted hour by hour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazsim.experiments.bench import GENERATED, Bench
from lazsim.experiments.campaign import Campaign, compare
from lazsim.experiments.checkpoints import young_interval_steps
from lazsim.experiments.failures import hourly_trace, keep_trace
from lazsim.experiments.outcome import Outcome
from lazsim.specs import ClusterSpec, JobSpec, load_spec
from lazsim.study.sweep_spec import parse_sweep
from lazsim.units import HOUR_S

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-9
"""Share of a step by which rounding may misplace its end."""

POINT = ["nodes", "fail_prob"]


class LargeScale(Campaign, frozen=True, kw_only=True, tag="large-scale"):
    """A campaign over sizes of the cluster and probabilities of failure.

    Attributes
    ----------
    clusters : tuple of str
        One for each size.
    fail_probs : tuple of float
        Probabilities that a node is taken within an hour, of which the cluster `middle_cluster` sees all.
    middle_cluster, middle_prob : str, float
        Where the other axis varies.
    samples : int
        To be trained.
    max_hours : int
        Simulated at most; what is not done by then is extrapolated.
    at_any_time : bool
        See `lazsim.experiments.failures.hourly_trace`.
    """

    clusters: tuple[str, ...]
    fail_probs: tuple[float, ...]
    middle_cluster: str
    middle_prob: float
    samples: int
    max_hours: int
    at_any_time: bool = False


def run_large_scale(spec: LargeScale, bench: Bench) -> Outcome:
    """Compare systems by the time that they take, over probabilities and over sizes."""
    from lazsim.output.plots.experiments import lines_figure

    rows = large_scale_rows(spec, bench)
    table = compare(rows, POINT, "hours", less_is_better=True)
    finished = rows.groupby([*POINT, "system"])["finished"].mean().reset_index()
    table = table.merge(finished, on=[*POINT, "system"])
    normal = table.rename(columns={"ci_low": "hours_low", "ci_high": "hours_high"})
    normal = normal.rename(columns={"advantage_low": "ci_low", "advantage_high": "ci_high"})
    size = load_spec(ClusterSpec, spec.middle_cluster).num_nodes
    by_prob = normal[normal["nodes"] == size].assign(percent=lambda frame: 100 * frame["fail_prob"])
    by_size = normal[normal["fail_prob"] == spec.middle_prob]
    shared: Any = {"y": "advantage", "series": "system", "is_log": True}
    label = f"time to train, {spec.systems[0]} = 1"
    figures = {
        "by-probability": lines_figure(
            by_prob, x="percent", x_label="nodes taken in an hour (%)", y_label=label, **shared
        ),
        "by-size": lines_figure(by_size, x="nodes", x_label="nodes", y_label=label, **shared),
    }
    return Outcome({"time-to-train": table}, figures, _notes(rows, spec))


def _notes(rows: pd.DataFrame, spec: LargeScale) -> tuple[str, ...]:
    share = 1 - rows["finished"].mean()
    loads = f"loads are generated: no recording has as many experts as {spec.models[0]}"
    hours = f"{share:.0%} of the runs were not done after {spec.max_hours} h; their time is extrapolated"
    return (loads, hours) if share else (loads,)


def large_scale_rows(spec: LargeScale, bench: Bench, changes: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return a row for each run: hours to train the samples, and whether they were all simulated."""
    import pandas as pd

    middle = [(spec.middle_cluster, prob) for prob in spec.fail_probs]
    points: dict[tuple[str, float], None] = dict.fromkeys(
        middle + [(cluster, spec.middle_prob) for cluster in spec.clusters]
    )
    rows: list[dict[str, Any]] = []
    for cluster, prob in points:
        rows += _point_rows(spec, bench, cluster, prob, changes or {})
    return pd.DataFrame(rows)


def _point_rows(
    spec: LargeScale, bench: Bench, cluster: str, prob: float, changes: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    model, job = spec.models[0], spec.base["job"]
    cluster_spec = load_spec(ClusterSpec, cluster)
    between_s = between_failures_s(cluster_spec.num_nodes, prob, at_any_time=spec.at_any_time)
    steps = {name: young_interval_steps(name, model, cluster, job, "smartmoe-fit", between_s) for name in spec.systems}
    base = spec.base | {"model": model, "cluster": cluster, "history": True, "system": list(spec.systems)}
    base = {f"job.checkpoint_interval_steps.{name}": count for name, count in steps.items()} | base
    grids = [
        {"seed": seed, "trace": _trace(spec, cluster_spec.num_nodes, prob, seed, bench)}
        for seed in parse_sweep({"base": {"trace": "-", "seed": spec.seeds}}).base["seed"]
    ]
    result = bench.sweep(spec.name, base | dict(changes), grids)
    per_node = cluster_spec.gpus_per_node * _samples_per_gpu(job)
    for row, history in zip(result.rows, result.histories, strict=True):
        seconds = time_to_train(history["states"], history["events"], row["wall_s"], per_node, spec.samples)
        finished = seconds is not None
        kept = row["samples"]
        hours = (seconds if seconds is not None else row["wall_s"] * spec.samples / kept if kept else math.inf) / HOUR_S
        yield {
            "loads": GENERATED, "trace": "hourly", "model": model, "nodes": cluster_spec.num_nodes, "fail_prob": prob,
            **{key: row[key] for key in ("system", "ettr", "num_failures", "num_reconfigurations", "num_restarts",
                                         "lost_steps")},
            **{key: row[key] for key in changes if key in row},
            "seed": row.get("seed", 0), "hours": hours, "finished": finished, "samples": kept,
        }  # fmt: skip


def between_failures_s(num_nodes: int, fail_prob: float, *, at_any_time: bool) -> float:
    """Return the mean time between failures of a job on all nodes.

    Examples
    --------
    Nodes that go at the same time are one failure.

    >>> round(between_failures_s(2, 0.5, at_any_time=False)), between_failures_s(2, 0.5, at_any_time=True)
    (4800, 3600.0)
    """
    per_hour = num_nodes * fail_prob if at_any_time else 1 - (1 - fail_prob) ** num_nodes
    return HOUR_S / per_hour


def _samples_per_gpu(job: str) -> int:
    spec = load_spec(JobSpec, job)
    return spec.sequences_per_gpu * spec.num_micro_batches


def _trace(spec: LargeScale, num_nodes: int, prob: float, seed: int, bench: Bench) -> str:
    rng = np.random.default_rng([seed, num_nodes])
    trace = hourly_trace(num_nodes, prob, spec.max_hours, rng, at_any_time=spec.at_any_time)
    return keep_trace(trace, bench.store)


class Stretch(NamedTuple):
    """Whole steps that were made one after the other."""

    start_s: float
    num_steps: int
    step_s: float
    samples_per_step: int


def time_to_train(
    states: Iterable[Sequence[float]],
    events: Iterable[Sequence[Any]],
    wall_s: float,
    samples_per_node: int,
    num_samples: int,
) -> float | None:
    """Return when a run had trained so many samples, those lost again not counted; None where it never had.

    Parameters
    ----------
    states
        Time, nodes alive, nodes used, samples per second; ascending.
    events
        Time, event, step, four counts of nodes, lost steps; ascending.
    wall_s
        Where the run ends.
    samples_per_node
        Sequences that a node trains in a step.
    num_samples
        To be trained.

    Examples
    --------
    Two nodes make a step of 10 s with 4 samples each; after 25 s the two whole steps are lost, and training goes on at
    once.

    >>> states = [(0.0, 2, 2, 0.8), (25.0, 2, 0, 0.0), (30.0, 2, 2, 0.8)]
    >>> events = [(25.0, "rolled_back", 0, 2, 0, 0, 0, 2)]
    >>> time_to_train(states, events, 100.0, 4, num_samples=16), time_to_train(states, events, 100.0, 4, num_samples=24)
    (20.0, 60.0)
    """
    lost = [(event[0], event[-1]) for event in events if event[-1]]
    kept: list[Stretch] = []
    for stretch in stretches(states, wall_s, samples_per_node):
        while lost and lost[0][0] <= stretch.start_s:
            roll_back(kept, lost.pop(0)[1])
        before = sum(each.num_steps * each.samples_per_step for each in kept)
        missing = math.ceil((num_samples - before) / stretch.samples_per_step)
        if missing <= stretch.num_steps:
            return stretch.start_s + missing * stretch.step_s
        kept.append(stretch)
    return None


def stretches(states: Iterable[Sequence[float]], wall_s: float, samples_per_node: int) -> Iterator[Stretch]:
    """Yield the stretches of training in which rate and nodes used stay the same; a step cut short is not made."""
    rows = [tuple(state) for state in states]
    ends = [row[0] for row in rows[1:]] + [wall_s]
    timed = zip(rows, ends, strict=True)
    for (used, rate), group in groupby(timed, key=lambda pair: (pair[0][2], pair[0][3])):
        spans = list(group)
        if rate > 0:
            per_step = int(used) * samples_per_node
            step_s = per_step / rate
            start_s, end_s = spans[0][0][0], spans[-1][1]
            yield Stretch(start_s, math.floor((end_s - start_s) / step_s + ROUNDING), step_s, per_step)


def roll_back(kept: list[Stretch], num_steps: int) -> None:
    """Take the last steps away."""
    while num_steps and kept:
        last = kept.pop()
        gone = min(num_steps, last.num_steps)
        num_steps -= gone
        if gone < last.num_steps:
            kept.append(last._replace(num_steps=last.num_steps - gone))
