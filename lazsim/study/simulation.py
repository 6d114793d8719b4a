"""From names and a trace to a result: look up what is named, simulate each system, and record every input."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from lazsim import __version__
from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.measured import (
    Beyond,
    MeasuredCommunication,
    MeasuredCompute,
    communication_tables,
    compute_tables,
)
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.profile import BARE_KERNELS, Profile, find_profile, read_profile
from lazsim.costmodel.step import CostModel
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS, System
from lazsim.errors import SpecError
from lazsim.placement.policies import find_policy, policy_input
from lazsim.routing import Routing, load_routing
from lazsim.specs import (
    CATALOG_KINDS,
    ClusterSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    SpecT,
    read_spec_bytes,
    read_toml,
    sha256,
    unknown_name,
)
from lazsim.study.result import RunResult
from lazsim.trace.table import LONGEST_S, Trace
from lazsim.units import format_duration


def simulate(
    trace: Trace,
    *,
    model: str = "gpt-s",
    cluster: str = "rtx3090x10",
    job: str = "testbed-a",
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    placements: Sequence[str] = (),
    routing: str = "smartmoe-fit",
    profile: str | None = None,
    extrapolate: bool = False,
    duration_s: float | None = None,
    seed: int = 0,
    lenient: bool = False,
    replay: Mapping[str, Any] | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> RunResult:
    """Replay a trace under one or more systems.

    Parameters
    ----------
    trace
        What happens to the nodes; see `lazsim.trace.load`.
    model, cluster, job
        Names of the catalogue, or paths to TOML files.
    systems
        Names of systems.
    placements
        Placement policies: names, or ``path.py:function``. Systems with flexible dispatch are run once with each, and
        the plans of all runs are scored by how likely they keep every expert; see `lazsim.engine.plan_reliability`.
        Without any, each system has the policy that it publishes, and nothing is scored.
    routing
        Expert loads: a file, a generator of the catalogue, or ``uniform``.
    profile
        Measured times that replace the analytic ones: a CSV or a device of the catalogue; see docs/profiles.md.
    extrapolate
        Go on by the analytic times, scaled to meet the profile, beyond the sizes that it has.
    duration_s
        How long to simulate; the trace's duration when not given.
    seed
        Seed of the generated loads.
    lenient
        Repair what is repairable in recorded loads.
    replay
        How the trace was cut from its file, recorded with the inputs.
    progress
        Wraps the names of runs while they are gone through, as a progress bar does.

    Raises
    ------
    LazsimError
        When a name is unknown, a file cannot be read, a policy fails, or the experts do not fit on the nodes.

    Examples
    --------
    >>> import lazsim
    >>> trace = lazsim.build_trace([lazsim.Event(0, "add", f"node{i}") for i in range(4)], duration_s=600)
    >>> result = lazsim.simulate(trace, systems=["lazarus"], routing="uniform")
    >>> result.runs[0].counts["failures"], result.runs[0].wall_s
    (0, 600.0)
    """
    chosen = _choose_systems(systems, placements, seed)
    inputs: dict[str, Any] = {"trace": {"name": Path(trace.name).name, "format": trace.format, "sha256": trace.sha256}}
    model_spec = _load(ModelSpec, model, inputs)
    cluster_spec = _load(ClusterSpec, cluster, inputs)
    gpu_spec = _load(GpuSpec, cluster_spec.gpu, inputs)
    job_spec = _load(JobSpec, job, inputs)
    for name in systems:
        if name not in job_spec.checkpoint_interval_steps:
            raise SpecError(f"{job}: checkpoint_interval_steps has no entry for {name!r}; add one")
    loads = load_routing(routing, model_spec.num_moe_layers, model_spec.num_experts, seed, lenient=lenient)
    inputs["routing"] = {"name": loads.name, "sha256": loads.sha256}
    costs = build_costs(model_spec, gpu_spec, cluster_spec, job_spec, profile, extrapolate=extrapolate)
    if profile is not None:
        measured = read_profile(find_profile(profile, model_spec.name))
        inputs["profile"] = {"name": Path(profile).name, "sha256": measured.sha256, "extrapolate": extrapolate}
    wall_s = trace.duration_s if duration_s is None else duration_s
    if duration_s is None and wall_s == 0:
        where = trace.name or "the trace"
        raise SpecError(f"{where}: all its events are at its start, so it lasts 0 s; give a duration (`duration`)")
    if not 0 < wall_s <= LONGEST_S:
        raise SpecError(f"a duration of {wall_s:g} s cannot be simulated: choose more than 0 and up to 100 years")
    runs = tuple(
        simulate_system(trace, system, costs, loads, wall_s, score_plans=bool(placements))
        for _, system in zip(progress([system.run_name for system in chosen]), chosen, strict=True)
    )
    inputs |= {"systems": list(systems), "duration_s": wall_s, "seed": seed, "version": __version__}
    if placements:
        inputs["placements"] = [policy_input(name) for name in dict.fromkeys(placements)]
    inputs["replay"] = dict(replay or {})
    inputs["trace_events"] = trace.events_sha256
    trace_json = _trace_json(trace, wall_s)
    notes = _notes(trace, cluster_spec, loads, runs, wall_s)
    if profile is not None:
        notes += _profile_notes(measured, costs, runs)
    else:
        notes += ("costs are analytic: no profile was given",)
    if placements:
        notes += _placement_notes(chosen, runs, trace_json["nodes_lost"])
    return RunResult(
        id=sha256(msgspec.json.encode(inputs, order="deterministic"))[:16],
        inputs=inputs,
        trace=trace_json,
        runs=runs,
        notes=notes,
    )


def _choose_systems(systems: Sequence[str], placements: Sequence[str], seed: int) -> list[System]:
    """Look systems and policies up, and pair those that go together."""
    for name in systems:
        if name not in SYSTEMS:
            raise SpecError(unknown_name("system", name, list(SYSTEMS)))
    policies = [find_policy(name) for name in dict.fromkeys(placements)]
    labels = [Path(policy.name).name for policy in policies]
    if len(set(labels)) < len(labels):
        labels = [policy.name for policy in policies]
    chosen: list[System] = []
    for system in (SYSTEMS[name] for name in systems):
        if system.is_elastic and policies:
            pairs = zip(policies, labels, strict=True)
            chosen += [replace(system, policy=policy, placement=label, seed=seed) for policy, label in pairs]
        else:
            chosen.append(system)
    return chosen


def build_costs(
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    job: JobSpec,
    profile: str | None = None,
    *,
    extrapolate: bool = False,
) -> CostModel:
    """Put together what a step takes: analytic times, and measured ones where a profile has them.

    Raises
    ------
    LazsimError
        When the profile cannot be read, or is of a model of other shapes.
    """
    compute, links = AnalyticCompute(model, gpu, cluster, job), AnalyticCommunication(cluster.network)
    if profile is None:
        return CostModel(model, cluster, job, compute, links)
    measured = read_profile(find_profile(profile, model.name))
    kernels = compute_tables(measured, model, cluster.gpus_per_node)
    exchanges = communication_tables(measured)

    def costs(beyond: Beyond, measured_part: CostModel | None = None) -> CostModel:
        times = MeasuredCompute(kernels, compute, beyond), MeasuredCommunication(exchanges, links, beyond)
        return CostModel(model, cluster, job, *times, measured_part)

    return costs("analytic", costs("nothing")) if extrapolate else costs("raise")


def _load(spec_type: type[SpecT], name: str, inputs: dict[str, Any]) -> SpecT:
    kind = CATALOG_KINDS[spec_type]
    content = read_spec_bytes(kind, name)
    inputs[kind.removesuffix("s")] = {"name": Path(name).name, "sha256": sha256(content)}
    return read_toml(name, content, spec_type)


def _notes(
    trace: Trace, cluster: ClusterSpec, loads: Routing, runs: tuple[SystemRun, ...], wall_s: float
) -> tuple[str, ...]:
    notes = [*trace.notes, *loads.notes]
    if wall_s > trace.duration_s:
        notes.append(
            f"nodes alive at the trace's end, after {format_duration(trace.duration_s)}, stay to the end of the run"
        )
    times_s, alive = trace.num_alive()
    most_nodes = int(alive[times_s < wall_s].max())
    if most_nodes > cluster.num_nodes:
        notes.append(
            f"the trace has up to {most_nodes} nodes, {cluster.name} has {cluster.num_nodes}; "
            f"`max_nodes` {cluster.num_nodes} keeps to that"
        )
    notes += [
        f"{run.name} waits throughout: the {most_nodes} nodes that the trace has at most are too few"
        for run in runs
        if run.ledger_s["waiting"] == run.wall_s
    ]
    last_step = loads.last_step
    if last_step is not None and any(run.steps > last_step for run in runs):
        notes.append(f"the recorded loads end at step {last_step}; they are held from there on")
    return tuple(notes)


def _profile_notes(profile: Profile, costs: CostModel, runs: tuple[SystemRun, ...]) -> tuple[str, ...]:
    """Say what was measured, what stays analytic, and how much rests on no measurement."""
    times, links = costs.compute, costs.communication
    assert isinstance(times, MeasuredCompute)
    assert isinstance(links, MeasuredCommunication)
    header = profile.header
    where = f" on {header.device}, {header.dtype}" if header is not None else ""
    measured = [*times.tables, *(f"{name} inside a server" for name in links.tables)]
    analytic = [name for name in BARE_KERNELS if name not in times.tables]
    notes = [f"{profile.name}: measured{where}: {', '.join(measured) or 'nothing that a step is made of'}"]
    notes.append(f"analytic: {', '.join([*analytic, 'links between servers', 'storage'])}")
    if header is not None and header.device == "cpu" and times.tables:
        notes.append(f"a processor's times stand in for those of {costs.cluster.gpu}: no machine is as this run is")
    for run in runs:
        if run.extrapolated_s is not None:
            share = run.extrapolated_s / max(run.ledger_s["compute"] + run.ledger_s["lost_work"], 1e-9)
            notes.append(f"{run.name}: {share:.1%} of the time of its steps is extrapolated beyond measured sizes")
    return tuple(notes)


def _placement_notes(systems: Sequence[System], runs: tuple[SystemRun, ...], nodes_lost: int) -> tuple[str, ...]:
    """Say what a comparison of placements lacks."""
    notes = []
    if not any(system.is_elastic for system in systems):
        names = ", ".join(system.name for system in systems)
        notes.append(f"no run has a placement that was chosen: {names} place by plain expert parallelism")
    if not nodes_lost:
        notes.append("no node is lost: there is no failure to tell a recovery probability of")
    scores = {run.name: run.plan_recovery for run in runs if run.plan_recovery is not None}
    sampled = {name: score for name, score in scores.items() if score.method != "exact"}
    if sampled:
        width = max(score.ci_high - score.ci_low for score in sampled.values()) / 2
        notes.append(f"recovery probability sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}")
    return tuple(notes)


def _trace_json(trace: Trace, wall_s: float) -> dict[str, Any]:
    times, counts = trace.num_alive()
    inside = times < wall_s
    removed = trace.time_s[trace.change < 0]
    return {
        "name": Path(trace.name).name,
        "format": trace.format,
        "sha256": trace.sha256,
        "duration_s": trace.duration_s,
        "num_nodes": len(trace.names),
        "num_events": len(trace),
        "most_nodes": int(counts[inside].max()),
        "fewest_nodes": int(counts[inside].min()),
        "nodes_lost": int((removed < wall_s).sum()),
    }
