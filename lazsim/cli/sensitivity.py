"""``lazsim sensitivity``: vary each constant of the cost model by itself."""

from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, options_of
from lazsim.cli.base.progress import progress_bar, working
from lazsim.cli.base.results import show
from lazsim.cli.run import command as run
from lazsim.study.sensitivity import FACTORS, sensitivity


@click.command(cls=Checked, params=options_of(run, without=("out", "price", "as_json")))
@click.option("--constant", "constants", multiple=True, metavar="NAME", help="Vary only this one; repeats.")
@click.option(
    "--factor",
    "factors",
    multiple=True,
    type=kinds.Number(min=0, min_open=True),
    default=FACTORS,
    help="Multiply by this; repeats.",
)
@json_option
def command(systems: tuple[str, ...], **settings: Any) -> None:
    """Show what changes when a constant is off by half.

    Each constant of the cluster, its GPU's efficiencies and the job is halved, then multiplied by 1.5, all else equal.
    Whole numbers are rounded, and shares are cut at 1. Tables show by how much the samples that a system trains
    change, and the ratio of the first system's to the others'; "none" says that a system cannot run. A small effect
    may have either sign: a change also moves the step at which a failure hits, and so the work lost since the last
    checkpoint. A factor near 1 shows by how much.
    """
    from lazsim.engine.systems import DEFAULT_SYSTEMS
    from lazsim.output.sensitivity import sensitivity_parts

    asked = {name: settings.pop(name) for name in ("placements", "constants", "factors")}
    with working("reading inputs, choosing layouts and simulating without a change"):
        result = sensitivity(settings, systems=systems or DEFAULT_SYSTEMS, progress=progress_bar, **asked)
    show(result, sensitivity_parts)
