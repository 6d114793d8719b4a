"""Run a sweep: a simulation for each of its points, those that a folder holds already left out."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.errors import LazsimError
from lazsim.files import write_whole
from lazsim.routing import Routing
from lazsim.study.collect import Progress, Task, run_tasks, task_id
from lazsim.study.inputs import Run, costs_of, find_system, make_routing, make_trace
from lazsim.study.lookup import Lookup
from lazsim.study.result import RunResult
from lazsim.study.sweep_result import SweepResult, describe_point, find_axes
from lazsim.study.sweep_spec import Point, Sweep
from lazsim.trace import Trace

TABLE = "table.csv"
"""The file of a folder that holds the table of the sweep that was last."""


def run_sweep(
    sweep: Sweep,
    folder: Path | None = None,
    *,
    backend: str = "loky",
    num_workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Simulate every point of a sweep.

    Parameters
    ----------
    sweep
        What to run; see `lazsim.study.load_sweep`.
    folder
        Where each run is kept as soon as it is there, and the table at the end; nowhere when None.
    backend, num_workers, address, progress
        See `lazsim.study.collect.run_tasks`.

    Returns
    -------
    SweepResult
        The same whatever the backend, the number of workers and the runs that were there before.

    Raises
    ------
    LazsimError
        When an input is not valid, before anything runs, or the folder or the backend cannot be used.
    """
    points, tasks = _tasks(sweep)
    outcomes = run_tasks(
        simulate_run, tasks, folder, backend=backend, num_workers=num_workers, address=address, progress=progress
    )
    ids = [task.id for task in tasks]
    result = SweepResult.assemble(points, ids, outcomes.values, outcomes.failures)
    if folder is not None:
        write_whole(folder / TABLE, result.table())
    return result


def _tasks(sweep: Sweep) -> tuple[Sequence[Point], Sequence[Task]]:
    """Look up every point; under plain expert parallelism there is no placement to tell points apart."""
    lookup = Lookup(sweep.name, sweep.folder)
    found: dict[frozenset[Any], tuple[Point, Run]] = {}
    for asked in sweep.points():
        run = lookup.find(asked)
        point = asked if run.inputs.placement else {**asked, "placement": None}
        found.setdefault(frozenset(point.items()), (point, run))
    points = [point for point, _ in found.values()]
    axes = find_axes(points)
    tasks = [
        Task(task_id(simulate_run, run.inputs), describe_point(point, axes), run.inputs, run)
        for point, run in found.values()
    ]
    return points, tasks


def simulate_run(run: Run) -> Mapping[str, Any]:
    """Simulate one run.

    Returns
    -------
    mapping
        ``row``, the columns of the table; ``notes`` on the inputs; ``states`` and ``events`` where they were asked for.

    Raises
    ------
    LazsimError
        When an input is not valid.
    """
    inputs, paths = run.inputs, run.paths
    trace = _shared_trace(inputs.trace, paths.get("trace"))
    loads = _shared_routing(inputs.routing, paths.get("routing"))
    wall_s = trace.duration_s if inputs.duration_s is None else inputs.duration_s
    if not wall_s > 0:
        raise LazsimError(f"trace {trace.name} lasts no time; give a duration")
    done = simulate_system(
        trace, find_system(inputs, paths), costs_of(inputs, paths), loads, wall_s, score_plans=inputs.score_plans
    )
    value: dict[str, Any] = {
        "row": _row(done, trace, wall_s, scored=inputs.score_plans),
        "notes": _notes(run, trace, loads, wall_s),
    }
    return value | ({"states": done.states, "events": done.events} if inputs.history else {})


# What several runs share is kept for a while where they run; runs with the same come after each other.
_shared_trace = functools.lru_cache(maxsize=4)(make_trace)
_shared_routing = functools.lru_cache(maxsize=2)(make_routing)


def _row(done: SystemRun, trace: Trace, wall_s: float, *, scored: bool) -> dict[str, Any]:
    asked: dict[str, Any] = {"placements": []} if scored else {}
    row: dict[str, Any] = RunResult("", asked, {}, (done,), ()).to_json()["runs"][0]
    ledger_s = row.pop("ledger_s")
    times_s, alive = trace.num_alive()
    row |= {f"{bucket}_s": seconds for bucket, seconds in ledger_s.items()}
    row["nodes_lost"] = int(((trace.change < 0) & (trace.time_s < wall_s)).sum())
    row["most_nodes"] = int(alive[times_s < wall_s].max())
    return row


def _notes(run: Run, trace: Trace, loads: Routing, wall_s: float) -> list[str]:
    """Say what is odd about the inputs."""
    notes = [*trace.notes, *loads.notes]
    times_s, alive = trace.num_alive()
    most_nodes, cluster = int(alive[times_s < wall_s].max()), run.inputs.cluster
    if most_nodes > cluster.num_nodes:
        notes.append(f"the trace has more nodes than {cluster.name} ({cluster.num_nodes}); max_nodes keeps to that")
    return notes
