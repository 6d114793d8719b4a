"""Points: scenarios that differ in some inputs, each of which gives a row of numbers and remarks on them.

A sweep makes them from grids, a sensitivity study by changing one constant at a time, and advice as it searches.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lazsim.scenario import Scenario
from lazsim.study.checkpoint_interval import AUTO, choice_note
from lazsim.study.collect import Outcomes, Task, run_tasks
from lazsim.study.notes import describe_runs
from lazsim.study.result import flat_row
from lazsim.study.simulation import run_scenario


def simulate_point(scenario: Scenario) -> Mapping[str, Any]:
    """Simulate one point.

    Returns
    -------
    mapping
        ``row``, the columns of a table; ``notes``; ``states`` and ``events`` where the scenario keeps histories.
    """
    trace, loads = scenario.load_trace(), scenario.load_routing()
    run = run_scenario(scenario, trace, loads)
    nodes = {"nodes_lost": trace.nodes_lost(run.wall_s), "most_nodes": trace.most_nodes(run.wall_s)}
    value: dict[str, Any] = {
        "row": flat_row(run, scored=scenario.score_plans) | nodes,
        "notes": [
            *([choice_note(scenario)] if scenario.interval == AUTO else []),
            *describe_runs([scenario], [run], trace, loads),
        ],
    }
    return value | ({"states": run.states, "events": run.events} if scenario.history else {})


def run_points(
    points: Iterable[tuple[str, Any]],
    folder: Path | None = None,
    *,
    function: Callable[[Any], Mapping[str, Any]] = simulate_point,
    **options: Any,
) -> Outcomes:
    """Run points, each with its label in errors, whose results the folder does not hold yet.

    `function` takes a point, a scenario or what has ``inputs`` as one does. `options` are those of
    `lazsim.study.collect.run_tasks`, whose errors are raised.
    """
    return run_tasks(function, [Task.of(function, label, point) for label, point in points], folder, **options)
