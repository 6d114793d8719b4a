"""A sweep as tables and pictures: means over seeds, and the best setting."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lazsim.grouping import grouped, told_apart
from lazsim.output.plots.style import looks_of, name_pictures
from lazsim.output.report import Report, drawn
from lazsim.output.run import layout_notes, unfit_notes
from lazsim.output.table import Column, Part, Table, key, percent_above, with_interval
from lazsim.specs import sha256 as sha256_of
from lazsim.study.comparison import Ranked
from lazsim.study.intervals import MIN_SAMPLES, Interval
from lazsim.study.sweep.result import (
    Contender,
    Contest,
    SpareCost,
    SweepResult,
    axis_names,
    name_setting,
    paying_spares,
    value_text,
)
from lazsim.units import counted

MOST_SETTINGS = 20
"""Settings that are shown; table.csv has all of them."""

MOST_POINTS = 4000
"""Points that a page shows: half a megabyte."""

MOST_TIES = 3
"""Ties that are named; ``--json`` has all of them."""


def sweep_parts(result: SweepResult) -> Iterator[Part]:
    """Show the samples of each run along the axes, their ratios to the first run, and the best setting."""
    rows = result.means()
    yield _explanation({row["num_runs"] for row in rows})
    runs = list(dict.fromkeys(row["run"] for row in rows))
    if not result.setting_keys:
        cells = [(row["run"], _cell(row, "samples", ",.0f"), _cell(row, "ratio", ".3f")) for row in rows]
        yield Table([key("run"), Column("samples"), Column("times the first")], cells)
    else:
        yield _along_axes(result, rows, "samples", ",.0f", runs, "samples trained")
        if len(runs) > 1:
            title = f"samples, times those of {runs[0]} at the same seeds"
            yield _along_axes(result, rows, "ratio", ".3f", runs[1:], title)
    for costs in result.spares()[:MOST_SETTINGS]:
        yield _spares_table(costs)
    contests = result.contests()[:MOST_SETTINGS]
    if len(rows) > 1 and contests:
        yield _contest_table(result, contests, len(runs))
    fits_by_setting = grouped((tuple(setting.items()), row["fits_memory"]) for setting, row in result.settings())
    fits = told_apart([(dict(setting), all(fits)) for setting, fits in fits_by_setting.items()])
    name = functools.partial(name_setting, among=result.setting_keys)
    if notes := [*_layout_notes(result, name), *unfit_notes(map(name, fits.get(False, ())))]:
        yield notes


def _layout_notes(result: SweepResult, name: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """Say which layouts the steps of runs have, unless the sweep says so itself."""
    if any(axis == "job" or axis.startswith("job.parallel.") for axis in result.axes):
        return []
    told = layout_notes([(setting, row["layout"]) for setting, row in result.settings()], name)
    more = len(told) - MOST_SETTINGS
    return told[:MOST_SETTINGS] + [f"{counted(more, 'more layout')} in table.csv"] * (more > 0)


def sweep_files(result: SweepResult) -> dict[str, bytes]:
    """Return the pictures of a sweep by name: none where there is nothing to compare."""
    if len(result.means()) < 2 or not result.contests():
        return {}
    from lazsim.output.plots.sweep import spares_figure, sweep_figure

    pictures = name_pictures("comparison", sweep_figure(result))
    return pictures | (name_pictures("spares", spares_figure(result.spares())) if result.spares() else {})


def sweep_report(result: SweepResult, name: str, sha256: str) -> Report:
    """Return what the page of a sweep says; `name` and `sha256` are those of its specification."""

    def words(one: Ranked[Contender]) -> str:
        run, setting = one.name
        values = (f"{axis} {value_text(value)}" for axis, value in zip(result.setting_keys, setting, strict=True))
        return " with ".join(filter(None, (run, ", ".join(values))))

    answer = "No run trained." if result.rows else "No run ended well."
    contests = result.contests()
    for overall in contests[:1]:
        best, *others = overall.ranking
        ties = [words(one) for one in others if one.is_tie]
        told = f"; it cannot be told from {'; '.join(ties[:MOST_TIES])}" if ties else ""
        if any(one.is_tie is None for one in others):
            told = f"; too few seeds to tell it from the others, ahead of the next at {others[0].num_ahead}"
            told += f" of {others[0].num_common}"
        kept = f" ({overall.held_out:,.0f} where other seeds choose)" if others and overall.held_out > 0 else ""
        answer = f"{words(best)} trains most: {with_interval(best.mean, ',.0f')} samples{kept}{told}."
    means = result.means()
    ids = [row["id"] for row in result.rows]
    hashed = {"name": f"{len(ids)}; table.csv has the hash of each", "sha256": sha256_of("".join(ids).encode())}
    return Report(
        f"Sweep of {', '.join(result.setting_keys) or 'systems'}: {counted(len(ids), 'run')}",
        answer,
        f"{_explanation({row['num_runs'] for row in means}).capitalize()}.",
        {"specification": {"name": name, "sha256": sha256}, "runs": hashed},
        points=sweep_points(result) if len(means) > 1 and contests else None,
    )


def sweep_points(result: SweepResult) -> dict[str, Any]:
    """Return the means over seeds as the data of a page: a point for each run and setting."""
    axes = [*result.setting_keys, "run"]
    rows = []
    for row in result.means():
        found = _interval(row, "samples")
        low, high = (found.value, found.value) if math.isnan(found.low) else found[1:]
        told = "too few seeds" if math.isnan(found.low) else f"{low:,.0f} to {high:,.0f}"
        setting = [row[axis] if isinstance(row[axis], int | float) else value_text(row[axis]) for axis in axes]
        rows.append(
            {"run": row["run"], "setting": setting, "mean": found.value, "low": low, "high": high, "interval": told}
        )
    looks = looks_of(list(dict.fromkeys(row["run"] for row in rows)))
    return {"axes": axes, "runs": [drawn(name, look) for name, look in looks.items()], "rows": rows[:MOST_POINTS]}


def _explanation(num_seeds: set[int]) -> str:
    if not num_seeds:
        return "no run ended well"
    fewest, most = min(num_seeds), max(num_seeds)
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seeds" if most > 1 else "1 seed"
    if most < MIN_SAMPLES:
        return f"means over {seeds}: too few for intervals, which need {MIN_SAMPLES}"
    return f"means over {seeds}; +- is a 95 % interval, from {MIN_SAMPLES} seeds on"


def _along_axes(
    result: SweepResult, rows: Sequence[Mapping[str, Any]], what: str, form: str, runs: Sequence[str], title: str
) -> Table:
    """Return a row for each setting and a column for each run."""
    axes = result.setting_keys
    settings: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in rows:
        settings.setdefault(tuple(row[axis] for axis in axes), {})[row["run"]] = _cell(row, what, form)
    columns = [key(axis, value_text) for axis in axes]
    columns += [Column(run, has_name=True) for run in runs]
    shown = list(settings.items())[:MOST_SETTINGS]
    more = len(settings) - len(shown)
    notes = [f"{counted(more, 'more setting is', 'more settings are')} in table.csv"] if more else []
    return Table(columns, [(*setting, *map(cells.get, runs)) for setting, cells in shown], title, notes)


def _spares_table(costs: Sequence[SpareCost]) -> Table:
    """Show what each number of spares brings and takes, and the number after which one more does not pay."""
    best = paying_spares(costs)
    unit, paid = ("node-hours", []) if best.cost_usd is None else ("$", [Column("$", ",.2f", of="cost_usd")])
    columns = [key("spares", of="num_spares"), Column("samples", ",.0f", of="samples.value")]
    columns += [Column("node-hours", ",.1f", of="node_hours"), *paid]
    columns += [Column(f"{unit}/M samples", of=lambda one: with_interval(one.per_million_samples, ",.4g"))]
    columns += [Column("more than least", of=lambda one: None if one is best else percent_above(one.dearer))]
    more = next((one for one in costs if one.num_spares > best.num_spares), None)
    told = "more were not tried"
    if more is not None:
        dearer = f"samples cost {percent_above(more.dearer)} more" if more.samples.value else "nothing is trained"
        told = f"with {more.num_spares}, {dearer}"
    pays = f"{best.name}: spares that pay: {best.num_spares}; {told}"
    ties = ", ".join(str(one.num_spares) for one in costs if one.is_tie and one is not best)
    notes = [pays, f"numbers of spares that cannot be told from {best.num_spares}: {ties}"] if ties else [pays]
    if any(one.is_tie is None for one in costs):
        notes.append(f"fewer than {MIN_SAMPLES} seeds cannot tell which number pays")
    return Table.of(costs, columns, f"spares of {best.name}", notes)


def _contest_table(result: SweepResult, contests: Sequence[Contest], num_runs: int) -> Table:
    """Name the best of each contest, and those that may be as good."""
    axes = result.setting_keys

    def name(one: Ranked[Contender], contest: Contest) -> str:
        run, setting = one.name
        words = {"run": run} if num_runs > 1 or not axes else {}
        words |= {axis: _word(axis, value, axes) for axis, value in zip(axes, setting, strict=True)}
        return ", ".join(word for where, word in words.items() if where not in contest.among)

    rows = []
    for contest in contests:
        best, *others = contest.ranking
        ties = [name(one, contest) for one in others if one.is_tie]
        ties[MOST_TIES:] = [f"{len(ties) - MOST_TIES} more"] if len(ties) > MOST_TIES else []
        if any(one.is_tie is None for one in others):
            ties += [f"too few seeds to tell; ahead at {others[0].num_ahead} of {others[0].num_common}"]
        among = ", ".join(_word(what, value, axes) for what, value in contest.among.items()) or "all"
        behind = with_interval(others[0].behind, ".3f") if others else None
        told = with_interval(best.mean, ",.0f"), contest.held_out, behind, "; ".join(ties) or None
        rows.append((among, name(best, contest), *told))
    columns = [key("of"), Column("best", kind="text"), Column("samples"), Column("held out", ",.0f")]
    columns += [Column("times the next"), Column("ties with", kind="text")]
    note = "the seeds that choose the best judge it, too, which flatters it" + (
        "; held out: the mean over seeds, each of which judges what the others choose"
        if any(math.isfinite(contest.held_out) for contest in contests)
        else "; with two seeds or more, one can judge what the others choose"
    )
    return Table(columns, rows, "most samples, compared at the same seeds", [note])


def _word(axis: str, value: Any, axes: Sequence[str]) -> str:
    """Write the value of an axis, with the name of the field where the value does not tell."""
    is_clear = axis not in axes or len(axes) == 1 or (isinstance(value, str) and "." not in axis)
    return value_text(value) if is_clear else f"{axis_names(axes)[axis]} {value_text(value)}"


def _cell(row: Mapping[str, Any], what: str, form: str) -> str:
    return with_interval(_interval(row, what), form)


def _interval(row: Mapping[str, Any], what: str) -> Interval:
    return Interval(row[f"{what}_mean"], row[f"{what}_ci_low"], row[f"{what}_ci_high"])
