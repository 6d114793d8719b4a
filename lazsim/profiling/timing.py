"""Timing of one point: warm-up, repetitions over rotating buffers, the median and its confidence interval."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import torch

from lazsim.costmodel.profile import SIZE_UNITS, ProfilePoint
from lazsim.placement.plan import Floats

CI_WIDTH = 0.02
"""Relative width of the median's 95 % interval at which repetitions end."""

BATCH = 6
"""Repetitions between looks at the clock: the fewest for which a 95 % interval of the median exists."""

WARM_UPS = 2

MOST_REPETITIONS = 2000

HOLD_MARGIN = 1.5
"""Time for which the device is held up before a repetition, over the time the host takes to give it the work."""

MOST_CYCLES_PER_S = 2e9
"""About the highest clock of a GPU; a slower one is held up for longer, which does no harm."""

MOST_HOLD_S = 0.02
"""Longest hold; work that takes the host longer keeps the device busy anyway, or waits for it."""


class HostClock:
    """The host's monotonic clock, for work on the host itself."""

    def hold(self, seconds: float) -> None:
        """Keep the device busy for some seconds, so that the host gets ahead of it; here nothing."""

    def mark(self) -> Any:
        """Set a mark behind the work given so far."""
        return time.perf_counter()

    def elapsed_s(self, first: Any, second: Any) -> float:
        """Wait for the second mark and return the seconds between the two."""
        return float(second - first)


class ThreadClock(HostClock):
    """The processor time of this thread, which leaves out other work on the machine."""

    def mark(self) -> Any:
        """Read the clock."""
        return time.thread_time()


class CudaClock(HostClock):
    """Events of a GPU: times of the device, not of the host that gives it work."""

    def hold(self, seconds: float) -> None:
        """Let the GPU count its cycles."""
        if seconds > 0:
            torch.cuda._sleep(int(seconds * MOST_CYCLES_PER_S))  # type: ignore[no-untyped-call]

    def mark(self) -> Any:
        """Record an event behind the work given so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def elapsed_s(self, first: Any, second: Any) -> float:
        """Wait for the second event and return the seconds between the two."""
        second.synchronize()
        return float(first.elapsed_time(second)) / 1e3


def clock_of(device: str, num_threads: int = 0) -> HostClock:
    """Return the clock of a device: on a CPU the thread's own if kernels run in one thread."""
    if device == "cuda":
        return CudaClock()
    return ThreadClock() if num_threads == 1 else HostClock()


def ci_width(samples_s: Floats) -> float:
    """Return the width of the 95 % confidence interval of the median, over the median.

    Between order statistics ``n/2 -+ 1.96 sqrt(n)/2`` (Conover, Practical Nonparametric Statistics, 3.2): no shape of
    the distribution is assumed. Below six samples no such interval exists, and the full range is taken.

    Examples
    --------
    >>> ci_width(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.5]))
    0.5
    """
    ordered = np.sort(samples_s)
    count = len(ordered)
    reach = 1.96 * math.sqrt(count) / 2
    low, high = max(math.floor(count / 2 - reach), 1), min(math.ceil(count / 2 + 1 + reach), count)
    return float((ordered[high - 1] - ordered[low - 1]) / np.median(ordered))


def measure(
    stages: Sequence[Callable[[int], None]],
    num_buffers: int,
    clock: HostClock,
    end_s: float,
    target_width: float = CI_WIDTH,
    now_s: Callable[[], float] = time.monotonic,
) -> Floats:
    """Repeat stages at least three times, until the median's interval has its target width or the time is up.

    Each stage is called with the index of a buffer; buffers take turns, so that no repetition finds its data in the
    cache. The end is one of `now_s`, of wall time, whatever the clock of the device is.

    Returns
    -------
    ndarray
        Seconds of each repetition (rows) and stage (columns).
    """
    begin_s, turn, hold_s = now_s(), 0, 0.0
    rows: list[list[float]] = []
    for _ in range(WARM_UPS):
        _, given_s = repeat(stages, turn % num_buffers, clock)
        hold_s = min(HOLD_MARGIN * given_s, MOST_HOLD_S)
        turn += 1
        if now_s() > end_s:
            break
    slow = (now_s() - begin_s) / turn * BATCH > end_s - begin_s
    while len(rows) < MOST_REPETITIONS:
        for _ in range(1 if slow else BATCH):
            rows.append(repeat(stages, turn % num_buffers, clock, hold_s)[0])
            turn += 1
        enough = len(rows) >= BATCH and ci_width(np.sum(rows, axis=1)) <= target_width
        if enough or (len(rows) >= 3 and now_s() >= end_s):
            break
    return np.array(rows)


def repeat(
    stages: Sequence[Callable[[int], None]], buffer: int, clock: HostClock, hold_s: float = 0.0
) -> tuple[list[float], float]:
    """Run stages once; return the seconds of each, and the seconds that the host took to give them to the device."""
    clock.hold(hold_s)
    marks = [clock.mark()]
    begin_s = time.perf_counter()
    for stage in stages:
        stage(buffer)
        marks.append(clock.mark())
    given_s = time.perf_counter() - begin_s
    clock.elapsed_s(marks[0], marks[-1])
    return [clock.elapsed_s(first, second) for first, second in pairwise(marks)], given_s


def make_point(
    kernel: str, size: int, samples_s: Floats, peaks: Any = None, *, stages_s: Sequence[float] = (), **fields: Any
) -> ProfilePoint:
    """Put a point together from the seconds of each repetition and stage.

    It has the medians of the stages that are given, and its shares of the `peaks`, as of a `Header`.
    """
    total_s = samples_s.sum(axis=1)
    first_s, median_s, third_s = np.quantile(total_s, [0.25, 0.5, 0.75]).tolist()
    forward_s, backward_s = [*stages_s, 0.0, 0.0][:2]
    point = ProfilePoint(
        kernel=kernel,
        size=size,
        size_unit=SIZE_UNITS[kernel],
        time_s=median_s,
        time_q25_s=first_s,
        time_q75_s=third_s,
        forward_s=forward_s,
        backward_s=backward_s,
        median_ci_share=ci_width(total_s),
        num_repetitions=len(samples_s),
        **fields,
    )
    if peaks is None:
        return point
    matmul = point.flop / peaks.matmul_flop_per_s / point.time_s
    copy = point.moved_bytes / peaks.copy_bytes_per_s / point.time_s
    return msgspec.structs.replace(
        point, matmul_peak_share=matmul, copy_peak_share=copy, roofline_share=max(matmul, copy)
    )
