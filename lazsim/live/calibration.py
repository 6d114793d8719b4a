"""Calibrate: measure the costs of steps and recoveries on this machine, in a live run made for it.

A calibration run loses one node and gets another, then two at once, and so on; in the end it loses all of them at once.
Nodes are killed when they are as old as those that the trace kills, since an old process takes longer to end. All are
lost as often, for one loss of some, as in the trace: such a loss is noticed later, and new workers make a longer step.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.grouping import grouped
from lazsim.live.fault_injector import GOLDEN_RATIO, FaultInjector, LocalNodes
from lazsim.live.record import LiveRun
from lazsim.live.run import OnStart, live_costs, run_locally
from lazsim.live.spec import LiveSpec
from lazsim.live.worker_pool import WorkerPool
from lazsim.routing.table import RecordedRouting
from lazsim.trace.table import Trace

STEPS_PER_COUNT = 8
"""Steps between two changes of the number of nodes."""

NUM_ROUNDS = 2
"""Times that a calibration loses each number of nodes, and all of them."""

MOST_ALL_LOST = 2.0
"""Most losses of all nodes for each loss of some: more take minutes, and tell little of the others."""

MAX_AGE_S = 30.0
"""Longest wait of a calibration for its nodes to get as old as those of the trace; by then their memory has grown."""

RETURN_S = 1.0
"""Time from the loss of all nodes until others come: the lost have left by then, as in the time that a trace leaves."""

JOIN_WAIT_S = 0.5
"""Time to collect new nodes: all that start at once are known by then, and restart together."""

NOTHING_MOVED_BYTES_PER_S = 1e12
"""Rate of states where a calibration moves none, as under systems that only restart."""


@dataclass(frozen=True)
class Calibration:
    """Costs on this machine, means over a calibration run."""

    step_s: Mapping[int, float]
    """Step time by the number of nodes in use."""
    detect_s: float
    rebuild_s: float
    resume_s: float
    """Of a first step after a recovery, whatever the nodes."""
    restart_s: float
    """Of a restart, the load of the checkpoint included."""
    save_s: float
    transfer_bytes_per_s: float
    """Rate of states over the busiest node's link."""
    start_up_s: float
    """From the start of a node until the job knows it."""
    kill_ages_s: tuple[float, ...]
    """Ages of the nodes killed."""
    routing: RecordedRouting
    first_step_s: Mapping[int, float] = field(default_factory=dict)
    """Time of first steps after recoveries by the number of nodes in use: they take longer where workers are new."""

    def step_of(self, num_nodes: int, *, is_first: bool = False) -> float:
        """Return the seconds of a step with `num_nodes` nodes in use."""
        found = (is_first and self.first_step_s) or self.step_s
        return float(np.interp(num_nodes, list(found), list(found.values())))


def kill_ages_s(trace: Trace) -> list[float]:
    """Return the age of the youngest node that each failure of a trace kills, in ascending order."""
    started_s: dict[str, float] = {}
    ages_s = []
    for batch in trace.batches():
        if batch.removed:
            ages_s.append(batch.time_s - max(started_s[node] for node in batch.removed))
        started_s |= dict.fromkeys(batch.added, batch.time_s)
    return sorted(ages_s)


def all_lost_ratio(trace: Trace) -> float:
    """Return how often a trace loses all nodes for each time that it loses some."""
    alive: set[str] = set()
    are_all = []
    for batch in trace.batches():
        if batch.removed:
            are_all.append(alive == set(batch.removed))
        alive = (alive - set(batch.removed)) | set(batch.added)
    return sum(are_all) / max(1, are_all.count(False))


class CalibrationFaults(FaultInjector):
    """The faults of a calibration run, with steps between each.

    Kills one node and starts another, kills two at once and starts others, and so on down to the fewest nodes that the
    system can use, and in the end all nodes, `all_lost` times for each of these losses, or more. Where the system can
    use no fewer nodes than there are, one node still goes, and the job waits for the next. Nodes are killed once one is
    as old as the next of `ages_s`.
    """

    def __init__(
        self,
        num_nodes: int,
        usable_nodes: Callable[[int], int],
        ages_s: Sequence[float],
        num_rounds: int = NUM_ROUNDS,
        all_lost: float = 0.0,
    ) -> None:
        self._num_nodes, self._usable_nodes = num_nodes, usable_nodes
        fewest = min(count for count in range(1, num_nodes + 1) if usable_nodes(count))
        # Nodes of each loss that is to come, and their ages.
        some = num_rounds * [*range(1, num_nodes - min(fewest, num_nodes - 1) + 1)]
        num_all = max(num_rounds, round(min(all_lost, MOST_ALL_LOST) * len(some)))
        self._losses = some + num_all * [num_nodes]
        parts = (np.arange(len(self._losses)) + 0.5) / len(self._losses)
        self._ages_s = np.minimum(np.quantile(ages_s or [0.0], parts), MAX_AGE_S).tolist()
        self.initial = tuple(f"c{index}" for index in range(num_nodes))
        self._alive = list(self.initial)
        self._num_started = num_nodes
        self._num_used = self._num_steps = 0

    @property
    def brings_nodes(self) -> bool:
        """Whether the job waits for a node that will come."""
        return not self._usable_nodes(len(self._alive))

    async def on_event(self, nodes: LocalNodes, event: str, _generation: int, _step: int) -> None:
        """Count steps since the last change, and make the next change."""
        if event in ("failed", "stepped") and nodes.pool.num_workers < len(self._alive):
            nodes.coordinator.server.stop("a worker ended by itself, so that its costs cannot be measured")
        elif event == "failed" and not self._usable_nodes(len(self._alive)):
            nodes.later(RETURN_S, self._start_missing, nodes)
        elif event == "stepped":
            num_used = nodes.coordinator.record.num_used
            self._num_steps = self._num_steps + 1 if num_used == self._num_used else 1
            self._num_used = num_used
            if self._num_steps >= STEPS_PER_COUNT and num_used == self._usable_nodes(len(self._alive)):
                self._change(nodes)

    def _change(self, nodes: LocalNodes) -> None:
        if len(self._alive) < self._num_nodes:
            self._start_missing(nodes)
        elif self._losses:
            self._kill(nodes)
        else:
            nodes.coordinator.server.stop()

    def _kill(self, nodes: LocalNodes) -> None:
        """Kill the next nodes, unless all nodes are too young yet."""
        record, now_s = nodes.coordinator.record, nodes.coordinator.now_s()
        ages_s = {node: now_s - record.started_s.get(node, 0.0) for node in self._alive}
        if max(ages_s.values()) < self._ages_s[0]:
            return
        num_lost, age_s, self._num_steps = self._losses.pop(0), self._ages_s.pop(0), 0
        victims = sorted(self._alive, key=lambda node: abs(ages_s[node] - age_s))[:num_lost]
        self._alive = [node for node in self._alive if node not in victims]
        # Real failures come at any time within a step, so each comes at another one.
        delay_s = len(self._losses) * GOLDEN_RATIO % 1 * record.steps[-1].step_s
        for node in victims:
            nodes.later(delay_s, nodes.kill, node)

    def _start_missing(self, nodes: LocalNodes) -> None:
        self._num_steps = 0
        while len(self._alive) < self._num_nodes:
            self._alive.append(f"c{self._num_started}")
            self._num_started += 1
            nodes.start(self._alive[-1])


async def calibrate(
    spec: LiveSpec,
    num_nodes: int,
    pool: WorkerPool,
    ages_s: Sequence[float] = (),
    num_rounds: int = NUM_ROUNDS,
    on_start: OnStart = lambda _coordinator: None,
    *,
    all_lost: float = 0.0,
) -> LiveRun:
    """Make a run that measures the costs of runs with up to `num_nodes` nodes, killed at the ages `ages_s`.

    It loses all of them `all_lost` times for each loss of some. It saves as often as the job does, since saves that are
    written behind steps slow these, and often enough to tell what a save takes. It waits for no `min_nodes`.
    """
    most_steps = STEPS_PER_COUNT // 2
    interval_steps = min(spec.checkpoint_interval_steps or most_steps, most_steps)
    job = msgspec.structs.replace(
        spec.job, join_wait_s=JOIN_WAIT_S, checkpoint_interval_steps={spec.system: interval_steps}, min_nodes=0
    )
    spec = msgspec.structs.replace(spec, job=job, num_steps=None)
    usable_nodes = partial(LIVE_SYSTEMS[spec.system].usable_nodes, live_costs(spec, num_nodes))
    injector = CalibrationFaults(num_nodes, usable_nodes, ages_s, num_rounds, all_lost)
    return await run_locally(spec, injector, pool, max_nodes=num_nodes, on_start=on_start)


def calibration_of(run: LiveRun) -> Calibration:
    """Turn a calibration run into costs."""
    recoveries = [one for one in run.recoveries if one.complete]
    failures = [one for one in recoveries if one.detect_s]
    moves = [one for one in recoveries if one.busiest_bytes > 0 and one.transfer_s > 0]
    moved_bytes, seconds = math.fsum(one.busiest_bytes for one in moves), math.fsum(one.transfer_s for one in moves)
    assert run.routing is not None, "a calibration makes steps"
    return Calibration(
        step_s=step_times(run),
        first_step_s=step_times(run, are_first=True),
        detect_s=mean(one.detect_s for one in failures),
        rebuild_s=mean(one.rebuild_s for one in recoveries if one.is_reconfiguration),
        resume_s=mean(one.resume_s for one in recoveries),
        restart_s=mean(one.rebuild_s + one.transfer_s for one in recoveries if one.is_restart),
        save_s=mean(run.save_s),
        transfer_bytes_per_s=moved_bytes / seconds if moves else NOTHING_MOVED_BYTES_PER_S,
        start_up_s=mean(run.start_up_s),
        kill_ages_s=tuple(one.age_s for one in failures),
        routing=run.routing,
    )


def step_times(run: LiveRun, *, are_first: bool = False) -> dict[int, float]:
    """Return the mean step time by the number of nodes in use, of first steps after recoveries or of all others.

    The first of all loads libraries, and is left out.
    """
    by_count = grouped((step.num_nodes, step.step_s) for step in run.steps[1:] if step.is_first == are_first)
    return {count: mean(times) for count, times in sorted(by_count.items())}


def drift(before: LiveRun, after: LiveRun) -> float:
    """Return the mean relative change of step times between two runs; 0.1 means a tenth longer."""
    old_s, new_s = step_times(before), step_times(after)
    return mean(new_s[count] / old_s[count] - 1 for count in old_s if count in new_s)


def mean(values: Iterable[float]) -> float:
    """Return the mean, 0 of nothing."""
    values = list(values)
    return statistics.fmean(values) if values else 0.0
