"""``lazsim validate``: compare the prediction with a real training job under real kills."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.common import OUT, Number, json_option, note, print_json
from lazsim.cli.live import build_spec, check_places, live_options, load_live_trace, require_torch, write_routing
from lazsim.cli.progress import live_progress

if TYPE_CHECKING:
    from lazsim.live.run import OnStart


@click.command()
@live_options
@click.option("--tolerance", type=Number(min=0), help="Exit with 1 when a component's relative error is larger.")
@click.option("--out", type=OUT, metavar="DIR", help="Write the report and a picture there.")
@json_option
def command(
    tolerance: float | None, record_routing: Path | None, out: Path | None, as_json: bool, **options: Any
) -> int:
    """Train a small MoE for real under real kills, predict the same run, and print measured against predicted.

    The trace is replayed between two calibration runs, which measure the costs of steps and recoveries on this machine,
    and it is simulated with these costs. Nothing is fitted to the run that is predicted. --out writes validate.json,
    validate.png and validate.pdf.
    """
    require_torch()
    from lazsim.files import write_all
    from lazsim.live.validate import kills_and_joins, validate
    from lazsim.output.live import validation_files, validation_text

    check_places(out, record_routing)
    trace, speedup, stretch = load_live_trace(options, kills_and_joins)
    with live_progress() as show:

        def progress(purpose: str, wall_s: float | None) -> "OnStart":
            note(purpose)
            return show(purpose, wall_s)

        found = validate(
            build_spec(options), trace, speedup=speedup, device=options["device"], replay=stretch, progress=progress
        )
    write_routing(record_routing, found.measured.routing)
    if out is not None:
        files = validation_files(found, out)
        write_all(files)
        note(f"results are in {out}/: {', '.join(path.name for path in files)}")
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(validation_text(found))
    if tolerance is not None and found.worst() > tolerance:
        note(f"the worst relative error is {found.worst():.1%}, more than {tolerance:.1%}")
        return 1
    return 0
