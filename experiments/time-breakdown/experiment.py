"""Where the time goes: computing, checkpoints, lost work, recovery.

What do systems spend their time on under failures?
"""

import numpy as np
import pandas as pd
from lazsim_experiments.shared import draw_bars

from lazsim.engine.ledger import BUCKETS
from lazsim.output.plots.charts import MOST_BESIDE, panel_grid
from lazsim.output.plots.style import BUCKET_COLORS, LOOKS, PAPER, add_legend, picture
from lazsim.study.experiment import Outcome, load_experiment

SETTINGS = {
    "of": ["failures-5min", "failures-40min", "spot"],
    # The model of the figure; the table has all.
    "model": "gpt-l",
}

SMALL = {"of": ["failures-5min"], "model": "gpt-s"}

SETTING = ["experiment", "loads", "trace", "model", "system"]


def run(context, settings):
    """Return the shares of time by bucket of the ledger, means over seeds."""
    experiments = [load_experiment(name) for name in settings["of"]]
    table = pd.concat([shares(one, context) for one in experiments], ignore_index=True)
    shown = table[(table["loads"] == context.best_loads) & (table["model"] == settings["model"])]
    has_several = shown.groupby("experiment")["trace"].transform("nunique") > 1
    panel = shown["experiment"].where(~has_several, shown["experiment"] + ", " + shown["trace"])
    figure = buckets_figure(shown.assign(panel=panel), f"share of time, {settings['model']}")
    traces = [trace for one in experiments for trace in one.settings(small=context.small)["traces"].values()]
    return Outcome({"time": table}, {"time": figure}, context.missing(traces))


def shares(experiment, context):
    """Return the mean shares of an experiment's runs."""
    rows = experiment.call("rows", context)
    parts = pd.DataFrame({bucket: rows[f"{bucket}_s"] / rows["wall_s"] for bucket in BUCKETS})
    labelled = rows.assign(experiment=experiment.name)[SETTING].join(parts)
    return labelled.groupby(SETTING, sort=False).mean().reset_index()


@picture(PAPER)
def buckets_figure(table, y_label):
    """Stack the buckets of each system in a bar, in a panel for each of the column of this name."""
    names = list(table["panel"].unique())
    figure, axes = panel_grid(len(names), min(MOST_BESIDE, len(names)))
    for place, name in zip(axes.flat, names, strict=False):
        shown = table[table["panel"] == name]
        below = np.zeros(len(shown))
        for bucket, look in zip(BUCKETS, LOOKS, strict=False):
            look = look._replace(color=BUCKET_COLORS[bucket])
            draw_bars(place, range(len(shown)), shown[bucket], 0.75, bucket.replace("_", " "), look, bottom=below)
            below += shown[bucket].to_numpy(dtype=float)
        place.set_xticks(range(len(shown)), shown["system"], rotation=30, ha="right")
        place.tick_params(axis="x", length=0, pad=1)
        place.set_title(name)
        place.grid(visible=False, axis="x")
        place.set_ylim(0, 1)
    for first in axes[:, 0]:
        first.set_ylabel(y_label)
    add_legend(figure, axes[0, 0])
    return figure
