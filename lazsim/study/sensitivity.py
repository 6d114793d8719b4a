"""What an outcome owes to each constant: simulate with every one of them halved, then half as large again."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import msgspec

from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS
from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.routing import Routing, load_routing
from lazsim.specs import (
    ClusterSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    NetworkSpec,
    RecoverySpec,
    Spec,
    load_spec,
    unknown_name,
)
from lazsim.study.result import RunResult
from lazsim.study.simulation import build_costs, simulate
from lazsim.trace.table import Trace

FACTORS = (0.5, 1.5)
"""By which each constant is multiplied, unless others are asked for."""

FIXED = {
    "gpu": ("name", "source", "peak_flop_per_s", "memory_bytes_per_s", "memory_bytes", "fused_experts"),
    "job": ("name", "sequences_per_gpu", "num_micro_batches", "checkpoint_interval_steps", "expert_kernels"),
}
"""What is not varied: names, datasheet figures, which only multiply efficiencies, the batch and the kind of kernels,
which are the job."""

Path = tuple[str, ...]


class Setup(Spec, frozen=True, kw_only=True):
    """All specifications of a run, so that a path names any constant of them."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    job: JobSpec


@dataclass(frozen=True)
class Change:
    """One constant at another value, and what comes of it.

    Attributes
    ----------
    constant, factor, value : str, float, float
        Its name, by what it is multiplied, and the product.
    samples : mapping
        Samples that each system trains; None where it cannot run.
    samples_change : mapping
        Their relative change: 0.1 is a tenth more; NaN where there is none to tell.
    ratio_change : mapping
        For each system but the first, the relative change of the ratio first system : that system.
    """

    constant: str
    factor: float
    value: float
    samples: Mapping[str, int | None]
    samples_change: Mapping[str, float]
    ratio_change: Mapping[str, float]

    @property
    def effect(self) -> float:
        """The largest change of all; infinite when a system cannot run."""
        if None in self.samples.values():
            return math.inf
        changes = [*self.samples_change.values(), *self.ratio_change.values()]
        return max((abs(change) for change in changes if not math.isnan(change)), default=0.0)


@dataclass(frozen=True)
class Sensitivity:
    """The run with every constant as it stands, and what each change does, constants with the largest effect first."""

    base: RunResult
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim sensitivity --json`` prints."""
        return {
            "trace": dict(self.base.trace),
            "samples": {run.system: run.samples for run in self.base.runs},
            "changes": [vars(change) for change in self.changes],
            "inputs": dict(self.base.inputs),
            "notes": list(self.base.notes),
        }


def sensitivity(
    trace: Trace,
    *,
    model: str = "gpt-s",
    cluster: str = "rtx3090x10",
    job: str = "testbed-a",
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    routing: str = "smartmoe-fit",
    constants: Sequence[str] = (),
    factors: Sequence[float] = FACTORS,
    duration_s: float | None = None,
    seed: int = 0,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Sensitivity:
    """Vary each constant of a run by itself.

    Parameters
    ----------
    trace, model, cluster, job, systems, routing, duration_s, seed
        See `lazsim.study.simulation.simulate`. Ratios are those of the first system to the others.
    constants
        Which, by the names that `constant_paths` gives them; all when empty.
    factors
        By which each is multiplied, above 0. One near 1 tells how large an effect is by chance; see Notes.
    progress
        Wraps the names of constants while they are gone through, as a progress bar does.

    Raises
    ------
    LazsimError
        As `lazsim.study.simulation.simulate`, or when a constant is unknown.

    Notes
    -----
    The same loads and node events are used throughout. Yet a change moves the step at which a failure hits, and with it
    the work lost since the last checkpoint, so that a small effect may have either sign.
    """
    systems = list(dict.fromkeys(systems))
    paths = constant_paths(systems)
    for name in constants:
        if name not in paths:
            raise SpecError(unknown_name("constant", name, list(paths)))
    base = simulate(
        trace, model=model, cluster=cluster, job=job, systems=systems, routing=routing, duration_s=duration_s, seed=seed
    )
    setup = _load_setup(model, cluster, job)
    loads = load_routing(routing, setup.model.num_moe_layers, setup.model.num_experts, seed)
    before = {run.system: run.samples for run in base.runs}
    effects = []
    for name in progress(list(dict.fromkeys(constants or paths))):
        changes = []
        for factor in factors:
            varied = scale(setup, paths[name], factor)
            after = _samples(trace, varied, systems, loads, base.inputs["duration_s"])
            changes.append(_compare(name, factor, _at(varied, paths[name]), before, after))
        effects.append(changes)
    effects.sort(key=lambda changes: -max(change.effect for change in changes))
    return Sensitivity(base, tuple(change for changes in effects for change in changes))


def constant_paths(systems: Sequence[str]) -> dict[str, Path]:
    """Name the constants that are varied, and say where in a `Setup` each stands."""
    paths: list[Path] = [("cluster", "slots_per_gpu")]
    paths += [("cluster", "network", field) for field in NetworkSpec.__struct_fields__]
    paths += [("cluster", "recovery", field) for field in RecoverySpec.__struct_fields__]
    paths += [("gpu", field) for field in GpuSpec.__struct_fields__ if field not in FIXED["gpu"]]
    paths += [("job", field) for field in JobSpec.__struct_fields__ if field not in FIXED["job"]]
    named = {path[-1]: path for path in paths}
    interval = "checkpoint_interval_steps"
    return named | {f"{interval}.{system}": ("job", interval, system) for system in systems}


def scale(spec: Any, path: Path, factor: float) -> Any:
    """Return a copy of a specification, or of a mapping in it, with the number at a path multiplied.

    A whole number, such as of steps, is rounded and stays at least 1.

    Examples
    --------
    >>> scale({"steps": 7}, ("steps",), 1.5), scale({"wait_s": 5.0}, ("wait_s",), 0.5)
    ({'steps': 10}, {'wait_s': 2.5})
    """
    if not path:
        return max(1, round(spec * factor)) if isinstance(spec, int) else spec * factor
    inner = scale(_at(spec, path[:1]), path[1:], factor)
    if isinstance(spec, Mapping):
        return {**spec, path[0]: inner}
    return msgspec.structs.replace(spec, **{path[0]: inner})


def _at(spec: Any, path: Path) -> Any:
    return reduce(lambda part, name: part[name] if isinstance(part, Mapping) else getattr(part, name), path, spec)


def _load_setup(model: str, cluster: str, job: str) -> Setup:
    cluster_spec = load_spec(ClusterSpec, cluster)
    return Setup(
        model=load_spec(ModelSpec, model),
        gpu=load_spec(GpuSpec, cluster_spec.gpu),
        cluster=cluster_spec,
        job=load_spec(JobSpec, job),
    )


def _samples(
    trace: Trace, setup: Setup, systems: Sequence[str], loads: Routing, wall_s: float
) -> dict[str, int | None]:
    costs = build_costs(setup.model, setup.gpu, setup.cluster, setup.job)
    samples: dict[str, int | None] = {}
    for name in systems:
        try:
            samples[name] = simulate_system(trace, SYSTEMS[name], costs, loads, wall_s).samples
        except InfeasiblePlanError:
            samples[name] = None
    return samples


def _compare(
    name: str, factor: float, value: float, before: Mapping[str, int], after: Mapping[str, int | None]
) -> Change:
    shares = {system: _divide(samples, before[system]) for system, samples in after.items()}
    first, *others = shares
    ratios = {other: _divide(shares[first], shares[other]) - 1 for other in others}
    return Change(name, factor, value, after, {system: share - 1 for system, share in shares.items()}, ratios)


def _divide(above: float | None, below: float) -> float:
    return above / below if above is not None and below else math.nan
