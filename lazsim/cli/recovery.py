"""``lazsim recovery``: the probability that plans keep every expert when nodes fail together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lazsim.cli.common import OUT, json_option, note, note_written, print_json, print_parts
from lazsim.cli.parsing import parse_domains, parse_option, parse_probs, parse_spans
from lazsim.cli.place import planning_options, read_task


@click.command()
@planning_options
@click.option(
    "--failures",
    metavar="1-5",
    help="Numbers of nodes that fail together; default: from 1 until no plan survives, fewer numbers above 32 nodes.",
)
@click.option(
    "--method",
    type=click.Choice(("auto", "exact", "montecarlo")),
    default="auto",
    show_default=True,
    help="How to find probabilities; auto is exact where that takes little time.",
)
@click.option("--domains", metavar="FILE|0,0,1,1,...", help="Failure domain of each node; a domain fails as a whole.")
@click.option("--node-fail-prob", metavar="P|P,P,...", help="Also let each node fail independently, with this chance.")
@click.option("--failures-from", metavar="TRACE", help="Also let as many nodes fail as fail at once in a trace.")
@click.option("--out", type=OUT, metavar="DIR", help="Write the numbers and pictures to this folder.")
@json_option
def command(
    policies: tuple[str, ...],
    failures: str | None,
    method: Any,
    domains: str | None,
    node_fail_prob: str | None,
    failures_from: str | None,
    out: Path | None,
    as_json: bool,
    **planning: Any,
) -> None:
    """Find the probability that plans keep every expert when nodes fail together.

    Prints the probability by policy and number of failed nodes, all nodes being equally likely to fail. --out writes
    recovery.json, and recovery and failure-sets as .png and .pdf.
    """
    from lazsim.files import check_folder
    from lazsim.reliability.failure_scenarios import build_scenarios
    from lazsim.reliability.survival import assess_plans

    if out is not None:
        check_folder(out)
    task = read_task(planning)
    scenarios = build_scenarios(
        task.num_nodes,
        failures=parse_option("`failures`", failures, parse_spans),
        method=method,
        domains=parse_option("`domains`", domains, parse_domains),
        node_fail_prob=parse_option("`node_fail_prob`", node_fail_prob, parse_probs),
        failures_from=failures_from,
        seed=planning["seed"],
        lenient=planning["lenient"],
    )
    # Inputs are recorded as they were written.
    scenarios = replace(scenarios, inputs=scenarios.inputs | {"failures": failures})
    report = assess_plans(task, scenarios, policies)

    from lazsim.output.folder import write_folder
    from lazsim.output.reliability import reliability_files, reliability_parts

    written = [] if out is None else write_folder(out, reliability_files(report))
    for text in report.notes:
        note(text)
    if as_json:
        print_json(report.to_json())
    else:
        print_parts(reliability_parts(report))
    if out is not None:
        note_written(out, written)
