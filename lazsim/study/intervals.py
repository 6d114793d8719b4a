"""95 % intervals of means and of ratios over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MIN_SAMPLES = 6
"""Fewest samples that get an interval: between the least and the greatest of ``n`` samples lies the median with a
probability of ``1 - 2**(1 - n)``, which is 95 % or more from 6 on, whatever the distribution (Hoefler and Belli,
Scientific Benchmarking of Parallel Computing Systems, SC 2015). Fewer samples cannot bear out the normal distribution
that Student's t assumes, either."""


FEW_FAILURES = 10
"""Failures at random over all seeds below which Student's t holds the mean too seldom: where each costs an exponential
time, 95 % intervals of 6 to 30 seeds hold it with 88 to 90 % for 10 failures on average, 83 for 5 and 52 for 1."""

MOST_NAMED = 3
"""Runs that a note names."""


class Interval(NamedTuple):
    """A value and its 95 % interval, NaN where there are fewer samples than `MIN_SAMPLES`."""

    value: float
    low: float
    high: float

    def named(self, what: str, value: str = "") -> dict[str, float]:
        """Return plain data: the value under a name, such as that of a ``_mean``, and its bounds."""
        return {f"{what}{value}": self.value, f"{what}_ci_low": self.low, f"{what}_ci_high": self.high}


def mean_interval(values: Iterable[float], most: float = math.inf) -> Interval:
    """Return the mean and its 95 % interval, by Student's t.

    No bound is below 0 where no value is, nor above the `most` that a value can be.

    Examples
    --------
    >>> [round(bound, 3) for bound in mean_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]
    [3.5, 1.537, 5.463]
    >>> [round(bound, 3) for bound in mean_interval([0.8, 0.9, 1.0, 1.0, 1.0, 1.0], most=1.0)]
    [0.95, 0.862, 1.0]
    >>> mean_interval([1.0, 2.0])
    Interval(value=1.5, low=nan, high=nan)
    """
    from scipy.special import stdtrit

    found = list(values)
    if not found:
        return Interval(math.nan, math.nan, math.nan)
    mean = math.fsum(found) / len(found)
    if len(found) < MIN_SAMPLES:
        return Interval(mean, math.nan, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
    half = float(stdtrit(len(found) - 1, 0.975)) * math.sqrt(variance / len(found))
    return Interval(mean, mean - half if min(found) < 0 else max(mean - half, 0.0), min(mean + half, most))


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the ratio of two sums over the same seeds, and its 95 % interval.

    Notes
    -----
    Fieller's theorem (Supplement to the Journal of the Royal Statistical Society 7 (1940) 1): a ratio ``r`` is in the
    interval where that of the mean of ``a - r b``, by Student's t, holds 0. It holds 1 where that of the difference
    holds 0; bounds turn round with the ratio; and there is no upper one where the sum below may be as good as 0.
    Effects of a seed on both alike, such as a failure that hits everyone early, cancel.

    Examples
    --------
    >>> ratio_interval([2, 4, 6, 2, 4, 6], [1, 2, 3, 1, 2, 3])
    Interval(value=2.0, low=2.0, high=2.0)
    >>> [round(bound, 2) for bound in ratio_interval([9, 11, 9, 11, 9, 11], [0, 0, 2, 0, 0, 4])]
    [10.0, 3.68, inf]
    """
    if not any(below):
        return Interval(math.inf if any(above) else math.nan, math.nan, math.nan)
    ratio = math.fsum(above) / math.fsum(below)
    if len(above) < MIN_SAMPLES or not math.isfinite(ratio):
        return Interval(ratio, math.nan, math.nan)
    if not ratio:
        return Interval(0.0, 0.0, 0.0)
    return Interval(ratio, ratio / _most_times(below, above), ratio * _most_times(above, below))


def _most_times(above: Sequence[float], below: Sequence[float]) -> float:
    """Return how many times itself a ratio of sums may be."""
    from scipy.special import stdtrit

    num, sums = len(above), (math.fsum(above), math.fsum(below))
    # Both with a mean of 1: the ratio is one more than the greater root `d` of `d^2 = xx - 2 d xy + d^2 yy`.
    pairs = [(num * a / sums[0], num * b / sums[1]) for a, b in zip(above, below, strict=True)]
    share = float(stdtrit(num - 1, 0.975)) ** 2 / num / (num - 1)
    xx = share * math.fsum((a - b) ** 2 for a, b in pairs)
    xy = share * math.fsum((a - b) * (b - 1) for a, b in pairs)
    yy = share * math.fsum((b - 1) ** 2 for _, b in pairs)
    return 1 + (math.sqrt(xy * xy + xx * (1 - yy)) - xy) / (1 - yy) if yy < 1 else math.inf


def few_failures_note(failures: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Say whose intervals rest on few failures, given those of each seed; none where every seed has the same.

    Examples
    --------
    >>> few_failures_note({"ds": [0, 0, 1, 0, 0, 0], "lazarus": [3, 4, 5, 4, 3, 1], "one failure each": [1] * 6})
    ('failures over all seeds of ds: 1; 95 % intervals may be too narrow with fewer than 10: give more seeds or time',)
    """
    few = [
        f"{name}: {sum(counts)}"
        for name, counts in failures.items()
        if len(counts) >= MIN_SAMPLES and sum(counts) < FEW_FAILURES and (len(set(counts)) > 1 or not any(counts))
    ]
    if not few:
        return ()
    named = ", ".join(few[:MOST_NAMED]) + (f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else "")
    what = f"95 % intervals may be too narrow with fewer than {FEW_FAILURES}: give more seeds or time"
    return (f"failures over all seeds of {named}; {what}",)


def share_interval(num: int, num_all: int) -> Interval:
    """Return a share, and its interval by Clopper and Pearson; see `lazsim.reliability.montecarlo.korn_graubard`.

    Examples
    --------
    Six of six bear out no more than 54 %, ``0.025 ** (1 / 6)``.

    >>> [round(bound, 3) for bound in share_interval(6, 6)]
    [1.0, 0.541, 1.0]
    """
    import numpy as np

    from lazsim.reliability.montecarlo import Moments, korn_graubard

    share = np.array([num / num_all])
    found = korn_graubard(Moments(num_all, share, share * (1 - share)))
    return Interval(*(float(bound[0]) for bound in found))
