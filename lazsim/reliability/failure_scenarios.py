"""Which failures to reckon with: from options to numbers. Axes: N nodes, D failure domains, F numbers of failures."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazsim.errors import RecoveryError, SpecError, prefix_errors
from lazsim.reliability import BatchFailures, IndependentFailures
from lazsim.reliability.curve import Method
from lazsim.reliability.options import parse_domains, parse_failures, parse_probs
from lazsim.trace import Trace, read_trace

MAX_EVERY = 32
"""Up to so many nodes every number of failures is reckoned with unless the user says which."""


@dataclass(frozen=True)
class ThreatOptions:
    """What the user asked for, as the command line has it.

    Attributes
    ----------
    failures : str, optional
        Numbers of failures, as ``1-5`` or ``1,2,4``.
    method : {"auto", "exact", "montecarlo"}
        How probabilities are found.
    domains : str, optional
        Failure domain of each node, separated by commas, or a file of them.
    node_fail_prob : str, optional
        Probability that a node fails, or that of each, separated by commas.
    failures_from : str, optional
        A trace, whose removals say how many nodes fail at once.
    """

    failures: str | None = None
    method: Method = "auto"
    domains: str | None = None
    node_fail_prob: str | None = None
    failures_from: str | None = None


@dataclass(frozen=True, eq=False)
class TraceBatches:
    """How many nodes of a trace go at once.

    Attributes
    ----------
    sizes, counts : tuple of int
        Sizes, at most the nodes of a plan, ascending; and how often each is seen.
    num_capped : int
        Batches of more nodes than a plan has, which count as the loss of all.
    name, sha256 : str
        The trace, and the hash of its bytes.
    notes : tuple of str
        What was assumed while reading it.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    num_capped: int
    name: str
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> BatchFailures:
        """The failure model that draws a size as often as it was seen."""
        return BatchFailures(self.sizes, self.counts)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "num_batches": sum(self.counts),
            "num_capped": self.num_capped,
            "sizes": list(self.sizes),
            "counts": list(self.counts),
        }


@dataclass(frozen=True, eq=False)
class Threats:
    """Failures that plans are held against.

    Attributes
    ----------
    failures : tuple of int
        Numbers of nodes, or domains, that fail together.
    chosen : bool
        Whether the user asked for just these.
    method : {"auto", "exact", "montecarlo"}
        How probabilities are found.
    domains : tuple of str, optional
        Failure domain of each node.
    nodes : IndependentFailures, optional
        Probabilities of the nodes, or domains.
    trace : TraceBatches, optional
        Sizes of batches.
    inputs : mapping
        All that it was made from.
    """

    failures: tuple[int, ...]
    chosen: bool
    method: Method
    domains: tuple[str, ...] | None
    nodes: IndependentFailures | None
    trace: TraceBatches | None
    inputs: dict[str, Any]

    @property
    def unit(self) -> str:
        """What fails."""
        return "nodes" if self.domains is None else "domains"


def build_threats(options: ThreatOptions, num_nodes: int, seed: int, *, lenient: bool = False) -> Threats:
    """Make failures of options, and refuse those that do not fit the nodes.

    Parameters
    ----------
    options
        What was asked for.
    num_nodes
        Nodes of the plans.
    seed, lenient
        Of a trace that is read; see `lazsim.trace.read_trace`.

    Raises
    ------
    LazsimError
        In one line that names the option.

    Examples
    --------
    >>> build_threats(ThreatOptions(domains="a,a,b"), num_nodes=3, seed=0).failures
    (1,)
    """
    domains = None if options.domains is None else _domains(options.domains, num_nodes)
    count = num_nodes if domains is None else len(set(domains))
    unit = "nodes" if domains is None else "failure domains"
    failures = _default(count)
    if options.failures is not None:
        failures = parse_failures("`failures`", options.failures)
        if failures[-1] > count:
            raise RecoveryError(f"`failures` {options.failures}: {failures[-1]} is not within 0 to {count} {unit}")
    nodes = None if options.node_fail_prob is None else _independent(options.node_fail_prob, count, unit)
    batches = None
    if options.failures_from is not None:
        if domains is not None:
            raise SpecError("`failures_from` and `domains` exclude each other: a trace names nodes, not domains")
        with prefix_errors("`failures_from`"):
            batches = trace_batches(read_trace(options.failures_from, seed=seed, lenient=lenient), num_nodes)
    inputs = {
        "failures": options.failures,
        "method": options.method,
        "domains": None if domains is None else list(domains),
        "node_fail_prob": None if nodes is None else list(nodes.fail_prob_N),
        "failures_from": None if batches is None else {"name": batches.name, "sha256": batches.sha256},
    }
    chosen = options.failures is not None
    return Threats(tuple(failures), chosen, options.method, domains, nodes, batches, inputs)


def trace_batches(trace: Trace, num_nodes: int) -> TraceBatches:
    """Count how many nodes go at each instant at which some do; a batch never takes more nodes than there are.

    Raises
    ------
    RecoveryError
        When no node is ever removed.

    Examples
    --------
    >>> from lazsim.trace import Event, build_trace
    >>> adds = [Event(0, "add", name) for name in "abc"]
    >>> gone = [Event(60, "remove", "a"), Event(60, "remove", "b"), Event(90, "remove", "c")]
    >>> batches = trace_batches(build_trace([*adds, *gone]), num_nodes=4)
    >>> batches.sizes, batches.counts
    ((1, 2), (1, 1))
    """
    sizes = [len(batch.removed) for batch in trace.batches() if batch.removed]
    if not sizes:
        raise RecoveryError(f"{trace.name}: no node is ever removed; give a trace with failures")
    counts = sorted(Counter(min(size, num_nodes) for size in sizes).items())
    num_capped = sum(size > num_nodes for size in sizes)
    return TraceBatches(
        tuple(size for size, _ in counts),
        tuple(number for _, number in counts),
        num_capped,
        Path(trace.name).name,
        trace.sha256,
        trace.notes,
    )


def _default(count: int) -> list[int]:
    """Return 1 up to one less than all that can fail; of many, ever sparser ones: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    if count <= MAX_EVERY:
        return list(range(1, max(count, 2)))
    sparse = {start << shift for shift in range(count.bit_length()) for start in (2, 3)}
    return sorted({1, count - 1} | {number for number in sparse if number < count - 1})


def _domains(text: str, num_nodes: int) -> tuple[str, ...]:
    domains = parse_domains("`domains`", text)
    if len(domains) != num_nodes:
        raise RecoveryError(f"`domains` {text[:40]}: {len(domains)} domains for {num_nodes} nodes; name one for each")
    return tuple(domains)


def _independent(text: str, count: int, unit: str) -> IndependentFailures:
    probs = parse_probs("`node_fail_prob`", text)
    if len(probs) not in (1, count):
        raise RecoveryError(f"`node_fail_prob`: {len(probs)} probabilities for {count} {unit}; give one, or {count}")
    return IndependentFailures(probs * count if len(probs) == 1 else probs)
