"""Fit a recipe to a real trace, and compare the two."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_ndtr
from scipy.stats import expon, gengamma, lognorm, weibull_min

from lazsim.errors import LazsimError
from lazsim.limits import SHORTEST_S
from lazsim.placement.plan import Bools, Floats
from lazsim.trace.generate import generate_trace, weibull_scale
from lazsim.trace.reading.events import RULE
from lazsim.trace.recipes import MtbfSpec, SpotSpec, WeibullSpec
from lazsim.trace.stats import trace_stats
from lazsim.trace.table import Batch, Trace
from lazsim.units import HOUR_S, counted, format_duration, four_digits

if TYPE_CHECKING:
    import pandas as pd

FITTED_STATS = (
    "mean_nodes", "min_nodes", "num_losses", "removals_per_node_hour", "loss_size_mean", "loss_size_max",
    "take_all_share", "lifetime_mean_s", "lifetime_median_s", "loss_gap_mean_s", "loss_gap_cv", "burstiness",
)  # fmt: skip
LEAST_LOSSES = 5
EDGE_SHAPES = (0.2, 20.0)
MOST_AGE_EXPONENT = 2.0
MOST_BY_CHANCE = 0.05
"""Lost nodes in the step of a trace's times from which on about as large a share of them share theirs by chance."""
SHAPE_BOUNDS = (math.log(EDGE_SHAPES[0]), math.log(EDGE_SHAPES[1]))
SIGMA_BOUNDS = (0.01, 5.0)
SHARE_BOUNDS = (0.0, 1 - 1e-6)
SHORTEST_LIFE_S = 1.0
"""Stamps of logs are whole seconds: of what is shorter, a fit takes no more than that."""
SCALE_BOUNDS = (math.log(0.05), math.log(1e7))
LEAST_LOG_PROB = math.log(1e-300)


class _Seen(NamedTuple):
    """A draw of a law: `value`, or more where it was cut off; `aged` where it began before the trace."""

    value: float
    cut: bool
    aged: bool = False


@dataclass
class _Draws:
    """The draws behind a trace, as far as it shows them."""

    loss_gaps: list[_Seen] = field(default_factory=list)
    loss_sizes: list[_Seen] = field(default_factory=list)
    grant_gaps: list[_Seen] = field(default_factory=list)
    grant_sizes: list[_Seen] = field(default_factory=list)
    choices: list[tuple[Floats, Bools]] = field(default_factory=list)


def fit_recipe(trace: Trace, kind: str = "auto") -> SpotSpec | MtbfSpec:
    """Fit a recipe of a kind, ``spot`` or ``mtbf``, to a trace; see `fit_spot` and `fit_mtbf`.

    ``auto`` is ``mtbf`` where at least half of the lost nodes come back under their names, as repaired nodes do.
    """
    if kind == "auto":
        returns = [event.node for event in trace.events() if event.kind != "remove"]
        num_lost, num_returned = trace.nodes_lost() + len(trace.away), len(returns) - len(set(returns))
        kind = "mtbf" if 0 < num_lost <= 2 * num_returned else "spot"
    return fit_mtbf(trace) if kind == "mtbf" else fit_spot(trace)


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
    size. A loss that took all of two or more nodes is one of at least as many, or one that takes all whatever there is:
    sizes and ``take_all_prob`` maximise the likelihood of both.
    ``age_exponent`` maximises the likelihood that each loss took its nodes one by one with weights ``age ** exponent``
    (the partial likelihood of Cox, with Efron's treatment of ties). It is 0 where the trace names no nodes, because the
    reader then drew victims regardless of age.
    """
    tick_s = _tick(trace)
    seen = _observe(trace, tick_s)
    peak = trace.most_nodes()
    num_losses = sum(bool(batch.removed) for batch in trace.batches())
    if num_losses < LEAST_LOSSES or not seen.grant_sizes:
        raise LazsimError(
            f"{trace.name}: too few to fit a recipe: {counted(num_losses, 'loss', 'losses')} and "
            f"{counted(len(seen.grant_sizes), 'grant')}; give a trace with at least {LEAST_LOSSES} losses and a grant"
        )
    loss_size, take_all_prob = _fit_sizes(seen.loss_sizes)
    return SpotSpec(
        source=_fitted_to(trace),
        duration_s=trace.duration_s,
        tick_s=tick_s,
        target_nodes=peak,
        initial_nodes=peak,
        loss_gap=_fit_weibull(seen.loss_gaps, tick_s),
        loss_size=loss_size,
        take_all_prob=take_all_prob,
        age_exponent=0.0 if RULE in trace.notes else _fit_age_exponent(seen.choices),
        refill_gap=_fit_weibull(seen.grant_gaps, tick_s),
        refill_size=_fit_weibull(seen.grant_sizes, 1.0),
    )


def fit_mtbf(trace: Trace) -> MtbfSpec:
    """Fit a recipe of failures and repairs to a trace.

    Parameters
    ----------
    trace
        A trace with at least five lost nodes, some of which come back under their names.

    Returns
    -------
    MtbfSpec
        Parameters of four digits. Nodes of one instant are a batch, of nodes drawn from the whole cluster: a trace does
        not tell domains.

    Raises
    ------
    LazsimError
        When the trace has too few losses, or no node comes back.

    Notes
    -----
    ``mtbf_s`` and ``repair_s`` are the time alive over the losses and the time away over the returns. The end of the
    trace does not bias the first, nor the second where repairs are exponential. Of log-normal ones that it cuts off, if
    at most half, each counts for as long as the law has it go on. Where some nodes are not there from the start, as
    in a stretch of a trace, ``num_nodes`` also counts those that would be away throughout, were repairs
    exponential. The shape of the law of failures that take one node maximises the likelihood of the times alive
    between them. Nodes present at the start have an age that nobody knows, as in a process that has run for long;
    nodes present at the end are censored. A batch may find some of its nodes away already: it has as many that
    those alive of them are on average as many as in the trace, and a share of the failures that counts batches with
    one node alive. The shape is 1, and repair times are exponential, unless another shape, or a log-normal law, is
    likelier by more than the number of parameters (Akaike's
    criterion). From few losses or returns, the means are too high, by about one part in their number.
    """
    lives, repairs, sizes = _observe_repairs(trace)
    num_lost, num_returned = sum(sizes), sum(not repair.cut for repair in repairs)
    if num_lost < LEAST_LOSSES or not num_returned:
        raise LazsimError(
            f"{trace.name}: too few to fit failures and repairs: {counted(num_lost, 'lost node')}, and {num_returned} "
            f"that come back; give a trace with at least {LEAST_LOSSES} and 1, or fit the `kind` spot"
        )
    away_s = math.fsum(repair.value for repair in repairs)
    mtbf_s, repair_s = trace_stats(trace).node_hours * HOUR_S / num_lost, away_s / num_returned
    known = [repair for repair in repairs if not repair.aged]
    sigma = _fit_sigma(known, repair_s) if repair_s and known else None
    num_ended = sum(not repair.cut for repair in known)
    if sigma is not None and num_ended < len(known) <= 2 * num_ended:
        # A mean beyond the trace hangs on the tail of the law alone.
        if (mean_s := _lognormal_mean(known)) <= trace.duration_s:
            repair_s = mean_s
        sigma = _fit_sigma(known, repair_s) or sigma
    batches = [size for size in sizes if size > 1]
    num_nodes = len(trace.names)
    if np.count_nonzero(trace.time_s == 0.0) < num_nodes:
        never_share = repair_s / (mtbf_s + repair_s) * math.exp(-trace.duration_s / max(repair_s, SHORTEST_S))
        num_nodes = round(num_nodes / (1 - never_share))
    batch_nodes, seen_share = _fit_batch(batches, num_nodes, mtbf_s / (mtbf_s + repair_s))
    own_mean_s = mtbf_s * num_lost / max(1, num_lost - sum(batches))
    return MtbfSpec(
        source=_fitted_to(trace),
        num_nodes=num_nodes,
        mtbf_s=four_digits(mtbf_s),
        shape=_fit_shape(lives, own_mean_s),
        repair_s=max(SHORTEST_S, four_digits(repair_s)),
        repair_sigma=sigma,
        batch_share=min(1.0, four_digits(sum(batches) / num_lost / seen_share)),
        batch_nodes=batch_nodes,
        duration_s=trace.duration_s,
    )


def compare_fit(trace: Trace, recipe: SpotSpec | MtbfSpec, seeds: range) -> "pd.DataFrame":
    """Compare a trace with generated traces of a recipe.

    Returns
    -------
    DataFrame
        A row per statistic of `FITTED_STATS`; columns ``real``, then ``median``, ``p5`` and ``p95`` over the seeds
        whose trace defines the statistic.
    """
    import pandas as pd

    # A generated trace has no nodes that are away from its start, which count as a loss.
    real = trace_stats(trace.with_events((e for e in trace.events() if e.kind != "away"), trace.duration_s))
    drawn = [trace_stats(generate_trace(recipe, np.random.default_rng(seed))) for seed in seeds]
    rows = []
    for name in FITTED_STATS:
        values = np.array([getattr(stats, name) for stats in drawn], dtype=float)
        defined = values[~np.isnan(values)]
        p5, median, p95 = np.percentile(defined, [5, 50, 95]).tolist() if len(defined) else [math.nan] * 3
        rows.append({"statistic": name, "real": float(getattr(real, name)), "median": median, "p5": p5, "p95": p95})
    return pd.DataFrame(rows).set_index("statistic")


def fit_notes(trace: Trace, recipe: SpotSpec | MtbfSpec, frame: "pd.DataFrame") -> Iterator[str]:
    """Say where a trace does not tell a recipe, or is unlike those generated by the table of `compare_fit`."""
    if trace.prices is not None:
        paid = f"the {trace_stats(trace).usd_per_node_hour:.4g} $ that a node-hour of the trace costs in the mean"
        yield f"a recipe has no prices: give its runs one, such as {paid}"
    if isinstance(recipe, MtbfSpec) and recipe.shape != 1:
        yield (
            "nodes that are there at the start are taken to have run for long; had they been new, `mtbf_s` would be "
            f"too {'low' if recipe.shape < 1 else 'high'} and `shape` off, more so in a short trace"
        )
    if isinstance(recipe, MtbfSpec) and recipe.num_nodes > len(trace.names):
        yield (
            f"`num_nodes` {recipe.num_nodes:,} is beyond the {counted(len(trace.names), 'node')} of the trace: by the "
            "fitted rates, the others are away throughout"
        )
    tick_s = _tick(trace)
    by_chance = trace.nodes_lost() * tick_s / trace.duration_s
    if getattr(recipe, "batch_nodes", 0) and by_chance > MOST_BY_CHANCE:
        yield (
            f"times are multiples of {format_duration(tick_s)}, in each of which {by_chance:.2g} nodes are lost on "
            "average: nodes lost by chance in the same one were fitted as a batch"
        )
    outside = frame.index[(frame["real"] < frame["p5"]) | (frame["real"] > frame["p95"])]
    if len(outside):
        yield f"the trace is unlike most generated ones, beyond their 5 % to 95 %, in {', '.join(outside)}"
    laws: dict[str, SpotSpec | MtbfSpec | WeibullSpec] = {"": recipe}
    if isinstance(recipe, SpotSpec):
        laws |= {f"{name}.": getattr(recipe, name) for name in ("loss_gap", "loss_size", "refill_gap", "refill_size")}
    ends = [f"`{name}shape`" for name, law in laws.items() if getattr(law, "shape", 1.0) in EDGE_SHAPES]
    ends += ["`age_exponent`"] if abs(getattr(recipe, "age_exponent", 0.0)) == MOST_AGE_EXPONENT else []
    if ends:
        yield f"{', '.join(ends)} at the end of what is tried: the trace shows too little to tell more"


def _observe_repairs(trace: Trace) -> tuple[list[_Seen], list[_Seen], list[int]]:
    """Return the lives of nodes, their times away, and the sizes of losses."""
    lives: list[_Seen] = []
    repairs: list[_Seen] = []
    sizes: list[int] = []
    since: dict[str, float] = {}
    lost = dict.fromkeys(trace.away, 0.0)
    lived: dict[str, tuple[float, bool]] = {}
    aged_away = set(trace.away)
    for batch in trace.batches():
        sizes += [len(batch.removed)] if batch.removed else []
        for node in batch.removed:
            lost[node] = batch.time_s
            before_s, aged = lived.pop(node)
            lived[node] = before_s + batch.time_s - since.pop(node), aged
            if len(batch.removed) == 1:
                lives.append(_Seen(lived[node][0], False, aged))
                lived[node] = 0.0, False
        for node in batch.added:
            since[node] = batch.time_s
            lived.setdefault(node, (0.0, batch.time_s == 0))
            if node in lost:
                repairs.append(_Seen(batch.time_s - lost.pop(node), False, node in aged_away))
                aged_away.discard(node)
    for node, (before_s, aged) in lived.items():
        lives.append(_Seen(before_s + trace.duration_s - since.get(node, trace.duration_s), True, aged))
    repairs += [_Seen(trace.duration_s - lost_s, True, node in aged_away) for node, lost_s in lost.items()]
    return lives, repairs, sizes


def _fit_shape(lives: list[_Seen], mean_s: float) -> float:
    """Fit the shape of a Weibull law of a given mean; a life that began before the trace has an equilibrium age."""

    def loss(log_shape: float) -> float:
        shape = math.exp(log_shape)
        scale_s = weibull_scale(mean_s, shape)
        # What is left of a life at any moment has a density that falls as the law's probability to last longer.
        left = gengamma(1 / shape, shape, scale=scale_s)
        return _unlikelihood(lives, weibull_min(shape, scale=scale_s), left)

    found = minimize_scalar(loss, bounds=SHAPE_BOUNDS, method="bounded")
    return four_digits(math.exp(found.x)) if found.fun + 1 < loss(0.0) else 1.0


def _fit_sigma(repairs: list[_Seen], mean_s: float) -> float | None:
    """Fit the sigma of a log-normal law of a given mean, or None where an exponential law is likelier."""

    def loss(sigma: float) -> float:
        return _unlikelihood(repairs, lognorm(sigma, scale=mean_s * math.exp(-(sigma**2) / 2)))

    found = minimize_scalar(loss, bounds=SIGMA_BOUNDS, method="bounded")
    is_likelier = found.fun + 1 < _unlikelihood(repairs, expon(scale=mean_s))
    return four_digits(float(found.x)) if is_likelier else None


def _lognormal_mean(repairs: list[_Seen]) -> float:
    """Return the mean of repairs, of which those that are cut go on as the likeliest log-normal law has it."""
    repair_s = np.maximum([repair.value for repair in repairs], SHORTEST_LIFE_S)
    logs = np.log(repair_s)

    def loss(law: Floats) -> float:
        mean, sigma = law.tolist()
        return _unlikelihood(repairs, lognorm(sigma, scale=math.exp(mean)))

    start = np.array([logs.mean(), max(0.1, logs.std())])
    mean, sigma = minimize(loss, start, method="Nelder-Mead", bounds=[(None, None), SIGMA_BOUNDS]).x
    z = (logs - mean) / sigma
    at_last_s = np.exp(mean + sigma**2 / 2 + log_ndtr(sigma - z) - log_ndtr(-z))
    return float(np.where([repair.cut for repair in repairs], at_last_s, repair_s).mean())


def _unlikelihood(draws: list[_Seen], law: Any, aged_law: Any = None) -> float:
    """Return minus the logarithm of the likelihood of draws of a law, or of another one where they are aged.

    Of a draw that is shorter than `SHORTEST_LIFE_S`, no more is known than that.
    """
    values, cut, aged = (np.array(one) for one in zip(*draws, strict=True))
    at_least = np.maximum(values, SHORTEST_LIFE_S)

    def logs(one: Any) -> Floats:
        ended = np.where(values < SHORTEST_LIFE_S, one.logcdf(at_least), one.logpdf(at_least))
        found: Floats = np.where(cut, one.logsf(at_least), ended)
        return found

    probs = logs(law) if aged_law is None else np.where(aged, logs(aged_law), logs(law))
    return -float(np.sum(np.maximum(probs, LEAST_LOG_PROB)))


def _fit_batch(sizes: list[int], num_nodes: int, alive_share: float) -> tuple[int, float]:
    """Return the nodes of a batch, and the share of its losses that look like one: those of two nodes or more."""
    if not sizes:
        return 0, 1.0
    drawn = np.arange(2, num_nodes + 1)
    only_one = drawn * alive_share * (1 - alive_share) ** (drawn - 1)
    mean = (drawn * alive_share - only_one) / (1 - (1 - alive_share) ** drawn - only_one)
    best = int(np.argmin(np.abs(mean - np.mean(sizes))))
    return int(drawn[best]), float(1 - (1 - alive_share) ** (drawn[best] - 1))


def _fitted_to(trace: Trace) -> str:
    return f"fitted to {Path(trace.name).name}" + (f" (sha256 {trace.sha256})" if trace.sha256 else "")


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
        if batch.added and batch.time_s:
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
        seen.loss_sizes.append(_Seen(len(batch.removed), took_all))
    if not took_all:
        gone = set(batch.removed)
        ages = np.array([(batch.time_s - born[node]) / tick_s + 1.0 for node in nodes])
        seen.choices.append((ages, np.array([node in gone for node in nodes])))
    for node in batch.removed:
        del born[node]


def _fit_sizes(losses: list[_Seen]) -> tuple[WeibullSpec, float]:
    """Fit the sizes of losses, of which those that took all are cut, and the probability to take all anyway."""
    if all(loss.cut for loss in losses):
        return WeibullSpec(scale=1.0, shape=1.0), float(bool(losses))
    scale, shape, *take_all_prob = _maximise(losses, float(np.mean([loss.cut for loss in losses])))
    return _weibull([scale, shape], 1.0), four_digits(math.fsum(take_all_prob))


def _fit_weibull(draws: list[_Seen], unit: float) -> WeibullSpec:
    """Fit a discrete law to draws, some of them censored."""
    return _weibull(_maximise(draws), unit) if draws else WeibullSpec(scale=unit, shape=1.0)


def _weibull(logs: Sequence[float], unit: float) -> WeibullSpec:
    scale, shape = np.exp(logs).tolist()
    return WeibullSpec(scale=four_digits(scale * unit), shape=four_digits(shape))


def _maximise(draws: list[_Seen], share: float = 0.0) -> list[float]:
    """Maximise the likelihood of ``P(X >= x) = exp(-((x - 1) / scale) ** shape)``; return the logarithms of both.

    Where `share` is above 0, from which the search starts, the third number is the probability that a draw is cut for
    another reason than its value.
    """
    values = np.array([max(1.0, draw.value) for draw in draws])
    cut = np.array([draw.cut for draw in draws])

    def loss(logs: Floats) -> float:
        scale, shape = np.exp(logs[:2])
        other = logs[2] if share else 0.0
        at_least, more = -(((values - 1) / scale) ** shape), -((values / scale) ** shape)
        exactly = at_least + np.log(np.maximum(-np.expm1(more - at_least), 1e-300))
        log_other, log_own = math.log(other) if other else -math.inf, math.log1p(-other)
        return -float(np.sum(np.where(cut, np.logaddexp(log_other, log_own + at_least), log_own + exactly)))

    start = [math.log(values.mean()), 0.0, share][: 3 if share else 2]
    bounds = [SCALE_BOUNDS, SHAPE_BOUNDS, SHARE_BOUNDS][: len(start)]
    found = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6}).x.tolist()
    return list(found)


def _fit_age_exponent(choices: list[tuple[Floats, Bools]]) -> float:
    """Maximise the likelihood of the victims; nodes of one loss leave one after the other, in any order."""

    def loss(exponent: float) -> float:
        total = 0.0
        for ages, gone in choices:
            weights = ages**exponent
            size, lost = int(gone.sum()), weights[gone].sum()
            left = weights.sum() - np.arange(size) / size * lost
            total -= float(exponent * np.log(ages[gone]).sum() - np.log(left).sum())
        return total

    bounds = (-MOST_AGE_EXPONENT, MOST_AGE_EXPONENT)
    return four_digits(float(minimize_scalar(loss, bounds=bounds, method="bounded").x)) if choices else 0.0
