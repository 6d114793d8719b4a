"""Simulate every point of a sweep that a folder does not hold yet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lazsim.engine.simulate import require_fit
from lazsim.errors import InfeasiblePlanError, prefix_errors
from lazsim.files import write_whole
from lazsim.folders import refuse_foreign
from lazsim.scenario import Resolver, Scenario
from lazsim.study.collect import Progress, Task, run_tasks, task_id
from lazsim.study.notes import describe_runs
from lazsim.study.result import flat_row
from lazsim.study.simulation import run_scenario
from lazsim.study.store import ROWS
from lazsim.study.sweep_result import SweepResult, describe_point, find_axes
from lazsim.study.sweep_spec import Point, Sweep

TABLE = "table.csv"
"""File with the table of the last sweep into a folder."""


def run_sweep(
    sweep: Sweep,
    folder: Path | None = None,
    *,
    backend: str = "loky",
    num_workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Simulate every point of a sweep; the result is the same for every backend and number of workers, and resumed.

    Parameters
    ----------
    folder
        Keeps each run as soon as it ends, and the table at the end; None keeps nothing.
    backend, num_workers, address, progress
        See `lazsim.study.collect.run_tasks`.

    Raises
    ------
    LazsimError
        When an input is not valid, before anything runs, or the folder or the backend cannot be used.
    """
    if folder is not None and not (folder / ROWS).exists():
        refuse_foreign(folder, [TABLE])
    points, tasks = sweep_tasks(sweep)
    outcomes = run_tasks(
        simulate_point, tasks, folder, backend=backend, num_workers=num_workers, address=address, progress=progress
    )
    ids = [task.id for task in tasks]
    result = SweepResult.assemble(points, ids, outcomes.values, outcomes.failures)
    if folder is not None:
        write_whole(folder / TABLE, result.table())
    return result


def sweep_tasks(sweep: Sweep) -> tuple[Sequence[Point], Sequence[Task]]:
    """Resolve every point of a sweep to a task; under plain expert parallelism no placement tells points apart."""
    resolver, fitting = Resolver(sweep.name, sweep.folder), set[bytes]()
    found: dict[frozenset[Any], tuple[Point, Scenario]] = {}
    for asked in sweep.points():
        scenario = resolver.resolve(asked)
        _require_fit(scenario, fitting)
        point = asked if scenario.placement else {**asked, "placement": None}
        found.setdefault(frozenset(point.items()), (point, scenario))
    points = [point for point, _ in found.values()]
    axes = find_axes(points)
    tasks = [
        Task(task_id(simulate_point, scenario.inputs), describe_point(point, axes), scenario.inputs, scenario)
        for point, scenario in found.values()
    ]
    return points, tasks


def _require_fit(scenario: Scenario, fitting: set[bytes]) -> None:
    """Refuse a cluster on which the experts do not fit, once for all seeds."""
    parts = (scenario.model, scenario.gpu, scenario.cluster, scenario.job, scenario.system, scenario.placement)
    parts_json = msgspec.json.encode(parts)
    if parts_json in fitting:
        return
    try:
        require_fit(scenario.find_system(), scenario.costs(), scenario.cluster.num_nodes)
    except InfeasiblePlanError:
        # The trace may have more nodes; an instant of the run tells, and says what is wrong.
        with prefix_errors(f"{scenario.name}: `cluster` = {scenario.settings['cluster']!r}"):
            run_scenario(scenario.replace("duration", 1e-3), scenario.load_trace(), scenario.load_routing())
    fitting.add(parts_json)


def simulate_point(scenario: Scenario) -> Mapping[str, Any]:
    """Simulate one point of a sweep.

    Returns
    -------
    mapping
        ``row``, the columns of the table; ``notes``; ``states`` and ``events`` where the sweep keeps histories.
    """
    trace, loads = scenario.load_trace(), scenario.load_routing()
    run = run_scenario(scenario, trace, loads)
    nodes = {"nodes_lost": trace.nodes_lost(run.wall_s), "most_nodes": trace.most_nodes(run.wall_s)}
    value: dict[str, Any] = {
        "row": flat_row(run, scored=scenario.score_plans) | nodes,
        "notes": describe_runs([scenario], [run], trace, loads),
    }
    return value | ({"states": run.states, "events": run.events} if scenario.history else {})
