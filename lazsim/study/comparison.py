"""Alternatives against each other over the same seeds: means, and how many times better one is, with intervals."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from lazsim.study.intervals import MIN_SAMPLES, Interval, mean_interval, ratio_interval

Value = float | tuple[float, float]
"""A number, or two: what was paid and what it bought, of which the rate of totals over seeds counts."""

BySeed = Mapping[Hashable, Value]
"""A value for each seed."""

Name = TypeVar("Name", bound=Hashable)


def paired_ratio(one: BySeed, other: BySeed, *, less_is_better: bool = False) -> Interval:
    """Return how many times better one total is than another over the seeds that both have, with its interval.

    Examples
    --------
    >>> paired_ratio({0: 4, 1: 8, 2: 5}, {0: 2, 1: 4}).value
    2.0
    """
    above, below = (other, one) if less_is_better else (one, other)
    seeds = common_seeds([above, below])
    return ratio_interval(values_at(above, seeds), values_at(below, seeds))


def values_at(by_seed: BySeed, seeds: Iterable[Hashable]) -> list[float]:
    """Return the value at each seed; for rates, numbers whose mean is that of totals, and varies as it does.

    Examples
    --------
    Of 6 dollars for 3 samples, 1 for 1 is half a dollar for a sample less than the rate of 2, over a mean of 1.5.

    >>> values_at({0: (1, 1), 1: (5, 2)}, [0, 1])
    [1.3333333333333335, 2.6666666666666665]
    """
    found = [by_seed[seed] for seed in seeds]
    pairs = [one for one in found if isinstance(one, tuple)]
    if not pairs:
        return [one for one in found if not isinstance(one, tuple)]
    paid, bought = (math.fsum(side) for side in zip(*pairs, strict=True))
    if not bought:
        return [math.inf] * len(pairs)
    rate, share = paid / bought, len(pairs) / bought
    # The first term of Taylor's series.
    return [rate + share * (a - rate * b) for a, b in pairs]


def mean_over_seeds(by_seed: BySeed) -> Interval:
    """Return the mean of numbers, or the rate of totals, with its interval."""
    pairs = [one for one in by_seed.values() if isinstance(one, tuple)]
    if not pairs:
        return mean_interval(values_at(by_seed, by_seed))
    above, below = zip(*pairs, strict=True)
    return ratio_interval(above, below)


def common_seeds(values: Iterable[Mapping[Hashable, Any]]) -> list[Hashable]:
    """Return the seeds that all of several have, in the order of the first."""
    first, *others = values
    return [seed for seed in first if all(seed in other for other in others)]


@dataclass(frozen=True)
class Ranked(Generic[Name]):
    """An alternative in its place among others."""

    name: Name
    num_seeds: int
    """Seeds that it has."""
    mean: Interval
    """Mean over these, with its 95 % interval."""
    behind: Interval
    """The total of the best alternative over the total of this one, at the seeds of both, with its 95 % interval; the
    other way round where less is better."""
    is_tie: bool | None
    """Whether it may be as good as the best: their values are the same, or `is_better` does not tell the best from it.
    None where there are too few seeds to tell."""
    num_common: int
    num_ahead: int
    """Seeds that it has in common with the best, and of these, where the best is better."""


def is_better(one: BySeed, other: BySeed, *, less_is_better: bool = False) -> bool | None:
    """Tell whether an alternative is better than another whatever the seeds; None where too few seeds have both.

    It is where the 95 % interval of how many times better it is lies above 1, which is where that of their difference,
    seed by seed, lies above 0; see `lazsim.study.intervals.ratio_interval`. Nothing at all is less than something, and
    what never ends costs more than what does.

    Examples
    --------
    >>> much, little = dict(enumerate([90, 100, 110, 95, 105, 100])), dict(enumerate([0, 0, 0, 0, 0, 9]))
    >>> is_better(much, little), is_better(little, much)
    (True, False)
    """
    times = paired_ratio(one, other, less_is_better=less_is_better)
    if len(common_seeds([one, other])) < MIN_SAMPLES:
        return None
    return times.value > 1 if math.isinf(times.value) else times.low > 1


def rank(
    values: Mapping[Name, BySeed], best: Name | None = None, *, less_is_better: bool = False
) -> tuple[Ranked[Name], ...]:
    """Order alternatives by what they reach of the best at the seeds of both, the best first.

    The best is the one with the greatest mean at the seeds of all, or the least where less is better, unless it is
    given. Where no seed is that of all, the means at the seeds of each decide.

    Examples
    --------
    >>> [(one.name, one.mean.value, one.behind.value) for one in rank({"a": {0: 2, 1: 4}, "b": {0: 4, 1: 8}})]
    [('b', 6.0, 1.0), ('a', 3.0, 2.0)]
    """
    means = {name: mean_over_seeds(by_seed) for name, by_seed in values.items()}
    choose = min if less_is_better else max
    shared = common_seeds(values.values())
    total = {name: math.fsum(values_at(by_seed, shared)) for name, by_seed in values.items()}
    first = choose(values, key=lambda name: total[name] if shared else means[name].value) if best is None else best
    better_by = partial(paired_ratio, less_is_better=less_is_better)
    share = {name: better_by(by_seed, values[first]).value for name, by_seed in values.items()}
    found = []
    for name in sorted(values, key=lambda name: (name != first, math.isnan(share[name]), -share[name])):
        by_seed = values[name]
        behind = better_by(values[first], by_seed)
        is_behind = values[first] != by_seed and is_better(values[first], by_seed, less_is_better=less_is_better)
        is_tie = None if is_behind is None else not is_behind
        seeds = common_seeds([values[first], by_seed])
        num_ahead = sum(better_by({seed: values[first][seed]}, {seed: by_seed[seed]}).value > 1 for seed in seeds)
        found.append(Ranked(name, len(by_seed), means[name], behind, is_tie, len(seeds), num_ahead))
    return tuple(found)


def held_out_mean(values: Mapping[Name, BySeed]) -> float:
    """Return the mean over seeds of what the alternative has at each that is best at the others.

    No seed judges what it helped to choose, which would flatter the best. NaN where fewer than two seeds are those of
    all alternatives.

    Examples
    --------
    Seeds 1 and 2 choose b, which has 1 at seed 0; the others choose a.

    >>> held_out_mean({"a": {0: 9, 1: 4, 2: 4}, "b": {0: 1, 1: 5, 2: 5}})
    3.0
    """
    seeds = common_seeds(values.values())
    if len(seeds) < 2:
        return math.nan
    kept = 0.0
    for seed in seeds:
        rest = [one for one in seeds if one != seed]
        best = max(values.values(), key=lambda by_seed: math.fsum(values_at(by_seed, rest)))
        kept += values_at(best, [seed])[0]
    return kept / len(seeds)
