"""Options that say what is read of a trace: its format, the stretch that counts, how nodes are held to a number."""

from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.options import options
from lazsim.limits import CAPS, OF_MAPPINGS
from lazsim.units import UNITS_S

if TYPE_CHECKING:
    from lazsim.trace import Trace

rate_options = options(
    click.option(
        "--node-mtbf", "mtbf_s", type=kinds.DURATION, help="Mean time between the failures of a node, as 50d."
    ),
    click.option("--repair", "repair_s", type=kinds.DURATION, help="Mean time until a node is back, as 4h."),
    click.option(
        "--shape",
        type=kinds.Number(0, min_open=True),
        help="Shape of the Weibull law of failures; default 1, memoryless. Below 1, nodes that come back fail again "
        "soon.",
    ),
)
"""Options of failures and repairs; an option's name is that of the field of a recipe."""

max_nodes_option = click.option("--max-nodes", type=kinds.NODES, help="Hold the trace to this many nodes.")


replay_options = options(
    click.option(
        "--format",
        "trace_format",
        default="auto",
        metavar="NAME|TOML",
        help="Format of the trace, see lazsim list formats; auto tells it from the content.",
    ),
    click.option(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="Columns of a table, by name or number, as time=when,count=alive. Roles: time and count; time, event and "
        "node; node, start, and end or duration; or time with node and value, or with nodes, which are columns.",
    ),
    click.option("--where", multiple=True, metavar="COLUMN=PATTERN", help="Take only such rows of a table; repeats."),
    click.option(
        "--time-unit",
        type=kinds.OneOf(tuple(UNITS_S)),
        help="Unit of times and durations that are numbers, where the file does not say.",
    ),
    click.option("--time-format", metavar="TEXT", help="Format of dates, as %d/%m/%Y %H:%M; ISO 8601 needs none."),
    click.option("--time-zone", metavar="NAME", help="Zone of dates that name none, as Europe/Berlin; default UTC."),
    click.option(
        "--cluster-nodes",
        metavar="N|HOSTS|FILE",
        help="All nodes, if the file names only those with a failure: how many, or which, as gpu-[01-16].",
    ),
    click.option(
        "--span",
        metavar="FROM..TO",
        help="When nodes were observed, if the file has only what happened to them, as 2025-01-01..2025-06-30.",
    ),
    click.option(
        "--start", type=kinds.DURATION, default=0.0, show_default=False, help="Where in the trace to begin; default 0."
    ),
    click.option("--duration", type=kinds.DURATION, help="How much of it, as 80min; default: to its end."),
    click.option(
        "--cap",
        type=kinds.OneOf(CAPS),
        help="How a trace is held to a number of nodes. members: the job has nodes of its own, and only newly granted "
        "ones replace those that it loses. offset: subtract a constant, so that every loss is felt. clip: the others "
        "come as new nodes as soon as one is lost. first: follow the first names. Default: members.",
    ),
    click.option("--lenient", is_flag=True, help="Repair bad lines of a file where possible, and say how often."),
)
"""Options that `read_stretch` takes, but for the path, the seed and the most nodes."""


def read_stretch(path: str, *, trace_format: str, start: float, duration: float | None, **options: Any) -> "Trace":
    """Read what the options ask for; see `lazsim.trace.load_trace`."""
    from lazsim.files.faults import check_lenient
    from lazsim.trace import load_trace, make_mapping

    check_lenient(options["lenient"], path)
    mapping = make_mapping(**{name: options.pop(name) for name in OF_MAPPINGS})
    return load_trace(path, format=trace_format, start_s=start, duration_s=duration, mapping=mapping, **options)
