"""``lazsim validate``: hold the prediction against a real training job under real kills."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.common import OUT, Number, json_option, note, print_json
from lazsim.cli.follow import following
from lazsim.cli.live import (
    build_spec,
    check_place,
    live_options,
    load_live_trace,
    require_torch,
    write_routing,
)

if TYPE_CHECKING:
    from lazsim.cli.follow import Watch


@click.command()
@live_options
@click.option("--tolerance", type=Number(min=0), help="Exit with 1 when a component's relative error is larger.")
@click.option("--out", type=OUT, metavar="DIR", help="Keep the report and a picture there.")
@json_option
def command(
    tolerance: float | None, record_routing: Path | None, out: Path | None, as_json: bool, **options: Any
) -> int:
    """Train a small MoE for real under real kills, predict the same run, and print measured against predicted.

    The trace is played between two calibration runs, which measure what steps and recoveries take on this machine, and
    simulated with these costs. Nothing is fitted on the run that is predicted. --out keeps validate.json, validate.png
    and .pdf.
    """
    require_torch()
    from lazsim.files import check_folder, write_all
    from lazsim.live.validate import kills_and_joins, validate

    if out is not None:
        check_folder(out)
    check_place(record_routing)
    trace, speedup, replay = load_live_trace(options, kills_and_joins)
    spec, device = build_spec(options), options["device"]
    with following() as follow:

        def tell(doing: str, wall_s: float | None) -> "Watch":
            note(doing)
            return follow(doing, wall_s)

        found = validate(spec, trace, speedup=speedup, device=device, replay=replay, follow=tell)
    write_routing(record_routing, found.measured.routing)
    if out is not None:
        write_all(found.files(out))
        note(f"results are in {out}/: validate.json, validate.png, validate.pdf")
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.to_text())
    if tolerance is not None and found.worst() > tolerance:
        note(f"the worst relative error is {found.worst():.1%}, more than {tolerance:.1%}")
        return 1
    return 0
