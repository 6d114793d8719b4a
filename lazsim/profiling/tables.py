"""Tables of a profile for people, within 80 columns."""

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.profile import SIZE_UNITS, Point, Profile, require_header
from lazsim.profiling.check import HeldOut, Reached
from lazsim.units import format_duration

SHOWN = ("gpu", "processor", "num_processors", "num_threads", "clock", "driver_version", "cuda", "load_average", "note")


def show_tables(profile: Profile) -> list[str]:
    """Say what was measured: conditions, then the smallest and the largest size of each kernel."""
    header = require_header(profile)
    lines = [
        f"{header.model.name} on {header.device}, {header.dtype}; torch {header.torch}, lazsim {header.lazsim}",
        *textwrap.wrap(
            ", ".join(f"{name} {header.conditions[name]}" for name in SHOWN if name in header.conditions), 80
        ),
        f"peaks: matmul {header.matmul_flop_per_s / 1e12:.3g} TFLOP/s, copy {header.copy_bytes_per_s / 1e9:.3g} GB/s",
        "",
        f"{'kernel':<18}{'size':>12} {'unit':<12}{'time':>9}{'+-CI':>6}{'matmul':>8}{'copy':>7}{'roof':>7}",
    ]
    for kernel in profile.kernels:
        points = profile.of(kernel)
        lines += [_row(point) for point in ([points[0], points[-1]] if len(points) > 1 else points)]
    lines += ["", "+-CI: half the median's 95 % interval"]
    lines += ["matmul, copy: share of the measured peak; roof: share of what the two allow"]
    for kernel, reason in header.left_out.items():
        lines += textwrap.wrap(f"left out: {kernel}: {reason}", 80, subsequent_indent="  ")
    return lines


def _row(point: Point) -> str:
    def share(value: float) -> str:
        return f"{value:.0%}" if value else "-"

    shares = f"{share(point.matmul_peak_share):>8}{share(point.copy_peak_share):>7}{share(point.roofline_share):>7}"
    time, spread = _short(point.time_s), point.median_ci_share / 2
    return f"{point.kernel:<18}{point.size:>12,.0f} {point.size_unit:<12}{time:>9}{spread:>6.0%}{shares}"


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else format_duration(seconds)


def check_table(errors: Sequence[HeldOut], together: npt.NDArray[np.float64], reached: Sequence[Reached]) -> list[str]:
    """Say how far the interpolation is off at points that were held out, and what kernels reach of plain ones."""
    lines = [f"{'kernel':<18}{'held out':>9}{'median':>8}{'90 %':>8}{'worst':>8}  {'at size':<12}{'+-CI':>6}"]
    lines += [
        f"{one.kernel:<18}{one.num_held_out:>9}{one.median_error:>8.1%}{one.p90_error:>8.1%}{one.worst_error:>8.1%}"
        f"  {one.worst_size:<12,.0f}{one.median_ci_share / 2:>6.0%}"
        for one in errors
    ]
    total = f"{'all':<18}{len(together):>9}{np.median(together):>8.1%}{np.quantile(together, 0.9):>8.1%}"
    lines += [f"{total}{together.max():>8.1%}", "+-CI: half the median's 95 % interval, as measured"]
    return [
        *lines,
        *(
            f"{one.kernel}: {one.share:.0%} of the rate of {one.of}, at {one.size:,.0f} {SIZE_UNITS[one.kernel]}"
            for one in reached
        ),
    ]
