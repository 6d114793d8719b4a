"""The pictures of reliability: the probability that plans survive failures, and the failures they do not survive."""

import math
from math import comb
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.names import shown_names
from lazsim.output.plots.style import LOOKS, RED, STYLE, add_legend, looks_of, new_figure, picture, write_beside
from lazsim.placement.plan import Bools, Floats
from lazsim.reliability.failure_scenarios import TraceBatches
from lazsim.reliability.survival import PolicyReliability, ReliabilityReport

NAME_WIDTH = 20
LARGEST, SMALLEST = 6.0, 3.5
"""Sizes of the markers of the first and the last policy, in points."""

BESIDE_SHARE = 0.5
"""Part of the distance of two numbers of failures over which the policies stand side by side."""

MAX_LINEAR = 32
"""Failures up to which the axis is linear."""

MAX_SETS_DRAWN = 16
LEAST_ROWS = 6
ROW_INCHES = 0.12
SHARE_INCHES = 0.8
SET_COLUMNS = 4
"""Policies side by side in the picture of failure sets."""

FAR_SHARE = 0.5
"""Share of fatal sets from which on an axis has all shares: with less, curves and bars would lie on its end."""


@picture(STYLE)
def recovery_figure(report: ReliabilityReport) -> Figure:
    """Draw the curves of all policies; beside them those with layers shuffled, below them the batches of a trace."""
    found, trace = list(report.policies.values()), report.scenarios.trace
    several = any(len(one.shuffled_RF) for one in found)
    names = ["whole", "shuffled"] if several else ["whole"]
    mosaic: Any = [names] if trace is None else [names, ["batches", *names[1:]]]
    figure = new_figure(4.6 + 3.0 * several, 3.3 + 0.9 * (trace is not None))
    axes = figure.subplot_mosaic(mosaic, height_ratios=None if trace is None else [3.6, 1], sharex=True)
    prob_PF, low_PF, high_PF = (
        np.stack([getattr(one.curve, name) for one in found]) for name in ("recovery_prob", "ci_low", "ci_high")
    )
    _draw(report, prob_PF, low_PF, high_PF, axes["whole"])
    axes["whole"].set_ylabel("probability that every expert survives")
    if several:
        axes["whole"].set_title("layers as placed", loc="left", pad=9)
        # Mean, least and most of the shuffles.
        shuffled_PRF = np.stack([one.shuffled_RF for one in found])
        times = shuffled_PRF.shape[1]
        axes["shuffled"].set_title(f"nodes of each layer shuffled ({times} times)", loc="left", pad=9)
        _draw(report, shuffled_PRF.mean(axis=1), shuffled_PRF.min(axis=1), shuffled_PRF.max(axis=1), axes["shuffled"])
    if trace is not None:
        _draw_batch_sizes(trace, axes["batches"])
    for panel in (axes[name] for name in mosaic[-1]):
        panel.set_xlabel(f"{report.scenarios.unit} that fail together")
    add_legend(figure, axes["whole"])
    return figure


@picture(STYLE)
def failure_sets_figure(report: ReliabilityReport) -> Figure:
    """Draw, for each policy, the share of fatal sets among all sets of a size, above the minimal failure sets."""
    shown = shown_names(report.policies, NAME_WIDTH)
    policies = [(shown[name], found) for name, found in report.policies.items()]
    columns = min(len(policies), SET_COLUMNS)
    lines = [policies[start : start + columns] for start in range(0, len(policies), columns)]
    most = _reach(max(float(1 - found.curve.recovery_prob.min()) for _, found in policies))
    heights = [min(max(len(one.sets_MN) for _, one in line), MAX_SETS_DRAWN) for line in lines]
    ratios = [inches for height in heights for inches in (SHARE_INCHES, max(height, LEAST_ROWS) * ROW_INCHES)]
    width = min(max(policies[0][1].sets_MN.shape[1] * 0.13, 1.7), 2.6)
    figure = new_figure(columns * (width + 0.3) + 0.4, math.fsum(ratios) + 1.25 * len(lines))
    axes = figure.subplots(2 * len(lines), columns, height_ratios=ratios, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for row, line in enumerate(lines):
        for column, (name, found) in enumerate(line):
            upper, lower = axes[2 * row : 2 * row + 2, column]
            upper.set_axis_on()
            lower.set_axis_on()
            _draw_fatal_share(found, upper, report.scenarios.unit, most)
            upper.set_title(name, loc="left", fontweight="bold", pad=12)
            _draw_failure_sets(found.sets_MN, lower, num_rows=max(heights[row], LEAST_ROWS))
        axes[2 * row, 0].set_ylabel("share of sets\nthat are fatal")
        axes[2 * row + 1, 0].set_ylabel(f"{report.scenarios.unit} of\neach set", loc="top")
    return figure


def _draw_batch_sizes(trace: TraceBatches, axes: Axes) -> None:
    shares = np.array(trace.weights) / sum(trace.weights)
    axes.bar(trace.sizes, shares, width=0.6, color="0.6")
    axes.set(ylabel="share of\nbatches", ylim=(0, max(shares) * 1.25))
    write_beside(axes, trace.name, (1, 1), (-2, -2), ha="right", va="top")


def _draw_failure_sets(sets_MN: Bools, axes: Axes, num_rows: int) -> None:
    """Draw failure sets as rows, smallest first; a set is fatal when all of its nodes fail."""
    num_sets, num_nodes = sets_MN.shape
    order = sorted(range(num_sets), key=lambda row: (sets_MN[row].sum(), (~sets_MN[row]).tolist()))
    shown = sets_MN[order[:num_rows]]
    edges = np.arange(num_nodes + 1) - 0.5, np.arange(len(shown) + 1) - 0.5
    colors, edge = ListedColormap(["0.94", LOOKS[0].color]), "white" if num_nodes <= 40 else "none"
    axes.pcolormesh(*edges, shown, cmap=colors, vmin=0, vmax=1, edgecolor=edge, linewidth=0.4)
    sizes = shown.sum(axis=1)
    for row in np.flatnonzero(np.diff(sizes)):
        axes.axhline(row + 0.5, color=RED, linewidth=0.8)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        style = {"va": "center", "fontsize": 6, "color": RED}
        write_beside(axes, f"of {size}", (1, rows.mean()), (3, 0), axes.get_yaxis_transform(), **style)
    # Rows of all panels are equally high, whatever their number.
    axes.set(xlim=(-0.5, num_nodes - 0.5), ylim=(num_rows - 0.5, -0.5))
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.tick_params(length=0, labelsize=6, top=True, labeltop=True, bottom=False, labelbottom=False, pad=1)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    text = f"{num_sets} minimal fatal set{'' if num_sets == 1 else 's'}"
    text += f", {len(shown)} smallest shown" if num_sets > len(shown) else ""
    write_beside(axes, text, (0, 1), (0, 11))


def _reach(share: float) -> float:
    """Return where an axis of shares that end at this one ends."""
    return 1.2 * share if 0 < share < FAR_SHARE else 1.0


def _draw_fatal_share(found: PolicyReliability, axes: Axes, unit: str, most: float) -> None:
    """Draw the share of all sets of a size whose failure loses an expert, with their number for the smallest size."""
    curve, (_, num_nodes) = found.curve, found.sets_MN.shape
    # Numbers of failures may be far apart: one bar each, side by side.
    bars = np.arange(len(curve.failures))
    axes.bar(bars, 1 - curve.recovery_prob, width=0.7, color=RED)
    axes.set(xlim=(-0.6, len(bars) - 0.4), ylim=(0, most))
    if most == 1:
        axes.set_yticks([0, 0.5, 1])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(3))
    ticks = bars[:: -(-len(bars) // 10)]
    axes.set_xticks(ticks, [str(number) for number in curve.failures[ticks]])
    axes.tick_params(labelsize=6)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(f"{unit} in the set", labelpad=1)
    size = curve.guaranteed
    if 0 < size <= num_nodes:
        num_fatal = int((found.sets_MN.sum(axis=1) == size).sum())
        total = comb(num_nodes, size)
        whole = f"{total:,}" if total < 10**10 else f"{total:.1e}".replace("e+", " x 10^")
        told = f"fatal: {num_fatal:,} of {whole} sets of {size}"
        write_beside(axes, told, (0.02, 1), (0, 1), va="bottom", fontsize=6)


def _draw(report: ReliabilityReport, prob_PF: Floats, low_PF: Floats, high_PF: Floats, axes: Axes) -> None:
    """Draw probabilities over numbers of failures, with intervals, by policy."""
    names, failures = list(report.policies), np.array(report.scenarios.failures)
    # Numbers of failures that are far apart belong on a logarithmic axis.
    is_sparse = failures.min() > 0 and failures.max() > MAX_LINEAR
    # Behind the first 0 nothing is left to see.
    is_seen_PF = np.cumsum(prob_PF == 0, axis=1) <= (prob_PF == 0)
    looks, shown = looks_of(names), shown_names(names, NAME_WIDTH)
    places = np.log2(failures) if is_sparse else failures
    gap = BESIDE_SHARE * min(np.diff(places), default=1) / len(names)
    for index, name in enumerate(names):
        prob, stop = prob_PF[index], int(is_seen_PF[index].sum())
        # Equal points stand side by side.
        moved = places + (index - (len(names) - 1) / 2) * gap
        moved = (2**moved if is_sparse else moved)[:stop]
        look = looks[name]
        width = np.stack([prob - low_PF[index], high_PF[index] - prob]).clip(0)
        axes.plot(moved, prob[:stop], color=look.color, linewidth=0.7, alpha=0.6)
        # Where points lie close, one sees the later markers inside the earlier ones.
        size = LARGEST - (LARGEST - SMALLEST) * index / max(1, len(names) - 1)
        axes.plot(
            moved, prob[:stop], label=shown[name], color=look.color, linestyle="none", marker=look.marker,
            markersize=size, markerfacecolor="none", clip_on=False, zorder=3 + index / 100,
        )  # fmt: skip
        if width.any():
            axes.errorbar(
                moved, prob[:stop], width[:, :stop], fmt="none", ecolor=look.color, elinewidth=0.8,
                capsize=1.2, clip_on=False, zorder=3 + index / 100,
            )  # fmt: skip
    axes.set_ylim(1 - _reach(float(1 - low_PF.min())), 1)
    if is_sparse:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
