"""How likely plans keep every expert: the whole model, each layer alone, and layers with shuffled nodes.

Axes: L layers, E experts, N nodes, M failure sets, F numbers of failures, R shuffles.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazsim.errors import prefix_errors
from lazsim.placement.plan import Bools, Floats, PlacementPlan
from lazsim.reliability.comparison import all_inputs, make_plans
from lazsim.reliability.curve import Method, SurvivalCurve, SurvivalEstimate, recovery_curve, recovery_prob
from lazsim.reliability.failure_models import FailureModel
from lazsim.reliability.failure_scenarios import FailureScenarios
from lazsim.reliability.failure_sets import domain_holds, minimal_failure_sets
from lazsim.reliability.task import PlanningTask

NUM_SHUFFLES = 10
LAYER_HALF_WIDTH = 0.01
"""Half interval of a single layer or shuffle, of which there are many."""

PROBS = ("recovery_prob", "ci_low", "ci_high")
MAX_SETS_LISTED = 64
"""Minimal failure sets up to which data list them."""


@dataclass(frozen=True, eq=False)
class PolicyReliability:
    """Probability that the plan of one policy keeps every expert."""

    curve: SurvivalCurve
    """Survival of the whole model."""
    sets_MN: Bools
    """Minimal failure sets of the model, of nodes or domains, smallest first."""
    layers: tuple[SurvivalCurve, ...]
    """Survival of each layer alone."""
    shuffled_RF: Floats
    """Survival of the whole model when each layer numbers its nodes at random; no rows for a model of one layer."""
    shuffled_method: str = ""
    trace: SurvivalEstimate | None = None
    nodes: SurvivalEstimate | None = None
    """Survival when as many nodes fail as in a batch of a trace, and when each node fails independently."""

    def to_json(self, *, has_layers: bool) -> dict[str, Any]:
        """Return plain data."""
        value: dict[str, Any] = {"failures": self.curve.failures.tolist(), **_curve_json(self.curve)}
        value |= {"num_minimal_failure_sets": len(self.sets_MN)}
        listed = len(self.sets_MN) <= MAX_SETS_LISTED
        value["minimal_failure_sets"] = [np.flatnonzero(row).tolist() for row in self.sets_MN] if listed else None
        value["per_layer"] = [_curve_json(layer) for layer in self.layers] if has_layers else None
        value["shuffled"] = None
        if len(self.shuffled_RF):
            value["shuffled"] = {
                "recovery_prob": self.shuffled_RF.mean(axis=0).tolist(),
                "least": self.shuffled_RF.min(axis=0).tolist(),
                "most": self.shuffled_RF.max(axis=0).tolist(),
                "num_shuffles": len(self.shuffled_RF),
                "method": self.shuffled_method,
            }
        for prefix, estimate in (("trace", self.trace), ("node_fail", self.nodes)):
            keys = (field.name for field in dataclasses.fields(SurvivalEstimate))
            value |= {f"{prefix}_{key}": getattr(estimate, key, None) for key in keys}
        return value


@dataclass(frozen=True, eq=False)
class ReliabilityReport:
    """Probability that the plans of several policies keep every expert, with notes for the user."""

    task: PlanningTask
    scenarios: FailureScenarios
    policies: Mapping[str, PolicyReliability]
    notes: tuple[str, ...]
    plans: Mapping[str, PlacementPlan]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim recovery --json`` prints."""
        has_layers = self.task.has_layers
        policies = {name: found.to_json(has_layers=has_layers) for name, found in self.policies.items()}
        value: dict[str, Any] = {"policies": policies}
        domains, trace = self.scenarios.domains, self.scenarios.trace
        # Minimal failure sets hold indices into these names.
        value["domains"] = None if domains is None else list(dict.fromkeys(domains))
        value["trace"] = None if trace is None else trace.to_json()
        value["inputs"] = all_inputs(self.task, list(self.policies), self.scenarios.inputs)
        return value | {"notes": list(self.notes)}


def assess_plans(task: PlanningTask, scenarios: FailureScenarios, policies: Sequence[str] = ()) -> ReliabilityReport:
    """Place experts by each policy and find how likely the plans survive.

    Parameters
    ----------
    task
        The experts and nodes.
    scenarios
        Failures to hold the plans against.
    policies
        Names of policies; without any, all that apply.

    Raises
    ------
    LazsimError
        In one line that names the field.

    Examples
    --------
    Four experts on five nodes of four slots; two of the nodes hold the least replicated expert. Three failures spare
    one of these two in 7 of 10 cases.

    >>> from lazsim.reliability.failure_scenarios import build_scenarios
    >>> from lazsim.reliability.task import build_task
    >>> task = build_task(nodes=5, slots=4, replicas=[2, 5, 6, 7])
    >>> report = assess_plans(task, build_scenarios(5, failures=[3]), ["mro"])
    >>> report.policies["mro"].curve.recovery_prob.round(3).tolist()
    [0.7]
    """
    plans, notes = make_plans(task, policies)
    with prefix_errors(f"`method` {scenarios.method}"):
        curves = {
            name: recovery_curve(
                plan.holds_LEN, scenarios.failures, scenarios.method, np.random.default_rng(task.seed),
                domain_N=scenarios.domains,
            )
            for name, plan in plans.items()
        }  # fmt: skip
        scenarios, curves = _until_all_lost(scenarios, curves)
        found = {name: _assess(plan, curves[name], scenarios, task.seed) for name, plan in plans.items()}
    every = (curve for one in found.values() for curve in (one.curve, *one.layers, one.trace, one.nodes))
    # Nodes of several layers are shuffled.
    is_drawn = len(task.load_LE) > 1 or any(curve and curve.method != "exact" for curve in every)
    is_drawn |= scenarios.trace is not None and scenarios.trace.is_drawn
    notes += task.seed_notes(plans, is_drawn=is_drawn)
    return ReliabilityReport(task, scenarios, found, (*task.notes, *notes, *_notes(scenarios, found)), plans)


def _until_all_lost(
    scenarios: FailureScenarios, curves: dict[str, SurvivalCurve]
) -> tuple[FailureScenarios, dict[str, SurvivalCurve]]:
    """End with the first number of failures that no plan survives, unless the user chose the numbers."""
    survived = np.any([curve.recovery_prob > 0 for curve in curves.values()], axis=0)
    if scenarios.was_chosen or survived.all():
        return scenarios, curves
    stop = int(np.flatnonzero(survived).max(initial=-1)) + 2
    for name, curve in curves.items():
        parts = {part: getattr(curve, part)[:stop] for part in ("failures", *PROBS)}
        curves[name] = dataclasses.replace(curve, **parts)
    return dataclasses.replace(scenarios, failures=scenarios.failures[:stop]), curves


def _assess(plan: PlacementPlan, curve: SurvivalCurve, scenarios: FailureScenarios, seed: int) -> PolicyReliability:
    # Each kind of draw has its own stream, the same for every policy.
    layer_rng, shuffle_rng, trace_rng, node_rng = np.random.default_rng(seed).spawn(4)
    holds_LEN, failures, domains = plan.holds_LEN, scenarios.failures, scenarios.domains

    def rough_curve(holds_LEN: Bools, method: Method, rng: np.random.Generator) -> SurvivalCurve:
        return recovery_curve(holds_LEN, failures, method, rng, LAYER_HALF_WIDTH, domains)

    def estimate(model: FailureModel | None, rng: np.random.Generator) -> SurvivalEstimate | None:
        return None if model is None else recovery_prob(holds_LEN, model, scenarios.method, rng, domain_N=domains)

    # A plan that is exact in little time as placed may not be with its layers shuffled.
    method: Method = "montecarlo" if scenarios.method == "montecarlo" else "auto"
    shuffles = [
        rough_curve(np.stack([layer[:, shuffle_rng.permutation(plan.num_nodes)] for layer in holds_LEN]), method,
                    shuffle_rng)
        for _ in range(NUM_SHUFFLES if plan.num_layers > 1 else 0)
    ]  # fmt: skip
    return PolicyReliability(
        curve,
        minimal_failure_sets(holds_LEN if domains is None else domain_holds(holds_LEN, np.asarray(domains))),
        tuple(rough_curve(layer, scenarios.method, layer_rng) for layer in holds_LEN[:, None]),
        np.reshape([one.recovery_prob for one in shuffles], (len(shuffles), len(failures))),
        _method(shuffles),
        estimate(scenarios.trace, trace_rng),
        estimate(scenarios.nodes, node_rng),
    )


def _method(curves: Sequence[SurvivalCurve]) -> str:
    return "exact" if all(curve.method == "exact" for curve in curves) else "montecarlo"


def _notes(scenarios: FailureScenarios, found: Mapping[str, PolicyReliability]) -> tuple[str, ...]:
    notes = []
    sampled = [name for name, survival in found.items() if survival.curve.method != "exact"]
    if sampled:
        width = max(float((found[name].curve.ci_high - found[name].curve.ci_low).max()) / 2 for name in sampled)
        notes.append(f"sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}")
    layers = [name for name, one in found.items() if _method(one.layers) != "exact" and len(one.layers) > 1]
    shuffled = [name for name, one in found.items() if one.shuffled_method != "exact"]
    for what, rough in (("each layer alone", layers), ("shuffled layers", shuffled)):
        if rough:
            notes.append(f"{what} sampled within +-{LAYER_HALF_WIDTH:g}: {', '.join(rough)}")
    if (batches := scenarios.trace) is not None:
        notes += batches.notes
        if batches.num_capped:
            notes.append(
                f"{batches.num_capped} of {sum(batches.weights)} batches of {batches.name} are larger than the plan "
                "and count as the loss of all its nodes"
            )
    return tuple(notes)


def _curve_json(curve: SurvivalCurve) -> dict[str, Any]:
    value = {name: getattr(curve, name).tolist() for name in PROBS}
    return value | {"method": curve.method, "guaranteed": curve.guaranteed}
