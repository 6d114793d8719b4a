"""The effect of each constant on an outcome: halve it, then raise it by half."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from lazsim.engine.systems import DEFAULT_SYSTEMS
from lazsim.errors import SpecError, did_you_mean, known_names, prefix_errors
from lazsim.grouping import grouped
from lazsim.scenario import Scenario
from lazsim.specs import GpuSpec, HostSpec, JobSpec, NetworkSpec, RecoverySpec, StepConstants
from lazsim.specs.effects import refuse_without_effect, why_without_effect
from lazsim.specs.overrides import share_note
from lazsim.study.collect import collect
from lazsim.study.intervals import FEW_FAILURES
from lazsim.study.notes import describe_runs
from lazsim.study.notes.told import without_numbers
from lazsim.study.result import RunResult
from lazsim.study.simulation import resolve_runs, simulate_point, simulate_scenarios
from lazsim.units import divide

FACTORS = (0.5, 1.5)
"""Default factors by which each constant is multiplied."""

NUMBERS = (int, float, tuple[float, float])
"""Types of the fields that are varied: those that every cluster, GPU and job has as numbers, and none of its curves."""

FIXED = (
    "gpu.peak_flop_per_s", "gpu.peak_fp8_flop_per_s", "gpu.peak_fp4_flop_per_s", "gpu.memory_bytes_per_s",
    "gpu.memory_bytes", "gpu.kernels_speedup", "cluster.network.nodes_per_pod", "cluster.network.spine_share",
    "cluster.host.launches_per_clock", "cluster.host.link_bytes_per_s", "cluster.host.memory_bytes",
    "job.sequences_per_gpu", "job.num_micro_batches", "job.min_nodes", "step.host_launch_clock_hz",
)  # fmt: skip
"""Numbers that are not varied: datasheet figures, which only multiply efficiencies, what multiplies a clock or the rate
of borrowed kernels, the pods of a network, and the batch and the fewest nodes of the job."""


class Assumption(NamedTuple):
    """A constant by its name, what it is multiplied by, and its dotted path in a scenario."""

    constant: str
    factor: float
    path: str

    def apply(self, scenario: Scenario) -> Scenario:
        """Return the scenario with the constant multiplied; the same where it lacks it, or it has no effect."""
        if scenario.field(self.path) is None or why_without_effect(self.path, scenario.without_effect):
            return scenario
        return scenario.replace(self.path, f"x{self.factor!r}")


@dataclass(frozen=True)
class Change:
    """One constant multiplied by a factor, the product, and its effect."""

    constant: str
    factor: float
    value: Any
    """A number, or several."""
    is_assumed: bool
    """Whether no source tells the constant."""
    samples: Mapping[str, int | None]
    """Samples that each run trains; None where it cannot run."""
    samples_change: Mapping[str, float]
    """Their relative change: 0.1 is a tenth more; NaN where there is none to tell."""
    ratio_change: Mapping[str, float]
    """For each run but the first, the relative change of the ratio first run : that run."""
    notes: tuple[str, ...] = ()
    """Remarks on the changed runs that do not hold of the runs as things stand."""

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

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the run as things stand, and on what each change adds to them."""
        changed = (f"{one.constant} x{one.factor:.15g}: {note}" for one in self.changes for note in one.notes)
        failures = {run.name: run.counts["failures"] for run in self.base.runs}
        few = ", ".join(f"{name} {number}" for name, number in failures.items() if number < FEW_FAILURES)
        told = f"failures: {few}; fewer than {FEW_FAILURES} tell little of what failures cost: give more time"
        return (*self.base.notes, *([told] if few else []), *changed)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim sensitivity --json`` prints."""
        return {
            "trace": dict(self.base.trace),
            "samples": {run.name: run.samples for run in self.base.runs},
            "changes": [vars(change) for change in self.changes],
            "inputs": dict(self.base.inputs),
            "notes": list(self.notes),
        }


def sensitivity(
    settings: Mapping[str, Any],
    *,
    systems: Sequence[str] = DEFAULT_SYSTEMS,
    placements: Sequence[str] = (),
    constants: Sequence[str] = (),
    factors: Sequence[float] = FACTORS,
    **options: Any,
) -> Sensitivity:
    """Vary each constant of a run by itself.

    Parameters
    ----------
    settings
        Trace, model and all else that the runs share; see `lazsim.settings.Defaults`.
    systems, placements
        See `lazsim.study.simulation.simulate`. Ratios compare the first run with the others.
    constants
        Names of constants, as `constant_paths` gives them, or their dotted paths; all with an effect on the job when
        empty.
    factors
        Factors above 0; none takes a share beyond 1. One near 1 tells how large an effect chance alone has; see Notes.
    **options
        Workers and progress; see `lazsim.study.collect.collect`. All runs are made in this process unless it says
        otherwise.

    Raises
    ------
    SpecError
        When a constant is unknown; else as `lazsim.study.simulation.simulate`.

    Notes
    -----
    All runs meet the same loads and node events. Yet a change moves the step at which a failure hits, and with it the
    work lost since the last checkpoint, so that a small effect may have either sign.
    """
    scenarios, left_out = resolve_runs(settings, systems, placements)
    paths = constant_paths(one.system for one in scenarios)
    # A sweep has the same constants by their dotted paths.
    names = {path: name for name, path in paths.items()}
    constants = [names.get(name, name) for name in constants]
    for name in constants:
        if name not in paths:
            # No name is near a path: its last part tells what is meant.
            near = did_you_mean(name.rpartition(".")[2], list(paths))
            raise SpecError(f"`constant`: unknown constant {name!r}: {near}{known_names(list(paths))}")
    base = simulate_scenarios(scenarios, left_out=left_out)
    had = {name for name, path in paths.items() if any(scenario.field(path) is not None for scenario in scenarios)}
    if lacking := [name for name in constants if name not in had]:
        raise SpecError(f"`constant`: {lacking[0]}: the runs have no such constant; leave it out")
    # Systems may have other layouts, or none.
    kinds = [one.without_effect for one in scenarios]
    idle = {path: kinds[0][path] for path in kinds[0] if all(path in each for each in kinds)}
    refuse_without_effect([paths[name] for name in constants], idle, "`constant`: ")
    entering = [name for name in paths if name in had and not why_without_effect(paths[name], idle)]
    assumptions = [
        Assumption(name, factor, paths[name]) for name in dict.fromkeys(constants or entering) for factor in factors
    ]
    with prefix_errors("`factor`"):
        varied = [[one.apply(scenario) for scenario in scenarios] for one in assumptions]
    labels = [one.constant for one in assumptions for _ in scenarios]
    points = [scenario for each in varied for scenario in each]
    results = collect(simulate_point, points, labels=labels, **{"num_workers": 1, **options}).results()
    by_assumption = [results[start : start + len(scenarios)] for start in range(0, len(results), len(scenarios))]
    # Remarks that runs share are told once for all of them, and a changed run is alone.
    known = {without_numbers(note) for pair in zip(scenarios, base.runs, strict=True) for note in describe_runs([pair])}
    changes = [_change(*each, base, known) for each in zip(assumptions, varied, by_assumption, strict=True)]
    effects = grouped((one.constant, one.effect) for one in changes)
    return Sensitivity(base, tuple(sorted(changes, key=lambda one: -max(effects[one.constant]))))


def constant_paths(systems: Iterable[str]) -> dict[str, str]:
    """Return the constants that are varied of systems by name, and the dotted path of each in a scenario."""
    clusters = {"cluster.network": NetworkSpec, "cluster.recovery": RecoverySpec, "cluster.host": HostSpec}
    paths = {"slots_per_gpu": "cluster.slots_per_gpu"}
    for part, spec in (clusters | {"gpu": GpuSpec, "job": JobSpec, "step": StepConstants}).items():
        fields = {field: f"{part}.{field}" for field, kind in get_type_hints(spec).items() if kind in NUMBERS}
        paths |= {field: path for field, path in fields.items() if path not in FIXED}
    interval = "checkpoint_interval_steps"
    return paths | {f"{interval}.{system}": f"job.{interval}.{system}" for system in systems}


def _change(
    changed: Assumption,
    scenarios: Sequence[Scenario],
    results: Sequence[Mapping[str, Any] | str],
    base: RunResult,
    known: Collection[str],
) -> Change:
    """Hold the runs with one constant multiplied against those as things stand, of which remarks are known."""
    value = next(one.field(changed.path) for one in scenarios if one.field(changed.path) is not None)
    before = {run.name: run.samples for run in base.runs}
    after: dict[str, int | None] = {}
    notes = dict.fromkeys(filter(None, [share_note(changed.path, changed.factor, value)]))
    for run, found in zip(before, results, strict=True):
        # A text says why there is no run.
        after[run], remarks = (None, [found]) if isinstance(found, str) else (found["row"]["samples"], found["notes"])
        notes |= dict.fromkeys(remark for remark in remarks if without_numbers(remark) not in known)
    shares = {run: divide(math.nan if samples is None else samples, before[run]) for run, samples in after.items()}
    first, *others = shares
    ratios = {other: divide(shares[first], shares[other]) - 1 for other in others}
    changes = {run: share - 1 for run, share in shares.items()}
    is_assumed = any(changed.path in one.assumed for one in base.scenarios)
    return Change(changed.constant, changed.factor, value, is_assumed, after, changes, ratios, tuple(notes))
