"""``lazsim sweep``: grids of runs, resumed where they were left."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.common import json_option, keep, note, progress_bar, show, worker_options, working
from lazsim.cli.base.messages import Checked
from lazsim.units import counted

MOST_FAILURES = 10
"""Failed runs that are named."""


@click.command(cls=Checked)
@click.argument("spec", type=click.Path(path_type=Path), metavar="SPEC.toml")
@click.option("--out", type=kinds.OUT_PATH, required=True, callback=keep, metavar="DIR", help="Keep every run there.")
@worker_options
@json_option
def command(spec: Path, out: Path, **workers: Any) -> None:
    """Run every point of the grids in SPEC.toml that DIR does not hold yet.

    DIR keeps a line in rows.jsonl for each run as soon as it is there, so that a sweep which was stopped or killed goes
    on where it was, and at the end table.csv with a row for each point, a picture of the samples along the axes,
    comparison.png and .pdf, and report.html, all of it as one page. A run that fails does not stop the others.
    docs/guides/sweeps.md says what SPEC.toml can hold.
    """
    from lazsim.errors import LazsimError
    from lazsim.files.folders import refuse_foreign
    from lazsim.files.reading import read_bytes
    from lazsim.output.sweep import SWEEP_FILES, sweep_files, sweep_parts, sweep_report
    from lazsim.specs import sha256
    from lazsim.study.sweep.run import run_sweep
    from lazsim.study.sweep.spec import load_sweep

    refuse_foreign(out, SWEEP_FILES, click.get_current_context().command_path)
    with working():
        result = run_sweep(load_sweep(spec), out, progress=progress_bar, tell=note, **workers)
    if result.rows:
        report = partial(sweep_report, name=spec.name, sha256=sha256(read_bytes(spec)))
        show(result, sweep_parts, files=sweep_files, report=report)
        note(f"every run is in {out}/: table.csv, rows.jsonl")
    note(*(f"{label}: {error}" for label, error in result.failures[:MOST_FAILURES]))
    if result.failures:
        num_runs = len(result.rows) + len(result.failures)
        raise LazsimError(
            f"{spec}: {len(result.failures)} of {counted(num_runs, 'run')} failed; mend them and start it again"
        )
