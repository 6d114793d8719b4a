"""Plans and recovery probabilities for people, within 80 columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lazsim.reliability import RecoveryCurve
from lazsim.reliability.comparison import LayerMap, Placed
from lazsim.reliability.node_loss import LossOutcome
from lazsim.reliability.report import Survival, Survivals
from lazsim.units import MIB

WIDTH = 80
MAX_MAP_NODES = 16
"""Nodes up to which maps are printed."""

POLICIES_ABREAST = 9
"""Columns of probabilities that fit."""


def print_tables(report: RenderableType) -> None:
    """Print on stdout, never wider than 80 columns when piped."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(report)


def format_prob(prob: float, *, certain: bool = True) -> str:
    """Write a probability; one that is neither 0 nor 1, or was only sampled to be, never looks as if it were.

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


def short_name(policy: str, width: int) -> str:
    """Shorten a policy's name: to the function where it is one in a file, and then to a width.

    Examples
    --------
    >>> short_name("mine/own.py:rarest_first", 8)
    'rarest_…'
    """
    name = policy.rpartition(":")[2] if ".py:" in policy else Path(policy).name
    return name if len(name) <= width else f"{name[: width - 1]}…"


def place_report(placed: Placed) -> Group:
    """Compare plans, say what the loss of nodes leads to, and show the maps of small plans."""
    meaning = "any fewer nodes may fail; a deadly set of nodes loses an expert"
    parts: list[RenderableType] = [_score_table(placed), Text(f"fewest nodes of an expert: {meaning}")]
    if placed.outcomes is not None:
        parts.append("")
        parts += _loss_parts(placed)
    maps = list(_text_maps(placed.maps()))
    if maps:
        parts += ["", Text("experts on each node; * the most endangered one, - an empty slot"), *maps]
    return Group(*parts)


def recovery_report(survivals: Survivals) -> Group:
    """Say how likely each plan survives so many failures: the whole model, and with layers out of step or alone."""
    parts: list[RenderableType] = []
    names = list(survivals.policies)
    for start in range(0, len(names), POLICIES_ABREAST):
        parts += _recovery_parts(survivals, names[start : start + POLICIES_ABREAST])
    return Group(*parts)


def _table(title: str | None = None) -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", header_style="bold")


def _score_table(placed: Placed) -> Table:
    has_layers = placed.task.has_layers
    table = _table()
    table.add_column("policy", no_wrap=True)
    for heading in (
        "slots\nused",
        "fewest nodes\nof an expert",
        "deadly sets\nof so many",
        "most endangered\nlayer/expert" if has_layers else "most endangered\nexpert",
        "load of node\nmax/mean",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, score in placed.scores.items():
        table.add_row(
            short_name(name, 12),
            f"{100 * score.num_slots_used / score.num_slots:.3g} %",
            str(score.guaranteed),
            _count_of(score.num_deadly, score.num_sets),
            f"{score.layer}/{score.expert}" if has_layers else str(score.expert),
            f"{score.max_mean_load:.3f}",
        )
    return table


def _count_of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole < 100_000 else f"{part} of {whole:.1e}"


def _loss_parts(placed: Placed) -> Iterator[RenderableType]:
    assert placed.outcomes is not None, "nodes were lost"
    nodes = ", ".join(map(str, placed.lost))
    yield Text(f"after the loss of nodes {nodes}, planned anew on {placed.task.num_nodes - len(placed.lost)} nodes")
    table = _table(f"MiB in all and by the busiest node; {placed.state_bytes / MIB:.4g} an expert of {placed.model}")
    for heading in ("policy", "mapping", "sharing"):
        table.add_column(heading, no_wrap=True)
    for heading in ("experts", "total", "sends", "receives", "bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, outcome in placed.outcomes.items():
        if outcome.report is not None:
            _add_migrations(table, short_name(name, 12), outcome)
    if table.row_count:
        yield table
    for name, outcome in placed.outcomes.items():
        for text in _loss_lines(outcome, has_layers=placed.task.has_layers):
            yield Text(f"{short_name(name, 16)}: {text}")


def _add_migrations(table: Table, name: str, outcome: LossOutcome) -> None:
    assert outcome.report is not None, "nothing was lost"
    for index, row in enumerate(outcome.report.rows):
        sizes = (row.total_bytes, row.busiest_sender_bytes, row.busiest_receiver_bytes, row.bound_bytes)
        cells = (f"{size / MIB:,.1f}" for size in sizes)
        table.add_row("" if index else name, row.mapping, row.sharing, str(row.num_states), *cells)


def _loss_lines(outcome: LossOutcome, *, has_layers: bool) -> Iterator[str]:
    lost = [f"{layer}/{expert}" if has_layers else str(expert) for layer, expert in outcome.lost_experts]
    if lost:
        shown = ", ".join(lost[:8]) + (", ..." if len(lost) > 8 else "")
        what = "layer/expert" if has_layers else "expert"
        yield f"{what} {shown} lost ({len(lost)} in all); training restarts from a checkpoint"
    elif outcome.report is not None:
        report = outcome.report
        least, bound = report.least_bytes / MIB, report.bound_bytes / MIB
        yield f"no expert lost; at least {least:,.1f} moves, {bound:,.1f} over the busiest link"
    if outcome.refusal:
        yield f"no plan for the survivors: {outcome.refusal}"


def _text_maps(maps: Sequence[LayerMap]) -> Iterator[Text]:
    """Set maps side by side, as many as fit."""
    if max(len(one.slots_NS) for one in maps) > MAX_MAP_NODES:
        return
    blocks = [_text_map(one) for one in maps]
    width = max(len(line) for block in blocks for line in block)
    abreast = (WIDTH + 3) // (width + 3)
    if not abreast:
        return
    for start in range(0, len(blocks), abreast):
        if start:
            yield Text("")
        for lines in zip(*blocks[start : start + abreast], strict=True):
            yield Text("   ".join(line.ljust(width) for line in lines).rstrip())


def _text_map(one: LayerMap) -> list[str]:
    digits = len(str(len(one.share_E) - 1))
    lines = [short_name(one.policy, 18) + (f", layer {one.layer}" if one.layer >= 0 else "")]
    for node, experts in enumerate(one.slots_NS.tolist()):
        cells = (
            f"{expert if expert >= 0 else '-':>{digits}}{'*' if expert == one.expert else ' '}" for expert in experts
        )
        lines.append(f"{node:>3}: {''.join(cells)}")
    return lines


def _cell(expert: int, digits: int, *, endangered: bool) -> str:
    return f"{expert if expert >= 0 else '-':>{digits}}{'*' if endangered else ' '}"


def _recovery_parts(survivals: Survivals, names: Sequence[str]) -> Iterator[RenderableType]:
    chosen = [survivals.policies[name] for name in names]
    several = len(chosen[0].layers) > 1
    whole = "every expert of every layer" if several else "every expert"
    yield Text(f"probability that {whole} survives when so many {survivals.threats.unit} fail")
    table = _prob_table(names)
    _add_probs(table, [one.curve for one in chosen])
    for label, estimates in (("trace", [one.trace for one in chosen]), ("each", [one.nodes for one in chosen])):
        if all(estimates):
            table.add_row(label, *(format_prob(found.recovery_prob) for found in estimates if found))
    table.add_row("f", *(str(one.curve.guaranteed) for one in chosen))
    yield table
    yield from _legend(survivals)
    if several:
        count = len(chosen[0].shuffled_RF)
        for title, curves in (
            (f"the same with the nodes of each layer shuffled (mean of {count})", [_shuffled(one) for one in chosen]),
            ("the least likely layer alone", [_least_layer(one) for one in chosen]),
        ):
            yield Text(f"\n{title}")
            table = _prob_table(names)
            _add_probs(table, curves)
            yield table


def _legend(survivals: Survivals) -> Iterator[Text]:
    threats = survivals.threats
    if threats.trace is not None:
        batches = zip(threats.trace.sizes, threats.trace.counts, strict=True)
        text = ", ".join(f"{size}: {count}x" for size, count in batches)
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        yield Text(f"trace: batches as in {threats.trace.name}, by nodes lost at once: {shown}")
    if threats.nodes is not None:
        low, high = min(threats.nodes.fail_prob_N), max(threats.nodes.fail_prob_N)
        prob = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        yield Text(f"each: each of the {threats.unit} fails with a probability of {prob}, whatever the others do")
    yield Text("f: the fewest failures that can lose an expert; fewer are always survived")


def _prob_table(names: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    width = max(5, (WIDTH - 6) // len(names) - 1)
    for name in names:
        table.add_column(short_name(name, min(width, 24)), justify="right", no_wrap=True, min_width=5)
    return table


def _add_probs(table: Table, curves: Sequence[RecoveryCurve]) -> None:
    for row, failed in enumerate(curves[0].failures.tolist()):
        cells = (
            format_prob(curve.recovery_prob[row], certain=curve.ci_low[row] == curve.ci_high[row]) for curve in curves
        )
        table.add_row(str(failed), *cells)


def _least_layer(survival: Survival) -> RecoveryCurve:
    """Return, for each number of failures, what the least likely layer has."""
    least_F = np.argmin([layer.recovery_prob for layer in survival.layers], axis=0)
    columns = np.arange(len(least_F))
    parts = {
        name: np.stack([getattr(layer, name) for layer in survival.layers])[least_F, columns]
        for name in ("recovery_prob", "ci_low", "ci_high")
    }
    return dataclasses.replace(survival.curve, **parts)


def _shuffled(survival: Survival) -> RecoveryCurve:
    """Return the mean of the shuffles; what is sampled is certain where no failures can lose an expert."""
    mean_F = survival.shuffled_RF.mean(axis=0)
    if survival.shuffled_method == "exact":
        return dataclasses.replace(survival.curve, recovery_prob=mean_F, ci_low=mean_F, ci_high=mean_F)
    safe_F = survival.curve.failures < survival.curve.guaranteed
    return dataclasses.replace(
        survival.curve, recovery_prob=mean_F, ci_low=safe_F.astype(np.float64), ci_high=np.ones(len(safe_F))
    )
