"""Hold a forecast against a live run: calibrate, forecast, run, and report the error of every cost and bucket.

A calibration after the run only tells how much the speed of the machine has changed.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lazsim.engine.ledger import BUCKETS
from lazsim.engine.simulate import SystemRun
from lazsim.files.writing import check_folder, scratch_folder
from lazsim.live.calibration import (
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
from lazsim.live.forecast import forecast_notes, predict
from lazsim.live.orders import run_until_ordered
from lazsim.live.record import LiveRun
from lazsim.live.run import OnStart, compress, describe_inputs, prepare, run_locally
from lazsim.live.spec import LiveSpec
from lazsim.live.worker_pool import WorkerPool
from lazsim.study.result import named_counts
from lazsim.trace.table import Trace

ShowProgress = Callable[[str, float | None], OnStart]
"""Called before each run with its purpose, and its seconds if they are known; returns the run's `on_start`."""

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
        async def measure_costs(purpose: str, **losses: Any) -> LiveRun:
            with _own_folder(spec) as own:
                return await calibrate(own, max_nodes, pool, on_start=progress(purpose, None), **losses)

        before = await measure_costs("calibrating", ages_s=ages_s, all_lost=all_lost_ratio(trace))
        calibration = calibration_of(before)
        predicted = predict(spec, played, calibration, max_nodes)
        with _own_folder(spec) as own:
            on_start = progress("training through the trace", played.duration_s)
            measured = await run_locally(own, injector, pool, max_nodes=max_nodes, on_start=on_start)
        after = await measure_costs("calibrating again", num_rounds=1)
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
