"""``lazsim validate``: calibrations, the forecast made from them, and how it is held against a live run."""

import asyncio
import json
import re
import signal
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.engine.ledger import BUCKETS
from lazsim.engine.log import State
from lazsim.engine.simulate import SystemRun
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.files.writing import json_bytes
from lazsim.live import validate as validation
from lazsim.live.calibration import (
    STEPS_PER_COUNT,
    Calibration,
    CalibrationFaults,
    all_lost_ratio,
    calibrate,
    calibration_of,
    drift,
    kill_ages_s,
)
from lazsim.live.fault_injector import LocalNodes, kills_and_joins, quiet_trace
from lazsim.live.forecast import forecast_notes, known_later, predict
from lazsim.live.messages import LiveError
from lazsim.live.record import LiveReport, LiveRun, Recovery, StepRecord
from lazsim.live.run import compress, prepare
from lazsim.live.spec import SMALL_MODEL, LiveSpec
from lazsim.live.validate import Validation, compare_run
from lazsim.output.plots.live import live_figure
from lazsim.output.report import report_page
from lazsim.output.table import render
from lazsim.output.validate import validation_files, validation_parts, validation_report
from lazsim.routing.table import RecordedRouting
from lazsim.specs import JobSpec, load_spec
from lazsim.trace import build_trace
from lazsim.trace.table import Event
from tests.live_jobs import TINY, signal_worker, tiny_options, tiny_spec
from tests.test_docs import unnamed_keys

ROUTING = RecordedRouting(np.array([0]), np.full((1, 2, 4), 10))
COSTS = Calibration(
    step_s={2: 0.2, 4: 0.5},
    detect_s=0.25,
    rebuild_s=0.5,
    resume_s=0.35,
    restart_s=2.0,
    save_s=0.0,
    transfer_bytes_per_s=1e9,
    start_up_s=0.0,
    kill_ages_s=(),
    routing=ROUTING,
)
COUNTS = dict.fromkeys(("failures", "reconfigurations", "restarts", "rebalances", "checkpoints", "lost_steps"), 0)


def live_run(step_s: dict[int, float], recoveries: tuple[Recovery, ...] = (), **changes) -> LiveRun:
    """Return a run of twenty steps with each number of nodes."""
    steps = [(count, seconds) for count, seconds in step_s.items() for _ in range(20)]
    ledger_s = dict.fromkeys(BUCKETS, 0.0) | {"compute": 30.0, "detect": 30.0}
    run = SystemRun("lazarus", "mro", "lazarus", 60.0, 40, 640, ledger_s, COUNTS, (), ())
    records = tuple(StepRecord(step, float(step), *timed, 1.0, 16) for step, timed in enumerate(steps))
    return LiveRun(replace(run, **changes), records, recoveries, (), (), ROUTING, ("gloo",), ("torch",))


def simulated(measured: LiveRun, **changes) -> SystemRun:
    """Return a forecast that is like the run but for some changes; buckets and counts are added to the run's."""
    run = measured.run
    for name in ("ledger_s", "counts"):
        changes[name] = {**getattr(run, name), **changes.get(name, {})}
    return replace(run, **changes)


def validated(measured: LiveRun, predicted: SystemRun, tolerance: float = 0.3) -> Validation:
    """Return a run and its forecast as `validate` does."""
    inputs = {"spec": {"model": {"name": "tiny"}}}
    return Validation(inputs, measured, predicted, COSTS, 0.0, tolerance, compare_run(measured, predicted, COSTS), ())


@pytest.mark.parametrize(
    ("system", "num_nodes", "num_rounds", "causes", "counts"),
    [
        # Four experts on three slots a node: two nodes hold them.
        ("lazarus", 3, 1, ["failure", "join"], [3, 2]),
        # Where no node can be spared the job waits for the next one.
        ("lazarus", 2, 2, ["failure"], [2]),
        ("ds", 2, 1, ["failure"], [2]),
    ],
)
def test_a_calibration_loses_nodes_and_gets_them_back(system, num_nodes, num_rounds, causes, counts, pool, monkeypatch):
    monkeypatch.setattr("lazsim.live.calibration.RETURN_S", 0.3)
    spec = tiny_spec(system, num_steps=None)
    spec = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, rebalance_interval_steps=1000))
    found = asyncio.run(calibrate(spec, num_nodes, pool, num_rounds=num_rounds))
    complete = [one for one in found.recoveries if one.complete]
    assert [one.cause for one in complete] == num_rounds * causes + num_rounds * ["failure"]
    assert all(one.is_restart for one in complete[-num_rounds:])
    visits = [(count, len(list(steps))) for count, steps in groupby(step.num_nodes for step in found.steps)]
    assert [count for count, _ in visits] == (num_rounds * counts + counts[:1] if len(counts) > 1 else counts)
    assert all(number >= STEPS_PER_COUNT for _, number in visits)
    costs = calibration_of(found)
    assert min(costs.detect_s, costs.restart_s, costs.start_up_s, *costs.kill_ages_s) > 0


def test_a_calibration_kills_workers_that_are_as_old_as_those_of_the_trace(monkeypatch):
    """Without processes: a step a second, and what is killed is gone at once, and back in the next."""
    monkeypatch.setattr("lazsim.live.calibration.RETURN_S", 0.0)
    events = [Event(0.0, "add", name) for name in "abc"]
    events += [
        Event(4.0, "remove", "a"),
        Event(5.0, "add", "a"),
        Event(45.0, "remove", "a"),
        Event(45.0, "remove", "b"),
    ]
    ages_s = kill_ages_s(build_trace(events, duration_s=60.0))
    # The first is 4 s old; of those that go together the younger counts, which is 40 s old.
    assert ages_s == [4.0, 40.0]

    killed: dict[str, float] = {}
    record = SimpleNamespace(num_used=0, steps=[SimpleNamespace(step_s=0.0)], started_s={})
    coordinator = SimpleNamespace(record=record, now_s=lambda: now_s)
    nodes = LocalNodes(coordinator, SimpleNamespace(num_workers=99), Path("log"))
    coordinator.server = SimpleNamespace(start=asyncio.create_task, stop=lambda: None)
    alive: set[str] = set()
    nodes.start = lambda name: (alive.add(name), record.started_s.setdefault(name, now_s))
    nodes.kill = lambda name: (alive.remove(name), killed.setdefault(name, now_s - record.started_s[name]))
    faults = CalibrationFaults(3, lambda count: count if count >= 2 else 0, ages_s)

    async def train() -> None:
        nonlocal now_s
        for now_s in range(1, 100):
            record.num_used = len(alive)
            await faults.on_event(nodes, "stepped" if len(alive) >= 2 else "failed", 0, now_s)
            await asyncio.sleep(0.001)

    now_s = 0
    faults.begin(nodes)
    asyncio.run(train())
    # Twice one node, then twice all, at the quantiles 1/8, 3/8 and so on of 4 and 40 s: 8.5, 17.5, 26.5 and 35.5 s, of
    # which 30 s are waited for. Ages are whole, and a change takes 8 s: at 25 s nodes are 25 s old, and one 8 s.
    ages = list(killed.values())
    assert ages[:2] == [9, 25]
    assert max(ages[2:5]) == 41
    assert ages[5:] == [30, 30, 30]


def test_a_calibration_loses_all_nodes_as_often_for_each_loss_of_some_as_the_trace():
    # By turns, as the trace says of itself.
    assert all_lost_ratio(kills_and_joins(4)) == 1.0
    assert all_lost_ratio(quiet_trace(4)) == 0.0
    lost = {}
    for ratio in (0.0, 1.0, 2.0, 99.0):
        # One and two nodes, twice each, and then all.
        losses = CalibrationFaults(4, lambda count: count if count >= 2 else 0, [], all_lost=ratio)._losses
        lost[ratio] = (losses[:4], losses[4:])
    assert lost == {ratio: ([1, 2, 1, 2], [4] * number) for ratio, number in zip(lost, (2, 4, 8, 8), strict=True)}


def test_a_calibration_whose_worker_ends_by_itself_ends_in_a_message(monkeypatch, pool):
    class Accident(CalibrationFaults):
        async def on_event(self, nodes, event, generation, step):
            # A step before a lost connection may stay unreported, so the first one from 4 on.
            if event == "stepped" and step >= 4:
                signal_worker(nodes.pool, "c0", signal.SIGKILL)
            await super().on_event(nodes, event, generation, step)

    monkeypatch.setattr("lazsim.live.calibration.CalibrationFaults", Accident)
    with pytest.raises(LiveError, match="a worker ended by itself"):
        asyncio.run(calibrate(tiny_spec(num_steps=None), 3, pool))


def test_costs_are_means_over_a_calibration():
    def failure(detect_s, rebuild_s, transfer_s, num_bytes, **changes):
        parts = Recovery(
            "failure", 0.0, 2, detect_s, rebuild_s, transfer_s, 0.1, num_bytes, "peers", 7.0, complete=True
        )
        return replace(parts, **changes)

    recoveries = (
        failure(0.1, 1.0, 1.0, 3e6),
        failure(0.2, 2.0, 0.5, 0.0),
        failure(0.6, 6.0, 1.0, 5e6),
        failure(9.0, 9.0, 9.0, 9e6, complete=False),
        failure(0.3, 4.0, 0.5, 0.0, source="checkpoint"),
    )
    run = replace(live_run({4: 0.2, 2: 0.1}, recoveries), save_s=(0.1, 0.3), start_up_s=(0.2, 0.4))
    found = calibration_of(run)
    assert found.step_s == pytest.approx({4: 0.2, 2: 0.1})
    # Of 0.1, 0.2, 0.6 and 0.3; of 1, 2 and 6. A recovery that was not completed does not count.
    assert (found.detect_s, found.rebuild_s) == (pytest.approx(0.3), pytest.approx(3.0))
    assert (found.restart_s, found.save_s, found.start_up_s) == pytest.approx((4.5, 0.2, 0.3))
    assert found.resume_s == pytest.approx(0.1)
    # 8 MB in 2 s; what moved nothing tells nothing about the rate.
    assert found.transfer_bytes_per_s == pytest.approx(4e6)
    assert found.kill_ages_s == (7.0,) * 4


def test_first_steps_after_recoveries_are_told_from_others():
    def step(seconds, num_nodes, is_first=False):
        return StepRecord(0, 0.0, num_nodes, seconds, 1.0, 16, is_first)

    # The very first step counts nowhere.
    steps = (step(9.0, 4, True), step(1.0, 4), step(3.0, 4), step(5.0, 4, True), step(0.5, 2, True), step(0.2, 2))
    found = calibration_of(replace(live_run({}), steps=steps))
    assert (found.step_s, found.first_step_s) == ({2: 0.2, 4: 2.0}, {2: 0.5, 4: 5.0})


def test_the_drift_is_that_of_step_times():
    # 50 % more with four nodes, as much with two.
    assert drift(live_run({4: 0.2, 2: 0.1, 1: 0.3}), live_run({4: 0.3, 2: 0.1})) == pytest.approx(0.25)


def test_a_forecast_uses_only_what_was_known_before_the_run(monkeypatch):
    """Neither the run nor the calibration after it change the forecast; the latter tells the drift."""
    failure = Recovery("failure", 0.0, 2, 0.1, 0.2, 0.3, 0.1, 3e6, "peers", complete=True)

    def validate_with(run_step_s: float, after_step_s: float) -> Validation:
        runs = [live_run({4: 0.2}, (failure,)), live_run({4: after_step_s}, (replace(failure, detect_s=5.0),))]
        calls: list[str] = []

        async def fake_calibrate(*_arguments, **_options):
            calls.append("calibrate")
            return runs.pop(0)

        async def fake_run(*_arguments, **_options):
            calls.append("run")
            return live_run({4: run_step_s}, (replace(failure, busiest_bytes=9e9),))

        def forecast(*arguments):
            calls.append("forecast")
            return predict(*arguments)

        monkeypatch.setattr(validation, "calibrate", fake_calibrate)
        monkeypatch.setattr(validation, "run_locally", fake_run)
        monkeypatch.setattr(validation, "predict", forecast)
        monkeypatch.setattr(validation, "WorkerPool", nullcontext)
        found = validation.validate(tiny_spec(num_steps=None), kills_and_joins(4), speedup=30.0, tolerance=0.3)
        assert calls == ["calibrate", "forecast", "run", "calibrate"]
        return found

    one, other = validate_with(0.2, 0.2), validate_with(0.7, 0.3)
    assert one.predicted == other.predicted
    assert one.calibration.step_s == other.calibration.step_s == {4: pytest.approx(0.2)}
    assert (one.drift, other.drift) == (0.0, pytest.approx(0.5))


def test_a_quiet_run_is_predicted_by_its_step_time():
    spec = tiny_spec(num_steps=None)
    found = predict(*compress(spec, quiet_trace(4), 8640), COSTS, 4)
    # A day in 10 s, 0.5 s a step.
    assert (found.wall_s, found.steps, found.samples) == (pytest.approx(10.0), 20, 20 * spec.global_batch)


def test_a_recovery_is_predicted_by_its_parts():
    events = [Event(0.0, "add", name) for name in "abcd"] + [Event(4.9, "remove", "a"), Event(4.9, "remove", "b")]
    spec = tiny_spec(num_steps=None)
    found = predict(spec, build_trace(events, duration_s=10.0), COSTS, 4)
    # Nine steps of 0.5 s, 0.4 s of the tenth lost; then steps of 0.2 s with two nodes.
    assert found.ledger_s["lost_work"] == pytest.approx(0.4)
    assert found.ledger_s["detect"] == pytest.approx(0.25)
    assert found.ledger_s["reconfigure"] == pytest.approx(0.5)
    left_s = 10.0 - 4.9 - 0.25 - 0.5 - found.ledger_s["transfer"]
    assert found.steps == 9 + int(left_s / 0.2)


def test_a_first_step_after_a_recovery_takes_as_long_as_those_of_the_calibration():
    # 1 s, then 0.5 s: at 4.7 s, 0.2 s of the ninth step are lost. With two nodes 0.6 s, then 0.2 s.
    events = [Event(0.0, "add", name) for name in "abcd"] + [Event(4.7, "remove", "a"), Event(4.7, "remove", "b")]
    measured = replace(COSTS, first_step_s={2: 0.6, 4: 1.0})
    spec = tiny_spec(num_steps=None)
    found = predict(spec, build_trace(events, duration_s=10.0), measured, 4)
    assert found.ledger_s["lost_work"] == pytest.approx(0.2)
    left_s = 10.0 - 4.7 - 0.25 - 0.5 - found.ledger_s["transfer"] - 0.6
    assert found.steps == 8 + 1 + int(left_s / 0.2)
    # A rebalance, as is due every few steps, is no recovery.
    assert spec.job.rebalance_interval_steps < 8


def test_a_failure_loses_more_of_first_steps_that_take_longer():
    # Kills at evenly spread times of a first step of 1 s, and of the two steps of 0.5 s after it, break off half.
    measured = replace(COSTS, first_step_s={4: 1.0})
    names, lost_s = [Event(0.0, "add", name) for name in "abcd"], []
    for part in range(8):
        trace = build_trace([*names, Event((part + 0.5) / 4, "remove", "a")], duration_s=4.0)
        lost_s.append(predict(tiny_spec(num_steps=None), trace, measured, 4).ledger_s["lost_work"])
    assert (np.mean(lost_s[:4]), np.mean(lost_s[4:])) == (pytest.approx(0.5), pytest.approx(0.25))


def test_what_is_left_of_the_replicas_trains_its_share_as_fast_as_was_measured():
    # Two nodes hold the four experts: four nodes are two replicas. Nine steps of 0.5 s, then 0.25 s to detect and 0.5 s
    # to rebuild; from 5.65 s on, two nodes make steps of 0.2 s, with half of the six sequences.
    events = [Event(0.0, "add", name) for name in "abcd"] + [Event(4.9, "remove", "a")]
    spec = tiny_spec("replica-drop", num_steps=None, slots_per_node=2)
    found = predict(spec, build_trace(events, duration_s=10.0), COSTS, 4)
    assert (found.ledger_s["detect"], found.ledger_s["reconfigure"]) == (pytest.approx(0.25), pytest.approx(0.5))
    assert found.steps == 9 + int((10.0 - 5.65) / 0.2)
    assert found.samples == 9 * 6 + (found.steps - 9) * 3


@pytest.mark.parametrize("job", ["live", "testbed-b"])
@pytest.mark.parametrize("system", list(LIVE_SYSTEMS))
def test_every_live_system_has_an_interval_whatever_the_job_says(system, job):
    spec = prepare(tiny_spec(system, job=load_spec(JobSpec, job), num_steps=None))
    assert spec.checkpoint_interval_steps >= 1
    # 20 steps of 0.5 s, less what saves take.
    assert predict(*compress(spec, quiet_trace(4), 8640), COSTS, 4).steps >= 19


def test_new_nodes_are_known_only_once_they_have_started():
    # The node that is lost after 2 s comes back after 3 s: known 0.4 s later, it joins when the collection ends.
    events = [Event(0.0, "add", name) for name in "ab"] + [Event(2.0, "remove", "b"), Event(3.0, "add", "b")]
    spec = tiny_spec("ds", num_steps=None)
    found = predict(spec, build_trace(events, duration_s=10.0), replace(COSTS, start_up_s=0.4), 2)
    assert found.ledger_s["waiting"] == pytest.approx(1.0 - COSTS.detect_s + 0.4 + spec.job.join_wait_s)


def test_costs_counts_and_buckets_stand_beside_the_forecast():
    failure = Recovery("failure", 0.0, 2, 0.5, 1.0, 0.004, 0.25, 2e6, "peers", complete=True)
    join = Recovery("join", 0.0, 4, 0.0, 3.0, 0.006, 0.5, 4e6, "peers", complete=True)
    measured = live_run({4: 0.4, 2: 0.25}, (failure, join))
    ledger_s = {"compute": 15.0, "detect": 45.0, "transfer": 0.004}
    counts = {"failures": 2, "reconfigurations": 2}
    predicted = simulated(measured, samples=800, ledger_s=ledger_s, counts=counts)
    found = {one.name: (one.measured, one.predicted) for one in compare_run(measured, predicted, COSTS)}
    assert found["step time, 4 nodes (s)"] == pytest.approx((0.4, 0.5))
    assert found["detect (s)"] == pytest.approx((0.5, 0.25))
    assert found["rebuild (s)"] == pytest.approx((2.0, 0.5))
    assert found["resume (s)"] == pytest.approx((0.375, 0.35))
    # The forecast's own 4 ms for two, which are 4 MB at 1 GB/s; the run's were 10 ms and 6 MB.
    assert found["transfer (s)"] == pytest.approx((0.005, 0.002))
    assert found["moved (MB)"] == pytest.approx((3.0, 2.0))
    assert found["samples trained"] == (640, 800)
    assert found["ETTR"] == pytest.approx((0.5, 0.25))
    assert found["reconfigurations"] == (0, 2)
    assert found["time in detect (s)"] == (30.0, 45.0)


def test_the_guide_names_every_key_of_the_json_of_live_runs():
    measured = live_run({4: 0.4}, (Recovery("failure", 0.0),))
    for found in (LiveReport({}, measured).to_json(), validated(measured, measured.run).to_json()):
        assert unnamed_keys(json.loads(json_bytes(found)), "live") == set()


def test_every_bucket_is_judged_that_stands_for_a_part_of_the_time():
    ledger_s = dict.fromkeys(BUCKETS, 0.0) | {"compute": 55.0, "restart": 4.0, "transfer": 1.0}
    measured = live_run({4: 0.4}, ledger_s=ledger_s)
    predicted = simulated(measured, ledger_s={"compute": 53.5, "restart": 5.0, "transfer": 0.0, "waiting": 1.5})
    found = validated(measured, predicted, tolerance=0.26)
    # Of 60 s, 1.2 s are 2 %: less is not judged. A forecast of what did not happen fails.
    passed = {one["name"]: one["passed"] for one in found.to_json()["components"]}
    assert (passed["time in compute (s)"], passed["time in restart (s)"]) == (True, True)
    assert (passed["time in transfer (s)"], passed["time in waiting (s)"]) == (None, False)
    assert (found.worst().name, found.has_passed) == ("time in waiting (s)", False)
    assert found.to_json()["worst_error"] is None
    printed = render(validation_parts(found))
    assert re.search(r"time in restart \(s\) +4 +5 +\+25\.0% +passed\n", printed)
    assert re.search(r"time in transfer \(s\) +1 +0 +-100\.0%\n", printed)
    assert re.search(r"time in waiting \(s\) +0 +1\.5 +not measured +failed\n", printed)


@pytest.mark.parametrize(("samples", "code"), [(640, 0), (128, 1)])
def test_a_forecast_that_is_off_fails_by_default(lazsim, monkeypatch, samples, code):
    measured = live_run({4: 0.5})

    def fake_validate(*_arguments, tolerance, **_options):
        return validated(measured, simulated(measured, samples=samples), tolerance)

    monkeypatch.setattr(validation, "validate", fake_validate)
    found = lazsim("validate", "--nodes", 3)
    assert found[0] == code
    assert ("samples trained: measured 640, predicted 128" in found[2]) == bool(code)


@pytest.mark.parametrize(
    ("num_experts", "num_nodes", "is_told"),
    # Two replicas of four experts take eight slots: three nodes have six, four have eight. Those of three experts take
    # six, but Maximum Rank Overlap gives two nodes to the first two experts, and both replicas of the last to one.
    [(4, 3, True), (4, 4, False), (3, 3, True), (3, 4, False)],
)
def test_a_plan_that_cannot_keep_the_fault_threshold_is_told(num_experts, num_nodes, is_told):
    model = msgspec.structs.replace(TINY, num_experts=num_experts)
    spec = tiny_spec(num_steps=None, slots_per_node=2, model=model)
    notes = forecast_notes(spec, predict(*compress(spec, quiet_trace(num_nodes), 8640), COSTS, num_nodes))
    assert len(notes) == is_told
    told = "on 3 nodes of 2 slots, some expert is on fewer than 2 nodes, and on 4 none is: "
    assert all(note.startswith(told) for note in notes)


def test_a_trace_is_played_predicted_and_reported(lazsim, tmp_path, monkeypatch):
    monkeypatch.setattr("lazsim.live.calibration.RETURN_S", 0.3)
    trace = tmp_path / "trace.csv"
    rows = ["0,add,a", "0,add,b", "0,add,c", "200,remove,b", "300,add,b"]
    trace.write_text("\n".join(["# format: lazsim-trace 1", "# duration_s: 600", "time_s,event,nodes", *rows]) + "\n")
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    # A checkpoint of an earlier run must not be gone on from.
    (checkpoints / "step-000000900").mkdir(parents=True)
    (checkpoints / "step-000000900" / "complete.json").write_text('{"step": 900, "job": "another", "blocks": []}')
    options = (*tiny_options(tmp_path), "--speedup", 150, "--checkpoints", checkpoints)
    code, printed, err = lazsim("validate", "--trace", trace, *options, "--out", out, "--json", "--tolerance", 1e-9)
    assert code == 1, err
    found = json.loads(printed)
    assert {one["name"] for one in found["components"]} >= {
        "step time, 3 nodes (s)", "detect (s)", "rebuild (s)", "transfer (s)", "moved (MB)", "resume (s)",
        "samples trained", "ETTR", "failures", "restarts", "time in compute (s)", "time in detect (s)",
    }  # fmt: skip
    for one in found["components"]:
        if one["measured"]:
            assert one["relative_error"] == pytest.approx(one["predicted"] / one["measured"] - 1)
    assert not found["passed"]
    assert (found["measured"]["counts"]["num_failures"], found["predicted"]["counts"]["num_failures"]) == (1, 1)
    assert sum(found["measured"]["ledger_s"].values()) == pytest.approx(found["measured"]["wall_s"])
    assert {path.name for path in out.glob("[!.]*")} == {"report.html", "validate.json", "validate.png", "validate.pdf"}
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000900"]
    assert "the forecast is off by more than 1e-07%" in err


@pytest.mark.parametrize("num_nodes", [3, 4, 5])
def test_the_default_trace_is_hard(num_nodes):
    """Lost time is a third, restarts included, with costs of the size that docs/guides/live.md gives."""
    job = LiveSpec(model=SMALL_MODEL, job=load_spec(JobSpec, "live"))
    spec, trace = compress(job, kills_and_joins(num_nodes), 30.0)
    assert trace.names[0] in {trace.names[node] for node in trace.node[trace.change < 0]}
    costs = Calibration(
        step_s={2: 0.21, 3: 0.26, 4: 0.33},
        detect_s=0.05,
        rebuild_s=0.04,
        resume_s=0.4,
        restart_s=0.4,
        save_s=0.05,
        transfer_bytes_per_s=1e8,
        start_up_s=0.1,
        kill_ages_s=(),
        routing=RecordedRouting(np.array([0]), np.full((1, 4, 8), 128)),
    )
    found = predict(spec, trace, costs, num_nodes)
    assert 0.6 <= found.ettr <= 0.8
    assert found.counts["failures"] == 10
    assert found.counts["restarts"] >= 5
    assert found.counts["reconfigurations"] >= 5


def test_the_page_of_a_validation_names_its_worst_row_and_shows_both_runs():
    states = (State(0.0, 2, 2, 10.0), State(60.0, 2, 2))
    measured = live_run({2: 0.2, 4: 0.5}, states=states)
    # 30 s of detection, predicted as 45 s: half as much again.
    found = validated(measured, simulated(measured, ledger_s={"detect": 45.0}))
    report = validation_report(found)
    assert "is not within 30%: the worst of the judged rows, " in report.answer
    assert "off by +50.0%" in report.answer
    assert [one["name"] for one in report.timeline["systems"]] == ["measured", "predicted"]
    page = report_page(report, validation_parts(found), found.notes, "lazsim validate", validation_files(found))
    assert b"data:image/png;base64," in page


def test_the_picture_of_a_run_of_hours_ends_with_it_and_counts_hours(figures):
    states = (State(0.0, 2, 2, 10.0), State(18_000.0, 2, 2))
    live_figure(live_run({2: 0.2}, states=states, wall_s=36_000.0))
    nodes = figures[0].axes[-1]
    assert (nodes.get_xlabel(), nodes.get_xlim()) == ("time (h)", (0, 10))


def test_a_forecast_of_a_live_run_has_nodes_at_the_places_at_which_the_run_starts_them():
    # "b" is lost before a job would know of it, and "c" has its place; "d" comes when only "b" is gone for good.
    events = [Event(0.0, "add", "a"), Event(50.0, "add", "b"), Event(50.5, "remove", "b"), Event(60.0, "add", "c")]
    trace = build_trace([*events, Event(70.0, "remove", "c"), Event(70.5, "add", "d")], duration_s=99.0)
    later = known_later(trace, start_up_s=1.0)
    assert later.places == {node: trace.places[node] for node in later.names}
