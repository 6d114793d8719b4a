"""What several experiments share: pictures and tables of the runs of some systems."""

import numpy as np
import pandas as pd

from lazsim.engine.interval import interval_steps
from lazsim.engine.log import State
from lazsim.output.plots.charts import INTERVAL, draw_intervals
from lazsim.output.plots.run import plot_nodes, plot_rates
from lazsim.output.plots.style import COLUMN_INCHES, PAPER, add_legend, begin_at_0, looks_of, new_figure, picture
from lazsim.output.windows import time_unit, windows
from lazsim.study.comparison import paired_ratio
from lazsim.study.intervals import mean_interval

COUNTS = ("num_failures", "num_reconfigurations", "num_restarts", "lost_steps", "ettr")


@picture(PAPER)
def samples_figure(frame):
    """Draw the samples of a table of `compare`: for each model a group of bars with intervals, one for each system."""
    frame = frame.assign(**{column: frame[column] / 1000 for column in ("samples", *INTERVAL)})
    models = list(frame["model"].unique())
    looks = looks_of(list(frame["system"].unique()))
    width = 0.8 / len(looks)
    figure = new_figure(COLUMN_INCHES, 1.7)
    axes = figure.subplots()
    for index, (name, look) in enumerate(looks.items()):
        shown = frame[frame["system"] == name].set_index("model").reindex(models)
        places = np.arange(len(models)) + (index - (len(looks) - 1) / 2) * width
        draw_bars(axes, places, shown["samples"], width * 0.92, name, look)
        draw_intervals(axes, places, shown, "samples", INTERVAL)
    axes.set_xticks(range(len(models)), models)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("samples trained (thousands)")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    add_legend(figure, axes)
    return figure


def draw_bars(axes, places, heights, width, label, look, bottom=0.0):
    """Draw a bar of each height at each place, in one look."""
    style = {"color": look.color, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
    axes.bar(places, heights.to_numpy(dtype=float), width, bottom=bottom, label=label, **style)


@picture(PAPER)
def rates_figure(runs):
    """Draw a panel for each model, of runs with columns ``model``, ``system``, ``wall_s`` and ``states``."""
    models = list(runs["model"].unique())
    wall_s = float(runs["wall_s"].iloc[0])
    figure = new_figure(COLUMN_INCHES, 0.95 * len(models) + 1.15)
    axes = figure.subplots(len(models) + 1, sharex=True, height_ratios=[1.0] * len(models) + [0.45])
    for model, panel in zip(models, axes, strict=False):
        shown = runs[runs["model"] == model].set_index("system")["states"]
        for name, look in looks_of(list(shown.index)).items():
            rates = windows([State(*state) for state in shown[name]], wall_s)
            plot_rates(panel, rates, name, look, time_unit(wall_s)[1])
        begin_at_0(panel)
        panel.set_title(model)
        panel.set_ylabel("samples/s")
    axes[0].fill_between([], [], color="0.5", alpha=0.25, linewidth=0, label="lost again")
    plot_nodes(runs["states"].iloc[0], wall_s, axes[-1])
    axes[-1].set_ylabel("nodes")
    figure.align_ylabels()
    add_legend(figure, axes[0])
    return figure


def compare(rows, setting, value="samples", *, less_is_better=False):
    """Compare the first system with every other, in each setting.

    Parameters
    ----------
    rows
        A row for each run: `setting`, ``system``, ``seed`` and `value`, such as those of a sweep. Systems are compared
        at the seeds that both have.
    setting
        Columns that tell settings apart.
    value
        Column that is compared.
    less_is_better
        Whether the system with less of it is the better one, as for a time.

    Returns
    -------
    DataFrame
        A row for each setting and system: mean and 95 % interval over seeds of the value, means of counts, and
        ``advantage``, the total of the first system over that of this one (the other way round where less is better),
        with its interval.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"system": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "model": "m", "samples": [4, 2, 8, 4]})
    >>> compare(rows, ["model"])[["system", "samples", "advantage"]].values.tolist()
    [['a', 6.0, 1.0], ['b', 3.0, 2.0]]
    """
    found = []
    for key, group in rows.groupby(list(setting), sort=False):
        by_system = {system: part.set_index("seed") for system, part in group.groupby("system", sort=False)}
        first = next(iter(by_system.values()))[value].to_dict()
        for system, part in by_system.items():
            mine = part[value].to_dict()
            mean, low, high = mean_interval(mine.values())
            times, times_low, times_high = paired_ratio(first, mine, less_is_better=less_is_better)
            found.append(
                dict(zip(setting, key, strict=True))
                | {"system": system, "runs": len(part), value: mean, "ci_low": low, "ci_high": high}
                | {"advantage": times, "advantage_low": times_low, "advantage_high": times_high}
                | {count: float(part[count].mean()) for count in COUNTS if count in part}
            )
    return pd.DataFrame(found)


def advantage_change(table, column, before, after, setting):
    """Return by how much the advantage over each system changes from one value of a column to another.

    `table` is that of `compare`. `setting` has the other columns that tell settings apart; settings that lack either
    value are left out.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"loads": ["even", "odd"] * 2, "system": ["a", "a", "b", "b"], "advantage": [1, 1, 2, 3]})
    >>> advantage_change(table, "loads", "even", "odd", []).values.tolist()
    [['b', 2, 3, 0.5]]
    """
    keys = [*setting, "system"]
    sides = [
        table[table[column] == value].set_index(keys)["advantage"].rename(value).to_frame() for value in (before, after)
    ]
    joined = sides[0].join(sides[1], how="inner").reset_index()
    others = joined[joined["system"] != table["system"].iloc[0]]
    return others.assign(change=others[after] / others[before] - 1)


def young_interval_steps(scenario, between_failures_s):
    """Return Young's interval in steps of the scenario's system on its full cluster; at least 1."""
    system, costs = scenario.find_system(), scenario.costs()
    return interval_steps(system, costs, scenario.load_routing(), scenario.cluster.num_nodes, between_failures_s)
