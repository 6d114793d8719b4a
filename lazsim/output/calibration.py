"""Errors of the cost model as a table, and fitted parameters as TOML."""

from collections.abc import Mapping, Sequence
from typing import Any

from lazsim.costmodel.calibration import CalibrationReport, CalibrationRow
from lazsim.output.table import Column, Table, key


def calibration_table(rows: Sequence[CalibrationRow]) -> Table:
    """Return the errors of each GPU, kernel and model."""
    columns: list[Column | str] = [key("gpu"), key("measured"), key("model"), key("points"), "count"]
    columns += [Column(heading, ".1%") for heading in ("median", "90 %", "max")]
    return Table(
        columns,
        [
            (
                row.gpu,
                row.kind,
                row.model,
                row.points,
                row.error.num_points,
                row.error.median,
                row.error.p90,
                row.error.max,
            )
            for row in rows
        ],
    )


def refit_toml(calibration: CalibrationReport) -> str:
    """Write fitted parameters as TOML, three digits each, under comments that name the files they belong to."""
    lines = []
    for file, values in calibration.refit.items():
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        lines += [f"# {file}", *_assignments({name: values[name] for name in values if name not in tables})]
        for name, table in tables.items():
            lines += [f"[{name}]", *_assignments(table)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {float(f'{value:.3g}')!r}" for name, value in values.items()]
