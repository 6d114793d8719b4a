"""Fit a generator of loads to a recording, and hold one against the other."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lazsim.errors import RoutingFormatError
from lazsim.routing.generator import GeneratedRouting, RoutingSpec
from lazsim.routing.table import Ints, RecordedRouting

Floats = npt.NDArray[np.float64]

SETTLED_SHARE = 0.04
"""Share of the recording, from its start, that counts as ramp and not as drift."""

MIN_STEPS = 30
"""Recorded steps without which no autocorrelation can be told."""


def log_loads(tokens_SLE: Ints) -> Floats:
    """Return log loads relative to the layer's mean, with one token added to each expert so that none is infinite."""
    logs = np.log(tokens_SLE + 1.0)
    centred: Floats = logs - logs.mean(axis=2, keepdims=True)
    return centred


def autocorrelation(log_load_SLE: Floats, lag: int) -> float:
    """Return the correlation of log loads with those so many records later, over all layers and experts."""
    first, second = log_load_SLE[:-lag], log_load_SLE[lag:]
    return float((first * second).sum() / math.sqrt((first**2).sum() * (second**2).sum()))


def fit_routing(routing: RecordedRouting) -> RoutingSpec:
    """Estimate the generator's parameters from a recording, by moments.

    Raises
    ------
    RoutingFormatError
        When fewer than 30 steps were recorded.

    Notes
    -----
    Skew is each layer's root-mean-square log load after the ramp. The ramp goes from the first record's skew through
    the second's. The two parts' share and times are a least-squares fit to the autocorrelation at lags up to half the
    recording, after ``2 sin(pi r / 6)`` turns that of uniform margins into that of the Gaussian process beneath.
    """
    from scipy.optimize import least_squares

    if len(routing.steps) < MIN_STEPS:
        raise RoutingFormatError(f"{routing.name}: {len(routing.steps)} steps recorded; a fit needs {MIN_STEPS}")
    logs = log_loads(routing.tokens_SLE)
    settled = logs[max(2, round(SETTLED_SHARE * len(logs))) :]
    skew_L = np.sqrt((settled**2).mean(axis=(0, 2)))
    early = np.median(logs[:2].std(axis=2), axis=1) / np.median(skew_L)
    interval = float(np.median(np.diff(routing.steps)))
    start_share = float(np.clip(early[0], 0.0, 0.99))
    missing = float(np.clip(1 - early[1], 1e-3, 0.999)) / (1 - start_share)
    ramp_steps = interval / max(-math.log(min(missing, 0.999)), 1e-3)
    lags = np.unique(np.geomspace(1, len(settled) // 2, 24).astype(int))
    measured = 2 * np.sin(np.pi * np.array([autocorrelation(settled, lag) for lag in lags.tolist()]) / 6)
    ages = lags * interval

    def misfit(parameters: Floats) -> Floats:
        share, fast, slow = parameters
        predicted = share * np.exp(-ages / np.exp(fast)) + (1 - share) * np.exp(-ages / np.exp(slow))
        residual: Floats = predicted - measured
        return residual

    horizon = float(ages[-1])
    start = (0.1, math.log(3 * interval), math.log(2 * horizon))
    lower = (0.0, math.log(interval / 2), math.log(horizon / 10))
    upper = (0.9, math.log(max(horizon, 4 * interval)), math.log(100 * horizon))
    share, fast, slow = least_squares(misfit, start, bounds=(lower, upper)).x.tolist()
    return RoutingSpec(
        name="fit",
        skew=_rounded(float(skew_L.mean())),
        skew_spread=_rounded(float(skew_L.std())),
        start_share=_rounded(start_share),
        ramp_steps=_rounded(ramp_steps),
        fast_share=_rounded(share),
        fast_steps=_rounded(math.exp(fast)),
        slow_steps=_rounded(math.exp(slow)),
        interval_steps=50,
        source=f"fitted to {len(routing.steps)} recorded steps of {len(skew_L)} layers",
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def routing_stats(steps: Ints, tokens_SLE: Ints) -> Mapping[str, float]:
    """Describe skew and drift of loads on an even grid of steps.

    Returns
    -------
    mapping
        Medians over layers of the fullest expert's load over the mean (``max_over_mean_step_<s>``) and of the share of
        the two fullest (``top2_share_step_<s>``); 10 % and 90 % quantiles over layers of the former over all steps
        after the start; autocorrelation of log loads at some ages in steps; share of experts without a token.
    """
    loads = tokens_SLE / tokens_SLE.sum(axis=2, keepdims=True)
    ordered = np.sort(loads, axis=2)
    found: dict[str, float] = {}
    for step in (1, 11, 201, 501, 1001, 2001, 4001):
        if steps[0] <= step <= steps[-1]:
            row = int(np.searchsorted(steps, step, side="right")) - 1
            found[f"max_over_mean_step_{step}"] = float(np.median(ordered[row, :, -1]) * loads.shape[2])
            found[f"top2_share_step_{step}"] = float(np.median(ordered[row, :, -2:].sum(axis=1)))
    settled = max(2, round(SETTLED_SHARE * len(loads)))
    over_mean = ordered[settled:, :, -1].mean(axis=0) * loads.shape[2]
    found["max_over_mean_layers_p10"], found["max_over_mean_layers_p90"] = np.quantile(over_mean, (0.1, 0.9)).tolist()
    found["idle_expert_share"] = float((tokens_SLE[settled:] == 0).mean())
    logs = log_loads(tokens_SLE[settled:])
    interval = int(np.median(np.diff(steps)))
    for age in (50, 100, 500, 1000, 2000):
        if age % interval == 0 and age // interval < len(logs):
            found[f"autocorrelation_{age}_steps"] = autocorrelation(logs, age // interval)
    return found


def compare(routing: RecordedRouting, spec: RoutingSpec, num_seeds: int) -> Mapping[str, Mapping[str, float]]:
    """Hold statistics of a recording against those of generated loads of the same size, over some seeds.

    Returns
    -------
    mapping
        For each of `routing_stats`: ``recorded``, and ``least``, ``median`` and ``most`` over the seeds. Generated
        loads are counted in as many tokens as the recording has, so that experts are as often idle by rounding.
    """
    _, num_layers, num_experts = routing.tokens_SLE.shape
    tokens = routing.tokens_SLE.sum(axis=2)
    generated = []
    for seed in range(num_seeds):
        loads = GeneratedRouting(spec, num_layers, num_experts, seed).loads(routing.steps)
        shares = loads / loads.sum(axis=2, keepdims=True)
        generated.append(routing_stats(routing.steps, np.rint(shares * tokens[:, :, None]).astype(np.int64)))
    rows = {}
    for name, value in routing_stats(routing.steps, routing.tokens_SLE).items():
        drawn = [stats[name] for stats in generated]
        rows[name] = {"recorded": value, "least": min(drawn), "median": float(np.median(drawn)), "most": max(drawn)}
    return rows
