"""Which assumption a conclusion hangs on: every one of them at half and at double, for every headline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from lazsim.errors import SpecError
from lazsim.experiments.bench import RECORDED, Bench
from lazsim.experiments.headline import advantages
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment, overlay, read_experiment
from lazsim.specs import Spec

if TYPE_CHECKING:
    import pandas as pd

INSTEAD = "instead"
"""Not a factor, but another source or another reading."""


class Assumption(Spec, frozen=True, kw_only=True):
    """A number without a published source.

    Attributes
    ----------
    key : str
        The dotted name of a sweep: a field of the GPU, the cluster, the job or the generator of loads.
    what : str
        What is assumed.
    headlines : tuple of str
        Headlines that it enters; all when empty.
    """

    key: str
    what: str
    headlines: tuple[str, ...] = ()


class Claim(Spec, frozen=True, kw_only=True):
    """A headline: one setting of an experiment.

    Attributes
    ----------
    name, experiment : str
        What the headline is called, and the experiment that it is of.
    changes : mapping
        Laid over the experiment's specification: one model, say, or fewer seeds.
    alternatives : mapping
        By name, what stands for another reading of the published text, laid over it in the same way.
    """

    name: str
    experiment: str
    changes: dict[str, Any] = msgspec.field(default_factory=dict)
    alternatives: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class Uncertainty(Experiment, frozen=True, kw_only=True, tag="uncertainty"):
    """Headlines, and assumptions to vary.

    Attributes
    ----------
    factors : tuple of float
        By which each assumption is multiplied.
    small_runs : bool
        Whether experiments are taken in their small versions.
    most_shown : int
        Assumptions in a figure.
    """

    headline: tuple[Claim, ...]
    assumption: tuple[Assumption, ...]
    factors: tuple[float, ...]
    most_shown: int = 8
    small_runs: bool = False


def run_uncertainty(spec: Uncertainty, bench: Bench) -> Outcome:
    """Vary every assumption of every headline by itself."""
    import pandas as pd

    from lazsim.output.plots.experiments_tornado import tornado_figure

    effects, intervals, figures = [], [], {}
    values = [*_values(spec), INSTEAD]
    for claim in spec.headline:
        base, varied = vary(claim, spec, bench)
        effects.append(varied)
        intervals.append(_intervals(base, varied))
        for system in base["system"].iloc[1:]:
            shown = varied[varied["system"] == system]
            first = base["system"].iloc[0]
            figures[f"{claim.name.replace(' ', '-')}-{system}"] = tornado_figure(
                largest(shown, spec.most_shown), intervals[-1][intervals[-1]["system"] == system].iloc[0], values,
                label=f"{first} : {system}, {claim.name}",
            )  # fmt: skip
    tables = {
        "headlines": pd.concat(intervals, ignore_index=True),
        "assumptions": pd.concat(effects, ignore_index=True),
    }
    return Outcome(tables, figures, ("loads are generated, so that their skew and drift can be varied, too",))


def vary(claim: Claim, spec: Uncertainty, bench: Bench) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the advantages as things stand, and with each assumption at each factor, beside the former."""
    import pandas as pd

    generated = replace(bench, generated_only=True)
    campaign = _campaign(claim, spec, claim.changes)
    base = _one_setting(claim, advantages(claim.experiment, campaign, generated))
    before = base.set_index("system")["advantage"]
    rows = []
    for assumption in spec.assumption:
        if assumption.headlines and claim.name not in assumption.headlines:
            continue
        values = _values(spec)
        table = advantages(claim.experiment, campaign, generated, {assumption.key: values})
        for value in values:
            part = _one_setting(claim, table[table[assumption.key] == value])
            rows += _rows(claim, assumption.key, value, part, before)
    for name, changes in claim.alternatives.items():
        other = _campaign(claim, spec, overlay(claim.changes, changes))
        table = _one_setting(claim, advantages(claim.experiment, other, generated))
        rows += _rows(claim, name, INSTEAD, table, before)
    for name, table in _recorded(advantages(claim.experiment, campaign, bench)):
        rows += _rows(claim, name, INSTEAD, table, before)
    return base, pd.DataFrame(rows)


def _values(spec: Uncertainty) -> list[str]:
    return [f"x{factor:g}" for factor in spec.factors]


def _recorded(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the same with recorded loads, a recorded trace, or both, where these are at hand."""
    for (loads, trace), part in table.groupby(["loads", "trace"], sort=False):
        recorded = [name for name, source in (("loads", loads), ("trace", trace)) if source == RECORDED]
        if recorded:
            yield f"recorded {' and '.join(recorded)}", part


def _campaign(claim: Claim, spec: Uncertainty, changes: dict[str, Any]) -> Any:
    from lazsim.experiments.kinds import decode_experiment

    def decode(raw: Any) -> Any:
        return decode_experiment(overlay(raw, changes))

    return read_experiment(claim.experiment, decode, small=spec.small_runs)


def _one_setting(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    if table["system"].duplicated().any():
        raise SpecError(f"headline {claim.name}: {claim.experiment} has several settings; let its changes leave one")
    return table


def _rows(claim: Claim, what: str, how: str, table: pd.DataFrame, before: pd.Series[float]) -> list[dict[str, Any]]:
    return [
        {
            "headline": claim.name, "system": row["system"], "assumption": what, "at": how,
            "advantage": row["advantage"], "advantage_low": row["advantage_low"],
            "advantage_high": row["advantage_high"], "change": row["advantage"] / before[row["system"]] - 1,
        }
        for row in table.to_dict("records")[1:]
    ]  # fmt: skip


def _intervals(base: pd.DataFrame, varied: pd.DataFrame) -> pd.DataFrame:
    """Return each headline with its interval over seeds and its range over assumptions, and what it hangs on most."""
    import pandas as pd

    rows = []
    for row in base.to_dict("records")[1:]:
        mine = varied[varied["system"] == row["system"]]
        most = mine.loc[mine["change"].abs().idxmax()] if len(mine) else None
        least = min([row["advantage"], *mine["advantage"]])
        rows.append(
            {
                "headline": varied["headline"].iloc[0] if len(varied) else "", "system": row["system"],
                "advantage": row["advantage"], "seeds_low": row["advantage_low"], "seeds_high": row["advantage_high"],
                "assumptions_low": least, "assumptions_high": max([row["advantage"], *mine["advantage"]]),
                "hangs_most_on": "" if most is None else f"{most['assumption']} {most['at']}",
                "holds_throughout": bool(least > 1),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def largest(varied: pd.DataFrame, count: int) -> pd.DataFrame:
    """Keep the assumptions with the widest range, the widest first."""
    spread = varied.assign(size=varied["change"].abs()).groupby("assumption", sort=False)["size"].max()
    order = spread.sort_values(ascending=False, kind="stable").index[:count]
    return varied.set_index("assumption").loc[list(order)].reset_index()
