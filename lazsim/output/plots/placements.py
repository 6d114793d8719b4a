"""The picture of a comparison of placements: goodput over the reliability of plans."""

import matplotlib
from matplotlib.axes import Axes

from lazsim.output.plots.export import new_figure, to_files
from lazsim.output.plots.style import COLORS, MARKERS, STYLE
from lazsim.study.result import RunResult


def placements_figure(result: RunResult) -> dict[str, bytes]:
    """Draw a run whose plans were scored; by file type, the same bytes for the same result."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.2, 3)
        plot_placements(result, figure.subplots())
        figure.legend(loc="outside right upper")
        return to_files(figure)


def plot_placements(result: RunResult, axes: Axes) -> None:
    """Draw a marker for each run: goodput over the probability that every expert survives the next failure.

    Runs of one system share a colour. A bar is the interval of a probability that was sampled.
    """
    systems = list(dict.fromkeys(run.system for run in result.runs))
    for index, run in enumerate(result.runs):
        if run.plan_recovery is None:
            continue
        score = run.plan_recovery
        below, above = score.recovery_prob - score.ci_low, score.ci_high - score.recovery_prob
        axes.errorbar(
            score.recovery_prob,
            run.goodput_samples_per_s,
            xerr=[[max(0.0, below)], [max(0.0, above)]],
            label=run.name,
            color=COLORS[systems.index(run.system) % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=6,
            markeredgewidth=0,
            linestyle="none",
            elinewidth=0.8,
            clip_on=False,
            zorder=3,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("probability that every expert\nsurvives the next failure")
    axes.set_ylabel("samples/s")
