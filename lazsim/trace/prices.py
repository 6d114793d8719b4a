"""Prices of nodes over time, and the node-hours and dollars that nodes take."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError
from lazsim.loads import as_floats
from lazsim.placement.plan import Floats, read_only
from lazsim.units import HOUR_S


class EqualByValue:
    """A dataclass of arrays, which are read-only; instances are equal when all their values are, as after pickling."""

    def __post_init__(self) -> None:
        """Make arrays read-only."""
        for one in fields(self):  # type: ignore[arg-type]
            if isinstance(array := getattr(self, one.name), np.ndarray):
                object.__setattr__(self, one.name, read_only(array))

    def _values(self) -> list[Any]:
        return [getattr(self, one.name) for one in fields(self)]  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        both = zip(self._values(), other._values(), strict=True)
        return self is other or all(
            np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two for one, two in both
        )

    def __hash__(self) -> int:
        return hash((type(self), *(len(value) for value in self._values() if isinstance(value, np.ndarray))))


@dataclass(frozen=True, eq=False)
class Prices(EqualByValue):
    """The price of a node over time; the first one also holds before its time.

    Raises
    ------
    SpecError
        When these are no numbers from 0 up, of equal length, or times do not ascend.
    """

    time_s: Floats
    """Ascending times, the first at the begin of the trace; shape (K,)."""
    usd_per_hour: Floats
    """US dollars for an hour of one node, from each time on; shape (K,)."""

    def __post_init__(self) -> None:
        """Check both."""
        time_s, usd_per_hour = as_floats("time_s", self.time_s), as_floats("usd_per_hour", self.usd_per_hour)
        if time_s.ndim > 1 or not time_s.size or time_s.shape != usd_per_hour.shape:
            shapes = f"{usd_per_hour.shape} for times of {time_s.shape}"
            raise SpecError(f"`usd_per_hour`: expected one price for each of `time_s`, found shape {shapes}")
        for name, values in (("time_s", time_s), ("usd_per_hour", usd_per_hour)):
            for wrong in values[~((values >= 0) & (values < np.inf))][:1]:
                raise SpecError(f"`{name}`: expected finite numbers from 0 up, found {wrong:g}")
            object.__setattr__(self, name, values)
        super().__post_init__()
        if (np.diff(time_s) < 0).any():
            raise SpecError("`time_s`: expected ascending times of prices; sort them")

    @classmethod
    def constant(cls, usd_per_hour: float) -> "Prices":
        """Return a price that never changes."""
        return cls(np.zeros(1), np.array([usd_per_hour]))

    @classmethod
    def changes(cls, samples: Sequence[tuple[float, float]]) -> "Prices":
        """Return the prices of samples of time and price, which are in time order."""
        time_s, usd_per_hour = np.array(samples, dtype=np.float64).reshape(-1, 2).T
        is_new = np.diff(usd_per_hour, prepend=np.nan) != 0
        return cls(time_s[is_new], usd_per_hour[is_new])

    def after(self, start_s: float) -> "Prices":
        """Return the prices of a stretch that begins at `start_s`."""
        kept = max(0, int(np.searchsorted(self.time_s, start_s, side="right")) - 1)
        time_s = np.maximum(0.0, self.time_s[kept:] - start_s)
        return replace(self, time_s=time_s, usd_per_hour=self.usd_per_hour[kept:])


ONE = Prices.constant(1.0)


def node_hours(time_s: npt.ArrayLike, num_nodes: npt.ArrayLike, end_s: float, prices: Prices = ONE) -> float:
    """Return the hours of all nodes together, or the US dollars that they cost.

    Parameters
    ----------
    time_s, num_nodes
        Ascending times, and the number of nodes from each on, shape (M,).
    end_s
        When it ends.
    prices
        Prices of a node; the sum is in hours where an hour counts as 1.

    Examples
    --------
    Two nodes for an hour, then one for two hours; the price doubles after two hours.

    >>> node_hours([0, 3600], [2, 1], 3 * 3600)
    4.0
    >>> node_hours([0, 3600], [2, 1], 3 * 3600, Prices(np.array([0.0, 7200.0]), np.array([1.5, 3.0])))
    7.5
    """
    times, counts = np.asarray(time_s, dtype=np.float64), np.asarray(num_nodes)
    # Every time between is one more rounding.
    is_change = np.diff(counts, prepend=-1) != 0
    times, counts = times[is_change], counts[is_change]
    # np.unique would load numpy.ma.
    edges = np.array(sorted({*times.tolist(), *prices.time_s.tolist(), float(end_s)}))
    edges = edges[(edges >= times[0]) & (edges <= end_s)]
    nodes, price = (
        values[np.maximum(0, np.searchsorted(since_s, edges[:-1], side="right") - 1)]
        for since_s, values in ((times, counts), (prices.time_s, prices.usd_per_hour))
    )
    return float(np.sum(nodes * price * np.diff(edges))) / HOUR_S
