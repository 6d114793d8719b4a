"""From names and a trace to a result: look up what is named, simulate each system, and record every input."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lazsim import __version__
from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.step import CostModel
from lazsim.costmodel.tables import MeasuredCompute, read_profile
from lazsim.costmodel.times import ComputeTimes
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS
from lazsim.errors import SpecError
from lazsim.files import read_bytes
from lazsim.results import RunResult
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
from lazsim.trace.table import LONGEST_S, Trace
from lazsim.units import format_duration


def simulate(
    trace: Trace,
    *,
    model: str = "gpt-s",
    cluster: str = "rtx3090x10",
    job: str = "testbed-a",
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    routing: str = "smartmoe-fit",
    profile: str | None = None,
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
    routing
        Expert loads: a file, a generator of the catalogue, or ``uniform``.
    profile
        A CSV of measured compute times that replaces the analytic ones; see `lazsim.costmodel.tables`.
    duration_s
        How long to simulate; the trace's duration when not given.
    seed
        Seed of the generated loads.
    lenient
        Repair what is repairable in recorded loads.
    replay
        How the trace was cut from its file, recorded with the inputs.
    progress
        Wraps the systems while they are gone through, as a progress bar does.

    Raises
    ------
    LazsimError
        When a name is unknown, a file cannot be read, or the experts do not fit on the nodes.

    Examples
    --------
    >>> import lazsim
    >>> trace = lazsim.build_trace([lazsim.Event(0, "add", f"node{i}") for i in range(4)], duration_s=600)
    >>> result = lazsim.simulate(trace, systems=["lazarus"], routing="uniform")
    >>> result.runs[0].counts["failures"], result.runs[0].wall_s
    (0, 600.0)
    """
    for name in systems:
        if name not in SYSTEMS:
            raise SpecError(unknown_name("system", name, list(SYSTEMS)))
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
    costs = build_costs(model_spec, gpu_spec, cluster_spec, job_spec, profile)
    if profile is not None:
        inputs["profile"] = {"name": Path(profile).name, "sha256": sha256(read_bytes(profile))}
    wall_s = trace.duration_s if duration_s is None else duration_s
    if not 0 < wall_s <= LONGEST_S:
        raise SpecError(f"a duration of {wall_s:g} s cannot be simulated: choose more than 0 and up to 100 years")
    runs = tuple(simulate_system(trace, SYSTEMS[name], costs, loads, wall_s) for name in progress(systems))
    inputs |= {"systems": list(systems), "duration_s": wall_s, "seed": seed, "version": __version__}
    inputs["replay"] = dict(replay or {})
    inputs["trace_events"] = sha256(trace.time_s.tobytes() + trace.change.tobytes() + trace.node.tobytes())
    return RunResult(
        id=sha256(msgspec.json.encode(inputs, order="deterministic"))[:16],
        inputs=inputs,
        trace=_trace_json(trace, wall_s),
        runs=runs,
        notes=_notes(trace, cluster_spec, loads, runs, wall_s),
    )


def build_costs(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, job: JobSpec, profile: str | None = None
) -> CostModel:
    """Put together what a step takes: analytic times, and measured ones where a profile has them.

    Raises
    ------
    LazsimError
        When the profile cannot be read.
    """
    compute: ComputeTimes = AnalyticCompute(model, gpu, cluster, job)
    if profile is not None:
        compute = MeasuredCompute(read_profile(profile), compute)
    return CostModel(model, cluster, job, compute, AnalyticCommunication(cluster.network))


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
            f"--max-nodes {cluster.num_nodes} keeps to that"
        )
    notes += [
        f"{run.system} waits throughout: the {most_nodes} nodes that the trace has at most are too few"
        for run in runs
        if run.ledger_s["waiting"] == run.wall_s
    ]
    last_step = loads.last_step
    if last_step is not None and any(run.steps > last_step for run in runs):
        notes.append(f"the recorded loads end at step {last_step}; they are held from there on")
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
