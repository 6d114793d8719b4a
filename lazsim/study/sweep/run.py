"""Simulate every point of a sweep that a folder does not hold yet."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lazsim.engine.simulate import require_fit
from lazsim.errors import InfeasiblePlanError, prefix_errors
from lazsim.files.folders import refuse_foreign
from lazsim.files.writing import write_whole
from lazsim.inputs import Reads
from lazsim.scenario import Scenario, resolve
from lazsim.study.collect import collect
from lazsim.study.notes.inputs import nodes_note
from lazsim.study.simulation import named_apart, refuse_idle_placements, run_scenario, simulate_point
from lazsim.study.store import ROWS
from lazsim.study.sweep.result import SweepResult, describe_point, find_axes
from lazsim.study.sweep.spec import Point, Sweep

TABLE = "table.csv"
"""File with the table of the last sweep into a folder."""


def run_sweep(
    sweep: Sweep, folder: Path | str | None = None, tell: Callable[[str], None] = lambda _: None, **options: Any
) -> SweepResult:
    """Simulate every point of a sweep once all inputs are valid; the result is the same on every backend, and resumed.

    Parameters
    ----------
    folder
        Keeps each run as soon as it ends, and the table at the end; None keeps nothing.
    tell
        Is told, before anything runs, where a trace has more nodes than its cluster, and what `collect` tells.
    **options
        Backend, workers and progress; see `lazsim.study.collect.collect`.

    Raises
    ------
    LazsimError
        When an input is not valid, before anything runs, or the folder or the backend cannot be used.
    """
    folder = None if folder is None else Path(folder)
    if folder is not None and not (folder / ROWS).exists():
        refuse_foreign(folder, [TABLE])
    points, scenarios = resolve_points(sweep)
    axes = find_axes(points)
    labels = [describe_point(point, axes) for point in points]
    by_nodes = {(one.settings["trace"], one.settings["max_nodes"], one.cluster.num_nodes): one for one in scenarios}
    for told in dict.fromkeys(told for one in by_nodes.values() for told in nodes_note(one)):
        tell(told)
    outcomes = collect(simulate_point, scenarios, folder, labels=labels, tell=tell, **options)
    result = SweepResult.assemble(points, outcomes)
    if folder is not None and result.rows:
        write_whole(folder / TABLE, result.table())
    return result


def resolve_points(sweep: Sweep) -> tuple[Sequence[Point], Sequence[Scenario]]:
    """Resolve every point of a sweep, and name its system and its policy as a run does.

    Under plain expert parallelism no placement tells points apart.
    """
    reads, fitting = Reads(), set[bytes]()
    found: dict[frozenset[Any], tuple[Point, Scenario]] = {}
    for asked in sweep.points():
        scenario = resolve(asked, sweep.name, sweep.folder, reads)
        _require_fit(scenario, fitting)
        point = asked if scenario.placement else {**asked, "placement": None}
        found.setdefault(frozenset(point.items()), (point, scenario))
    points, resolved = zip(*found.values(), strict=True)
    with prefix_errors(sweep.name):
        asked_for = {point["placement"] for point in sweep.points() if point.get("placement")}
        refuse_idle_placements(asked_for, resolved)
        scenarios = named_apart(resolved)
    names = [{"system": one.system, "placement": one.placement and one.placement["name"]} for one in scenarios]
    return [point | of_run for point, of_run in zip(points, names, strict=True)], scenarios


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
            run_scenario(scenario.replace("duration", 1e-3))
    fitting.add(parts_json)
