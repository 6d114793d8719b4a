"""Predictions against measurements as tables and files."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lazsim.files.writing import csv_bytes, toml_text
from lazsim.grouping import grouped
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Part, Table, key
from lazsim.study.verify.cells import APART
from lazsim.study.verify.outcomes import Prediction, ReplayedOutcome
from lazsim.study.verify.verification import GROUPS, NOISE, Verification, VerifiedRow, error_summary
from lazsim.units import counted, share_text

NUM_WORST = 10

ERRORS = ("num_rows", "median_error", "median_abs_error", "within_10", "within_20")

COLUMNS = (
    "id", "group", "metric", "predicted", "measured", "error", "skipped", *GROUPS, "source", "tolerance", "within",
    "slowest",
)  # fmt: skip
"""Columns of ``verify.csv`` for runs and outcomes."""

_ROW_COLUMNS = (
    key("row", of="id"), Column("model, system", kind="name", of="group"),
    Column("measured", ",.0f"), Column("predicted", ",.0f"),
    Column("error", "+.0%"),
)  # fmt: skip


def verify_parts(result: Verification) -> Iterator[Part]:
    """Show errors of runs in all, by mechanism, and the runs that are furthest off; every outcome; and kernels."""
    if result.predicted_rows:
        yield from _run_parts(result)
    elif not (result.outcomes or result.kernels.rows):
        held = "every prediction is counted apart, and none held to a tolerance"
        yield held if result.apart_rows else "no row has a prediction"
    columns = [*_ROW_COLUMNS, Column("slowest", ",.0f")]
    title = "counted apart: not all is told or modelled; with the fastest micro-batch that fits, and the slowest"
    yield Table.of(result.apart_rows, columns, title)
    yield from _skipped_parts("not predicted", result.rows)
    if result.outcomes:
        yield from _outcome_parts(result)
    columns = [key("gpu", of="group"), key("measured", of="metric"), key("model")]
    columns += [key("points"), Column("count", of="error.num_points")]
    columns += [Column("median", ".1%", of="error.median"), Column("90 %", ".1%", of="error.p90")]
    columns += [Column("max", ".1%", of="error.max")]
    yield Table.of(result.kernels.rows, columns, "errors of predicted over measured times of kernels, without sign")


def refit_parts(result: Verification) -> Iterator[Part]:
    """Write fitted constants as TOML, three digits each, under comments that name the files they belong to."""
    for file, values in result.kernels.refit.items():
        yield toml_text(_three_digits(values), [file]).splitlines()


def _three_digits(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _three_digits(value) if isinstance(value, dict) else float(f"{value:.3g}")
        for name, value in values.items()
    }


def _outcome_parts(result: Verification) -> Iterator[Part]:
    counts = result.summary()["outcomes"]
    others = sum(row.within is None for row in result.outcomes)
    yield (
        f"{counted(counts['num_rows'], 'published outcome')} under failures, predicted: {counts['num_within']} within "
        f"the tolerance. {counts['num_echoes']} more only give an input back. {others} not replayed."
        + f" {counts['num_apart']} counted apart, as not all of their numbers are read."
        * bool(counts["num_apart"])
    )
    columns = [
        key("row", of="id"), Column("metric", kind="text"), Column("published", ",.4g", of="measured"),
        Column("replayed", ",.4g", of="predicted"), Column("unit", kind="name"),
        Column("tolerance", kind="text"),
        Column("within", kind="name", of=_standing),
    ]  # fmt: skip
    replayed = [row for row in result.outcomes if row.within is not None]
    yield Table.of(replayed, columns, "outcomes under failures")
    for row in replayed:
        if row.why:
            yield f"{row.id} is out of its tolerance: {row.why}."
    yield from _skipped_parts("not replayed", result.outcomes)


def _standing(row: ReplayedOutcome) -> str:
    if row.echoes or row.inputs == APART:
        return "input" if row.echoes else "apart"
    return "yes" if row.within else "no"


def _skipped_parts(heading: str, rows: Sequence[Prediction]) -> Iterator[Part]:
    """Name the rows that were skipped by the reason."""
    by_reason = grouped((row.skipped, row.id) for row in rows if row.skipped)
    if by_reason:
        yield [heading, *(f"{', '.join(ids)}: {reason}" for reason, ids in by_reason.items())]


def _near(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{share_text(summary[f'within_{most}'], '.0%')} within {most} %" for most in (10, 20))


def _run_parts(result: Verification) -> Iterator[Part]:
    rows = result.predicted_rows
    summary = result.summary()
    yield (
        f"{counted(len(rows), 'measured run')}: error {summary['median_abs_error']:.1%} at the median, "
        f"{_near(summary)}; predictions are {summary['median_error']:+.1%} off at the median. Noise: {NOISE}."
    )
    if (complete := summary["complete"])["num_rows"]:
        holds = [
            f"{share_text(share, '.0%')} when made from other {name}s" for name, share in summary["range_holds"].items()
        ]
        yield (
            f"{complete['num_rows']} of them with all inputs known: error {complete['median_abs_error']:.1%} at the "
            f"median, {_near(complete)}."
            + (f" The ranges of predictions hold for {', '.join(holds)}." if holds else "")
        )
    yield _group_table(rows)
    worst = sorted(rows, key=lambda row: -abs(row.error or 0.0))[:NUM_WORST]
    yield Table.of(worst, _ROW_COLUMNS, "the rows that are furthest off, tokens/s a GPU")
    yield Table.of(result.nearest_rows, _ROW_COLUMNS, "rows that have settings of the nearest recipe, not their own")
    columns = [
        key("model, system", of="group"), Column("rows", of="num_runs"), Column("Spearman", ".2f", of="spearman"),
        Column("perfect model", ".2f", of="perfect"), Column("19 of 20 above", ".2f", of="perfect_low"),
    ]  # fmt: skip
    notes = ["a perfect model misses an order by the noise of measurements alone"]
    yield Table.of(result.rankings, columns, "order of the rows with all inputs known", notes=notes)
    if result.pairs:
        yield from _pair_parts(result)


def _pair_parts(result: Verification) -> Iterator[Part]:
    """Count pairs of runs by the setting in which they differ, and list those that are predicted the other way."""
    counts = result.summary()["pairs"]
    yield (
        f"{counted(counts['num_pairs'], 'pair of runs differs', 'pairs of runs differ')} in one setting, and by more "
        f"than the noise: {counts['num_right']} predicted in the measured direction, of a perfect model "
        f"{counts['perfect']:.0f}."
    )
    columns = [key("setting"), Column("pairs", of=len)]
    columns += [Column("right", of=lambda some: sum(pair.right for pair in some))]
    columns += [Column("perfect model", ".1f", of=lambda some: math.fsum(pair.perfect for pair in some))]
    yield Table.of(grouped((pair.setting, pair) for pair in result.pairs), columns, "pairs by setting")
    columns = [
        key("faster"), key("slower"), Column("setting", kind="name"),
        Column("measured", ".2f"), Column("predicted", ".2f"),
        Column("perfect model right", ".0%", of="perfect"),
    ]  # fmt: skip
    wrong = [pair for pair in result.pairs if not pair.right]
    yield Table.of(wrong, columns, "pairs in the other direction, the first over the second")


def verify_files(result: Verification) -> dict[str, bytes]:
    """Return the files of ``lazsim verify --out`` beside its JSON, by name."""
    from lazsim.output.plots.verify import verify_figure

    rows = [row.to_json() for row in result.kernels.rows]
    columns: Sequence[str] = [*rows[0]] if rows else COLUMNS
    rows += [getattr(row, "settings", {}) | vars(row) for row in (*result.rows, *result.outcomes)]
    cells = ([row.get(name) for name in columns] for row in rows)
    texts = ([f"{cell:.6g}" if isinstance(cell, int | float) else cell for cell in row] for row in cells)
    return {
        "verify.csv": csv_bytes(columns, texts),
        **(name_pictures("verify", verify_figure(result)) if result.predicted_rows + result.apart_rows else {}),
    }


def _group_table(rows: list[VerifiedRow]) -> Table:
    """Return errors by each value of each setting that has two rows or more."""
    columns = [
        key("setting"), key("value"), Column("rows"), Column("median", "+.1%"), Column("median, no sign", ".1%"),
        Column("within 10 %", ".0%"), Column("within 20 %", ".0%"),
    ]  # fmt: skip
    lines = []
    for name in GROUPS:
        for value, some in sorted(grouped((row.settings[name], row) for row in rows).items()):
            if len(some) > 1:
                summary = error_summary(some)
                lines.append((name.replace("_", " "), value, *(summary[error] for error in ERRORS)))
    return Table(columns, lines, "errors of predicted over measured throughput")
