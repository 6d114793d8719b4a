"""The picture of advice: the value over the interval between checkpoints, and the alternatives."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.names import shown_names
from lazsim.output.plots.charts import number_log_axis, reach_of
from lazsim.output.plots.style import STYLE, Look, add_legend, looks_of, new_figure, picture
from lazsim.output.windows import time_unit
from lazsim.study.advise.question import name_apart, name_choice
from lazsim.study.advise.result import Advice
from lazsim.study.advise.search import Choice

CHOICE_LETTERS = 32
"""Letters of a choice beside what is drawn."""

LETTER_INCHES = 0.06
"""Width of a letter of these, on average."""

MOST_BARS = 10
"""Alternatives that are drawn."""

FAR_BEHIND = 1.3
"""Intervals this many times worse than the best are not drawn: they would flatten all others."""


@picture(STYLE)
def advice_figure(advice: Advice) -> Figure:
    """Draw by how much other choices are behind, beside what each interval gives where one was looked for."""
    ranking = advice.ranking[: MOST_BARS + 1]
    choices = list(dict.fromkeys([*advice.curves, *(one.name.choice for one in ranking)]))
    apart = name_apart(choices)[0]
    shown = shown_names(apart, CHOICE_LETTERS)
    names = {choice: shown[name] for choice, name in zip(choices, apart, strict=True)}
    labels = [names[one.name.choice] + (f" ({fault})" if (fault := advice.fault(one.name)) else "") for one in ranking]
    panels = 2 if advice.curves else 1
    figure = new_figure(0.5 + 3.0 * panels + LETTER_INCHES * max(map(len, labels)), max(2.6, 1.4 + 0.2 * len(ranking)))
    *curves, bars = figure.subplots(1, panels, squeeze=False)[0]
    looks = dict(zip(choices, looks_of(list(map(name_choice, choices))).values(), strict=True))
    for axes in curves:
        _draw_curves(advice, names, looks, axes)
        add_legend(figure, axes)
    for place, one in enumerate(ranking):
        # Costs of the best are the smaller ones, and its samples the larger ones.
        share, *bounds = (_percent(bound, is_cost=advice.goal.less_is_better) for bound in one.behind)
        reach = reach_of([(share, *sorted(bounds))])
        color = looks[one.name.choice].color
        face = color if not place or one.is_tie else "white"
        bars.errorbar([share], [place], xerr=reach, color=color, marker="o", markersize=4, markerfacecolor=face)
    bars.set_yticks(range(len(ranking)), labels)
    label = f"{advice.goal.heading}, % of the best choice\n(open: not as good, or too few seeds to tell)"
    bars.set(ylim=(len(ranking) - 0.5, -0.5), xlabel=label)
    bars.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    return figure


def _draw_curves(advice: Advice, names: Mapping[Choice, str], looks: Mapping[Choice, Look], curves: Axes) -> None:
    """Draw what each interval gives to the choices whose interval was tuned.

    Lines mark the interval found and those of Young and Daly.
    """
    times_s = {
        choice: [steps * advice.starts[choice].step_s for steps in curve] for choice, curve in advice.curves.items()
    }
    all_s = [at_s for some in times_s.values() for at_s in some]
    unit, unit_s = time_unit(math.sqrt(min(all_s) * max(all_s)))
    for choice, curve in advice.curves.items():
        look, means = looks[choice], [one.value for one in curve.values()]
        curves.errorbar(
            [at_s / unit_s for at_s in times_s[choice]], means, reach_of([*curve.values()]), color=look.color,
            marker=look.marker, linestyle=look.line, markersize=3, capsize=1.5, elinewidth=0.7, label=names[choice],
        )  # fmt: skip
    found_s, formulas = advice.seconds(advice.best), advice.formulas
    # No line where nothing is to be saved, or a formula does not apply.
    for name, at_s, line in (("best", found_s, "-"), ("Young", formulas.young_s, "--"), ("Daly", formulas.daly_s, ":")):
        if 0 < at_s < math.inf:
            curves.axvline(at_s / unit_s, color="0.3", linewidth=0.8, linestyle=line, label=name, zorder=0)
    best = advice.ranking[0].mean.value
    if not advice.fault(advice.best):
        low, high = curves.get_ylim()
        is_cost = advice.goal.less_is_better
        curves.set_ylim((low, min(high, best * FAR_BEHIND)) if is_cost else (max(low, best / FAR_BEHIND), high))
    curves.set(xscale="log", xlabel=f"time between checkpoints, {unit}", ylabel=advice.goal.heading)
    number_log_axis(curves.xaxis)


def _percent(behind: float, *, is_cost: bool) -> float:
    """Return the value of a choice in per cent of the best one's; the best is `behind` times as good."""
    return 100 * behind if is_cost else 100 / behind if behind else math.inf
