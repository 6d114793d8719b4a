"""``lazsim run``: replay a trace under one or more systems."""

from functools import partial
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, layers_from_option, out_option, seed_option
from lazsim.cli.base.progress import progress_bar, working
from lazsim.cli.base.replay import max_nodes_option, replay_options
from lazsim.cli.base.results import show
from lazsim.limits import MAX_NODES, PLANNINGS

RUN_FILES = (
    "summary.json", "timeline.csv", "events.csv", "recoveries.csv", "trace.json", "throughput.png", "throughput.pdf",
    "report.html", "run.json",
)  # fmt: skip


@click.command(cls=Checked)
@click.option("--trace", required=True, metavar="FILE|RECIPE", help="Node events.")
@replay_options
@max_nodes_option
@click.option("--model", default="gpt-s", metavar="NAME|TOML|JSON", help="Model to train; see lazsim list models.")
@click.option(
    "--cluster",
    default="rtx3090x10",
    metavar="NAME|TOML",
    help="Kind of nodes and their links. The trace gives the number of nodes, also where it has more than the cluster.",
)
@click.option(
    "--job",
    metavar="NAME|TOML",
    help="How the model is trained; lazsim list jobs deepseek-v3 prints one. Default: testbed-a; on a GPU with "
    "measured kernels, testbed-a with the layout that trains most on the trace, or the job named as the model if that "
    "trains more.",
)
@click.option(
    "--system",
    "systems",
    multiple=True,
    metavar="NAME",
    help="System to run; repeats. all: every system that can run the job, also of installed packages, at its published "
    "and its best setting. Default: lazarus, ds-ft, ds.",
)
@click.option(
    "--interval",
    metavar="STEPS|TIME|auto",
    help="Steps or time between checkpoints, 0 for none; auto simulates the best for this trace. Default: the job's "
    "own, else Young's.",
)
@click.option(
    "--placement",
    "placements",
    multiple=True,
    metavar="NAME|PATH.py:FUNCTION",
    help="Policy for systems with flexible dispatch, in place of the published mro; repeats, and compares goodput with "
    "the probability that every expert survives. See lazsim list policies.",
)
@click.option(
    "--routing",
    metavar="FILE|SPEC",
    help="Expert loads. Default: uniform for a job with a layout, else smartmoe-fit, which is skewed.",
)
@layers_from_option
@click.option(
    "--profile",
    metavar="FILE|NAME",
    help="Measured times, or analytic for none. Default: those that the catalogue has of this GPU and model.",
)
@click.option(
    "--price",
    metavar="USD[/gpu]",
    help="US dollars for an hour of a node, as 24.48, or of a GPU, as 3.06/gpu. Default: the trace's, or else the "
    "cluster's.",
)
@click.option(
    "--spares",
    type=kinds.Whole(0, MAX_NODES),
    help="Nodes held beside those that train, to step in for lost ones. A trace held to --max-nodes, or else a recipe "
    "of failures and repairs, gets N more; any other trace gives N of its own.",
)
@click.option(
    "--spare-start",
    type=kinds.DURATION,
    metavar="TIME",
    help="Time until a spare that is called joins, as 10min of a cold standby. Default: 0, a warm standby.",
)
@click.option("--strict", is_flag=True, help="Refuse a job that does not fit into the memory of its GPUs.")
@click.option(
    "--planning",
    type=kinds.OneOf(PLANNINGS),
    default="auto",
    help="exact: make every plan. sampled: make some that stand for the others, and tell the error. auto: exact where "
    "that takes a few seconds at most.",
)
@click.option(
    "--extrapolate",
    is_flag=True,
    help="Use analytic times beyond the sizes of --profile. Runs that find one in the catalogue always do.",
)
@seed_option
@out_option("Write tables, plots and inputs to this folder, in place of an earlier run's.", *RUN_FILES)
@json_option
def command(systems: tuple[str, ...], placements: tuple[str, ...], **settings: Any) -> None:
    """Replay a trace of node events under one or more systems.

    Prints the work of each system and where its time went. --out writes summary.json, timeline.csv, events.csv,
    recoveries.csv (a row for each failure), trace.json (for https://ui.perfetto.dev), report.html (all of it as
    one page), throughput.png and .pdf, and run.json with every input. With --placement, systems with flexible dispatch
    run once with each policy, and --out also writes placements.png and .pdf.

    Example: lazsim run --trace spot-p3-like --max-nodes 10 --model gpt-l
    """
    from lazsim.engine.systems import DEFAULT_SYSTEMS
    from lazsim.output.run import run_files, run_parts, run_report
    from lazsim.study.simulation import simulate

    systems, bar = systems or DEFAULT_SYSTEMS, partial(progress_bar, doing="simulating")
    with working():
        result = simulate(systems=systems, placements=placements, progress=bar, **settings)
    show(result, run_parts, files=run_files, report=run_report)
