"""Predictions held against what others measured."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lazsim.costmodel.fit import KernelErrors
from lazsim.errors import SpecError
from lazsim.grouping import grouped
from lazsim.stepmodel.predict import predict_step
from lazsim.study.backends import on_loky
from lazsim.study.observed import MOST_TIMES
from lazsim.study.verify.cells import APART, NEAREST, OWN
from lazsim.study.verify.measured_runs import MeasuredRun, read_runs
from lazsim.study.verify.orders import RELEASES, Pair, Ranking, find_pairs, rank_runs
from lazsim.study.verify.outcomes import (
    Prediction,
    PublishedOutcome,
    ReplayedOutcome,
    has_outcomes,
    read_outcomes,
    replay_outcome,
)
from lazsim.study.verify.replays import runs_of
from lazsim.units import counted

METRIC = "tokens_per_s_per_gpu"

GROUPS = (
    "model_key", "system", "precision", "dispatcher", "exchange", "cuda_graph", "recompute", "pipeline",
    "source_family", "inputs",
)  # fmt: skip
"""Settings of a run by which errors are grouped."""

RANGE_TAIL = 0.025
"""Share of measured runs below the range of a prediction, and above it."""

UNREAD_INPUTS = "of `inputs`, not read"
"""Kind of remarks on outcomes."""

FEW_ROWS = 3
"""Rows that a note names, and does not count."""

FEW_OUTCOMES = 24
"""Outcomes below which starting processes takes longer than it saves."""

ODD = (
    "a hundredth of the prediction or less was measured; check the units",
    "tok_s_gpu in tokens/s of one GPU, step_s in s",
)
"""Remark on a row that may be in another unit."""

NOISE = (
    f"the same settings differ by {100 * RELEASES[1][1]:.1f} % at the median and {100 * RELEASES[1][3]:.1f} % at nine "
    "of ten from release to release"
)


@dataclass(frozen=True)
class VerifiedRow(Prediction):
    """A measured run and its prediction; its group is its model and system."""

    settings: dict[str, str]
    slowest: float | None = None
    """Prediction with the slowest micro-batch that fits, where the row does not tell its own; else none."""


@dataclass(frozen=True)
class Verification:
    """All rows; see `lazsim.output.verify` for how they are shown."""

    rows: list[VerifiedRow] = field(default_factory=list)
    """Measured runs."""
    outcomes: list[ReplayedOutcome] = field(default_factory=list)
    """Published outcomes under failures."""
    pairs: list[Pair] = field(default_factory=list)
    """Measured runs that differ in one setting."""
    rankings: list[Ranking] = field(default_factory=list)
    """Measured runs of one model and system in their order."""
    remarks: list[tuple[str, str, str]] = field(default_factory=list)
    """What predictions leave out of rows or take for granted: a kind, what, and the name of the row."""
    kernels: KernelErrors = field(default_factory=KernelErrors)
    """Errors over measured kernels and collectives, and the constants of a new fit."""

    @property
    def predicted_rows(self) -> list[VerifiedRow]:
        """Rows with a prediction of what they tell."""
        return [row for row in self.rows if row.error is not None and row.settings["inputs"] != APART]

    @property
    def apart_rows(self) -> list[VerifiedRow]:
        """Rows with a prediction of others than they tell, or of a micro-batch that they do not tell."""
        return [row for row in self.rows if row.error is not None and row.settings["inputs"] == APART]

    @property
    def nearest_rows(self) -> list[VerifiedRow]:
        """Rows with a prediction whose settings are in part those of another run's recipe."""
        return [row for row in self.predicted_rows if row.settings["inputs"] == NEAREST]

    def summary(self) -> dict[str, Any]:
        """Return the number of runs with a prediction, the median error without sign, and shares within 10 and 20 %.

        ``outcomes`` counts published outcomes: those predicted, those of them within their tolerances, those whose
        replay only gives an input back, and others of which some numbers are not read.
        ``complete`` is the same of the rows with all inputs known, and ``nearest_recipe`` of those whose settings are
        in part of another run's recipe, and ``apart`` of further runs, predicted with settings that they do not
        tell; ``range_holds`` the share of both in the range of rows with other models, and
        with other sources, where there are any. ``pairs`` counts those of runs that differ in one setting, those of
        them whose predictions go the measured way, and how many would under a ``perfect`` model, on average.
        ``kernels`` counts rows of kernels, and has the largest median of those with the constants of the catalogue.
        """
        summary = error_summary(self.predicted_rows)
        complete = [row for row in self.predicted_rows if row.settings["inputs"] == OWN]
        summary["complete"] = error_summary(complete)
        summary["nearest_recipe"] = error_summary(self.nearest_rows)
        summary["apart"] = error_summary(self.apart_rows)
        ranged = complete + self.nearest_rows
        summary["range_holds"] = {
            name: held_out_share(ranged, setting)
            for name, setting in (("model", "model_key"), ("source", "source_family"))
            if len({row.settings[setting] for row in ranged}) > 1
        }
        replayed = [row for row in self.outcomes if row.within is not None]
        predicted = [row for row in replayed if not row.echoes]
        known = [bool(row.within) for row in predicted if row.inputs != APART]
        summary["outcomes"] = {
            "num_rows": len(known),
            "num_within": sum(known),
            "num_echoes": len(replayed) - len(predicted),
            "num_apart": len(predicted) - len(known),
        }
        summary["pairs"] = {
            "num_pairs": len(self.pairs),
            "num_right": sum(pair.right for pair in self.pairs),
            "perfect": math.fsum(pair.perfect for pair in self.pairs),
        }
        medians = [row.error.median for row in self.kernels.rows if row.model == "catalogue"]
        summary["kernels"] = {"num_rows": len(self.kernels.rows), "max_median": max(medians, default=None)}
        return summary

    def exceeds(self, tolerance: float) -> bool:
        """Tell whether a median error, of the runs or a kernel, is larger, or an outcome not within its tolerance."""
        summary = self.summary()
        medians = (summary["median_abs_error"], summary["kernels"]["max_median"])
        within = [median <= tolerance for median in medians if median is not None]
        within += [row.within for row in self.outcomes if row.within is not None and row.inputs != APART]
        return not within or not all(within)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        rows = [asdict(row) for row in self.rows]
        rows = [row | {"inputs": row.pop("settings")["inputs"]} for row in rows]
        rows += [asdict(row) for row in self.outcomes]
        remarks = grouped((name, f"{kind}: {text}") for kind, text, name in self.remarks)
        rows = [row | {"remarks": remarks.get(row["id"], [])} for row in rows]
        rows += [row.to_json() for row in self.kernels.rows]
        return {
            "rows": rows, "pairs": [asdict(pair) for pair in self.pairs],
            "rankings": [asdict(ranking) for ranking in self.rankings], "summary": self.summary(),
            "refit": self.kernels.refit, "notes": self.notes,
        }  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """Say what the numbers leave out."""
        rows: list[Prediction] = [*self.rows, *self.outcomes]
        skipped = sum(row.predicted is None for row in rows)
        notes = (
            [f"no prediction of {skipped} of {counted(len(rows), 'row')}; `json` says why of each"] if skipped else []
        )
        for kind in dict.fromkeys(one[0] for one in self.remarks):
            names = grouped((text, name) for of, text, name in self.remarks if of == kind)
            told = (
                f"{text} ({', '.join(some) if len(some) <= FEW_ROWS else counted(len(some), 'row')})"
                for text, some in names.items()
            )
            notes.append(f"{kind}: {'; '.join(told)}")
        if unknown := ", ".join(self.kernels.unknown):
            notes.append(f"measured, but not in the catalogue: {unknown}; give a TOML file as `gpu`")
        return notes


def range_of(rows: Sequence[VerifiedRow]) -> tuple[float, float]:
    """Return the range of measured over predicted values, `RANGE_TAIL` of the rows left out at each end."""
    ratios = [1 / (1 + row.error) for row in rows if row.error is not None]
    # Of n rows, a further one is below the least with a chance of 1 / (n + 1).
    low, high = np.quantile(ratios, [RANGE_TAIL, 1 - RANGE_TAIL], method="weibull")
    return float(low), float(high)


def held_out_share(rows: Sequence[VerifiedRow], setting: str) -> float:
    """Return the share of rows in the range that rows with other values of a setting have.

    Ranges are those of rows with the same graphs. This is how often the range of a prediction holds for a model, or for
    a source, that it was not made from.
    """
    inside = 0
    for row in rows:
        same = [other for other in rows if other.settings["graphs"] == row.settings["graphs"]]
        others = [other for other in same if other.settings[setting] != row.settings[setting]] or same
        low, high = range_of(others)
        inside += low <= 1 / (1 + (row.error or 0.0)) <= high
    return inside / len(rows)


def error_summary(rows: Sequence[VerifiedRow]) -> dict[str, Any]:
    """Summarise errors of predicted over measured values."""
    if not rows:
        return {"num_rows": 0} | dict.fromkeys(("median_error", "median_abs_error", "within_10", "within_20"))
    errors = np.array([row.error for row in rows], dtype=np.float64)
    return {
        "num_rows": len(rows),
        "median_error": float(np.median(errors)),
        "median_abs_error": float(np.median(abs(errors))),
        "within_10": float(np.mean(abs(errors) <= 0.1)),
        "within_20": float(np.mean(abs(errors) <= 0.2)),
    }


def verify(
    paths: Iterable[str] = (),
    only: str = "",
    progress: Callable[[Iterable[MeasuredRun | PublishedOutcome]], Iterable[MeasuredRun | PublishedOutcome]] = list,
) -> Verification:
    """Predict measured runs, and replay published outcomes, of the catalogue or of files.

    Parameters
    ----------
    paths
        Tables in place of the catalogue's; see `lazsim.study.verify.measured_runs` and `lazsim.study.verify.outcomes`.
    only
        Keep rows with this text in their name, model, system or another setting.
    progress
        Wraps the rows as they are predicted.

    Raises
    ------
    LazsimError
        When a table cannot be read, or no row has the text.
    """
    paths = list(paths)
    found: list[MeasuredRun | PublishedOutcome] = [*read_runs(), *read_outcomes()] if not paths else []
    for path in paths:
        found += read_outcomes(path) if has_outcomes(path) else read_runs(path)
    names = Counter(row.id for row in found)
    if twice := next((name for name, times in names.items() if times > 1), ""):
        raise SpecError(f"`rows`: two files have a row {twice}; give each row its own name")
    wanted = [row for row in found if only.lower() in _text_of(row).lower()]
    if not wanted:
        raise SpecError(f"`only` {only}: none of the {len(found)} rows has this text; give another one")
    result = Verification()
    replays = _replays([row for row in wanted if isinstance(row, PublishedOutcome)])
    for row in progress(wanted):
        if isinstance(row, PublishedOutcome):
            result.outcomes.append(next(replays))
            result.remarks.extend((UNREAD_INPUTS, name, row.id) for name in row.unread)
        else:
            result.rows.append(_verified(row))
            result.remarks.extend((*remark, row.id) for remark in row.remarks)
            # What is faster than the peak of its GPU is refused where it is read.
            if (result.rows[-1].error or 0.0) >= MOST_TIMES:
                result.remarks.append((*ODD, row.id))
    predicted = {row.id: row.predicted for row in result.rows if row.predicted is not None}
    runs = [row for row in wanted if isinstance(row, MeasuredRun)]
    result.pairs.extend(find_pairs(runs, predicted))
    result.rankings.extend(rank_runs(runs, predicted))
    return result


def _replays(outcomes: Sequence[PublishedOutcome]) -> Iterator[ReplayedOutcome]:
    """Replay outcomes in their order: those of the same runs one after the other, and many on all cores."""
    alike: dict[Any, list[tuple[int, PublishedOutcome]]] = grouped(
        ((one.setup and runs_of(one.setup), repr(one.inputs), one.folder), (place, one))
        for place, one in enumerate(outcomes)
    )
    batches: Iterator[list[tuple[int, ReplayedOutcome]]] = (
        map(_replay_batch, alike.values())
        if len(outcomes) < FEW_OUTCOMES
        else on_loky(_replay_batch, alike.values(), len(os.sched_getaffinity(0)), None)
    )
    found: dict[int, ReplayedOutcome] = {}
    for place in range(len(outcomes)):
        while place not in found:
            found.update(next(batches))
        yield found.pop(place)


def _replay_batch(batch: Sequence[tuple[int, PublishedOutcome]]) -> list[tuple[int, ReplayedOutcome]]:
    return [(place, replay_outcome(outcome)) for place, outcome in batch]


def _text_of(row: MeasuredRun | PublishedOutcome) -> str:
    if isinstance(row, PublishedOutcome):
        return " ".join((row.id, row.group, row.metric, row.source))
    return " ".join((row.id, *row.settings.values(), row.source))


def _verified(run: MeasuredRun) -> VerifiedRow:
    measured, predicted, slowest, skipped = run.tokens_per_s_per_gpu, None, None, run.skipped
    try:
        if run.inputs is not None:
            time = predict_step(run.inputs)
            if (mfu := time.mfu * measured / time.tokens_per_s_per_gpu) > 1:
                raise SpecError(
                    f"tok_s_gpu {measured:,.0f} takes {mfu:.3g} times the peak of the GPU: give tokens/s of one GPU"
                )
            predicted = time.tokens_per_s_per_gpu
            if run.slowest is not None and run.slowest is not run.inputs:
                slowest = predict_step(run.slowest).tokens_per_s_per_gpu
    except SpecError as refused:
        skipped = str(refused)  # such as a kernel that was not measured on this GPU
    error = None if predicted is None else predicted / measured - 1
    group = f"{run.settings['model_key']} {run.settings['system']}"
    return VerifiedRow(
        run.id, group, METRIC, predicted, None if math.isnan(measured) else measured, error, skipped,
        run.source, dict(run.settings), slowest,
    )  # fmt: skip
