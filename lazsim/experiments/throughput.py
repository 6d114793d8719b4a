"""Throughput over time and samples trained under failures."""

from __future__ import annotations

from lazsim.experiments.bench import RECORDED, Bench
from lazsim.experiments.campaign import Campaign, Runs, best_loads, compare, recorded_difference, run_campaign
from lazsim.experiments.outcome import Outcome


class Throughput(Campaign, frozen=True, kw_only=True, tag="throughput"):
    """A campaign whose throughput is drawn over time."""


def run_throughput(spec: Throughput, bench: Bench) -> Outcome:
    """Compare systems by the samples that they train."""
    runs = run_campaign(spec, bench)
    table = compare(runs.rows)
    tables = {"samples": table}
    if RECORDED in set(table["loads"]):
        tables["recorded-loads"] = recorded_difference(table)
    return Outcome(tables, _figures(runs, bench), runs.notes)


def _figures(runs: Runs, bench: Bench) -> dict[str, dict[str, bytes]]:
    from lazsim.output.plots.experiments import bars_figure
    from lazsim.output.plots.experiments_runs import throughput_figure

    loads = best_loads(bench)
    figures = {}
    traces = list(runs.rows["trace"].unique())
    for trace in traces:
        suffix = f"-{trace}" if len(traces) > 1 else ""
        rows = runs.rows[(runs.rows["loads"] == loads) & (runs.rows["trace"] == trace)]
        states = runs.timeline[(runs.timeline["loads"] == loads) & (runs.timeline["trace"] == trace)]
        figures[f"throughput{suffix}"] = throughput_figure(states, wall_s=float(rows["wall_s"].iloc[0]))
        table = compare(rows).assign(thousands=lambda frame: frame["samples"] / 1000)
        table[["ci_low", "ci_high"]] /= 1000
        figures[f"samples{suffix}"] = bars_figure(
            table, group="model", value="thousands", series="system", y_label="samples trained (thousands)"
        )
    return figures
