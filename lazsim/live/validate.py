"""Hold a forecast against a live run: calibrate, forecast, run, and report the error of every cost and bucket.

The forecast is the simulation's own, from costs measured on the same machine before the run. A calibration after the
run only tells how much the speed of the machine has changed.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from lazsim.costmodel.step import KernelCosts
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.planner import Planner
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, TimedSteps
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.engine.systems.system import state_bytes
from lazsim.files.writing import check_folder, scratch_folder
from lazsim.live.calibration import (
    GOLDEN_RATIO,
    Calibration,
    all_lost_ratio,
    calibrate,
    calibration_of,
    drift,
    kill_ages_s,
    mean,
    step_times,
)
from lazsim.live.fault_injector import TraceInjector
from lazsim.live.orders import run_until_ordered
from lazsim.live.record import LiveRun
from lazsim.live.run import OnStart, describe_inputs, live_scenario, prepare, run_locally
from lazsim.live.spec import LiveSpec
from lazsim.live.worker_pool import WorkerPool
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.study.result import named_counts
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import DAY_S, counted

ShowProgress = Callable[[str, float | None], OnStart]
"""Called before each run with its purpose, and its seconds if they are known; returns the run's `on_start`."""

INSTANT_BYTES_PER_S = 1e24
"""A rate at which nothing takes time."""

NEGLIGIBLE_SHARE = 0.02
"""A quantity that stands for less of the run's time, measured and predicted, is not judged: it changes no result."""

COUNTS = ("failures", "reconfigurations", "restarts")


@dataclass(frozen=True)
class ComparedQuantity:
    """One quantity, measured and predicted, and the larger `share` of the run's time that it stands for in the two."""

    name: str
    measured: float
    predicted: float
    share: float = 0.0

    @property
    def is_judged(self) -> bool:
        """Whether a tolerance applies to it."""
        return self.share >= NEGLIGIBLE_SHARE

    @property
    def error(self) -> float:
        """``predicted / measured - 1``; infinite where something was predicted that did not happen."""
        if self.measured:
            return self.predicted / self.measured - 1
        return math.inf if self.predicted else 0.0

    def to_json(self, tolerance: float) -> dict[str, Any]:
        """Return plain data; `passed` is none where the quantity is not judged."""
        return {
            "name": self.name,
            "measured": self.measured,
            "predicted": self.predicted,
            "relative_error": self.error if math.isfinite(self.error) else None,
            "share": self.share,
            "judged": self.is_judged,
            "passed": abs(self.error) <= tolerance if self.is_judged else None,
        }


@dataclass(frozen=True)
class Validation:
    """A live run beside its forecast, with the inputs of both and the costs that the forecast uses.

    A judged component passes when its relative error is at most `tolerance`. The `drift` is the relative change of step
    times from the calibration before the run to the one after it.
    """

    inputs: Mapping[str, Any]
    measured: LiveRun
    predicted: SystemRun
    calibration: Calibration
    drift: float
    tolerance: float
    components: tuple[ComparedQuantity, ...]
    notes: tuple[str, ...]

    def worst(self) -> ComparedQuantity:
        """Return the judged component with the largest absolute relative error."""
        return max((one for one in self.components if one.is_judged), key=lambda one: abs(one.error))

    @property
    def has_passed(self) -> bool:
        """Whether all judged components are within the tolerance."""
        return abs(self.worst().error) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        measured, worst = self.measured.to_json(), abs(self.worst().error)
        return {
            "inputs": self.inputs,
            "tolerance": self.tolerance,
            "passed": self.has_passed,
            "components": [one.to_json(self.tolerance) for one in self.components],
            "worst_error": worst if math.isfinite(worst) else None,
            "drift": self.drift,
            "calibration": {name: value for name, value in vars(self.calibration).items() if name != "routing"},
            "measured": {name: measured[name] for name in ("wall_s", "counts", "ledger_s", "recoveries")},
            "predicted": {"counts": named_counts(self.predicted), "ledger_s": dict(self.predicted.ledger_s)},
            "notes": self.notes,
        }


def validate(
    spec: LiveSpec,
    trace: Trace,
    *,
    speedup: float,
    tolerance: float,
    replay: Mapping[str, Any] | None = None,
    progress: ShowProgress = lambda _purpose, _wall_s: lambda _coordinator: None,
) -> Validation:
    """Forecast, measure and compare; raise a LazsimError where the job cannot go on.

    A second of the run stands for `speedup` seconds of the trace, and of the time for which the job collects new nodes.
    `replay`, the stretch of the trace, is recorded with the inputs.
    """
    spec, played = compress(prepare(spec), trace, speedup)
    inputs = describe_inputs(spec, trace, {**(replay or {}), "speedup": speedup})
    max_nodes = trace.most_nodes()
    injector, ages_s = TraceInjector(played), kill_ages_s(played)

    async def run(pool: WorkerPool) -> Validation:
        with _own_folder(spec) as own:
            on_start = progress("calibrating", None)
            before = await calibrate(own, max_nodes, pool, ages_s, on_start=on_start, all_lost=all_lost_ratio(trace))
        calibration = calibration_of(before)
        predicted = predict(spec, played, calibration, max_nodes)
        with _own_folder(spec) as own:
            on_start = progress("training through the trace", played.duration_s)
            measured = await run_locally(own, injector, pool, max_nodes=max_nodes, on_start=on_start)
        with _own_folder(spec) as own:
            on_start = progress("calibrating again", None)
            after = await calibrate(own, max_nodes, pool, num_rounds=1, on_start=on_start)
        components = compare_run(measured, predicted, calibration)
        notes = (*trace.notes, *forecast_notes(spec, predicted))
        return Validation(inputs, measured, predicted, calibration, drift(before, after), tolerance, components, notes)

    with WorkerPool() as pool:
        return run_until_ordered(run(pool))


@contextmanager
def _own_folder(spec: LiveSpec) -> Iterator[LiveSpec]:
    """Give a run an empty checkpoint folder inside the chosen one, so that no run continues another."""
    if not spec.checkpoint_folder:
        yield spec
        return
    check_folder(Path(spec.checkpoint_folder))
    with scratch_folder(Path(spec.checkpoint_folder)) as folder:
        yield msgspec.structs.replace(spec, checkpoint_folder=str(folder))


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


def predict(spec: LiveSpec, trace: Trace, calibration: Calibration, max_nodes: int) -> SystemRun:
    """Simulate a live run with measured costs; the trace is in seconds of the run."""
    trace = known_later(trace, calibration.start_up_s)
    costs = measured_costs(spec, calibration, max_nodes)

    def make_timer(plan: PlacementPlan, _server_N: Ints) -> StepTimer:
        seconds, first_s = (calibration.step_of(plan.num_nodes, is_first=is_first) for is_first in (False, True))
        return measured_timer(seconds, first_s, spec.job.rebalance_interval_steps)

    inputs = LIVE_SYSTEMS[spec.system], costs, calibration.routing
    return simulate_system(trace, *inputs, planner=Planner(*inputs, make_timer))


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


def compress(spec: LiveSpec, trace: Trace, speedup: float) -> tuple[LiveSpec, Trace]:
    """Return a job and its trace in seconds of the run, each of which stands for `speedup` seconds of the trace."""
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    played = replace(trace, time_s=trace.time_s / speedup, duration_s=trace.duration_s / speedup)
    return msgspec.structs.replace(spec, job=job), played


def compare_run(measured: LiveRun, predicted: SystemRun, calibration: Calibration) -> tuple[ComparedQuantity, ...]:
    """Compare measured and predicted quantities: costs as means, totals, counts, and every bucket of the ledger.

    The prediction's own events say how often a cost occurs and how many bytes move.
    """
    run, wall_s = measured.run, measured.run.wall_s
    steps = [
        ComparedQuantity(
            f"step time, {count} nodes (s)",
            seconds,
            calibration.step_of(count),
            seconds * sum(step.num_nodes == count for step in measured.steps) / wall_s,
        )
        for count, seconds in step_times(measured).items()
    ]
    totals = [
        ComparedQuantity("samples trained", run.samples, predicted.samples, 1.0),
        ComparedQuantity("ETTR", run.ettr, predicted.ettr, 1.0),
        *(ComparedQuantity(name, run.counts[name], predicted.counts[name]) for name in COUNTS),
    ]
    buckets = [
        ComparedQuantity(f"time in {bucket.replace('_', ' ')} (s)", *both_s, max(both_s) / wall_s)
        for bucket in BUCKETS
        if any(both_s := (run.ledger_s[bucket], predicted.ledger_s[bucket]))
    ]
    return (*steps, *_compare_recoveries(measured, predicted, calibration), *totals, *buckets)


def _compare_recoveries(
    measured: LiveRun, predicted: SystemRun, calibration: Calibration
) -> Iterator[ComparedQuantity]:
    """Compare the parts of recoveries, each the mean over those that have it."""
    complete = [one for one in measured.recoveries if one.complete]
    moves = [one for one in complete if one.is_reconfiguration]
    restarts_s = [one.rebuild_s + one.transfer_s for one in complete if one.is_restart]
    count, ledger_s = predicted.counts, predicted.ledger_s
    transfer_s = ledger_s["transfer"] / max(1, count["reconfigurations"])
    restart_s = ledger_s["restart"] / max(1, count["restarts"])
    num_resumed = count["reconfigurations"] + count["restarts"]
    parts: list[tuple[str, list[float], float, int]] = [
        ("detect", [one.detect_s for one in complete if one.detect_s], calibration.detect_s, count["failures"]),
        ("rebuild", [one.rebuild_s for one in moves], calibration.rebuild_s, count["reconfigurations"]),
        ("transfer", [one.transfer_s for one in moves], transfer_s, count["reconfigurations"]),
        ("restart", restarts_s, restart_s, count["restarts"]),
        ("resume", [one.resume_s for one in complete], calibration.resume_s, num_resumed),
    ]
    for name, measured_s, predicted_s, number in parts:
        if not (measured_s and number):
            continue
        share = max(math.fsum(measured_s), number * predicted_s) / measured.run.wall_s
        yield ComparedQuantity(f"{name} (s)", mean(measured_s), predicted_s, share)
        if name == "transfer":
            moved_mb = mean(one.busiest_bytes for one in moves) / 1e6
            yield ComparedQuantity("moved (MB)", moved_mb, transfer_s * calibration.transfer_bytes_per_s / 1e6, share)


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


def kills_and_joins(num_nodes: int) -> Trace:
    """Return the default trace: half an hour with a failure every three minutes.

    By turns, some nodes are lost and come back, and all nodes are lost at once and come back. Some are one node, in the
    third turn two; each turn takes the next nodes, rank 0 among them. All are lost after turns of different lengths,
    so that not every rollback loses the same steps.
    """
    names = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", name) for name in names]
    for turn in range(5):
        begun_s = 360.0 * turn
        lost = {names[-(1 + turn + more) % num_nodes] for more in range(2 if turn == 2 else 1)}
        all_lost_s = 225.0 + 90.0 * (turn * GOLDEN_RATIO % 1)
        for removed_s, added_s, nodes in ((90.0, 135.0, sorted(lost)), (all_lost_s, all_lost_s + 6.0, names)):
            events += [Event(begun_s + removed_s, "remove", name) for name in nodes]
            events += [Event(begun_s + added_s, "add", name) for name in nodes]
    return build_trace(events, duration_s=1800.0, name="kills-and-joins")


def quiet_trace(num_nodes: int) -> Trace:
    """Return a trace of one day without events."""
    events = [Event(0.0, "add", f"node{index}") for index in range(num_nodes)]
    return build_trace(events, duration_s=DAY_S, name="quiet")
