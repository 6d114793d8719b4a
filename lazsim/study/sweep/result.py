"""Results of a sweep: one row for each point, and means over seeds."""

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lazsim.errors import shorten
from lazsim.files.writing import csv_bytes
from lazsim.study.collect import Outcomes
from lazsim.study.comparison import BySeed, Ranked, common_seeds, held_out_mean, paired_ratio, rank
from lazsim.study.intervals import MIN_SAMPLES, Interval, few_failures_note, mean_interval
from lazsim.study.notes.told import count_notes
from lazsim.study.result import HISTORIES, frame_of_rows
from lazsim.study.sweep.spec import SEEDS, Point
from lazsim.units import divide

if TYPE_CHECKING:
    import pandas as pd

RUN_KEYS = ("system", "placement")
"""Keys that distinguish the runs of a setting."""

Contender = tuple[str, tuple[Any, ...]]
"""A run and the values of a setting, in the order of `SweepResult.setting_keys`."""


@dataclass(frozen=True)
class Contest:
    """Alternatives of a sweep by the samples that they train, the most first."""

    among: Mapping[str, Any]
    """What they have in common: a value of the first axis, a ``run``, or nothing."""
    ranking: tuple[Ranked[Contender], ...]
    held_out: float
    """Samples where no seed judges what it helped to choose: see `lazsim.study.comparison.held_out_mean`."""


@dataclass(frozen=True)
class SpareCost:
    """Means of runs with a number of spares over the seeds that all numbers have, or else over its own."""

    among: Mapping[str, Any]
    """The run, and the values of the other axes."""
    num_spares: int
    """Nodes held beside those that train."""
    samples: Interval
    """Samples kept."""
    node_hours: float
    """Hours of all nodes held."""
    cost_usd: float | None
    """Their cost, where prices are known."""
    per_million_samples: Interval
    """US dollars for a million samples, or node-hours where prices are not known."""
    dearer: Interval
    """How many times that of the number of spares with the least."""
    is_tie: bool | None
    """Whether samples may cost as little as they can; None where there are too few seeds to tell."""

    @property
    def name(self) -> str:
        """The run and the values of the other axes, in a line."""
        return name_setting(self.among)


def name_setting(setting: Mapping[Any, Any], among: Iterable[str] = ()) -> str:
    """Name a run, if any, and the values of some axes, `among` others, in a line; an empty setting is of all runs.

    Examples
    --------
    >>> name_setting({"job.fault_threshold": 2, "run": "lazarus"}), name_setting({"model": "gpt-s", "max_nodes": None})
    ('lazarus, fault_threshold 2', 'model gpt-s, max_nodes default')
    >>> name_setting({"trace.num_nodes": 4}, among=["trace.num_nodes", "cluster.num_nodes"])
    'trace.num_nodes 4'
    """
    names = axis_names(list(dict.fromkeys([*among, *setting])))
    run = [str(setting["run"])] if "run" in setting else []
    values = (f"{names[axis]} {value_text(value)}" for axis, value in setting.items() if axis != "run")
    return ", ".join([*run, *values]) or "all runs"


def axis_names(axes: Sequence[str]) -> dict[str, str]:
    """Return axes by their dotted names, with the name of the field alone where that tells them apart.

    Examples
    --------
    >>> axis_names(["job.fault_threshold", "trace.num_nodes", "cluster.num_nodes"]).values()
    dict_values(['fault_threshold', 'trace.num_nodes', 'cluster.num_nodes'])
    """
    fields = [axis.rpartition(".")[2] for axis in axes]
    return {axis: axis if fields.count(field) > 1 else field for axis, field in zip(axes, fields, strict=True)}


def value_text(value: Any) -> str:
    """Return the value of an axis as text; None is that of runs that do not set it."""
    return "default" if value is None else str(value)


def paying_spares(costs: Sequence[SpareCost]) -> SpareCost:
    """Return the number of spares after which one more does not pay: samples cost the least there.

    Of equal ones it is the fewest. `costs` are those of one run and setting.
    """
    return min(costs, key=lambda one: (one.per_million_samples.value, one.num_spares))


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep."""

    axes: tuple[str, ...]
    """Keys with several values, except system and placement."""
    rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    """One for each point that ran, in the order of the points: ``system``, ``placement``, the axes, the results as in
    ``lazsim run --json``, seconds by bucket, and the id of the run."""
    histories: tuple[Mapping[str, Sequence[Any]], ...] = field(repr=False)
    """For each row, ``states`` and ``events``, where the sweep keeps histories."""
    failures: tuple[tuple[str, str], ...]
    """Label and error of each point that failed."""
    run_notes: tuple[tuple[str, Sequence[str]], ...]
    """For each row, the name of the run in its remarks, and remarks on the inputs and the result."""

    @classmethod
    def assemble(cls, points: Sequence[Point], outcomes: Outcomes) -> "SweepResult":
        """Combine points with their results."""
        axes = find_axes(points)
        found = zip(points, outcomes.tasks, outcomes.values, strict=True)
        done = [(point, task.id, value) for point, task, value in found if value is not None]
        asked = ({key: point.get(key) for key in (*RUN_KEYS, *axes)} for point, _, _ in done)
        # What was asked for stands before what came of it, such as `planning`: it tells the points apart.
        rows = tuple(
            keys | {**value["row"], **keys, "id": row_id} for keys, (_, row_id, value) in zip(asked, done, strict=True)
        )
        histories = tuple({key: value[key] for key in HISTORIES if key in value} for _, _, value in done)
        notes = tuple((value["name"], value["notes"]) for _, _, value in done)
        return cls(axes, rows, histories, outcomes.failures, notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the runs, each with the number of its runs (`count_notes`), and on intervals."""
        failures = {
            name_setting(self._describe(name, setting)): list(by_seed.values())
            for (name, setting), by_seed in self._by_seed("num_failures").items()
        }
        seeds = {tuple(row.get(key) for key in SEEDS) for row in self.rows}
        is_crossed = len(seeds) > max(len(set(each)) for each in zip(*seeds, strict=True)) if seeds else False
        alike = (f"runs that share a {' or a '.join(SEEDS)} are alike: intervals are too narrow; vary one of them",)
        return (
            *count_notes(self.run_notes),
            *few_failures_note(failures),
            *(alike if is_crossed else ()),
            *self._equal_values(),
        )

    def _equal_values(self) -> Iterator[str]:
        """Say which values of an axis give the same rows, all else equal."""
        for axis in self.axes:
            rows_of: dict[Any, set[str]] = {}
            for row in self.rows:
                rest = repr([(key, value) for key, value in row.items() if key not in (axis, "id")])
                rows_of.setdefault(row[axis], set()).add(rest)
            values_of: dict[frozenset[str], list[str]] = {}
            for value, rows in rows_of.items():
                values_of.setdefault(frozenset(rows), []).append(str(value))
            if len(values_of) == 1 < len(rows_of):
                yield f"{axis} changes no result: all of its values give the same"
            elif axis not in SEEDS:
                same = (shorten(", ".join(values)) for values in values_of.values() if len(values) > 1)
                yield from (f"{axis}: these values give the same: {each}" for each in same)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim sweep --json`` prints."""
        return {
            "rows": list(self.rows),
            "summary": self.means(),
            "comparison": self._comparison_json(),
            **({"spares": self._spares_json()} if self.spares() else {}),
            "failures": [{"point": label, "error": error} for label, error in self.failures],
            "notes": list(self.notes),
        }

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a frame."""
        return frame_of_rows(self.rows)

    def table(self) -> bytes:
        """Return the rows as CSV, with exact numbers and empty cells for missing values."""
        columns = dict.fromkeys(key for row in self.rows for key in row)
        columns["id"] = columns.pop("id", None)
        return csv_bytes(columns, ([row.get(column) for column in columns] for row in self.rows))

    def timeline(self) -> "pd.DataFrame":
        """Return changes of state: system, placement and axes, then the columns of `RunResult.timeline`.

        Empty unless the sweep sets ``history``; `events` likewise.
        """
        return self._history("states")

    def events(self) -> "pd.DataFrame":
        """Return the events: system, placement and axes, then ``time_s, event, step`` and node counts."""
        return self._history("events")

    def _history(self, what: str) -> "pd.DataFrame":
        import pandas as pd

        keys = [*RUN_KEYS, *self.axes]
        found = [
            [*(row[key] for key in keys), *entry]
            for row, history in zip(self.rows, self.histories, strict=True)
            for entry in history.get(what, ())
        ]
        return pd.DataFrame(found, columns=[*keys, *HISTORIES[what]])

    def summary(self) -> "pd.DataFrame":
        """Return mean samples over seeds, also relative to the first run, with 95 % intervals.

        Returns
        -------
        DataFrame
            The axes except seeds, ``run``, ``num_runs``, ``samples_mean``, ``samples_ci_low``, ``samples_ci_high``,
            and the same for ``ratio``: the total of samples over that of the sweep's first run in the same setting, at
            the same seeds. NaN where there is no interval (too few seeds) or no ratio, as in a setting without that
            run. See `lazsim.study.comparison.paired_ratio`.
        """
        import pandas as pd

        return pd.DataFrame(self.means())

    def means(self) -> list[dict[str, Any]]:
        """Return the rows of `summary`."""
        samples = self._by_seed("samples")
        first = next((name for name, _ in samples), "")
        return [
            self._describe(name, setting)
            | {"num_runs": len(by_seed)}
            | mean_interval(by_seed.values()).named("samples", "_mean")
            | paired_ratio(by_seed, samples.get((first, setting), {})).named("ratio", "_mean")
            for (name, setting), by_seed in samples.items()
        ]

    def spares(self) -> list[list[SpareCost]]:
        """Return costs against the number of spares, ascending, of each run that trains; none without that axis."""
        if "spares" not in self.setting_keys:
            return []
        found: dict[tuple[Any, ...], dict[int, dict[Hashable, Mapping[str, Any]]]] = {}
        for among, row in self.settings():
            num_spares = among.pop("spares")
            found.setdefault(tuple(among.items()), {}).setdefault(num_spares, {})[_seeds_of(row)] = row
        return [
            _spare_costs(dict(among), by_number)
            for among, by_number in found.items()
            if any(row["samples"] for by_seed in by_number.values() for row in by_seed.values())
        ]

    @property
    def setting_keys(self) -> tuple[str, ...]:
        """The axes except seeds."""
        return tuple(key for key in self.axes if key not in SEEDS)

    def contests(self) -> tuple[Contest, ...]:
        """Compare settings and runs at the same seeds: all of them, those of each run, those of each first value.

        Runs are compared over settings where there are axes, and the values of the first axis where there are several;
        there is no contest where nothing trains.
        """
        samples = self._by_seed("samples")
        shared: list[tuple[str, ...]] = [()]
        if self.setting_keys and len({name for name, _ in samples}) > 1:
            shared.append(("run",))
        if len(self.setting_keys) > 1:
            shared.append(self.setting_keys[:1])
        groups: dict[tuple[tuple[str, Any], ...], dict[Contender, BySeed]] = {}
        for keys in shared:
            for each, by_seed in samples.items():
                told = self._describe(*each)
                groups.setdefault(tuple((key, told[key]) for key in keys), {})[each] = by_seed
        return tuple(
            Contest(dict(common), rank(group), held_out_mean(group))
            for common, group in groups.items()
            if any(value for by_seed in group.values() for value in by_seed.values())
        )

    def _comparison_json(self) -> dict[str, Any]:
        """Return the contests as plain data."""
        contests = [
            {
                "among": dict(contest.among),
                "samples_held_out": contest.held_out,
                "ranking": [
                    self._describe(*one.name)
                    | {"num_runs": one.num_seeds, **one.mean.named("samples", "_mean")}
                    | {**one.behind.named("behind", "_mean"), "is_tie": one.is_tie}
                    | {"num_common_seeds": one.num_common, "num_seeds_behind": one.num_ahead}
                    for one in contest.ranking
                ],
            }
            for contest in self.contests()
        ]
        return {"min_seeds": MIN_SAMPLES, "contests": contests}

    def _spares_json(self) -> list[dict[str, Any]]:
        return [
            asdict(one)
            | one.samples.named("samples")
            | one.per_million_samples.named("per_million_samples")
            | one.dearer.named("dearer")
            | {"pays_most": one is paying_spares(costs)}
            for costs in self.spares()
            for one in costs
        ]

    def settings(self) -> list[tuple[dict[str, Any], Mapping[str, Any]]]:
        """Return each row behind its run and the values of its setting."""
        keys = self.setting_keys
        return [(self._describe(run_name(row), tuple(row[key] for key in keys)), row) for row in self.rows]

    def _by_seed(self, column: str) -> dict[Contender, dict[Hashable, Any]]:
        """Return a column of each run in each setting by seeds; the runs of a setting follow each other."""
        found: dict[tuple[Any, ...], dict[str, dict[Hashable, Any]]] = {}
        for row in self.rows:
            setting = tuple(row[key] for key in self.setting_keys)
            found.setdefault(setting, {}).setdefault(run_name(row), {})[_seeds_of(row)] = row[column]
        return {(name, setting): by_seed for setting, runs in found.items() for name, by_seed in runs.items()}

    def _describe(self, name: str, setting: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self.setting_keys, setting, strict=True)) | {"run": name}


def find_axes(points: Iterable[Point]) -> tuple[str, ...]:
    """Return the keys with several values, except system and placement, in the order of the points."""
    points = list(points)
    keys = dict.fromkeys(key for point in points for key in point if key not in RUN_KEYS)
    return tuple(key for key in keys if len({(type(point.get(key)), point.get(key)) for point in points}) > 1)


def describe_point(point: Point, axes: Sequence[str]) -> str:
    """Name a point by its system, placement and axes."""
    keys = (*RUN_KEYS, *axes)
    return ", ".join(f"{key} = {point[key]}" for key in keys if point.get(key) is not None)


def run_name(row: Mapping[str, Any]) -> str:
    """Name the run of a row within its setting: the system, and the policy where one was chosen."""
    return f"{row['system']}:{row['placement']}" if row["placement"] else str(row["system"])


def _seeds_of(row: Mapping[str, Any]) -> Hashable:
    return tuple(row.get(key) for key in SEEDS)


def _spare_costs(
    among: Mapping[str, Any], by_number: Mapping[int, Mapping[Hashable, Mapping[str, Any]]]
) -> list[SpareCost]:
    """Hold the rows of each number of spares, by seed, against those of the cheapest; return costs, ascending."""
    shared = common_seeds(by_number.values())
    by_seed = {number: {seed: rows[seed] for seed in shared or rows} for number, rows in sorted(by_number.items())}
    is_priced = all(row["cost_usd"] is not None for rows in by_seed.values() for row in rows.values())
    paid = "cost_usd" if is_priced else "node_hours_held"
    rates = {
        number: {seed: (1e6 * row[paid], row["samples"]) for seed, row in rows.items()}
        for number, rows in by_seed.items()
    }
    ranked = {one.name: one for one in rank(rates, less_is_better=True)}
    least = next(iter(ranked.values())).mean.value

    def cost(number: int, rows: Collection[Mapping[str, Any]]) -> SpareCost:
        samples, place = mean_interval(row["samples"] for row in rows), ranked[number]
        hours = fmean(row["node_hours_held"] for row in rows)
        usd = fmean(row["cost_usd"] for row in rows) if is_priced else None
        times = place.behind if shared else Interval(divide(place.mean.value, least), math.nan, math.nan)
        return SpareCost(among, number, samples, hours, usd, place.mean, times, place.is_tie)

    return [cost(number, rows.values()) for number, rows in by_seed.items()]
