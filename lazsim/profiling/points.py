"""Rows of a profile, put together from what was timed."""

from collections.abc import Sequence
from typing import Protocol

from lazsim.costmodel.profile import SIZE_UNITS, Point
from lazsim.profiling.timing import Timing


class Peaks(Protocol):
    """What a device reaches at most, as measured on it."""

    @property
    def matmul_flop_per_s(self) -> float:
        """Operations of a dense matmul."""

    @property
    def copy_bytes_per_s(self) -> float:
        """Bytes that a copy reads and writes."""


def point_of(
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
    """Put a row together, with its shares of the device's peaks where they mean something; fields as of `Point`."""
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
