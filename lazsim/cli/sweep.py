"""``lazsim sweep``: grids of runs, resumed where they were left."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, out_option, worker_options
from lazsim.cli.base.progress import progress_bar, working
from lazsim.cli.base.results import REPORT, note, show
from lazsim.units import counted

SWEEP_FILES = ("comparison.png", "comparison.pdf", "spares.png", "spares.pdf", REPORT)
"""Files beside the rows; pictures where there is something to compare."""

MOST_FAILURES = 10
"""Failed runs that are named."""


@click.command(cls=Checked)
@click.argument("spec", type=click.Path(path_type=Path), metavar="SPEC.toml")
@worker_options
@out_option("Keep every run there.", *SWEEP_FILES, required=True, expose_value=True)
@json_option
def command(spec: Path, out: Path, **workers: Any) -> None:
    """Run every point of the grids in SPEC.toml that DIR does not hold yet.

    DIR keeps a line in rows.jsonl for each run as soon as it is there, so that a sweep which was stopped or killed goes
    on where it was, and at the end table.csv with a row for each point, a picture of the samples along the axes,
    comparison.png and .pdf, and report.html, all of it as one page. A run that fails does not stop the others.
    docs/guides/sweeps.md says what SPEC.toml can hold.
    """
    from lazsim.errors import LazsimError
    from lazsim.output.sweep import sweep_files, sweep_parts, sweep_report
    from lazsim.study.sweep.run import run_sweep
    from lazsim.study.sweep.spec import load_sweep

    with working():
        sweep = load_sweep(spec)
        result = run_sweep(sweep, out, progress=progress_bar, tell=note, **workers)
    if result.rows:
        report = partial(sweep_report, name=spec.name, sha256=sweep.sha256)
        show(result, sweep_parts, files=sweep_files, report=report, beside=("table.csv", "rows.jsonl"))
    note(*(f"{label}: {error}" for label, error in result.failures[:MOST_FAILURES]))
    if result.failures:
        num_runs = len(result.rows) + len(result.failures)
        raise LazsimError(
            f"{spec}: {len(result.failures)} of {counted(num_runs, 'run')} failed; mend them and start it again"
        )
