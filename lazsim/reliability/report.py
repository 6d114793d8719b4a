"""How likely plans keep every expert: the whole model, each layer alone, and with layers out of step.

Axes: L layers, E experts, N nodes, M failure sets, F numbers of failures, R shuffles.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import prefix_errors
from lazsim.files import json_bytes
from lazsim.placement.plan import Bools, PlacementPlan
from lazsim.reliability import (
    FailureModel,
    RecoveryCurve,
    RecoveryEstimate,
    minimal_failure_sets,
    per_layer,
    recovery_curve,
    recovery_prob,
)
from lazsim.reliability.comparison import all_inputs
from lazsim.reliability.curve import Method
from lazsim.reliability.failure_scenarios import ThreatOptions, Threats, build_threats
from lazsim.reliability.failure_sets import domain_holds
from lazsim.reliability.plans import make_plans
from lazsim.reliability.task import PlanningOptions, PlanningTask, build_task

Floats = npt.NDArray[np.float64]

NUM_SHUFFLES = 10
LAYER_HALF_WIDTH = 0.01
"""Half interval of what is sampled for each layer, or each shuffle, alone: there are many of them."""

MAX_SETS_LISTED = 64
"""Minimal failure sets up to which data list them."""


@dataclass(frozen=True, eq=False)
class Survival:
    """How likely one plan keeps every expert.

    Attributes
    ----------
    curve : RecoveryCurve
        Of the whole model.
    sets_MN : ndarray of bool, shape (M, N)
        Its minimal failure sets, of nodes or domains, smallest first.
    layers : tuple of RecoveryCurve
        Of each layer alone.
    shuffled_RF : ndarray of float64, shape (R, F)
        Of the whole model when the nodes of each layer are shuffled, independently; no rows for one layer.
    shuffled_method : str
        How that was found.
    trace, nodes : RecoveryEstimate, optional
        When as many nodes fail as in a batch of a trace, and when each fails with a probability of its own.
    """

    curve: RecoveryCurve
    sets_MN: Bools
    layers: tuple[RecoveryCurve, ...]
    shuffled_RF: Floats
    shuffled_method: str = ""
    trace: RecoveryEstimate | None = None
    nodes: RecoveryEstimate | None = None

    def to_json(self, *, has_layers: bool) -> dict[str, Any]:
        """Return plain data."""
        value: dict[str, Any] = {"failures": self.curve.failures.tolist(), **_curve_json(self.curve)}
        value["num_minimal_failure_sets"] = len(self.sets_MN)
        if len(self.sets_MN) <= MAX_SETS_LISTED:
            value["minimal_failure_sets"] = [np.flatnonzero(row).tolist() for row in self.sets_MN]
        if has_layers:
            value["per_layer"] = [_curve_json(layer) for layer in self.layers]
        if len(self.shuffled_RF):
            value["shuffled"] = {
                "recovery_prob": self.shuffled_RF.mean(axis=0).tolist(),
                "least": self.shuffled_RF.min(axis=0).tolist(),
                "most": self.shuffled_RF.max(axis=0).tolist(),
                "num_shuffles": len(self.shuffled_RF),
                "method": self.shuffled_method,
            }
        for prefix, estimate in (("trace", self.trace), ("node_fail", self.nodes)):
            if estimate is not None:
                value |= {f"{prefix}_{key}": number for key, number in dataclasses.asdict(estimate).items()}
        return value


@dataclass(frozen=True, eq=False)
class Survivals:
    """How likely the plans of several policies keep every expert.

    Attributes
    ----------
    task : PlanningTask
        What was placed.
    threats : Threats
        What fails.
    policies : mapping
        By policy.
    notes : tuple of str
        What the user should know.
    """

    task: PlanningTask
    threats: Threats
    policies: Mapping[str, Survival]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim recovery --json`` prints."""
        has_layers = self.task.has_layers
        value: dict[str, Any] = {
            "policies": {name: survival.to_json(has_layers=has_layers) for name, survival in self.policies.items()}
        }
        if self.threats.domains is not None:
            # What the indices in minimal failure sets stand for.
            value["domains"] = sorted(set(self.threats.domains))
        if self.threats.trace is not None:
            value["trace"] = self.threats.trace.to_json()
        return value | {
            "inputs": all_inputs(self.task, list(self.policies), self.threats.inputs),
            "notes": list(self.notes),
        }

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the content of every file of the folder, pictures included."""
        from lazsim.output.plots.recovery import failure_sets_figure, recovery_figure

        contents = {f"recovery.{kind}": content for kind, content in recovery_figure(self).items()}
        contents |= {f"failure-sets.{kind}": content for kind, content in failure_sets_figure(self).items()}
        contents["recovery.json"] = json_bytes(self.to_json())
        return {folder / name: content for name, content in contents.items()}


def score_recovery(options: PlanningOptions, threat_options: ThreatOptions, policies: Sequence[str] = ()) -> Survivals:
    """Place experts by each policy and say how likely the plans survive.

    Parameters
    ----------
    options
        What is to be placed where.
    threat_options
        What fails.
    policies
        Names of policies; without any, all that apply.

    Raises
    ------
    LazsimError
        In one line that names the option.

    Examples
    --------
    Four experts on five nodes of four slots; two of the nodes hold the least replicated expert. Three failures spare
    one of these two in 7 of 10 cases.

    >>> options = PlanningOptions(nodes=5, slots=4, replicas="2,5,6,7")
    >>> survivals = score_recovery(options, ThreatOptions("3"), ["mro"])
    >>> survivals.policies["mro"].curve.recovery_prob.round(3).tolist()
    [0.7]
    """
    task = build_task(options)
    threats = build_threats(threat_options, task.num_nodes, options.seed, lenient=options.lenient)
    plans, notes = make_plans(task, policies)
    with prefix_errors(f"`method` {threats.method}"):
        curves = {name: _whole(plan, threats, task.seed) for name, plan in plans.items()}
        threats, curves = _until_all_lost(threats, curves)
        found = {name: _survival(plan, curves[name], threats, task.seed) for name, plan in plans.items()}
    return Survivals(task, threats, found, (*task.notes, *notes, *_notes(threats, found)))


def shuffled_prob(
    holds_LEN: Bools, threats: Threats, num_shuffles: int, rng: np.random.Generator
) -> tuple[Floats, str]:
    """Return how likely the model survives when each layer numbers its nodes at random.

    Returns
    -------
    ndarray of float64, shape (R, F)
    str
        How it was found.
    """
    # Out of step, what is exact in time as placed may not be.
    method: Method = "montecarlo" if threats.method == "montecarlo" else "auto"
    curves = [
        recovery_curve(
            np.stack([layer[:, rng.permutation(layer.shape[1])] for layer in holds_LEN]),
            threats.failures,
            method,
            rng,
            LAYER_HALF_WIDTH,
            threats.domains,
        )
        for _ in range(num_shuffles)
    ]
    methods = {curve.method for curve in curves}
    return np.stack([curve.recovery_prob for curve in curves]), "exact" if methods == {"exact"} else "montecarlo"


def _whole(plan: PlacementPlan, threats: Threats, seed: int) -> RecoveryCurve:
    rng = np.random.default_rng(seed)
    return recovery_curve(plan.holds_LEN, threats.failures, threats.method, rng, domain_N=threats.domains)


def _until_all_lost(threats: Threats, curves: Mapping[str, RecoveryCurve]) -> tuple[Threats, dict[str, RecoveryCurve]]:
    """End with the first number of failures that no plan survives, unless the user chose the numbers."""
    survived = np.any([curve.recovery_prob > 0 for curve in curves.values()], axis=0)
    if threats.chosen or survived.all():
        return threats, dict(curves)
    stop = int(np.flatnonzero(survived).max(initial=-1)) + 2

    def cut(curve: RecoveryCurve) -> RecoveryCurve:
        parts = {name: getattr(curve, name)[:stop] for name in ("failures", "recovery_prob", "ci_low", "ci_high")}
        return dataclasses.replace(curve, **parts)

    kept = {name: cut(curve) for name, curve in curves.items()}
    return dataclasses.replace(threats, failures=threats.failures[:stop]), kept


def _survival(plan: PlacementPlan, curve: RecoveryCurve, threats: Threats, seed: int) -> Survival:
    # Each kind of draw has a stream of its own, the same for every policy.
    layer_rng, shuffle_rng, trace_rng, node_rng = np.random.default_rng(seed).spawn(4)
    holds_LEN, method, domains = plan.holds_LEN, threats.method, threats.domains
    failing = holds_LEN if domains is None else domain_holds(holds_LEN, np.asarray(domains))
    shuffled, shuffled_method = np.empty((0, len(threats.failures))), ""
    if plan.num_layers > 1:
        shuffled, shuffled_method = shuffled_prob(holds_LEN, threats, NUM_SHUFFLES, shuffle_rng)

    def estimate(model: FailureModel | None, rng: np.random.Generator) -> RecoveryEstimate | None:
        return None if model is None else recovery_prob(holds_LEN, model, method, rng, domain_N=domains)

    return Survival(
        curve,
        minimal_failure_sets(failing),
        tuple(per_layer(holds_LEN, threats.failures, method, layer_rng, LAYER_HALF_WIDTH, domains)),
        shuffled,
        shuffled_method,
        estimate(threats.trace.model if threats.trace else None, trace_rng),
        estimate(threats.nodes, node_rng),
    )


def _notes(threats: Threats, found: Mapping[str, Survival]) -> tuple[str, ...]:
    notes = []
    sampled = [name for name, survival in found.items() if survival.curve.method != "exact"]
    if sampled:
        width = max(float((found[name].curve.ci_high - found[name].curve.ci_low).max()) / 2 for name in sampled)
        notes.append(f"sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}")
    for what, rough in (
        (
            "each layer alone",
            [name for name, one in found.items() if {layer.method for layer in one.layers} != {"exact"}],
        ),
        ("shuffled layers", [name for name, one in found.items() if one.shuffled_method == "montecarlo"]),
    ):
        if rough and any(len(one.layers) > 1 for one in found.values()):
            notes.append(f"{what} sampled within +-{LAYER_HALF_WIDTH:g}: {', '.join(rough)}")
    if threats.trace is not None:
        notes += threats.trace.notes
        if threats.trace.num_capped:
            notes.append(
                f"{threats.trace.num_capped} of {sum(threats.trace.counts)} batches of {threats.trace.name} are larger "
                "than the plan and count as the loss of all its nodes"
            )
    return tuple(notes)


def _curve_json(curve: RecoveryCurve) -> dict[str, Any]:
    value = {name: getattr(curve, name).tolist() for name in ("recovery_prob", "ci_low", "ci_high")}
    return value | {"method": curve.method, "guaranteed": curve.guaranteed}
