"""The states of a simulated job: what each holds, and what it reacts to.

The failure of a node that is involved leads from every state to `Detecting`, the end of the run to `Ended`. Else::

    Waiting       -> Restarting, or Reconfiguring where states were kept
    Detecting     -> Training on what is left, Reconfiguring, Restarting or Waiting
    Reconfiguring -> Training
    Restarting    -> Training
    Training      -> Training with another plan; Reconfiguring or Restarting to take in new nodes
"""

from dataclasses import dataclass
from typing import ClassVar

from lazsim.engine.held import NOTHING, Held
from lazsim.engine.progress import steps_in
from lazsim.engine.protocol import WAIT, Decision
from lazsim.engine.step_timer import StepTimer


@dataclass(frozen=True)
class Stretch:
    """Steps under way, all equally long; nodes join at its end where it is cut short."""

    start_s: float
    step_s: float
    num_steps: int
    extrapolated_share: float
    persist_s: float | None = None
    """Seconds until a checkpoint that is made between two of these steps is written; None where none is."""
    is_cut: bool = False

    def steps_made(self, now_s: float) -> int:
        """Return the whole steps made up to now."""
        return min(self.num_steps, steps_in(now_s - self.start_s, self.step_s))


@dataclass(eq=False)
class JobState:
    """The state of a job: the nodes that hold the training state, and the decision being carried out, if any.

    Where `is_joining`, new nodes are being taken in. After a failure, those left join at the next step boundary.
    """

    held: Held = NOTHING
    decision: Decision = WAIT
    is_joining: bool = False
    is_training: ClassVar[bool] = False

    @property
    def involved(self) -> tuple[str, ...]:
        """Nodes whose failure is a failure of the job."""
        return self.decision.nodes or self.held.nodes

    @property
    def num_used(self) -> int:
        """Nodes that count as in use: those of the plan in force, also while others join them."""
        return len(self.held.nodes) if self.is_training or self.is_joining else 0

    @property
    def hears_joins(self) -> bool:
        """Whether the job reacts at once when new nodes have been collected, not only at a step boundary."""
        return False

    @property
    def is_recovering(self) -> bool:
        """Whether survivors are recovering from a failure."""
        return False


class Waiting(JobState):
    """Nodes are too few, or the system wants others; those whose states still count keep them."""

    hears_joins = True


@dataclass(eq=False)
class Detecting(JobState):
    """Nodes failed, which the survivors are yet to notice; or they wait for spares before a restart."""

    survivors: tuple[str, ...] = ()
    """Nodes left of those that trained or recovered together, also where they hold no state yet."""
    step_end_s: float = 0.0
    """Time at which the step under way would have ended; that of the failure where none was."""
    in_recovery: bool = False
    """Whether survivors were recovering from another failure."""

    @property
    def involved(self) -> tuple[str, ...]:
        """All survivors, so that another failure among them starts detection again."""
        return self.survivors

    @property
    def is_recovering(self) -> bool:
        """While a recovery that the failure hit is not over."""
        return self.in_recovery


class Reconfiguring(JobState):
    """Nodes bind to a new plan and fetch the states that they lack."""

    @property
    def is_recovering(self) -> bool:
        """Unless they let others join."""
        return not self.is_joining


class Restarting(JobState):
    """Nodes start anew, from a checkpoint if there is one."""


@dataclass(eq=False, kw_only=True)
class Training(JobState):
    """Nodes make steps, and checkpoint and rebalance at step boundaries."""

    timer: StepTimer
    samples_per_step: int
    planned_step: int
    """Steps made when the plan in force was made."""
    is_below_threshold: bool = False
    """Whether some expert is on fewer nodes than the fault threshold."""
    stretch: Stretch | None = None
    """The steps under way."""
    is_training = True

    @property
    def hears_joins(self) -> bool:
        """While steps are under way."""
        return self.stretch is not None and not self.stretch.is_cut


class Ended(JobState):
    """The simulation is over."""
