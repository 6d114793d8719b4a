"""``lazsim verify``: hold predictions against what others measured."""

from functools import partial
from pathlib import Path

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, out_option
from lazsim.cli.base.progress import progress, working
from lazsim.cli.base.results import show


@click.command(cls=Checked)
@click.option(
    "--only",
    default="",
    show_default=False,
    metavar="TEXT",
    help="Rows whose name, model, system, settings, metric or source has TEXT.",
)
@click.option(
    "--rows",
    "paths",
    multiple=True,
    metavar="FILE",
    help="Measured runs, or outcomes, in place of the catalogue's; repeats. Models and systems are those of the "
    "catalogue, of models.csv and systems.csv beside the file, or paths from there.",
)
@click.option(
    "--kernels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Measured kernels and collectives in place of runs: a folder of gemm_bf16.csv, fused_moe_bf16.csv or "
    "nccl_single_node.csv.",
)
@click.option(
    "--gpu", "gpus", multiple=True, metavar="NAME|TOML", help="GPU of the kernels; repeats. Default: every known one."
)
@click.option("--refit", is_flag=True, help="Print constants fitted to the kernels, as the catalogue has them.")
@click.option(
    "--tolerance",
    type=kinds.Number(min=0),
    help="Exit with 1 where the median error of runs, as a share, or of a kernel with the constants of the catalogue "
    "is larger, or an outcome is out of its own range.",
)
@out_option(
    "Write verify.csv, verify.json and a plot of runs there.", "verify.csv", "verify.json", "verify.png", "verify.pdf"
)
@json_option
def command(
    only: str, paths: tuple[str, ...], kernels: Path | None, gpus: tuple[str, ...], refit: bool, tolerance: float | None
) -> int:
    """Predict training runs, outcomes under failures and kernels that others measured, and show the errors.

    An error is predicted over measured throughput, minus one. Errors are grouped by model, system, precision,
    dispatcher, graphs, recomputation, pipeline and source; the worst rows are listed. Outcomes are replayed by the
    engine and held to the tolerance of each.

    Errors of kernels and collectives have no sign. Every seventh point is held out of a fit, and the errors of kernels
    are those at held-out points. "catalogue" means the shipped constants, "this fit" a fit to the table given, "own
    fit" the same formula fitted to these kernels alone. Collectives count from 1 MiB up; the fit takes all points of a
    whole node.
    """
    from lazsim.costmodel.fit import compare_kernels
    from lazsim.output.verify import refit_parts, verify_files, verify_parts
    from lazsim.study.verify.verification import Verification, verify

    with working("reading rows and choosing what they leave open"):
        if kernels is not None:
            result = Verification(kernels=compare_kernels(kernels, gpus, only))
        else:
            result = verify(paths, only, partial(progress, doing="predicting"))
    parts = refit_parts if refit else verify_parts
    show(result, parts, kept_as="verify.json", files=verify_files)
    return int(tolerance is not None and result.exceeds(tolerance))
