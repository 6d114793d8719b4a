"""Error of a profile's interpolation at held-out points, and rates of its kernels compared with plain ones."""

import msgspec
import numpy as np

from lazsim.costmodel.profile import Point, Profile
from lazsim.costmodel.tables import table_of
from lazsim.costmodel.times import Floats
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


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """Rate of a kernel at one size, as a share of the rate of a plain kernel with the same work."""

    kernel: str
    size: float
    share: float
    of: str


MANY_TOKENS = 4096
"""Least tokens per expert at which grouped experts are compared with one expert of the same size."""


def reached_shares(profile: Profile) -> list[Reached]:
    """Compare grouped experts with one expert, and moved tokens with a plain copy, if both were measured.

    The lowest share of grouped experts from `MANY_TOKENS` up counts, else that of the most tokens, and the share of the
    most moved tokens.
    """
    expert = {point.size: point for point in profile.of("expert")}
    shares = [
        Reached(kernel="grouped", size=point.size, share=_rate(point) / _rate(expert[point.size]), of="one expert")
        for point in profile.of("grouped")
        if point.size in expert and point.flop and expert[point.size].flop
    ]
    many = [share for share in shares if share.size >= MANY_TOKENS] or shares[-1:]
    found = [min(many, key=lambda one: one.share)] if many else []
    found += [
        Reached(kernel="permute", size=point.size, share=point.copy_peak_share, of="the copy")
        for point in profile.of("permute")[-1:]
    ]
    return found


def _rate(point: Point) -> float:
    return point.flop / point.time_s


def held_out_errors(profile: Profile) -> tuple[list[HeldOut], Floats]:
    """Interpolate every second point of each kernel from the others; the first and the last stay.

    Return the errors by kernel, and those of all held-out points together.
    """
    results, together = [], []
    for kernel in profile.kernels:
        points = profile.of(kernel)
        held = points[1:-1:2]
        if not held:
            continue
        # Held-out times must not raise those that are kept, so the table is made of the kept ones alone.
        table = table_of([point for point in points if point not in held])
        interpolated_s = table.time_s(np.array([point.size for point in held]))
        errors = np.abs(interpolated_s / np.array([point.time_s for point in held]) - 1)
        together.append(errors)
        results.append(
            HeldOut(
                kernel=kernel,
                num_held_out=len(held),
                median_error=float(np.median(errors)),
                p90_error=float(np.quantile(errors, 0.9)),
                worst_error=float(errors.max()),
                worst_size=held[int(errors.argmax())].size,
                median_ci_share=float(np.median([point.median_ci_share for point in held])),
            )
        )
    if not results:
        raise SpecError(f"{profile.name}: no kernel has three points, so none can be held out; give a larger `budget`")
    return results, np.concatenate(together)
