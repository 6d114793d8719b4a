"""``lazsim advise``: find the best setting of a job, and say what the advice rests on."""

from pathlib import Path
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.kinds import Parsed, parse_spans
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, options_of, out_option, worker_options
from lazsim.cli.base.progress import progress_bar, working
from lazsim.cli.base.replay import rate_options
from lazsim.cli.base.results import REPORT, note, show
from lazsim.cli.run import command as run

ONLY_OF_RUN = ("trace", "max_nodes", "systems", "interval", "placements", "spares", "out", "as_json")
"""Options of ``lazsim run`` that this command lacks or has otherwise; the others are the same."""

OF_SEARCH = (
    "goal", "work", "in_time_prob", "interval", "on_demand_price", "max_runs", "backend", "num_workers", "address",
)  # fmt: skip
"""Options that are arguments of `lazsim.study.advise.advice.advise`."""

SPANS = Parsed(parse_spans)


TRACE = click.Option(["--trace"], metavar="FILE|RECIPE", help="Node events; or give --node-mtbf and --repair.")


@click.command(cls=Checked, params=[TRACE, *options_of(run, without=ONLY_OF_RUN)])
@click.option(
    "--nodes",
    "num_nodes",
    type=SPANS,
    metavar="N,...",
    help="Nodes of the cluster, or at most of the trace; several, as 60-64,72, are tried. Default: the cluster's.",
)
@rate_options
@click.option(
    "--batch-share",
    type=kinds.Number(0, 1),
    help="Share of a node's failures in which its whole failure domain fails, such as a rack: those of --cluster.",
)
@click.option(
    "--goal",
    default="goodput",
    metavar="goodput|cost|deadline=TIME",
    help="goodput: most samples in the time. cost: least cost of a sample. deadline=80h: least cost of --work that is "
    "done by then.",
)
@click.option(
    "--work", metavar="TIME", help="Work that is due at the deadline, as 64h of the first system on nodes that stay."
)
@click.option(
    "--in-time-prob",
    type=kinds.Number(0.5, 1, max_open=True),
    default=0.9,
    help="Probability with which a setting must end the work by the deadline.",
)
@click.option(
    "--system",
    multiple=True,
    metavar="NAME",
    help="System to try; repeats. Default: all that can run the job, also of installed packages.",
)
@click.option(
    "--fault-threshold",
    type=SPANS,
    metavar="F,...",
    help="Fewest replicas of each expert, f, to try, as 1-3; default: the job's.",
)
@click.option("--spares", type=SPANS, metavar="N,...", help="Nodes held beside those that train, to try, as 0-4.")
@click.option(
    "--interval",
    default="auto",
    metavar="STEPS|TIME|auto",
    help="Steps or time between checkpoints, 0 for none; auto looks for the best.",
)
@click.option(
    "--placement",
    multiple=True,
    metavar="NAME|PATH.py:FUNCTION",
    help="Policy to try for systems with flexible dispatch, such as domains if racks fail; repeats. Default: the "
    "published one.",
)
@click.option(
    "--on-demand-price",
    metavar="USD[/gpu]",
    help="As --price, of a node that stays: try such nodes, too, in place of those of the trace, and before a deadline "
    "also after them. Default: the cluster's.",
)
@click.option("--runs", "max_runs", type=kinds.COUNT, default=1000, help="Most simulations.")
@worker_options
@out_option(
    "Keep every run there; write the advice, a picture and a report.",
    *("advice.json", "advice.png", "advice.pdf", REPORT), expose_value=True,
)  # fmt: skip
@json_option
def command(trace: Any, num_nodes: list[int] | None, out: Path | None, **settings: Any) -> None:
    """Find the setting of a job that does best under failures, and say what the advice rests on.

    Tries all systems, or those given, and the nodes and fault thresholds given, each at several intervals between
    checkpoints, on the same failures and loads. Drops what is clearly worse early, and finds the interval of the best.
    Prints the best setting, those that cannot be told from it, what it costs to be off, the intervals of Young and Daly
    beside the one found, and which assumption would change the advice. A recorded trace is cut into stretches; one that
    is generated is another at each seed. With --out, a search that was stopped goes on where it was.
    """
    from lazsim.output.advise import advice_files, advice_parts, advice_report
    from lazsim.specs import ClusterSpec, load_spec
    from lazsim.study.advise.advice import advise
    from lazsim.trace.recipes import change_recipe

    asked = {name: settings.pop(name) for name in OF_SEARCH}
    rates = ("mtbf_s", "repair_s", "shape", "batch_share")
    given = {name: value for name in rates if (value := settings.pop(name)) is not None}
    chosen = {name: settings.pop(name) for name in ("system", "fault_threshold", "spares", "placement")}
    if trace is None and not given:
        raise click.UsageError("give --trace, or --node-mtbf and --repair")
    if trace is None:
        cluster = load_spec(ClusterSpec, settings["cluster"], "cluster")
        if given.get("batch_share") and not cluster.nodes_per_domain:
            raise click.UsageError(
                f"--batch-share: {cluster.name} has no failure domains; write its file by lazsim list clusters "
                f"{cluster.name}, add nodes_per_domain, the nodes of a rack, and give that"
            )
        trace = change_recipe(None, given | ({"num_nodes": num_nodes[0]} if num_nodes else {}), cluster)
    settings["trace"] = trace
    choices = {name: values for name, values in {**chosen, "num_nodes": num_nodes}.items() if values}
    with working():
        result = advise(settings, choices, folder=out, progress=progress_bar, tell=note, **asked)
    show(result, advice_parts, kept_as="advice.json", files=advice_files, report=advice_report)
