"""Times of kernels by shape, interpolated in the measured tables of one GPU."""

import bisect
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError
from lazsim.specs import unknown_name

MICROSECOND = 1e-6


@dataclass(frozen=True, eq=False)
class Grid:
    """Times on a grid of sizes, interpolated linearly in the logarithms of sizes and times.

    Below the smallest size a time stays as it is, since the kernel does not fill the GPU; beyond the largest one it
    grows in proportion.

    Examples
    --------
    >>> grid = Grid(([1.0, 4.0],), [1e-6, 4e-6])
    >>> [round(1e6 * grid.time_s(size), 9) for size in (0.5, 2, 8)]
    [1.0, 2.0, 8.0]
    """

    axes: tuple[Sequence[float], ...]
    times_s: npt.ArrayLike

    @cached_property
    def _logs(self) -> tuple[list[list[float]], list[int], list[float]]:
        logs = np.log(np.asarray(self.times_s, dtype=np.float64))
        strides = [stride // logs.itemsize for stride in np.ascontiguousarray(logs).strides]
        return [[math.log(value) for value in axis] for axis in self.axes], strides, logs.ravel().tolist()

    def time_s(self, *sizes: float) -> float:
        """Return the time of a kernel of the given sizes."""
        axes, strides, logs = self._logs
        scale, corners = 0.0, [(0, 1.0)]
        for axis, stride, size in zip(axes, strides, sizes, strict=True):
            position = math.log(size)
            scale += max(0.0, position - axis[-1])
            position = min(max(position, axis[0]), axis[-1])
            low = min(bisect.bisect_right(axis, position) - 1, len(axis) - 2)
            weight = (position - axis[low]) / (axis[low + 1] - axis[low])
            corners = [
                (offset + step * stride, share * part)
                for offset, share in corners
                for step, part in ((low, 1 - weight), (low + 1, weight))
                if share * part
            ]
        return math.exp(scale + sum(share * logs[offset] for offset, share in corners))


@dataclass(frozen=True, eq=False)
class KernelTables:
    """Measured kernels of one GPU.

    Attributes
    ----------
    name : str
        The GPU.
    grids : mapping
        Times by kernel: matmuls over rows, columns and inner size; attention over heads of all sequences and their
        length; ``quantise`` over elements; collectives over bytes.
    collective_ranks : mapping
        GPUs over which each collective was measured.
    """

    name: str
    grids: Mapping[str, Grid]
    collective_ranks: Mapping[str, int]
    _times: dict[tuple[object, ...], float] = field(default_factory=dict)

    def time_s(self, kernel: str, *sizes: float) -> float:
        """Return the time of a kernel; a `SpecError` says which ones the tables have."""
        key = kernel, *sizes
        if key not in self._times:
            if kernel not in self.grids:
                raise SpecError(unknown_name("kernel", kernel, sorted(self.grids)) + f" in the tables of {self.name}")
            self._times[key] = self.grids[kernel].time_s(*sizes)
        return self._times[key]

    @cached_property
    def sustained_rate(self) -> Mapping[str, float]:
        """Rate of the longest matmuls over the best rate of shorter ones, by kernel: the clock falls under load."""
        return {kernel: _sustained(grid) for kernel, grid in self.grids.items() if kernel.startswith("matmul_")}


def _sustained(grid: Grid) -> float:
    """Compare matmuls above 2**43 operations, about 5 to 10 ms, with the best octave below, medians both."""
    rows, columns, inner = (np.array(axis) for axis in grid.axes)
    flop = 2 * rows[:, None, None] * columns[:, None] * inner
    rate = flop / np.asarray(grid.times_s)
    large = (rows[:, None, None] >= 2048) & (columns[:, None] >= 4096) & (inner >= 4096)
    octave = np.floor(np.log2(flop))
    medians = {exponent: float(np.median(rate[large & (octave == exponent)])) for exponent in range(37, 44)}
    return min(1.0, medians.pop(43) / max(medians.values()))


def load_tables(name: str) -> KernelTables:
    """Read the tables of a GPU from the catalogue.

    Raises
    ------
    SpecError
        When the catalogue has no tables of this GPU.
    """
    folder = resources.files("lazsim") / "catalog" / "kernels"
    known = sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv"))
    if name not in known:
        raise SpecError(unknown_name("GPU with kernel tables", name, known))
    return parse_tables(name, (folder / f"{name}.csv").read_text())


def parse_tables(name: str, text: str) -> KernelTables:
    """Build tables from CSV rows of ``kernel,size,columns,inner,num_ranks,time_us``; a size may be empty."""
    points: dict[str, dict[tuple[float, ...], float]] = {}
    ranks: dict[str, int] = {}
    for row in csv.DictReader(line for line in io.StringIO(text) if not line.startswith("#")):
        sizes = tuple(float(row[axis]) for axis in ("size", "columns", "inner") if row[axis])
        points.setdefault(row["kernel"], {})[sizes] = float(row["time_us"]) * MICROSECOND
        if row["num_ranks"]:
            ranks[row["kernel"]] = int(row["num_ranks"])
    return KernelTables(name, {kernel: _grid(kernel, times) for kernel, times in points.items()}, ranks)


def _grid(kernel: str, times: Mapping[tuple[float, ...], float]) -> Grid:
    axes = tuple(sorted(set(axis)) for axis in zip(*times, strict=True))
    values = np.full([len(axis) for axis in axes], np.nan)
    for sizes, time_s in times.items():
        values[tuple(bisect.bisect_left(axis, size) for axis, size in zip(axes, sizes, strict=True))] = time_s
    if np.isnan(values).any():
        raise SpecError(f"{kernel}: {int(np.isnan(values).sum())} points of its grid are missing")
    return Grid(axes, values)
