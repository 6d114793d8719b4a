"""A failure every 5 minutes: throughput and samples trained.

How much does each system train on ten GPUs while a random one fails every 5 minutes, until half are left?
"""

from lazsim_experiments.shared import advantage_change, compare, rates_figure, samples_figure

from lazsim.study.experiment import GENERATED, RECORDED, Outcome

SETTINGS = {
    "models": ["gpt-s", "gpt-m", "gpt-l"],
    "systems": ["lazarus", "dropless-ft", "ds-ft", "ds"],
    # Seeds draw the nodes that fail and the generated loads; they are the same for every system.
    "seeds": list(range(10)),
    "traces": {"random": "fail-every-5min"},
    # As published, Lazarus takes no checkpoints here: an expert that is lost takes it back to the first step.
    "base": {"cluster": "rtx3090x10", "job": "testbed-a", "job.checkpoint_interval_steps.lazarus": 0},
}

SMALL = {"models": ["gpt-s"], "seeds": [0, 1]}

SETTING = ["loads", "trace", "model"]


def run(context, settings):
    """Compare the systems by the samples that they train, and draw the runs of the first seed."""
    runs = rows(context, settings)
    table = compare(runs, SETTING)
    tables = {"samples": table}
    if RECORDED in context.routings():
        tables["recorded-loads"] = advantage_change(table, "loads", GENERATED, RECORDED, ["trace", "model"])
    shown = runs[runs["loads"] == context.best_loads]
    figures = {
        "throughput": rates_figure(shown[shown["seed"] == settings["seeds"][0]]),
        "samples": samples_figure(compare(shown, SETTING)),
    }
    return Outcome(tables, figures, context.missing())


def advantages(context, settings):
    """Return how many times as many samples the first system trains."""
    return compare(rows(context, settings), SETTING)


def rows(context, settings):
    """Return a row for each run."""
    return context.replay(**settings)
