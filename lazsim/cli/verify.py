"""``lazsim verify``: hold predictions against what others measured."""

from pathlib import Path

import click

from lazsim.cli.common import Number, json_option, out_option, progress, show


@click.command()
@click.option(
    "--only", default="", metavar="TEXT", help="Rows whose name, model, system, settings, metric or source has TEXT."
)
@click.option(
    "--rows",
    "paths",
    multiple=True,
    metavar="FILE",
    help="Measured runs, or outcomes, in place of the catalogue's; repeats. Models and systems are those of the "
    "catalogue, or of models.csv and systems.csv beside the file.",
)
@click.option(
    "--tolerance",
    type=Number(min=0),
    help="Exit with 1 where the median error of runs, as a share, is larger, or an outcome is out of its own range.",
)
@out_option(
    "Write verify.csv, verify.json and a scatter plot there.", "verify.csv", "verify.json", "verify.png", "verify.pdf"
)
@json_option
def command(only: str, paths: tuple[str, ...], tolerance: float | None, out: Path | None, as_json: bool) -> int:
    """Predict training runs and outcomes under failures that others published, and show the errors.

    An error is predicted over measured throughput, minus one. Errors are grouped by model, system, precision,
    dispatcher, graphs, recomputation, pipeline and source; the worst rows are listed. Outcomes are replayed by the
    engine and held to the tolerance of each.
    """  # fmt: skip
    from lazsim.output.verify import verify_files, verify_parts
    from lazsim.study.verify import verify

    result = verify(paths, only, lambda rows: progress(rows, "predicting"))
    show(result, result.notes, verify_parts, as_json=as_json, out=out, files=verify_files)
    return int(tolerance is not None and result.exceeds(tolerance))
