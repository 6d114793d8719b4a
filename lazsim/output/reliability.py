"""Plans and the probabilities that they keep every expert, as tables and files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lazsim.files.writing import json_bytes
from lazsim.output.maps import LayerMap, layer_maps, plan_maps, text_maps
from lazsim.output.plots.style import name_pictures
from lazsim.output.report import Report
from lazsim.output.table import Column, Part, Table, key, terminal_width
from lazsim.placement.plan import Bools, Floats
from lazsim.reliability.comparison import NodeLoss, PlanComparison, PlanScore, all_inputs
from lazsim.reliability.failure_scenarios import FailureScenarios
from lazsim.reliability.survival import PROBS, PolicyReliability, ReliabilityReport
from lazsim.units import GIB, MIB, counted

MOST_LOST_SHOWN = 8
"""Lost experts that are named."""


MAPPING_OF_RUNS = ("greedy", "even")
"""How simulated jobs map nodes to a new plan, and share the sending; see `lazsim.engine.reconfiguration`."""


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
    if prob >= 0.9995:
        return ">.999"
    return "<.001" if prob < 0.0005 else f"{prob:.3f}"


def comparison_parts(comparison: PlanComparison, *, all_mappings: bool = False) -> Iterator[Part]:
    """Compare plans, tell the consequences of the loss of nodes, and show the maps of small plans.

    Of the mappings of nodes to the new plan, that of runs is shown, or all.
    """
    yield _score_table(comparison)
    if comparison.memory:
        yield _memory_line(comparison.memory)
    if comparison.changes:
        yield _change_table(comparison)
    if comparison.lost:
        yield from _loss_parts(comparison, all_mappings=all_mappings)
    maps = list(text_maps(_maps(comparison), terminal_width()))
    if maps:
        yield "experts on each node; * the most endangered one, - an empty slot"
        yield from maps


def comparison_files(comparison: PlanComparison) -> dict[str, bytes]:
    """Return the content of every file of ``lazsim place --out``, by name."""
    from lazsim.output.plots.placement import placement_figure

    pictures = name_pictures("placement", placement_figure(_maps(comparison)))
    return {"place.json": json_bytes(comparison.to_json()), **pictures}


def _maps(comparison: PlanComparison) -> list[LayerMap]:
    return layer_maps(comparison.task, comparison.plans, comparison.layer)


def reliability_parts(report: ReliabilityReport) -> Iterator[Part]:
    """Tell how likely each plan survives: as placed, and for several layers shuffled, and the weakest alone."""
    found = list(report.policies.values())
    several = len(found[0].layers) > 1
    rows = [
        [label, *(format_prob(estimate.recovery_prob) for estimate in estimates if estimate)]
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
    """Return the content of every file of ``lazsim recovery --out``, by name."""
    from lazsim.output.plots.placement import placement_figure
    from lazsim.output.plots.recovery import failure_sets_figure, recovery_figure

    return {
        "recovery.json": json_bytes(report.to_json()),
        **name_pictures("recovery", recovery_figure(report)),
        **name_pictures("failure-sets", failure_sets_figure(report)),
        **name_pictures("placement-map", placement_figure(layer_maps(report.task, report.plans, None))),
    }


def reliability_report(report: ReliabilityReport) -> Report:
    """Return what the page says: the policies that differ most at some number of failures."""
    curves = {name: found.curve for name, found in report.policies.items()}
    probs = [_as_placed(found) for found in report.policies.values()]
    probs_PF = np.array([prob_F for prob_F, _ in probs])
    spread_F = np.ptp(probs_PF, axis=0)
    # Where all agree, the first number of failures that may lose an expert says most.
    column = int(np.argmax(spread_F if spread_F.any() else probs_PF[0] < 1))
    names, prob_P = list(curves), probs_PF[:, column]
    told = [format_prob(prob_F[column], certain=certain_F[column]) for prob_F, certain_F in probs]
    failed, unit = next(iter(curves.values())).failures[column], report.scenarios.unit
    best, worst = int(prob_P.argmax()), int(prob_P.argmin())
    failing = f"{failed} {unit} fail together" if failed > 1 else f"1 {unit.removesuffix('s')} fails"
    answer = f"When {failing}, every expert survives with probability {told[best]} under "
    if prob_P[worst] < prob_P[best]:
        answer += f"{names[best]}, and {told[worst]} under {names[worst]}"
    else:
        answer += names[best] if len(names) == 1 else "each policy"
    widest = max(float((curve.ci_high - curve.ci_low).max()) for curve in curves.values()) / 2
    sure = (
        f"Sampled; half of the widest 95 % interval is {widest:.2g}."
        if widest
        else "Exact: no set of failures is sampled."
    )
    return Report(
        f"Do the experts survive on {counted(report.task.num_nodes, 'node')}?",
        f"{answer}.",
        f"{sure} Plans are those of the loads given, and all {unit} are equally likely to fail.",
        all_inputs(report.task, names, report.scenarios.inputs),
        maps=plan_maps(report.plans, "It begins with the layer that is least safe."),
        pictures={
            f"probability that every expert survives, by number of failed {unit}": "recovery.png",
            "the sets of failures that lose an expert": "failure-sets.png",
        },
    )


def _score_table(comparison: PlanComparison) -> Table:
    has_layers = comparison.task.has_layers

    def fatal_sets(score: PlanScore) -> str:
        return f"{score.num_deadly} of {score.num_sets if score.num_sets < 100_000 else format(score.num_sets, '.1e')}"

    def endangered(score: PlanScore) -> str | int:
        return f"{score.layer}/{score.expert}" if has_layers else score.expert

    columns = [
        key("policy"),
        Column("slots used", _per_cent, of=lambda score: score.num_slots_used / score.num_slots),
        Column("fewest nodes of an expert", of="guaranteed"),
        Column("fatal sets of that size", of=fatal_sets),
        Column("most endangered layer/expert" if has_layers else "most endangered expert", of=endangered),
        Column("load of node max/mean", ".3f", of="max_mean_load"),
    ]
    notes = ["fewer failures than the fewest nodes of an expert are always survived; a fatal set of nodes holds all "
             "replicas of an expert"]  # fmt: skip
    return Table.of(comparison.scores, columns, notes=notes)


def _change_table(comparison: PlanComparison) -> Table:
    columns = [
        key("policy"),
        Column("replicas moved", ",d", of="num_moved"),
        Column("of all", _per_cent, of=lambda one: one.num_moved / one.num_slots),
        Column("MiB moved", ",.1f", of=lambda one: one.moved_bytes / MIB),
        Column("GPU max/mean before", ".3f", of="busiest_before"),
        Column("after", ".3f", of="busiest_after"),
    ]
    state = f"{comparison.state_bytes / MIB:.4g} MiB for each expert of {comparison.model}"
    return Table.of(comparison.changes, columns, f"from the old plan ({state})")


def _per_cent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _memory_line(memory: Mapping[str, Any]) -> str:
    gib = {part.replace("_", " "): f"{num_bytes / GIB:,.1f}" for part, num_bytes in memory["memory_bytes"].items()}
    total, parts = gib.pop("total"), ", ".join(f"{part} {amount}" for part, amount in gib.items())
    has = f"; {memory['gpu']} has {memory['gpu_memory_bytes'] / GIB:,.1f}" if "gpu" in memory else ""
    return f"{memory['model']} takes {total} GiB of each GPU before activations ({parts}){has}"


def _loss_parts(comparison: PlanComparison, *, all_mappings: bool) -> Iterator[Part]:
    nodes, num_left = ", ".join(map(str, comparison.lost)), comparison.task.num_nodes - len(comparison.lost)
    yield f"after the loss of nodes {nodes}, planned anew on {counted(num_left, 'node')}"
    keys = [key("policy"), *((key("mapping"), key("sharing")) if all_mappings else ())]
    columns = [*keys, Column("experts")]
    columns += [Column(name, ",.1f") for name in ("total", "sends", "receives", "bound")]
    rows = [
        (*(name, row.mapping, row.sharing)[: len(keys)], row.num_states, row.total_bytes / MIB,
         row.busiest_sender_bytes / MIB, row.busiest_receiver_bytes / MIB, row.bound_bytes / MIB)
        for name, loss in comparison.losses.items() if loss.report is not None for row in loss.report.rows
        if all_mappings or (row.mapping, row.sharing) == MAPPING_OF_RUNS
    ]  # fmt: skip
    if rows:
        state = f"{comparison.state_bytes / MIB:.4g} MiB for each expert of {comparison.model}"
        title = f"MiB that move: in total, and most for one node ({state})"
        mapping, sharing = MAPPING_OF_RUNS
        others = f"nodes are mapped to the new plan as in runs: {mapping}, sending shared {sharing}"
        yield Table(columns, rows, title, [] if all_mappings else [others])
    has_layers = comparison.task.has_layers
    yield [f"{name}: {text}" for name, loss in comparison.losses.items() for text in _loss_lines(loss, has_layers)]


def _loss_lines(loss: NodeLoss, has_layers: bool) -> Iterator[str]:
    lost = [f"{layer}/{expert}" if has_layers else str(expert) for layer, expert in loss.lost_experts]
    if lost:
        shown = ", ".join(lost[:MOST_LOST_SHOWN]) + (", ..." if len(lost) > MOST_LOST_SHOWN else "")
        what = "layer/expert" if has_layers else "expert"
        yield f"{what} {shown} lost ({len(lost)} in all); training restarts from a checkpoint"
    elif loss.report is not None:
        least, bound = loss.report.least_bytes / MIB, loss.report.bound_bytes / MIB
        yield f"no expert lost; at least {least:,.1f} MiB move, {bound:,.1f} MiB over the busiest link"
    if loss.refusal:
        yield f"no plan for the survivors: {loss.refusal}"


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
