"""``lazsim validate``: compare the prediction with a real training job under real kills."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.common import Number, OutFolder, json_option, note, show
from lazsim.cli.live import build_spec, live_options, load_live_trace, require_torch, write_routing
from lazsim.cli.progress import live_progress

if TYPE_CHECKING:
    from lazsim.live.run import OnStart


@click.command()
@live_options
@click.option("--tolerance", type=Number(min=0), help="Exit with 1 when a component's relative error is larger.")
@click.option(
    "--out",
    type=OutFolder("validate.json", "validate.png", "validate.pdf"),
    metavar="DIR",
    help="Write the report and a picture there.",
)
@json_option
def command(
    tolerance: float | None, record_routing: Path | None, out: Path | None, as_json: bool, **settings: Any
) -> int:
    """Train a small MoE for real under real kills, predict the same run, and print measured against predicted.

    The trace is replayed between two calibration runs, which measure the costs of steps and recoveries on this machine,
    and it is simulated with these costs. Nothing is fitted to the run that is predicted. --out writes validate.json,
    validate.png and validate.pdf.
    """
    require_torch()
    from lazsim.live.validate import kills_and_joins, validate
    from lazsim.output.live import validation_files, validation_parts

    spec = build_spec(settings)
    trace, speedup, stretch = load_live_trace(spec, settings, kills_and_joins)
    with live_progress() as show_progress:

        def progress(purpose: str, wall_s: float | None) -> "OnStart":
            note(purpose)
            return show_progress(purpose, wall_s)

        found = validate(spec, trace, speedup=speedup, device=settings["device"], replay=stretch, progress=progress)
    write_routing(record_routing, found.measured.routing)
    show(found, (), validation_parts, as_json=as_json, out=out, files=validation_files)
    if tolerance is not None and found.worst() > tolerance:
        note(f"the worst relative error is {found.worst():.1%}, more than {tolerance:.1%}")
        return 1
    return 0
