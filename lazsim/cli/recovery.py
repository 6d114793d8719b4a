"""``lazsim recovery``: how likely each plan keeps every expert when nodes fail together."""

from pathlib import Path
from typing import Any

import click

from lazsim.cli.common import OUT, json_option, note, print_json
from lazsim.cli.place import planning_options


@click.command()
@planning_options
@click.option(
    "--failures",
    metavar="1-5",
    help="How many nodes fail together; default: from 1 to where no plan survives, sparser above 32 nodes.",
)
@click.option(
    "--method",
    type=click.Choice(("auto", "exact", "montecarlo")),
    default="auto",
    show_default=True,
    help="auto is exact where that takes little time.",
)
@click.option("--domains", metavar="FILE|0,0,1,1,...", help="Failure domain of each node; domains fail as a whole.")
@click.option("--node-fail-prob", metavar="P|P,P,...", help="Let each node fail on its own, too, with this chance.")
@click.option("--failures-from", metavar="TRACE", help="Let as many nodes fail as at once in a trace, too.")
@click.option("--out", type=OUT, metavar="DIR", help="Keep the numbers and pictures there.")
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
    """Say how likely the plans of one or more policies keep every expert when nodes fail together.

    Prints the probability by policy and number of failed nodes, all as likely to fail; --out keeps recovery.json,
    recovery.png and .pdf, failure-sets.png and .pdf.
    """
    from lazsim.files import check_folder, write_all
    from lazsim.reliability.failure_scenarios import ThreatOptions
    from lazsim.reliability.report import score_recovery
    from lazsim.reliability.task import PlanningOptions

    if out is not None:
        check_folder(out)
    threats = ThreatOptions(failures, method, domains, node_fail_prob, failures_from)
    survivals = score_recovery(PlanningOptions(**planning), threats, policies)
    if out is not None:
        write_all(survivals.files(out))
    for text in survivals.notes:
        note(text)
    if as_json:
        print_json(survivals.to_json())
    else:
        from lazsim.output.reliability import print_tables, recovery_report

        print_tables(recovery_report(survivals))
    if out is not None:
        note(f"results are in {out}/: recovery.json, recovery.png, recovery.pdf, failure-sets.png, failure-sets.pdf")
