"""Goals: a quantity to optimise, and what must be done beside it."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazsim.errors import SpecError
from lazsim.scenario import Scenario
from lazsim.study.comparison import BySeed, Value
from lazsim.study.deadline import Due, parse_due
from lazsim.study.intervals import Interval, share_interval
from lazsim.units import divide

GOALS = ("goodput", "cost", "deadline")

COSTS = {"cost_usd": ("$", ",.2f"), "node_hours_held": ("node-hours", ",.1f")}
"""Columns of a cost, how it is called, and its format."""

RunRow = Mapping[str, Any]
"""The outcome of a run."""


@dataclass(frozen=True)
class Goal:
    """A quantity to optimise, and how people name it."""

    name: str
    heading: str
    format: str
    """Heading of what is shown, and its format."""
    value: Callable[[RunRow], Value]
    """From a row; the more the better, but where `less_is_better`."""
    less_is_better: bool = False
    done: Callable[[RunRow], float] | None = None
    """From a row to the part that is done in time of what must be, 1 for all of it; None where nothing must be."""
    least_prob: float = 0.0
    """Probability with which all of it must be done: alternatives with less are worse than all others."""

    def values(self, rows: Mapping[int, RunRow]) -> BySeed:
        """Return the value at each seed."""
        return {seed: self.value(row) for seed, row in rows.items()}

    def in_time(self, rows: Iterable[RunRow]) -> Interval:
        """Return the share of runs that do in time what must be done."""
        are_done = [self.done is None or self.done(row) >= 1 for row in rows]
        return share_interval(sum(are_done), len(are_done))

    def is_late(self, rows: Iterable[RunRow]) -> bool:
        """Whether too few runs do in time what must be done."""
        return self.done is not None and self.in_time(rows).value < self.least_prob

    def is_open(self, rows: Collection[RunRow]) -> bool:
        """Whether runs are late, but do not rule out that enough of all are in time."""
        return self.is_late(rows) and self.in_time(rows).high >= self.least_prob

    def is_missed(self, rows: Collection[RunRow]) -> bool:
        """Whether runs are late, or lose more updates than they may."""
        return self.is_late(rows) or loses_too_much(rows)


def loses_too_much(rows: Iterable[RunRow]) -> bool:
    """Tell whether runs lose a larger share of the updates of tokens than their system may, in the mean."""
    excess = [(row.get("lost_token_share") or 0.0) - row.get("most_lost_tokens", 1.0) for row in rows]
    return math.fsum(excess) > 0


GOODPUT = Goal("goodput", "samples/s", ".2f", lambda row: row["goodput_samples_per_s"])


def parse_goal(
    goal: str, work: Any, in_time_prob: float, on_demand_usd: float | None, scenario: Scenario
) -> tuple[str, Due | None]:
    """Return the name of a goal, and the work that is due where it is a deadline."""
    name, equals, deadline = goal.partition("=")
    if name not in GOALS or bool(equals) != (name == "deadline"):
        raise SpecError(f"`goal` {goal}: give goodput, cost, or deadline=TIME, as deadline=80h")
    if not equals:
        if work is not None:
            raise SpecError("`work` is due after a time: give `goal` deadline=TIME, too")
        return name, None
    if work is None:
        raise SpecError(f"`goal` {goal}: give the `work` that is due, too, as 64h")
    if scenario.duration_s is not None:
        raise SpecError("`duration`: a run with a deadline lasts until then; leave it out")
    if not 0.5 <= in_time_prob < 1:
        raise SpecError(f"`in_time_prob` {in_time_prob:g}: give 0.5 or more, and less than 1")
    return name, parse_due(work, deadline, on_demand_usd, scenario)


def find_goal(name: str, in_time_prob: float, scenarios: Sequence[Scenario]) -> Goal:
    """Return the goal of a name; costs are in node-hours where no price is known."""
    if name == "goodput":
        return GOODPUT
    priced = {one.prices() is not None for one in scenarios}
    if len(priced) > 1:
        raise SpecError("`price`: only some of the nodes have one; give it, too")
    column = "cost_usd" if priced == {True} else "node_hours_held"
    unit, form = COSTS[column]
    if name == "cost":
        unit = f"{unit}/M samples"
        return Goal(name, unit, form, lambda row: (1e6 * row[column], row["samples"]), less_is_better=True)
    return Goal(
        name, f"{unit} for the work", form, lambda row: divide(row[column], row["done_share"], math.inf),
        less_is_better=True, done=lambda row: float(row["done_share"]), least_prob=in_time_prob,
    )  # fmt: skip
