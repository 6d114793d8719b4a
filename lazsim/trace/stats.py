"""Statistics of a trace: nodes alive, losses and their sizes, life times, burstiness."""

import math
import statistics
from dataclasses import dataclass

import numpy as np

from lazsim.placement.plan import Floats, Ints
from lazsim.trace.prices import node_hours as node_hours_of
from lazsim.trace.table import Trace
from lazsim.units import HOUR_S, divide, format_duration

CONFIDENCE = 0.95

LEAST_BLOCKS, MOST_BLOCKS, LOSSES_PER_BLOCK = 3, 5, 3
"""Stretches of a trace whose rates are compared, and losses of one on average: few and long, so that a burst is within
one. Of 300 generated traces each, 90 to 99 % of the intervals hold the true rate, for laws of shape 0.4 to 5 and both
spot recipes of the catalogue."""

MOST_LOSSES_PER_NODE_HOUR = 60.0
"""A faster rate is taken for a mistake of units (assumption); spot nodes are lost 0.06 to 0.6 times an hour each."""


@dataclass(frozen=True)
class TraceStats:
    """Statistics of a trace; undefined ones are NaN.

    Notes
    -----
    Burstiness is that of Goh and Barabasi, Europhysics Letters 81 (2008) 48002, doi:10.1209/0295-5075/81/48002.
    The interval of the rate is exact for few losses of equal sizes that come at random (Garwood, Biometrika 28 (1936)
    437, doi:10.1093/biomet/28.3-4.437). Other sizes ``s`` count as ``sum(s) ** 2 / sum(s ** 2)`` losses (Bohm and Zech,
    Nuclear Instruments and Methods A 748 (2014) 1, doi:10.1016/j.nima.2014.02.021), and as fewer where the rates of
    stretches of the trace differ by more than that (batch means: Law and Kelton, Simulation Modeling and Analysis, 3rd
    ed., 2000, section 9.5.3): losses that come in bursts say less.
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
    usd_per_node_hour: float
    """Mean price of an hour of a node alive; NaN without prices."""
    num_losses: int
    num_removals: int
    """Instants with removals, and removed nodes."""
    num_start_removals: int
    """Removed nodes that were away from the start: no field below counts them, since their loss was not seen."""
    removals_per_node_hour: float
    """Rate of removals of a node."""
    removals_per_node_hour_ci_low: float
    removals_per_node_hour_ci_high: float
    """Its 95 % interval."""
    equivalent_losses: float
    """Losses of one node at random that would tell the rate as well; fewer than `num_removals` where losses have sizes,
    or come in bursts, which few stretches of a trace cannot rule out."""
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
    times = np.append(times, trace.duration_s)
    node_hours = float(np.sum(counts * np.diff(times))) / HOUR_S
    usd = math.nan if trace.prices is None else node_hours_of(times[:-1], counts, trace.duration_s, trace.prices)
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
    gap_cv = divide(float(gaps_s.std()), gap_mean_s) if len(gaps_s) > 1 else math.nan  # One gap has no spread.
    low, high, equivalent = _rate_interval(loss_times, sizes, times, counts)
    return TraceStats(
        span_s=trace.duration_s,
        num_nodes=len(trace.names),
        initial_nodes=int(counts[0]),
        peak_nodes=int(counts.max()),
        min_nodes=int(counts.min()),
        mean_nodes=divide(node_hours * HOUR_S, trace.duration_s),
        node_hours=node_hours,
        usd_per_node_hour=divide(usd, node_hours),
        num_losses=len(sizes) + bool(trace.away),
        num_removals=len(lifetimes) + len(trace.away),
        num_start_removals=len(trace.away),
        removals_per_node_hour=divide(len(lifetimes), node_hours),
        removals_per_node_hour_ci_low=low,
        removals_per_node_hour_ci_high=high,
        equivalent_losses=equivalent,
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


def count_interval(number: float) -> tuple[float, float]:
    """Return the 95 % interval of what a number of events at random is a draw of, by Garwood.

    Examples
    --------
    >>> low, high = count_interval(10)
    >>> round(low, 2), round(high, 2)
    (4.8, 18.39)
    """
    from scipy.special import gammaincinv

    low = float(gammaincinv(number, (1 - CONFIDENCE) / 2)) if number else 0.0
    return low, float(gammaincinv(number + 1, (1 + CONFIDENCE) / 2))


def _rate_interval(
    loss_times: list[float], sizes: list[int], times: Floats, counts: Ints
) -> tuple[float, float, float]:
    """Return the 95 % interval of a rate of removals, and how many losses at random would tell as much.

    The last of the times at which nodes are counted is the end.
    """
    from scipy.special import ndtri, stdtrit

    alive_s = np.concatenate([[0.0], np.cumsum(counts * np.diff(times))])
    number, variance = sum(sizes), float(sum(size**2 for size in sizes))
    num_blocks = min(MOST_BLOCKS, len(sizes) // LOSSES_PER_BLOCK)
    if num_blocks >= LEAST_BLOCKS:
        edges = np.linspace(0.0, times[-1], num_blocks + 1)
        expected = number * np.diff(np.interp(edges, times, alive_s)) / alive_s[-1]
        off = np.histogram(loss_times, edges, weights=sizes)[0] - expected
        wider = stdtrit(num_blocks - 1, (1 + CONFIDENCE) / 2) / ndtri((1 + CONFIDENCE) / 2)
        variance = max(variance, wider**2 * math.fsum(off**2) * num_blocks / (num_blocks - 1))
    # The size of a loss that did not happen is taken to be 1.
    size = variance / number if sizes else 1.0
    low, high = count_interval(number / size)
    node_hours = float(alive_s[-1]) / HOUR_S
    return divide(low * size, node_hours), divide(high * size, node_hours), number / size


def loss_rate_text(stats: TraceStats) -> str:
    """Say how often a node is lost, and how sure that is.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> events = [Event(0.0, "add", "a"), Event(3600.0, "remove", "a")]
    >>> loss_rate_text(trace_stats(build_trace(events, duration_s=7200.0)))
    'every 60 min that it is alive (95 %: 10.8 min to 39.5 h)'
    """
    per_hour, high = stats.removals_per_node_hour, stats.removals_per_node_hour_ci_high
    if math.isnan(per_hour):
        return "unknown: no node is seen alive for any time"
    least = format_duration(HOUR_S / high)
    if not per_hour:
        return f"not once (95 %: every {least} that it is alive, or less often)"
    most = format_duration(HOUR_S / stats.removals_per_node_hour_ci_low)
    equivalent = stats.equivalent_losses
    told = f"{equivalent:,.0f}" if equivalent >= 1 else "less than one"
    as_of = f", as of {told} at random" if round(equivalent) < stats.num_removals - stats.num_start_removals else ""
    return f"every {format_duration(HOUR_S / per_hour)} that it is alive (95 %: {least} to {most}{as_of})"


def rate_note(stats: TraceStats) -> tuple[str, ...]:
    """Return a note where nodes are lost so fast that the unit of time is in doubt."""
    if not stats.removals_per_node_hour > MOST_LOSSES_PER_NODE_HOUR:
        return ()
    return (f"a node is lost {loss_rate_text(stats)}: check the unit of time",)
