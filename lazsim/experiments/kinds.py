"""The kinds of experiments: what a specification of each looks like, and the function that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from lazsim import __version__
from lazsim.experiments.bench import Bench
from lazsim.experiments.breakdown import Breakdown, run_breakdown
from lazsim.experiments.expert_loads import ExpertLoads, run_expert_loads
from lazsim.experiments.large_scale import LargeScale, run_large_scale
from lazsim.experiments.load_ratio import LoadRatio, run_load_ratio
from lazsim.experiments.node_failures import NodeFailures, run_node_failures
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.sparing import Sparing, run_sparing
from lazsim.experiments.specs import Experiment, read_experiment
from lazsim.experiments.summary import Summary, run_summary
from lazsim.experiments.throughput import Throughput, run_throughput
from lazsim.experiments.toy_placement import ToyPlacement, run_toy_placement
from lazsim.experiments.uncertainty import Uncertainty, run_uncertainty

AnyExperiment = (
    ExpertLoads
    | ToyPlacement
    | Throughput
    | NodeFailures
    | LoadRatio
    | Sparing
    | Breakdown
    | LargeScale
    | Uncertainty
    | Summary
)

KINDS: Mapping[type[Experiment], Callable[[Any, Bench], Outcome]] = {
    ExpertLoads: run_expert_loads,
    ToyPlacement: run_toy_placement,
    Throughput: run_throughput,
    NodeFailures: run_node_failures,
    LoadRatio: run_load_ratio,
    Sparing: run_sparing,
    Breakdown: run_breakdown,
    LargeScale: run_large_scale,
    Uncertainty: run_uncertainty,
    Summary: run_summary,
}
"""From a kind of specification to what is done with it."""


def decode_experiment(raw: Any) -> AnyExperiment:
    """Turn plain data into the specification of its kind."""
    # msgspec knows such unions, its type stubs do not.
    experiment: AnyExperiment = msgspec.convert(raw, AnyExperiment)
    return experiment


def run_experiment(name: str, bench: Bench, *, small: bool = False) -> Outcome:
    """Run an experiment by its name, or by a path to a ``spec.toml``.

    Parameters
    ----------
    name
        As `lazsim.experiments.specs.experiment_titles` has it, or a path.
    bench
        How to run.
    small
        Whether to run its small version.

    Raises
    ------
    LazsimError
        When there is no such experiment, its specification is not valid, or a run fails.
    """
    spec = read_experiment(name, decode_experiment, small=small)
    outcome = KINDS[type(spec)](spec, bench)
    inputs = {
        "version": __version__,
        "small": small,
        "spec": msgspec.to_builtins(spec),
        "recorded": bench.recorded_hashes(),
    }
    return replace(outcome, name=spec.name, inputs=inputs)
