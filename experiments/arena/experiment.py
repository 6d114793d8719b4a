"""Every way to survive failures on the same jobs and the same failures, each at its best setting.

What should a job of dozens to a thousand GPUs do about failures, by how often nodes fail and how many fail at once?
"""

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from lazsim.engine.systems import find_system
from lazsim.output.plots.style import PAPER, ink, looks_of, new_figure, picture
from lazsim.scenario import resolve
from lazsim.settings import AUTO
from lazsim.study.checkpoint_interval import choose_setting
from lazsim.study.comparison import rank
from lazsim.study.experiment import Outcome
from lazsim.study.memory import find_obstacle
from lazsim.study.result import setting_of
from lazsim.study.runs import ScenarioRuns
from lazsim.trace import generate_trace, load_recipe
from lazsim.trace.recipes import MtbfSpec

HOUR_S = 3600.0

ONE_STAGE = {
    "tensor": 1, "pipeline": 1, "virtual_stages": 1, "expert": 16, "global_batch": 1024, "precision": "bf16",
}  # fmt: skip
TWO_STAGES = ONE_STAGE | {"pipeline": 2, "expert": 8}

SYSTEMS = [
    "lazarus", "checkpoint", "async-checkpoint", "gemini", "moevement", "moc", "replica-drop", "oobleck", "bamboo",
    "recycle", "spare",
]  # fmt: skip
STAGED = ["moevement", "bamboo"]
"""Systems that need pipeline stages."""
AS_PUBLISHED = [("published", {}, SYSTEMS)]
OF_STAGES = [("one stage", ONE_STAGE, SYSTEMS), ("two stages", TWO_STAGES, STAGED)]
LOSING = [name for name in SYSTEMS if find_system(name).stale_steps(1) is not None]
"""Systems whose rollbacks lose updates of experts."""
RESTARTING = [name for name in SYSTEMS if not find_system(name).joins_in_place]
"""Systems that take nodes in by a restart."""

CELL_INCHES = (2.3, 0.72)
MOST_TIES = 2
"""Alternatives as good as the best that a cell names."""

GRID = {
    f"every {every}, {batch} at once": {"between_h": between, "batch": batch}
    for batch in (1, 4)
    for every, between in (("10 min", 1 / 6), ("3 h", 3), ("24 h", 24))
}
ONE_AT_ONCE = [name for name in GRID if "1 at" in name]
RATES = {
    name: {"per_1000_node_days": rate, "batch": 1}
    for name, rate in (("RSC-1", 6.5), ("Llama 3", 3.79), ("RSC-2", 2.34))
}
"""Failures of 1,000 nodes in a day: Meta's research clusters (arXiv 2410.21680), and 419 interruptions of 2,048 nodes
in 54 days (Llama 3, arXiv 2407.21783)."""


def restarts(first_s, last_s):
    """Return the settings of restarts that take these times on 128 and on 1,024 nodes, and are linear in them."""
    per_node_s = (last_s - first_s) / (1024 - 128)
    recovery = {"base_s": first_s - 128 * per_node_s, "per_node_s": per_node_s}
    return {f"cluster.recovery.restart_{name}": seconds for name, seconds in recovery.items()}


SETTINGS = {
    "job": {"cluster": "dgx-h100", "job": "deepseek-v3", "routing": "uniform", "price": "2.5/gpu"},
    "cases": {
        f"{title}, {nodes} nodes": {"model": model, "nodes": nodes, "layouts": layouts, "conditions": conditions}
        for title, model, layouts, by_nodes in (
            ("DeepSeek-V3", "deepseek-v3", AS_PUBLISHED, {128: [*GRID, *RATES], 64: [*RATES]}),
            ("16 B", "deepseek-v2-lite", OF_STAGES, {
                12: ONE_AT_ONCE, 32: [*GRID, "spot P3"], 64: ["spot A100"], 128: ONE_AT_ONCE,
            }),
        )
        for nodes, conditions in by_nodes.items()
    },
    # A mean time between failures of the job and the nodes that fail at once; failures of 1,000 nodes in a day; or the
    # recipe of a spot trace, fitted to a recorded one.
    "conditions": GRID | RATES | {"spot P3": {"recipe": "spot-p3-like"}, "spot A100": {"recipe": "spot-a100-like"}},
    # Even loads do not drift: a rebalance changes nothing, and ten times fewer save time.
    "rebalance_interval_steps": 2000,
    "repair_h": 4,
    # A run has this number of failures on average, or more, where it would be shorter than some repairs: the longest
    # of the times that decide it. Two repairs are 24 restarts, and more than the intervals between checkpoints.
    "least_failures": 5,
    "least_repairs": 2,
    "seeds": [0, 1, 2, 3, 4, 5],
    # All settings are chosen on failures that they are not judged by: the best, and Young's interval of the published.
    "search_seeds": [6, 7],
    "assumptions": {
        "places": [
            ("16 B, 32 nodes", "every 3 h, 1 at once"),
            ("DeepSeek-V3, 128 nodes", "every 10 min, 1 at once"),
            ("DeepSeek-V3, 128 nodes", "every 3 h, 1 at once"),
        ],
        "changes": {
            "as above": {},
            # Lines through the first and the last of ByteRobust's times for 128 to 1,024 machines (arXiv 2509.16293,
            # table 7): 454 to 768 s where the whole job is queued anew, and 46 to 65 s where its pods stay.
            "restarts by the queue": {"base": restarts(454, 768)},
            "restarts in place": {"base": restarts(46, 65)},
            # In place of a restart for every node that makes another model replica.
            "nodes that restarts take in wait for a failure": {"base": {"job.join_wait_s": 1e8}, "only": RESTARTING},
            "nodes back after 1 h, not 4": {"repair_h": 1},
            "no spares, not two": {"spares": 0},
            "skewed loads that drift": {"base": {"routing": "smartmoe-fit", "job.rebalance_interval_steps": 200}},
        },
    },
}  # fmt: skip

SMALL = {
    "cases": {
        "DeepSeek-V3, 128 nodes": {"layouts": [("published", {}, ["gemini", "bamboo"])], "conditions": ONE_AT_ONCE[:1]},
        "16 B, 12 nodes": {
            "layouts": [("one stage", ONE_STAGE, ["lazarus", "oobleck", "moevement"])], "conditions": ONE_AT_ONCE[:1],
        },
        **dict.fromkeys(["DeepSeek-V3, 64 nodes", "16 B, 32 nodes", "16 B, 64 nodes", "16 B, 128 nodes"]),
    },
    "least_repairs": 0,
    "seeds": [0],
    "search_seeds": [6],
    "assumptions": None,
}  # fmt: skip

SPARES = 2
"""Nodes beside those of a case: a job that needs whole model replicas has somewhere to go."""

SHARED = ("repair_h", "least_failures", "least_repairs", "seeds", "search_seeds")
"""Settings that all cells share."""

MODELS = {"DeepSeek-V3": "DeepSeek-V3, 671 B parameters", "16 B": "DeepSeek-V2-Lite, 16 B parameters"}
"""Titles of the panels of the map."""


def run(context, settings):
    """Rank the systems, each at its best layout and setting, in every case and under all conditions."""
    cells = [cell for case in settings["cases"] for cell in cells_of(settings, case)]
    found = context.collect(train, cells)
    runs = pd.DataFrame([row for one in found for row in one["rows"]])
    left_out = pd.DataFrame(
        [{"case": cell["case"], "layout": cell["layout"], "system": cell["system"], "reason": one["reason"]}
         for cell, one in zip(cells, found, strict=True) if one["reason"]],
        columns=["case", "layout", "system", "reason"],
    ).drop_duplicates()  # fmt: skip
    table = ranked(runs, ["case", "condition"])
    shares = table.assign(share=1 / table["behind"]).pivot_table(
        "share", ["case", "system"], "condition", sort=False, dropna=False, observed=True
    )
    shares = shares[[name for name in settings["conditions"] if name in shares]].dropna(how="all").reset_index()
    tables = {"shares": shares, "best": table, "left-out": left_out}
    if settings["assumptions"]:
        tables["assumptions"] = assumptions(context, settings)
    on_map = table[table["condition"].isin(GRID) & ~table["system"].isin(LOSING)]
    on_map = on_map.assign(
        model=on_map["case"].str.split(",").str[0].map(MODELS),
        every=on_map["condition"].str.split(",").str[0].str.removeprefix("every "),
        who=on_map["case"].str.split(", ").str[1] + ",\n" + on_map["condition"].str.split(", ").str[1],
    )
    notes = (
        f"{', '.join(LOSING)} is left out of the map: it trades updates of experts for time (lost_token_share in best)",
        "assumptions of systems that are not varied: share of idle network (gemini 0.5), bubbles that rerouted work "
        "fills (recycle 0.5), redundant forward passes free (bamboo)",
    )
    return Outcome(tables, {"winners": winners_figure(on_map)}, notes)


def ranked(runs, setting):
    """Return a row for each system in each setting, at its best layout, the best first, with how far it is behind."""
    rows = []
    for key, group in runs.groupby(setting, sort=False):
        by_layout = group.groupby(["system", "layout"], sort=False)["samples_per_s"].mean()
        best = by_layout.reset_index().sort_values("samples_per_s", ascending=False).drop_duplicates("system")
        parts = {
            one.system: group[(group["system"] == one.system) & (group["layout"] == one.layout)].set_index("seed")
            for one in best.itertuples()
        }
        for place in rank({system: part["samples_per_s"].to_dict() for system, part in parts.items()}):
            part = parts[place.name]
            rows.append(dict(zip(setting, key, strict=True)) | {
                "system": place.name, "layout": part["layout"].iloc[0], "setting": part["setting"].iloc[0],
                "samples_per_s": place.mean.value, "ci_low": place.mean.low, "ci_high": place.mean.high,
                "behind": place.behind.value, "behind_low": place.behind.low, "behind_high": place.behind.high,
                "is_tie": place.is_tie, "published_samples_per_s": part["published_samples_per_s"].mean(),
                "ettr": part["ettr"].mean(),
                "usd_per_million_samples": part["cost_usd"].sum() / max(1, part["samples"].sum()) * 1e6,
                "lost_token_share": part["lost_token_share"].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def assumptions(context, settings):
    """Rank the systems at their published settings in a few places, one assumption changed at a time."""
    asked, rows = settings["assumptions"], []
    for name, change in asked["changes"].items():
        cells = [
            cell for case, condition in asked["places"] for cell in cells_of(settings, case, [condition], **change)
        ]
        for one in context.collect(train_as_published, cells):
            rows += [row | {"assumption": name} for row in one["rows"]]
    table = ranked(pd.DataFrame(rows), ["case", "condition", "assumption"])
    return table.drop(columns=["layout", "setting", "published_samples_per_s", "ettr", "lost_token_share"])


def cells_of(settings, case, conditions=None, *, base=(), only=SYSTEMS, spares=SPARES, **changes):
    """Return what each system does in a case: a cell for each layout and condition; `base` is for some systems only."""
    what = settings["cases"][case]
    if what is None:
        return []
    nodes = what["nodes"] + spares
    job = settings["job"] | {"model": what["model"], "cluster.num_nodes": nodes, "planning": "sampled"}
    job |= {"job.rebalance_interval_steps": settings["rebalance_interval_steps"]}
    shared = {name: settings[name] for name in SHARED} | changes
    return [
        shared | {
            "case": case, "layout": layout, "system": system, "nodes": nodes,
            "base": job
            | {f"job.parallel.{name}": value for name, value in fields.items()}
            | (dict(base) if system in only else {}),
            "name": name, "condition": settings["conditions"][name],
        }
        for layout, fields, systems in what["layouts"]
        for name in conditions or what["conditions"]
        for system in systems
    ]  # fmt: skip


def train(cell):
    """Simulate a system under a condition with all seeds, at its best setting and as published, if it can run."""
    return simulate(cell, [AUTO, None])


def train_as_published(cell):
    """Simulate the same as published only."""
    return simulate(cell, [None])


def simulate(cell, intervals):
    """Return a row for each seed, of the first interval beside the last, and why there is none."""
    scenario = resolve(cell["base"] | {"system": cell["system"]})
    reason = find_obstacle(scenario, scenario.find_system(), cell["nodes"])
    if reason:
        return {"rows": [], "reason": reason}
    searched = ScenarioRuns([scenario.under(failures_of(cell, seed)) for seed in cell["search_seeds"]])
    judged = searched.on([scenario.under(failures_of(cell, seed)) for seed in cell["seeds"]])
    best, published = (judged.runs(choose_setting(searched, one)) for one in (intervals[0], intervals[-1]))
    rows = []
    for seed, run, as_published in zip(cell["seeds"], best, published, strict=True):
        row = {"case": cell["case"], "layout": cell["layout"], "system": cell["system"], "condition": cell["name"]}
        row |= {"seed": seed, "samples": run.samples, "samples_per_s": run.goodput_samples_per_s, "ettr": run.ettr}
        row |= {"lost_token_share": run.lost_token_share or 0.0, "cost_usd": run.cost_usd}
        row["setting"] = ", ".join(f"{field} {value}" for field, value in setting_of(run).items())
        row["published_samples_per_s"] = as_published.goodput_samples_per_s
        rows.append(row)
    return {"rows": rows, "reason": ""}


def failures_of(cell, seed):
    """Generate failures at a rate of the job, each node repaired after a while, or those of a recipe."""
    rng, condition = np.random.default_rng(seed), cell["condition"]
    if "recipe" in condition:
        return generate_trace(load_recipe(condition["recipe"]), rng, "spot")
    batch, nodes = condition["batch"], cell["nodes"]
    between_h = condition.get("between_h") or 24e3 / condition["per_1000_node_days"] / nodes
    # Each failure takes a batch: a node's own rate is that of the job, times the batch, over the nodes.
    recipe = MtbfSpec(
        num_nodes=nodes,
        mtbf_s=between_h * HOUR_S * nodes / batch,
        repair_s=cell["repair_h"] * HOUR_S,
        batch_share=float(batch > 1),
        batch_nodes=batch if batch > 1 else 0,
        duration_s=max(cell["least_failures"] * between_h, cell["least_repairs"] * cell["repair_h"]) * HOUR_S,
    )
    return generate_trace(recipe, rng, "failures")


@picture(PAPER | {"axes.grid": False})
def winners_figure(frame):
    """Draw a panel for each model, and in it a cell for each condition, in the colour of its best system.

    A cell names the best, those that may be as good, and by how much the next is behind.
    """
    cases = list(dict.fromkeys(frame["model"]))
    columns = list(dict.fromkeys(frame["every"]))
    lines = {case: list(dict.fromkeys(frame[frame["model"] == case]["who"])) for case in cases}
    num_lines = sum(map(len, lines.values()))
    width, height = CELL_INCHES
    figure = new_figure(width * len(columns), height * num_lines + 0.5 * len(cases))
    looks = looks_of(sorted(set(frame["system"])))
    heights = [len(lines[case]) for case in cases]
    rows = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, case in zip(rows, cases, strict=True):
        for (at_x, at_y), cell in frame[frame["model"] == case].groupby(["every", "who"], sort=False):
            place = columns.index(at_x), lines[case].index(at_y)
            ordered = cell.sort_values("samples_per_s", ascending=False)
            best = ordered.iloc[0]
            color = looks[best["system"]].color
            axes.add_patch(Rectangle(place, 1, 1, facecolor=color, edgecolor="white", linewidth=2))
            middle, text = place[0] + 0.5, {"ha": "center", "va": "center", "color": ink(color)}
            axes.text(middle, place[1] + 0.3, best["system"], fontsize=11, fontweight="bold", **text)
            axes.text(middle, place[1] + 0.7, rest(ordered), fontsize=7, **text)
        axes.set(xlim=(0, len(columns)), ylim=(len(lines[case]), 0), title=case)
        axes.set_xticks([index + 0.5 for index in range(len(columns))], columns)
        axes.set_yticks([index + 0.5 for index in range(len(lines[case]))], lines[case])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    rows[-1].set_xlabel("a failure of the job every")
    return figure


def rest(ordered):
    """Say which alternatives may be as good as the best, and how far the next is behind."""
    others = ordered.iloc[1:]
    ties = others[others["is_tie"].eq(True)]
    behind = others[~others["is_tie"].eq(True)]
    said = []
    if len(ties):
        more = f" and {len(ties) - MOST_TIES} more" if len(ties) > MOST_TIES else ""
        said.append(f"or {', '.join(ties['system'].iloc[:MOST_TIES])}{more}")
    if len(behind):
        lacks = 1 - behind["samples_per_s"].iloc[0] / ordered["samples_per_s"].iloc[0]
        told = f"{lacks:.0%}" if lacks >= 0.005 else "under 1%"
        said.append(f"{behind['system'].iloc[0]} {told} behind")
    return "\n".join(said)
