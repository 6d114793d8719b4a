"""Calibrate: measure the costs of steps and recoveries on this machine, in a live run made for it.

A calibration run loses its nodes one by one and gets them back. One runs before the run that is predicted and one
after it, since the speed of a shared machine changes.
"""

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import msgspec

from lazsim.engine.systems import SYSTEMS
from lazsim.live.fault_injector import LocalNodes
from lazsim.live.record import LiveRun
from lazsim.live.run import OnStart, live_costs, run_locally
from lazsim.live.spec import LiveSpec
from lazsim.live.worker_pool import WorkerPool
from lazsim.routing.table import RecordedRouting

STEPS_PER_COUNT = 8
"""Steps between two changes of the number of nodes."""

GOLDEN_RATIO = (1 + 5**0.5) / 2
"""The fractional parts of its multiples spread evenly between 0 and 1."""

NUM_ROUNDS = 2
"""Times that a calibration loses its nodes and gets them back."""

WARM_UP_STEPS = 3
"""First steps with a number of nodes that do not count: memory is allocated, caches are cold."""


@dataclass(frozen=True)
class Calibration:
    """Costs on this machine, medians over the calibration runs.

    Attributes
    ----------
    step_s : mapping
        Step time by the number of nodes in use.
    drift : float
        Relative change of step times from the first run to the last; 0.1 means a tenth longer.
    transfer_bytes_per_s : float
        Rate of states over the busiest node's link.
    """

    step_s: Mapping[int, float]
    drift: float
    detect_s: float
    rebuild_s: float
    restart_s: float
    save_s: float
    transfer_bytes_per_s: float
    routing: RecordedRouting


class ShrinkAndGrow:
    """Kills nodes one by one down to the fewest that the system can use, and starts new ones; steps between each.

    Where the system can use no fewer nodes than there are, one node still goes, and the job waits for the next.
    """

    def __init__(self, num_nodes: int, usable_nodes: Callable[[int], int]) -> None:
        self._num_nodes, self._usable_nodes = num_nodes, usable_nodes
        fewest = min(count for count in range(1, num_nodes + 1) if usable_nodes(count))
        self._min_nodes = min(fewest, num_nodes - 1)
        self._alive = [f"c{index}" for index in range(num_nodes)]
        self._num_started = num_nodes
        self._num_used = self._num_steps = self._num_rounds = self._num_killed = 0
        self._is_shrinking = True

    @property
    def has_more(self) -> bool:
        """Whether the job waits for a node that will come."""
        return not self._usable_nodes(len(self._alive))

    def begin(self, nodes: LocalNodes) -> None:
        """Start all nodes."""
        for node in self._alive:
            nodes.start(node)

    async def on_event(self, nodes: LocalNodes, event: str, _generation: int, _step: int) -> None:
        """Count steps since the last change, and make the next change."""
        if event in ("failed", "stepped") and nodes.pool.num_workers < len(self._alive):
            nodes.coordinator.stop("a worker ended by itself, so that its costs cannot be measured")
        elif event == "failed" and not self._usable_nodes(len(self._alive)):
            self._grow(nodes)
        elif event == "stepped":
            num_used = nodes.coordinator.record.num_used
            self._num_steps = self._num_steps + 1 if num_used == self._num_used else 1
            self._num_used = num_used
            if self._num_steps >= STEPS_PER_COUNT and num_used == self._usable_nodes(len(self._alive)):
                self._change(nodes)

    def _change(self, nodes: LocalNodes) -> None:
        self._num_steps = 0
        if not self._is_shrinking and len(self._alive) == self._num_nodes:
            self._num_rounds += 1
            self._is_shrinking = True
        if self._num_rounds == NUM_ROUNDS:
            nodes.coordinator.stop()
        elif self._is_shrinking and len(self._alive) > self._min_nodes:
            # Real failures come at any time within a step, so each kill comes at another one.
            self._num_killed += 1
            part = self._num_killed * GOLDEN_RATIO % 1
            step_s = nodes.coordinator.record.steps[-1].step_s
            # The oldest worker: memory grows for half a minute, and the kernel frees it before connections end.
            asyncio.get_running_loop().call_later(part * step_s, nodes.kill, self._alive.pop(0))
        else:
            self._grow(nodes)

    def _grow(self, nodes: LocalNodes) -> None:
        self._is_shrinking = False
        self._alive.append(f"c{self._num_started}")
        self._num_started += 1
        nodes.start(self._alive[-1])


async def calibrate(
    spec: LiveSpec, num_nodes: int, pool: WorkerPool, device: str, on_start: OnStart | None = None
) -> LiveRun:
    """Make a run that measures the costs of runs with up to `num_nodes` nodes."""
    job = msgspec.structs.replace(
        spec.job, join_wait_s=0.0, checkpoint_interval_steps={spec.system: STEPS_PER_COUNT // 2}
    )
    spec = msgspec.structs.replace(spec, job=job, num_steps=None)
    usable_nodes = partial(SYSTEMS[spec.system].usable_nodes, live_costs(spec, num_nodes))
    nodes = {"num_initial": num_nodes, "max_nodes": num_nodes}
    injector = ShrinkAndGrow(num_nodes, usable_nodes)
    return await run_locally(spec, injector, pool, **nodes, device=device, on_start=on_start)


def summarise(runs: Sequence[LiveRun]) -> Calibration:
    """Turn calibration runs into costs; step times weigh each run the same, other costs pool all recoveries."""
    recoveries = [one for run in runs for one in run.recoveries if one.complete]
    failures = [one for one in recoveries if one.cause == "failure"]
    restarts = [one for one in recoveries if one.cause == "restart"] or failures
    moves = [one for one in recoveries if one.busiest_bytes > 0 and one.transfer_s > 0]
    seconds = sum(one.transfer_s for one in moves)
    times = [step_times(run) for run in runs]
    counts = sorted(set().union(*times))
    step_s = {count: statistics.fmean(each[count] for each in times if count in each) for count in counts}
    both = [count for count in step_s if count in times[0] and count in times[-1]]
    routing = runs[0].routing
    assert routing is not None, "a calibration makes steps"
    return Calibration(
        step_s=step_s,
        drift=statistics.fmean(times[-1][count] / times[0][count] - 1 for count in both),
        detect_s=statistics.median([one.detect_s for one in recoveries if one.detect_s] or [0.0]),
        rebuild_s=statistics.median([one.rebuild_s for one in failures] or [0.0]),
        restart_s=statistics.median([one.rebuild_s + one.transfer_s for one in restarts] or [0.0]),
        save_s=statistics.median([seconds for run in runs for seconds in run.save_s] or [0.0]),
        transfer_bytes_per_s=sum(one.busiest_bytes for one in moves) / seconds if moves else 1e9,
        routing=routing,
    )


def step_times(run: LiveRun) -> dict[int, float]:
    """Return the median step time by the number of nodes in use."""
    by_count: defaultdict[int, list[float]] = defaultdict(list)
    for count, steps in groupby(run.steps, lambda step: step.num_nodes):
        by_count[count] += [step.step_s for step in steps][WARM_UP_STEPS:]
    return {count: statistics.median(times) for count, times in sorted(by_count.items()) if times}
