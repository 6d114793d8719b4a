"""Systems against each other over many failures: the runs behind an experiment, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from lazsim.errors import SpecError
from lazsim.experiments.bench import GENERATED, RECORDED, RECORDED_TRACES, Bench
from lazsim.experiments.intervals import mean_interval, ratio_interval
from lazsim.experiments.specs import Experiment

if TYPE_CHECKING:
    import pandas as pd

SETTING = ["loads", "trace", "model"]
"""What tells the settings of a campaign apart; in each of them systems meet the same failures and loads."""

COUNTS = ("num_failures", "num_reconfigurations", "num_restarts", "lost_steps", "ettr")


class Campaign(Experiment, frozen=True, kw_only=True):
    """Runs of several systems.

    Attributes
    ----------
    base : mapping
        Keys that all runs share, as of a sweep; see `lazsim.study`.
    models, systems : tuple of str
        Every model is trained under every system; the first system is compared with the others.
    seeds : str
        Seeds of failures and loads, as ``0-9``.
    traces : mapping
        By a name of one's own, the keys of a sweep that make a trace. One whose ``trace`` is a public trace is left out
        where it is not at hand.
    """

    base: dict[str, Any]
    models: tuple[str, ...]
    systems: tuple[str, ...]
    seeds: str
    traces: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a campaign.

    Attributes
    ----------
    rows : DataFrame
        A row for each run: loads, trace, model, system, seed, and what a sweep's row has.
    timeline : DataFrame, optional
        Changes of state of the runs of the first seed, with the same labels.
    notes : tuple of str
        Which data were at hand.
    """

    rows: pd.DataFrame
    timeline: pd.DataFrame
    notes: tuple[str, ...]


def run_campaign(spec: Campaign, bench: Bench, changes: Mapping[str, Any] | None = None) -> Runs:
    """Make the runs of a campaign, under all loads and traces at hand.

    Parameters
    ----------
    spec, bench
        What is run, and with what.
    changes
        Keys of a sweep laid over those of the specification.
    """
    import pandas as pd

    grid = {"model": list(spec.models), "seed": spec.seeds, "system": list(spec.systems)}
    rows, states, notes = [], [], []
    for loads, routing in bench.routings().items():
        for trace, keys in spec.traces.items():
            found = trace_keys(keys, bench)
            if found is None:
                notes.append(f"trace {trace} is not at hand: lazsim trace fetch {keys['trace']}")
                continue
            result = bench.sweep(
                spec.name, spec.base | found | {"routing": routing, "history": True} | dict(changes or {}), [grid]
            )
            rows.append(labelled(result.to_frame(), spec, loads, trace))
            states.append(_first_seed(labelled(result.timeline(), spec, loads, trace)))
    if RECORDED not in bench.routings():
        notes.append("no recorded loads at hand: generated ones only")
    return Runs(pd.concat(rows, ignore_index=True), pd.concat(states, ignore_index=True), tuple(dict.fromkeys(notes)))


def trace_keys(keys: Mapping[str, Any], bench: Bench) -> dict[str, Any] | None:
    """Return the keys of a trace, the path of a public one in place of its name; none where that is not at hand.

    Raises
    ------
    SpecError
        When there is no key ``trace``.
    """
    if "trace" not in keys:
        raise SpecError("traces: each needs a key trace")
    if keys["trace"] not in RECORDED_TRACES:
        return dict(keys)
    path = bench.recorded_trace(keys["trace"])
    return None if path is None else dict(keys) | {"trace": path}


def labelled(frame: pd.DataFrame, spec: Campaign, loads: str, trace: str) -> pd.DataFrame:
    """Put what tells runs apart into columns; a sweep names only what has several values in it."""
    labels = {"loads": loads, "trace": trace, "model": spec.models[0], "system": spec.systems[0], "seed": 0}
    for column, (name, value) in enumerate(labels.items()):
        has = name in frame and name not in ("loads", "trace")
        moved: Any = frame.pop(name) if has else value
        frame.insert(column, name, moved)
    return frame


def _first_seed(states: pd.DataFrame) -> pd.DataFrame:
    first: pd.DataFrame = states[states["seed"] == states["seed"].min()]
    return first


def compare(
    rows: pd.DataFrame, setting: Sequence[str] = SETTING, value: str = "samples", *, less_is_better: bool = False
) -> pd.DataFrame:
    """Return what each system comes to in each setting, and how many times better the first one is.

    Returns
    -------
    DataFrame
        A row for each setting and system: mean and 95 % interval over seeds of the value, means of counts, and
        ``advantage``, the total of the first system over that of this one (the other way round where less is better),
        with its interval.
    """
    import pandas as pd

    found = []
    for key, group in rows.groupby(list(setting), sort=False):
        by_system = {
            system: part.set_index("seed").sort_index() for system, part in group.groupby("system", sort=False)
        }
        first = next(iter(by_system.values()))[value].tolist()
        for system, part in by_system.items():
            mean, low, high = mean_interval(part[value].tolist())
            pair = (part[value].tolist(), first) if less_is_better else (first, part[value].tolist())
            times, times_low, times_high = ratio_interval(*pair)
            found.append(
                dict(zip(setting, key, strict=True))
                | {"system": system, "runs": len(part), value: mean, "ci_low": low, "ci_high": high}
                | {"advantage": times, "advantage_low": times_low, "advantage_high": times_high}
                | {count: float(part[count].mean()) for count in COUNTS if count in part}
            )
    return pd.DataFrame(found)


def best_loads(bench: Bench) -> str:
    """Return which loads figures show: the recorded ones where they are at hand."""
    return RECORDED if RECORDED in bench.routings() else GENERATED


def recorded_difference(table: pd.DataFrame) -> pd.DataFrame:
    """Return by how much recorded loads change the advantage over each system, against generated ones.

    Returns
    -------
    DataFrame
        Without rows where either is missing.
    """
    keys = ["trace", "model", "system"]
    sources = [table[table["loads"] == source].set_index(keys)["advantage"] for source in (GENERATED, RECORDED)]
    joined = sources[0].rename(GENERATED).to_frame().join(sources[1].rename(RECORDED), how="inner").reset_index()
    others: pd.DataFrame = joined[joined["system"] != table["system"].iloc[0]]
    return others.assign(change=others[RECORDED] / others[GENERATED] - 1)
