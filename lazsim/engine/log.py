"""The record of a run: changes of state over time, events and counts."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple


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


@dataclass
class Log:
    """Collects while a job runs; states that follow each other without a change are one."""

    states: list[State] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("failures", "reconfigurations", "restarts", "rebalances", "checkpoints", "lost_steps"), 0
        )
    )

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] += number

    def trained(self, since_s: float, until_s: float, samples_per_s: float) -> None:
        """Note steps made in a time that has passed."""
        self._change(since_s, until_s, lambda state: state._replace(samples_per_s=samples_per_s))

    def lost(self, since_s: float, until_s: float) -> None:
        """Note that all steps made in a time that has passed are lost."""
        self._change(
            since_s, until_s, lambda state: State(*state[:3], 0.0, state.samples_per_s + state.lost_samples_per_s)
        )

    def _change(self, since_s: float, until_s: float, change: Callable[[State], State]) -> None:
        first = bisect_right(self.states, since_s, key=attrgetter("time_s"))
        later = [self.states[first - 1]._replace(time_s=since_s), *self.states[first:]]
        del self.states[first:]
        inside = [state for state in later if state.time_s < until_s]
        after = [inside[-1]._replace(time_s=until_s), *later[len(inside) :]]
        for state in (*map(change, inside), *after):
            self.state(state)

    def state(self, state: State) -> None:
        """Note how the job stands now; the last note of an instant counts."""
        if self.states and self.states[-1].time_s == state.time_s:
            self.states.pop()
        if not self.states or self.states[-1][1:] != state[1:]:
            self.states.append(state)
