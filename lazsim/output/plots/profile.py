"""The pictures of measured costs: times and roofline of a profile, and a layer under skew."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from lazsim.costmodel.profile import SIZE_UNITS, Profile, require_header
from lazsim.output.plots.export import subplots, to_files
from lazsim.output.plots.style import COLORS, STYLE
from lazsim.profiling.results import SkewResult

LINE_COLORS = (*COLORS, "#7a5c2e", "#5b4fa3", "#c2a300", "#2aa7a7", "#a4231d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
PANELS = (
    ("computing", ("tokens", "assignments", "params"), "tokens, assignments or parameters"),
    ("exchanges", ("bytes",), "bytes of a rank, or of a file"),
)


def profile_figure(profile: Profile) -> dict[str, bytes]:
    """Draw times by size beside the roofline.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``; the same bytes for the same profile.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 3, figsize=(10, 4))
        for one, (title, units, label) in zip(axes[:2], PANELS, strict=True):
            plot_times(profile, units, one)
            one.set(title=title, xlabel=label, ylabel="time (s)")
        plot_roofline(profile, axes[2])
        return to_files(figure)


def plot_times(profile: Profile, units: tuple[str, ...], axes: Axes) -> None:
    """Draw the time of each kernel by size, with its quartiles."""
    kernels = [kernel for kernel in profile.kernels if SIZE_UNITS[kernel] in units]
    for index, kernel in enumerate(kernels):
        points = profile.of(kernel)
        sizes = [point.size for point in points]
        color = LINE_COLORS[index % len(LINE_COLORS)]
        marker = MARKERS[index % len(MARKERS)]
        label = kernel.replace("_", " ")
        axes.plot(sizes, [point.time_s for point in points], color=color, marker=marker, markersize=2.5, label=label)
        quartiles = ([point.time_q25_s for point in points], [point.time_q75_s for point in points])
        axes.fill_between(sizes, *quartiles, color=color, alpha=0.25, linewidth=0)
    axes.set(xscale="log", yscale="log")
    _legend(axes)


def plot_roofline(profile: Profile, axes: Axes) -> None:
    """Draw the rate of each kernel over its intensity, under the measured peaks of the device."""
    header = require_header(profile)
    ridge = header.matmul_flop_per_s / header.copy_bytes_per_s
    computing = [kernel for kernel in profile.kernels if SIZE_UNITS[kernel] in PANELS[0][1]]
    with_traffic = {kernel: [point for point in profile.of(kernel) if point.moved_bytes > 0] for kernel in computing}
    kernels = {kernel: points for kernel, points in with_traffic.items() if points and points[0].flop > 0}
    intensities = [point.flop / point.moved_bytes for points in kernels.values() for point in points]
    low, high = min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2
    line = np.geomspace(low, high, 200)
    axes.plot(line, np.minimum(line * header.copy_bytes_per_s, header.matmul_flop_per_s), color="0.3", linewidth=1)
    for kernel, points in kernels.items():
        index = computing.index(kernel)
        axes.plot(
            [point.flop / point.moved_bytes for point in points],
            [point.flop / point.time_s for point in points],
            color=LINE_COLORS[index % len(LINE_COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=2.5,
            linewidth=0.5,
        )
    axes.set(xscale="log", yscale="log", title="roofline (marks as on the left)")
    axes.set(xlabel="operations per byte that has to move", ylabel="operations per second")


def _legend(axes: Axes) -> None:
    """Explain lines below the axes, where they hide none."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)


def skew_figure(result: SkewResult) -> dict[str, bytes]:
    """Draw a layer's time as one expert draws more, measured and predicted, without and with allocation.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``; the same bytes for the same numbers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(figsize=(4.6, 3))
        skews = [row.skew for row in result.rows]
        series = {
            "even replicas": [(row.even_measured_s, row.even_predicted_s) for row in result.rows],
            "allocated": [(row.allocated_measured_s, row.allocated_predicted_s) for row in result.rows],
        }
        for index, (label, pairs) in enumerate(series.items()):
            measured, predicted = ([1e3 * seconds for seconds in one] for one in zip(*pairs, strict=True))
            color, marker = COLORS[index], MARKERS[index]
            axes.plot(skews, measured, color=color, marker=marker, markersize=4, label=f"{label}, measured")
            axes.plot(skews, predicted, color=color, linestyle="--", label=f"{label}, predicted")
        axes.set_xscale("log", base=2)
        axes.set_xticks(skews, [f"{skew:g}x" for skew in skews])
        axes.set(xlabel="what one expert draws of its even share", ylabel="layer, forward and backward (ms)")
        axes.set_ylim(bottom=0)
        axes.legend()
        return to_files(figure)
