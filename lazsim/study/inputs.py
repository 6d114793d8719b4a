"""All inputs of a run, and what is made of them where it runs."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import SYSTEMS, System
from lazsim.errors import SpecError
from lazsim.placement.policies import find_policy
from lazsim.routing import GeneratedRouting, Routing, RoutingSpec, load_routing
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, Spec
from lazsim.study.simulation import build_costs
from lazsim.trace import Trace, cut_trace, generate_trace, read_trace
from lazsim.trace.recipes import Recipe


class TraceInput(Spec, frozen=True, kw_only=True):
    """Where a trace comes from, a recipe or a file with its hash, and how it is cut."""

    name: str
    recipe: Recipe | None = None
    sha256: str = ""
    format: str
    lenient: bool
    seed: int
    start_s: float
    duration_s: float | None
    max_nodes: int | None
    cap: str


class RoutingInput(Spec, frozen=True, kw_only=True):
    """Where expert loads come from: a generator, or a recording with its hash; and for what shape."""

    name: str
    generator: RoutingSpec | None = None
    sha256: str = ""
    lenient: bool
    seed: int
    num_layers: int
    num_experts: int


class RunInputs(Spec, frozen=True, kw_only=True):
    """All that the result of a run depends on, but for the code."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    job: JobSpec
    profile_sha256: str | None
    extrapolate: bool
    system: str
    placement: Mapping[str, str] | None
    trace: TraceInput
    routing: RoutingInput
    duration_s: float | None
    seed: int
    score_plans: bool
    history: bool


class Run(msgspec.Struct, frozen=True):
    """A run to make: its inputs, and by key the paths of those that are files."""

    inputs: RunInputs
    paths: Mapping[str, str]


def find_system(inputs: RunInputs, paths: Mapping[str, str]) -> System:
    """Return the system of a run with the policy that was chosen for it."""
    system = SYSTEMS[inputs.system]
    if inputs.placement is None:
        return system
    policy = find_policy(paths.get("placement", inputs.placement["name"]))
    return replace(system, policy=policy, placement=inputs.placement["name"], seed=inputs.seed)


def costs_of(inputs: RunInputs, paths: Mapping[str, str]) -> CostModel:
    """Return what a run costs."""
    return build_costs(
        inputs.model, inputs.gpu, inputs.cluster, inputs.job, paths.get("profile"), extrapolate=inputs.extrapolate
    )


def make_trace(source: TraceInput, path: str | None) -> Trace:
    """Generate or read a trace, and cut it.

    Raises
    ------
    LazsimError
        When that is not possible, or the file is no more what it was.
    """
    if source.recipe is not None:
        trace = generate_trace(source.recipe, np.random.default_rng(source.seed), source.name)
    else:
        assert path is not None, "a trace is a recipe or a file"
        trace = read_trace(path, format=source.format, seed=source.seed, lenient=source.lenient)
        _check_unchanged(path, source.sha256, trace.sha256)
    return cut_trace(
        trace,
        start_s=source.start_s,
        duration_s=source.duration_s,
        max_nodes=source.max_nodes,
        cap=source.cap,
        seed=source.seed,
    )


def make_routing(source: RoutingInput, path: str | None) -> Routing:
    """Generate or read expert loads.

    Raises
    ------
    LazsimError
        When that is not possible, or the file is no more what it was.
    """
    if source.generator is not None:
        return GeneratedRouting(source.generator, source.num_layers, source.num_experts, source.seed)
    loads = load_routing(path or source.name, source.num_layers, source.num_experts, source.seed, source.lenient)
    _check_unchanged(path or source.name, source.sha256, loads.sha256)
    return loads


def _check_unchanged(path: str, before: str, now: str) -> None:
    if before not in ("", now):
        raise SpecError(f"{path}: changed while the sweep ran; start the sweep again")
