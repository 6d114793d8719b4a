"""``lazsim step``: predict the training step of a layout, part by part."""

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, out_option
from lazsim.cli.base.progress import working
from lazsim.cli.base.results import show

STEP_FILES = ("step.json", "job.toml", "step.png", "step.pdf")


@click.command(cls=Checked)
@click.option("--model", required=True, metavar="NAME|TOML|JSON", help="Model; see lazsim list models.")
@click.option("--cluster", required=True, metavar="NAME|TOML", help="Its GPUs, nodes and links, as h100x64.")
@click.option(
    "--job", metavar="NAME|TOML", help="Job whose [parallel] table is the layout; see lazsim list jobs deepseek-v3."
)
@click.option(
    "--layout",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Other value of a field of the layout, such as tensor=2 or precision=mxfp8; repeats.",
)
@click.option("--gpus", type=kinds.COUNT, help="GPUs of the job; default: all of the cluster.")
@click.option(
    "--search", "searches", is_flag=True, help="Find the fastest layouts that fit into memory; all else as given."
)
@out_option("Write step.json, job.toml, step.png and step.pdf to this folder.", *STEP_FILES)
@json_option
def command(
    model: str, cluster: str, job: str | None, fields: tuple[str, ...], gpus: int | None, searches: bool
) -> None:
    """Predict the training step of a layout, part by part, from measured kernels.

    Prints the time of each part, exposed and hidden, throughput, utilisation and memory of a GPU. Without --job and
    --layout, or with --search, the layout is the fastest that fits, and the ten fastest are listed. --out also writes
    the layout as job.toml, in which any field may change: give it as --job, here and to lazsim run.
    """
    from lazsim.output.step import step_files, step_parts
    from lazsim.specs.effects import refuse_without_effect
    from lazsim.stepmodel.loading import load_inputs, parse_layout
    from lazsim.stepmodel.search import SEARCHED
    from lazsim.study.step import predict_layout

    layout = parse_layout(fields)
    if searches:
        refuse_without_effect(layout, dict.fromkeys(SEARCHED, "beside `searches`"), "`layout` ")
    searches = searches or not (job or fields)
    inputs = load_inputs(model, cluster, job, layout, gpus, searches)
    with working("searching layouts"):
        result = predict_layout(inputs, searches, not job and "global_batch" not in layout)
    show(result, step_parts, kept_as="step.json", files=step_files)
