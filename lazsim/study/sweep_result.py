"""Results of a sweep: one row for each point, and means over seeds."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazsim.study.intervals import mean_interval
from lazsim.study.result import HISTORIES
from lazsim.study.sweep_spec import SEEDS, Point

if TYPE_CHECKING:
    import pandas as pd

RUN_KEYS = ("system", "placement")
"""Keys that distinguish the runs of a setting."""


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep.

    Attributes
    ----------
    axes : tuple of str
        Keys with several values, except system and placement.
    rows : tuple of mapping
        One for each point that ran, in the order of the points: ``system``, ``placement``, the axes, the results as in
        ``lazsim run --json``, seconds by bucket, and the id of the run.
    histories : tuple of mapping
        For each row, ``states`` and ``events``, where the sweep keeps histories.
    failures : tuple of (str, str)
        Label and error of each point that failed.
    notes : tuple of str
        Remarks on the inputs, each with the number of its runs.
    """

    axes: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    histories: tuple[Mapping[str, Sequence[Any]], ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @classmethod
    def assemble(
        cls, points: Sequence[Point], ids: Sequence[str], values: Sequence[Any], failures: tuple[tuple[str, str], ...]
    ) -> "SweepResult":
        """Combine points with their results."""
        axes = find_axes(points)
        done = [each for each in zip(points, ids, values, strict=True) if each[2] is not None]
        rows = tuple(
            {key: point.get(key) for key in (*RUN_KEYS, *axes)}
            | {key: cell for key, cell in value["row"].items() if key not in RUN_KEYS}
            | {"id": row_id}
            for point, row_id, value in done
        )
        histories = tuple({key: value[key] for key in HISTORIES if key in value} for _, _, value in done)
        counts = Counter(note for _, _, value in done for note in dict.fromkeys(value["notes"]))
        notes = tuple(f"{note} ({count} of {len(done)} runs)" for note, count in counts.items())
        return cls(axes, rows, histories, failures, notes)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim sweep --json`` prints."""
        return {
            "rows": list(self.rows),
            "summary": self.means(),
            "failures": [{"point": label, "error": error} for label, error in self.failures],
            "notes": list(self.notes),
        }

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a frame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def table(self) -> bytes:
        """Return the rows as CSV, with exact numbers and empty cells for missing values."""
        text = io.StringIO()
        columns = dict.fromkeys(key for row in self.rows for key in row)
        columns["id"] = columns.pop("id", None)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def timeline(self) -> "pd.DataFrame":
        """Return changes of state: system, placement and axes, then ``time_s, nodes_alive, nodes_used, samples_per_s``.

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
        """Return mean samples over seeds, also relative to the first run of each setting, with 95 % intervals.

        Returns
        -------
        DataFrame
            The axes except seeds, ``run``, ``num_runs``, ``samples_mean``, ``samples_ci_low``, ``samples_ci_high``,
            and the same for ``ratio``: samples over those of the setting's first run at the same seeds. NaN where there
            is no interval (one seed) or no ratio. See `lazsim.study.intervals.mean_interval`.
        """
        import pandas as pd

        return pd.DataFrame(self.means())

    def means(self) -> list[dict[str, Any]]:
        """Return the rows of `summary`."""
        setting_keys = [key for key in self.axes if key not in SEEDS]
        samples: dict[tuple[Any, ...], dict[str, dict[tuple[Any, ...], float]]] = {}
        for row in self.rows:
            setting = tuple(row[key] for key in setting_keys)
            seeds = tuple(row.get(key) for key in SEEDS)
            samples.setdefault(setting, {}).setdefault(run_name(row), {})[seeds] = row["samples"]
        found = []
        for setting, runs in samples.items():
            first = next(iter(runs.values()))
            for name, by_seed in runs.items():
                ratios = [value / first[seeds] for seeds, value in by_seed.items() if first.get(seeds)]
                mean = dict(zip(setting_keys, setting, strict=True)) | {"run": name, "num_runs": len(by_seed)}
                found.append(mean | _estimate("samples", by_seed.values()) | _estimate("ratio", ratios))
        return found


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


def _estimate(what: str, values: Iterable[float]) -> dict[str, float]:
    return dict(zip((f"{what}_mean", f"{what}_ci_low", f"{what}_ci_high"), mean_interval(values), strict=True))
