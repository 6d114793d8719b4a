"""Every comparison of systems in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazsim.experiments.bench import RECORDED, Bench
from lazsim.experiments.headline import HEADLINES, advantages
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment, experiment_titles, read_experiment

if TYPE_CHECKING:
    import pandas as pd


class Summary(Experiment, frozen=True, kw_only=True, tag="summary"):
    """All experiments that compare systems.

    Attributes
    ----------
    of : tuple of str
        Names of experiments; all that compare systems when empty.
    small_runs : bool
        Whether these experiments are taken in their small versions.
    """

    of: tuple[str, ...] = ()
    small_runs: bool = False


def run_summary(spec: Summary, bench: Bench) -> Outcome:
    """Return the advantage of the first system over every other, in every experiment and setting."""
    import pandas as pd

    from lazsim.experiments.kinds import decode_experiment

    frames = []
    for name in spec.of or experiment_titles():
        campaign = read_experiment(name, decode_experiment, small=spec.small_runs)
        if type(campaign) in HEADLINES:
            frames.append(one_line_each(name, advantages(name, campaign, bench)))
    table = pd.concat(frames, ignore_index=True)
    notes = () if RECORDED in set(table["loads"]) else ("no recorded loads at hand: generated ones only",)
    return Outcome({"summary": table}, notes=notes)


def one_line_each(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each setting, with a column for each system.

    Notes
    -----
    ``share`` of a system is what it trains relative to the first one, the inverse of the first one's advantage; where
    the time to train a number of samples was measured, its inverse is compared.
    """
    import pandas as pd

    first = table["system"].iloc[0]
    keys = list(table.columns[: list(table.columns).index("system")])
    rows = []
    for key, group in table.groupby(keys, sort=False):
        labels = dict(zip(keys, key, strict=True))
        loads, trace, model = (labels.pop(label) for label in ("loads", "trace", "model"))
        more = ", ".join(f"{label} {value}" for label, value in labels.items())
        found = {"experiment": name, "loads": loads, "trace": trace, "model": model, "more": more}
        for row in group.itertuples():
            found[f"{row.system}"] = 1 / float(str(row.advantage))
            if row.system != first:
                found[f"{first}:{row.system}"] = _with_interval(row)
        rows.append(found)
    return pd.DataFrame(rows)


def _with_interval(row: object) -> str:
    value, low, high = (getattr(row, field) for field in ("advantage", "advantage_low", "advantage_high"))
    return f"{value:.2f}" if low != low else f"{value:.2f} ({low:.2f} to {high:.2f})"
