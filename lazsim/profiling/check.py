"""How well a profile interpolates: every second point held out."""

from collections.abc import Sequence

import msgspec
import numpy as np

from lazsim.costmodel.profile import Point, Profile
from lazsim.costmodel.tables import table_of
from lazsim.errors import SpecError


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """Error of the interpolation at points that were held out, ``|interpolated / measured - 1|``."""

    kernel: str
    num_held_out: int
    median_error: float
    p90_error: float
    worst_error: float
    worst_size: float
    median_ci_share: float


def held_out_errors(profile: Profile) -> list[HeldOut]:
    """Interpolate every second point of each kernel from the others; the first and the last stay.

    Raises
    ------
    SpecError
        When no kernel has the three points that it takes.
    """
    results = [_held_out(kernel, profile.of(kernel)) for kernel in profile.kernels if len(profile.of(kernel)) > 2]
    if not results:
        raise SpecError(f"{profile.name}: no kernel has three points, so none can be held out; give a larger --budget")
    return results


def all_errors(profile: Profile) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the errors of all held-out points of all kernels."""
    errors = [_errors(profile.of(kernel))[1] for kernel in profile.kernels if len(profile.of(kernel)) > 2]
    return np.concatenate(errors)


def _errors(points: Sequence[Point]) -> tuple[list[Point], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    held = [point for index, point in enumerate(points[:-1]) if index % 2]
    # What is held out must not lend its time to what is kept: times that never fall are made of the kept ones alone.
    table = table_of([point for point in points if point not in held])
    interpolated_s = table.time_s(np.array([point.size for point in held]))
    return held, np.abs(interpolated_s / np.array([point.time_s for point in held]) - 1)


def _held_out(kernel: str, points: Sequence[Point]) -> HeldOut:
    held, errors = _errors(points)
    return HeldOut(
        kernel=kernel,
        num_held_out=len(held),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        worst_error=float(errors.max()),
        worst_size=held[int(errors.argmax())].size,
        median_ci_share=float(np.median([point.median_ci_share for point in held])),
    )
