"""The record of a run: changes of state over time, events and counts."""

from dataclasses import dataclass, field
from typing import NamedTuple


class State(NamedTuple):
    """Nodes alive, nodes training and the rate of training, from a time on."""

    time_s: float
    num_alive: int
    num_used: int
    samples_per_s: float


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

    def state(self, state: State) -> None:
        """Note how the job stands now; the last note of an instant counts."""
        if self.states and self.states[-1].time_s == state.time_s:
            self.states.pop()
        if not self.states or self.states[-1][1:] != state[1:]:
            self.states.append(state)
