"""The probabilities that plans keep every expert, as tables and files."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lazsim.output.maps import layer_maps, plan_maps
from lazsim.output.plots.style import name_pictures
from lazsim.output.report import Report
from lazsim.output.table import Column, Part, Table, key
from lazsim.placement.plan import Bools, Floats
from lazsim.reliability.comparison import all_inputs
from lazsim.reliability.failure_scenarios import FailureScenarios
from lazsim.reliability.survival import PROBS, PolicyReliability, ReliabilityReport
from lazsim.units import counted, share_text


def format_prob(prob: float, *, certain: bool = True) -> str:
    """Write a probability; one that is not exactly 0 or 1, or was sampled, never looks as if it were.

    Examples
    --------
    >>> [format_prob(prob) for prob in (1.0, 0.9999, 0.614, 0.0001, 0.0)]
    ['1', '>.999', '0.614', '<.001', '0']
    >>> format_prob(1.0, certain=False)
    '~1'
    """
    if prob in (0.0, 1.0):
        return f"{'' if certain else '~'}{prob:.0f}"
    return share_text(prob, ".3f").replace("<0", "<").replace(">0", ">")


def reliability_parts(report: ReliabilityReport) -> Iterator[Part]:
    """Tell how likely each plan survives: as placed, and for several layers shuffled, and the weakest alone."""
    found = list(report.policies.values())
    several = len(found[0].layers) > 1
    rows = [
        [label, *(format_prob(one.recovery_prob, certain=one.ci_low == one.ci_high) for one in estimates if one)]
        for label, estimates in (("trace", [one.trace for one in found]), ("each", [one.nodes for one in found]))
        if all(estimates)
    ]
    rows.append(["f", *(str(one.curve.guaranteed) for one in found)])
    every = "every expert of every layer" if several else "every expert"
    title = f"probability that {every} survives, by number of failed {report.scenarios.unit}"
    yield _prob_table(report, _as_placed, title, rows, list(_legend(report.scenarios)))
    if several:
        count = len(found[0].shuffled_RF)
        title = f"the same with the nodes of each layer shuffled (mean of {count} shuffles)"
        yield _prob_table(report, _shuffled, title)
        yield _prob_table(report, _weakest_layer, "the same for the layer that is least likely to survive")


def reliability_files(report: ReliabilityReport) -> dict[str, bytes]:
    """Return the files of ``lazsim recovery --out`` beside its JSON, by name."""
    from lazsim.output.plots.placement import placement_figure
    from lazsim.output.plots.recovery import failure_sets_figure, recovery_figure

    return {
        **name_pictures("recovery", recovery_figure(report)),
        **name_pictures("failure-sets", failure_sets_figure(report)),
        **name_pictures("placement-map", placement_figure(layer_maps(report.task, report.plans, None))),
    }


def reliability_report(report: ReliabilityReport) -> Report:
    """Return what the page says: the policies that differ most at some number of failures."""
    probs = [_as_placed(found) for found in report.policies.values()]
    probs_PF = np.array([prob_F for prob_F, _ in probs])
    spread_F = np.ptp(probs_PF, axis=0)
    # Where all agree, the first number of failures that may lose an expert says most.
    column = int(np.argmax(spread_F if spread_F.any() else probs_PF[0] < 1))
    names, prob_P = list(report.policies), probs_PF[:, column]
    told = [format_prob(prob_F[column], certain=certain_F[column]) for prob_F, certain_F in probs]
    failed, unit = report.scenarios.failures[column], report.scenarios.unit
    best, worst = int(prob_P.argmax()), int(prob_P.argmin())
    failing = f"{failed} {unit} fail together" if failed > 1 else f"1 {unit.removesuffix('s')} fails"
    answer = f"When {failing}, every expert survives with probability {told[best]} under "
    if prob_P[worst] < prob_P[best]:
        answer += f"{names[best]}, and {told[worst]} under {names[worst]}"
    else:
        answer += names[best] if len(names) == 1 else "each policy"
    found = (one for each in report.policies.values() for one in (each.curve, each.trace, each.nodes) if one)
    widest = max(float(np.max(one.ci_high - one.ci_low)) for one in found) / 2
    sure = f"Sampled; half of the widest 95 % interval is {widest:.2g}."
    if not widest:
        sure = "Exact for plans as placed: no set of failures is sampled."
    likely = f"all {unit} are equally likely to fail"
    if report.scenarios.nodes is not None:
        likely = f"of a number that fail together, {likely}; by itself, each fails with the probability given"
    return Report(
        f"Do the experts survive on {counted(report.task.num_nodes, 'node')}?",
        f"{answer}.",
        f"{sure} Plans are those of the loads given; {likely}.",
        all_inputs(report.task, names, report.scenarios.inputs),
        maps=plan_maps(report.plans, "It begins with the layer that is least safe."),
        pictures={
            f"probability that every expert survives, by number of failed {unit}": "recovery.png",
            "the sets of failures that lose an expert": "failure-sets.png",
        },
    )


def _legend(scenarios: FailureScenarios) -> Iterator[str]:
    if scenarios.trace is not None:
        batches = zip(scenarios.trace.sizes, scenarios.trace.weights, strict=True)
        text = ", ".join(f"{size}: {count}x" for size, count in batches)
        yield f"trace: as many nodes fail as in a batch of {scenarios.trace.name}; batches by size: {text}"
    if scenarios.nodes is not None:
        low, high = min(scenarios.nodes.fail_prob_N), max(scenarios.nodes.fail_prob_N)
        prob = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        yield f"each: each of the {scenarios.unit} fails independently with a probability of {prob}"
    yield "f: the fewest failures that can lose an expert; fewer are always survived"


def _prob_table(
    report: ReliabilityReport,
    probs_of: Callable[[PolicyReliability], tuple[Floats, Bools]],
    title: str,
    more: Sequence[Sequence[str]] = (),
    notes: Sequence[str] = (),
) -> Table:
    """Return a row for each number of failures, of the probabilities of each plan and whether they are certain."""
    found = list(map(probs_of, report.policies.values()))
    rows = [
        [str(failed), *(format_prob(prob_F[row], certain=certain_F[row]) for prob_F, certain_F in found)]
        for row, failed in enumerate(report.scenarios.failures)
    ]
    names = (Column(name, has_name=True) for name in report.policies)
    return Table([key(f"failed {report.scenarios.unit}", kind="number"), *names], [*rows, *more], title, notes)


def _as_placed(found: PolicyReliability) -> tuple[Floats, Bools]:
    return found.curve.recovery_prob, found.curve.ci_low == found.curve.ci_high


def _shuffled(found: PolicyReliability) -> tuple[Floats, Bools]:
    """Return the mean of the shuffles; a sampled one is certain where no failures can lose an expert."""
    certain_F = found.curve.failures < found.curve.guaranteed
    return found.shuffled_RF.mean(axis=0), certain_F | (found.shuffled_method == "exact")


def _weakest_layer(found: PolicyReliability) -> tuple[Floats, Bools]:
    """Return, for each number of failures, the values of the layer that is least likely to survive."""
    prob_LF, low_LF, high_LF = (np.stack([getattr(one, name) for one in found.layers]) for name in PROBS)
    least = prob_LF.argmin(axis=0), np.arange(prob_LF.shape[1])
    return prob_LF[least], low_LF[least] == high_LF[least]
