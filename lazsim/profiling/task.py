"""A point of a profile that is yet to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lazsim.costmodel.profile import Point

FEWEST_RUNS = 4
"""Runs that any point takes at least: a warm-up and three repetitions."""


@dataclass(frozen=True)
class Task:
    """A point to be measured."""

    kernel: str
    size: int
    num_ranks: int
    predicted_s: Callable[[Sequence[Point]], float]
    measure: Callable[[float], Point]
    obstacle: Callable[[], str | None] = lambda: None

    @property
    def key(self) -> tuple[str, int, float]:
        """What no two points of a profile share."""
        return self.kernel, self.num_ranks, float(self.size)
