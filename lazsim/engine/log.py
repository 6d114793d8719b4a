"""The record of a run: changes of state over time, events, failures, spans of time and counts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lazsim.engine.ledger import RECOVERY_BUCKETS


class State(NamedTuple):
    """Nodes alive, nodes training and the rates of training, from a time on.

    Only whole steps count. Over a run, the rates add up to the samples that it kept, and to those that it lost again.
    """

    time_s: float
    num_alive: int
    num_used: int
    samples_per_s: float = 0.0
    lost_samples_per_s: float = 0.0


class JobEvent(NamedTuple):
    """An event that happened to the job, or that it finished."""

    time_s: float
    event: str
    step: int
    num_alive: int
    num_used: int
    num_lost: int = 0
    num_joined: int = 0
    lost_steps: int = 0
    lost_samples: int = 0


@dataclass
class FailureRecord:
    """A failure that the job felt, up to the next step, the next failure or the end of the run."""

    time_s: float
    """Time of the failure."""
    nodes: tuple[str, ...]
    """The nodes of the job that failed."""
    detected_s: float | None = None
    """Time at which the job noticed it; None where something else came first."""
    decision: str = ""
    source: str = ""
    why: str = ""
    """The actions of `lazsim.engine.protocol`, the origin of the states, and the reason for the first action."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by bucket of the ledger, those of ``lost_work`` spent before; until it ends, all that were booked."""
    experts_moved: int | None = 0
    bytes_moved: int | None = 0
    """States of experts, and bytes in all, that nodes fetched from each other or read from a checkpoint; None where the
    system knows no more than the time that this takes."""
    lost_steps: int = 0
    """Steps rolled back."""
    trains_at_s: float | None = None
    """Time at which training went on; None where another failure or the end of the run came first."""


class TimeSpan(NamedTuple):
    """What a node or the job did from a time to another; the job's name is empty."""

    start_s: float
    end_s: float
    what: str
    node: str = ""


MOST_SPANS = 20_000
"""Spans of a run that are kept."""


class Spans:
    """Spans of time that follow each other for each node; of too many, the longest are kept.

    Examples
    --------
    >>> spans = Spans()
    >>> spans.change(0.0, "in use", ["a", "b"])
    >>> spans.change(5.0, None, ["a"])
    >>> spans.change(6.0, "in use", ["b"])
    >>> [tuple(span) for span in spans.until(9.0)]
    [(0.0, 5.0, 'in use', 'a'), (0.0, 9.0, 'in use', 'b')]
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, str]] = {}
        self._closed: list[TimeSpan] = []

    def change(self, now_s: float, what: str | None, nodes: Iterable[str] = ("",)) -> None:
        """Note what nodes do from now on; None where they are gone."""
        for node in nodes:
            since_s, before = self._open.get(node, (now_s, None))
            if what == before:
                continue
            if before is not None and since_s < now_s:
                self._close(TimeSpan(since_s, now_s, before, node))
            if what is None:
                self._open.pop(node, None)
            else:
                self._open[node] = now_s, what

    def _close(self, span: TimeSpan) -> None:
        self._closed.append(span)
        if len(self._closed) > 2 * MOST_SPANS:
            self._closed = longest(self._closed, MOST_SPANS)

    def until(self, end_s: float) -> tuple[TimeSpan, ...]:
        """Return the spans up to the end of the run, in the order of their beginnings."""
        still = [TimeSpan(since_s, end_s, what, node) for node, (since_s, what) in self._open.items()]
        return tuple(longest([*self._closed, *(span for span in still if span.start_s < end_s)], MOST_SPANS))


def longest(spans: list[TimeSpan], most: int) -> list[TimeSpan]:
    """Return the longest spans in the order of their beginnings."""
    if len(spans) > most:
        spans = sorted(spans, key=lambda span: span.start_s - span.end_s)[:most]
    return sorted(spans)


@dataclass
class Log:
    """Collects while a job runs; states that follow each other without a change are one."""

    states: list[State] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    failure: FailureRecord | None = None
    phases: Spans = field(default_factory=Spans)
    node_spans: Spans = field(default_factory=Spans)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("failures", "reconfigurations", "restarts", "rebalances", "checkpoints", "lost_steps"), 0
        )
    )

    def begin_failure(self, failure: FailureRecord) -> None:
        """Note a failure, with the seconds that were booked before it."""
        self.failure = failure
        self.failures.append(failure)
        self.count("failures")

    def end_failure(self, booked_s: Mapping[str, float], trains_at_s: float | None = None) -> None:
        """Complete the record of the failure under way, if any, with the seconds booked since."""
        if (failure := self.failure) is not None:
            failure.seconds = {bucket: booked_s[bucket] - failure.seconds[bucket] for bucket in RECOVERY_BUCKETS}
            failure.trains_at_s, self.failure = trains_at_s, None

    def decide(self, action: str, source: str, why: str) -> None:
        """Note a decision that follows the failure under way, if any."""
        if (failure := self.failure) is not None:
            failure.decision += f", {action}" if failure.decision else action
            failure.source, failure.why = source, failure.why or why

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] += number

    def trained(self, since_s: float, until_s: float, samples_per_s: float) -> None:
        """Note steps made in a time that has passed."""
        self._change(since_s, until_s, lambda state: State(*state[:3], samples_per_s, state.lost_samples_per_s))

    def lost(self, since_s: float, until_s: float) -> None:
        """Note that all steps made in a time that has passed are lost."""
        self._change(
            since_s, until_s, lambda state: State(*state[:3], 0.0, state.samples_per_s + state.lost_samples_per_s)
        )

    def _change(self, since_s: float, until_s: float, change: Callable[[State], State]) -> None:
        first = len(self.states)
        while self.states[first - 1].time_s > since_s:
            first -= 1
        later = [State(since_s, *self.states[first - 1][1:]), *self.states[first:]]
        del self.states[first:]
        inside = [state for state in later if state.time_s < until_s]
        after = [State(until_s, *inside[-1][1:]), *later[len(inside) :]]
        for state in (*map(change, inside), *after):
            self.state(state)

    def state(self, state: State) -> None:
        """Note how the job stands now; the last note of an instant counts."""
        if self.states and self.states[-1].time_s == state.time_s:
            self.states.pop()
        if not self.states or self.states[-1][1:] != state[1:]:
            self.states.append(state)
