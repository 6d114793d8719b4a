"""Advice: the best, what cannot be told from it, and what would change that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazsim.scenario import Scenario
from lazsim.study.advise.formulas import Formulas, Start
from lazsim.study.advise.goal import Goal, RunRow, loses_too_much
from lazsim.study.advise.search import Alternative, Choice, Round
from lazsim.study.comparison import Ranked
from lazsim.study.intervals import Interval, mean_interval


@dataclass(frozen=True)
class Off:
    """The cost of being one step off in one choice: the best over this, at the same seeds."""

    what: str
    alternative: Alternative
    behind: Interval

    @property
    def is_tie(self) -> bool | None:
        """Whether it may cost nothing, or gain nothing; None where too few seeds tell."""
        return None if math.isnan(self.behind.low) else self.behind.low <= 1 <= self.behind.high


@dataclass(frozen=True)
class Turn:
    """An assumption that changes the advice: multiplied by a factor, it makes another alternative better.

    `gain` is the value of that over the value of the best, both with the changed assumption.
    """

    assumption: str
    factor: float
    alternative: Alternative
    gain: Interval


@dataclass(frozen=True)
class Turns:
    """Assumptions that change the advice, how many were halved and raised by half, and why not more."""

    found: tuple[Turn, ...]
    num_changed: int
    why_not: str = ""


@dataclass(frozen=True)
class Advice:
    """The advice, and what it rests on."""

    goal: Goal
    best: Alternative
    ranking: tuple[Ranked[Alternative], ...]
    """Every choice at its best interval of those tried, or that given, the best first."""
    formulas: Formulas
    """The interval beside those of Young and Daly."""
    off: tuple[Off, ...]
    turns: Turns
    curves: Mapping[Choice, Mapping[int, Interval]]
    """For each choice that was tuned, the value with its interval by steps between checkpoints."""
    starts: Mapping[Choice, Start]
    """Seconds of a step, of a save and between failures, by choice."""
    rows: Mapping[Alternative, Sequence[RunRow]]
    """The runs of each alternative of the ranking, and of those beside the best, as those of a sweep."""
    rounds: tuple[Round, ...]
    """Rounds of the race."""
    num_runs: int
    refused: Mapping[Choice, str]
    """Choices that cannot run, with the reason."""
    scenario: Scenario
    """The first run of the best setting."""
    notes: tuple[str, ...]
    is_interval_given: bool
    """Whether the interval was none to be found."""

    @property
    def ties(self) -> tuple[Ranked[Alternative], ...]:
        """The choices that cannot be told from the best."""
        return tuple(one for one in self.ranking[1:] if one.is_tie)

    @property
    def better_beside(self) -> tuple[Off, ...]:
        """What is better than the best beyond chance; that an interval is may be luck where the best was looked for."""
        told = (one for one in self.off if self.is_interval_given or one.alternative.choice != self.best.choice)
        return tuple(one for one in told if one.behind.high < 1)

    def mean(self, column: str, most: float = math.inf, of: Alternative | None = None) -> Interval:
        """Return the mean of a column, which is `most` at most, over the runs of the best setting or of another."""
        return mean_interval((float(row.get(column) or 0.0) for row in self.rows[of or self.best]), most)

    def fault(self, one: Alternative) -> str:
        """Say why an alternative of the ranking will not do; empty where it will."""
        if loses_too_much(self.rows[one]):
            return "loses updates"
        return "late" if self.goal.is_late(self.rows[one]) else ""

    def is_raced(self, one: Alternative) -> bool:
        """Tell whether an interval is the best of a few that raced, as none was given, and its choice was not tuned."""
        return not self.is_interval_given and one.interval_steps > 0 and one.choice not in self.curves

    def layout(self, one: Alternative) -> str | None:
        """Return the layout with which the steps of an alternative that has runs are computed, if any."""
        layout: str | None = self.rows[one][0].get("layout")
        return layout

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim advise --json`` prints."""

        def describe(one: Alternative) -> dict[str, Any]:
            steps = {"interval_steps": one.interval_steps, "interval_s": self.seconds(one)}
            return {**dict(one.choice), **steps, "layout": self.layout(one)}

        def ranked(one: Ranked[Alternative]) -> dict[str, Any]:
            measured = {**one.mean.named("value"), **one.behind.named("behind")}
            if self.goal.done is not None:
                measured |= self.goal.in_time(self.rows[one.name]).named("in_time_prob")
                measured["misses_deadline"] = self.goal.is_late(self.rows[one.name])
            if loses_too_much(self.rows[one.name]):
                measured["loses_too_many_updates"] = True
            known = {"is_tie": one.is_tie, "is_interval_raced": self.is_raced(one.name)}
            return {**describe(one.name), "num_seeds": one.num_seeds, **measured, **known}

        of_best = {name: self.mean(name).value for name in ("goodput_samples_per_s", "ettr")}
        formulas = {**vars(self.formulas), "found_s": self.formulas.found_s.value, "reasons": self.formulas.reasons}
        least = {"least_in_time_prob": self.goal.least_prob} if self.goal.done is not None else {}
        return {
            "goal": self.goal.name,
            "unit": self.goal.heading,
            **least,
            "best": ranked(self.ranking[0]) | of_best,
            "ties": [ranked(one) for one in self.ties],
            "evidence": {
                "ranking": [ranked(one) for one in self.ranking],
                "off": [
                    {"what": one.what, **describe(one.alternative), **one.behind.named("behind"), "is_tie": one.is_tie}
                    for one in self.off
                ],
                "interval": formulas | dict(zip(("low_s", "high_s"), self.formulas.found_s[1:], strict=True)),
                "num_assumptions": self.turns.num_changed,
                "turns": [
                    {"assumption": one.assumption, "factor": one.factor}
                    | {**describe(one.alternative), **one.gain.named("gain")}
                    for one in self.turns.found
                ],
                "rounds": [vars(one) for one in self.rounds],
                "num_runs": self.num_runs,
                "refused": [{**dict(choice), "reason": reason} for choice, reason in self.refused.items()],
            },
            "inputs": dict(self.scenario.inputs),
            "notes": list(self.notes),
        }

    def seconds(self, one: Alternative) -> float:
        """Return the interval of an alternative in seconds of training on all nodes."""
        return one.interval_steps * self.starts[one.choice].step_s
