"""Hold a prediction against what happened: a live run between calibrations, a simulation of it, and the errors."""

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from lazsim.engine.ledger import BUCKETS
from lazsim.engine.simulate import SystemRun
from lazsim.files import check_folder, json_bytes
from lazsim.live.controller import Controller
from lazsim.live.nursery import Nursery
from lazsim.live.play import TracePlay
from lazsim.live.predict import Calibration, calibrate, compress, predict, step_times, summarise
from lazsim.live.record import LiveRun
from lazsim.live.report import live_inputs
from lazsim.live.run import live_run, prepare
from lazsim.live.spec import LiveSpec
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import DAY_S

Follow = Callable[[str, float | None], Callable[[Controller], None] | None]


@dataclass(frozen=True)
class Component:
    """One quantity, measured and predicted; `judged` where the tolerance applies to it."""

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
    """A validation.

    Attributes
    ----------
    inputs : mapping
        What both were made of, see `lazsim.live.report.live_inputs`.
    measured, predicted : LiveRun, SystemRun
        What happened, and what was to happen.
    calibration : Calibration
        What the prediction was made from.
    components : tuple of Component
        Beside each other.
    """

    inputs: Mapping[str, Any]
    measured: LiveRun
    predicted: SystemRun
    calibration: Calibration
    components: tuple[Component, ...]

    def worst(self) -> float:
        """Return the largest relative error, without its sign."""
        return max((abs(one.error) for one in self.components if one.judged and one.error is not None), default=0.0)

    def to_text(self) -> str:
        """Return a table for people."""
        run = self.measured.run
        model = self.inputs["spec"]["model"]["name"]
        lines = [
            f"{run.system}, {model}: {run.wall_s:.0f} s, {run.counts['failures']} failures, "
            f"{run.counts['reconfigurations']} reconfigurations, {run.counts['restarts']} restarts",
            "",
            f"{'':<28} {'measured':>10} {'predicted':>10} {'error':>8}",
        ]
        for one in self.components:
            error = "-" if one.error is None else f"{one.error:+.1%}"
            lines.append(f"{one.name:<28} {one.measured:>10.4g} {one.predicted:>10.4g} {error:>8}")
        drift = self.calibration.drift
        change = f"{abs(drift):.1%} {'longer' if drift > 0 else 'less'}"
        lines += ["", f"steps of the calibration after the run took {change} than those before it"]
        return "\n".join(lines)

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the content of every file of a validation's folder, pictures included."""
        from lazsim.output.plots.live import live_figure

        pictures = live_figure(self.measured, self.predicted)
        return {folder / "validate.json": json_bytes(self.to_json())} | {
            folder / f"validate.{kind}": content for kind, content in pictures.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        run = self.measured.run
        return {
            "inputs": self.inputs,
            "components": [
                {
                    "name": one.name,
                    "measured": one.measured,
                    "predicted": one.predicted,
                    "relative_error": one.error,
                    "judged": one.judged,
                }
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
    follow: Follow = lambda _doing, _wall_s: None,
) -> Validation:
    """Measure, predict and compare.

    Parameters
    ----------
    spec
        The job; the time for which it collects new nodes is compressed as the trace is.
    trace
        What happens to the nodes, in its own time.
    speedup
        Seconds of the trace in one of the run.
    device
        ``auto``, ``cpu`` or ``cuda``.
    replay
        How the trace was cut from its file, recorded with the inputs.
    follow
        Is told what each run is for, and how many seconds it takes if that is known; returns its `watch`, or none.

    Raises
    ------
    LazsimError
        When the job cannot go on.
    """
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    spec = prepare(msgspec.structs.replace(spec, job=job))
    inputs = live_inputs(spec, device, trace, {**(replay or {}), "speedup": speedup})
    most_nodes = int(trace.num_alive()[1].max())
    play = TracePlay(trace, speedup)

    async def run() -> tuple[Calibration, LiveRun]:
        with Nursery() as nursery:
            with _own_folder(spec) as own:
                before = await calibrate(own, most_nodes, nursery, device, follow("calibrating", None))
            with _own_folder(spec) as own:
                found = await live_run(
                    own,
                    play,
                    nursery,
                    num_initial=len(play.initial),
                    most_nodes=most_nodes,
                    device=device,
                    watch=follow("training through the trace", trace.duration_s / speedup),
                )
            with _own_folder(spec) as own:
                after = await calibrate(own, most_nodes, nursery, device, follow("calibrating again", None))
            return summarise([before, after]), found

    calibration, measured = asyncio.run(run())
    predicted = predict(spec, compress(trace, speedup), calibration, most_nodes)
    return Validation(inputs, measured, predicted, calibration, compare(measured, predicted, calibration))


@contextmanager
def _own_folder(spec: LiveSpec) -> Iterator[LiveSpec]:
    """Give a run an empty folder for its checkpoints, inside the one that was chosen: none goes on from another."""
    if not spec.checkpoint_folder:
        yield spec
        return
    check_folder(Path(spec.checkpoint_folder))
    Path(spec.checkpoint_folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="validate-", dir=spec.checkpoint_folder) as folder:
        yield msgspec.structs.replace(spec, checkpoint_folder=folder)


def compare(measured: LiveRun, predicted: SystemRun, calibration: Calibration) -> tuple[Component, ...]:
    """Put measured and predicted beside each other, by component and in total."""
    times = step_times(measured)
    components = [
        Component(f"step time, {count} nodes (s)", seconds, calibration.step_s[count])
        for count, seconds in times.items()
        if count in calibration.step_s
    ]
    failures = [one for one in measured.recoveries if one.complete and one.cause == "failure"]
    if failures:
        resume_s = [one.resume_s for one in failures]
        usual_s = [calibration.step_s.get(one.num_nodes, 0.0) for one in failures]
        components += [
            Component("detect (s)", statistics.median(one.detect_s for one in failures), calibration.detect_s),
            Component("rebuild (s)", statistics.median(one.rebuild_s for one in failures), calibration.rebuild_s),
            Component("resume (s)", statistics.median(resume_s), statistics.median(usual_s)),
        ]
    moves = [one for one in measured.recoveries if one.complete and one.busiest_bytes > 0]
    if moves:
        predicted_s = statistics.fmean(one.busiest_bytes for one in moves) / calibration.transfer_bytes_per_s
        components.append(Component("transfer (s)", statistics.fmean(one.transfer_s for one in moves), predicted_s))
    run = measured.run
    components += [
        Component("samples trained", run.samples, predicted.samples),
        Component("ETTR", run.ettr, predicted.ettr),
    ]
    components += [
        Component(
            f"time in {bucket.replace('_', ' ')} (s)", run.ledger_s[bucket], predicted.ledger_s[bucket], judged=False
        )
        for bucket in BUCKETS
        if run.ledger_s[bucket] or predicted.ledger_s[bucket]
    ]
    return tuple(components)


def kills_and_joins(num_nodes: int) -> Trace:
    """Return the trace that is played where none is given: losses, also of rank 0, and returns in half an hour."""
    names = [f"node{index}" for index in range(num_nodes)]
    events = [Event(0.0, "add", name) for name in names]
    if num_nodes > 2:
        events += [Event(300.0, "remove", names[-1]), Event(600.0, "add", names[-1])]
        events += [Event(1020.0, "remove", names[0]), Event(1260.0, "add", names[0])]
        events += [Event(1560.0, "remove", names[1])]
    return build_trace(events, duration_s=1800.0, name="kills-and-joins")


def quiet_trace(num_nodes: int) -> Trace:
    """Return a trace in which nothing happens to the nodes for a day."""
    return build_trace(
        [Event(0.0, "add", f"node{index}") for index in range(num_nodes)], duration_s=DAY_S, name="quiet"
    )
