"""Options that say what is read of a trace: its format, the stretch that counts, how nodes are held to a number."""

from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.common import DURATION, NODES, options
from lazsim.files import module_names

if TYPE_CHECKING:
    from lazsim.trace import Trace

FORMATS = ("auto", *module_names("trace/readers"))
CAPS = ("offset", "clip", "first")
"""Names of `lazsim.trace.CAP_RULES`, here so that ``--help`` need not import them."""

max_nodes_option = click.option("--max-nodes", type=NODES, help="Hold the trace to this many nodes.")


replay_options = options(
    click.option(
        "--format",
        "trace_format",
        type=click.Choice(FORMATS),
        default="auto",
        show_default=True,
        help="Of the trace; auto tells it from the content.",
    ),
    click.option("--start", type=DURATION, default=0.0, help="Where in the trace to begin; default 0."),
    click.option("--duration", type=DURATION, help="How much of it, as 80min; default: to its end."),
    click.option(
        "--cap",
        type=click.Choice(CAPS),
        default="offset",
        show_default=True,
        help="How a trace with more nodes is held to fewer: subtract a constant, so that every loss is felt; "
        "keep spares outside; follow the first names.",
    ),
    click.option("--lenient", is_flag=True, help="Repair what is repairable in a file, and say how often."),
)
"""Options that `read_stretch` takes, but for the path, the seed and the most nodes."""


def read_stretch(path: str, *, trace_format: str, start: float, duration: float | None, **options: Any) -> "Trace":
    """Read what the options ask for; see `lazsim.trace.load`."""
    from lazsim.trace import load

    return load(path, format=trace_format, start_s=start, duration_s=duration, **options)
