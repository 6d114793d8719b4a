"""Failures that plans are held against. Axes: N nodes, D failure domains, F numbers of failures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazsim.errors import SpecError, prefix_errors
from lazsim.reliability.curve import Method
from lazsim.reliability.failure_models import BatchFailures, IndependentFailures
from lazsim.trace import Trace, load_trace

MAX_EVERY = 32
"""Nodes up to which every number of failures is looked at by default."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TraceBatches(BatchFailures):
    """Nodes of a trace that fail at once: sizes, at most the nodes of a plan, ascending, and batches of each."""

    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    num_capped: int
    """Batches of more nodes than a plan has, which count as the loss of all."""
    name: str
    sha256: str
    is_drawn: bool
    """Hash of the trace's bytes, or of its events where these are drawn by a recipe; and whether they are."""
    notes: tuple[str, ...] = ()
    """Assumptions made while reading it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "num_batches": sum(self.weights),
            "num_capped": self.num_capped,
            "sizes": list(self.sizes),
            "counts": list(self.weights),
        }


@dataclass(frozen=True, eq=False)
class FailureScenarios:
    """Failures that plans are held against."""

    failures: tuple[int, ...]
    was_chosen: bool
    """Numbers of nodes, or domains, that fail together; and whether the user asked for these numbers."""
    method: Method
    """See `recovery_curve`."""
    domains: tuple[str, ...] | None
    """Failure domain of each node, by name."""
    nodes: IndependentFailures | None
    trace: TraceBatches | None
    """Probability that each node, or domain, fails; and sizes of batches."""
    inputs: dict[str, Any]
    """All that it was made from."""

    @property
    def unit(self) -> str:
        """The unit of failure: nodes or domains."""
        return "nodes" if self.domains is None else "domains"


def build_scenarios(
    num_nodes: int,
    *,
    failures: Sequence[int] | None = None,
    method: Method = "auto",
    domains: Sequence[str] | None = None,
    node_fail_prob: Sequence[float] | None = None,
    failures_from: str | None = None,
    seed: int = 0,
    lenient: bool = False,
) -> FailureScenarios:
    """Collect failures, and refuse those that do not fit the nodes.

    Parameters
    ----------
    num_nodes
        Nodes of the plans.
    failures, method, domains
        See `FailureScenarios`; failures are from 1 to all but one by default.
    node_fail_prob
        Probability that a node, or domain, fails: one for all, or one for each, domains as the nodes name them.
    failures_from
        Path of a trace whose removals say how many nodes fail at once.
    seed, lenient
        For reading the trace; see `lazsim.trace.load_trace`.

    Examples
    --------
    >>> build_scenarios(3, domains=["a", "a", "b"]).failures
    (1,)
    """
    count = num_nodes if domains is None else len(set(domains))
    unit = "nodes" if domains is None else "failure domains"
    if failures is not None and max(failures) > count:
        raise SpecError(f"`failures`: {max(failures)} is not within 0 to {count} {unit}")
    nodes = None
    if node_fail_prob is not None:
        if len(node_fail_prob) not in (1, count):
            num_probs = len(node_fail_prob)
            raise SpecError(f"`node_fail_prob`: {num_probs} probabilities for {count} {unit}; give 1 or {count}")
        nodes = IndependentFailures(list(node_fail_prob) * (count if len(node_fail_prob) == 1 else 1))
    batches = None
    if failures_from is not None:
        if domains is not None:
            raise SpecError("`failures_from` and `domains` exclude each other: a trace names nodes, not domains")
        with prefix_errors("`failures_from`"):
            batches = trace_batches(load_trace(failures_from, seed=seed, lenient=lenient), num_nodes)
    inputs = {
        "failures": None if failures is None else list(failures),
        "method": method,
        "domains": None if domains is None else list(domains),
        "node_fail_prob": None if nodes is None else list(nodes.fail_prob_N),
        "failures_from": None if batches is None else {"name": batches.name, "sha256": batches.sha256},
    }
    numbers = _default_failures(count) if failures is None else failures
    domain_N = None if domains is None else tuple(domains)
    return FailureScenarios(tuple(numbers), failures is not None, method, domain_N, nodes, batches, inputs)


def trace_batches(trace: Trace, num_nodes: int) -> TraceBatches:
    """Count the nodes that fail at each instant; a batch takes at most all nodes. Refuse a trace without failures.

    Examples
    --------
    >>> from lazsim.trace import Event, build_trace
    >>> adds = [Event(0, "add", name) for name in "abc"]
    >>> gone = [Event(60, "remove", "a"), Event(60, "remove", "b"), Event(90, "remove", "c")]
    >>> batches = trace_batches(build_trace([*adds, *gone]), num_nodes=4)
    >>> batches.sizes, batches.weights
    ((1, 2), (1, 1))
    """
    sizes = [len(batch.removed) for batch in trace.batches() if batch.removed]
    if not sizes:
        raise SpecError(f"{trace.name}: no node is ever removed; give a trace with failures")
    counts = Counter(min(size, num_nodes) for size in sizes)
    distinct = tuple(sorted(counts))
    num_capped = sum(size > num_nodes for size in sizes)
    return TraceBatches(
        sizes=distinct, weights=tuple(counts[size] for size in distinct), num_capped=num_capped,
        name=Path(trace.name).name, sha256=trace.sha256 or trace.events_sha256, is_drawn=not trace.sha256,
        notes=trace.notes,
    )  # fmt: skip


def _default_failures(count: int) -> list[int]:
    """Return 1 to all but one; of many, ever sparser numbers: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    if count <= MAX_EVERY:
        return list(range(1, max(count, 2)))
    sparse = {start << shift for shift in range(count.bit_length()) for start in (2, 3)}
    return sorted({1, count - 1} | {number for number in sparse if number < count - 1})
