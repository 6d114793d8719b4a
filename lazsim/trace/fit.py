"""Fit the recipe of a spot trace to a real one, and compare the two."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lazsim.errors import LazsimError
from lazsim.trace.counts import RULE
from lazsim.trace.generate import generate_trace
from lazsim.trace.recipes import SpotSpec, WeibullSpec
from lazsim.trace.stats import trace_stats
from lazsim.trace.table import Batch, Trace

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 4
FITTED_STATS = (
    "mean_nodes", "min_nodes", "num_losses", "removals_per_node_hour", "loss_size_mean", "loss_size_max",
    "take_all_share", "lifetime_mean_s", "lifetime_median_s", "loss_gap_mean_s", "loss_gap_cv", "burstiness",
)  # fmt: skip
LEAST_LOSSES = 5
SHAPE_BOUNDS = (math.log(0.2), math.log(5.0))
SCALE_BOUNDS = (math.log(0.05), math.log(1e7))


class _Seen(NamedTuple):
    """A draw of a law: `value`, or more where it was cut off."""

    value: float
    cut: bool


@dataclass
class _Draws:
    """The draws behind a trace, as far as it shows them."""

    loss_gaps: list[_Seen] = field(default_factory=list)
    loss_sizes: list[_Seen] = field(default_factory=list)
    grant_gaps: list[_Seen] = field(default_factory=list)
    grant_sizes: list[_Seen] = field(default_factory=list)
    took_all: list[bool] = field(default_factory=list)
    choices: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=list)


def fit_spot(trace: Trace) -> SpotSpec:
    """Fit a spot recipe to a trace by maximum likelihood.

    Parameters
    ----------
    trace
        A trace with at least five losses, and a grant after the start.

    Returns
    -------
    SpotSpec
        Parameters of four digits. The target is the peak of the trace, and the generated trace starts there: a job
        starts when it has its nodes.

    Raises
    ------
    LazsimError
        When the trace has too few losses or grants.

    Notes
    -----
    The clocks are those of the generator: the loss clock runs while a node is alive, the grant clock below the peak.
    The time from the last event to the end of the trace is a censored gap; a grant that reaches the peak is a censored
    size. ``take_all_prob`` is the share of losses that took all of two or more nodes; sizes are fitted to the others.
    ``age_exponent`` maximises the likelihood that each loss took its nodes one by one with weights ``age ** exponent``
    (the partial likelihood of Cox, with Efron's treatment of ties). It is 0 where the trace names no nodes, because the
    reader then drew victims regardless of age.
    """
    tick_s = _tick(trace)
    seen = _observe(trace, tick_s)
    stats = trace_stats(trace)
    if stats.num_losses < LEAST_LOSSES or not seen.grant_sizes:
        raise LazsimError(
            f"{trace.name}: {stats.num_losses} losses and {len(seen.grant_sizes)} grants are too few to fit a recipe; "
            f"give a trace with at least {LEAST_LOSSES} losses and a grant"
        )
    file_name = Path(trace.name).name
    return SpotSpec(
        source=f"fitted to {file_name}" + (f" (sha256 {trace.sha256})" if trace.sha256 else ""),
        duration_s=trace.duration_s,
        tick_s=tick_s,
        target_nodes=stats.peak_nodes,
        initial_nodes=stats.peak_nodes,
        loss_gap=_fit_weibull(seen.loss_gaps, tick_s),
        loss_size=_fit_weibull(seen.loss_sizes, 1.0),
        take_all_prob=_round(float(np.mean(seen.took_all))) if seen.took_all else 0.0,
        age_exponent=0.0 if RULE in trace.notes else _fit_age_exponent(seen.choices),
        refill_gap=_fit_weibull(seen.grant_gaps, tick_s),
        refill_size=_fit_weibull(seen.grant_sizes, 1.0),
    )


def fit_table(trace: Trace, recipe: SpotSpec, seeds: range) -> "pd.DataFrame":
    """Compare a trace with generated traces of a recipe.

    Returns
    -------
    DataFrame
        A row per statistic of `FITTED_STATS`; columns ``real``, then ``median``, ``p5`` and ``p95`` over the seeds
        whose trace defines the statistic.
    """
    import pandas as pd

    real = trace_stats(trace)
    drawn = [trace_stats(generate_trace(recipe, np.random.default_rng(seed))) for seed in seeds]
    rows = []
    for name in FITTED_STATS:
        values = np.array([getattr(stats, name) for stats in drawn], dtype=float)
        defined = values[~np.isnan(values)]
        p5, median, p95 = np.percentile(defined, [5, 50, 95]).tolist() if len(defined) else [math.nan] * 3
        rows.append({"statistic": name, "real": float(getattr(real, name)), "median": median, "p5": p5, "p95": p95})
    return pd.DataFrame(rows).set_index("statistic")


def _tick(trace: Trace) -> float:
    """Return the largest step of whole milliseconds that divides all times."""
    step_ms = int(np.gcd.reduce(np.rint(trace.time_s * 1e3).astype(np.int64)))
    return step_ms / 1e3 if step_ms else 1.0


def _observe(trace: Trace, tick_s: float) -> _Draws:
    """Walk a trace with the clocks of the generator."""
    peak = trace.most_nodes()
    seen = _Draws()
    born: dict[str, float] = {}
    loss_from: float | None = None
    grant_from: float | None = 0.0
    for batch in trace.batches():
        num_before = len(born)
        if batch.removed:
            _observe_loss(seen, batch, born, tick_s)
            if loss_from is not None:
                seen.loss_gaps.append(_Seen((batch.time_s - loss_from) / tick_s, False))
            loss_from = None
        if batch.added and batch.time_s > 0:
            seen.grant_sizes.append(_Seen(len(batch.added), len(born) + len(batch.added) >= peak))
            if grant_from is not None and batch.time_s > grant_from:
                seen.grant_gaps.append(_Seen((batch.time_s - grant_from) / tick_s, False))
        born |= dict.fromkeys(batch.added, batch.time_s)
        loss_from = (loss_from if loss_from is not None else batch.time_s) if born else None
        if len(born) >= peak:
            grant_from = None
        elif batch.added or num_before >= peak:
            grant_from = batch.time_s
    for start_s, gaps in ((loss_from, seen.loss_gaps), (grant_from, seen.grant_gaps)):
        if start_s is not None and trace.duration_s > start_s:
            gaps.append(_Seen(math.floor((trace.duration_s - start_s) / tick_s) + 1, True))
    return seen


def _observe_loss(seen: _Draws, batch: Batch, born: dict[str, float], tick_s: float) -> None:
    nodes = list(born)
    took_all = len(batch.removed) == len(nodes)
    if len(nodes) >= 2:
        seen.took_all.append(took_all)
    if not took_all:
        seen.loss_sizes.append(_Seen(len(batch.removed), False))
        gone = set(batch.removed)
        ages = np.array([(batch.time_s - born[node]) / tick_s + 1.0 for node in nodes])
        seen.choices.append((ages, np.array([node in gone for node in nodes])))
    for node in batch.removed:
        del born[node]


def _fit_weibull(draws: list[_Seen], unit: float) -> WeibullSpec:
    """Fit ``P(X >= x) = exp(-((x - 1) / scale) ** shape)`` to draws, some of them censored, by likelihood."""
    from scipy.optimize import minimize

    if not draws:
        return WeibullSpec(scale=unit, shape=1.0)
    values = np.array([max(1.0, draw.value) for draw in draws])
    cut = np.array([draw.cut for draw in draws])

    def loss(logs: npt.NDArray[np.float64]) -> float:
        scale, shape = np.exp(logs)
        at_least, more = -(((values - 1) / scale) ** shape), -((values / scale) ** shape)
        exactly = at_least + np.log(np.maximum(-np.expm1(more - at_least), 1e-300))
        return -float(np.sum(np.where(cut, at_least, exactly)))

    start = np.array([math.log(values.mean()), 0.0])
    found = minimize(loss, start, method="Nelder-Mead", bounds=[SCALE_BOUNDS, SHAPE_BOUNDS], options={"xatol": 1e-6})
    scale, shape = np.exp(found.x).tolist()
    return WeibullSpec(scale=_round(scale * unit), shape=_round(shape))


def _fit_age_exponent(choices: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]) -> float:
    """Maximise the likelihood of the victims; nodes of one loss leave one after the other, in any order."""
    from scipy.optimize import minimize_scalar

    def loss(exponent: float) -> float:
        total = 0.0
        for ages, gone in choices:
            weights = ages**exponent
            size, lost = int(gone.sum()), weights[gone].sum()
            left = weights.sum() - np.arange(size) / size * lost
            total -= float(exponent * np.log(ages[gone]).sum() - np.log(left).sum())
        return total

    return _round(float(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x)) if choices else 0.0


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
