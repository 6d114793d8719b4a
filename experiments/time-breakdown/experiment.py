"""(f) Where the time goes: computing, checkpoints, lost work, recovery.

What do systems spend their time on under failures?
"""

import pandas as pd

from lazsim.engine.ledger import BUCKETS
from lazsim.output.plots.charts import stacked_figure
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
    figure = stacked_figure(
        shown.assign(panel=panel), panel="panel", bar="system", parts=BUCKETS,
        y_label=f"share of time, {settings['model']}",
    )  # fmt: skip
    traces = [trace for one in experiments for trace in one.settings(small=context.small)["traces"].values()]
    return Outcome({"time": table}, {"time": figure}, context.missing(traces))


def shares(experiment, context):
    """Return the mean shares of an experiment's runs."""
    rows = experiment.call("rows", context)
    parts = pd.DataFrame({bucket: rows[f"{bucket}_s"] / rows["wall_s"] for bucket in BUCKETS})
    labelled = rows.assign(experiment=experiment.name)[SETTING].join(parts)
    return labelled.groupby(SETTING, sort=False).mean().reset_index()
