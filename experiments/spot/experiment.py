"""Spot instances: the first 80 minutes of the EC2 P3 trace.

How much does each system train on spot nodes that come and go, ten at most?
"""

import pandas as pd
from lazsim_experiments.shared import advantage_change, compare, rates_figure, samples_figure

from lazsim.study.experiment import GENERATED, RECORDED, Outcome, overlay

SETTINGS = {
    "models": ["gpt-s", "gpt-m", "gpt-l"],
    "systems": ["lazarus", "dropless-ft", "ds-ft", "ds"],
    # Seeds draw the generated traces, the members of the job or the nodes that the cap hides, and the generated loads.
    "seeds": list(range(10)),
    "traces": {"generated": "spot-p3-like", "recorded": "bamboo-p3"},
    # How the trace is held to ten nodes is not published. A job whose members are replaced by newly granted nodes only
    # is the natural reading; that every loss is felt, and that spares step in, are defensible.
    "base": {"cluster": "rtx3090x10", "job": "testbed-a", "duration": "80min", "max_nodes": 10, "cap": "members"},
    "other_caps": ["offset", "clip"],
}

SMALL = {"models": ["gpt-s"], "seeds": [0, 1], "base": {"duration": "20min"}}

SETTING = ["loads", "trace", "model"]


def run(context, settings):
    """Compare the systems by the samples that they train, and draw the runs of the first seed on each trace."""
    runs = rows(context, settings)
    table = compare(runs, SETTING)
    by_cap = [runs.assign(cap=settings["base"]["cap"])]
    # Of the largest model alone, for time.
    largest = settings | {"models": settings["models"][-1:]}
    by_cap += [
        rows(context, overlay(largest, {"base": {"cap": cap}})).assign(cap=cap) for cap in settings["other_caps"]
    ]
    tables = {"samples": table, "caps": compare(pd.concat(by_cap, ignore_index=True), ["cap", *SETTING])}
    if RECORDED in context.routings():
        tables["recorded-loads"] = advantage_change(table, "loads", GENERATED, RECORDED, ["trace", "model"])
    figures = {}
    traces = list(table["trace"].unique())
    for trace in traces:
        shown = runs[(runs["loads"] == context.best_loads) & (runs["trace"] == trace)]
        suffix = f"-{trace}" if len(traces) > 1 else ""
        figures[f"throughput{suffix}"] = rates_figure(shown[shown["seed"] == settings["seeds"][0]])
        figures[f"samples{suffix}"] = samples_figure(compare(shown, SETTING))
    return Outcome(tables, figures, context.missing(settings["traces"].values()))


def advantages(context, settings):
    """Return how many times as many samples the first system trains."""
    return compare(rows(context, settings), SETTING)


def rows(context, settings):
    """Return a row for each run."""
    return context.replay(**{name: value for name, value in settings.items() if name != "other_caps"})
