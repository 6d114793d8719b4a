"""The pictures of measured costs: times and roofline of a profile, and a layer under skew."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lazsim.costmodel.profile import SIZE_UNITS, Profile, require_header
from lazsim.output.plots.charts import number_log_axis
from lazsim.output.plots.style import LOOKS, STYLE, Look, begin_at_0, new_figure, picture
from lazsim.profiling.results import SkewResult

PANELS = (
    ("computing", ("tokens", "assignments", "params"), "tokens, assignments or parameters"),
    ("exchanges", ("bytes",), "bytes of a rank, or of a file"),
)


@picture(STYLE)
def profile_figure(profile: Profile) -> Figure:
    """Draw times by size beside the roofline."""
    panels = [each for each in PANELS if kernel_looks(profile, each[1])]
    figure = new_figure(0.4 + 3.2 * (len(panels) + 1), 4)
    axes = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    for panel, (title, units, label) in zip(axes, panels, strict=False):
        _draw_times(profile, units, panel)
        panel.set(title=title, xlabel=label, ylabel="time")
    _draw_roofline(profile, axes[-1])
    return figure


def _draw_times(profile: Profile, units: tuple[str, ...], axes: Axes) -> None:
    """Draw the time of each kernel by size, with its quartiles."""
    for kernel, look in kernel_looks(profile, units).items():
        points = profile.of(kernel)
        sizes = [point.size for point in points]
        label = kernel.replace("_", " ")
        axes.plot(
            sizes, [point.time_s for point in points], color=look.color, marker=look.marker, markersize=2.5, label=label
        )
        quartiles = ([point.time_q25_s for point in points], [point.time_q75_s for point in points])
        axes.fill_between(sizes, *quartiles, color=look.color, alpha=0.25, linewidth=0)
    axes.set(xscale="log", yscale="log")
    number_log_axis(axes.xaxis)
    number_log_axis(axes.yaxis, "s")
    if axes.lines:
        # Below the axes, where it hides no line.
        axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)


def _draw_roofline(profile: Profile, axes: Axes) -> None:
    """Draw the rate of each kernel over its intensity, under the measured peaks of the device."""
    header = require_header(profile)
    ridge = header.matmul_flop_per_s / header.copy_bytes_per_s
    looks = kernel_looks(profile, PANELS[0][1])
    with_traffic = {kernel: [point for point in profile.of(kernel) if point.moved_bytes > 0] for kernel in looks}
    kernels = {kernel: points for kernel, points in with_traffic.items() if points and points[0].flop > 0}
    intensities = [point.flop / point.moved_bytes for points in kernels.values() for point in points]
    line = np.geomspace(min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2, 200)
    axes.plot(line, np.minimum(line * header.copy_bytes_per_s, header.matmul_flop_per_s), color="0.3", linewidth=1)
    for kernel, points in kernels.items():
        look = looks[kernel]
        places = [point.flop / point.moved_bytes for point in points]
        rates = [point.flop / point.time_s for point in points]
        axes.plot(places, rates, color=look.color, marker=look.marker, markersize=2.5, linewidth=0.5)
    axes.set(xscale="log", yscale="log", title="roofline (marks as on the left)")
    axes.set(xlabel="operations per byte that has to move", ylabel="rate (the line: what the device allows)")
    number_log_axis(axes.xaxis)
    number_log_axis(axes.yaxis, "FLOP/s")


def kernel_looks(profile: Profile, units: tuple[str, ...]) -> dict[str, Look]:
    """Return the kernels of a profile in these units with their looks, which are the same in every picture."""
    known = dict(zip((kernel for kernel in SIZE_UNITS if SIZE_UNITS[kernel] in units), itertools.cycle(LOOKS)))
    return {kernel: known[kernel] for kernel in profile.kernels if kernel in known}


@picture(STYLE)
def skew_figure(result: SkewResult) -> Figure:
    """Draw a layer's time as one expert draws more, measured and predicted, without and with allocation."""
    figure = new_figure(4.6, 3)
    axes = figure.subplots()
    skews = [row.skew for row in result.rows]
    series = {
        "even replicas": [(row.even_measured_s, row.even_predicted_s) for row in result.rows],
        "allocated": [(row.allocated_measured_s, row.allocated_predicted_s) for row in result.rows],
    }
    for (label, pairs), look in zip(series.items(), LOOKS, strict=False):
        measured, predicted = ([1e3 * seconds for seconds in one] for one in zip(*pairs, strict=True))
        axes.plot(skews, measured, color=look.color, marker=look.marker, markersize=4, label=f"{label}, measured")
        axes.plot(skews, predicted, color=look.color, linestyle="--", label=f"{label}, predicted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(skews, [f"{skew:g}x" for skew in skews])
    axes.set(xlabel="what one expert draws of its even share", ylabel="layer, forward and backward (ms)")
    begin_at_0(axes)
    axes.legend()
    return figure
