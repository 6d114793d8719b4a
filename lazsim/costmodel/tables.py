"""Measured compute times in place of the analytic ones.

A profile is a CSV with the columns ``kernel,size,time_s``. Kernels are those of `lazsim.costmodel.times.ComputeTimes`:
``dense`` (size: tokens of a node's micro-batch), ``expert`` (tokens of one expert), ``reorder`` (token assignments of
one GPU) and ``optimizer`` (parameters), each forward and backward together, for the model that is simulated on the
device at hand. Kernels that the file lacks stay analytic.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.times import ComputeTimes, Floats
from lazsim.errors import CostRangeError, SpecError
from lazsim.files import read_bytes

KERNELS = ("dense", "expert", "reorder", "optimizer")
COLUMNS = ("kernel", "size", "time_s")


@dataclass(frozen=True, eq=False)
class Table:
    """Times of one kernel by size, both ascending.

    Examples
    --------
    >>> table = Table("expert", np.array([100.0, 400.0]), np.array([1e-3, 4e-3]))
    >>> round(float(table.time_s(np.array(200.0))), 6)
    0.002
    """

    kernel: str
    sizes: Floats
    times_s: Floats

    def time_s(self, size: Floats) -> Floats:
        """Interpolate linearly between logarithms; size 0 takes no time and a fraction of one unit counts as one.

        Raises
        ------
        CostRangeError
            When a size lies outside what was measured.
        """
        size = np.asarray(size, dtype=np.float64)
        busy = size > 0
        asked = np.where(busy, np.maximum(size, 1.0), self.sizes[0])
        if asked.min() < self.sizes[0] or asked.max() > self.sizes[-1]:
            worst = asked.max() if asked.max() > self.sizes[-1] else asked.min()
            raise CostRangeError(
                f"the profile has {self.kernel} from {self.sizes[0]:g} to {self.sizes[-1]:g}, but {worst:g} is needed; "
                "measure that size too, or leave the kernel out so that it stays analytic"
            )
        return np.where(busy, np.exp(np.interp(np.log(asked), np.log(self.sizes), np.log(self.times_s))), 0.0)


def read_profile(path: str) -> Mapping[str, Table]:
    """Read a profile.

    Raises
    ------
    SpecError
        When a column is missing, a kernel unknown, or a number is not positive or given twice.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode()))
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file; give a CSV with the columns {','.join(COLUMNS)}") from None
    if reader.fieldnames is None or not set(COLUMNS) <= set(reader.fieldnames):
        raise SpecError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}")
    points: dict[str, dict[float, float]] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if row["kernel"] not in KERNELS:
            raise SpecError(f"{where}: unknown kernel {row['kernel']!r}; known: {', '.join(KERNELS)}")
        try:
            size, time_s = float(row["size"]), float(row["time_s"])
        except (TypeError, ValueError):
            size = time_s = math.nan
        if not (0 < size < math.inf and 0 < time_s < math.inf):
            raise SpecError(f"{where}: size and time_s must be positive numbers")
        if points.setdefault(row["kernel"], {}).setdefault(size, time_s) != time_s:
            raise SpecError(f"{where}: a second time for {row['kernel']} of size {size:g}; keep one")
    if not points:
        raise SpecError(f"{path}: no measurements; give rows of {','.join(COLUMNS)}")
    return {kernel: _table(kernel, times) for kernel, times in points.items()}


def _table(kernel: str, times_s: Mapping[float, float]) -> Table:
    sizes = np.array(sorted(times_s))
    measured = np.array([times_s[size] for size in sizes.tolist()])
    # Noise must not make more work faster.
    return Table(kernel, sizes, np.maximum.accumulate(measured))


@dataclass(frozen=True)
class MeasuredCompute:
    """Times from tables where there are some; see `lazsim.costmodel.times.ComputeTimes`."""

    tables: Mapping[str, Table]
    analytic: ComputeTimes

    def dense_s(self, num_tokens: float) -> float:
        """Everything but the experts and the dispatch."""
        if "dense" not in self.tables:
            return self.analytic.dense_s(num_tokens)
        return float(self.tables["dense"].time_s(np.array(num_tokens)))

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert of one layer."""
        return self._measured("expert", num_tokens, self.analytic.expert_s)

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate, token reorder and its inverse."""
        return self._measured("reorder", num_tokens, self.analytic.reorder_s)

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """Reorder by a matmul with a mask, which stays analytic."""
        return self.analytic.masked_reorder_s(num_tokens, capacity)

    def optimizer_s(self, num_params: Floats) -> Floats:
        """One optimizer step."""
        return self._measured("optimizer", num_params, self.analytic.optimizer_s)

    def _measured(self, kernel: str, size: Floats, analytic_s: Callable[[Floats], Floats]) -> Floats:
        return self.tables[kernel].time_s(size) if kernel in self.tables else analytic_s(size)
