"""Compare a live run with its prediction: calibrate, run, calibrate again, simulate, and report the errors.

The prediction is the simulation's own, with the costs that were measured on the same machine. Nothing is fitted to the
run that is predicted.
"""

import asyncio
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lazsim.costmodel.recovery_times import checkpoint_load_s
from lazsim.costmodel.step import CostModel
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.files import check_folder, scratch_folder
from lazsim.live.calibration import Calibration, calibrate, step_times, summarise
from lazsim.live.fault_injector import TraceInjector
from lazsim.live.record import LiveRun
from lazsim.live.run import OnStart, describe_inputs, live_scenario, prepare, run_locally
from lazsim.live.spec import LiveSpec
from lazsim.live.worker_pool import WorkerPool
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.specs import NetworkSpec, RecoverySpec
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import DAY_S

Progress = Callable[[str, float | None], OnStart | None]
"""Called before each run with its purpose, and its seconds if they are known; returns the run's `on_start`."""


@dataclass(frozen=True)
class ComparedQuantity:
    """One quantity, measured and predicted; `judged` where a tolerance applies to it."""

    name: str
    measured: float
    predicted: float
    judged: bool = True

    @property
    def error(self) -> float | None:
        """``predicted / measured - 1``; none where nothing was measured."""
        return self.predicted / self.measured - 1 if self.measured else None


@dataclass(frozen=True)
class Validation:
    """A live run beside its prediction, with the inputs of both and the costs that the prediction uses."""

    inputs: Mapping[str, Any]
    measured: LiveRun
    predicted: SystemRun
    calibration: Calibration
    components: tuple[ComparedQuantity, ...]

    def worst(self) -> float:
        """Return the largest absolute relative error among judged components."""
        return max((abs(one.error) for one in self.components if one.judged and one.error is not None), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        run = self.measured.run
        return {
            "inputs": self.inputs,
            "components": [
                {"name": one.name, "measured": one.measured, "predicted": one.predicted}
                | {"relative_error": one.error, "judged": one.judged}
                for one in self.components
            ],
            "worst_error": self.worst(),
            "drift": self.calibration.drift,
            "calibration": {
                name: value for name, value in vars(self.calibration).items() if name not in ("routing", "drift")
            },
            "measured": {
                "wall_s": run.wall_s,
                "counts": dict(run.counts),
                "ledger_s": dict(run.ledger_s),
                "recoveries": [asdict(recovery) for recovery in self.measured.recoveries],
            },
            "predicted": {"counts": dict(self.predicted.counts), "ledger_s": dict(self.predicted.ledger_s)},
        }


def validate(
    spec: LiveSpec,
    trace: Trace,
    *,
    speedup: float,
    device: str = "cpu",
    replay: Mapping[str, Any] | None = None,
    progress: Progress = lambda _purpose, _wall_s: None,
) -> Validation:
    """Measure, predict and compare; raise a LazsimError where the job cannot go on.

    A second of the run stands for `speedup` seconds of the trace, and of the time for which the job collects new nodes.
    `replay`, the stretch of the trace, is recorded with the inputs.
    """
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    spec = prepare(msgspec.structs.replace(spec, job=job))
    inputs = describe_inputs(spec, device, trace, {**(replay or {}), "speedup": speedup})
    max_nodes = int(trace.num_alive()[1].max())
    injector = TraceInjector(trace, speedup)

    async def run() -> tuple[Calibration, LiveRun]:
        with WorkerPool() as pool:
            with _own_folder(spec) as own:
                before = await calibrate(own, max_nodes, pool, device, progress("calibrating", None))
            with _own_folder(spec) as own:
                on_start = progress("training through the trace", trace.duration_s / speedup)
                nodes = {"num_initial": len(injector.initial), "max_nodes": max_nodes}
                measured = await run_locally(own, injector, pool, **nodes, device=device, on_start=on_start)
            with _own_folder(spec) as own:
                after = await calibrate(own, max_nodes, pool, device, progress("calibrating again", None))
            return summarise([before, after]), measured

    calibration, measured = asyncio.run(run())
    predicted = predict(spec, compress(trace, speedup), calibration, max_nodes)
    return Validation(inputs, measured, predicted, calibration, compare(measured, predicted, calibration))


@contextmanager
def _own_folder(spec: LiveSpec) -> Iterator[LiveSpec]:
    """Give a run an empty checkpoint folder inside the chosen one, so that no run continues another."""
    if not spec.checkpoint_folder:
        yield spec
        return
    check_folder(Path(spec.checkpoint_folder))
    Path(spec.checkpoint_folder).mkdir(parents=True, exist_ok=True)
    with scratch_folder(Path(spec.checkpoint_folder)) as folder:
        yield msgspec.structs.replace(spec, checkpoint_folder=str(folder))


@dataclass(frozen=True)
class MeasuredTimer:
    """A measured step time for any loads, and a batch of fixed size."""

    samples_per_step: int
    seconds: float

    def step_s(self, _step: int) -> float:
        """Return the seconds of any step."""
        return self.seconds

    def extrapolated_share(self, _step: int) -> float:
        """Return 0: the whole step is measured."""
        return 0.0


def predict(spec: LiveSpec, trace: Trace, calibration: Calibration, max_nodes: int) -> SystemRun:
    """Simulate a live run with measured costs; the trace is in seconds of the run."""
    costs = measured_costs(spec, calibration, max_nodes)
    counts, times_s = np.array(list(calibration.step_s)), np.array(list(calibration.step_s.values()))

    def make_timer(plan: PlacementPlan, _server_N: Ints) -> MeasuredTimer:
        return MeasuredTimer(spec.global_batch, float(np.interp(plan.num_nodes, counts, times_s)))

    return simulate_system(trace, SYSTEMS[spec.system], costs, calibration.routing, make_timer=make_timer)


def measured_costs(spec: LiveSpec, calibration: Calibration, max_nodes: int) -> CostModel:
    """Return the cost model of the simulation with measured costs of recoveries and checkpoints."""
    scenario = live_scenario(spec, max_nodes)
    model, system, rate = scenario.model, scenario.find_system(), calibration.transfer_bytes_per_s
    all_bytes = model.dense_state_bytes + model.num_moe_layers * model.num_experts * model.expert_state_bytes
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
        storage_bytes_per_s=all_bytes / calibration.save_s if calibration.save_s else rate,
    )
    recovery = RecoverySpec(
        detect_s=calibration.detect_s,
        rebuild_s=calibration.rebuild_s,
        regroup_s=calibration.rebuild_s,
        restart_base_s=calibration.restart_s,
        restart_per_node_s=0.0,
    )
    cluster = msgspec.structs.replace(scenario.cluster, network=network, recovery=recovery)
    costs = replace(scenario, cluster=cluster).costs()
    # The measured restart includes the load of the checkpoint, which the simulation adds.
    load_s = checkpoint_load_s(costs, system.plan_evenly(costs, system.usable_nodes(costs, max_nodes)))
    recovery = msgspec.structs.replace(recovery, restart_base_s=max(0.0, calibration.restart_s - load_s))
    return replace(costs, cluster=msgspec.structs.replace(cluster, recovery=recovery))


def compress(trace: Trace, speedup: float) -> Trace:
    """Return a trace whose time passes `speedup` times as fast."""
    return replace(trace, time_s=trace.time_s / speedup, duration_s=trace.duration_s / speedup)


def compare(measured: LiveRun, predicted: SystemRun, calibration: Calibration) -> tuple[ComparedQuantity, ...]:
    """Compare measured and predicted quantities, by component and in total."""
    components = [
        ComparedQuantity(f"step time, {count} nodes (s)", seconds, calibration.step_s[count])
        for count, seconds in step_times(measured).items()
        if count in calibration.step_s
    ]
    failures = [one for one in measured.recoveries if one.complete and one.cause == "failure"]
    if failures:
        step_s = statistics.median(calibration.step_s.get(one.num_nodes, 0.0) for one in failures)
        parts_s = {"detect": calibration.detect_s, "rebuild": calibration.rebuild_s, "resume": step_s}
        for part, seconds in parts_s.items():
            median_s = statistics.median(getattr(one, f"{part}_s") for one in failures)
            components.append(ComparedQuantity(f"{part} (s)", median_s, seconds))
    moves = [one for one in measured.recoveries if one.complete and one.busiest_bytes > 0]
    if moves:
        predicted_s = statistics.fmean(one.busiest_bytes for one in moves) / calibration.transfer_bytes_per_s
        components.append(
            ComparedQuantity("transfer (s)", statistics.fmean(one.transfer_s for one in moves), predicted_s)
        )
    run = measured.run
    components.append(ComparedQuantity("samples trained", run.samples, predicted.samples))
    components.append(ComparedQuantity("ETTR", run.ettr, predicted.ettr))
    for bucket in BUCKETS:
        both_s = (run.ledger_s[bucket], predicted.ledger_s[bucket])
        if any(both_s):
            components.append(ComparedQuantity(f"time in {bucket.replace('_', ' ')} (s)", *both_s, judged=False))
    return tuple(components)


def kills_and_joins(num_nodes: int) -> Trace:
    """Return the default trace: within half an hour, nodes are lost, rank 0 among them, and come back."""
    names = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", name) for name in names]
    if num_nodes > 2:
        events += [Event(300.0, "remove", names[-1]), Event(600.0, "add", names[-1])]
        events += [Event(1020.0, "remove", names[0]), Event(1260.0, "add", names[0])]
        events += [Event(1560.0, "remove", names[1])]
    return build_trace(events, duration_s=1800.0, name="kills-and-joins")


def quiet_trace(num_nodes: int) -> Trace:
    """Return a trace of one day without events."""
    events = [Event(0.0, "add", f"node{index}") for index in range(num_nodes)]
    return build_trace(events, duration_s=DAY_S, name="quiet")
