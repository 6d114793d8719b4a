"""Full grids from the points of a kernel: holes are left out or filled in, bad points repaired, and all of it told."""

import math
from collections.abc import Sequence

import numpy as np

from lazsim.errors import SpecError
from lazsim.placement.plan import Bools, Floats
from lazsim.stepmodel.tables import KERNEL_AXES, work_axes

Points = dict[tuple[float, ...], float]
"""Times by sizes."""

BAD_FACTOR = 2.0
"""A point this far off the log-linear lines through its neighbours, on both sides of each of its sizes, is bad.

A latency and a rate give a time that bends up, far below the line where sizes lie far apart. So one below the line is
bad only where it also takes less than both neighbours, or the larger one takes more than by the square of its size.
"""

DIP = 0.9
"""A time below this share of the time of a smaller size is told as not monotone."""

MOST_HOLES = 10
"""A grid of more times as many points as were measured is refused: scattered sizes would fill the memory."""

MOST_BAD = 100
"""Bad points of a kernel that are repaired; a table of more is bad altogether, and each costs a pass."""

MEASURED_SHARE = 0.5
"""A size with fewer of its points measured is left out of a grid."""


def full_grid(kernel: str, points: Points, notes: list[str]) -> tuple[list[list[float]], Floats]:
    """Arrange points in a grid without holes, bad ones repaired; return the values of each size, and times in us.

    The `notes` get a line for everything that is left out, filled in, changed, or looks wrong. A `SpecError` says that
    the points are too few for their grid, or that too many are bad.
    """
    axes = [sorted(set(axis)) for axis in zip(*points, strict=True)]
    if math.prod(map(len, axes)) > MOST_HOLES * len(points):
        raise SpecError(f"{kernel}: {len(points)} points fill too little of the grid of their sizes")
    times = np.full([len(axis) for axis in axes], np.nan)
    places = [{size: i for i, size in enumerate(axis)} for axis in axes]
    for sizes, time_us in points.items():
        times[tuple(place[size] for place, size in zip(places, sizes, strict=True))] = time_us
    measured = ~np.isnan(times)
    for axis in range(times.ndim):
        rest = tuple(other for other in range(times.ndim) if other != axis)
        axes, times = _drop(kernel, axes, times, axis, measured.mean(axis=rest) < MEASURED_SHARE, notes)
    holes = np.isnan(times)
    # Bad points beside a hole bend what fills it, so that repaired ones fill it again.
    times = _repaired(kernel, axes, _filled(axes, times), notes)
    times = _filled(axes, np.where(holes, np.nan, times))
    if count := int(holes.sum() - np.isnan(times).sum()):
        notes.append(
            f"{kernel}: {count} of {times.size} points were not measured: on the lines through their neighbours"
        )
    if kernel.startswith("attention_"):
        times = _with_more_heads(kernel, axes[0], times, notes)
    while np.isnan(times).any():
        holes = [np.isnan(times).mean(axis=tuple(set(range(times.ndim)) - {axis})) for axis in range(times.ndim)]
        worst = max(range(times.ndim), key=lambda axis: holes[axis].max())
        dropped = np.arange(times.shape[worst]) == holes[worst].argmax()
        axes, times = _drop(kernel, axes, times, worst, dropped, notes)
    dips = np.zeros(times.shape, dtype=bool)
    for axis in work_axes(kernel):
        dips |= times < DIP * np.maximum.accumulate(times, axis=axis)
    if dips.any():
        notes.append(f"{kernel}: {dips.sum()} of {dips.size} points take under 90 % of a smaller size; they are kept")
    return axes, times


def _drop(
    kernel: str, axes: list[list[float]], times: Floats, axis: int, dropped: Bools, notes: list[str]
) -> tuple[list[list[float]], Floats]:
    if dropped.any():
        values = ", ".join(f"{value:.15g}" for value, out in zip(axes[axis], dropped, strict=True) if out)
        notes.append(f"{kernel}: {KERNEL_AXES[kernel][axis]} {values} left out, since too few of their points exist")
    kept = [value for value, out in zip(axes[axis], dropped, strict=True) if not out]
    return [*axes[:axis], kept, *axes[axis + 1 :]], times.compress(~dropped, axis)


def _filled(axes: Sequence[Sequence[float]], times: Floats) -> Floats:
    """Put holes on the lowest log-linear line, along each size, through the nearest points on both sides.

    A latency and a rate give a time that bends up, so that lines are above it. Holes at an edge have none and stay.
    """
    lines = np.full((times.ndim, *times.shape), np.nan)
    for axis, values in enumerate(axes):
        positions = np.log(values)
        along, line = np.moveaxis(np.log(times), axis, -1), np.moveaxis(lines[axis], axis, -1)
        for index in np.ndindex(along.shape[:-1]):
            known = ~np.isnan(along[index])
            if known.any():
                line[index] = np.interp(positions, positions[known], along[index][known], np.nan, np.nan)
    return np.where(np.isnan(times), np.exp(np.fmin.reduce(lines)), times)


def _repaired(kernel: str, axes: Sequence[Sequence[float]], times: Floats, notes: list[str]) -> Floats:
    """Put single bad points on the line through their neighbours, the worst first: it bends those beside it."""
    logs, repaired = np.log(times), times.copy()
    inner = [(axis, np.log(values)) for axis, values in enumerate(axes) if len(values) > 2]
    if not inner:
        return times
    for _ in range(MOST_BAD):
        lines, lows = np.swapaxes([_lines(logs, axis, positions) for axis, positions in inner], 0, 1)
        is_explained = (lows < logs) & (logs < lines)
        least = np.nan_to_num(np.where(is_explained, 0, np.abs(logs - lines))).min(axis=0)
        worst = np.unravel_index(least.argmax(), least.shape)
        if least[worst] <= math.log(BAD_FACTOR):
            break
        logs[worst] = np.mean([line[worst] for line in lines])
        repaired[worst] = math.exp(logs[worst])
        sizes = " x ".join(f"{values[i]:.0f}" for values, i in zip(axes, worst, strict=True))
        notes.append(
            f"{kernel} {sizes}: {times[worst]:.4g} us is off by more than {BAD_FACTOR:g} from its neighbours; "
            f"{repaired[worst]:.4g} us on the line through them replaces it"
        )
    else:
        raise SpecError(f"{kernel}: {MOST_BAD} points are off by more than {BAD_FACTOR:g} from their neighbours")
    return repaired


def _lines(logs: Floats, axis: int, positions: Floats) -> tuple[Floats, Floats]:
    """Interpolate each point from its two neighbours along an axis, and tell the least that it can take beside them.

    Both are NaN at the ends.
    """
    along = np.moveaxis(logs, axis, 0)
    shape = (-1,) + (1,) * (logs.ndim - 1)
    reach = (positions[2:] - positions[1:-1]).reshape(shape)
    share = 1 - reach / (positions[2:] - positions[:-2]).reshape(shape)
    line, low = np.full((2, *along.shape), np.nan)
    line[1:-1] = along[:-2] + share * (along[2:] - along[:-2])
    low[1:-1] = np.maximum(np.minimum(along[:-2], along[2:]), along[2:] - 2 * reach)
    return np.moveaxis(line, 0, axis), np.moveaxis(low, 0, axis)


def _with_more_heads(kernel: str, heads: Sequence[float], times: Floats, notes: list[str]) -> Floats:
    """Fill in sequences of more heads than were measured: they fill the GPU, and take time in proportion to heads.

    Heads of 128 numbers, 512 or more of them over 4,096 tokens or more, come back 1 to 6 % off at the median on seven
    GPUs if they are left out. By the square of shorter sequences' length, which reach a lower rate, they would be 14 to
    42 % too slow.
    """
    filled = times.copy()
    for i in range(1, len(heads)):
        hole = np.isnan(filled[i])
        filled[i, hole] = filled[i - 1, hole] * heads[i] / heads[i - 1]
    if count := int(np.isnan(times).sum() - np.isnan(filled).sum()):
        notes.append(
            f"{kernel}: {count} of {times.size} points were not measured: filled in by the number of their heads"
        )
    return filled
