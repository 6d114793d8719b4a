"""Remarks on a run that its reader needs: repairs, doubtful inputs, and the limits of the result."""

from collections.abc import Sequence

from lazsim.costmodel.measured import MeasuredCommunication, MeasuredCompute
from lazsim.costmodel.profile import BARE_KERNELS
from lazsim.engine.simulate import SystemRun
from lazsim.engine.systems import SYSTEMS
from lazsim.routing import Routing
from lazsim.scenario import Scenario
from lazsim.trace.table import Trace
from lazsim.units import format_duration


def input_notes(scenario: Scenario, trace: Trace, loads: Routing, wall_s: float) -> list[str]:
    """Return remarks on the inputs, which hold for every system."""
    notes = [*trace.notes, *loads.notes]
    if wall_s > trace.duration_s:
        end = format_duration(trace.duration_s)
        notes.append(f"nodes alive at the trace's end, after {end}, stay to the end of the run")
    most_nodes, cluster = trace.most_nodes(wall_s), scenario.cluster
    if most_nodes > cluster.num_nodes:
        notes.append(
            f"the trace has up to {most_nodes} nodes, {cluster.name} has {cluster.num_nodes}; "
            f"`max_nodes` {cluster.num_nodes} keeps to that"
        )
    return notes


def run_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun], trace: Trace, loads: Routing) -> list[str]:
    """Return remarks on the results of scenarios that share all but system and placement."""
    first = scenarios[0]
    most_nodes = trace.most_nodes(first.wall_s(trace))
    notes = [
        f"{run.name} waits throughout: {most_nodes} nodes, the most that the trace has, are too few"
        for run in runs
        if run.ledger_s["waiting"] == run.wall_s
    ]
    last_step = loads.last_step
    if last_step is not None and any(run.steps > last_step for run in runs):
        notes.append(f"the recorded loads end at step {last_step}; later steps use the last ones")
    notes += _cost_notes(first, runs)
    return notes + (_placement_notes(scenarios, runs, trace) if first.score_plans else [])


def _cost_notes(scenario: Scenario, runs: Sequence[SystemRun]) -> list[str]:
    """Say which times are measured and which are analytic."""
    profile = scenario.load_profile()
    if profile is None:
        return ["costs are analytic: no profile was given"]
    costs = scenario.costs()
    times, links = costs.compute, costs.communication
    assert isinstance(times, MeasuredCompute)
    assert isinstance(links, MeasuredCommunication)
    header = profile.header
    where = f" on {header.device}, {header.dtype}" if header is not None else ""
    measured = [*times.tables, *(f"{name} inside a server" for name in links.tables)]
    analytic = [name for name in BARE_KERNELS if name not in times.tables]
    notes = [f"{profile.name}: measured{where}: {', '.join(measured) or 'no part of a step'}"]
    notes.append(f"analytic: {', '.join([*analytic, 'links between servers', 'storage'])}")
    if header is not None and header.device == "cpu" and times.tables:
        notes.append(f"times of a CPU stand in for those of {costs.cluster.gpu}: no real machine is like this run's")
    for run in runs:
        if run.extrapolated_s is not None:
            share = run.extrapolated_s / max(run.ledger_s["compute"] + run.ledger_s["lost_work"], 1e-9)
            notes.append(f"{run.name}: {share:.1%} of the time of its steps is extrapolated beyond measured sizes")
    return notes


def _placement_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun], trace: Trace) -> list[str]:
    """Say what a comparison of placements lacks."""
    notes = []
    if not any(SYSTEMS[one.system].is_elastic for one in scenarios):
        names = ", ".join(dict.fromkeys(one.system for one in scenarios))
        notes.append(f"the placements have no effect: {names} place by plain expert parallelism")
    if not trace.nodes_lost(scenarios[0].wall_s(trace)):
        notes.append("the trace loses no node, so that plans have no recovery probability")
    scores = {run.name: run.plan_recovery for run in runs if run.plan_recovery is not None}
    sampled = {name: score for name, score in scores.items() if score.method != "exact"}
    if sampled:
        width = max(score.ci_high - score.ci_low for score in sampled.values()) / 2
        notes.append(f"recovery probability sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}")
    return notes
