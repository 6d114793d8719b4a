"""Tables for people, within 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lazsim.engine.ledger import BUCKETS
from lazsim.units import format_duration

if TYPE_CHECKING:
    from lazsim.study.result import RunResult

MOST_WITH_DURATIONS = 3
"""Systems up to which durations stand beside shares within 80 columns."""


SHORT_BUCKETS = {
    "checkpoint": "ckpt",
    "lost_work": "lost",
    "reconfigure": "reconf",
    "rebalance": "rebal",
}
"""Headings that leave room for the names of runs within 80 columns."""


def run_report(result: RunResult) -> Group:
    """Say what each system got done, and where its time went; with placements, how well their plans were prepared."""
    if result.compares_placements:
        return Group(_headline(result), "", _placement_table(result), "", _ledger_by_run_table(result))
    return Group(_headline(result), "", _outcome_table(result), "", _ledger_table(result))


def print_report(report: Group) -> None:
    """Print on stdout, no wider than a terminal and never wider than 80 columns when piped."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=80)
    console.print(report)


def _headline(result: RunResult) -> Text:
    trace, inputs = result.trace, result.inputs
    return Text(
        f"{inputs['model']['name']} on {inputs['cluster']['name']}, {trace['name']}: "
        f"{format_duration(inputs['duration_s'])}, {trace['fewest_nodes']} to {trace['most_nodes']} nodes, "
        f"{trace['nodes_lost']} lost"
    )


def _outcome_table(result: RunResult) -> Table:
    table = _table()
    table.add_column("system", no_wrap=True)
    for heading in ("samples", "samples/s", "ETTR", "failures", "reconf.", "restarts", "lost steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in result.runs:
        counts = run.counts
        table.add_row(
            run.system,
            f"{run.samples:,}",
            f"{run.goodput_samples_per_s:.2f}",
            f"{run.ettr:.1%}",
            str(counts["failures"]),
            str(counts["reconfigurations"]),
            str(counts["restarts"]),
            str(counts["lost_steps"]),
        )
    return table


def _placement_table(result: RunResult) -> Table:
    table = _table()
    table.add_column("system", no_wrap=True)
    table.add_column("placement", overflow="fold")
    for heading in ("samples/s", "recovery\nprobability", "failures", "reconf.", "restarts", "lost\nsteps"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="top")
    for run in result.runs:
        counts = run.counts
        table.add_row(
            run.system,
            run.placement or "-",
            f"{run.goodput_samples_per_s:.2f}",
            f"{run.plan_recovery.recovery_prob:.3f}" if run.plan_recovery else "-",
            *(str(counts[name]) for name in ("failures", "reconfigurations", "restarts", "lost_steps")),
        )
    return table


def _ledger_by_run_table(result: RunResult) -> Table:
    """Return shares of time with a row for each run, of which there may be many."""
    table = _table("where the time went, %")
    table.add_column("run", overflow="fold")
    for bucket in BUCKETS:
        table.add_column(SHORT_BUCKETS.get(bucket, bucket), justify="right", no_wrap=True)
    for run in result.runs:
        shares = (run.ledger_s[bucket] / run.wall_s for bucket in BUCKETS)
        table.add_row(run.name, *(f"{100 * share:.1f}" if share else "-" for share in shares))
    return table


def _ledger_table(result: RunResult) -> Table:
    table = _table("where the time went")
    table.add_column("bucket", no_wrap=True)
    for run in result.runs:
        table.add_column(run.system, justify="right", no_wrap=True)
    for bucket in BUCKETS:
        shares = [(run.ledger_s[bucket], run.ledger_s[bucket] / run.wall_s) for run in result.runs]
        cells = [_amount(seconds, share, alone=len(result.runs) > MOST_WITH_DURATIONS) for seconds, share in shares]
        table.add_row(bucket.replace("_", " "), *cells)
    return table


def _table(title: str | None = None) -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", header_style="bold")


def _amount(seconds: float, share: float, *, alone: bool) -> str:
    if not seconds:
        return "-"
    return f"{share:.1%}" if alone else f"{format_duration(seconds)} {share:6.1%}"
