"""Statistics of a trace: nodes alive, losses and their sizes, life times, burstiness."""

import math
import statistics
from dataclasses import dataclass

import numpy as np

from lazsim.trace.table import Trace
from lazsim.units import HOUR_S, divide, format_duration

MOST_LOSSES_PER_NODE_HOUR = 60.0
"""A faster rate is taken for a mistake of units (assumption); spot nodes are lost 0.06 to 0.6 times an hour each."""


@dataclass(frozen=True)
class TraceStats:
    """Statistics of a trace; undefined ones are NaN.

    Notes
    -----
    Burstiness is that of Goh and Barabasi, Europhysics Letters 81 (2008) 48002, doi:10.1209/0295-5075/81/48002.
    """

    span_s: float
    """Length of the observation."""
    num_nodes: int
    """Distinct names."""
    initial_nodes: int
    peak_nodes: int
    min_nodes: int
    """Nodes alive after the first instant, at most and at least."""
    mean_nodes: float
    node_hours: float
    """Time average and time integral of the nodes alive."""
    num_losses: int
    num_removals: int
    """Instants with removals, and removed nodes."""
    removals_per_node_hour: float
    """Rate of removals of a node."""
    loss_size_mean: float
    """Mean nodes of a loss, which is all removals of one instant."""
    loss_size_max: int
    """Most nodes of a loss."""
    take_all_share: float
    """Share of the losses that leave no node alive, 0..1."""
    lifetime_mean_s: float
    lifetime_median_s: float
    """From a node's addition to its removal, for stays that ended. Stays that the end of the trace cuts off count in
    `num_censored` only, and a stay from before the trace counts from its start; both make the true life times longer
    than these."""
    num_censored: int
    """Nodes alive at the end."""
    loss_gap_mean_s: float
    loss_gap_cv: float
    """Mean of the times between successive losses, and their coefficient of variation: 1 for a Poisson process."""
    burstiness: float
    """``(cv - 1) / (cv + 1)``: -1 for a clock, 0 for a Poisson process, towards 1 for bursts."""


def trace_stats(trace: Trace) -> TraceStats:
    """Compute the statistics of a trace.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> adds = [Event(0.0, "add", "a"), Event(0.0, "add", "b")]
    >>> stats = trace_stats(build_trace([*adds, Event(3600.0, "remove", "a")], duration_s=7200.0))
    >>> stats.node_hours, stats.num_removals, round(stats.removals_per_node_hour, 4)
    (3.0, 1, 0.3333)
    """
    times, counts = trace.num_alive()
    node_hours = float(np.sum(counts * np.diff(times, append=trace.duration_s))) / HOUR_S
    born: dict[str, float] = {}
    lifetimes: list[float] = []
    loss_times: list[float] = []
    sizes: list[int] = []
    num_take_all = 0
    for batch in trace.batches():
        lifetimes += [batch.time_s - born.pop(node) for node in batch.removed]
        if batch.removed:
            loss_times.append(batch.time_s)
            sizes.append(len(batch.removed))
            num_take_all += not born
        born |= dict.fromkeys(batch.added, batch.time_s)
    gaps_s = np.diff(loss_times) if len(loss_times) > 1 else np.array([math.nan])
    gap_mean_s = float(gaps_s.mean())
    gap_cv = divide(float(gaps_s.std()), gap_mean_s)
    return TraceStats(
        span_s=trace.duration_s,
        num_nodes=len(trace.names),
        initial_nodes=int(counts[0]),
        peak_nodes=int(counts.max()),
        min_nodes=int(counts.min()),
        mean_nodes=divide(node_hours * HOUR_S, trace.duration_s),
        node_hours=node_hours,
        num_losses=len(sizes),
        num_removals=len(lifetimes),
        removals_per_node_hour=divide(len(lifetimes), node_hours),
        loss_size_mean=divide(len(lifetimes), len(sizes)),
        loss_size_max=max(sizes, default=0),
        take_all_share=divide(num_take_all, len(sizes)),
        lifetime_mean_s=float(np.mean(lifetimes)) if lifetimes else math.nan,
        # np.median would load numpy.ma.
        lifetime_median_s=float(statistics.median(lifetimes)) if lifetimes else math.nan,
        num_censored=len(born),
        loss_gap_mean_s=gap_mean_s,
        loss_gap_cv=gap_cv,
        burstiness=(gap_cv - 1) / (gap_cv + 1),
    )


def rate_note(stats: TraceStats) -> tuple[str, ...]:
    """Return a note where nodes are lost so fast that the unit of time is in doubt."""
    if not stats.removals_per_node_hour > MOST_LOSSES_PER_NODE_HOUR:
        return ()
    mean = format_duration(HOUR_S / stats.removals_per_node_hour)
    return (f"nodes are lost after {mean} in the mean: check the unit of time",)
