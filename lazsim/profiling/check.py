"""Error of a profile's interpolation at held-out points, and rates of its kernels compared with plain ones."""

from collections.abc import Callable

import msgspec
import numpy as np

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.measured import compute_tables, table_of
from lazsim.costmodel.profile import Profile, ProfilePoint, require_header
from lazsim.errors import SpecError
from lazsim.placement.plan import Floats
from lazsim.settings import DEFAULTS
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, StepConstants, load_spec


class ProfileInterpolation(msgspec.Struct, frozen=True, kw_only=True):
    """Error of the interpolation at points that were held out, ``|interpolated / measured - 1|``."""

    kernel: str
    num_held_out: int
    median_error: float
    p90_error: float
    worst_error: float
    worst_size: float
    median_ci_share: float


class RateShare(msgspec.Struct, frozen=True, kw_only=True):
    """Rate of a kernel at one size, as a share of the rate of a plain kernel with the same work."""

    kernel: str
    size: float
    share: float
    of: str


MANY_TOKENS = 4096
"""Least tokens per expert at which grouped experts are compared with one expert of the same size."""


def reached_shares(profile: Profile) -> list[RateShare]:
    """Compare grouped experts with one expert, and moved tokens with a plain copy, if both were measured.

    The lowest share of grouped experts from `MANY_TOKENS` up counts, else that of the most tokens, and the share of the
    most moved tokens, without the time of their schedule, which moves none, unless that was measured to take all of it.
    """

    def rate(point: ProfilePoint) -> float:
        return point.flop / point.time_s

    expert = {point.size: point for point in profile.of("expert")}
    shares = [
        RateShare(kernel="grouped", size=point.size, share=rate(point) / rate(expert[point.size]), of="one expert")
        for point in profile.of("grouped")
        if point.size in expert and point.flop and expert[point.size].flop
    ]
    many = [share for share in shares if share.size >= MANY_TOKENS] or shares[-1:]
    found = [min(many, key=lambda one: one.share)] if many else []
    schedule_s = {point.size: point.time_s for point in profile.of("schedule")}
    for point in profile.of("permute")[-1:]:
        moving = 1 - schedule_s.get(point.size, 0.0) / point.time_s
        if moving > 0:
            share = point.copy_peak_share / moving
            found.append(RateShare(kernel="permute", size=point.size, share=share, of="the copy"))
    return found


class Modelled(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the analytic model over measured ones, at the measured sizes of a range; 0.1 means a tenth longer."""

    kernel: str
    smallest: float
    largest: float
    num_points: int
    median: float
    lowest: float
    highest: float


FEW = {"optimizer": 2**20}
FEW_TOKENS = 512
"""Sizes below which launches and the reading of weights take most of the time."""

ONE_GPU_CLUSTER, COMPARED_JOB = "rtx3090x10", "testbed-a"
"""Nodes of one GPU, as profiles have them, and the job of the published evaluation."""


def modelled_errors(profile: Profile, gpu: GpuSpec) -> list[Modelled]:
    """Compare the analytic model of a GPU with a profile measured on it, kernel by kernel, for few and many tokens."""
    model = require_header(profile).model
    cluster, job = load_spec(ClusterSpec, ONE_GPU_CLUSTER), load_spec(JobSpec, COMPARED_JOB)
    analytic = AnalyticCompute(model, gpu, cluster, job, load_spec(StepConstants, DEFAULTS["step"]))
    times: dict[str, Callable[[Floats], Floats]] = {
        "expert": analytic.expert_s,
        "reorder": analytic.reorder_s,
        "optimizer": analytic.optimizer_s,
        "dense": np.vectorize(analytic.dense_s, otypes=[np.float64]),
    }
    found = []
    for kernel, table in compute_tables(profile, model, gpus_per_node=1).items():
        errors = times[kernel](table.sizes) / table.times_s - 1
        is_few = table.sizes < FEW.get(kernel, FEW_TOKENS)
        for chosen in (is_few, ~is_few):
            if chosen.any():
                sizes, some = table.sizes[chosen], errors[chosen]
                found.append(
                    Modelled(
                        kernel=kernel, smallest=float(sizes[0]), largest=float(sizes[-1]), num_points=len(sizes),
                        median=float(np.median(some)), lowest=float(some.min()), highest=float(some.max()),
                    )
                )  # fmt: skip
    return found


def held_out_errors(profile: Profile) -> tuple[list[ProfileInterpolation], Floats]:
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
            ProfileInterpolation(
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
