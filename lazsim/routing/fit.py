"""Fit a generator of loads to a recording, and compare the two."""

import contextlib
import math
from collections.abc import Mapping

import numpy as np

from lazsim.errors import SpecError
from lazsim.placement.plan import Floats, Ints
from lazsim.routing.generator import SHAPE_SCORES, GeneratedRouting, RoutingSpec
from lazsim.routing.table import RecordedRouting, top_experts
from lazsim.units import counted, four_digits

SETTLED_SHARE = 0.04
"""Share of the recording, from its start, that is ramp and not drift."""

NUM_DRAWS = 64
"""Draws of all layers for counting the tokens that move in generated loads."""

HELD_STEPS = 50
"""Steps for which fitted loads stay the same: simulations sample them as often, however far apart records are."""

MIN_STEPS = 30
"""Fewest recorded steps of a fit."""


def log_loads(tokens_SLE: Ints) -> Floats:
    """Return log loads relative to the layer's mean; one token more for each expert keeps them finite."""
    logs = np.log(tokens_SLE + 1.0)
    centred: Floats = logs - logs.mean(axis=2, keepdims=True)
    return centred


def autocorrelation(log_load_SLE: Floats, lag: int) -> float:
    """Return the correlation of log loads with those `lag` records later, over all layers and experts; nan if even."""
    first, second = log_load_SLE[:-lag], log_load_SLE[lag:]
    scale = math.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return float((first * second).sum()) / scale if scale else math.nan


def fit_routing(routing: RecordedRouting) -> RoutingSpec:
    """Estimate the generator's parameters from a recording, by moments.

    A `SpecError` says that fewer than 30 steps were recorded or too few the same time apart, loads of a layer are
    even, or layers differ beyond the generator's.

    Notes
    -----
    Skew is each layer's root-mean-square log load after the ramp; shape is the quantiles of all log loads over their
    layer's skew. The ramp goes from the skew of the first record through that of the second. Drift is `moved_share` at
    lags up to half the recording; `_decay_for` turns it into a fall of correlation, and a least-squares fit splits that
    into two parts. The autocorrelation of log loads would be simpler, but the many experts with few tokens dominate it,
    and they move much faster than the loaded experts, for which plans are made.
    """
    from scipy.special import ndtr

    if len(routing.steps) < MIN_STEPS:
        steps = counted(len(routing.steps), "step")
        raise SpecError(f"{routing.name}: {steps} recorded; a fit needs {MIN_STEPS}")
    logs = log_loads(routing.tokens_SLE)
    settled = logs[_first_settled(len(logs)) :]
    skew_L = np.sqrt((settled**2).mean(axis=(0, 2)))
    skew, skew_spread = four_digits(float(skew_L.mean())), four_digits(float(skew_L.std()))
    if not (skew_L.min() > 0 and skew_spread < skew):
        found = f"{skew_L.min():.3g} to {skew_L.max():.3g}"
        raise SpecError(
            f"{routing.name}: log loads of a layer have standard deviations of {found}; a fit needs all above 0, and "
            "their own standard deviation below their mean"
        )
    early = np.median(logs[:2].std(axis=2), axis=1) / np.median(skew_L)
    start_share = float(np.clip(early[0], 0.0, 0.99))
    missing = float(np.clip(1 - early[1], 1e-3, 0.999)) / (1 - start_share)
    ramp_steps = int(routing.steps[1] - routing.steps[0]) / max(-math.log(min(missing, 0.999)), 1e-3)
    relative = settled / skew_L[:, None]
    shape = np.quantile(relative, ndtr(SHAPE_SCORES))
    after, gaps = routing.steps[-len(settled) :], np.diff(routing.steps)
    interval = int(np.quantile(gaps, 0.5, method="lower"))
    most_lags = (int(after[-1] - after[0]) // interval + 1) // 2
    lags = np.unique(np.geomspace(1, most_lags, 24).astype(int)) * interval
    ages = lags[[np.isin(after + lag, after).any() for lag in lags]]
    apart = f"{gaps.min()}" if gaps.min() == gaps.max() else f"{gaps.min()} to {gaps.max()}"
    if 2 * len(ages) < len(lags):
        raise SpecError(f"{routing.name}: records are {apart} steps apart; a fit needs most at multiples of {interval}")
    shares = _shares(routing.tokens_SLE[-len(settled) :])
    moved = np.array([moved_share(_pairs(shares, after, age), 1) for age in ages.tolist()])
    decay = _decay_for(moved, skew_L, shape, logs.shape[2])
    share, fast_steps, slow_steps = _fit_decay(ages, decay, interval)
    return RoutingSpec(
        name="fit",
        skew=skew,
        skew_spread=skew_spread,
        num_experts=logs.shape[2],
        shape=tuple(map(four_digits, shape.tolist())),
        start_share=four_digits(start_share),
        ramp_steps=four_digits(ramp_steps),
        fast_share=four_digits(share),
        fast_steps=four_digits(fast_steps),
        slow_steps=four_digits(slow_steps),
        interval_steps=HELD_STEPS,
        source=f"fitted to {len(routing.steps)} records of {len(skew_L)} layers, {apart} steps apart",
    )


def _first_settled(num_steps: int) -> int:
    return max(2, round(SETTLED_SHARE * num_steps))


def _pairs(values_SLE: Floats, steps: Ints, age: int) -> Floats:
    """Return the records that have another just ``age`` steps later, and those: some may be missing or closer."""
    first = np.flatnonzero(np.isin(steps + age, steps))
    return np.stack([values_SLE[first], values_SLE[np.searchsorted(steps, steps[first] + age)]])


def moved_share(share_SLE: Floats, lag: int) -> float:
    """Return the mean share of a layer's tokens that go to another expert `lag` records later.

    Examples
    --------
    >>> moved_share(np.array([[[0.75, 0.25]], [[0.25, 0.75]]]), 1)
    0.5
    """
    return float(np.abs(share_SLE[lag:] - share_SLE[:-lag]).sum(axis=-1).mean()) / 2


def _decay_for(moved: Floats, skew_L: Floats, shape: Floats, num_experts: int) -> Floats:
    """Return the fall of correlation with which generated loads move the given shares of tokens to other experts.

    There is no closed form: moves are counted on random pairs of scores ``g`` and ``(1 - d) g + sqrt(1 - (1 - d)^2) e``
    for a grid of ``d``, and interpolated. The seed is fixed.
    """
    rng = np.random.default_rng(0)
    start, change = rng.standard_normal((2, NUM_DRAWS, len(skew_L), num_experts))
    grid = np.geomspace(1e-7, 1, 36)
    pairs = (np.stack([start, (1 - d) * start + math.sqrt(1 - (1 - d) ** 2) * change]) for d in grid)
    log_pairs = (np.interp(pair, SHAPE_SCORES, shape) * skew_L[:, None] for pair in pairs)
    found = [moved_share(_shares(np.exp(logs - logs.max(axis=-1, keepdims=True))), 1) for logs in log_pairs]
    return np.exp(np.interp(moved, np.maximum.accumulate(found), np.log(grid)))


def _shares(loads: Ints | Floats) -> Floats:
    shares: Floats = loads / loads.sum(axis=-1, keepdims=True)
    return shares


def _fit_decay(ages: Floats, decay: Floats, interval: float) -> tuple[float, float, float]:
    """Return the share of the fast part, and the decay times of both parts in steps."""
    from scipy.optimize import least_squares

    def misfit(parameters: Floats) -> Floats:
        # Ratios, since the small moves over a few steps are those that outdate a plan.
        share, fast, slow = parameters
        predicted = -share * np.expm1(-ages / np.exp(fast)) - (1 - share) * np.expm1(-ages / np.exp(slow))
        residual: Floats = np.log(predicted / decay)
        return residual

    horizon = float(ages[-1])
    start = (0.1, math.log(3 * interval), math.log(2 * horizon))
    lower = (0.0, math.log(interval / 2), math.log(horizon / 10))
    upper = (0.9, math.log(max(horizon, 4 * interval)), math.log(100 * horizon))
    share, fast, slow = least_squares(misfit, start, bounds=(lower, upper)).x.tolist()
    return share, math.exp(fast), math.exp(slow)


def routing_stats(steps: Ints, tokens_SLE: Ints) -> Mapping[str, float]:
    """Describe skew and drift of loads.

    Returns
    -------
    mapping
        Medians over layers of the largest load over the mean (``max_over_mean_step_<s>``) and of the share of the two
        largest (``top2_share_step_<s>``); 10 % and 90 % quantiles of the former over layers, for all steps after the
        ramp; share of experts without a token; `moved_share` and autocorrelation of log loads at some ages in steps.
    """
    loads = _shares(tokens_SLE)
    ordered = np.sort(loads, axis=2)
    found: dict[str, float] = {}
    for step in (1, 11, 201, 501, 1001, 2001, 4001):
        if steps[0] <= step <= steps[-1]:
            row = int(np.searchsorted(steps, step, side="right")) - 1
            found[f"max_over_mean_step_{step}"] = float(np.median(ordered[row, :, -1]) * loads.shape[2])
            found[f"top2_share_step_{step}"] = float(np.median(ordered[row, :, -2:].sum(axis=1)))
    settled = _first_settled(len(loads))
    over_mean = ordered[settled:, :, -1].mean(axis=0) * loads.shape[2]
    found["max_over_mean_layers_p10"], found["max_over_mean_layers_p90"] = np.quantile(over_mean, (0.1, 0.9)).tolist()
    found["idle_expert_share"] = float((tokens_SLE[settled:] == 0).mean())
    logs = log_loads(tokens_SLE[settled:])
    steps = steps[settled:]
    for age in (50, 200, 500, 1000, 2000):
        if np.isin(steps + age, steps).any():
            found[f"share_moved_{age}_steps"] = moved_share(_pairs(loads[settled:], steps, age), 1)
            found[f"autocorrelation_{age}_steps"] = autocorrelation(_pairs(logs, steps, age), 1)
    return found


def layer_balance(routing: RecordedRouting) -> list[dict[str, float]]:
    """Describe how even the loads of each layer are, as medians over the recorded steps.

    Returns
    -------
    list
        For each layer its number in the model, tokens, largest load over the mean, share of the two largest loads, and
        share of the experts without a token.

    Examples
    --------
    >>> layer_balance(RecordedRouting(np.array([0]), np.array([[[10, 30]]])))[0]["max_over_mean"]
    1.5
    """
    tokens = routing.tokens_SLE.astype(np.float64)
    ordered = np.sort(_shares(tokens), axis=2)
    figures = {
        "tokens": tokens.sum(axis=2),
        "max_over_mean": ordered[:, :, -1] * routing.num_experts,
        "top2_share": ordered[:, :, -2:].sum(axis=2),
        "idle_expert_share": (tokens == 0).mean(axis=2),
    }
    medians = {name: np.median(values, axis=0).tolist() for name, values in figures.items()}
    return [
        {"layer": number, **{name: values[at] for name, values in medians.items()}}
        for at, number in enumerate(routing.layer_numbers)
    ]


def compare_loads(routing: RecordedRouting, spec: RoutingSpec, num_seeds: int) -> Mapping[str, Mapping[str, float]]:
    """Compare the statistics of a recording with those of generated loads of the same size.

    Returns
    -------
    mapping
        For each of `routing_stats`: ``recorded``, and ``least``, ``median`` and ``most`` over the seeds. Generated
        loads have the total tokens of the recording, so that rounding leaves equally many experts idle. The last rows
        are medians over layers and steps for a model with half of the experts, the most loaded ones.
    """
    recorded = dict(routing_stats(routing.steps, routing.tokens_SLE))
    generated = [dict(routing_stats(routing.steps, _like(routing, spec, seed))) for seed in range(num_seeds)]
    # With too few experts a layer may have no tokens at some step; then there is nothing to compare.
    with contextlib.suppress(SpecError):
        half = top_experts(routing, routing.num_layers, max(2, routing.num_experts // 2))
        recorded |= _settled_skew(half.tokens_SLE)
        for seed, stats in enumerate(generated):
            stats |= _settled_skew(_like(half, spec, seed))
    rows = {}
    for name, value in recorded.items():
        drawn = [stats[name] for stats in generated]
        rows[name] = {"recorded": value, "least": min(drawn), "median": float(np.median(drawn)), "most": max(drawn)}
    return rows


def _like(routing: RecordedRouting, spec: RoutingSpec, seed: int) -> Ints:
    """Return generated loads at the steps of a recording, with its total tokens."""
    loads = GeneratedRouting(spec, routing.num_layers, routing.num_experts, seed).loads(routing.steps)
    tokens = routing.tokens_SLE.sum(axis=2, keepdims=True)
    like: Ints = np.rint(_shares(loads) * tokens).astype(np.int64)
    return like


def _settled_skew(tokens_SLE: Ints) -> Mapping[str, float]:
    settled = tokens_SLE[_first_settled(len(tokens_SLE)) :]
    ordered = np.sort(_shares(settled), axis=2)
    num_experts = tokens_SLE.shape[2]
    return {
        f"max_over_mean_top_{num_experts}": float(np.median(ordered[:, :, -1]) * num_experts),
        f"top2_share_top_{num_experts}": float(np.median(ordered[:, :, -2:].sum(axis=2))),
    }
