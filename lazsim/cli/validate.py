"""``lazsim validate``: compare the prediction with a real training job under real kills."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, out_option
from lazsim.cli.base.results import REPORT, note, show
from lazsim.cli.base.torch_needed import require_torch
from lazsim.cli.live import build_spec, live_options, load_live_trace, show_run, write_routing

if TYPE_CHECKING:
    from lazsim.live.run import OnStart


DEFAULT_TOLERANCE = 0.5
"""Repeated runs stay within it: the luck of lost work was off by up to 39 %; see docs/measured/live.md."""


@click.command(cls=Checked)
@live_options
@click.option("--job", default="live", metavar="NAME|TOML", help="Job with intervals and waits.")
@click.option(
    "--tolerance",
    type=kinds.Number(min=0),
    default=DEFAULT_TOLERANCE,
    help="Exit with 1 when the relative error of a judged row is larger.",
)
@out_option("Write the report and a picture there.", "validate.json", "validate.png", "validate.pdf", REPORT)
@json_option
def command(tolerance: float, record_routing: Path | None, **settings: Any) -> int:
    """Train a small MoE for real under real kills, forecast the same run, and print measured against predicted.

    A calibration run measures the costs of steps and recoveries on this machine. The forecast is the simulation of the
    trace with these costs, made before the run. A calibration after the run only tells whether the machine's speed has
    changed. A row is judged where it stands for at least 2 % of the run's time, measured or predicted. --out writes
    validate.json, report.html, validate.png and validate.pdf.
    """
    require_torch("live training needs")
    from lazsim.live.fault_injector import kills_and_joins
    from lazsim.live.run import prepare
    from lazsim.live.validate import validate
    from lazsim.output.validate import validation_files, validation_parts, validation_report

    spec = prepare(build_spec(settings))
    trace, speedup, stretch = load_live_trace(spec, settings, kills_and_joins)

    def progress(purpose: str, wall_s: float | None) -> "OnStart":
        note(purpose)
        return lambda coordinator: coordinator.server.start(show_run(coordinator, purpose, wall_s))

    found = validate(spec, trace, speedup=speedup, tolerance=tolerance, replay=stretch, progress=progress)
    show(found, validation_parts, kept_as="validate.json", files=validation_files, report=validation_report)
    write_routing(record_routing, found.measured.routing)
    if found.has_passed:
        return 0
    worst = found.worst()
    both = f"measured {worst.measured:.4g}, predicted {worst.predicted:.4g}"
    note(f"the forecast is off by more than {100 * tolerance:.10g}%: {worst.name}: {both}")
    return 1
