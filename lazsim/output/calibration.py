"""Errors of the cost model as a table, and fitted parameters as TOML."""

from collections.abc import Mapping, Sequence
from typing import Any

from lazsim.costmodel.calibration import CalibrationReport, CalibrationRow
from lazsim.output.table import Column, Table, key


def calibration_table(rows: Sequence[CalibrationRow]) -> Table:
    """Return the errors of each GPU, kernel and model."""
    columns = [key("gpu", of="gpu"), key("measured", of="kind"), key("model", of="model"), key("points", of="points")]
    columns += [Column("count", of="error.num_points"), Column("median", ".1%", of="error.median")]
    columns += [Column("90 %", ".1%", of="error.p90"), Column("max", ".1%", of="error.max")]
    return Table.of(rows, columns)


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
