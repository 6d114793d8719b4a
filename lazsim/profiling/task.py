"""A point of a profile that is yet to be measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lazsim.costmodel.profile import Point
from lazsim.profiling.merge import label_of

FEWEST_RUNS = 4
"""Runs that any point takes at least: a warm-up and three repetitions."""

TRUST_S = 1.0
"""Seconds at the predicted pace that count as seen already, so that a stall in the first points is no pace of all."""


@dataclass
class Pace:
    """How much longer measuring takes than the times that come of it say: others use the machine, too."""

    wall_s: float = 0.0
    told_s: float = 0.0

    def add(self, wall_s: float, fixed_s: float, point: Point) -> None:
        """Count a point that took so long on the wall, `fixed_s` of it before the first run."""
        self.wall_s += wall_s
        self.told_s += fixed_s + (point.num_repetitions + 1) * point.time_s

    @property
    def factor(self) -> float:
        """Seconds on the wall for each second that is predicted from points.

        Examples
        --------
        >>> pace = Pace()
        >>> pace.add(9.0, 1.0, Point(kernel="expert", size=1, time_s=0.5, num_repetitions=3))
        >>> pace.factor
        2.5
        """
        return max(1.0, (TRUST_S + self.wall_s) / (TRUST_S + self.told_s))


@dataclass(frozen=True)
class Task:
    """A point to be measured.

    Attributes
    ----------
    kernel, size, num_ranks
        Of the point.
    predicted_s : callable
        ``points of the kernel so far -> seconds of one run``.
    measure : callable
        ``seconds -> point``, in so many seconds where they do for `fewest_runs`.
    obstacle : callable
        Why it cannot be measured now, if so.
    fixed_s : float
        Seconds before the first run.
    fewest_runs : int
        Runs that it takes at least.
    prepare : callable
        What comes before the kernel's first point, and tells nothing about how long the points take.
    """

    kernel: str
    size: int
    num_ranks: int
    predicted_s: Callable[[Sequence[Point]], float]
    measure: Callable[[float], Point]
    obstacle: Callable[[], str | None] = lambda: None
    fixed_s: float = 0.0
    fewest_runs: int = FEWEST_RUNS
    prepare: Callable[[], object] = lambda: None

    @property
    def label(self) -> str:
        """The kernel, and over how many ranks where its size is not that."""
        return label_of(self.kernel, self.size, self.num_ranks)

    def least_s(self, points: Sequence[Point]) -> float:
        """Predict the least that it takes, given the points of its kernel so far."""
        return self.fixed_s + self.fewest_runs * self.predicted_s(points)

    @property
    def key(self) -> tuple[str, int, float]:
        """What no two points of a profile share."""
        return self.kernel, self.num_ranks, float(self.size)
