"""Search for the best of alternatives under a budget of runs: race them, tune them, and make sure of the best.

An alternative is a choice and a number of steps. The caller knows what they stand for, and makes the runs.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lazsim.errors import LazsimError
from lazsim.study.advise.goal import Goal, RunRow, loses_too_much
from lazsim.study.checkpoint_interval import climb, rollback_share
from lazsim.study.comparison import (
    BySeed,
    Ranked,
    common_seeds,
    is_better,
    mean_over_seeds,
    paired_ratio,
    rank,
    values_at,
)
from lazsim.study.intervals import MIN_SAMPLES, Interval, ratio_interval

MOST_ROUNDS = 6
"""Steps of one ratio of a climb, at most: more seeds than those of a run's own search bear out an interval that is far
from Young's."""

NEAR = 2.1
"""Ratio to the best steps up to which others tell the curve through them: those that a climb tries in the end."""

CLOSE = 1.002
"""Ratio up to which alternatives are equally good to all who choose, so that no more runs tell them apart."""

DOUBT = 0.05
"""Probability with which runs that are all in time may mislead."""

OF_SAMPLES = ("samples", "goodput_samples_per_s", "done_share")
"""Columns of a run that are in proportion to the samples that it keeps."""

Choice = tuple[tuple[str, Any], ...]
"""The name of everything that may be chosen, but the steps, with the value chosen."""


class Alternative(NamedTuple):
    """A choice, and the steps between checkpoints."""

    choice: Choice
    interval_steps: int


Measure = Callable[[Sequence[tuple[Alternative, int]], Any], Sequence[RunRow | str]]
"""Makes runs of alternatives at seeds, under an assumption that is changed or None; a text says why there is no
outcome."""


@dataclass(frozen=True)
class Round:
    """A round of the race: alternatives, seeds of each, and how many were left."""

    num_alternatives: int
    num_seeds: int
    num_left: int


class Search:
    """The runs of a search: each is made once.

    Parameters
    ----------
    measure
        Makes the runs; all must meet the same chance at the same seed.
    goal
        The quantity to optimise.
    most_runs, most_seeds
        Runs, and seeds of an alternative, at most; runs may be fewer at first, for what comes later.
    """

    def __init__(self, measure: Measure, goal: Goal, most_runs: int, most_seeds: int) -> None:
        self.rows: dict[tuple[Alternative, Any], dict[int, RunRow]] = {}
        self.refused: dict[Choice, str] = {}
        self.rounds: list[Round] = []
        self.num_runs = 0
        self.goal, self.most_runs = goal, most_runs
        self.seeds = range(most_seeds)
        self._measure = measure

    @property
    def num_left(self) -> int:
        """Runs that may still be made."""
        return self.most_runs - self.num_runs

    def begin_anew(self) -> bool:
        """Go on at seeds that no run has had, and forget the others; tell whether there are enough of them.

        What a search finds at its own seeds is flattered by them.
        """
        new = range(1 + max(seed for rows in self.rows.values() for seed in rows), self.seeds.stop)
        if len(new) < MIN_SAMPLES:
            return False
        self.seeds, self.rows = new, {}
        return True

    def run(self, alternatives: Iterable[Alternative], num_seeds: int, change: Any = None) -> bool:
        """Make the runs that were not made yet, if there are enough left; tell whether there were.

        There are no more seeds of an alternative than `seeds`.
        """
        wanted = [
            (one, seed)
            # Runs at the same seed share what they find of its loads.
            for seed in self.seeds[:num_seeds]
            for one in dict.fromkeys(alternatives)
            if one.choice not in self.refused and seed not in self.rows.get((one, change), {})
        ]
        if len(wanted) > self.num_left:
            return False
        self.num_runs += len(wanted)
        for (one, seed), row in zip(wanted, self._measure(wanted, change), strict=True):
            if not isinstance(row, str):
                self.rows.setdefault((one, change), {})[seed] = row
            elif change is None:
                self.refused[one.choice] = row
        return True

    def values(self, one: Alternative, change: Any = None) -> BySeed:
        """Return the value of an alternative at each seed that it has; the worst where it misses what must be done."""
        rows = self.rows.get((one, change), {})
        if rows and self.goal.is_missed(rows.values()):
            return dict.fromkeys(rows, math.inf if self.goal.less_is_better else 0.0)
        return self.goal.values(rows)

    def better_by(
        self, better: Alternative, one: Alternative, change: Any = None, num_seeds: int | None = None
    ) -> Interval:
        """Return how many times better an alternative is than another, at the seeds of both or the first of them."""
        values = (
            dict(itertools.islice(sorted(self.values(each, change).items()), num_seeds)) for each in (better, one)
        )
        return paired_ratio(*values, less_is_better=self.goal.less_is_better)

    def is_better(self, one: Alternative, other: Alternative, change: Any = None) -> bool | None:
        """Tell whether an alternative is better than another whatever the seeds; see `comparison.is_better`."""
        values = (self.values(each, change) for each in (one, other))
        return is_better(*values, less_is_better=self.goal.less_is_better)

    def rank(self, alternatives: Iterable[Alternative], best: Alternative | None = None) -> list[Ranked[Alternative]]:
        """Order alternatives that have run; see `lazsim.study.comparison.rank`.

        Where all miss what must be done, they stand by how much of it they do, or how little they lose.
        """
        rows = {one: self.rows[one, None] for one in alternatives if (one, None) in self.rows}
        rows = {one: found for one, found in rows.items() if one.choice not in self.refused}
        if not rows:
            return []
        done = self.goal.done or (lambda row: 1 - (row.get("lost_token_share") or 0.0))
        if all(self.goal.is_missed(found.values()) for found in rows.values()):
            return list(
                rank({one: {seed: done(row) for seed, row in found.items()} for one, found in rows.items()}, best)
            )
        return list(rank({one: self.values(one) for one in rows}, best, less_is_better=self.goal.less_is_better))

    def race(self, alternatives: Sequence[Alternative]) -> list[Ranked[Alternative]]:
        """Run all at a few seeds, then those that may be the best at more; return these, the best first.

        With fewer seeds than an interval takes, the worse half goes (successive halving: Karnin, Koren and Somekh,
        ICML 2013); with more, those that are worse than the best beyond chance at the same seeds (racing: Maron and
        Moore, NIPS 1993).

        Raises
        ------
        LazsimError
            When none can run.
        """
        alive = list(alternatives)
        # Where not all get as many seeds as an interval takes, half of the runs are for later rounds.
        is_enough = MIN_SAMPLES * len(alive) <= self.most_runs
        num_seeds = MIN_SAMPLES if is_enough else max(1, self.most_runs // (2 * len(alive)))
        ranking: list[Ranked[Alternative]] = []
        while alive and num_seeds <= len(self.seeds) and self.run(alive, num_seeds):
            before = len(alive)
            ranking = self.rank(alive)
            if num_seeds < MIN_SAMPLES:
                ranking = ranking[: -(-len(ranking) // 2)]
            else:
                rows = {one: self.rows[one, None].values() for one in alive if (one, None) in self.rows}
                ranking = [one for one in ranking if one.is_tie or self.goal.is_open(rows[one.name])]
            alive = [one.name for one in ranking]
            self.rounds.append(Round(before, num_seeds, len(alive)))
            is_settled = len({one.choice for one in alive}) < 2 or all(one.behind.high < CLOSE for one in ranking)
            if is_settled and num_seeds >= MIN_SAMPLES:
                break
            num_seeds = MIN_SAMPLES if num_seeds < MIN_SAMPLES < 2 * num_seeds else 2 * num_seeds
        if not ranking:
            raise self._no_run(alternatives)
        return ranking

    def _no_run(self, alternatives: Sequence[Alternative]) -> LazsimError:
        """Return why none of some can run: those that began tell more than those that could not."""
        why = [self.refused[one.choice] for one in alternatives if one.choice in self.refused]
        return LazsimError([*why, *self.refused.values(), "no run ended well"][0])

    def tune(self, start: Alternative, most_steps: int, num_seeds: int) -> tuple[Alternative, Interval | None]:
        """Climb to the best steps of a choice; return it, and the maximum of the curve through those near it.

        One more failure goes back to a checkpoint than did; see `one_rollback_more`.
        """
        choice, sign = start.choice, -1 if self.goal.less_is_better else 1

        def values() -> dict[int, BySeed]:
            tried = self.tried(choice, num_seeds)
            return {
                one.interval_steps: self.goal.values(one_rollback_more(one.interval_steps, self.rows[one, None]))
                for one in tried
            }

        def scores(some: Iterable[int]) -> dict[int, float]:
            wanted = list(some)
            self.run([Alternative(choice, each) for each in wanted], num_seeds)
            return {
                each: -math.inf
                if loses_too_much(self.rows[Alternative(choice, each), None].values())
                else sign * mean_over_seeds(of).value
                for each, of in values().items()
                if each in wanted
            }

        steps = climb(min(start.interval_steps, most_steps), scores, most=most_steps, most_rounds=MOST_ROUNDS)
        near = {each: of for each, of in values().items() if steps / NEAR <= each <= steps * NEAR}
        found = fit_interval(near, sign)
        if found is not None:
            steps = max(min(near), min(max(near), round(found.value)))
            if steps != round(found.value) and not found.low <= steps <= found.high:
                # The curve is highest beyond what was tried, of which it knows nothing.
                found = None
        tuned = Alternative(choice, steps)
        self.run([tuned], num_seeds)
        tried = self.tried(choice, num_seeds)
        fine = {steps: of for steps, of in values().items() if not self.is_missed(Alternative(choice, steps))}
        if not fine:
            return self.rank(tried)[0].name if tried else tuned, None
        less = self.goal.less_is_better
        best_tried = rank(fine, less_is_better=less)[0].name
        # The curve knows more than the best of a few runs, unless the runs say otherwise beyond chance.
        if steps not in fine or is_better(fine[best_tried], fine[steps], less_is_better=less):
            return Alternative(choice, best_tried), None
        return tuned, found and no_surer(found, self._num_rollbacks(tuned))

    def tried(self, choice: Choice, num_seeds: int = 1) -> list[Alternative]:
        """Return the alternatives of a choice with runs at `num_seeds` seeds or more, by interval."""
        found = (one for (one, change), rows in self.rows.items() if change is None and len(rows) >= num_seeds)
        return sorted(one for one in found if one.choice == choice and choice not in self.refused)

    def has_gone_back(self, choice: Choice) -> bool:
        """Tell whether a failure of some run of a choice went back to a checkpoint on storage."""
        return any(self._num_rollbacks(one) for one in self.tried(choice))

    def _num_rollbacks(self, one: Alternative) -> int:
        return sum(row["num_rollbacks"] for row in self.rows[one, None].values())

    def is_missed(self, one: Alternative) -> bool:
        """Tell whether an alternative has no runs, or they miss what must be done."""
        rows = self.rows.get((one, None), {}).values()
        return not rows or one.choice in self.refused or self.goal.is_missed(rows)

    def better_first(self, ordered: Sequence[Alternative]) -> list[Alternative]:
        """Return some with the best of those in front that are better than the first beyond chance, if any is."""
        fine = [one for one in ordered if not self.is_missed(one)]
        better = [one for one in fine if ordered[0] in fine and self.is_better(one, ordered[0])]
        first = self.rank(better)[0].name if better else ordered[0]
        return [first, *(one for one in ordered if one != first)]

    def make_sure(self, ordered: Sequence[Alternative]) -> Alternative:
        """Return the first of some that does what must be done, at enough seeds to bear out its probability.

        Where ``n`` runs of ``n`` do what must be done, a probability below ``DOUBT ** (1 / n)`` is ruled out. One that
        its runs rule out gets no more of them. Where all miss it, it is the one that does most of it.
        """
        is_due = self.goal.done is not None
        enough = min(len(self.seeds), math.ceil(math.log(DOUBT) / math.log(self.goal.least_prob))) if is_due else 0
        for one in ordered:
            rows = self.rows.get((one, None), {})
            num = len(rows)
            while 0 < num < enough and self.goal.in_time(rows.values()).high >= self.goal.least_prob:
                num = min(2 * num, enough)
                self.run([one], min(num, len(rows) + self.num_left))
            if not self.is_missed(one):
                return one
        if not (ranking := self.rank(ordered)):
            raise self._no_run(ordered)
        return ranking[0].name


def one_rollback_more(interval_steps: int, rows: Mapping[int, RunRow]) -> dict[int, RunRow]:
    """Return runs as if one more failure, at a random instant of one of them, had gone back to a checkpoint.

    Of intervals that few such failures have tested, some lose little by luck; where none has, to save never would be
    best, and lose all at other seeds. `lazsim.study.checkpoint_interval` does the same.

    Examples
    --------
    Two runs of 50 steps each lose a hundredth of their samples, that is one step in all.

    >>> one_rollback_more(2, {0: {"steps": 50, "samples": 500}, 1: {"steps": 50, "samples": 500}})[0]["samples"]
    495.0
    """
    kept = {seed: 1 - rollback_share(interval_steps, row["steps"]) / len(rows) for seed, row in rows.items()}
    return {
        seed: {**row, **{name: row[name] * kept[seed] for name in OF_SAMPLES if name in row}}
        for seed, row in rows.items()
    }


def no_surer(interval: Interval, num_rollbacks: int) -> Interval:
    """Return the interval of the best steps, no narrower than that of the rate of the rollbacks in the runs allows.

    Notes
    -----
    The best steps go with the root of the time between rollbacks (Young). With `num_rollbacks` of them in a time, their
    rate follows a gamma distribution if all rates were as likely before (Gelman et al., Bayesian Data Analysis, 3rd
    ed., section 2.6), with the mean of one rollback more; see `one_rollback_more`. Seeds that have none are all alike.

    Examples
    --------
    >>> [round(bound, 2) for bound in no_surer(Interval(1.0, 1.0, 1.0), 0)]
    [1.0, 0.52, 6.28]
    >>> [round(bound, 2) for bound in no_surer(Interval(1.0, 0.8, 1.1), 250)]
    [1.0, 0.8, 1.1]
    """
    from scipy.special import gammaincinv

    num = num_rollbacks + 1
    low, high = interval.value * np.sqrt(num / gammaincinv(num, [0.975, 0.025]))
    # Fewer seeds than have an interval bear out none.
    return Interval(interval.value, *map(float, (np.minimum(interval.low, low), np.maximum(interval.high, high))))


def fit_interval(values: Mapping[int, BySeed], sign: int = 1) -> Interval | None:
    """Return where a value is greatest over the steps between checkpoints, with its 95 % interval over seeds.

    Parameters
    ----------
    values
        The value at each seed, by steps between checkpoints, such as samples trained; seeds that not all have are left
        out.
    sign
        -1 where it is to be the least.

    Returns
    -------
    Interval or None
        Steps, not a whole number; None where fewer than three intervals were tried, one of them trains nothing, or the
        value has no maximum between a save too many and too much work lost.

    Notes
    -----
    Saves cost a share of the time that falls with the interval ``n``, and lost work one that grows with it: ``value = c
    - a / n - b n``, fitted by least squares, is greatest at ``sqrt(a / b)`` (Young, Communications of the ACM 17 (1974)
    530). All runs together tell the maximum far more closely than the best of them does. Fitted from half to twice the
    interval, it is up to 2 % short where a save takes a twentieth of the time between failures, by the higher orders.

    Examples
    --------
    >>> round(fit_interval({n: {0: 100 - 64 / n - n} for n in (4, 8, 16)}).value, 6)
    8.0
    """
    if len(values) < 3:
        return None
    seeds = common_seeds(values.values())
    if not seeds:
        return None
    centre = math.exp(math.fsum(map(math.log, values)) / len(values))
    share_I = np.array(list(values)) / centre
    value_IS = sign * np.array([values_at(by_seed, seeds) for by_seed in values.values()])
    terms = np.stack([-1 / share_I, -share_I, np.ones(len(share_I))], axis=1)
    save_S, lost_S, _ = np.linalg.pinv(terms) @ value_IS
    if not (np.isfinite(value_IS).all() and save_S.sum() > 0 and lost_S.sum() > 0):
        return None
    return Interval(*(centre * math.sqrt(bound) for bound in ratio_interval(list(save_S), list(lost_S))))
