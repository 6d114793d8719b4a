"""Which assumption each conclusion hangs on.

How far does each headline move when an assumption is off by half or by double, and does any turn it round?
"""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lazsim.errors import SpecError
from lazsim.output.plots.style import COLUMN_INCHES, LOOKS, PAPER, new_figure, picture
from lazsim.study.experiment import RECORDED, Outcome, load_experiment, overlay

# Six seeds, for time: the fewest that give an interval.
GPT_L = {"models": ["gpt-l"], "systems": ["lazarus", "dropless-ft", "ds-ft"], "seeds": list(range(6))}

TESTBED_A = {
    # GB/s of a network-attached storage that dlrover reports (docs/blogs/flash_checkpoint).
    "a storage of 100 MB/s": {"base": {"cluster.network.storage_bytes_per_s": 0.1e9}},
    # One of the four that hold the experts of GPT-L has 7 of 24 GB.
    "one rank writes checkpoints": {"base": {"cluster.host.serialise_bytes_per_s": 0.2e9}},
    # RTX 4090 without peer access copy 25.8 GB/s in both directions (tinygrad/open-gpu-kernel-modules issue 6).
    "links inside a server as copies, 13 GB/s": {
        "base": {"cluster.network.local_bytes_per_s": 12.9e9, "cluster.network.local_all_reduce_bytes_per_s": 12.9e9}
    },
}
"""Other readings of testbed A."""

ELASTIC = 2**30
"""Bytes a second that AWS EFS takes at least in elastic mode, all clients together (its performance page)."""

SETTINGS = {
    # A headline is one setting of an experiment: `changes` of its settings leave one. An alternative is another reading
    # of the published text, as more changes.
    "headlines": [
        {
            "name": "5 min",
            "experiment": "failures-5min",
            "changes": GPT_L,
            "alternatives": TESTBED_A
            | {"lazarus saves as ds-ft": {"base": {"job.checkpoint_interval_steps.lazarus": 250}}},
        },
        {
            "name": "40 min",
            "experiment": "failures-40min",
            "changes": GPT_L,
            "alternatives": TESTBED_A
            | {"lazarus saves as ds-ft": {"base": {"job.checkpoint_interval_steps.lazarus": 1000}}},
        },
        {
            "name": "spot",
            "experiment": "spot",
            "changes": GPT_L,
            "alternatives": TESTBED_A
            | {
                "new nodes join ds-ft by a restart": {"base": {"job.regrouped_joins": "restart"}},
                "a constant subtracted from the trace": {"base": {"cap": "offset"}},
                "spares step in at once": {"base": {"cap": "clip"}},
            },
        },
        {
            "name": "tutel",
            "experiment": "tutel",
            "changes": GPT_L | {"systems": ["lazarus", "dropless-ft", "dropless"], "failures": ["random"]},
            "alternatives": {
                "EFS in elastic mode": {
                    "base": {
                        "cluster.network.storage_bytes_per_s": ELASTIC,
                        "cluster.network.storage_read_bytes_per_s": ELASTIC,
                    }
                }
            },
        },
        {
            "name": "64 nodes",
            "experiment": "large-scale",
            # A part of the trials, for time.
            "changes": {
                "systems": ["lazarus", "dropless-ft", "ds-ft"],
                "clusters": ["h200x64"],
                "fail_probs": [0.05],
                "seeds": [0, 1, 2],
                "max_hours": 20,
            },
            "alternatives": {
                "new nodes join ds-ft by a restart": {"base": {"job.regrouped_joins": "restart"}},
                "nodes go at any time of an hour": {"at_any_time": True},
                "loads of the flatter power law": {"headline_loads": "power law 1.01"},
                "loads of the steeper power law": {"headline_loads": "power law 1.2"},
                "loads as skewed as SmartMoE's": {"headline_loads": "as SmartMoE's"},
                "checkpoints as on testbed A": {
                    "base": {
                        "job.checkpoint_interval_steps.lazarus": 250,
                        "job.checkpoint_interval_steps.ds-ft": 250,
                        "job.checkpoint_interval_steps.ds": 50,
                    }
                },
            },
        },
    ],
    # Numbers without a published source, by the name that a sweep has for them, and the headlines that they enter.
    "assumptions": tomllib.loads(Path(__file__).with_name("assumptions.toml").read_text())["assumption"],
    # By which each assumption is multiplied.
    "factors": [0.5, 2.0],
    # Assumptions in a figure.
    "most_shown": 8,
    # The rival, and the number of assumptions, in the table of the largest.
    "rival": "dropless-ft",
    "most_listed": 10,
}

SMALL = {
    "headlines": [{"name": "5 min", "experiment": "failures-5min", "changes": {}}],
    "assumptions": [{"key": "gpu.matmul_efficiency"}, {"key": "cluster.recovery.detect_s"}],
    "most_shown": 4,
    "rival": "ds-ft",
}

INSTEAD = "instead"
"""Not a factor, but another source or another reading."""

NOTES = ("loads are generated, so that their skew and drift can be varied, too", "a share is doubled up to 1")

LINE_INCHES = 0.16
SEEDS = "95 % over seeds"
AT_WORDS = {"x0.5": "halved", "x2": "doubled", INSTEAD: "another input"}
"""What the common values of an assumption mean."""


def run(context, settings):
    """Vary every assumption of every headline by itself."""
    effects, ranges, figures = [], [], {}
    values = [f"x{factor:g}" for factor in settings["factors"]]
    for headline in settings["headlines"]:
        name = headline["name"]
        base, varied = vary(headline, settings["assumptions"], values, context)
        effects.append(varied)
        ranges.append(ranges_of(name, base, varied))
        first = base["system"].iloc[0]
        for row in ranges[-1].to_dict("records"):
            shown = largest(varied[varied["system"] == row["system"]], settings["most_shown"])
            label = f"samples of {first}, times those of {row['system']} ({name})"
            figures[f"{name.replace(' ', '-')}-{row['system']}"] = tornado_figure(
                shown, row["advantage"], [*values, INSTEAD], label=label,
                interval=(row["seeds_low"], row["seeds_high"]),
            )  # fmt: skip
    assumptions = pd.concat(effects, ignore_index=True)
    tables = {
        "headlines": pd.concat(ranges, ignore_index=True),
        "largest": side_by_side(assumptions, settings["rival"], settings["most_listed"]),
        "assumptions": assumptions,
    }
    return Outcome(tables, figures, NOTES)


def vary(headline, assumptions, values, context):
    """Return the advantages as things stand, and with each assumption at each value, relative to the former."""
    name, changes, experiment = headline["name"], headline["changes"], load_experiment(headline["experiment"])
    generated = replace(context, recorded=False)

    def advantages(more, where=generated):
        return experiment.call("advantages", where, overlay(changes, more))

    def effects(what, value, table):
        return [
            {
                "headline": name, "system": row["system"], "assumption": what, "at": value,
                "advantage": row["advantage"], "advantage_low": row["advantage_low"],
                "advantage_high": row["advantage_high"], "change": row["advantage"] / before[row["system"]] - 1,
            }
            for row in table.to_dict("records")[1:]
        ]  # fmt: skip

    base = require_one(name, advantages({}))
    before = base.set_index("system")["advantage"]
    rows = []
    for assumption in assumptions:
        if name in assumption.get("headlines", [name]):
            key = assumption["key"]
            for value in values:
                rows += effects(key, value, require_one(name, advantages({"base": {key: value}})))
    for reading, more in headline.get("alternatives", {}).items():
        rows += effects(reading, INSTEAD, require_one(name, advantages(more)))
    for sources, table in advantages({}, context).groupby(["loads", "trace"], sort=False):
        if RECORDED in sources:
            recorded = [what for what, source in zip(("loads", "trace"), sources, strict=True) if source == RECORDED]
            rows += effects(f"recorded {' and '.join(recorded)}", INSTEAD, table)
    return base, pd.DataFrame(rows)


def require_one(name, table):
    """Return the advantages of a headline, which must be those of one setting."""
    if table["system"].duplicated().any():
        raise SpecError(f"headline {name}: the experiment has several settings; let the changes leave one")
    return table


def ranges_of(name, base, varied):
    """Return a headline's interval over seeds and its range over assumptions, and what it hangs on most."""
    rows = []
    for row in base.to_dict("records")[1:]:
        mine = varied[varied["system"] == row["system"]]
        most = mine.loc[mine["change"].abs().idxmax()]
        found = [row["advantage"], *mine["advantage"]]
        rows.append(
            {
                "headline": name, "system": row["system"],
                "advantage": row["advantage"], "seeds_low": row["advantage_low"], "seeds_high": row["advantage_high"],
                "assumptions_low": min(found), "assumptions_high": max(found),
                "hangs_most_on": f"{most['assumption']} {most['at']}",
                "holds_throughout": min(found) > 1,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def largest(varied, count):
    """Keep the assumptions with the widest range, the widest first."""
    spread = varied.assign(size=varied["change"].abs()).groupby("assumption", sort=False)["size"].max()
    order = spread.sort_values(ascending=False, kind="stable").index[:count]
    return varied.set_index("assumption").loc[list(order)].reset_index()


def side_by_side(varied, rival, count):
    """Return the assumptions that move the advantage over a rival most, with the changes of each headline in a column.

    The order is that of the largest change at the median over all headlines, 0 where an assumption does not enter: a
    headline with few failures owes a large change to chance. Of equal ones the greater mean comes first.
    """
    mine = varied[varied["system"] == rival]
    headlines = list(dict.fromkeys(mine["headline"]))
    rows = []
    for assumption, group in mine.groupby("assumption", sort=False):
        changes = {headline: group.loc[group["headline"] == headline, "change"] for headline in headlines}
        sizes = [each.abs().max() if len(each) else 0.0 for each in changes.values()]
        texts = {
            headline: " / ".join(f"{100 * change:+.0f} %" for change in each) for headline, each in changes.items()
        }
        at = ", ".join(dict.fromkeys(group["at"]))
        rows.append({"assumption": assumption, "at": at, **texts, "order": (-np.median(sizes), -np.mean(sizes))})
    return pd.DataFrame(rows).sort_values("order", kind="stable")[:count].drop(columns="order")


@picture(PAPER)
def tornado_figure(varied, base, values, *, label, interval):
    """Draw how far an advantage moves from `base` with each assumption: a bar for each at one of the values.

    `label` is the name of the advantage, and `interval` its interval over seeds, which is not drawn where it is NaN.
    """
    names = list(dict.fromkeys(varied["assumption"]))
    looks = dict(zip(values, LOOKS, strict=False))
    figure = new_figure(COLUMN_INCHES, 0.9 + LINE_INCHES * len(names))
    axes = figure.subplots()
    for row in varied.to_dict("records"):
        look = looks[row["at"]]
        axes.barh(
            names.index(row["assumption"]), row["advantage"] - base, 0.7, left=base, color=look.color,
            hatch=look.hatch, edgecolor="white", linewidth=0, label=AT_WORDS.get(row["at"], row["at"]), alpha=0.9,
        )  # fmt: skip
    if np.isfinite(interval).all():
        axes.axvspan(*interval, color="0.88", zorder=0, label=SEEDS, linewidth=0)
    axes.axvline(base, color="black", linewidth=0.8)
    axes.axvline(1.0, color="black", linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(names)), [in_words(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.supxlabel(label, fontsize=7)
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    unique = {value: by_label[value] for value in (*AT_WORDS.values(), *values, SEEDS) if value in by_label}
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2)
    return figure


def in_words(assumption):
    """Name an assumption by the words of its field, and the part of a scenario that has it.

    Examples
    --------
    >>> in_words("cluster.network.all_reduce_efficiency"), in_words("recorded trace")
    ('all reduce efficiency (cluster)', 'recorded trace')
    >>> in_words("cluster.network.local_bytes_per_s")
    'local rate (cluster)'
    """
    part, dot, path = assumption.partition(".")
    field = path.removeprefix("network.").removeprefix("recovery.").removeprefix("host.").replace(".", " of ")
    words = field.replace("_", " ").replace("bytes per s", "rate").removesuffix(" s")
    return f"{words} ({part})" if dot else assumption
