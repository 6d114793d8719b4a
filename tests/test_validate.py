"""``lazsim validate``: calibrations, the prediction made from them, and how both are held against a live run."""

import asyncio
import json
import signal
from dataclasses import replace
from itertools import groupby

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.engine.ledger import BUCKETS
from lazsim.engine.simulate import SystemRun
from lazsim.live.calibration import NUM_ROUNDS, STEPS_PER_COUNT, Calibration, ShrinkAndGrow, calibrate, summarise
from lazsim.live.messages import LiveError
from lazsim.live.record import LiveRun, Recovery, StepRecord
from lazsim.live.validate import compare, compress, kills_and_joins, predict, quiet_trace
from lazsim.live.worker_pool import WorkerPool
from lazsim.routing.table import RecordedRouting
from lazsim.trace import build_trace
from lazsim.trace.table import Event
from tests.live_jobs import TINY, tiny_spec

ROUTING = RecordedRouting(np.array([0]), np.full((1, 2, 4), 10))
COSTS = Calibration(
    step_s={2: 0.2, 4: 0.5},
    drift=0.0,
    detect_s=0.25,
    rebuild_s=0.5,
    restart_s=2.0,
    save_s=0.0,
    transfer_bytes_per_s=1e9,
    routing=ROUTING,
)


def live_run(step_s: dict[int, float], recoveries: tuple[Recovery, ...] = (), **changes) -> LiveRun:
    """Return a run of twenty steps with each number of nodes."""
    steps = [(count, seconds) for count, seconds in step_s.items() for _ in range(20)]
    ledger_s = dict.fromkeys(BUCKETS, 0.0) | {"compute": 30.0, "detect": 30.0}
    run = SystemRun("lazarus", "mro", "lazarus", 60.0, 40, 640, ledger_s, {}, (), ())
    records = tuple(StepRecord(step, float(step), *timed, 1.0) for step, timed in enumerate(steps))
    return LiveRun(replace(run, **changes), records, recoveries, (), ROUTING, ("gloo",))


@pytest.mark.parametrize(
    ("system", "num_nodes", "causes", "counts"),
    [
        # Four experts on three slots a node: two nodes hold them.
        ("lazarus", 3, ["failure", "join"], [3, 2]),
        # Where no node can be spared the job waits for the next one.
        ("lazarus", 2, ["failure"], [2]),
        ("ds", 2, ["failure"], [2]),
    ],
)
def test_a_calibration_loses_nodes_and_gets_them_back(system, num_nodes, causes, counts):
    spec = tiny_spec(system, num_steps=None)
    spec = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, rebalance_interval_steps=1000))
    with WorkerPool() as pool:
        found = asyncio.run(calibrate(spec, num_nodes, pool, "cpu"))
    assert [one.cause for one in found.recoveries if one.complete] == NUM_ROUNDS * causes
    visits = [(count, len(list(steps))) for count, steps in groupby(step.num_nodes for step in found.steps)]
    assert [count for count, _ in visits] == (NUM_ROUNDS * counts + counts[:1] if len(counts) > 1 else counts)
    assert all(number >= STEPS_PER_COUNT for _, number in visits)


def test_a_calibration_whose_worker_ends_by_itself_ends_in_a_message(monkeypatch):
    class Accident(ShrinkAndGrow):
        async def on_event(self, nodes, event, generation, step):
            if (event, step) == ("stepped", 4):
                nodes.pool.signal("c0", signal.SIGKILL)
            await super().on_event(nodes, event, generation, step)

    monkeypatch.setattr("lazsim.live.calibration.ShrinkAndGrow", Accident)
    with WorkerPool() as pool, pytest.raises(LiveError, match="a worker ended by itself"):
        asyncio.run(calibrate(tiny_spec(num_steps=None), 3, pool, "cpu"))


def test_step_times_weigh_calibrations_the_same_and_other_costs_pool_them():
    def failure(detect_s, rebuild_s, transfer_s, num_bytes):
        return Recovery("failure", 0.0, 2, detect_s, rebuild_s, transfer_s, 0.1, num_bytes, complete=True)

    before = live_run({4: 0.2, 2: 0.1}, (failure(0.1, 1.0, 1.0, 3e6), failure(0.2, 2.0, 0.5, 0.0)))
    after = live_run({4: 0.3, 2: 0.1}, (failure(0.6, 6.0, 1.0, 5e6), Recovery("failure", 0.0, 2, 9.0)))
    found = summarise([before, after])
    assert found.step_s == pytest.approx({4: 0.25, 2: 0.1})
    # 50 % more with four nodes, as much with two.
    assert found.drift == pytest.approx(0.25)
    # Medians of 0.1, 0.2, 0.6 and of 1, 2, 6: a recovery that was not completed does not count.
    assert (found.detect_s, found.rebuild_s) == (0.2, 2.0)
    # 8 MB in 2 s; what moved nothing tells nothing about the rate.
    assert found.transfer_bytes_per_s == pytest.approx(4e6)


def test_a_quiet_run_is_predicted_by_its_step_time():
    spec = tiny_spec(num_steps=None)
    found = predict(spec, compress(quiet_trace(4), 8640), COSTS, 4)
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


def test_measured_and_predicted_stand_beside_each_other():
    failure = Recovery("failure", 0.0, 2, 0.5, 1.0, 0.004, 0.25, 2e6, complete=True)
    join = Recovery("join", 0.0, 4, 0.0, 3.0, 0.006, 0.5, 4e6, complete=True)
    measured = live_run({4: 0.4, 2: 0.25}, (failure, join))
    ledger_s = measured.run.ledger_s | {"compute": 15.0, "detect": 45.0}
    predicted = replace(measured.run, samples=800, ledger_s=ledger_s)
    found = {one.name: (one.measured, one.predicted) for one in compare(measured, predicted, COSTS)}
    assert found["step time, 4 nodes (s)"] == pytest.approx((0.4, 0.5))
    assert found["detect (s)"] == pytest.approx((0.5, 0.25))
    assert found["rebuild (s)"] == pytest.approx((1.0, 0.5))
    assert found["resume (s)"] == pytest.approx((0.25, 0.2))
    # Of both moves: 5 ms at the mean, against 3 MB at 1 GB/s.
    assert found["transfer (s)"] == pytest.approx((0.005, 0.003))
    assert found["samples trained"] == (640, 800)
    assert found["ETTR"] == pytest.approx((0.5, 0.25))


def test_a_trace_is_played_predicted_and_reported(lazsim, tmp_path):
    trace, model = tmp_path / "trace.csv", tmp_path / "tiny.toml"
    rows = ["0,add,a", "0,add,b", "0,add,c", "200,remove,b", "300,add,b"]
    trace.write_text("\n".join(["# format: lazsim-trace 1", "# duration_s: 600", "time_s,event,nodes", *rows]) + "\n")
    fields = {name: value for name, value in msgspec.to_builtins(TINY).items() if value is not None}
    model.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    # A checkpoint of an earlier run must not be gone on from.
    (checkpoints / "step-000000900").mkdir(parents=True)
    (checkpoints / "step-000000900" / "complete.json").write_text('{"step": 900, "job": "another", "blocks": []}')
    options = ("--model", model, "--heads", 2, "--slots", 3, "--batch", 6, "--speedup", 100)
    options += ("--checkpoints", checkpoints)
    code, printed, err = lazsim("validate", "--trace", trace, *options, "--out", out, "--json", "--tolerance", 1e-9)
    assert code == 1, err
    found = json.loads(printed)
    assert {one["name"] for one in found["components"] if one["judged"]} >= {
        "step time, 3 nodes (s)", "detect (s)", "rebuild (s)", "transfer (s)", "resume (s)", "samples trained", "ETTR",
    }  # fmt: skip
    for one in found["components"]:
        if one["measured"]:
            assert one["relative_error"] == pytest.approx(one["predicted"] / one["measured"] - 1)
    judged = [abs(one["relative_error"]) for one in found["components"] if one["judged"] and one["measured"]]
    assert found["worst_error"] == pytest.approx(max(judged))
    assert (found["measured"]["counts"]["failures"], found["predicted"]["counts"]["failures"]) == (1, 1)
    assert sum(found["measured"]["ledger_s"].values()) == pytest.approx(found["measured"]["wall_s"])
    assert {path.name for path in out.glob("[!.]*")} == {"validate.json", "validate.png", "validate.pdf"}
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000900"]
    assert f"the worst relative error is {found['worst_error']:.1%}" in err


def test_the_default_trace_loses_rank_0_too_and_keeps_enough_nodes():
    trace = kills_and_joins(4)
    assert trace.names[0] in {trace.names[node] for node in trace.node[trace.change < 0]}
    assert trace.num_alive()[1].min() == 3
