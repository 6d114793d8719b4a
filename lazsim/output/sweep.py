"""A sweep as tables: means over seeds."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lazsim.output.table import Part, Table, key
from lazsim.study.sweep_result import SweepResult

MOST_SETTINGS = 20
"""Settings that are shown; table.csv has all of them."""


def sweep_parts(result: SweepResult) -> Iterator[Part]:
    """Show mean samples and ratios of the runs of each setting."""
    yield ("samples, and times those of the first run at the same seed;\n+- is a 95 % interval over seeds")
    settings = itertools.groupby(
        result.means(),
        lambda row: ", ".join(f"{axis} = {row[axis]}" for axis in result.axes if row.get(axis) is not None),
    )
    shown = [(setting, list(rows)) for setting, rows in settings]
    for setting, rows in shown[:MOST_SETTINGS]:
        cells = [
            (row["run"], row["num_runs"], _interval(row, "samples", ",.0f"), _interval(row, "ratio", ".3f"))
            for row in rows
        ]
        yield Table([key("run"), "runs", "samples", "times the first"], cells, setting)
    if len(shown) > MOST_SETTINGS:
        yield f"{len(shown) - MOST_SETTINGS} more settings are in table.csv"


def _interval(row: Mapping[str, Any], what: str, form: str) -> str:
    mean, half = row[f"{what}_mean"], (row[f"{what}_ci_high"] - row[f"{what}_ci_low"]) / 2
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" + ("" if math.isnan(half) else f" +- {half:{form}}")
