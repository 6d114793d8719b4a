"""A real job under real kills ends with the parameters of an undisturbed one."""

import asyncio
import csv
import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

import torch

from lazsim.engine.held import NOTHING, Held, Planned
from lazsim.engine.protocol import Action, Decision
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.files.folders import hold_folder
from lazsim.files.writing import scratch_folder
from lazsim.live.calibration import Calibration
from lazsim.live.checkpoint import BackgroundWriter, load_blocks, save_blocks
from lazsim.live.controller_client import DisconnectedError
from lazsim.live.coordinator import Coordinator
from lazsim.live.fault_injector import TraceInjector, quiet_trace
from lazsim.live.forecast import predict
from lazsim.live.generation import AbortedError, Generation, Worker
from lazsim.live.messages import (
    Command,
    Heartbeat,
    HeldState,
    Hello,
    LiveError,
    MessageAuth,
    StartGeneration,
    Stop,
    Welcome,
    new_nonce,
    secret_from_environment,
)
from lazsim.live.plan import GenerationPlanner, LastStep, agree_on_step
from lazsim.live.record import Recorder
from lazsim.live.run import live_costs, prepare, run_locally
from lazsim.live.spec import check_model
from lazsim.live.state import DENSE, Block, TrainingState, all_keys, initial_values
from lazsim.live.worker import check_own_address
from lazsim.live.worker_pool import WorkerPool
from lazsim.live.worker_server import MAX_STRANGERS, WorkerConnection, WorkerServer
from lazsim.output.live import live_parts
from lazsim.output.table import render
from lazsim.pytorch.device import CPU
from lazsim.pytorch.group import ProcessGroup
from lazsim.routing.table import RecordedRouting
from lazsim.specs import ModelSpec, load_spec
from lazsim.trace.table import Event, build_trace
from tests.conftest import ROOT
from tests.live_jobs import (
    NUM_STEPS,
    Script,
    Witness,
    descriptors_left,
    largest_difference,
    random_script,
    run_live,
    signal_worker,
    tiny_options,
    tiny_spec,
    train_alone,
)

ROUNDING = 1e-9
"""Of float64 over this many steps; what a lost sample or a gradient counted twice changes is 1e-3, as a test shows."""


@pytest.fixture(scope="module")
def undisturbed(pool):
    """The final state of jobs to which nothing happens, on two nodes."""
    return {top_k: run_live(tiny_spec(top_k=top_k), Script(2), pool)[1] for top_k in (1, 2)}


# Kills of rank 0 and of others, at once and soon, joins and lost connections: in steps and in phases of recoveries.
@pytest.mark.parametrize("seed", [0, 2, 4, 5, 6, 7, 10, 12, 13])
def test_after_any_kills_and_joins_parameters_are_those_of_an_undisturbed_run(seed, pool, undisturbed):
    top_k = 1 + seed % 2
    run, blocks = run_live(tiny_spec(top_k=top_k), random_script(seed), pool)
    assert run.run.steps == NUM_STEPS
    assert largest_difference(blocks, undisturbed[top_k]) < ROUNDING


@pytest.mark.parametrize("seed", [0, 4, 5, 7])
def test_after_any_kills_replicas_left_lose_no_step_and_train_their_share(seed, pool):
    """With two nodes to a replica, or one. The loss is the mean over the sequences that are left."""
    spec = tiny_spec("replica-drop", slots_per_node=3 + seed % 2)
    witness = random_script(seed, Witness)
    run, blocks = run_live(spec, witness, pool)
    trained = witness.sequences
    assert largest_difference(blocks, train_alone(spec, trained)) < ROUNDING
    assert run.run.steps == NUM_STEPS
    assert abs(run.run.samples - sum(len(trained[step]) for step in trained)) <= spec.global_batch


def test_a_lost_replica_leaves_a_smaller_batch_and_returns_by_a_copy(pool):
    # Two replicas of two nodes: the first loses a node and the other one waits with it. Six sequences become three.
    acts = {("stepped", 4): [("kill", "n0")], ("stepped", 7): [("start", "m0")]}
    witness = Witness(4, acts)
    run, blocks = run_live(tiny_spec("replica-drop", num_steps=NUM_STEPS), witness, pool)
    assert witness.num_checked >= 1
    assert (run.run.counts["lost_steps"], run.run.counts["restarts"]) == (0, 0)
    assert {len(sequences) for sequences in witness.sequences.values()} == {3, 6}
    assert {step.num_nodes for step in run.steps} == {2, 4}
    assert run.run.samples < 6 * NUM_STEPS
    assert largest_difference(blocks, train_alone(tiny_spec("replica-drop"), witness.sequences)) < ROUNDING


@pytest.mark.parametrize("seed", range(4))
def test_after_any_kills_a_job_goes_back_to_a_save_that_was_written_behind_training(seed, pool, undisturbed):
    witness = random_script(seed, Witness)
    run, blocks = run_live(tiny_spec("async-checkpoint", interval=3), witness, pool)
    assert run.run.counts["checkpoints"] > 0
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_what_is_written_behind_training_is_waited_for_and_its_error_comes_to_light():
    writer, may_end, written = BackgroundWriter(), threading.Event(), []
    values = {(-1, -1): torch.ones(3)}
    writer.start(values, lambda copies: (may_end.wait(), written.append(copies[-1, -1].tolist())))
    writer.wait_for_copy()
    # What changes after the copy is not saved.
    values[-1, -1].zero_()
    assert written == []
    threading.Timer(0.05, may_end.set).start()
    writer.wait()
    assert written == [[1, 1, 1]]

    def fail(_copies):
        raise LazsimError("the disk is full")

    writer.start(values, fail)
    with pytest.raises(LazsimError, match="the disk is full"):
        writer.wait()


@pytest.mark.parametrize(("behind", "stood_still_s"), [(True, 3.0), (False, 10.0)])
def test_only_the_wait_for_the_save_before_stops_training_where_saves_are_behind_it(behind, stood_still_s, monkeypatch):
    now_s = 0.0

    def take(seconds):
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr("lazsim.live.generation.time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr("lazsim.live.generation.save_blocks", lambda *_: take(7.0))
    rank = SimpleNamespace(
        # To copy the state begins in the next step, and is part of its time.
        _writer=SimpleNamespace(wait=lambda: take(3.0), start=lambda *_: take(5.0)),
        _client=SimpleNamespace(send=lambda _message: None),
        _state=SimpleNamespace(step=4, blocks={}),
        _spec=tiny_spec(),
        _start=SimpleNamespace(generation=1, draft="aa"),
    )
    assert Generation._save(rank, behind=behind) == stood_still_s


def test_float32_runs_agree_to_float32_summation_error(pool):
    spec = tiny_spec(dtype="float32", epsilon=1e-4)
    _, calm = run_live(spec, Script(2), pool)
    run, blocks = run_live(spec, Script(4, {("stepped", 5): [("kill", "n0")]}), pool)
    assert run.run.counts["failures"] == 1
    # A tie of the gate that rounding turned the other way would show: 1e-3 and more. None does with these sizes.
    assert largest_difference(blocks, calm) < 1e-5


def test_the_property_would_notice_a_single_sample_trained_twice(pool, undisturbed):
    _, other = run_live(tiny_spec(seed=1), Script(2), pool)
    assert largest_difference(other, undisturbed[1]) > 1e-3


@pytest.mark.parametrize("system", ["ds", "ds-ft", "dropless"])
def test_expert_parallel_systems_train_the_same_model(system, pool, undisturbed):
    run, blocks = run_live(tiny_spec(system, interval=4), Script(4, {("stepped", 6): [("kill", "n0")]}), pool)
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING
    assert run.run.counts["failures"] == 1


def last_steps(run):
    """Steps that a job may have done before it went back: a worker may be killed before it reports its last one."""
    numbers = [one.step for one in run.steps]
    reported = next(before for before, after in itertools.pairwise(numbers) if after <= before)
    return reported - 1, reported, reported + 1


def test_ds_restarts_from_its_last_checkpoint_and_lazarus_loses_no_step(pool):
    kill = {("stepped", 6): [("kill", "n0")]}
    ds, _ = run_live(tiny_spec("ds", interval=4), Script(4, dict(kill)), pool)
    lazarus, _ = run_live(tiny_spec("lazarus", slots_per_node=4), Script(4, dict(kill)), pool)
    assert (ds.run.counts["restarts"], lazarus.run.counts["restarts"]) == (1, 0)
    for run in (ds.run, lazarus.run):
        ends_s = [*(state.time_s for state in run.states[1:]), run.wall_s]
        spans_s = [end_s - state.time_s for state, end_s in zip(run.states, ends_s, strict=True)]
        kept = sum(state.samples_per_s * span_s for state, span_s in zip(run.states, spans_s, strict=True))
        lost = sum(state.lost_samples_per_s * span_s for state, span_s in zip(run.states, spans_s, strict=True))
        # A worker may be killed before it reports its last step.
        per_step = run.samples / run.steps
        assert round(kept / per_step) in (run.steps - 1, run.steps)
        assert round(lost / per_step) in (run.counts["lost_steps"] - 1, run.counts["lost_steps"])
    # Saved after steps 4 and 8; on a busy machine the kill comes later than it was asked for, after step 6.
    assert {reached - ds.run.counts["lost_steps"] for reached in last_steps(ds)} & {4, 8}
    assert lazarus.run.counts["lost_steps"] == 0
    # As in a simulation, a restart is a restart from the first, and a reconfiguration none.
    assert ds.run.ledger_s["restart"] > ds.run.ledger_s["reconfigure"] == 0
    assert lazarus.run.ledger_s["reconfigure"] > lazarus.run.ledger_s["restart"] == 0


@pytest.mark.parametrize(("lost", "num_restarts"), [("n0", 1), ("n1", 0)])
def test_a_live_job_loses_the_experts_that_the_simulation_loses(lost, num_restarts, pool, monkeypatch):
    """Of three nodes the first alone has experts 0 and 1, whichever worker comes first; both others have 2 and 3."""
    # Workers that were killed are not waited for.
    monkeypatch.setattr("lazsim.live.coordinator.RECONNECT_GRACE_S", {"cpu": 60.0})
    spec = tiny_spec(slots_per_node=2, interval=4)
    run, _ = run_live(spec, Script(3, {("stepped", 6): [("kill", lost)]}), pool)
    assert run.run.counts["restarts"] == num_restarts
    assert run.run.wall_s < 60.0

    events = [Event(0.0, "add", name) for name in ("n0", "n1", "n2")] + [Event(6.5, "remove", lost)]
    routing = RecordedRouting(np.array([0]), np.ones((1, 2, 4), dtype=np.int64))
    costs = Calibration({2: 1.0, 3: 1.0}, 0.1, 0.1, 1.0, 0.1, 0.1, 1e9, 0.0, (), routing)
    assert predict(spec, build_trace(events, duration_s=20.0), costs, 3).counts["restarts"] == num_restarts


def decide_among(names: list[str], places: dict[str, int]) -> tuple[Coordinator, list[WorkerConnection]]:
    """Return a coordinator, and its workers in the order in which they came."""
    server = WorkerServer(tiny_spec(), b"")
    coordinator = Coordinator(server, live_costs(tiny_spec(), 4), len(names), 1.0)
    coordinator.place_of = places.__getitem__
    server.workers += [WorkerConnection(name, name, None, None, HeldState(), 0.0) for name in names]
    return coordinator, server.workers


def places(workers: list[WorkerConnection]) -> Held:
    """Return workers in the places of a plan for them."""
    system, costs = SYSTEMS["lazarus"], live_costs(tiny_spec(), 4)
    return Held.full(workers, Planned(len(workers), 0, lambda num, _step: system.plan_evenly(costs, num)))


def test_workers_are_taken_in_the_order_of_their_places_as_in_a_simulation():
    coordinator, _ = decide_among(["c", "a", "b"], {"a": 0, "b": 1, "c": 2})
    decision = coordinator._decide_now()
    assert [worker.name for worker in decision.nodes] == ["a", "b", "c"]


def test_survivors_are_taken_in_the_order_of_the_last_plan():
    coordinator, workers = decide_among(["a", "b", "c"], {"a": 0, "b": 1, "c": 2})
    a, b, c = workers
    coordinator._members, coordinator._held = [a, b, c], places([c, a, b])
    coordinator.has_trained = True
    for worker in workers:
        worker.held = HeldState(5, False, frozenset(range(9)))
    a.alive = False
    workers.remove(a)
    assert coordinator._decide_now().nodes == (c, b)


@pytest.mark.parametrize(("num_more", "said"), [(2, ""), (1, "2 of 3 workers came, none in the last 0.3 s")])
def test_the_first_workers_are_waited_for_as_long_as_another_one_comes_in_time(num_more, said):
    coordinator, workers = decide_among(["a", "b", "c"], {})
    coordinator._start_timeout_s = 0.3
    others = [workers.pop() for _ in range(2)]

    async def come() -> None:
        # All together take longer than the longest wait.
        for worker in others[:num_more]:
            await asyncio.sleep(0.2)
            workers.append(worker)
            coordinator.server.notify()
        if num_more == len(others):
            coordinator.server.stop()

    async def lead() -> None:
        await asyncio.gather(coordinator.run(), come())

    with pytest.raises(LiveError, match=f"^{said}$") if said else nullcontext():
        asyncio.run(lead())


def test_a_job_of_more_nodes_than_descriptors_allow_is_refused_before_one_starts(pool, monkeypatch):
    # Not enough for strangers.
    monkeypatch.setattr("lazsim.live.worker_server.free_descriptors", lambda: MAX_STRANGERS - 1)
    script = Script(2)
    with pytest.raises(LazsimError, match=r"^`nodes` 2: descriptors suffice for 0 workers; raise `ulimit -n`$"):
        run_live(tiny_spec(), script, pool)
    assert script.nodes is None


def test_a_job_that_has_lost_states_does_not_wait_for_workers_that_only_start(monkeypatch):
    monkeypatch.setattr("lazsim.live.coordinator.RECONNECT_GRACE_S", {"cpu": 60.0})
    coordinator, workers = decide_among(["a", "b"], {"a": 0, "b": 1})
    coordinator._held, coordinator.has_trained = places(list(workers)), True
    # Both were killed, and another one starts.
    coordinator.may_return = {"c"}.__contains__
    for worker in workers:
        worker.alive = False
    workers.clear()

    async def decide() -> Decision:
        async with asyncio.timeout(5.0):
            return await coordinator._decide()

    assert asyncio.run(decide()).action is Action.WAIT


def end_a_pause(monkeypatch, stopped: bool) -> list[str]:
    """End a generation in which one member pauses, and a write of the other hangs; return those cut off."""
    monkeypatch.setattr("lazsim.live.coordinator.PREPARE_TIMEOUT_S", 0.01)
    coordinator, workers = decide_among(["a", "b"], {"a": 0, "b": 1})
    cut = []
    for worker in workers:
        worker.writer = SimpleNamespace(transport=SimpleNamespace(abort=partial(cut.append, worker.name)))
    coordinator._members, coordinator._pause_cause, workers[1].stage = list(workers), "join", "ready"
    if stopped:
        coordinator.server.stop("the disk is full")

    async def handle() -> None:
        assert not workers[1].alive

    monkeypatch.setattr(coordinator, "_handle_failure", handle)

    async def end() -> None:
        async with asyncio.timeout(5.0):
            await coordinator._end_generation()

    asyncio.run(end())
    return cut


def test_a_member_that_is_alive_and_never_pauses_counts_as_dead(monkeypatch):
    assert end_a_pause(monkeypatch, stopped=False) == ["b"]


def test_no_member_is_cut_off_before_it_hears_why_the_job_is_over(monkeypatch):
    assert end_a_pause(monkeypatch, stopped=True) == []


@pytest.mark.parametrize("ended", [AbortedError(), RuntimeError("a peer is lost"), DisconnectedError()], ids=repr)
def test_a_worker_that_trains_hears_why_the_job_is_over(monkeypatch, ended):
    def train():
        raise ended

    def send(message):
        if not isinstance(message, Hello):
            raise DisconnectedError

    monkeypatch.setattr("lazsim.live.generation.Generation", lambda *_: SimpleNamespace(run=train))
    inbox = queue.Queue()
    start = StartGeneration(1, None, reuse=False, draft="")
    for message in (Welcome(prepare(tiny_spec())), start, Command(1, "abort"), Stop("the disk is full"), None):
        inbox.put(message)
    # The controller has closed the connection by the time that the worker notices.
    client = SimpleNamespace(inbox=inbox, is_over=lambda _: True, send=send, start_heartbeats=lambda _: None)
    assert Worker(("127.0.0.1", 0), "a", b"", "", 0)._serve(client) == "the disk is full"


def in_training(system):
    """Return the record of a job that trains from time 0 on, and its clock."""
    clock = SimpleNamespace(now_s=0.0)
    record = Recorder(system, None, 6, lambda: clock.now_s)
    record.state()
    record.enter("compute")
    return record, clock


def booked(record):
    """Return the seconds of each bucket that has some."""
    return {name: seconds for name, seconds in record.ledger.seconds().items() if seconds}


def test_the_work_that_a_failure_loses_begins_after_the_save_before_it():
    record, clock = in_training("replica-drop")
    clock.now_s = 1.0
    record.step(1, 1.0, 0.0, [])
    clock.now_s = 1.3
    record.checkpoint(1, 0.3, 0.3)
    clock.now_s = 1.9
    record.fail(1.8)
    assert booked(record) == pytest.approx({"compute": 1.0, "checkpoint": 0.3, "lost_work": 0.5})


@pytest.mark.parametrize(("saves", "bucket"), [(True, "checkpoint"), (False, "lost_work")])
def test_a_save_that_a_failure_breaks_off_stays_one_and_a_step_is_lost(saves, bucket):
    record, clock = in_training("replica-drop")
    clock.now_s = 1.0
    record.step(1, 1.0, 0.0, [], saves=saves)
    clock.now_s = 1.4
    record.fail(1.3)
    assert booked(record) == pytest.approx({"compute": 1.0, bucket: 0.3})


def test_a_failure_in_the_middle_of_a_recovery_loses_no_work_once_more():
    record, clock = in_training("lazarus")
    clock.now_s = 1.0
    record.step(1, 1.0, 0.0, [])
    clock.now_s = 1.4
    record.fail(1.25)
    record.enter("transfer")
    clock.now_s = 5.0
    record.fail(4.75)
    assert booked(record) == pytest.approx({"compute": 1.0, "lost_work": 0.25, "detect": 0.15, "transfer": 3.35})


def test_a_save_that_others_end_after_a_failure_is_booked_once():
    record, clock = in_training("replica-drop")
    clock.now_s = 1.0
    record.step(1, 1.0, 0.0, [], saves=True)
    clock.now_s = 1.4
    record.fail(1.25)
    clock.now_s = 2.0
    record.checkpoint(1, 1.0, 1.0)
    record.enter("reconfigure")
    assert booked(record) == pytest.approx({"compute": 1.0, "checkpoint": 0.25, "detect": 0.75})


def test_a_return_to_a_checkpoint_loses_the_steps_since_it():
    record, clock = in_training("ds")
    for step in (1, 2, 3):
        clock.now_s += 1.0
        record.step(step, 1.0, 0.0, [])
        if step == 2:
            # That of the first step, written behind the second.
            record.checkpoint(1, 0.5, 0.0)
    record.fail(3.0)
    record.roll_back(1, 2)
    assert booked(record) == pytest.approx({"compute": 1.0, "lost_work": 2.0})


def test_the_age_of_a_failure_is_that_of_the_youngest_worker_killed():
    record = Recorder("ds", None, 6, lambda: 9.0)
    record.started_s |= {"a": 1.0, "b": 3.0}
    record.killed_s |= {"a": 5.0, "b": 5.0}
    assert record.youngest_s(["a", "b", "lost by itself"]) == 2.0


def test_ranks_that_stay_keep_their_order_whatever_the_plan_binds_them_to():
    _, workers = decide_among(["a", "b", "c"], {})
    for worker in workers:
        worker.held = HeldState(5, False, frozenset(range(9)))
    a, b, c = workers
    costs = live_costs(tiny_spec(), 4)
    decision = Decision(Action.RECONFIGURE, "peers", (c, a, b), 3)
    load_LE = np.ones((2, 4), dtype=np.int64)
    plan = GenerationPlanner(SYSTEMS["lazarus"], costs, 6).plan(decision, NOTHING, LastStep(5), load_LE, [b, c, a])
    assert plan.members == [b, c, a]
    assert set(plan.held.nodes) == {a, b, c}
    slots = SYSTEMS["lazarus"].plan_evenly(costs, 3).slots_LNS
    for node, holder in enumerate(plan.held.nodes):
        rank = plan.members.index(holder)
        assert [layer[rank] for layer in plan.plan.slots] == slots[:, node].tolist()


def test_a_plan_is_made_for_the_loads_of_its_step():
    coordinator, _ = decide_among([], {})
    assert coordinator._loads(0).tolist() == [[1] * 4] * 2
    loads = [[4, 3, 2, 1], [1, 2, 3, 4]]
    coordinator.record.loads = {5: loads, 6: [[9, 9, 9, 9]] * 2}
    assert coordinator._loads(5).tolist() == loads
    # Rank 0 was lost before it could report the last step.
    assert coordinator._loads(7).tolist() == [[9] * 4] * 2


def test_an_expert_lost_everywhere_comes_back_from_the_checkpoint(pool, undisturbed):
    # Four experts on two nodes of two slots: every expert is on one node only.
    spec = tiny_spec("lazarus", interval=4, slots_per_node=2)
    acts = {("stepped", 6): [("kill", "n0"), ("start", "m0")]}
    run, blocks = run_live(spec, Script(2, acts), pool)
    assert run.run.counts["restarts"] == 1
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_a_job_without_checkpoints_begins_again_and_ends_as_an_undisturbed_one(pool, undisturbed):
    spec = tiny_spec("lazarus", interval=0, slots_per_node=2)
    run, blocks = run_live(spec, Script(2, {("stepped", 6): [("kill", "n0"), ("start", "m0")]}), pool)
    assert run.run.counts["restarts"] == 1
    assert run.run.counts["lost_steps"] in last_steps(run)
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


@pytest.mark.parametrize("phase", ["entered", "rebuilt"])
def test_a_kill_in_the_middle_of_a_recovery_is_survived(phase, pool, undisturbed):
    acts = {("stepped", 5): [("kill", "n1")], (phase, 2): [("kill", "n0")]}
    run, blocks = run_live(tiny_spec(slots_per_node=4), Script(4, acts), pool)
    assert run.run.counts["failures"] >= 2
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


@dataclass
class LosesAtPause(Script):
    """Kills nodes when training has paused. It stands still while nodes start, which may take longer than all steps."""

    victims: tuple[str, ...] = ()

    async def on_event(self, nodes, event, generation, step):
        starting = {act[1] for act in self.acts.get((event, step), ()) if act[0] == "start"}
        if starting:
            signal_worker(nodes.pool, "n1", signal.SIGSTOP)
        await super().on_event(nodes, event, generation, step)
        if starting:
            server = nodes.coordinator.server
            await server.wait_until(lambda: starting <= {worker.name for worker in server.workers}, 20)
            signal_worker(nodes.pool, "n1", signal.SIGCONT)
        # A worker that comes late may pause the job before.
        if event == "paused" and self.victims and not self.acts:
            server, victims, self.victims = nodes.coordinator.server, set(self.victims), ()
            for node in victims:
                nodes.kill(node)
            await server.wait_until(lambda: victims.isdisjoint(worker.name for worker in server.workers))


@pytest.mark.parametrize("system", ["ds", "ds-ft", "lazarus"])
def test_a_job_trains_on_where_the_nodes_that_it_paused_for_go(system, pool, undisturbed):
    # A group of experts is two nodes: one would not be waited for.
    joins = {("stepped", 4): [("start", "m0"), ("start", "m1")]}
    script = LosesAtPause(2, joins, victims=("m0", "m1"))
    run, blocks = run_live(tiny_spec(system, num_steps=NUM_STEPS), script, pool)
    assert script.victims == ()
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING
    counts = {name: run.run.counts[name] for name in ("failures", "reconfigurations", "restarts", "lost_steps")}
    assert counts == dict.fromkeys(counts, 0)


def test_a_member_that_is_lost_in_a_pause_is_a_failure(pool, undisturbed):
    script = LosesAtPause(2, {("stepped", 4): [("start", "m0")]}, victims=("n0",))
    run, blocks = run_live(tiny_spec(slots_per_node=4), script, pool)
    assert script.victims == ()
    assert (run.run.counts["failures"], run.run.counts["restarts"]) == (1, 0)
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_a_hung_worker_counts_as_dead(pool, undisturbed):
    def hang(nodes):
        signal_worker(pool, "n1", signal.SIGSTOP)

    spec = tiny_spec(slots_per_node=4, silence_s=1.0, heartbeat_s=0.1)
    run, blocks = run_live(spec, Script(3, {("stepped", 4): [("call", hang)]}), pool)
    assert run.run.counts["failures"] == 1
    # Its silence is the time to notice it, and no lost work.
    assert run.recoveries[0].detect_s > spec.silence_s
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


@pytest.mark.parametrize("dropped", [["n1"], ["n0", "n1", "n2"]])
def test_lost_connections_cost_no_step(dropped, pool, undisturbed):
    # Three nodes of two slots hold each of four experts, and not twice all of them: whoever is cut off must come back.
    acts = {("stepped", 6): [("drop", node) for node in dropped]}
    run, blocks = run_live(tiny_spec(slots_per_node=2), Script(3, acts), pool)
    assert (run.run.counts["lost_steps"], run.run.counts["restarts"]) == (0, 0)
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_the_time_of_checkpoints_is_booked_also_when_a_node_dies_right_after_one(pool):
    acts = {("stepped", step): [("kill soon", (0.0, node))] for step, node in ((4, "n0"), (8, "n1"))}
    run, _ = run_live(tiny_spec(interval=2, slots_per_node=4), Script(4, acts), pool)
    assert run.run.counts["checkpoints"] >= 4
    assert run.run.ledger_s["checkpoint"] == pytest.approx(sum(run.save_s), rel=0.5)
    assert sum(run.run.ledger_s.values()) == pytest.approx(run.run.wall_s, abs=0.05)


def test_a_controller_that_was_held_up_counts_no_worker_as_dead(pool):
    spec = tiny_spec(silence_s=1.0, heartbeat_s=0.1)
    run, _ = run_live(spec, Script(2, {("stepped", 4): [("call", lambda _: time.sleep(2.0))]}), pool)
    assert (run.run.counts["failures"], run.run.steps) == (0, NUM_STEPS)


def test_a_worker_that_comes_before_the_first_step_joins(pool):
    run, _ = run_live(tiny_spec(), Script(2, {("entered", 1): [("start", "early")]}), pool)
    assert run.steps[-1].num_nodes == 3


def test_a_job_without_workers_ends_in_a_message(pool):
    # One worker holds all four experts, so that the job goes on where it knows of the first death before the second.
    acts = {("stepped", 4): [("kill", "n0"), ("kill", "n1")]}
    with pytest.raises(LiveError, match="all workers have ended"):
        run_live(tiny_spec(slots_per_node=4), Script(2, acts), pool)


def test_a_job_with_too_few_workers_ends_in_a_message(pool):
    # Four experts on two nodes of two slots: one of them does not hold all.
    acts = {("stepped", 4): [("kill", "n0")]}
    with pytest.raises(LiveError, match="too few to train: 1 worker, and none is to come"):
        run_live(tiny_spec(slots_per_node=2), Script(2, acts), pool)


def test_workers_that_die_before_the_first_step_are_not_waited_for(pool, tmp_path):
    spec = tiny_spec(num_steps=4, checkpoint_folder=str(tmp_path))
    asyncio.run(run_locally(spec, Script(2), pool, max_nodes=2))
    (tmp_path / "step-000000004" / "dense.npy").write_bytes(b"")
    spec = msgspec.structs.replace(spec, num_steps=8)
    quiet = TraceInjector(quiet_trace(2), is_awaited=False)
    with pytest.raises(LazsimError, match=r"dense\.npy: no float64 array"):
        asyncio.run(run_locally(spec, quiet, pool, max_nodes=2))


class KillsFromOutside(TraceInjector):
    """A trace, and workers that others kill when an event happens."""

    def __init__(self, trace, event, step, victims):
        super().__init__(trace)
        self._when, self._victims = (event, step), victims

    async def on_event(self, nodes, event, generation, step):
        await super().on_event(nodes, event, generation, step)
        if (event, step) == self._when:
            for name in self._victims:
                signal_worker(nodes.pool, name, signal.SIGKILL)


@pytest.mark.parametrize(
    ("event", "step", "victims"), [("stepped", 3, ["a", "b"]), ("entered", 0, ["b"])], ids=["training", "preparing"]
)
def test_a_job_that_others_take_nodes_from_waits_for_those_that_its_trace_brings(event, step, victims, pool):
    # Four experts on two nodes of two slots: one node does not hold all.
    events = [Event(0.0, "add", "a"), Event(0.0, "add", "b"), Event(3.0, "add", "c"), Event(3.0, "add", "d")]
    # The steps end the job long before the trace does, however slow the machine is.
    play = KillsFromOutside(build_trace(events, duration_s=120.0, name="taken"), event, step, victims)
    spec = msgspec.structs.replace(tiny_spec(slots_per_node=2), num_steps=6)
    run = asyncio.run(run_locally(spec, play, pool, max_nodes=4))
    assert run.run.ledger_s["waiting"] > 0.5
    assert run.steps[-1].num_nodes >= 2


@pytest.mark.parametrize(("system", "num_restarts", "trained_on"), [("ds", 1, {2}), ("lazarus", 0, {1, 2})])
def test_a_restart_waits_for_min_nodes_and_what_goes_on_without_one_does_not(system, num_restarts, trained_on, pool):
    # One worker holds all four experts; the other one is killed, and a third comes later.
    events = [Event(0.0, "add", "a"), Event(0.0, "add", "b"), Event(2.0, "add", "c")]
    play = KillsFromOutside(build_trace(events, duration_s=120.0, name="taken"), "stepped", 3, ["b"])
    spec = tiny_spec(system, slots_per_node=4, num_steps=12)
    spec = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, min_nodes=2))
    run = asyncio.run(run_locally(spec, play, pool, max_nodes=3))
    assert run.run.counts["restarts"] == num_restarts
    assert {step.num_nodes for step in run.steps} <= trained_on
    assert run.run.steps == 12


def test_too_few_workers_for_a_restart_end_a_job_that_waits_for_min_nodes(pool):
    spec = tiny_spec("ds", slots_per_node=4)
    spec = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, min_nodes=2))
    with pytest.raises(LiveError, match="too few to train: 1 worker, and none is to come"):
        run_live(spec, Script(2, {("stepped", 4): [("kill", "n0")]}), pool)


def test_a_worker_that_ends_before_the_first_step_is_not_waited_for(pool):
    script = Script(2)
    begin = script.begin
    script.begin = lambda nodes: (begin(nodes), signal_worker(nodes.pool, "n1", signal.SIGKILL))
    run, _ = run_live(tiny_spec(slots_per_node=4), script, pool)
    assert {step.num_nodes for step in run.steps} == {1}


def test_a_job_whose_nodes_are_all_taken_goes_on_to_the_end_of_the_trace(pool):
    events = [Event(0.0, "add", "a"), Event(0.0, "add", "b"), Event(1.0, "remove", "a"), Event(1.2, "remove", "b")]
    play = TraceInjector(build_trace(events, duration_s=2.5, name="all-gone"))
    spec = msgspec.structs.replace(tiny_spec(slots_per_node=2), num_steps=None)
    run = asyncio.run(run_locally(spec, play, pool, max_nodes=2))
    # Of 2.5 seconds, 1.3 pass after both are gone.
    assert run.run.steps > 0
    assert run.run.ledger_s["waiting"] > 1


@pytest.mark.parametrize("system", ["lazarus", "async-checkpoint"])
def test_a_checkpoint_that_cannot_be_written_ends_in_a_message_and_is_no_failure_of_a_node(system, pool, tmp_path):
    folder = tmp_path / "checkpoints"
    script = Script(2, {("stepped", 2): [("call", lambda _nodes: (shutil.rmtree(folder), folder.write_text("")))]})
    spec = tiny_spec(system, interval=8, checkpoint_folder=str(folder))
    with pytest.raises(LiveError, match=r"^/.*step-000000008\.\w+/.*npy: cannot be written \(Not a directory\)"):
        asyncio.run(run_locally(spec, script, pool, max_nodes=2))
    assert script.nodes.coordinator.record.log.counts["failures"] == 0


def test_a_checkpoint_that_cannot_take_its_name_ends_in_a_message(pool):
    def spoil(nodes):
        (Path(nodes.coordinator.spec.checkpoint_folder) / "step-000000008").write_text("no folder")

    with pytest.raises(LiveError, match=r"the checkpoint of step 8 cannot be completed: .*\(Not a directory\); move"):
        run_live(tiny_spec(interval=8), Script(2, {("stepped", 2): [("call", spoil)]}), pool)


def test_a_job_that_diverges_ends_in_a_message(pool):
    with pytest.raises(LiveError, match=r"^step \d+: the loss is no finite number: training has diverged"):
        run_live(tiny_spec(learning_rate=1e15), Script(2), pool)


def test_the_time_in_which_workers_end_is_no_part_of_a_run(pool, monkeypatch):
    coordinators, ended, close = [], [], WorkerServer.close

    async def close_and_look(server):
        ended.append(coordinators[0].result)
        await close(server)

    monkeypatch.setattr(WorkerServer, "close", close_and_look)
    script = Script(2, {("stepped", 3): [("call", lambda nodes: nodes.coordinator.server.stop("broken off"))]})
    with pytest.raises(LiveError, match="broken off"):
        asyncio.run(run_locally(tiny_spec(), script, pool, max_nodes=2, on_start=coordinators.append))
    run = coordinators[0].result.run
    assert ended == [coordinators[0].result]
    assert (run.steps >= 3, run.states[-1].num_alive) == (True, 2)
    assert sum(run.ledger_s.values()) == pytest.approx(run.wall_s, rel=1e-12)


def test_a_recovery_that_the_end_breaks_off_has_no_time_to_resume():
    record, clock = in_training("lazarus")
    clock.now_s = 1.0
    record.step(1, 1.0, 0.0, [[6]])
    record.recovery("failure").detect_s = 0.25
    row = render(live_parts(record.result(1))).splitlines()[-1]
    assert row.split() == ["failure", "1.0", "s", "0", "250.0", "ms", "0.0", "ms", "0.0", "ms", "-"]


def test_a_job_whose_trace_begins_without_nodes_waits_for_them(pool):
    events = [Event(0.1, "add", "a"), Event(0.2, "add", "b"), Event(2.0, "remove", "b")]
    play = TraceInjector(build_trace(events, duration_s=2.5, name="late"))
    spec = msgspec.structs.replace(tiny_spec(), num_steps=None)
    run = asyncio.run(run_locally(spec, play, pool, max_nodes=2))
    assert run.run.ledger_s["waiting"] > 0.1
    assert run.run.steps > 0


def live_command(folder: Path, *options: object) -> list[object]:
    """Return the command of a live job of a tiny model on two nodes."""
    return [sys.executable, "-m", "lazsim", "live", "--nodes", 2, *tiny_options(folder), *options]


def worker_command(address: str, name: str) -> list[str]:
    """Return the command of a worker that soon gives up on a controller that does not welcome it."""
    script = "from lazsim.live import generation, worker; generation.RECONNECT_TIMEOUT_S = 0.5; worker.main()"
    return [sys.executable, "-c", script, "--controller", address, "--name", name]


def test_workers_started_elsewhere_are_led(tmp_path, start_process, run_process):
    secret = "ab" * 32
    environment = {**os.environ, "LAZSIM_LIVE_SECRET": secret}
    command = live_command(tmp_path, "--listen", "127.0.0.1:0", "--steps", 3, "--checkpoints", tmp_path, "--json")
    leader = start_process(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    address = leader.stderr.readline().split()[-1]
    workers = [start_process(*worker_command(address, name), env=environment) for name in ("a", "b")]
    other = environment | {"LAZSIM_LIVE_SECRET": "cd" * 32}
    stranger = run_process(*worker_command(address, "c"), env=other, check=False)
    assert stranger.returncode == 1
    assert "must be the same" in stranger.stderr or "no controller" in stranger.stderr
    out, _ = leader.communicate(timeout=600)
    assert [one.wait(timeout=600) for one in workers] == [0, 0]
    assert json.loads(out)["steps"] == 3
    assert (tmp_path / "step-000000003" / "complete.json").exists()


def job_that_saves_each_step(folder: Path) -> Path:
    job = folder / "job.toml"
    text = (ROOT / "lazsim" / "catalog" / "jobs" / "testbed-a.toml").read_text()
    job.write_text(re.sub(r"lazarus = \d+", "lazarus = 1", text))
    return job


def test_workers_started_elsewhere_end_when_their_controller_is_killed(tmp_path, start_process):
    environment = {**os.environ, "LAZSIM_LIVE_SECRET": "ab" * 32}
    command = live_command(tmp_path, "--listen", "127.0.0.1:0", "--steps", 100000)
    command += ["--job", job_that_saves_each_step(tmp_path), "--checkpoints", tmp_path / "checkpoints"]
    leader = start_process(*command, env=environment, stderr=subprocess.PIPE)
    address = leader.stderr.readline().split()[-1]
    workers = [start_process(*worker_command(address, name), env=environment) for name in ("a", "b")]
    wait_until(lambda: list(tmp_path.glob("checkpoints/step-*")))
    leader.kill()
    assert [one.wait(timeout=600) for one in workers] == [1, 1]


def test_a_worker_that_comes_after_the_last_step_is_sent_away(pool):
    """Started at the last step: it must not keep the controller from ending."""
    run, _ = run_live(tiny_spec(), Script(2, {("stepped", NUM_STEPS): [("start", "late")]}), pool)
    assert run.run.steps == NUM_STEPS


def test_more_nodes_than_sequences_are_no_harm(pool, undisturbed):
    # Six sequences: the seventh and the eighth node route none, and compute what others send them. All are there at the
    # first step: when workers that start meanwhile join is up to the machine.
    run, blocks = run_live(tiny_spec(), Script(8), pool)
    assert {step.num_nodes for step in run.steps} == {8}
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_a_call_that_waits_for_a_lost_rank_can_be_aborted():
    """One of two ranks meets the other and sums alone, until it is called away."""
    store = torch.distributed.HashStore()
    ranks = [ProcessGroup(store, "test", rank, 2, "127.0.0.1", CPU) for rank in (0, 1)]
    others = threading.Thread(target=ranks[1].connect)
    others.start()
    ranks[0].connect()
    others.join()
    threading.Timer(0.2, ranks[0].abort).start()
    with pytest.raises(RuntimeError):
        ranks[0].all_reduce(torch.ones(4))


def test_a_rank_that_meets_no_other_can_be_aborted():
    store = torch.distributed.HashStore()
    alone = ProcessGroup(store, "test", 0, 2, "127.0.0.1", CPU)
    threading.Timer(0.2, alone.abort).start()
    with pytest.raises(RuntimeError, match="called away"):
        alone.connect()


def test_in_a_quiet_run_losses_go_down_every_token_is_counted_and_nothing_fails(pool):
    run, _ = run_live(tiny_spec(learning_rate=1e-2), Script(2), pool)
    assert (run.run.counts["failures"], run.run.counts["reconfigurations"]) == (0, 0)
    assert [one.cause for one in run.recoveries if one.cause == "failure"] == []
    assert run.steps[-1].loss < run.steps[0].loss - 0.5
    # Six sequences of sixteen tokens in each of two layers, every step.
    assert (run.routing.tokens_SLE.sum(axis=2) == 96).all()


def test_a_worker_joins_by_its_command_line(pool, undisturbed, start_process):
    started = []

    def start(nodes):
        server = nodes.coordinator.server
        environment = {**os.environ, "LAZSIM_LIVE_SECRET": server.secret.hex()}
        command = [sys.executable, "-m", "lazsim.live.worker", "--controller", f"127.0.0.1:{server.port}"]
        started.append(start_process(*command, "--name", "stranger", env=environment))

    spec = tiny_spec(slots_per_node=4)
    script = Script(1)
    script.begin = lambda nodes: (nodes.start("n0"), start(nodes))
    script.num_nodes = 2
    run, blocks = run_live(spec, script, pool)
    assert started[0].wait(timeout=600) == 0
    assert {step.num_nodes for step in run.steps} == {2}
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


CUT_OFF = """
from lazsim.live import worker
from lazsim.pytorch import group
def meet(*_):
    raise RuntimeError("no way to the others")
group.Gloo.meet = meet
worker.main()
"""


@pytest.mark.parametrize("system", ["lazarus", "ds"])
def test_a_worker_that_cannot_join_is_sent_away_and_the_others_train_on(system, pool, start_process):
    started = []

    class CutOff(Script):
        async def on_event(self, nodes, event, generation, step):
            await super().on_event(nodes, event, generation, step)
            server = nodes.coordinator.server
            if event == "stepped" and not started:
                command = [sys.executable, "-c", CUT_OFF, "--controller", f"127.0.0.1:{server.port}", "--name", "c"]
                environment = {**os.environ, "LAZSIM_LIVE_SECRET": server.secret.hex()}
                started.append(start_process(*command, env=environment, stderr=subprocess.PIPE))
            elif event == "stepped" and started[0].poll() is not None:
                server.stop()

    spec = tiny_spec(system, slots_per_node=4, num_steps=10**6)
    run = asyncio.run(run_locally(spec, CutOff(2), pool, max_nodes=2))
    said = "lazsim: c: 5 attempts to join failed; the last: no way to the others\n"
    assert (started[0].wait(timeout=600), started[0].stderr.read()) == (1, said)
    assert run.run.counts["lost_steps"] == 0
    assert run.steps[-1].num_nodes == 2


def test_nothing_is_left_behind(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workers = workers_of(os.getpid())
    sockets = len(os.listdir("/proc/self/fd"))
    with WorkerPool() as own:
        spec = msgspec.structs.replace(tiny_spec(), num_steps=3)
        asyncio.run(run_locally(spec, Script(2), own, max_nodes=2))

        class Fails(Script):
            async def on_event(self, nodes, event, generation, step):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            asyncio.run(run_locally(spec, Fails(2), own, max_nodes=2))
    assert workers_of(os.getpid()) == workers
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= sockets + 1


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def workers_of(pid: int) -> list[int]:
    """Return the processes that the fork server of a process has started."""
    return [worker for server in children_of(pid) for worker in children_of(server)]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not come"
        time.sleep(0.01)


def members_of(running: subprocess.Popen) -> list[int]:
    """Wait until a live run has two workers; return their process numbers, and those of what started them."""

    wait_until(lambda: len(workers_of(running.pid)) == 2)
    return children_of(running.pid) + workers_of(running.pid)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_an_interrupt_leaves_nothing_behind(number, code, tmp_path, start_process):
    command = live_command(tmp_path, "--steps", 100000)
    if number == signal.SIGTERM:
        # It ignores interrupts, as under nohup, or in the background of a shell script.
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    # Short, since the fork server has a socket in it.
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder}
        running = start_process(*command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        members = members_of(running)
        if number != signal.SIGKILL:
            # A terminal sends it to all.
            os.killpg(running.pid, signal.SIGHUP if number == signal.SIGHUP else signal.SIGINT)
        if number != signal.SIGINT:
            running.send_signal(number)
        assert running.wait(timeout=600) == code
        wait_until(lambda: not any(b"lazsim.live" in command_of(pid) for pid in members))
        if number == signal.SIGKILL:
            # What is left goes with the next run.
            with scratch_folder(Path(folder)):
                pass
        assert os.listdir(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_order_leaves_nothing_behind_but_the_last_checkpoint(number, tmp_path, start_process):
    with tempfile.TemporaryDirectory() as folder:
        running, out, checkpoints = start_and_save(tmp_path, start_process, env={**os.environ, "TMPDIR": folder})
        members = members_of(running)
        running.send_signal(number)
        # It draws a picture for longer.
        time.sleep(0.4)
        running.send_signal(number)
        assert running.wait(timeout=600) == 128 + number
        wait_until(lambda: not any(b"lazsim.live" in command_of(pid) for pid in members))
        assert os.listdir(folder) == []
        assert len(os.listdir(checkpoints)) == 1
        assert not out.exists() or (out / "live.json").exists()


UNGUARDED = """
import asyncio, msgspec
from lazsim.live.run import run_locally
from lazsim.live.worker_pool import WorkerPool
from lazsim.profiling.communication import RankProcesses
from tests.live_jobs import Script, tiny_spec
with WorkerPool() as pool:
    spec = msgspec.structs.replace(tiny_spec(), num_steps=3)
    print(asyncio.run(run_locally(spec, Script(2), pool, max_nodes=2)).run.steps)
with RankProcesses(1, "gloo", "cpu") as ranks:
    print(len(ranks.ask("joining", "join", "all", 1)))
"""


def test_a_script_that_starts_processes_needs_no_main_guard(tmp_path, run_process):
    (tmp_path / "script.py").write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = run_process(sys.executable, tmp_path / "script.py", env=environment)
    assert (ended.stdout, ended.stderr) == ("3\n1\n", "")


def test_a_job_goes_on_where_the_process_that_starts_workers_is_killed(pool, undisturbed):
    def kill_server(_nodes):
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)

    acts = {("stepped", 2): [("call", kill_server)], ("stepped", 4): [("kill", "n0"), ("start", "m0")]}
    run, blocks = run_live(tiny_spec(), Script(3, acts), pool)
    assert (run.run.steps, run.run.counts["failures"]) == (NUM_STEPS, 1)
    assert {"failure", "join"} <= {recovery.cause for recovery in run.recoveries}
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


def test_a_job_goes_on_where_the_process_that_starts_workers_hangs(pool, undisturbed, monkeypatch):
    # Another one takes longer than that to import torch, and is not taken for one that hangs.
    monkeypatch.setattr("lazsim.live.worker_pool.STUCK_S", 1.0)

    def stop_server(_nodes):
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)

    acts = {("stepped", 2): [("call", stop_server)], ("stepped", 4): [("kill", "n0"), ("start", "m0")]}
    run, blocks = run_live(tiny_spec(), Script(3, acts), pool)
    assert (run.run.steps, run.run.counts["failures"]) == (NUM_STEPS, 1)
    assert largest_difference(blocks, undisturbed[1]) < ROUNDING


HANGS = """
import os, signal
from multiprocessing import forkserver
from pathlib import Path
from lazsim.live import worker_pool
worker_pool.END_TIMEOUT_S = 0.5
with worker_pool.WorkerPool() as pool:
    for name in "ab":
        pool.start(name, ("127.0.0.1", 1), b"secret", 0, Path(os.devnull))
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
print("ended")
"""


def test_a_process_that_starts_workers_and_hangs_does_not_hold_up_the_end(run_process):
    assert run_process(sys.executable, "-c", HANGS, timeout_s=60).stdout == "ended\n"


RAISES = """
import os, sys, types
# What workers need takes a second to import.
sys.modules["lazsim.live.generation"] = types.ModuleType("generation")
import lazsim.live.fork_server
for error in (BlockingIOError, EOFError, ValueError):
    if not os.fork():
        raise error("told")
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 1
"""


def test_the_process_that_starts_workers_reports_only_bugs_by_itself(run_process):
    said = run_process(sys.executable, "-c", RAISES).stderr.splitlines()
    assert [line for line in said if not line.startswith(" ")] == [
        "Traceback (most recent call last):", "ValueError: told"
    ]  # fmt: skip


def test_temporary_folder_that_is_too_long_for_a_socket_is_named(tmp_path, run_process):
    (folder := tmp_path / ("x" * 100)).mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    ended = run_process(*live_command(tmp_path, "--steps", 2), env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"lazsim: {folder}: too long a path for a socket; set TMPDIR to a shorter one\n"


@pytest.mark.parametrize(
    ("moment", "number", "code", "said"),
    [
        ("imports", signal.SIGTERM, 143, "lazsim: told to end\n"),
        ("waits", signal.SIGINT, 130, "lazsim: interrupted\n"),
    ],
)
def test_a_worker_that_is_told_to_end_says_so_in_one_line(moment, number, code, said, start_process):
    with socket.create_server(("127.0.0.1", 0)) as controller:
        command = [sys.executable, "-m", "lazsim.live.worker", "--controller"]
        command += [f"127.0.0.1:{controller.getsockname()[1]}"]
        environment = {**os.environ, "LAZSIM_LIVE_SECRET": "ab" * 32}
        worker = start_process(*command, env=environment, stderr=subprocess.PIPE)
        if moment == "imports":
            wait_until(lambda: "libtorch" in Path(f"/proc/{worker.pid}/maps").read_text())
        else:
            controller.accept()[0].close()
        worker.send_signal(number)
        assert (worker.communicate(timeout=600)[1], worker.returncode) == (said, code)


STUCK = """
from lazsim.live import generation, worker
class Stuck:
    def __init__(self, *_): pass
    def run(self): return "over"
    def __del__(self): print("waits for a call that is stuck", flush=True)
generation.Worker = Stuck
worker.run_worker(("127.0.0.1", 1), "a", b"", "", 0)
"""


def test_a_worker_that_ends_does_not_wait_for_groups_that_are_stuck(run_process):
    ended = run_process(sys.executable, "-c", STUCK, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "lazsim: over\n", 1)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-host.invalid", "no..host"], ids=["an address for documentation", "no host", "no name"]
)
def test_a_worker_at_an_address_of_another_machine_is_refused(host, run_process):
    environment = {**os.environ, "LAZSIM_LIVE_SECRET": "ab" * 32}
    ended = run_process(*worker_command("127.0.0.1:1", "a"), "--host", host, env=environment, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"lazsim: --host {host}: is no address or name of this machine; give one\n"


def test_a_worker_is_taken_at_a_name_of_several_addresses_of_which_one_is_its_own(monkeypatch):
    found = [one for host in ("192.0.2.1", "127.0.0.1") for one in socket.getaddrinfo(host, 1)[:1]]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    check_own_address("here")
    found.pop()
    with pytest.raises(LazsimError, match="--host here: is no address or name of this machine; give one"):
        check_own_address("here")


RANKS = """
import time
from lazsim.profiling.communication import RankProcesses
try:
    with RankProcesses(2, "gloo", "cpu"):
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("moment", ["imports", "waits"])
def test_an_interrupt_of_a_terminal_ends_processes_that_exchange_without_a_word(moment, start_process):
    running = start_process(sys.executable, "-c", RANKS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if moment == "imports":
        # Two ranks, and the process that multiprocessing starts to clear away after them.
        wait_until(lambda: len(children_of(running.pid)) == 3)
    else:
        assert running.stdout.readline() == "ready\n"
    members = children_of(running.pid)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(timeout=600) == ("interrupted\n", "")
    wait_until(lambda: not any(command_of(pid) for pid in members))


def start_and_save(tmp_path, start_process, **how):
    """Start a run, and return it with its folders of results and checkpoints once it has saved a step."""
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    command = live_command(tmp_path, "--steps", 100000, "--job", job_that_saves_each_step(tmp_path))
    command += ["--out", out, "--checkpoints", checkpoints, "--json"]
    running = start_process(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    wait_until(lambda: list(checkpoints.glob("step-*/complete.json")))
    return running, out, checkpoints


def test_an_interrupted_run_reports_its_results(tmp_path, start_process):
    running, out, _ = start_and_save(tmp_path, start_process)
    running.send_signal(signal.SIGINT)
    printed, said = running.communicate(timeout=600)
    assert (running.returncode, said.splitlines()[-1]) == (130, "lazsim: interrupted")
    found = json.loads(printed)
    assert found["interrupted"]
    assert found["steps"] >= 1
    assert found["samples"] == found["steps"] * found["inputs"]["spec"]["global_batch"]
    assert json.loads((out / "live.json").read_text()) == found
    assert {file.name for file in out.glob("[!.]*")} == {"live.json", "steps.csv", "live.png", "live.pdf"}
    with (out / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [[int(row["step"]), float(row["loss"])] for row in steps] == [
        [step, pytest.approx(loss, abs=1e-6)] for step, loss in found["losses"]
    ]
    batch = found["inputs"]["spec"]["global_batch"]
    assert {(row["num_sequences"], row["is_first"]) for row in steps} == {(str(batch), "False")}


def test_a_run_whose_terminal_closes_keeps_its_results(tmp_path, start_process):
    terminal, inside = os.openpty()
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    command = live_command(tmp_path, "--steps", 100000, "--job", job_that_saves_each_step(tmp_path))
    # Opened by the leader of a session, it becomes the terminal of all in it.
    script = f"import os, sys; os.open({os.ttyname(inside)!r}, os.O_RDWR); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", script, *command, "--out", out, "--checkpoints", checkpoints]
    running = start_process(*command, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    wait_until(lambda: list(checkpoints.glob("step-*/complete.json")))
    members = members_of(running)
    os.close(terminal)
    assert running.wait(timeout=600) == 129
    assert json.loads((out / "live.json").read_text())["interrupted"]
    wait_until(lambda: not any(b"lazsim.live" in command_of(pid) for pid in members))


def test_a_run_that_an_error_breaks_off_keeps_its_results(tmp_path, start_process):
    running, out, checkpoints = start_and_save(tmp_path, start_process)
    checkpoints.rename(tmp_path / "moved")
    checkpoints.write_text("in the way")
    printed, said = running.communicate(timeout=600)
    assert running.returncode == 1
    assert re.fullmatch(r"lazsim: /.*: cannot be (written|completed).*", said.splitlines()[-1])
    found = json.loads(printed)
    assert found["interrupted"]
    assert found["steps"] >= 1
    assert (found["exchanged_by"], found["rows_by"]) == (["gloo"], ["torch"])
    assert json.loads((out / "live.json").read_text()) == found


FLOOD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
for _ in range(1100):
    one = socket.socket(); one.setblocking(False); one.connect_ex(("127.0.0.1", int(sys.argv[1]))); held.append(one)
print("held", flush=True)
time.sleep(100)
"""


def test_a_job_trains_on_while_1100_idle_connections_press_on_its_controller(pool, start_process):
    def press(nodes):
        port = nodes.coordinator.server.port
        strangers = start_process(sys.executable, "-c", FLOOD, port, stdout=subprocess.PIPE)
        assert strangers.stdout.readline() == "held\n"

    # Spare ones, strangers, and three for each of ten workers.
    with descriptors_left(64 + MAX_STRANGERS + 30):
        run, _ = run_live(tiny_spec(interval=4), Script(2, {("stepped", 2): [("call", press)]}), pool)
    assert (run.run.steps, run.run.counts["failures"]) == (NUM_STEPS, 0)
    assert run.run.counts["checkpoints"] == NUM_STEPS / 4


NESTED = b'{"type":"Heartbeat","x":' + b"[" * 20000 + b"]" * 20000 + b"}"


def test_a_member_that_sends_nonsense_is_a_failure_like_others(pool):
    evil = []

    async def take_part(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with closing(writer):
            nonce = new_nonce()
            auth = MessageAuth(server.secret, await reader.readexactly(32) + nonce, "worker")
            writer.write(nonce + auth.prove() + auth.sign(Hello("evil", "instance", HeldState())))
            auth.check(await reader.readexactly(64))
            while not isinstance(auth.verify(await reader.readline()), StartGeneration):
                pass
            writer.write(auth.prove(NESTED) + b" " + NESTED + b"\n")
            # Notes of the others may have come first. The end of the connection comes, or a reset.
            with suppress(ConnectionError):
                await reader.read()
            evil.append(True)

    def invite(nodes):
        evil.append(asyncio.get_running_loop().create_task(take_part(nodes.coordinator.server)))

    # However long the machine takes to let it in, steps are left then, and it counts as alive until it speaks.
    script = Script(2, {("stepped", 2): [("call", invite)]})
    run, _ = run_live(tiny_spec(num_steps=80, silence_s=60.0), script, pool)
    assert evil[1:] == [True]
    assert (run.run.steps, run.run.counts["lost_steps"], run.run.counts["failures"]) == (80, 0, 1)


def test_messages_of_others_are_refused():
    controller, worker = MessageAuth(b"key", b"nonce", "controller"), MessageAuth(b"key", b"nonce", "worker")
    stranger = MessageAuth(b"guess", b"nonce", "worker")
    with pytest.raises(LiveError, match="not from a worker of this run"):
        controller.verify(stranger.sign(Heartbeat()))
    line = worker.sign(Heartbeat())
    assert controller.verify(line) == Heartbeat()
    with pytest.raises(LiveError, match="not from a worker of this run"):
        controller.verify(line)  # Sent again.
    with pytest.raises(LiveError, match="not from a controller of this run"):
        worker.verify(worker.sign(Heartbeat()))  # Sent back.
    line = controller.sign(Command(1, "train"))
    changed = line.replace(b'"generation":1', b'"generation":2')
    assert changed != line
    with pytest.raises(LiveError):
        worker.verify(changed)


def test_a_worker_without_a_secret_says_so(monkeypatch):
    monkeypatch.setenv("LAZSIM_LIVE_SECRET", "no hex")
    with pytest.raises(LazsimError, match="LAZSIM_LIVE_SECRET is not set"):
        secret_from_environment()


def test_an_update_that_runs_out_of_memory_leaves_nothing_to_offer(monkeypatch):
    spec = tiny_spec()
    state = TrainingState(spec)
    keys = [DENSE, (0, 0)]
    state.replace({key: Block(spec, key, initial_values(spec, key)) for key in keys}, 3)
    state.prepared = True
    update = Block.update

    def fail_at_the_second(block, *arguments):
        if block is not first:
            raise torch.OutOfMemoryError("CUDA out of memory")
        update(block, *arguments)

    first = state.blocks[DENSE]
    monkeypatch.setattr(Block, "update", fail_at_the_second)
    with pytest.raises(torch.OutOfMemoryError):
        state.commit()
    assert (state.blocks, state.step) == ({}, 3)


def test_a_job_goes_on_from_its_checkpoint_and_from_no_other(pool, tmp_path, undisturbed):
    def train(num_steps, **changes):
        spec = tiny_spec(num_steps=num_steps, checkpoint_folder=str(tmp_path), **changes)
        return asyncio.run(run_locally(spec, Script(2), pool, max_nodes=6))

    assert [step.step for step in train(5).steps] == [1, 2, 3, 4, 5]
    more = train(8)
    assert [step.step for step in more.steps] == [6, 7, 8]
    # Six sequences in each of the three steps that this run made.
    assert (more.run.steps, more.run.samples) == (3, 18)
    # Nothing is left to do.
    again = train(8)
    assert (again.run.steps, again.run.samples, again.steps) == (0, 0, ())
    assert re.search(r"0 steps, 0 samples in .* s, no step done", render(live_parts(again)))
    with pytest.raises(LazsimError, match="has a checkpoint of another job"):
        train(8, seed=1)
    train(NUM_STEPS)
    blocks = load_blocks(tiny_spec(checkpoint_folder=str(tmp_path)), NUM_STEPS, all_keys(tiny_spec()))
    assert largest_difference({key: values.numpy() for key, values in blocks.items()}, undisturbed[1]) < ROUNDING


def test_a_folder_of_checkpoints_keeps_no_unfinished_one(pool, tmp_path):
    def leave_unfinished(step):
        save_blocks(tmp_path, step, "aa", {DENSE: torch.ones(3)})

    leave_unfinished(99)
    (tmp_path / "step-by-step.md").write_text("mine")
    script = Script(2, {("stepped", 2): [("call", lambda _nodes: leave_unfinished(98))]})
    spec = tiny_spec(num_steps=5, checkpoint_folder=str(tmp_path))
    # What is left of a job that was killed is neither continued nor kept, nor is what this one leaves. The result may
    # be written to the same folder.
    with hold_folder(tmp_path):
        assert asyncio.run(run_locally(spec, script, pool, max_nodes=2)).run.steps == 5
    assert {path.name for path in tmp_path.iterdir()} == {"step-000000005", "step-by-step.md"}


def test_a_worker_one_step_behind_catches_up_if_it_had_prepared():
    ahead, prepared, late = (
        HeldState(5, False, frozenset({0})),
        HeldState(4, True, frozenset({1})),
        HeldState(4, False, frozenset({2})),
    )

    def has(*blocks):
        return lambda held: frozenset().union(*held) == frozenset(blocks)

    assert agree_on_step([ahead, prepared, late], has(0, 1), LastStep()) == (
        5,
        [frozenset({0}), frozenset({1}), frozenset()],
    )
    assert agree_on_step([prepared, late], has(1, 2), LastStep()) == (4, [frozenset({1}), frozenset({2})])
    # Alone ahead with a part of the state, as after a rollback that it missed: the others' step counts.
    stranger = HeldState(6, False, frozenset({0}))
    assert agree_on_step([stranger, prepared, late], has(1, 2), LastStep()) == (
        4,
        [frozenset(), frozenset({1}), frozenset({2})],
    )
    assert agree_on_step([ahead, late], has(0, 1, 2), LastStep()) == (0, [frozenset(), frozenset()])
    # Step 5 was reported, and the rank that had made it is lost: the one that had prepared it commits it.
    assert agree_on_step([prepared], has(1), LastStep(5)) == (5, [frozenset({1})])
    # The others have trained step 5 again since, on other sequences: what was prepared before is of no use.
    assert agree_on_step([ahead, prepared], has(0, 1), LastStep(4, generation=2)) == (0, [frozenset(), frozenset()])
    # Whoever has been away since step 4 does not take the job back there.
    assert agree_on_step([late], has(2), LastStep(5)) == (0, [frozenset()])


def test_the_optimizer_is_that_of_torch():
    spec = tiny_spec()
    from lazsim.live.state import Block

    block = Block(spec, DENSE, initial_values(spec, DENSE))
    twin = torch.nn.Parameter(block.values[0].clone())
    adam = torch.optim.Adam([twin], lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=spec.epsilon)
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        block.gradient.normal_(generator=generator)
        twin.grad = block.gradient.clone()
        adam.step()
        block.update(spec, step)
    np.testing.assert_allclose(block.values[0].numpy(), twin.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_a_model_of_another_shape_is_refused():
    from lazsim.errors import LazsimError

    with pytest.raises(LazsimError, match="choose a GPT-2 shape"):
        check_model(load_spec(ModelSpec, "deepseek-v3"), 4)
    with pytest.raises(LazsimError, match="not a multiple of 5 heads"):
        check_model(tiny_spec().model, 5)


def test_a_text_that_is_too_short_is_refused(tmp_path):
    from lazsim.errors import LazsimError

    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(LazsimError, match="9 bytes are too few for sequences of 16"):
        prepare(msgspec.structs.replace(tiny_spec(), text=str(path)))


def test_only_prepared_steps_are_committed():
    with pytest.raises(AssertionError, match="only a prepared step"):
        TrainingState(tiny_spec()).commit()
