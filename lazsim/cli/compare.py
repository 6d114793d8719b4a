"""``lazsim compare``: a run's own log of steps against simulations of the same failures."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, options_of
from lazsim.cli.base.progress import progress_bar, working
from lazsim.cli.base.results import note, show
from lazsim.cli.run import command as run

ONLY_OF_RUN = ("placements", "price", "spares", "spare_start", "strict", "out", "as_json")
"""Options of ``lazsim run`` that say nothing here; the others are the same."""


@click.command(cls=Checked, params=options_of(run, without=ONLY_OF_RUN))
@click.option(
    "--observed",
    type=click.Path(path_type=Path),
    required=True,
    metavar="LOG",
    help="Table of times and steps or samples, or a log of torchtitan, Megatron, NeMo, DeepSpeed or MLPerf.",
)
@json_option
def command(observed: Path, systems: tuple[str, ...], **settings: Any) -> None:
    """Hold a run's own log of steps against simulations of the same failures, part by part.

    --trace has the node events of that run, from the first line of the log on. --duration takes the beginning of both.
    Offers constants that would make stops agree, and changes none: a log does not say what a stop was spent on.
    """
    from lazsim.engine.systems import DEFAULT_SYSTEMS
    from lazsim.output.compare import observed_parts
    from lazsim.study.observed import compare_observed

    systems = systems or DEFAULT_SYSTEMS
    with working():
        found = compare_observed(observed, settings, systems, partial(progress_bar, doing="simulating"), note)
    show(found, observed_parts)
