"""What a live run leaves: the same record as a simulated one, and every step and recovery as measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lazsim.engine.ledger import Ledger
from lazsim.engine.log import Event, Log, State
from lazsim.engine.simulate import SystemRun
from lazsim.routing.table import RecordedRouting


@dataclass
class Recovery:
    """One way from training to training again, in seconds by part.

    Attributes
    ----------
    cause : str
        ``failure``, ``join``, ``rebalance`` or ``restart``.
    at_s : float
        When it began.
    num_nodes : int
        Nodes in use after it.
    detect_s : float
        From the kill until the controller knew.
    rebuild_s : float
        Until all had left, were told of the next plan, and had their communicators.
    transfer_s : float
        Until all had their states.
    resume_s : float
        Until the first step was made, the time of a usual step included.
    busiest_bytes : float
        What the node that sends or receives most of the states does.
    source : str
        Where states came from in the end: ``peers``, ``checkpoint`` or ``initial``.
    complete : bool
        Whether that step was made.
    """

    cause: str
    at_s: float
    num_nodes: int = 0
    detect_s: float = 0.0
    rebuild_s: float = 0.0
    transfer_s: float = 0.0
    resume_s: float = 0.0
    busiest_bytes: float = 0.0
    source: str = ""
    complete: bool = False

    @property
    def what(self) -> str:
        """Its cause, or that it became a restart."""
        return "restart" if self.source in ("checkpoint", "initial") else self.cause


@dataclass(frozen=True)
class StepRecord:
    """A step: how many were made with it, when, with how many nodes, in what time, and its loss."""

    step: int
    at_s: float
    num_nodes: int
    step_s: float
    loss: float


@dataclass(frozen=True)
class LiveRun:
    """What came of a live run.

    Attributes
    ----------
    run : SystemRun
        Counts, seconds by bucket and changes of state, as of a simulation.
    steps : tuple of StepRecord
        Steps in the order made; those that a rollback undid are there, too.
    recoveries : tuple of Recovery
        What happened between.
    save_s : tuple of float
        Seconds of each checkpoint.
    routing : RecordedRouting or None
        Loads of the gates.
    exchanged_by : tuple of str
        ``gloo``, ``nccl`` or, from epoch to epoch, both.
    """

    run: SystemRun
    steps: tuple[StepRecord, ...]
    recoveries: tuple[Recovery, ...]
    save_s: tuple[float, ...]
    routing: RecordedRouting | None
    exchanged_by: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        run = self.run
        return {
            "system": run.system,
            "steps": run.steps,
            "samples": run.samples,
            "wall_s": run.wall_s,
            "ettr": run.ettr,
            "exchanged_by": self.exchanged_by,
            "counts": dict(run.counts),
            "ledger_s": dict(run.ledger_s),
            "losses": [[step.step, step.loss] for step in self.steps],
            "recoveries": [asdict(recovery) for recovery in self.recoveries],
        }

    def to_text(self) -> str:
        """Return tables for people."""
        run = self.run
        shown = self.steps
        if self.steps:
            shown = tuple(self.steps[index] for index in np.unique(np.linspace(0, len(self.steps) - 1, 6).astype(int)))
        by = f", exchanged by {' and '.join(self.exchanged_by)}" if self.exchanged_by else ""
        lines = [
            f"{run.system}: {run.steps} steps, {run.samples:,} samples in {run.wall_s:.1f} s, ETTR {run.ettr:.1%}{by}",
            ", ".join(
                f"{run.counts[name]} {name.replace('_', ' ')}"
                for name in ("failures", "reconfigurations", "rebalances", "restarts", "lost_steps")
            ),
            "",
            f"{'step':>6} {'nodes':>6} {'step time':>10} {'loss':>8}",
            *(f"{one.step:>6} {one.num_nodes:>6} {one.step_s * 1e3:>7.1f} ms {one.loss:>8.4f}" for one in shown),
        ]
        if self.recoveries:
            parts = ("detect", "rebuild", "transfer", "resume")
            lines += ["", f"{'what':<10} {'at':>8} {'nodes':>6}" + "".join(f"{part:>12}" for part in parts)]
            lines += [
                f"{one.what:<10} {one.at_s:>6.1f} s {one.num_nodes:>6}"
                + "".join(f"{getattr(one, part + '_s') * 1e3:>9.1f} ms" for part in parts)
                for one in self.recoveries
            ]
        return "\n".join(lines)


@dataclass
class Recorder:
    """Collects while a live job runs; `clock` gives seconds since it began."""

    system: str
    placement: str | None
    global_batch: int
    clock: Callable[[], float]
    log: Log = field(default_factory=Log)
    steps: list[StepRecord] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    ledger: Ledger = field(default_factory=lambda: Ledger("waiting"))
    loads: dict[int, list[list[int]]] = field(default_factory=dict)
    save_s: list[float] = field(default_factory=list)
    exchanged_by: set[str] = field(default_factory=set)
    killed_s: dict[str, float] = field(default_factory=dict)
    first_step: int = 0
    num_alive: int = 0
    num_used: int = 0
    unsaved_s: float = 0.0
    _bucket: str = "waiting"
    _bucket_since_s: float = 0.0
    _settled_s: float = 0.0

    def enter(self, bucket: str, at_s: float | None = None) -> None:
        """Book time from now on, or from an instant not long ago, in a bucket."""
        at_s = max(self._settled_s, self.clock() if at_s is None else at_s)
        self.ledger.enter(bucket, at_s)
        self._bucket, self._bucket_since_s, self._settled_s = bucket, at_s, at_s

    def saved(self, seconds: float) -> None:
        """Take note of a checkpoint: of what was computed up to now, so much was spent on it."""
        self.save_s.append(seconds)
        self.log.count("checkpoints")
        if self._bucket == "compute":
            self._settled_s = self.clock()
            self.ledger.enter("compute", self._settled_s)
        self.ledger.move("compute", "checkpoint", min(seconds, self.ledger.seconds()["compute"]))
        self.unsaved_s = 0.0

    def event(self, name: str, step: int, **numbers: int) -> None:
        """Note that something happened."""
        self.log.events.append(Event(self.clock(), name, step, self.num_alive, self.num_used, **numbers))

    def state(self, samples_per_s: float) -> None:
        """Note how the job stands."""
        self.log.state(State(self.clock(), self.num_alive, self.num_used, samples_per_s))

    def recovery(self, cause: str, at_s: float | None = None) -> Recovery:
        """Return the recovery under way; one begins, now if not at another time, where there is none."""
        if not self.recoveries or self.recoveries[-1].complete:
            self.recoveries.append(Recovery(cause, self.clock() if at_s is None else at_s))
        return self.recoveries[-1]

    def step(self, step: int, step_s: float, loss: float, loads: list[list[int]]) -> None:
        """Note a step."""
        if self.recoveries and not self.recoveries[-1].complete:
            recovery = self.recoveries[-1]
            recovery.resume_s, recovery.complete = self.clock() - self._bucket_since_s, True
        self.steps.append(StepRecord(step, self.clock(), self.num_used, step_s, loss))
        self.unsaved_s += step_s
        self.loads[step] = loads
        self.state(self.global_batch / step_s)

    def lost_since(self, at_s: float) -> None:
        """Book what was computed since the last step as lost."""
        begun_s = max(self.steps[-1].at_s if self.steps else 0.0, self._bucket_since_s)
        self.enter("detect", at_s)
        self.ledger.move("compute", "lost_work", max(0.0, self._bucket_since_s - begun_s))

    def result(self, step: int, wall_s: float) -> LiveRun:
        """Put everything together."""
        self.enter("waiting")
        run = SystemRun(
            system=self.system,
            placement=self.placement,
            name=self.system,
            wall_s=wall_s,
            steps=step - self.first_step,
            samples=(step - self.first_step) * self.global_batch,
            ledger_s=self.ledger.seconds(),
            counts=self.log.counts,
            states=tuple(self.log.states),
            events=tuple(self.log.events),
        )
        return LiveRun(
            run,
            tuple(self.steps),
            tuple(self.recoveries),
            tuple(self.save_s),
            self._routing(),
            tuple(sorted(self.exchanged_by)),
        )

    def _routing(self) -> RecordedRouting | None:
        if not self.loads:
            return None
        steps: Sequence[int] = sorted(self.loads)
        # What a gate asked for in the step after so many.
        tokens_SLE = np.array([self.loads[step] for step in steps], dtype=np.int64)
        return RecordedRouting(np.array(steps, dtype=np.int64) - 1, tokens_SLE, "live")
