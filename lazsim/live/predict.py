"""Predict a live run: the engine's own job, with what things cost measured beforehand on the same machine.

Nothing is fitted on the run that is predicted. Calibration runs of their own, before it and after it, since a machine
that others share is not equally fast at all times, lose their nodes one by one and get them back.
"""

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np

from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.recovery_times import checkpoint_load_s
from lazsim.costmodel.step import CostModel
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.live.controller import Controller
from lazsim.live.nursery import Nursery
from lazsim.live.play import Machine
from lazsim.live.record import LiveRun
from lazsim.live.run import live_run, planning_costs, require_fit
from lazsim.live.spec import LiveSpec
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.routing.table import RecordedRouting
from lazsim.specs import NetworkSpec, RecoverySpec
from lazsim.trace.table import Trace

STEPS_PER_COUNT = 8
"""Steps of a calibration with each number of nodes, each time it has so many."""

GOLDEN_RATIO = (1 + 5**0.5) / 2
"""Its multiples, less whole numbers, lie as evenly between 0 and 1 as numbers that follow each other can."""

NUM_ROUNDS = 2
"""How often a calibration loses its nodes and gets them back."""

WARM_UP_STEPS = 3
"""The first steps with a number of nodes do not count: memory is fetched, caches are cold."""


@dataclass(frozen=True)
class Calibration:
    """What things cost on this machine with so many workers on it, medians of runs made for it.

    Attributes
    ----------
    step_s : mapping
        Step time by the number of nodes in use.
    drift : float
        By how much step times of the last run were longer than those of the first; 0.1 is a tenth.
    detect_s, rebuild_s, restart_s, save_s : float
        See `lazsim.live.record.Recovery`; a checkpoint.
    transfer_bytes_per_s : float
        States over the busiest node's link.
    routing : RecordedRouting
        Loads of its gates.
    """

    step_s: Mapping[int, float]
    drift: float
    detect_s: float
    rebuild_s: float
    restart_s: float
    save_s: float
    transfer_bytes_per_s: float
    routing: RecordedRouting


class Rounds:
    """Loses nodes one by one down to the fewest that the system can use, and gets them back; steps between each.

    Where the system can use no fewer nodes than there are, one goes all the same, and the job waits for the next.
    """

    def __init__(self, num_nodes: int, usable_nodes: Callable[[int], int]) -> None:
        self._num_nodes, self._usable_nodes = num_nodes, usable_nodes
        fewest = min(count for count in range(1, num_nodes + 1) if usable_nodes(count))
        self._lowest = min(fewest, num_nodes - 1)
        self._alive = [f"c{index}" for index in range(num_nodes)]
        self._num_born = num_nodes
        self._in_use = self._since = self._num_done = self._num_killed = 0
        self._falling = True

    @property
    def has_more(self) -> bool:
        """Whether the job waits for a node that is yet to come."""
        return not self._usable_nodes(len(self._alive))

    def begin(self, machine: Machine) -> None:
        """Start all nodes."""
        for node in self._alive:
            machine.start(node)

    async def happen(self, machine: Machine, what: str, _epoch: int, _step: int) -> None:
        """Count steps since the last change, and make the next one."""
        if what in ("failed", "stepped") and machine.nursery.num_workers < len(self._alive):
            machine.controller.stop("a worker ended by itself, so that nothing can be told of its costs")
        elif what == "failed" and not self._usable_nodes(len(self._alive)):
            self._grow(machine)
        elif what == "stepped":
            num_used = machine.controller.record.num_used
            self._since = self._since + 1 if num_used == self._in_use else 1
            self._in_use = num_used
            if self._since >= STEPS_PER_COUNT and num_used == self._usable_nodes(len(self._alive)):
                self._turn(machine)

    def _turn(self, machine: Machine) -> None:
        self._since = 0
        if not self._falling and len(self._alive) == self._num_nodes:
            self._num_done += 1
            self._falling = True
        if self._num_done == NUM_ROUNDS:
            machine.controller.stop()
        elif self._falling and len(self._alive) > self._lowest:
            # Failures do not wait for the end of a step: each comes at another part of the next one.
            self._num_killed += 1
            # The one that was there longest: the memory of a worker grows for half a minute, and the more of it the
            # kernel has to take back, the later its connections end.
            part = self._num_killed * GOLDEN_RATIO % 1
            step_s = machine.controller.record.steps[-1].step_s
            asyncio.get_running_loop().call_later(part * step_s, machine.kill, self._alive.pop(0))
        else:
            self._grow(machine)

    def _grow(self, machine: Machine) -> None:
        self._falling = False
        self._alive.append(f"c{self._num_born}")
        self._num_born += 1
        machine.start(self._alive[-1])


async def calibrate(
    spec: LiveSpec,
    num_nodes: int,
    nursery: Nursery,
    device: str,
    watch: Callable[[Controller], None] | None = None,
) -> LiveRun:
    """Make a run that shows what runs with up to so many nodes are made of."""
    system = SYSTEMS[spec.system]
    costs = planning_costs(spec, num_nodes)
    require_fit(spec, num_nodes)
    job = msgspec.structs.replace(
        spec.job, join_wait_s=0.0, checkpoint_interval_steps={spec.system: STEPS_PER_COUNT // 2}
    )
    short = msgspec.structs.replace(spec, job=job, num_steps=None)
    play = Rounds(num_nodes, partial(system.usable_nodes, costs))
    return await live_run(short, play, nursery, num_initial=num_nodes, most_nodes=num_nodes, device=device, watch=watch)


def summarise(runs: Sequence[LiveRun]) -> Calibration:
    """Turn what calibration runs measured into costs; runs weigh the same in step times, all else is taken together."""
    recoveries = [one for found in runs for one in found.recoveries if one.complete]
    failures = [one for one in recoveries if one.cause == "failure"]
    restarts = [one for one in recoveries if one.cause == "restart"] or failures
    moves = [one for one in recoveries if one.busiest_bytes > 0 and one.transfer_s > 0]
    seconds = sum(one.transfer_s for one in moves)
    times = [step_times(found) for found in runs]
    counts = sorted(set().union(*times))
    step_s = {count: statistics.fmean(each[count] for each in times if count in each) for count in counts}
    both = [count for count in step_s if count in times[0] and count in times[-1]]
    routing = runs[0].routing
    assert routing is not None, "a calibration makes steps"
    return Calibration(
        step_s=step_s,
        drift=statistics.fmean(times[-1][count] / times[0][count] - 1 for count in both),
        detect_s=_median([one.detect_s for one in recoveries if one.detect_s]),
        rebuild_s=_median([one.rebuild_s for one in failures]),
        restart_s=_median([one.rebuild_s + one.transfer_s for one in restarts]),
        save_s=_median([seconds for found in runs for seconds in found.save_s]),
        transfer_bytes_per_s=sum(one.busiest_bytes for one in moves) / seconds if moves else 1e9,
        routing=routing,
    )


def step_times(found: LiveRun) -> dict[int, float]:
    """Return the median step time by the number of nodes in use."""
    by_count: dict[int, list[float]] = {}
    previous, run_length = 0, 0
    for step in found.steps:
        run_length = run_length + 1 if step.num_nodes == previous else 1
        previous = step.num_nodes
        if run_length > WARM_UP_STEPS:
            by_count.setdefault(step.num_nodes, []).append(step.step_s)
    return {count: statistics.median(times) for count, times in sorted(by_count.items())}


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


@dataclass(frozen=True)
class MeasuredPace:
    """A step time that was measured, whatever the loads, and a batch that does not grow with the nodes."""

    samples_per_step: int
    seconds: float

    def step_s(self, _step: int) -> float:
        """Return the seconds of any step."""
        return self.seconds

    def extrapolated_share(self, _step: int) -> float:
        """Return 0: all of it is measured."""
        return 0.0


def predict(spec: LiveSpec, trace: Trace, calibration: Calibration, num_nodes: int) -> SystemRun:
    """Simulate a live run.

    Parameters
    ----------
    spec
        The job.
    trace
        What happens, in the seconds of the run.
    calibration
        What things cost.
    num_nodes
        The most nodes at once.
    """
    costs = measured_costs(spec, calibration, num_nodes)
    counts, times_s = np.array(list(calibration.step_s)), np.array(list(calibration.step_s.values()))

    def pace_of(plan: PlacementPlan, _server_N: Ints) -> MeasuredPace:
        return MeasuredPace(spec.global_batch, float(np.interp(plan.num_nodes, counts, times_s)))

    return simulate_system(trace, SYSTEMS[spec.system], costs, calibration.routing, pace_of=pace_of)


def measured_costs(spec: LiveSpec, calibration: Calibration, num_nodes: int) -> CostModel:
    """Put what was measured where the simulation looks for it."""
    costs = planning_costs(spec, num_nodes)
    rate = calibration.transfer_bytes_per_s
    model = costs.model
    whole_bytes = model.dense_state_bytes + model.num_moe_layers * model.num_experts * model.expert_state_bytes
    network = NetworkSpec(
        nic_bytes_per_s=rate,
        all_to_all_efficiency=1.0,
        all_reduce_efficiency=1.0,
        point_to_point_efficiency=1.0,
        nic_latency_s=0.0,
        local_bytes_per_s=rate,
        local_latency_s=0.0,
        local_all_reduce_bytes_per_s=rate,
        local_all_reduce_latency_s=0.0,
        storage_bytes_per_s=whole_bytes / calibration.save_s if calibration.save_s else rate,
    )
    recovery = RecoverySpec(
        detect_s=calibration.detect_s,
        rebuild_s=calibration.rebuild_s,
        regroup_s=calibration.rebuild_s,
        restart_base_s=calibration.restart_s,
        restart_per_node_s=0.0,
    )
    cluster = msgspec.structs.replace(costs.cluster, network=network, recovery=recovery)
    costs = replace(costs, cluster=cluster, communication=AnalyticCommunication(network))
    # The restart that was measured has read the checkpoint, too: the simulation counts that on top.
    system = SYSTEMS[spec.system]
    load_s = checkpoint_load_s(costs, system.plan_evenly(costs, system.usable_nodes(costs, num_nodes)))
    recovery = msgspec.structs.replace(recovery, restart_base_s=max(0.0, calibration.restart_s - load_s))
    return replace(costs, cluster=msgspec.structs.replace(cluster, recovery=recovery))


def compress(trace: Trace, speedup: float) -> Trace:
    """Return a trace whose time passes so many times as fast."""
    return replace(trace, time_s=trace.time_s / speedup, duration_s=trace.duration_s / speedup)
