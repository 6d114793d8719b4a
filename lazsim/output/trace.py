"""Traces as tables: statistics, and a fit compared with its trace."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lazsim.output.table import Column, Part, Table, cell_text, facts, key, terminal_width
from lazsim.output.windows import mean_rates
from lazsim.placement.plan import Floats
from lazsim.trace.stats import TraceStats, loss_rate_text
from lazsim.trace.table import Trace
from lazsim.units import counted, format_duration

if TYPE_CHECKING:
    import pandas as pd

MAX_SPARKLINE = 76

BARS = "▁▂▃▄▅▆▇█"


def trace_parts(trace: Trace, stats: TraceStats) -> Iterator[Part]:
    """Show the statistics of a trace, and a sparkline of its nodes over time."""
    yield facts(_stats_rows(trace, stats), f"{Path(trace.name).name} ({trace.format})")
    line = sparkline(trace, min(MAX_SPARKLINE, terminal_width()))
    yield [f"nodes alive, 0 to {stats.peak_nodes}, over {format_duration(stats.span_s)}:", line]


def mean_alive(trace: Trace, num_bins: int) -> Floats:
    """Average the nodes alive over equal stretches of the trace; zeros for a trace of no duration."""
    times, counts = trace.num_alive()
    if trace.duration_s <= 0:
        return np.zeros(num_bins)
    return mean_rates([*times, trace.duration_s], counts, np.linspace(0.0, trace.duration_s, num_bins + 1))


def sparkline(trace: Trace, width: int = 60) -> str:
    """Draw the nodes alive over time in one line of text, from 0 (a blank) to the peak.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> events = [Event(0.0, "add", "a"), Event(60.0, "add", "b"), Event(120.0, "remove", "a")]
    >>> trace = build_trace(events, duration_s=180.0)
    >>> sparkline(trace, width=6)
    '▄▄██▄▄'
    """
    alive = mean_alive(trace, width)
    peak = max(1, trace.most_nodes())
    levels = np.ceil(alive / peak * len(BARS) - 1e-9).astype(int)
    return "".join(" " if level <= 0 else BARS[min(level, len(BARS)) - 1] for level in levels.tolist())


def fit_table(trace: Trace, frame: "pd.DataFrame", num_generated: int) -> Table:
    """Compare the statistics of a trace with those of generated ones."""
    columns = [key("statistic"), *(Column(name, ".4g") for name in frame.columns)]
    return Table(columns, list(frame.itertuples()), f"{Path(trace.name).name} and {num_generated} generated traces")


def _stats_rows(trace: Trace, stats: TraceStats) -> Iterator[tuple[str, str]]:
    mean = cell_text(stats.mean_nodes, ".4g")
    yield "span", format_duration(stats.span_s)
    yield "distinct nodes", f"{stats.num_nodes:,}"
    if trace.has_own_places:
        yield "their places", f"0 to {max(trace.places.values()):,}, which their order does not tell"
    yield "nodes alive", f"{mean} mean, {stats.min_nodes} to {stats.peak_nodes}, {stats.initial_nodes} at the start"
    yield "node-hours", f"{stats.node_hours:,.0f}" if stats.node_hours >= 100 else f"{stats.node_hours:.3g}"
    if not math.isnan(stats.usd_per_node_hour):
        yield "price", f"{stats.usd_per_node_hour:,.4g} $ for a node-hour in the mean"
    num_at_start = stats.num_start_removals
    at_start = f"; {counted(num_at_start, 'node')} away from the start, left out below" if num_at_start else ""
    again = ", some of them again" if stats.num_removals > stats.num_nodes else ""
    yield "losses", f"{stats.num_losses:,}, of {counted(stats.num_removals, 'node')} in all{again}{at_start}"
    yield "a node is lost", f"{loss_rate_text(stats)}{_per_day(stats.removals_per_node_hour)}"
    yield "nodes per loss", f"{cell_text(stats.loss_size_mean, '.3g')} mean, {stats.loss_size_max} at most"
    yield "losses that take all", cell_text(stats.take_all_share, ".1%")
    median, lived = (cell_text(one_s, format_duration) for one_s in (stats.lifetime_median_s, stats.lifetime_mean_s))
    yield "lifetime of lost nodes", f"{median} median, {lived} mean"
    yield "alive at the end", f"{counted(stats.num_censored, 'node')}, not in the lifetimes"
    yield "between losses", f"{cell_text(stats.loss_gap_mean_s, format_duration)} mean"
    spread = "-1 as a clock, 0 at random, towards +1 in bursts"
    yield "burstiness", f"{cell_text(stats.burstiness, '+.2f')} ({spread})"


def _per_day(per_hour: float) -> str:
    """Say how many of 1000 nodes are lost a day, where that is not most of them."""
    return f"; {24e3 * per_hour:.3g} of 1000 nodes a day" if 0 < per_hour < 500 / 24e3 else ""
