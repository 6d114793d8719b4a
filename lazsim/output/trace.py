"""Traces as tables: statistics, and a fit compared with its trace."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lazsim.output.table import Column, Part, Table, key, terminal_width
from lazsim.trace.stats import TraceStats, sparkline
from lazsim.trace.table import Trace
from lazsim.units import format_duration

if TYPE_CHECKING:
    import pandas as pd

MAX_SPARKLINE = 76


def trace_parts(trace: Trace, stats: TraceStats, width: int | None = None) -> Iterator[Part]:
    """Show the statistics of a trace, and a sparkline of its nodes over time."""
    columns = [key("", kind="text"), Column("", kind="text")]
    yield Table(columns, list(_stats_rows(stats)), f"{Path(trace.name).name} ({trace.format})")
    line = sparkline(trace, min(MAX_SPARKLINE, width or terminal_width()))
    yield f"nodes alive, 0 to {stats.peak_nodes}, over {format_duration(stats.span_s)}:\n{line}"


def fit_table(trace: Trace, frame: "pd.DataFrame", num_generated: int) -> Table:
    """Compare the statistics of a trace with those of generated ones."""
    columns = [key("statistic"), *(Column(name, ".4g") for name in frame.columns)]
    return Table(columns, list(frame.itertuples()), f"{Path(trace.name).name} and {num_generated} generated traces")


def _stats_rows(stats: TraceStats) -> Iterator[tuple[str, str]]:
    per_hour = stats.removals_per_node_hour
    mean = _known(stats.mean_nodes, ".4g")
    yield "span", format_duration(stats.span_s)
    yield "distinct nodes", f"{stats.num_nodes}"
    yield "nodes alive", f"{mean} mean, {stats.min_nodes} to {stats.peak_nodes}, {stats.initial_nodes} at the start"
    yield "node hours", f"{stats.node_hours:.4g}"
    yield "losses", f"{stats.num_losses} instants, {stats.num_removals} nodes"
    yield "lost per node-hour", f"{_known(per_hour, '.4g')} ({_known(per_hour * 24e3, '.4g')} per 1000 node-days)"
    yield "nodes per loss", f"{_known(stats.loss_size_mean, '.3g')} mean, {stats.loss_size_max} at most"
    yield "losses that take all", _known(stats.take_all_share, ".1%")
    lifetime = f"{_duration(stats.lifetime_median_s)} median, {_duration(stats.lifetime_mean_s)} mean"
    yield "lifetime of lost nodes", lifetime
    yield "alive at the end", f"{stats.num_censored} nodes, not in the lifetimes"
    variation = f"coefficient of variation {_known(stats.loss_gap_cv, '.2f')}"
    yield "between losses", f"{_duration(stats.loss_gap_mean_s)} mean, {variation}"
    yield "burstiness", f"{_known(stats.burstiness, '+.2f')} (-1 clock, 0 Poisson, +1 bursts)"


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _duration(seconds: float) -> str:
    return "-" if math.isnan(seconds) else format_duration(seconds)
