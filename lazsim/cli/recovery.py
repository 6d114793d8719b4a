"""``lazsim recovery``: the probability that plans keep every expert when nodes fail together."""

from typing import Any

import click

from lazsim.cli.base.kinds import OneOf, Parsed, parse_probs, parse_spans
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, out_option
from lazsim.cli.base.results import REPORT, show
from lazsim.cli.place import planning_options

PICTURES = tuple(f"{name}.{kind}" for name in ("recovery", "failure-sets", "placement-map") for kind in ("png", "pdf"))


@click.command(cls=Checked)
@planning_options
@click.option(
    "--failures",
    metavar="1-5",
    help="Numbers of nodes that fail together; default: from 1 until no plan survives, fewer numbers above 32 nodes.",
)
@click.option(
    "--method",
    type=OneOf(("auto", "exact", "montecarlo")),
    default="auto",
    help="How to find probabilities; auto is exact where that takes little time.",
)
@click.option(
    "--node-fail-prob",
    type=Parsed(parse_probs),
    metavar="P|P,P,...",
    help="Also let each node, or each domain in the order of the nodes, fail independently, with this chance.",
)
@click.option(
    "--failures-from",
    metavar="TRACE",
    help="Also let as many nodes fail as fail at once in a trace; lazsim trace convert makes one of tables that need "
    "options to read.",
)
@out_option("Write the numbers, pictures and a report there.", "recovery.json", REPORT, *PICTURES)
@json_option
def command(
    policies: tuple[str, ...],
    failures: str | None,
    method: Any,
    node_fail_prob: list[float] | None,
    failures_from: str | None,
    **planning: Any,
) -> None:
    """Find the probability that plans keep every expert when nodes fail together.

    Prints the probability by policy and number of failed nodes, all nodes being equally likely to fail; of domains
    where --domains or the cluster has them. --out writes
    recovery.json, report.html, and recovery, failure-sets and placement-map as .png and .pdf.
    """
    from lazsim.errors import LazsimError
    from lazsim.files.faults import check_lenient
    from lazsim.output.recovery import reliability_files, reliability_parts, reliability_report
    from lazsim.reliability.failure_scenarios import build_scenarios
    from lazsim.reliability.survival import assess_plans
    from lazsim.reliability.task import build_task, expert_source

    check_lenient(planning["lenient"], planning["loads"], failures_from)
    source = expert_source(*(planning[name] for name in ("replicas", "experts", "loads", "model")))
    if planning["model"] is not None and source != "model":
        raise LazsimError(f"`model` has no effect: `{source}` says how many experts there are; leave one of them out")
    task = build_task(**planning)
    scenarios = build_scenarios(
        task.num_nodes,
        failures=None if failures is None else parse_spans("`failures`", failures),
        method=method,
        # A trace tells nodes that fail, whose domains policies may know.
        domains=planning["domains"] if failures_from else task.domains,
        node_fail_prob=node_fail_prob,
        failures_from=failures_from,
        seed=planning["seed"],
        lenient=planning["lenient"],
    )
    report = assess_plans(task, scenarios, policies)
    show(report, reliability_parts, kept_as="recovery.json", files=reliability_files, report=reliability_report)
