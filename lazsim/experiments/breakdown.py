"""Where the time of each system goes."""

from __future__ import annotations

from lazsim.engine.ledger import BUCKETS
from lazsim.experiments.bench import Bench
from lazsim.experiments.campaign import SETTING, best_loads, run_campaign
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment, read_experiment
from lazsim.experiments.throughput import Throughput

PARTS = tuple(f"{bucket}_s" for bucket in BUCKETS)


class Breakdown(Experiment, frozen=True, kw_only=True, tag="breakdown"):
    """Campaigns whose ledgers are shown.

    Attributes
    ----------
    of : tuple of str
        Names of experiments that draw throughput over time.
    model : str
        The model of the figure; tables have all.
    small_runs : bool
        Whether these experiments are taken in their small versions.
    """

    of: tuple[str, ...]
    model: str
    small_runs: bool = False


def run_breakdown(spec: Breakdown, bench: Bench) -> Outcome:
    """Return shares of time by bucket, means over seeds."""
    import pandas as pd

    from lazsim.experiments.kinds import decode_experiment
    from lazsim.output.plots.experiments import stacked_figure

    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    for name in spec.of:
        campaign = read_experiment(name, decode_experiment, small=spec.small_runs)
        assert isinstance(campaign, Throughput), f"{name} draws throughput over time"
        runs = run_campaign(campaign, bench)
        shares = runs.rows[list(PARTS)].div(runs.rows["wall_s"], axis=0)
        labelled = runs.rows[[*SETTING, "system"]].assign(experiment=name).join(shares)
        frames.append(labelled.groupby(["experiment", *SETTING, "system"], sort=False).mean().reset_index())
        notes += runs.notes
    table = pd.concat(frames, ignore_index=True)
    shown = table[(table["loads"] == best_loads(bench)) & (table["model"] == spec.model)]
    several = shown.groupby("experiment")["trace"].transform("nunique") > 1
    panel = shown["experiment"].where(~several, shown["experiment"] + ", " + shown["trace"])
    figure = stacked_figure(
        shown.assign(panel=panel), panel="panel", bar="system", parts=PARTS, y_label=f"share of time, {spec.model}"
    )
    table = table.rename(columns={part: part.removesuffix("_s") for part in PARTS})
    return Outcome({"time": table}, {"time": figure}, tuple(dict.fromkeys(notes)))
