"""``lazsim calibrate``: compare the cost model with measured kernels."""

import os
from pathlib import Path

import click

from lazsim.cli.common import json_option, note, print_json, print_parts
from lazsim.costmodel.calibration import calibrate
from lazsim.costmodel.fit import TABLES, TEXT_COLUMNS, read_measurements


@click.command()
@click.option(
    "--measurements",
    type=click.Path(path_type=Path),
    help="Folder of measured tables.  [default: measurements/ in $LAZSIM_SHARED, else in ../shared]",
)
@click.option(
    "--gpu", "gpus", multiple=True, help="GPU of the catalogue, or TOML file; repeats. Default: all measured ones."
)
@click.option("--refit", is_flag=True, help="Print the parameters of a new fit, as the catalogue has them.")
@json_option
def command(measurements: Path | None, gpus: tuple[str, ...], refit: bool, as_json: bool) -> None:
    """Compare the cost model with measured kernels and collectives.

    Errors are |predicted / measured - 1|. Every seventh point is held out of a fit, and the errors of kernels are those
    at held-out points. "catalogue" means the shipped constants, "this fit" a fit to the table given, "own fit" the same
    formula fitted to these kernels alone. Collectives count from 1 MiB up; the fit takes all points of a whole node.
    """
    folder = measurements or Path(os.environ.get("LAZSIM_SHARED", "../shared")) / "measurements"
    calibration = calibrate(read_measurements(folder), gpus)
    if calibration.unknown:
        note(f"measured, but not in the catalogue: {', '.join(calibration.unknown)}; give a TOML file as --gpu")
    if as_json:
        print_json(calibration.to_json())
        return
    from lazsim.output.calibration import calibration_table, refit_toml

    if refit:
        click.echo(refit_toml(calibration))
    else:
        print_parts([calibration_table(calibration.rows)])


command.epilog = "Tables, each with gpu and time_us: " + "; ".join(
    f"{name} ({', '.join((*TEXT_COLUMNS[name], *columns))})" for name, columns in TABLES.items()
)
