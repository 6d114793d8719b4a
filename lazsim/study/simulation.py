"""Replay a trace under one or more systems."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import msgspec
from threadpoolctl import threadpool_limits

from lazsim import __version__
from lazsim.engine.planner import Planner, uses_domains
from lazsim.engine.simulate import SystemRun
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS, find_system, system_names
from lazsim.errors import InfeasiblePlanError, SpecError, prefix_errors
from lazsim.inputs import Reads
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import find_policy, policy_input
from lazsim.scenario import Inputs, Scenario, resolve
from lazsim.settings import AUTO, DEFAULTS
from lazsim.specs import hash_id
from lazsim.specs.record import given_fields
from lazsim.study.checkpoint_interval import choose_setting, num_rollbacks, other_draws, search_notes
from lazsim.study.collect import Advance, ShowRuns, show_nothing
from lazsim.study.memory import find_obstacle, gather_obstacles, tell_shortages
from lazsim.study.notes import describe_runs
from lazsim.study.notes.inputs import draw_notes
from lazsim.study.result import RunResult, describe_trace, flat_row
from lazsim.study.runs import ScenarioRuns, Setting
from lazsim.trace.recipes import Recipe
from lazsim.trace.table import Trace

SEARCH_RUN_PART = 0.1
"""Part of the rest of a system's share of the progress bar that each run of a search takes: their number is unknown."""

ALL = "all"
"""Stands for every system that can run the job."""


def simulate(
    trace: Trace | Recipe | Path | str,
    *,
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    placements: Sequence[str] = (),
    progress: ShowRuns = show_nothing,
    **settings: Any,
) -> RunResult:
    """Replay a trace under one or more systems.

    Parameters
    ----------
    trace
        What happens to the nodes: a trace, a file of node events, or a recipe, also by name or as a ``.toml`` file;
        see `lazsim.trace.recipes.change_recipe`.
    systems
        Names of systems, ``path.py:object`` for your own, or ``all``.
    placements
        Placement policies: names, or ``path.py:function``. Systems with flexible dispatch run once with each, and
        the plans of all runs are scored by the probability that every expert survives the next failure; see
        `lazsim.engine.plan_reliability`. Without any, each system has the policy that it publishes, and no plan is
        scored.
    progress
        Shows the progress; see `lazsim.study.collect.ShowRuns`.
    **settings
        All else; see `lazsim.settings.Defaults`. Also fields by dotted names, as in
        ``**{"cluster.network.nic_latency_s": "x0.5"}``. A `Trace` is taken as it is, and not cut.

    Raises
    ------
    LazsimError
        When a name is unknown, a file cannot be read, a policy fails, or the experts do not fit on the cluster. If a
        trace has too few nodes, nothing is trained, and a note says so.

    Examples
    --------
    >>> import lazsim
    >>> trace = lazsim.build_trace([lazsim.Event(0, "add", f"node{i}") for i in range(4)], duration_s=600)
    >>> result = lazsim.simulate(trace, systems=["lazarus"], routing="uniform")
    >>> result.runs[0].counts["failures"], result.runs[0].wall_s
    (0, 600.0)
    """
    scenarios, left_out = resolve_runs(settings | {"trace": trace}, systems, placements)
    searches = ALL in systems and settings.get("interval") is None and not placements
    return simulate_scenarios(scenarios, progress, left_out, searches=searches)


def resolve_runs(
    settings: Mapping[str, Any], systems: Sequence[str], placements: Sequence[str]
) -> tuple[list[Scenario], list[str]]:
    """Resolve one scenario for each system, and for each policy where the system has one to choose.

    Also return why systems are left out, where all are asked for.
    """
    reads, left_out = Reads(), list[str]()
    for name in ("system", "placement"):
        if settings.get(name) is not None:
            raise SpecError(f"`{name}` has no effect here: give it among `{name}s`")
    systems, placements = _names("systems", systems), _names("placements", placements)
    if not systems:
        raise SpecError("`systems` is empty: name one or more")
    if ALL in systems:
        found, left_out = _all_that_run(settings, reads)
        systems = [*found, *(name for name in systems if name != ALL)]
    for name in placements:
        with prefix_errors("`placement`"):
            find_policy(name)
    scenarios: list[Scenario] = []
    for system in dict.fromkeys(systems):
        for placement in dict.fromkeys(placements) if placements and find_system(system).is_elastic else [None]:
            scores = {"score_plans": True} if placements else {}
            asked = {**settings, **scores, "system": system, "placement": placement}
            scenarios.append(resolve(asked, reads=reads))
    refuse_idle_placements(placements, scenarios)
    return named_apart(scenarios), left_out


def _names(what: str, given: Iterable[str]) -> list[str]:
    """Return names or paths as a list of texts; refuse what is none, such as a function of a notebook."""
    if isinstance(given, str):
        raise SpecError(f"`{what}` {given!r}: give a list of names")
    try:
        return [os.fspath(name) for name in given]
    except TypeError:
        found = " ".join(repr(given).split())[:200]
        raise SpecError(f"`{what}`: expected a list of names, or of path.py:object, found {found}") from None


def refuse_idle_placements(placements: Collection[str], scenarios: Sequence[Scenario]) -> None:
    """Refuse policies where no system takes any."""
    if placements and all(one.placement is None for one in scenarios):
        names = ", ".join(dict.fromkeys(one.system for one in scenarios))
        told = f"plain expert parallelism places the experts of {names}"
        raise SpecError(f"`placement` has no effect: {told}; leave it out, or add a system such as lazarus")


def named_apart(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Return scenarios whose systems and policies have distinct names; see `refuse_same_names` and `distinct_names`."""
    refuse_same_names((one.settings["system"], one.system) for one in scenarios)
    given = {one.settings["placement"]: one.placement["name"] for one in scenarios if one.placement}
    names = distinct_names(given)
    return [
        replace(one, placement={**one.placement, "name": names[one.settings["placement"]]}) if one.placement else one
        for one in scenarios
    ]


def refuse_same_names(systems: Iterable[tuple[str, str]]) -> None:
    """Refuse users' own systems of one name, by which the intervals of a job and all tables go: given, and named."""
    by_name: dict[str, str] = {}
    for given, name in systems:
        if (other := by_name.setdefault(name, given)) != given:
            raise SpecError(f"`system`: {other} and {given} are both named {name!r}; name one otherwise in its file")


def distinct_names(names: Mapping[str, str]) -> Mapping[str, str]:
    """Name policies by what was given, as by their whole paths, where short names are the same."""
    return names if len(set(names.values())) == len(names) else {given: given for given in names}


def _all_that_run(settings: Mapping[str, Any], reads: Reads) -> tuple[list[str], list[str]]:
    """Return the systems that can run a job and fit into memory, and why the others cannot.

    Raises
    ------
    InfeasiblePlanError
        When none does.
    """
    found, left_out = list[str](), list[tuple[str, str]]()
    for system in system_names():
        try:
            scenario = resolve({**settings, "system": system}, reads=reads)
            of_system = scenario.find_system()
        except SpecError as error:
            # A package that is broken is no reason to run nothing.
            if system in SYSTEMS:
                raise
            left_out.append((system, str(error)))
            continue
        num_nodes = scenario.most_in_service() or scenario.cluster.num_nodes
        if obstacle := find_obstacle(scenario, of_system, num_nodes, scenario.wall_s()):
            left_out.append((system, obstacle))
        else:
            found.append(system)
    if not found:
        raise InfeasiblePlanError(
            f"`systems` all: none can run, the first since {left_out[0][1]}; name one to run it all the same"
        )
    return found, [f"left out: {why}" for why in gather_obstacles(left_out)]


def simulate_scenarios(
    scenarios: Sequence[Scenario],
    progress: ShowRuns = show_nothing,
    left_out: Sequence[str] = (),
    *,
    searches: bool = False,
) -> RunResult:
    """Simulate scenarios that share all but the system and the placement; see `simulate`.

    `left_out` says why there are no scenarios of other systems. Where it `searches`, all run at their best settings,
    too.
    """
    first = scenarios[0]
    runs, others = list[SystemRun](), list[SystemRun]()
    with progress(0, len(scenarios)) as advance:
        for one in scenarios:
            advance(0, one.find_system().run_name)
            is_search = searches or one.interval == AUTO
            with _bar_of_system(advance, SEARCH_RUN_PART if is_search else 1.0) as tell:
                by_setting = ScenarioRuns([one], tell)
                runs.append(_run(by_setting))
                if is_search:
                    others.append(_run(by_setting, _choose(by_setting, AUTO if searches else None)))
    chosen = search_notes(list(zip(scenarios, others, strict=True))) if searches else []
    return RunResult(
        id=hash_id([__version__, searches, *(one.id for one in scenarios)]),
        inputs=_record(scenarios),
        trace=describe_trace(first.load_trace(), first.wall_s()),
        runs=tuple(runs),
        gpu_memory_bytes=first.gpu.memory_bytes,
        notes=(*chosen, *describe_runs(list(zip(scenarios, runs, strict=True))), *draw_notes(scenarios), *left_out),
        published=tuple(others) if others and not searches else None,
        best=tuple(others) if searches else None,
        scenarios=tuple(scenarios),
    )


@contextmanager
def _bar_of_system(advance: Advance, part: float) -> Iterator[Callable[[float], None]]:
    """Move a bar by one while a system runs: each of its runs, which may be many, takes a part of the rest."""
    left = 1.0

    def tell(share: float) -> None:
        nonlocal left
        moved = min(left, share if part == 1.0 else left * part * share)
        left -= moved
        advance(moved)

    yield tell
    advance(left)


def run_scenario(scenario: Scenario) -> SystemRun:
    """Simulate one scenario."""
    return _run(ScenarioRuns([scenario]))


def simulate_point(scenario: Scenario) -> Mapping[str, Any]:
    """Simulate one of many scenarios: a point of a sweep, of a sensitivity study or of a search.

    Returns
    -------
    mapping
        ``row``, the columns of a table; ``name`` and ``notes``; ``num_rollbacks``, to checkpoints on storage;
        ``states`` and ``events`` where the scenario keeps histories.
    """
    trace, run = scenario.load_trace(), run_scenario(scenario)
    nodes = {"nodes_lost": trace.nodes_lost(run.wall_s), "most_nodes": trace.most_nodes(run.wall_s)}
    told = {"name": run.name, "notes": describe_runs([(scenario, run)]), "num_rollbacks": num_rollbacks(run)}
    value: dict[str, Any] = {"row": flat_row(scenario, run) | nodes, **told}
    return value | ({"states": run.states, "events": run.events} if scenario.history else {})


def _run(runs: ScenarioRuns, setting: Setting | None = None) -> SystemRun:
    """Simulate at a setting, or else that of the scenario; refuse what does not fit where that is asked for."""
    scenario = runs.scenario
    if scenario.strict:
        system = scenario.find_system()
        usable = system.usable_nodes(scenario.costs(), scenario.most_in_service())
        if usable and (obstacle := find_obstacle(scenario, system, usable, helps=True)):
            raise InfeasiblePlanError(obstacle)
    try:
        # Products of several threads are summed in another order: the same inputs would give other last digits.
        with threadpool_limits(1, user_api="blas"):
            [run] = runs.runs(setting or _choose(runs, scenario.interval))
    except InfeasiblePlanError as error:
        raise InfeasiblePlanError(scenario.why_no_layout or str(error)) from error
    if scenario.strict and (shortage := next(tell_shortages(scenario, run), "")):
        raise InfeasiblePlanError(shortage)
    return run


def _choose(runs: ScenarioRuns, interval: str | int | float | None) -> Setting:
    """Return the setting with an interval; the best one is that of other failures than those that judge it."""
    searched = runs.on(other_draws(runs.scenario)) if interval == AUTO else runs
    return choose_setting(searched, interval)


def plan_of(scenario: Scenario) -> PlacementPlan | None:
    """Return the plan on all nodes that a job may use at the first rebalance; None without flexible dispatch."""
    system, costs = scenario.find_system(), scenario.costs()
    if not system.is_elastic:
        return None
    num_nodes = system.usable_nodes(costs, scenario.most_in_service())
    if not num_nodes:
        return None
    per_domain = costs.cluster.nodes_per_domain
    domains = tuple(node // per_domain for node in range(num_nodes)) if uses_domains(system, costs) else None
    planner = Planner(system, costs, scenario.load_routing())
    return planner.plan(num_nodes, costs.job.rebalance_interval_steps, domains)


def _record(scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """Return every input by the name that a user gave, files by their hashes."""
    first = scenarios[0]
    trace, loads = first.load_trace(), first.load_routing()
    asked, replayed = first.settings, first.trace
    assert replayed is not None, "a run has a trace"
    record: dict[str, Any] = {"trace": {"name": Path(trace.name).name, "format": trace.format, "sha256": trace.sha256}}
    names = {**asked, "gpu": asked["gpu"] or first.cluster.gpu, "job": asked["job"] or first.job.name}
    for part in ("model", "cluster", "gpu", "job", "step"):
        record[part] = {"name": Path(names[part]).name, "sha256": first.hashes[part]}
    if first.job.parallel is not None:
        layouts = {one.system: msgspec.to_builtins(one.job.parallel) for one in scenarios}
        record["job"]["layout"] = layouts[first.system]
        if any(layout != layouts[first.system] for layout in layouts.values()):
            record["job"]["layouts"] = layouts
        record["kernels"] = {"name": Path(first.gpu.kernels).name, "sha256": first.inputs["kernels_sha256"]}
    record["model"] |= {"total_params": first.model.total_params, "active_params": first.model.active_params}
    record["routing"] = {"name": loads.name, "sha256": first.hashes.get("routing", loads.sha256)}
    if (profile := first.load_profile()) is not None:
        name = Path(asked["profile"] or names["gpu"]).name
        record["profile"] = {"name": name, "sha256": profile.sha256, "extrapolate": first.extrapolate}
    systems = list(dict.fromkeys(one.system for one in scenarios))
    record |= {"systems": systems, "duration_s": first.wall_s(), "seed": first.seed, "version": __version__}
    if first.score_plans:
        chosen = dict.fromkeys(one.settings["placement"] for one in scenarios)
        record["placements"] = [policy_input(name) for name in chosen if name]
    replay = {"start_s": replayed.start_s, "max_nodes": asked["max_nodes"], "cap": replayed.cap}
    replay |= {"lenient": asked["lenient"], **given_fields(replayed.mapping)}
    record["replay"] = {} if isinstance(asked["trace"], Trace) else replay
    record["trace_events"] = trace.events_sha256
    if origins := {one.system: one.system_origin for one in scenarios if one.system_origin}:
        record["system_origins"] = origins
    others = ("planning", "trace_seed", "layers_from")
    # Those that have a default and another value, and are the same for every system.
    optional = {one.name for one in fields(Inputs) if one.default is not MISSING} - {"system_origin"}
    record |= {name: value for name, value in first.inputs.items() if name in optional}
    record |= {name: asked[name] for name in others if asked[name] != DEFAULTS[name]}
    changes = {name: value for name, value in asked.items() if "." in name}
    return record | ({"changes": changes} if changes else {})
