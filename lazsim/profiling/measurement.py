"""A point of a profile: how it is measured, and how it is put together from what was timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lazsim.costmodel.profile import SIZE_UNITS, Point
from lazsim.profiling.timing import Timing

FEWEST_RUNS = 4
"""Runs that any point takes at least: a warm-up and three repetitions."""


@dataclass(frozen=True)
class Measurement:
    """A point to be measured.

    Attributes
    ----------
    kernel, size, num_ranks
        As of the point.
    predict_s : callable
        ``points of the kernel so far -> seconds of one run``.
    measure : callable
        ``seconds -> point``; it takes longer only where the fewest runs do.
    skip_reason : callable
        Why it cannot be measured now, or None.
    fixed_s : float
        Seconds before the first run.
    fewest_runs : int
        Runs that it takes at least.
    prepare : callable
        Preparations that say nothing about the time of the points, such as loading the kernel.
    label : str
        What is measured, for messages.
    is_required : bool
        Whether nothing can be said without it.
    """

    kernel: str
    size: int
    num_ranks: int
    predict_s: Callable[[Sequence[Point]], float]
    measure: Callable[[float], Point]
    skip_reason: Callable[[], str | None] = lambda: None
    fixed_s: float = 0.0
    fewest_runs: int = FEWEST_RUNS
    prepare: Callable[[], object] = lambda: None
    label: str = ""
    is_required: bool = False

    def least_s(self, points: Sequence[Point]) -> float:
        """Predict the least that it takes, given the points of its kernel so far."""
        return self.fixed_s + self.fewest_runs * self.predict_s(points)

    @property
    def key(self) -> tuple[str, int, float]:
        """Identity of the point in a profile."""
        return self.kernel, self.num_ranks, float(self.size)


class Peaks(Protocol):
    """Measured peaks of a device."""

    @property
    def matmul_flop_per_s(self) -> float:
        """Operations of a dense matmul."""

    @property
    def copy_bytes_per_s(self) -> float:
        """Bytes that a copy reads and writes."""


def make_point(
    kernel: str,
    size: int,
    timing: Timing,
    peaks: Peaks | None = None,
    *,
    num_ranks: int = 1,
    stages_s: Sequence[float] = (),
    flop: float = 0.0,
    moved_bytes: float = 0.0,
    num_buffers: int = 0,
    buffer_bytes: float = 0.0,
    reference_error: float = 0.0,
) -> Point:
    """Put a row together, with its shares of the device's peaks if they are given; fields as of `Point`."""
    first_s, median_s, third_s = timing.quartiles_s
    forward_s, backward_s = [*stages_s, 0.0, 0.0][:2]
    matmul_s = flop / peaks.matmul_flop_per_s if peaks is not None else 0.0
    copy_s = moved_bytes / peaks.copy_bytes_per_s if peaks is not None else 0.0
    return Point(
        kernel=kernel,
        size=size,
        size_unit=SIZE_UNITS[kernel],
        num_ranks=num_ranks,
        time_s=median_s,
        time_q25_s=first_s,
        time_q75_s=third_s,
        forward_s=forward_s,
        backward_s=backward_s,
        median_ci_share=timing.ci_width,
        num_repetitions=len(timing.samples_s),
        num_buffers=num_buffers,
        buffers_bytes=num_buffers * buffer_bytes,
        flop=flop,
        moved_bytes=moved_bytes,
        matmul_peak_share=matmul_s / median_s,
        copy_peak_share=copy_s / median_s,
        roofline_share=max(matmul_s, copy_s) / median_s,
        reference_error=reference_error,
    )
