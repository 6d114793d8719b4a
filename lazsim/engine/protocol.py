"""The recovery protocol: the next action of a job when nodes fail or come.

Every decision stands here once, as a pure function. The simulated job (`lazsim.engine.job`) charges costs for the
decisions; the coordinator of a live job (`lazsim.live`) carries them out.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

from lazsim.engine.held import Held

Node = TypeVar("Node")

UsableNodes = Callable[[int], int]
"""From a number of nodes to the largest number of them that the system can use; 0 when the experts do not fit."""


class Traits(Protocol):
    """What tells systems apart in a recovery; see `lazsim.engine.systems.System`."""

    @property
    def is_elastic(self) -> bool:
        """Whether it uses any number of nodes, and rebalances."""
        ...

    @property
    def joins_in_place(self) -> bool:
        """Whether nodes join without a restart."""
        ...

    @property
    def regroups_joins(self) -> bool:
        """Whether new nodes join groups of plain expert parallelism, and those that it dropped wait for a restart."""
        ...

    @property
    def recovers_from_peers(self) -> bool:
        """Whether survivors that hold every state go on from the step that failed."""
        ...


class Action(Enum):
    """The next action of a job that stands still."""

    RECONFIGURE = auto()
    """Nodes bind to a new plan, and fetch the states that they lack."""
    RESTART = auto()
    """Nodes start anew, from a checkpoint or from copies in memory if there are any."""
    WAIT = auto()
    """Nodes are too few, or the system wants others: it decides again when new nodes have been collected."""
    CONTINUE = auto()
    """The survivors go on in their places, and others may take free ones."""
    RESUME = auto()
    """All go on as before, since the nodes for which they paused are gone, or do not join now."""


@dataclass(frozen=True)
class StoppedJob:
    """A job that stands still: after a failure, or at a step boundary to let nodes join.

    Nodes are names, or the connections of a live job.
    """

    held: Held
    """What is left of the last plan, and its nodes that are alive; empty when what they hold no longer counts."""
    alive: tuple[Any, ...]
    """All nodes alive, in the order of preference."""
    usable_nodes: UsableNodes
    hold_everything: Callable[[Sequence[Any]], bool]
    """Tells whether nodes together hold every state of one step."""
    returned: tuple[Any, ...] = ()
    """Nodes beside those of `held` that hold states: they lost their connection only."""
    paused: bool = False
    """Whether training stopped in order, at a step boundary. False after a failure."""
    joins_due: bool = False
    """Whether nodes that are alive and not in use may join now."""
    checkpoint_step: int = 0
    """Step of the last checkpoint; 0 where there is none."""
    copied_step: int = 0
    """Step of the newest copy in the memory of nodes; 0 where there is none."""
    dropped: Collection[Any] = ()
    """Nodes that a regroup left out. Where plain expert parallelism regroups, they stay out until a restart."""
    step: int = 0
    """Steps made."""
    step_s: float = 0.0
    """Seconds of the last step; 0 before the first."""
    in_recovery: bool = False
    """Whether the job stood still already: nodes failed while others recovered from a failure."""
    min_nodes: int = 0
    """Fewest nodes on which the job starts."""

    @property
    def num_usable(self) -> int:
        """Nodes of all that are alive on which the job can start; 0 where they are too few."""
        num_nodes = self.usable_nodes(len(self.alive))
        return num_nodes if num_nodes >= self.min_nodes else 0

    @property
    def has_newer_copy(self) -> bool:
        """Whether a copy in the memory of nodes is newer than the last checkpoint."""
        return self.copied_step > self.checkpoint_step

    @property
    def newcomers(self) -> tuple[Any, ...]:
        """Nodes alive that are not in use: spares, and those waiting to join."""
        in_use = set(self.held.nodes)
        return tuple(node for node in self.alive if node not in in_use)


@dataclass(frozen=True)
class Decision:
    """The next action of a job, and the nodes that take part."""

    action: Action = Action.WAIT
    source: str = ""
    """Origin of the states: ``peers``, ``memory``, ``checkpoint`` or ``initial``; the initial state stands for a
    checkpoint before there is one. Nodes that wait keep the states that they hold, unless it is empty."""
    nodes: tuple[Any, ...] = ()
    num_nodes: int = 0
    """Nodes of the next plan. A reconfiguration binds this many of `nodes`; the rest only send what they hold."""
    phases: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    """Buckets of the ledger and seconds that the job takes besides, such as for replaying steps."""
    seats: tuple[int, ...] = field(default=(), repr=False)
    """Free places of the plan in force that the last of `nodes` take, where the job goes on."""
    why: str = field(default="", compare=False, repr=False)
    """The reason, in a few words."""


WAIT: Decision = Decision(why="the nodes alive are too few")
"""Nodes are too few, and none keeps a state."""


def decide(system: Traits, stopped: StoppedJob) -> Decision:
    """Decide how a job that stands still goes on.

    Notes
    -----
    After a failure, a system that recovers from peers goes on at the step that failed as long as its nodes hold every
    expert. After a pause every system goes on. Nodes join by a restart where the system does not take them in as it
    recovers, or where only those that it had dropped would come into use. All else is a restart from the last
    checkpoint on all nodes that the system can use.

    Examples
    --------
    Of four nodes in groups of two, `d` has failed; `a` and `c` hold one half of the experts, `b` the other.

    >>> from lazsim.engine.systems import SYSTEMS
    >>> held, alive = Held(("a", "b", "c")), ("a", "b", "c", "e")
    >>> stopped = StoppedJob(held, alive, lambda num: num // 2 * 2, lambda nodes: "b" in nodes, checkpoint_step=50)
    >>> decide(SYSTEMS["ds-ft"], stopped)
    Decision(action=<Action.RECONFIGURE: 1>, source='peers', nodes=('a', 'b', 'c'), num_nodes=2)
    >>> decide(SYSTEMS["ds"], stopped)
    Decision(action=<Action.RESTART: 2>, source='checkpoint', nodes=('a', 'b', 'c', 'e'), num_nodes=4)
    """
    survivors, usable_nodes = stopped.held.nodes, stopped.usable_nodes
    why = "the system restarts after such a failure"
    newcomers: tuple[Any, ...] = ()
    if stopped.joins_due:
        newcomers = find_joining_in_place(system, survivors, stopped.alive, usable_nodes, stopped.dropped)
    joins_by_restart = stopped.joins_due and stopped.paused and not newcomers
    if joins_by_restart and system.joins_in_place:
        joins_by_restart = bool(find_newcomers(survivors, stopped.alive, usable_nodes))
    if (system.recovers_from_peers or stopped.paused) and not joins_by_restart:
        # A state is given up only when no node that is back has it.
        for nodes in (survivors + newcomers, survivors + stopped.returned):
            num_nodes = usable_nodes(len(nodes))
            if num_nodes and stopped.hold_everything(nodes):
                return Decision(Action.RECONFIGURE, "peers", nodes, num_nodes, why="the nodes left hold every expert")
            why = "the nodes left lack a state" if num_nodes else "the nodes left are too few"
    return decide_start(stopped, why)


def decide_start(stopped: StoppedJob, why: str) -> Decision:
    """Decide how a job starts where what nodes hold does not count, for the reason given."""
    num_nodes = stopped.num_usable
    if not num_nodes:
        return WAIT
    source = "checkpoint" if stopped.checkpoint_step else "initial"
    return Decision(Action.RESTART, source, tuple(stopped.alive[:num_nodes]), num_nodes, why=why)


def find_newcomers(in_use: Sequence[Node], alive: Sequence[Node], usable_nodes: UsableNodes) -> tuple[Node, ...]:
    """Return the nodes worth a pause of training: those that would come into use.

    Notes
    -----
    Groups are whole, and stages have equally many nodes, so that a join is worth it only for more than before.
    """
    usable = alive[: usable_nodes(len(alive))]
    if len(usable) <= len(in_use):
        return ()
    used = set(in_use)
    return tuple(node for node in usable if node not in used)


def find_joining_in_place(
    system: Traits, in_use: Sequence[Node], alive: Sequence[Node], usable_nodes: UsableNodes, dropped: Collection[Node]
) -> tuple[Node, ...]:
    """Return those of `find_newcomers` that join without a restart."""
    if not system.joins_in_place:
        return ()
    allowed = [node for node in alive if node not in dropped] if system.regroups_joins else alive
    return find_newcomers(in_use, allowed, usable_nodes)


class Newcomers:
    """New nodes that wait for others, to join with them: those that come within `wait_s` of the first.

    Examples
    --------
    >>> now_s = 100.0
    >>> newcomers = Newcomers(120.0, lambda: now_s)
    >>> newcomers.add(["a"])
    >>> now_s = 150.0
    >>> newcomers.add(["b"])
    >>> newcomers.remove(["a"])
    >>> newcomers.due_s, newcomers.is_due
    (220.0, False)
    >>> newcomers.remove(["b"])
    >>> newcomers.due_s is None
    True
    """

    def __init__(self, wait_s: float, now_s: Callable[[], float]) -> None:
        self._wait_s, self._now_s = wait_s, now_s
        self._collected, self._called = set[Any](), set[Any]()
        self._until_s = self._called_s = 0.0

    @property
    def due_s(self) -> float | None:
        """Time at which the nodes that are called, or else collected, may join; None where there are none."""
        if self._called:
            return self._called_s
        return self._until_s if self._collected else None

    @property
    def is_due(self) -> bool:
        """Whether nodes have been collected and may join."""
        return self.due_s is not None and self._now_s() >= self.due_s

    @property
    def left_s(self) -> float | None:
        """Seconds until nodes may join; None where there are none, or they may already."""
        return None if self.due_s is None or self.is_due else self.due_s - self._now_s()

    def add(self, nodes: Iterable[Any]) -> None:
        """Collect nodes that come now; they join with those, if any, that may at a time already."""
        if not self._collected:
            self._until_s = self._now_s() + self._wait_s
        self._collected.update(nodes)

    def remove(self, nodes: Iterable[Any]) -> None:
        """Let nodes go; where all that were to join are gone, the next to come wait for others again."""
        self._collected.difference_update(nodes)
        self._called.difference_update(nodes)

    def at_next_boundary(self, nodes: Iterable[Any]) -> None:
        """Let nodes join at the next step boundary, with those that are being collected."""
        self._called.update(nodes)
        self._called_s = self._now_s()

    def close(self, *, are_enough: bool = True) -> None:
        """End the collection: its nodes join now, and the next to come start another one.

        Where they are not enough for a job that waits, those that are still being collected go on waiting for others.
        """
        self._called.clear()
        if are_enough or self._now_s() >= self._until_s:
            self._collected.clear()


def rebalance_is_due(system: Traits, step: int, planned_step: int, interval_steps: int) -> bool:
    """Tell whether to place experts anew, from the steps made now and when the plan in force was made; 0 is never."""
    return system.is_elastic and bool(interval_steps) and step // interval_steps > planned_step // interval_steps
