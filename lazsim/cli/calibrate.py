"""``lazsim calibrate``: how far the cost model is from measured kernels."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lazsim.cli.common import json_option, note, print_json
from lazsim.costmodel.calibration import Calibration, CalibrationRow, calibrate
from lazsim.costmodel.fit import TABLES, TEXT_COLUMNS, read_measurements


@click.command()
@click.option(
    "--measurements",
    type=click.Path(path_type=Path),
    help="Folder of measured tables.  [default: measurements/ in $LAZSIM_SHARED, else in ../shared]",
)
@click.option("--gpu", "gpus", multiple=True, help="GPU of the catalogue or TOML file; repeats. Default: all measured.")
@click.option("--refit", is_flag=True, help="Print the lines of the catalogue that a new fit gives.")
@json_option
def command(measurements: Path | None, gpus: tuple[str, ...], refit: bool, as_json: bool) -> None:
    """Show how far the cost model is from measured kernels and collectives.

    Errors are |predicted / measured - 1|. Every seventh point is kept from a fit, and kernels are judged on those.
    "catalogue" are the shipped constants, "this fit" is a fit to the table given, "own fit" the same formula fitted to
    these kernels alone. Collectives count from 1 MiB on; each is fitted on a whole node, all of its points.
    """
    folder = measurements or Path(os.environ.get("LAZSIM_SHARED", "../shared")) / "measurements"
    calibration = calibrate(read_measurements(folder), gpus)
    if calibration.unknown:
        note(f"measured, but not in the catalogue: {', '.join(calibration.unknown)}; give a TOML file as --gpu")
    if as_json:
        print_json(calibration.to_json())
    elif refit:
        click.echo(format_refit(calibration))
    else:
        click.echo(format_table(calibration.rows))


command.epilog = "Tables, each with gpu and time_us: " + "; ".join(
    f"{name} ({', '.join((*TEXT_COLUMNS[name], *columns))})" for name, columns in TABLES.items()
)


def format_refit(calibration: Calibration) -> str:
    """Write fitted parameters as TOML, three digits each, under a comment that says in which file they belong."""
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


def format_table(rows: list[CalibrationRow]) -> str:
    """Write errors as a table of at most 80 columns."""
    header = f"{'gpu':<8} {'what':<10} {'model':<9} {'points':<18} {'count':>5} {'median':>6} {'90 %':>6} {'max':>6}"
    lines = [header, "-" * len(header)]
    previous = ""
    for row in rows:
        if previous not in ("", row.gpu):
            lines.append("")
        previous = row.gpu
        error = row.error
        shares = " ".join(f"{share:6.1%}" for share in (error.median, error.p90, error.max))
        lines.append(f"{row.gpu:<8.8} {row.kind:<10} {row.model:<9} {row.points:<18} {error.num_points:>5} {shares}")
    return "\n".join(lines)
