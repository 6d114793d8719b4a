"""``lazsim verify``: hold predictions against what others measured."""

from pathlib import Path

import click

from lazsim.cli.common import Number, OutFolder, json_option, progress, show


@click.command()
@click.option("--only", default="", metavar="TEXT", help="Rows whose name, model, system, settings or source has TEXT.")
@click.option(
    "--rows",
    "paths",
    multiple=True,
    metavar="FILE",
    help="Measured runs in place of the catalogue's; repeats. Models and systems are those of the catalogue, or of "
    "models.csv and systems.csv beside the file.",
)
@click.option(
    "--tolerance", type=Number(min=0), help="Exit with 1 where the median error, as a share, is larger than this."
)
@click.option(
    "--out",
    type=OutFolder("verify.csv", "verify.json", "verify.png", "verify.pdf"),
    metavar="DIR",
    help="Write verify.csv, verify.json and a scatter plot there.",
)
@json_option
def command(only: str, paths: tuple[str, ...], tolerance: float | None, out: Path | None, as_json: bool) -> int:
    """Predict training runs that others measured, and show the errors.

    An error is predicted over measured throughput, minus one. Errors are grouped by model, system, precision,
    dispatcher, graphs, recomputation, pipeline and source; the worst rows are listed.
    """  # fmt: skip
    from lazsim.output.verify import verify_files, verify_parts
    from lazsim.study.verify import verify

    result = verify(paths, only, lambda runs: progress(runs, "predicting"))
    show(result, result.notes, verify_parts, as_json=as_json, out=out, files=verify_files)
    error = result.summary()["median_abs_error"]
    return int(tolerance is not None and (error is None or error > tolerance))
