"""Traces that experiments make for themselves, because they depend on a system or on an experiment's own law."""

import tempfile
from pathlib import Path

import numpy as np

from lazsim.files import write_whole
from lazsim.specs import sha256
from lazsim.trace import Event, Trace, build_trace, trace_bytes
from lazsim.units import HOUR_S


def hourly_trace(
    num_nodes: int, fail_prob: float, num_hours: int, rng: np.random.Generator, *, at_any_time: bool = False
) -> Trace:
    """Take nodes away and grant new ones, hour by hour.

    Parameters
    ----------
    num_nodes
        Nodes at the start, and the most at any time.
    fail_prob
        Probability that a node is taken within an hour.
    num_hours
        Length of the trace.
    rng
        All draws.
    at_any_time
        Whether nodes are taken at independent times, uniform within their hour; else all at its end, at once.

    Notes
    -----
    At the end of each hour a probability is drawn, uniform from 0 to 1, and each node that was missing then already is
    granted anew with it. Both readings of the published law, which does not say when in an hour nodes go nor how the
    probability of a grant is drawn, are assumptions.
    """
    alive = [f"node{index}" for index in range(num_nodes)]
    num_names = num_nodes
    events = [Event(0.0, "add", node) for node in alive]
    for hour in range(1, num_hours):
        end_s = hour * HOUR_S
        num_missing = num_nodes - len(alive)
        lost = rng.random(len(alive)) < fail_prob
        early_s = rng.random(len(alive)) * HOUR_S * at_any_time
        times = end_s - early_s
        gone = sorted((float(times[index]), alive[index]) for index in np.flatnonzero(lost))
        events += [Event(time_s, "remove", node) for time_s, node in gone]
        new = [f"node{num_names + index}" for index in range(rng.binomial(num_missing, rng.random()))]
        num_names += len(new)
        events += [Event(end_s, "add", node) for node in new]
        alive = [node for node, is_lost in zip(alive, lost, strict=True) if not is_lost] + new
    return build_trace(events, duration_s=num_hours * HOUR_S, name="hourly", format="lazsim")


def sparing_trace(num_nodes: int, num_left: int, interval_s: float, unit_nodes: int, rng: np.random.Generator) -> Trace:
    """Let a node fail at each multiple of an interval: one that plain expert parallelism leaves unused, if any.

    Parameters
    ----------
    num_nodes, num_left
        Nodes at the start, and the number at which failures stop.
    interval_s
        Time between failures; the trace ends one interval after the last.
    unit_nodes
        Nodes of a group that holds every expert once. Of the nodes alive the first whole groups are used.
    rng
        All draws.

    Examples
    --------
    Of four nodes in groups of two, the first failure must hit a group, and the second one hits the node left over.

    >>> trace = sparing_trace(4, 2, 60.0, 2, np.random.default_rng(0))
    >>> [event.node for event in trace.events() if event.kind == "remove"]
    ['node3', 'node2']
    """
    alive = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", node) for node in alive]
    for failure in range(1, num_nodes - num_left + 1):
        used = len(alive) // unit_nodes * unit_nodes
        first = used if used < len(alive) else 0
        events.append(Event(failure * interval_s, "remove", alive.pop(int(rng.integers(first, len(alive))))))
    duration_s = (num_nodes - num_left + 1) * interval_s
    return build_trace(events, duration_s=duration_s, name="sparing", format="lazsim")


def keep_trace(trace: Trace, folder: Path | None) -> str:
    """Write a trace where runs can read it, and return its path, which is named by its content."""
    content = trace_bytes(trace)
    place = Path(tempfile.gettempdir()) / "lazsim-traces" if folder is None else folder / "traces"
    path = (place / f"{trace.name}-{sha256(content)[:12]}.csv").absolute()
    if not path.exists():
        write_whole(path, content)
    return str(path)
