"""What each system trains relative to the others, in every experiment.

How do systems compare over all experiments?
"""

import math

import pandas as pd

from lazsim.study.experiment import NO_LOADS, RECORDED, Outcome, experiment_titles, load_experiment

# Names of experiments; all that compare systems when empty.
SETTINGS = {"of": []}

SMALL = {"of": ["failures-5min"]}


def run(context, settings):
    """Return the advantage of the first system over every other, in every experiment and setting."""
    experiments = [load_experiment(name) for name in settings["of"] or experiment_titles()]
    tables = [
        one_line_each(each.name, each.call("advantages", context))
        for each in experiments
        if hasattr(each.script, "advantages")
    ]
    table = pd.concat(tables, ignore_index=True)
    notes = () if RECORDED in set(table["loads"]) else (NO_LOADS,)
    return Outcome({"summary": table}, notes=notes)


def one_line_each(name, table):
    """Return a line for each setting, with two columns for each system.

    One says what the system trains relative to the first one, the inverse of the first one's advantage, which the
    other says with its interval. For a time to train a number of samples, its inverse is compared.
    """
    first = table["system"].iloc[0]
    keys = list(table.columns[: list(table.columns).index("system")])
    rows = []
    for key, group in table.groupby(keys, sort=False):
        labels = dict(zip(keys, key, strict=True))
        loads, trace, model = (labels.pop(label) for label in ("loads", "trace", "model"))
        more = ", ".join(f"{label} {value}" for label, value in labels.items())
        row = {"experiment": name, "loads": loads, "trace": trace, "model": model, "more": more}
        for one in group.to_dict("records"):
            row[one["system"]] = 1 / one["advantage"]
            if one["system"] != first:
                row[f"{first}:{one['system']}"] = with_interval(one)
        rows.append(row)
    return pd.DataFrame(rows)


def with_interval(row):
    """Write an advantage with its interval, where there is one."""
    value, low, high = row["advantage"], row["advantage_low"], row["advantage_high"]
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} ({low:.2f} to {high:.2f})"
