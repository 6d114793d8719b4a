"""A sensitivity study as tables."""

import math
from collections.abc import Iterator, Mapping, Sequence

from lazsim.output.table import Column, Part, Table, key
from lazsim.study.sensitivity import Change, Sensitivity

LEAST_SHOWN = 0.001
"""Relative change from which a constant gets a row."""


def sensitivity_parts(result: Sensitivity) -> Iterator[Part]:
    """Show by how much each constant changes the samples trained, and their ratio between runs."""
    felt = {change.constant for change in result.changes if change.effect >= LEAST_SHOWN}
    changes = [change for change in result.changes if change.constant in felt]
    first, *others = [run.name for run in result.base.runs]
    yield _table("change of samples trained", [first, *others], changes, [one.samples_change for one in changes])
    if others:
        title = f"change of the ratio {first} : other"
        yield _table(title, others, changes, [one.ratio_change for one in changes])
    unfelt = list(dict.fromkeys(change.constant for change in result.changes if change.constant not in felt))
    if unfelt:
        yield f"under {LEAST_SHOWN:.1%}: {', '.join(unfelt)}"


def _table(title: str, runs: Sequence[str], changes: Sequence[Change], shares: Sequence[Mapping[str, float]]) -> Table:
    """Return a row for each constant, with a column for each run and factor."""
    found = {(one.constant, one.factor): share for one, share in zip(changes, shares, strict=True)}
    factors = dict.fromkeys(one.factor for one in changes)
    columns = [key("constant"), *(Column(f"{name} x{factor:.15g}") for name in runs for factor in factors)]
    assumed = {one.constant for one in changes if one.is_assumed}
    rows = [
        (
            constant + " *" * (constant in assumed),
            *(_percent(found[constant, factor][name]) for name in runs for factor in factors),
        )
        for constant in dict.fromkeys(one.constant for one in changes)
    ]
    return Table(columns, rows, title, ["*: assumed, as no source tells it"] if assumed else [])


def _percent(share: float) -> str:
    return "none" if math.isnan(share) else f"{round(share, 3) + 0.0:+.1%}"
