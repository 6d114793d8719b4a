"""Forecast a live run: simulate its trace with the costs of a calibration on the same machine, made before the run."""

import itertools
from dataclasses import dataclass, field, fields
from typing import Any

from lazsim.costmodel.step import KernelCosts
from lazsim.engine.planner import Planner
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, TimedSteps
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.engine.systems.system import state_bytes
from lazsim.live.calibration import Calibration
from lazsim.live.run import live_scenario
from lazsim.live.spec import LiveSpec
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import counted

INSTANT_BYTES_PER_S = 1e24
"""A rate at which nothing takes time."""


def predict(spec: LiveSpec, trace: Trace, calibration: Calibration, max_nodes: int) -> SystemRun:
    """Simulate a live run with measured costs; the trace is in seconds of the run."""
    trace = known_later(trace, calibration.start_up_s)
    costs = measured_costs(spec, calibration, max_nodes)

    def make_timer(plan: PlacementPlan, _server_N: Ints) -> StepTimer:
        seconds, first_s = (calibration.step_of(plan.num_nodes, is_first=is_first) for is_first in (False, True))
        return measured_timer(seconds, first_s, spec.job.rebalance_interval_steps)

    inputs = LIVE_SYSTEMS[spec.system], costs, calibration.routing
    return simulate_system(trace, *inputs, planner=Planner(*inputs, make_timer))


def measured_timer(seconds: float, first_s: float, rebalance_interval_steps: int) -> StepTimer:
    """Return a timer of steps of `seconds` for any loads, of which the first takes `first_s`.

    That is one after a recovery, unless a rebalance is due there, which has made the plan.
    """
    begins: int | None = None

    def timer(step: int) -> TimedSteps:
        nonlocal begins
        begins = step if begins is None else begins
        if step == begins and (not step or step % rebalance_interval_steps):
            return TimedSteps(first_s, 1)
        return TimedSteps(seconds, LOAD_SAMPLE_STEPS - step % LOAD_SAMPLE_STEPS)

    return timer


def known_later(trace: Trace, start_up_s: float) -> Trace:
    """Return a trace with nodes as a job knows them, some time after their start; it never knows those lost before.

    Examples
    --------
    >>> events = [Event(0.0, "add", "a"), Event(5.0, "remove", "a"), Event(6.0, "add", "a"), Event(6.5, "remove", "a")]
    >>> later = known_later(build_trace(events, duration_s=9.0), start_up_s=1.0)
    >>> [(batch.time_s, batch.added, batch.removed) for batch in later.batches()]
    [(0.0, ('a',), ()), (5.0, (), ('a',))]
    """
    # Nodes keep their order, which decides who holds which part of a plan.
    known: list[list[Any]] = []
    last: dict[str, list[Any]] = {}
    for batch in trace.batches():
        for node in batch.removed:
            last[node][2] = batch.time_s
        for node in batch.added:
            last[node] = [node, batch.time_s + start_up_s if batch.time_s else 0.0, trace.duration_s]
            known.append(last[node])
    spans = [span for span in known if span[1] < span[2]]
    events = [Event(at_s, "add", node) for node, at_s, _ in spans]
    events += [Event(end_s, "remove", node) for node, _, end_s in spans if end_s < trace.duration_s]
    events.sort(key=lambda event: event.time_s)
    return build_trace(events, duration_s=trace.duration_s, name=trace.name, places=trace.places)


@dataclass(frozen=True)
class MeasuredCosts(KernelCosts):
    """A cost model of nodes that share this machine: those left of a plan train faster without the others."""

    calibration: Calibration = field(kw_only=True)
    global_batch: int = field(kw_only=True)

    def samples_per_step(self, num_nodes: int) -> int:
        """Return the global batch, whatever the nodes."""
        return self.global_batch

    def part_step_factor(self, num_nodes: int, num_left: int) -> float:
        """See `CostModel.part_step_factor`."""
        return self.calibration.step_of(num_left) / self.calibration.step_of(num_nodes)


def measured_costs(spec: LiveSpec, calibration: Calibration, max_nodes: int) -> MeasuredCosts:
    """Return the cost model of the simulation with measured costs of steps, recoveries and checkpoints."""
    scenario, rate = live_scenario(spec, max_nodes), calibration.transfer_bytes_per_s
    save_rate = state_bytes(scenario.costs()) / calibration.save_s if calibration.save_s else rate
    measured = {
        "network.nic_bytes_per_s": rate,
        "network.nic_latency_s": 0.0,
        "network.point_to_point_efficiency": 1.0,
        "network.local_bytes_per_s": rate,
        "network.local_latency_s": 0.0,
        "network.storage_bytes_per_s": save_rate,
        # The measured restart includes the load of the checkpoint, and saves and transfers serialising and connecting.
        "network.storage_read_bytes_per_s": INSTANT_BYTES_PER_S,
        "host.serialise_bytes_per_s": INSTANT_BYTES_PER_S,
        "recovery.connect_s": 0.0,
        "recovery.detect_s": calibration.detect_s,
        "recovery.rebuild_s": calibration.rebuild_s,
        # Ranks that only exchange experts keep their communicators.
        "recovery.regroup_s": 0.0,
        "recovery.restart_base_s": calibration.restart_s,
        "recovery.restart_per_node_s": 0.0,
    }
    for name, value in measured.items():
        scenario = scenario.replace(f"cluster.{name}", value)
    costs = scenario.analytic_costs()
    known = {one.name: getattr(costs, one.name) for one in fields(costs)}
    return MeasuredCosts(**known, calibration=calibration, global_batch=spec.global_batch)


def forecast_notes(spec: LiveSpec, predicted: SystemRun) -> list[str]:
    """Return remarks on a forecast that a reader needs to trust it or not."""
    system, threshold = LIVE_SYSTEMS[spec.system], spec.job.fault_threshold
    used = sorted({state.num_used for state in predicted.states if state.num_used})
    if not (system.is_elastic and used):
        return []
    costs = live_scenario(spec, used[-1]).costs()

    def is_short(num_nodes: int) -> bool:
        return system.plan_evenly(costs, num_nodes).fewest_nodes < threshold

    short = list(filter(is_short, used))
    if not short:
        return []
    needed = next(itertools.filterfalse(is_short, itertools.count(short[-1] + 1)))
    counts = " or ".join([*map(str, short[:-1]), counted(short[-1], "node")])
    return [
        f"on {counts} of {counted(spec.slots_per_node, 'slot')}, some expert is on fewer than {threshold} nodes, and "
        f"on {needed} none is: until then the loss of {threshold - 1} can be a restart, which the forecast tells only "
        "where experts lie on the nodes that it expects"
    ]
