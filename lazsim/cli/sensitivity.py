"""``lazsim sensitivity``: what changes when a constant is off by half."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from lazsim.cli.common import Number, note, print_json, progress
from lazsim.cli.run import command as run
from lazsim.study.sensitivity import FACTORS, Change, Sensitivity, sensitivity

ONLY_OF_RUN = ("out",)
"""Options of ``lazsim run`` that this command lacks; the others are the same."""

LEAST_SHOWN = 0.001
"""Relative change from which a constant gets a line of its own."""


@click.command(params=[option for option in run.params if option.name not in ONLY_OF_RUN])
@click.option("--constant", "constants", multiple=True, metavar="NAME", help="Vary only this one; repeats.")
@click.option(
    "--factor",
    "factors",
    multiple=True,
    type=Number(min=0, min_open=True),
    default=FACTORS,
    show_default=True,
    help="Multiply by this; repeats.",
)
def command(
    systems: tuple[str, ...],
    placements: tuple[str, ...],
    constants: tuple[str, ...],
    factors: tuple[float, ...],
    as_json: bool,
    trace_path: str,
    **settings: Any,
) -> None:
    """Show what changes when a constant is off by half.

    Each constant of the cluster, its GPU's efficiencies and the job is halved, then multiplied by 1.5, all else equal.
    Whole numbers are rounded. Tables show by how much the samples that a system trains change, and the ratio of the
    first system's to the others'; "none" says that a system cannot run. A small effect may have either sign: a change
    also moves the step at which a failure hits, and so the work lost since the last checkpoint. How small, a factor
    near 1 tells.
    """
    from lazsim.engine.systems import DEFAULT_SYSTEMS

    result = sensitivity(
        {"trace": trace_path, **settings},
        systems=systems or DEFAULT_SYSTEMS,
        placements=placements,
        constants=constants,
        factors=factors,
        progress=progress,
    )
    for text in result.base.notes:
        note(text)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo("\n".join(format_tables(result)))


def format_tables(result: Sensitivity) -> Iterator[str]:
    """Write what changes do to samples and to ratios, in lines of at most 80 columns."""
    felt = {change.constant for change in result.changes if change.effect >= LEAST_SHOWN}
    rows = [change for change in result.changes if change.constant in felt]
    first, *others = [run.name for run in result.base.runs]
    yield "change of samples trained"
    yield from _table(rows, [first, *others], [change.samples_change for change in rows])
    if others:
        yield ""
        yield f"change of the ratio {first} : other"
        yield from _table(rows, others, [change.ratio_change for change in rows])
    unfelt = list(dict.fromkeys(change.constant for change in result.changes if change.constant not in felt))
    if unfelt:
        yield ""
        yield click.wrap_text(f"under {LEAST_SHOWN:.1%}: {', '.join(unfelt)}", 80, subsequent_indent="  ")


def _table(rows: Sequence[Change], systems: Sequence[str], shares: Sequence[Mapping[str, float]]) -> Iterator[str]:
    header = f"{'constant':<33} {'x':>5}" + "".join(f" {system:>{_width(system)}}" for system in systems)
    yield header
    yield "-" * len(header)
    for change, share in zip(rows, shares, strict=True):
        cells = "".join(f" {_percent(share[system]):>{_width(system)}}" for system in systems)
        yield f"{change.constant:<33.33} {change.factor:>5.4g}{cells}"


def _width(system: str) -> int:
    return max(7, len(system))


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{round(share, 3) + 0.0:+.1%}"
