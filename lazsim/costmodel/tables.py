"""Interpolate measured times between sizes, in log space, never falling; extrapolate on request only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.profile import Point
from lazsim.costmodel.times import Floats
from lazsim.errors import CostRangeError


@dataclass(frozen=True, eq=False)
class TimeTable:
    """Times of one kernel by size, both ascending.

    Examples
    --------
    >>> table = TimeTable("expert", np.array([100.0, 400.0]), np.array([1e-3, 4e-3]))
    >>> round(float(table.time_s(np.array(200.0))), 6)
    0.002
    """

    kernel: str
    sizes: Floats
    times_s: Floats

    def time_s(self, size: Floats, extrapolate: Callable[[Floats, Floats], Floats] | None = None) -> Floats:
        """Interpolate linearly between logarithms; size 0 takes no time and a fraction of one unit counts as one.

        Outside the measured sizes, `extrapolate` takes sizes and the nearest measured ones, and returns the ratio of
        their times; without it, such a size is a `CostRangeError`.
        """
        size = np.asarray(size, dtype=np.float64)
        busy = size > 0
        asked = np.where(busy, np.maximum(size, 1.0), self.sizes[0])
        inside = np.clip(asked, self.sizes[0], self.sizes[-1])
        times_s: Floats = np.exp(np.interp(np.log(inside), np.log(self.sizes), np.log(self.times_s)))
        if (inside != asked).any():
            if extrapolate is None:
                worst = asked.max() if asked.max() > self.sizes[-1] else asked.min()
                raise CostRangeError(
                    f"the profile has {self.kernel} from {self.sizes[0]:g} to {self.sizes[-1]:g}, but {worst:g} is "
                    "needed; measure that size too, or go on by the analytic model with `extrapolate`"
                )
            times_s *= extrapolate(asked, inside)
        return np.where(busy, times_s, 0.0)


def table_of(points: Sequence[Point]) -> TimeTable:
    """Build the table of one kernel; times never fall with size.

    A smaller size takes no longer than a larger one, to which its work could be padded: other work on the machine only
    adds to times, and some libraries have a slower kernel for a single row.
    """
    ordered = sorted(points, key=lambda point: point.size)
    sizes = np.array([point.size for point in ordered])
    return TimeTable(ordered[0].kernel, sizes, np.minimum.accumulate([point.time_s for point in ordered[::-1]])[::-1])


def sum_of(kernel: str, parts: Sequence[tuple[float, TimeTable]]) -> TimeTable | None:
    """Add up multiples of tables, over the sizes that all of them cover.

    Examples
    --------
    >>> one = TimeTable("a", np.array([1.0, 4.0]), np.array([1.0, 4.0]))
    >>> two = TimeTable("b", np.array([2.0, 8.0]), np.array([1.0, 1.0]))
    >>> whole = sum_of("c", [(2, one), (1, two)])
    >>> whole.sizes.tolist(), whole.times_s.round(9).tolist()
    ([2.0, 4.0], [5.0, 9.0])
    """
    low = max(table.sizes[0] for _, table in parts)
    high = min(table.sizes[-1] for _, table in parts)
    if math.isclose(low, high) or low > high:
        return None
    sizes = np.unique(np.concatenate([table.sizes for _, table in parts]))
    sizes = sizes[(sizes >= low) & (sizes <= high)]
    times_s = sum((count * table.time_s(sizes) for count, table in parts), np.zeros(len(sizes)))
    return TimeTable(kernel, sizes, times_s)
