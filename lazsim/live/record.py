"""Results of a live run: the same record as a simulated one, and every step and recovery as measured."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lazsim.engine.ledger import Ledger
from lazsim.engine.log import JobEvent, Log, State
from lazsim.engine.simulate import SystemRun
from lazsim.routing.table import RecordedRouting
from lazsim.study.result import named_counts


@dataclass
class Recovery:
    """The way from training back to training, in seconds by part."""

    cause: str
    """``failure``, ``join``, ``rebalance``, ``restart`` or ``resume``: no node was left to join."""
    at_s: float
    num_nodes: int = 0
    """Nodes in use after it."""
    detect_s: float = 0.0
    """From the kill until the coordinator knew."""
    rebuild_s: float = 0.0
    """Until all workers had left, had the next plan and had their communicators."""
    transfer_s: float = 0.0
    """Until they had their states."""
    resume_s: float = 0.0
    """Until the first step was done, that step included."""
    busiest_bytes: float = 0.0
    """Bytes that the node with the most traffic sends or receives."""
    source: str = ""
    """Where the states finally came from: ``peers``, ``checkpoint`` or ``initial``."""
    age_s: float = 0.0
    """From the start of the youngest worker killed until its kill; 0 where none was."""
    complete: bool = False
    """Whether that first step was done."""

    @property
    def is_restart(self) -> bool:
        """Whether training went on from a checkpoint, or from the beginning."""
        return self.source in ("checkpoint", "initial")

    @property
    def is_reconfiguration(self) -> bool:
        """Whether nodes went or came, and training went on at the same step."""
        return self.source == "peers" and self.cause not in ("rebalance", "resume")


@dataclass(frozen=True)
class StepRecord:
    """One step: steps done with it, its end, nodes in use, its duration, its loss and its sequences.

    The step that `is_first` follows a recovery, or the start.
    """

    step: int
    at_s: float
    num_nodes: int
    step_s: float
    loss: float
    num_sequences: int
    is_first: bool = False


@dataclass(frozen=True)
class LiveRun:
    """The result of a live run."""

    run: SystemRun
    """Counts, seconds by bucket and changes of state, as of a simulation."""
    steps: tuple[StepRecord, ...]
    """Steps in the order of training, including those that a rollback undid."""
    recoveries: tuple[Recovery, ...]
    save_s: tuple[float, ...]
    """Seconds of each checkpoint."""
    start_up_s: tuple[float, ...]
    """Seconds from the start of each worker that came later until the controller knew it."""
    routing: RecordedRouting | None
    exchanged_by: tuple[str, ...]
    """Backends of the exchanges: ``gloo``, ``nccl`` or, in different generations, both."""
    rows_by: tuple[str, ...]
    """By what rank 0 added up the rows of its tokens: ``torch``, ``triton`` or, in different generations, both."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        names = ("system", "steps", "samples", "wall_s", "ettr")
        run = self.run
        return {name: getattr(run, name) for name in names} | {
            "exchanged_by": self.exchanged_by,
            "rows_by": self.rows_by,
            "counts": named_counts(run),
            "ledger_s": dict(run.ledger_s),
            "losses": [[step.step, step.loss] for step in self.steps],
            "recoveries": [asdict(recovery) for recovery in self.recoveries],
        }


@dataclass(frozen=True)
class LiveReport:
    """A live run with its inputs, and the interrupt or error that ended it early, if one did."""

    inputs: Mapping[str, Any]
    result: LiveRun
    broken_off_by: BaseException | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        about = {"inputs": self.inputs, "interrupted": self.broken_off_by is not None, "notes": self.notes}
        return about | self.result.to_json()


@dataclass
class Recorder:
    """Collects results while a live job runs; `clock` gives seconds since the job began."""

    system: str
    placement: str | None
    global_batch: int
    clock: Callable[[], float]
    log: Log = field(default_factory=Log)
    steps: list[StepRecord] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    loads: dict[int, list[list[int]]] = field(default_factory=dict)
    save_s: list[float] = field(default_factory=list)
    exchanged_by: set[str] = field(default_factory=set)
    rows_by: set[str] = field(default_factory=set)
    start_up_s: dict[str, float] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    killed_s: dict[str, float] = field(default_factory=dict)
    first_step: int = 0
    num_alive: int = 0
    num_used: int = 0
    unsaved_s: float = 0.0
    num_sequences: int = 0
    _bucket_since_s: float = 0.0
    # When training went on after the last save, and whether it stands still for one.
    _save_end_s: float = 0.0
    _is_saving: bool = False

    def enter(self, bucket: str, at_s: float | None = None) -> None:
        """Book time in a bucket from now on, or from a recent instant."""
        self._bucket_since_s = max(self.ledger.since_s, self.clock() if at_s is None else at_s)
        self.ledger.enter(bucket, self._bucket_since_s)

    def checkpoint(self, step: int, seconds: float, stall_s: float) -> None:
        """Record a checkpoint that took some seconds, and move those without training out of the computing time."""
        self.save_s.append(seconds)
        self.log.count("checkpoints")
        if self.steps and self.steps[-1].step == step:
            self._save_end_s, self._is_saving = self.steps[-1].at_s + stall_s, False
        # Of a save that a failure broke off for others, all is booked.
        if self.ledger.bucket == "compute":
            self.ledger.close(self.clock())
            self.ledger.move("compute", "checkpoint", min(stall_s, self.ledger.seconds()["compute"]))
        newer = itertools.takewhile(lambda one: one.step > step, reversed(self.steps))
        self.unsaved_s = math.fsum(one.step_s for one in newer)

    def event(self, name: str, step: int, **numbers: int) -> None:
        """Record an event."""
        self.log.events.append(JobEvent(self.clock(), name, step, self.num_alive, self.num_used, **numbers))

    def state(self) -> None:
        """Record the nodes alive and in use."""
        self.log.state(State(self.clock(), self.num_alive, self.num_used))

    def alive(self, num_alive: int) -> None:
        """Record the number of workers alive."""
        self.num_alive = num_alive
        self.state()

    def registered(self, worker: str) -> None:
        """Record that a worker is known for the first time, and its seconds since its start if the launcher tells."""
        if worker in self.started_s:
            self.start_up_s.setdefault(worker, self.clock() - self.started_s[worker])

    def youngest_s(self, workers: Iterable[str]) -> float:
        """Return the age at which the youngest of some workers was killed, 0 where none was."""
        ages_s = [self.killed_s[name] - self.started_s.get(name, 0.0) for name in workers if name in self.killed_s]
        return min(ages_s, default=0.0)

    def stand_still(self, bucket: str, at_s: float | None) -> None:
        """Record that no node trains, and book the time from now on, or from a recent instant, in a bucket."""
        self.num_used = 0
        self.enter(bucket, at_s)
        self.state()

    def recovery(self, cause: str, at_s: float | None = None) -> Recovery:
        """Return the current recovery; start one, now or at a given time, where there is none."""
        if not self.recoveries or self.recoveries[-1].complete:
            self.recoveries.append(Recovery(cause, self.clock() if at_s is None else at_s))
        return self.recoveries[-1]

    def step(self, step: int, step_s: float, loss: float, loads: list[list[int]], *, saves: bool = False) -> None:
        """Record a step; training may stand still for a save after it."""
        is_first = bool(self.recoveries) and not self.recoveries[-1].complete
        if is_first:
            recovery = self.recoveries[-1]
            recovery.resume_s, recovery.complete = self.clock() - self._bucket_since_s, True
        begun_s, now_s = self._step_begun_s(), self.clock()
        self.state()
        self.log.trained(begun_s, now_s, self.num_sequences / (now_s - begun_s))
        self.steps.append(StepRecord(step, now_s, self.num_used, step_s, loss, self.num_sequences, is_first))
        self._is_saving = saves
        self.unsaved_s += step_s
        self.loads[step] = loads

    def _step_begun_s(self) -> float:
        return max(self.steps[-1].at_s if self.steps else 0.0, self._bucket_since_s)

    def fail(self, at_s: float) -> None:
        """Book the time from a failure on as detection, and a step that it broke off as lost work.

        A save that it broke off stays one, as in a simulation.
        """
        begun_s, bucket = max(self._step_begun_s(), self._save_end_s), self.ledger.bucket
        self.enter("detect", at_s)
        # One in the middle of a recovery breaks off no step.
        if bucket == "compute":
            broken = "checkpoint" if self._is_saving else "lost_work"
            self.ledger.move("compute", broken, max(0.0, self._bucket_since_s - begun_s))
        self._is_saving = False

    def roll_back(self, step: int, lost_steps: int) -> None:
        """Book the steps since the last checkpoint as lost work."""
        self.log.count("lost_steps", lost_steps)
        if lost_steps:
            kept_s = max((one.at_s for one in self.steps if one.step <= step), default=self.log.states[0].time_s)
            self.log.lost(kept_s, self.clock())
            lost_samples = self._num_samples(step + lost_steps) - self._num_samples(step)
            self.event("rolled_back", step, lost_steps=lost_steps, lost_samples=lost_samples)
            self.ledger.move("compute", "lost_work", min(self.unsaved_s, self.ledger.seconds()["compute"]))
        self.unsaved_s = 0.0

    def _num_samples(self, last_step: int) -> int:
        """Count the sequences of the steps kept; those of a step that nobody reported are as many as before it."""
        by_step = {one.step: one.num_sequences for one in self.steps}
        counted, num_sequences = 0, self.global_batch
        for step in range(self.first_step + 1, last_step + 1):
            num_sequences = by_step.get(step, num_sequences)
            counted += num_sequences
        return counted

    def result(self, step: int) -> LiveRun:
        """Return the results of a run that ends now, after `step` steps."""
        self.enter("waiting")
        num_steps = step - self.first_step
        run = SystemRun(
            system=self.system,
            placement=self.placement,
            name=self.system,
            wall_s=self.ledger.since_s,
            steps=num_steps,
            samples=self._num_samples(step),
            ledger_s=self.ledger.seconds(),
            counts=self.log.counts,
            states=tuple(self.log.states),
            events=tuple(self.log.events),
        )
        routing = None
        if self.loads:
            steps, loads = zip(*sorted(self.loads.items()), strict=True)
            # Routing counts steps from 0: its step s is the one after s steps.
            routing = RecordedRouting(np.array(steps, dtype=np.int64) - 1, np.array(loads, dtype=np.int64), "live")
        times = tuple(self.save_s), tuple(self.start_up_s.values())
        by = tuple(sorted(self.exchanged_by)), tuple(sorted(self.rows_by))
        return LiveRun(run, tuple(self.steps), tuple(self.recoveries), *times, routing, *by)
