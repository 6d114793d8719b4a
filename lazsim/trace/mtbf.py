"""Generate traces of nodes that fail one by one or in batches, and come back when they are repaired."""

import heapq
import itertools
import math

import numpy as np

from lazsim.trace.recipes import MtbfSpec
from lazsim.trace.table import Event, check_size


def weibull_scale(mean: float, shape: float) -> float:
    """Return the scale of a Weibull law with a mean.

    Examples
    --------
    >>> weibull_scale(100.0, 1.0), weibull_scale(100.0, 0.5)
    (100.0, 50.0)
    """
    return mean / math.gamma(1 + 1 / shape)


def mtbf_events(spec: MtbfSpec, rng: np.random.Generator, name: str) -> list[Event]:
    """Draw the events of a recipe, to a millisecond, up to its end.

    Notes
    -----
    Failures of a node by itself have a mean of ``mtbf_s / (1 - batch_share)`` of its time alive, and batches come in a
    Poisson process that hits each node every ``mtbf_s / batch_share``. A batch leaves a node's own clock as it is, so
    that the two rates add up to ``1 / mtbf_s`` for every law.
    """
    nodes = [f"node{index + 1}" for index in range(spec.num_nodes)]
    events = [Event(0.0, "add", node) for node in nodes]
    own_mean_s = spec.mtbf_s / (1 - spec.batch_share) if spec.batch_share < 1 else math.inf
    scale_s = weibull_scale(own_mean_s, spec.shape)
    # The time to the next renewal of a process that has run for long has the density S(t) / mean.
    first = rng.weibull(spec.shape, spec.num_nodes) if spec.new_nodes else (
        rng.gamma(1 / spec.shape, size=spec.num_nodes) ** (1 / spec.shape)
    )  # fmt: skip
    due_s = [_to_ms(scale_s * one) for one in first.tolist()]
    left_s = list(due_s)
    alive = [True] * spec.num_nodes
    changes = [(due, index) for index, due in enumerate(due_s)]
    heapq.heapify(changes)
    batch_gap_s = _batch_gap(spec)
    batch_s = _to_ms(rng.exponential(batch_gap_s)) if spec.batch_share else math.inf
    num_cycles = spec.num_nodes * spec.duration_s / (spec.mtbf_s + spec.repair_s)
    # A batch takes time to draw, though it may find no node alive.
    check_size(name, 0, spec.num_nodes, int(2 * num_cycles + spec.duration_s / batch_gap_s))
    while min(changes[0][0], batch_s) <= spec.duration_s:
        check_size(name, 0, spec.num_nodes, len(events))
        lost: list[int] = []
        if batch_s < changes[0][0]:
            now_s = batch_s
            batch_s = _to_ms(batch_s + rng.exponential(batch_gap_s))
            lost = [index for index in _batch(spec, rng) if alive[index]]
            for index in lost:
                left_s[index] = due_s[index] - now_s
        else:
            now_s, index = heapq.heappop(changes)
            if now_s != due_s[index]:
                continue  # a batch came first
            if alive[index]:
                lost = [index]
                left_s[index] = scale_s * rng.weibull(spec.shape)
            else:
                alive[index] = True
                events.append(Event(now_s, "add", nodes[index]))
                due_s[index] = _to_ms(now_s + left_s[index])
                heapq.heappush(changes, (due_s[index], index))
        back_s = _to_ms(now_s + _repair(spec, rng)) if lost else now_s
        for index in lost:
            alive[index] = False
            events.append(Event(now_s, "remove", nodes[index]))
            due_s[index] = back_s
            heapq.heappush(changes, (back_s, index))
    return events


def _batch_gap(spec: MtbfSpec) -> float:
    """Return the mean seconds between batches of the whole cluster."""
    if not spec.batch_share:
        return math.inf
    num_batches = len(_domains(spec)) or spec.num_nodes / spec.batch_nodes
    return spec.mtbf_s / spec.batch_share / num_batches


def _batch(spec: MtbfSpec, rng: np.random.Generator) -> list[int]:
    """Draw the nodes of a batch: a domain, or any nodes."""
    domains = _domains(spec)
    if not domains:
        return sorted(rng.choice(spec.num_nodes, spec.batch_nodes, replace=False).tolist())
    return list(domains[int(rng.integers(len(domains)))])


def _domains(spec: MtbfSpec) -> list[range]:
    """Return the nodes of each domain; none where a batch is drawn from the whole cluster."""
    if spec.nodes_per_domain:
        edges = [*range(0, spec.num_nodes, spec.nodes_per_domain), spec.num_nodes]
    else:
        edges = [-(-one * spec.num_nodes // max(1, spec.num_domains)) for one in range(spec.num_domains + 1)]
    return [range(*each) for each in itertools.pairwise(edges)]


def _repair(spec: MtbfSpec, rng: np.random.Generator) -> float:
    if spec.repair_sigma is None:
        return rng.exponential(spec.repair_s)
    return float(spec.repair_s * math.exp(rng.normal(-(spec.repair_sigma**2) / 2, spec.repair_sigma)))


def _to_ms(time_s: float) -> float:
    return round(time_s, 3)
