"""What kernel tables hold, and how well they interpolate."""

import itertools
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lazsim.stepmodel.tables import KERNEL_AXES, KernelGrid, KernelTables


@dataclass(frozen=True)
class TableInterpolation:
    """Error of a kernel's interpolation at points that were held out, ``|interpolated / measured - 1|``."""

    kernel: str
    num_points: int
    num_held_out: int
    median_error: float
    p90_error: float
    worst_error: float


@dataclass(frozen=True)
class TablesCheck:
    """How well kernel tables interpolate, kernel by kernel."""

    kernels: list[TableInterpolation]

    @property
    def median_error(self) -> float | None:
        """Median of the kernels' medians; none where no kernel has three values of a size."""
        return statistics.median(error.median_error for error in self.kernels) if self.kernels else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kernels": [asdict(error) for error in self.kernels], "median_error": self.median_error}


def check_tables(tables: KernelTables) -> TablesCheck:
    """Interpolate every second value of each size in turn from the others; the first and the last stay."""
    errors = []
    for kernel, grid in tables.grids.items():
        if held := _held_out_errors(grid):
            median, p90 = float(np.median(held)), float(np.quantile(held, 0.9))
            errors.append(TableInterpolation(kernel, np.size(grid.times_s), len(held), median, p90, max(held)))
    return TablesCheck(errors)


def _held_out_errors(grid: KernelGrid) -> list[float]:
    times = np.asarray(grid.times_s)
    errors = []
    for axis, values in enumerate(grid.axes):
        kept = [i for i in range(len(values)) if not i % 2 or i == len(values) - 1]
        held = set(values) - {values[i] for i in kept}
        rest = KernelGrid(
            tuple([values[i] for i in kept] if i == axis else other for i, other in enumerate(grid.axes)),
            times.take(kept, axis),
        )
        errors += [
            float(abs(rest.time_s(*sizes) / time_s - 1))
            for sizes, time_s in zip(itertools.product(*grid.axes), times.ravel(), strict=True)
            if sizes[axis] in held
        ]
    return errors


def describe_tables(tables: KernelTables) -> dict[str, Any]:
    """Say what tables hold, as plain data: of each kernel also its least and greatest sizes and times."""
    kernels = [
        {
            "kernel": kernel,
            "num_points": np.size(grid.times_s),
            "num_ranks": tables.collective_ranks.get(kernel, 1),
            "sizes": {name: (axis[0], axis[-1]) for name, axis in zip(KERNEL_AXES[kernel], grid.axes, strict=True)},
            "time_s": (float(np.min(grid.times_s)), float(np.max(grid.times_s))),
        }
        for kernel, grid in tables.grids.items()
    ]
    return {"remarks": tables.remarks, "kernels": kernels}
