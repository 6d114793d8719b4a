"""(d) Spot instances: the first 80 minutes of the EC2 P3 trace.

How much does each system train on spot nodes that come and go, ten at most?
"""

from lazsim.output.plots.charts import bars_figure
from lazsim.output.plots.run import rates_figure
from lazsim.study.comparison import advantage_change, compare
from lazsim.study.experiment import GENERATED, RECORDED, Outcome

SETTINGS = {
    "models": ["gpt-s", "gpt-m", "gpt-l"],
    "systems": ["lazarus", "ds-ft", "ds"],
    # Seeds draw the generated traces, the spares that the cap keeps out, and the generated loads.
    "seeds": list(range(10)),
    "traces": {"generated": "spot-p3-like", "recorded": "bamboo-p3"},
    "base": {"cluster": "rtx3090x10", "job": "testbed-a", "duration": "80min", "max_nodes": 10, "cap": "offset"},
}

SMALL = {"models": ["gpt-s"], "seeds": [0, 1], "base": {"duration": "20min"}}

SETTING = ["loads", "trace", "model"]


def run(context, settings):
    """Compare the systems by the samples that they train, and draw the runs of the first seed on each trace."""
    runs = rows(context, settings)
    table = compare(runs, SETTING)
    tables = {"samples": table}
    if RECORDED in context.routings():
        tables["recorded-loads"] = advantage_change(table, "loads", GENERATED, RECORDED, ["trace", "model"])
    figures = {}
    traces = list(table["trace"].unique())
    for trace in traces:
        shown = runs[(runs["loads"] == context.best_loads) & (runs["trace"] == trace)]
        suffix = f"-{trace}" if len(traces) > 1 else ""
        figures[f"throughput{suffix}"] = rates_figure(shown[shown["seed"] == settings["seeds"][0]])
        figures[f"samples{suffix}"] = bars_figure(
            compare(shown, SETTING), group="model", value="samples", series="system", divisor=1000,
            y_label="samples trained (thousands)",
        )  # fmt: skip
    return Outcome(tables, figures, context.missing(settings["traces"].values()))


def advantages(context, settings):
    """Return how many times as many samples the first system trains."""
    return compare(rows(context, settings), SETTING)


def rows(context, settings):
    """Return a row for each run."""
    return context.replay(**settings)
