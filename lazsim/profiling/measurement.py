"""A point of a profile: how it is measured, and how it is put together from what was timed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def make_point(
    kernel: str, size: int, timing: Timing, peaks: Any = None, *, stages_s: Sequence[float] = (), **fields: Any
) -> Point:
    """Put a row together from what was timed.

    Parameters
    ----------
    kernel, size, timing
        The timed kernel.
    peaks
        Anything with the peaks of a `Header`, from which the row's shares are taken.
    stages_s
        Medians of the forward and backward pass.
    fields
        More fields of the `Point`.
    """
    first_s, median_s, third_s = timing.quartiles_s
    forward_s, backward_s = [*stages_s, 0.0, 0.0][:2]
    matmul_s = fields.get("flop", 0.0) / peaks.matmul_flop_per_s if peaks is not None else 0.0
    copy_s = fields.get("moved_bytes", 0.0) / peaks.copy_bytes_per_s if peaks is not None else 0.0
    return Point(
        kernel=kernel,
        size=size,
        size_unit=SIZE_UNITS[kernel],
        time_s=median_s,
        time_q25_s=first_s,
        time_q75_s=third_s,
        forward_s=forward_s,
        backward_s=backward_s,
        median_ci_share=timing.ci_width,
        num_repetitions=len(timing.samples_s),
        matmul_peak_share=matmul_s / median_s,
        copy_peak_share=copy_s / median_s,
        roofline_share=max(matmul_s, copy_s) / median_s,
        **fields,
    )
