"""Measurements within a budget of time, required and small ones first, each repeated as far as there is time."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lazsim.costmodel.profile import ProfilePoint
from lazsim.errors import LazsimError
from lazsim.pytorch.device import is_out_of_memory, release_memory

NUM_PASSES = 3
"""Passes through all points, as far as there is time: the speed of a shared machine changes."""

MAX_RESERVE = 0.85
"""Share of the time left that may be kept for later points; the rest sharpens the medians of all."""

TOLERANCE = 0.2
"""Share by which a prediction may exceed the budget before it counts: predictions are rough."""

TRUST_S = 1.0
"""Seconds at the predicted pace that count as seen already, so that a stall in the first points does not slow all."""

FEWEST_RUNS = 4
"""Runs that any point takes at least: a warm-up and three repetitions."""

ProgressBar = Callable[[Iterable[str]], Iterable[str]]
"""A progress bar: passes names through."""


@dataclass(frozen=True)
class Measurement:
    """A point to be measured."""

    kernel: str
    size: int
    num_ranks: int
    predict_s: Callable[[Sequence[ProfilePoint]], float]
    """Seconds of one run, given the points of the kernel so far."""
    measure: Callable[[float], ProfilePoint]
    """Measures until a time on the monotonic clock; it takes longer only where the fewest runs do."""
    skip_reason: Callable[[], str | None] = lambda: None
    """Why it cannot be measured now, if so."""
    fixed_s: float = 0.0
    """Seconds before the first run."""
    fewest_runs: int = FEWEST_RUNS
    prepare: Callable[[], object] = lambda: None
    """Preparations that say nothing about the time of the points, such as loading the kernel."""
    name: str = ""
    """What it is called where kernel and size do not tell."""
    is_required: bool = False
    """Whether nothing can be said without it."""
    purpose: Any = None
    """What its time is for, where kernel and size do not tell."""

    @property
    def label(self) -> str:
        """Name in a progress bar."""
        return self.name or f"{self.kernel} {self.size}"

    def least_s(self, points: Sequence[ProfilePoint]) -> float:
        """Predict the least that it takes, given the points of its kernel so far."""
        return self.fixed_s + self.fewest_runs * self.predict_s(points)

    @property
    def key(self) -> tuple[str, int, float]:
        """Identity of the point in a profile."""
        return self.kernel, self.num_ranks, float(self.size)


def in_proportion(size: int, num_ranks: int = 1) -> Callable[[Sequence[ProfilePoint]], float]:
    """Predict the time of a size from the last point of as many ranks, in proportion; 0 where there is none."""

    def predict_s(points: Sequence[ProfilePoint]) -> float:
        same = [point for point in points if point.num_ranks == num_ranks]
        return same[-1].time_s * size / same[-1].size if same else 0.0

    return predict_s


@dataclass
class Scheduler:
    """Measures within a budget from `begin_s` on the monotonic clock; times are predicted from all points so far.

    Measuring took `wall_s` where the points say `told_s`: other programs use the machine too.
    """

    device: str
    budget_s: float
    begin_s: float = field(default_factory=time.monotonic)
    points: dict[tuple[str, int, float], ProfilePoint] = field(default_factory=dict)
    """The fastest of each kernel, number of ranks and size: other work on the machine only adds time."""
    wall_s: float = 0.0
    told_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return max(self.begin_s + self.budget_s - time.monotonic(), 0.0)

    @property
    def pace(self) -> float:
        """Wall seconds for each predicted second.

        Examples
        --------
        >>> Scheduler("cpu", 60.0, wall_s=9.0, told_s=3.0).pace
        2.5
        """
        return max(1.0, (TRUST_S + self.wall_s) / (TRUST_S + self.told_s))

    def run(
        self,
        measurements: Sequence[Measurement],
        keep: Callable[[Measurement, ProfilePoint], None],
        progress: ProgressBar = iter,
    ) -> list[tuple[Measurement, str]]:
        """Measure all once, then those that could be measured again as far as there is time.

        Return those that were skipped, and why: ``budget``, ``memory``, or the reason that they give. A required one
        that does not fit into memory or budget is an error.
        """
        turns = list(measurements) * NUM_PASSES
        skipped: dict[int, str] = {}
        for (turn, one), _ in zip(enumerate(turns), progress([one.label for one in turns]), strict=False):
            index, is_first = turn % len(measurements), turn < len(measurements)
            if index in skipped:
                continue
            if is_first:
                self._require_time([one for one in turns[turn : len(measurements)] if one.is_required])
            reason = self._measure(one, turns[turn:], keep, is_required=is_first and one.is_required)
            if is_first and reason is not None:
                skipped[index] = reason
        return [(measurements[index], reason) for index, reason in skipped.items()]

    def _measure(
        self,
        one: Measurement,
        turns: Sequence[Measurement],
        keep: Callable[[Measurement, ProfilePoint], None],
        *,
        is_required: bool,
    ) -> str | None:
        """Measure a point and leave time for the turns after it; return why not, if so."""
        reason = one.skip_reason()
        if reason is None and not is_required and (self.left_s <= 0 or self._least_s(one) > self.left_s):
            reason = "budget"
        if reason is None:
            try:
                one.prepare()
                begin_s = time.monotonic()
                point = one.measure(begin_s + self._allowance_s(turns))
                self.wall_s += time.monotonic() - begin_s
                self.told_s += one.fixed_s + (point.num_repetitions + 1) * point.time_s
                fastest = self.points.setdefault(point.key, point)
                self.points[point.key] = min(fastest, point, key=lambda one: one.time_s)
                keep(one, point)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = "memory"
            if reason is not None:
                # The tensors of the failed run may lie in a cycle of its graph.
                gc.collect()
            release_memory(self.device)
        if is_required and reason is not None:
            raise LazsimError(f"{one.label}: too little {reason}; ask for less, or free some")
        return reason

    def _least_s(self, one: Measurement) -> float:
        return self.pace * one.least_s([point for point in self.points.values() if point.kernel == one.kernel])

    def _require_time(self, required: Sequence[Measurement]) -> None:
        spent_s = time.monotonic() - self.begin_s
        needed_s = spent_s + math.fsum(map(self._least_s, required))
        if required and needed_s > (1 + TOLERANCE) * self.budget_s:
            raise LazsimError(
                f"`budget` {self.budget_s:g}s: too short; give {math.ceil(needed_s * (1 + TOLERANCE))}s, about the "
                "least that is needed, or fewer `tokens`"
            )

    def _allowance_s(self, turns: Sequence[Measurement]) -> float:
        """Share time out evenly, after keeping the least that later turns take, as far as they fit."""
        left_s, reserved_s = self.left_s, 0.0
        for one in turns:
            needed_s = self._least_s(one)
            if reserved_s + needed_s > MAX_RESERVE * left_s:
                break
            reserved_s += needed_s
        return (left_s - reserved_s) / len(turns)
