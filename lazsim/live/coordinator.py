"""The coordinator leads a live job from generation to generation.

A generation is a set of ranks with a plan and communicators. It ends when a rank fails or leaves, or when all ranks
pause together at a step boundary. The functions of `lazsim.engine.protocol` decide what comes next, as they do for the
simulated job. The coordinator carries the decisions out.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine import protocol
from lazsim.engine.held import NOTHING
from lazsim.engine.protocol import Action, Decision, StoppedJob
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.engine.systems.system import decide_next, under_job
from lazsim.errors import LazsimError
from lazsim.live import checkpoint, messages
from lazsim.live.messages import GenerationPlan, LiveError, Message
from lazsim.live.plan import GenerationPlanner, LastStep, NextGeneration, is_same_placement
from lazsim.live.record import LiveRun, Recorder
from lazsim.live.worker_server import WorkerConnection, WorkerServer
from lazsim.placement.plan import Ints
from lazsim.units import counted

FAILURE_WINDOW_S = 0.02
"""Failures that the coordinator learns of within this time count as one."""

MAX_FAILED_ATTEMPTS = 5
"""Generations in a row that end without a dead worker and without a step, before the job ends with an error; and those
that a worker cannot join, before it is sent away."""

PREPARE_TIMEOUT_S = 600.0
LEAVE_TIMEOUT_S = 60.0
"""Time to build communicators, to obtain states and to pause, each; time to leave. A slower worker counts as dead."""

RECONNECT_GRACE_S = {"cpu": 0.5, "auto": 5.0, "cuda": 5.0}
"""By device, the wait for states whose worker may only have lost its connection, before a return to a checkpoint.

A worker on a GPU first has to close NCCL.
"""

EVENTS = {
    "failure": "recovered", "join": "joined", "rebalance": "rebalanced", "start": "started", "restart": "restarted"
}  # fmt: skip
"""Why a generation started -> its event in the record; none where all go on as before."""

OnEvent = Callable[[str, int, int], Awaitable[None]]
"""Called with an event, the generation and the step.

Events are ``started``, ``entered``, ``rebuilt``, ``ready``, ``stepped``, ``paused`` and ``failed``.
"""


class Coordinator:
    """Leads one job: waits for `min_workers`, at most `start_timeout_s` for each, and trains with all that come.

    `costs` gives sizes and shapes of the job in the simulation's terms; `record` is the run so far. Raises a
    LazsimError where the server cannot take that many workers.
    """

    def __init__(self, server: WorkerServer, costs: CostModel, min_workers: int, start_timeout_s: float) -> None:
        if min_workers > server.max_workers:
            most = counted(server.max_workers, "worker")
            raise LazsimError(f"`nodes` {min_workers}: descriptors suffice for {most}; raise `ulimit -n`")
        self.server, self.spec, self.costs = server, server.spec, costs
        self.system = under_job(LIVE_SYSTEMS[self.spec.system], costs.job)
        self._planner = GenerationPlanner(self.system, costs, self.spec.global_batch)
        self.result: LiveRun
        self.on_event: OnEvent | None = None
        # The launcher's place of a worker, and whether one that has lost its connection may still run, by name.
        self.place_of: Callable[[str], int] = lambda _name: 0
        self.may_return: Callable[[str], bool] = lambda _name: True
        # Workers of the launcher that have ended before the first step.
        self.num_ended: Callable[[], int] = lambda: 0
        self.step = self._reported_step = 0
        self._min_workers, self._start_timeout_s = min_workers, start_timeout_s
        self._usable_nodes = partial(self.system.usable_nodes, costs)
        self._reset_clock()
        self._clock_runs = False
        self._generation, self._draft = 0, ""
        # The workers of the generation; once it trains, its ranks.
        self._members: list[WorkerConnection] = []
        # Those that hold the state of the job, since they trained last, in their places, and their generation.
        self._held, self._trained_generation = NOTHING, 0
        # Those that a regroup left out since the last restart.
        self._dropped: set[WorkerConnection] = set()
        self._plan: GenerationPlan | None = None
        self.has_trained = False
        # Why the ranks were asked to pause; empty where they were not.
        self._pause_cause = ""
        self._newcomers = protocol.Newcomers(costs.job.join_wait_s, self.now_s)
        # Whether the generation takes in workers, until it trains.
        self._is_joining = False
        self._failed_s: float | None = None
        # When the coordinator knew of the failure for which the job stands still.
        self._known_s: float | None = None
        # What each worker has written, by step of the checkpoint; those of this generation that are not complete.
        self._saves: dict[int, dict[str, messages.CheckpointWritten]] = {}
        self._failed_attempts = 0

    def suffice(self, num_workers: int) -> bool:
        """Tell whether this many workers are enough to go on, or to start where the job waits."""
        if self.record.ledger.bucket == "waiting":
            return self.system.can_start(self.costs, num_workers)
        return self._usable_nodes(num_workers) > 0

    def now_s(self) -> float:
        """Return seconds since the job began."""
        return time.monotonic() - self._began_s

    async def run(self) -> None:
        """Lead the job until it is over; raise a LiveError where it cannot go on."""
        server = self.server
        try:
            while self._num_come() < self._min_workers and server.stopped is None:
                await self._wait_for_another()
            while server.stopped is None:
                await self._lead_on()
        finally:
            # Also where an interrupt ends the job: what clears away after it is no part of the run.
            self.result = self.record.result(self.step)
        if server.bug is not None:
            raise server.bug
        if server.stopped:
            raise LiveError(server.stopped)

    async def _lead_on(self) -> None:
        """Lead the job through its next generation, or a wait for one."""
        decision = await self._decide()
        if decision.action is Action.WAIT:
            await self._wait_for_nodes()
            return
        if await self._start_generation(decision):
            await self._train()
        if self.server.stopped is None:
            await self._end_generation()

    def _num_come(self) -> int:
        """Count the first workers that have come, or never will."""
        return len(self.server.workers) + self.num_ended()

    async def _wait_for_another(self) -> None:
        """Wait for one more of the first workers; stop the job where none comes in time."""
        before, timeout_s = self._num_come(), self._start_timeout_s
        await self.server.wait_until(lambda: self._num_come() > before, timeout_s)
        if self._num_come() <= before:
            came = f"{len(self.server.workers)} of {counted(self._min_workers, 'worker')} came"
            self.server.stop(f"{came}, none in the last {timeout_s:g} s")

    def _reset_clock(self) -> None:
        self._began_s = time.monotonic()
        placement = self.system.policy.name if self.system.policy is not None else None
        self.record = Recorder(self.system.name, placement, self.spec.global_batch, self.now_s)
        self.record.alive(len(self.server.workers))

    async def _start_clock(self) -> None:
        self._reset_clock()
        self._clock_runs = True
        if self._newcomers.due_s is not None:
            # Workers that came during the preparation join like those that come now.
            self._newcomers.close()
            self._newcomers.add(self.server.workers)
        await self._emit("started")

    async def _emit(self, event: str, step: int | None = None) -> None:
        if self.on_event is not None:
            await self.on_event(event, self._generation, self.step if step is None else step)

    # Reports of workers.

    def on_join(self, worker: WorkerConnection) -> None:
        """Collect a worker that has come."""
        if self._clock_runs or self._generation:
            self._newcomers.add([worker])
        self.record.registered(worker.name)
        self.record.alive(len(self.server.workers))

    def on_leave(self, worker: WorkerConnection) -> None:
        """Record when a member of the generation was lost."""
        if worker in self._members and self._failed_s is None:
            silent_s = time.monotonic() - worker.last_heard_s
            # One that hung has failed when it fell silent, not when it was given up.
            failed_s = self.now_s() - (silent_s if silent_s > self.spec.silence_s else 0.0)
            self._failed_s = self.record.killed_s.get(worker.name, failed_s)
        self._newcomers.remove([worker])
        self.record.alive(len(self.server.workers))

    def on_message(self, worker: WorkerConnection, message: Message) -> None:
        """Process the report of a worker."""
        match message:
            case messages.Reached() if message.generation == worker.generation:
                # A worker that had left by itself gives its error only in the first of its reports.
                worker.stage, worker.held, worker.error = message.stage, message.held, message.error or worker.error
            case messages.Note() if worker in self._members and message.generation == self._generation:
                for member in self._members:
                    if member is not worker:
                        member.send(message)
            case messages.StepDone() if self._members[:1] == [worker] and message.generation == self._generation:
                if message.step != self.step + 1:
                    return
                self.step, self._failed_attempts = message.step, 0
                if message.loss is None:
                    self.server.stop(f"step {message.step}: the loss is no finite number: training has diverged")
                    return
                self.record.exchanged_by.add(message.backend)
                self.record.rows_by.add(message.rows_by)
                interval_steps = self.spec.checkpoint_interval_steps
                assert self._plan is not None, "a generation trains"
                # Training stands still for a save, unless that is written behind it.
                saves = bool(interval_steps) and self.step % interval_steps == 0 and not self._plan.saves_behind
                self.record.step(self.step, message.step_s, message.loss, message.loads, saves=saves)
            case messages.CheckpointWritten() if message.generation == self._generation:
                self._collect_checkpoint(worker, message)

    def _collect_checkpoint(self, worker: WorkerConnection, message: messages.CheckpointWritten) -> None:
        """Complete a checkpoint once all ranks have written their parts."""
        if message.error:
            self.server.stop(message.error)
            return
        # Connections are read in no order between them: a rank may seem to be checkpoints ahead of another.
        parts = self._saves.setdefault(message.step, {})
        parts[worker.name] = message
        if parts.keys() >= {member.name for member in self._members}:
            try:
                checkpoint.complete(self.spec, message.step, self._draft)
            except (OSError, LazsimError) as error:
                what = f"the checkpoint of step {message.step} cannot be completed"
                self.server.stop(f"{self.spec.checkpoint_folder}: {what}: {error}")
                return
            seconds, stall_s = (max(getattr(part, name) for part in parts.values()) for name in ("seconds", "stall_s"))
            self.record.checkpoint(message.step, seconds, stall_s)
            self._saves = {other: parts for other, parts in self._saves.items() if other > message.step}

    def _loads(self, step: int) -> Ints:
        """Return the loads that the gates asked for in the last of `step` steps; even ones where none is known."""
        # The last step before a failure is not reported where its rank 0 was lost.
        loads = self.record.loads.get(step) or self.record.loads.get(step - 1)
        shape = (self.costs.model.num_moe_layers, self.costs.model.num_experts)
        return np.ones(shape, dtype=np.int64) if loads is None else np.array(loads, dtype=np.int64)

    def _checkpoint_step(self) -> int:
        return checkpoint.last_step(Path(self.spec.checkpoint_folder))

    # Decisions.

    async def _decide(self) -> Decision:
        """Decide on the next generation, after a grace period for workers that only lost their connection."""
        decision = self._decide_now()
        can_go_on = self._held.nodes and self.system.recovers_from_peers and not self._pause_cause
        if can_go_on and decision.source != "peers":
            begun_s = self.now_s()
            await self.server.wait_until(
                lambda: not any(map(self.may_return, self._lost())) or self._decide_now().source == "peers",
                RECONNECT_GRACE_S[self.spec.device],
            )
            self.record.recovery("restart").rebuild_s += self.now_s() - begun_s
            decision = self._decide_now()
        is_joining = self._pause_cause == "join"
        if is_joining and decision.action is Action.RESTART and self._checkpoint_step() < self.step:
            # Those that would have joined in place are gone: the others join after a save, for which all pause again.
            return Decision(Action.RESUME, "peers", self._held.nodes, len(self._held.nodes))
        if decision.action is Action.WAIT:
            self._held = NOTHING
        elif is_joining or decision.action is Action.RESTART:
            # This generation takes in all workers that have come.
            self._newcomers.close()
        return decision

    def _lost(self) -> set[str]:
        """Return the names of those whose states are missing."""
        return {holder.name for holder in self._held.nodes} - {worker.name for worker in self.server.workers}

    def _decide_now(self) -> Decision:
        """Decide as a simulated job does: the survivors recover first, and others join at the next step boundary."""
        survivors = [holder for holder in self._held.nodes if holder.alive]
        alive = self._alive()
        stopped = StoppedJob(
            self._held.only(survivors),
            tuple(alive),
            self._usable_nodes,
            partial(self._planner.hold_everything, reached=LastStep(self.step, self._trained_generation)),
            returned=tuple(worker for worker in alive if worker.held.blocks and worker not in survivors),
            paused=bool(self._pause_cause),
            joins_due=self._pause_cause == "join",
            checkpoint_step=self._checkpoint_step(),
            dropped=self._dropped,
            step=self.step,
            step_s=self.record.steps[-1].step_s if self.record.steps else 0.0,
        )
        return decide_next(self.system, self.costs, stopped)

    def _alive(self) -> list[WorkerConnection]:
        alive = (worker for worker in self.server.workers if worker.alive)
        return sorted(alive, key=lambda worker: self.place_of(worker.name))

    async def _wait_for_nodes(self) -> None:
        """Wait until there are enough nodes, and those that join together have been collected."""
        server = self.server
        if not self._clock_runs:
            # The job waits from its first instant, and faults begin.
            await self._start_clock()
        self.record.stand_still("waiting", self._known_s)
        # Leaving the last generation is part of the wait.
        self.record.recovery("restart").rebuild_s, self._known_s = 0.0, None
        while server.stopped is None:
            num_alive = len(server.workers)
            are_enough = self.system.can_start(self.costs, num_alive)
            if self._newcomers.is_due:
                self._newcomers.close(are_enough=are_enough)
            if self._newcomers.due_s is None and are_enough:
                return
            await server.wait_until(
                lambda before=num_alive: len(server.workers) != before,  # type: ignore[misc]
                self._newcomers.left_s,
            )

    # The start of a generation.

    async def _start_generation(self, decision: Decision) -> bool:
        """Lead workers into the next generation; return whether all of them can train."""
        following = self._plan_next(decision)
        plan, resumes = following.plan, decision.action is Action.RESUME
        cause = "resume" if resumes else self._pause_cause or ("failure" if plan.source == "peers" else "restart")
        if plan.source != "peers":
            self._held, self._dropped = NOTHING, set()
            self.record.roll_back(plan.step, max(0, self.step - plan.step))
        if not await self._prepare(following, cause):
            return False
        if not self._clock_runs:
            # The preparation of the first step is not part of the run.
            await self._start_clock()
        if decision.action is Action.CONTINUE and cause == "failure" and self._newcomers.due_s is None:
            # Workers that stood by take free places at the next step boundary.
            alive: list[Any] = self._alive()
            others = self.system.newcomers(self.costs, following.held, alive, self._usable_nodes)
            self._newcomers.at_next_boundary(others)
        if decision.action is Action.RECONFIGURE:
            self._dropped |= set(self._held.nodes) - set(following.held.nodes)
        self._held, self._trained_generation, self._is_joining = following.held, self._generation, False
        self._start_training(plan, cause)
        return True

    def _plan_next(self, decision: Decision) -> NextGeneration:
        """Plan the generation that a decision asks for; one that resumes has the plan in force."""
        if decision.action is Action.RESUME:
            assert self._plan is not None, "a generation has trained"
            names, holds = [one.name for one in self._members], [one.held.blocks for one in self._members]
            plan = msgspec.structs.replace(self._plan, source="peers", step=self.step, members=names, holds=holds)
            return NextGeneration(self._members, self._held, plan, 0.0)
        step = self._checkpoint_step() if decision.action is Action.RESTART else self.step
        reached = LastStep(step, self._trained_generation)
        return self._planner.plan(decision, self._held, reached, self._loads(step), self._members)

    async def _prepare(self, following: NextGeneration, cause: str) -> bool:
        """Let the members of a generation build communicators and obtain states; return whether all of them have."""
        record, members, plan = self.record, following.members, following.plan
        from_peers = plan.source == "peers"
        reuse = bool(self._pause_cause) and len(members) == plan.num_ranks and members == self._members
        record.enter("rebalance" if cause == "rebalance" else "reconfigure" if from_peers else "restart", self._known_s)
        recovery = record.recovery(cause)
        recovery.num_nodes, recovery.busiest_bytes = plan.num_ranks, following.busiest_bytes
        recovery.source = plan.source
        begun_s = self.now_s()
        # Another coordinator may have had a generation of the same number, whose ranks still write.
        self._generation, self._draft = self._generation + 1, secrets.token_hex(4)
        self._saves.clear()
        self._plan, self._members, self._pause_cause, self._is_joining = plan, members, "", cause == "join"
        self.step = self._reported_step = plan.step
        self._failed_s = self._known_s = None
        for member in members:
            member.stage, member.generation, member.error = "entered", self._generation, ""
            member.send(messages.StartGeneration(self._generation, plan, reuse, self._draft))
        await self._emit("entered")
        if not await self._wait_for_members("connected", "ready"):
            return False
        recovery.rebuild_s += self.now_s() - begun_s
        await self._emit("rebuilt")
        if from_peers and cause != "rebalance":
            record.enter("transfer")
        begun_s = self.now_s()
        if not await self._wait_for_members("ready"):
            return False
        recovery.transfer_s += self.now_s() - begun_s
        await self._emit("ready")
        return True

    def _start_training(self, plan: GenerationPlan, cause: str) -> None:
        record = self.record
        self._command("train")
        self._members = self._members[: plan.num_ranks]
        for member in self._members:
            member.has_trained = True
        record.num_used, record.num_sequences = plan.num_ranks, sum(map(len, plan.sequences))
        if plan.source != "peers":
            record.log.count("restarts", int(self.has_trained))
        elif cause != "resume":
            record.log.count("rebalances" if cause == "rebalance" else "reconfigurations")
        if not self.has_trained:
            record.first_step, cause = plan.step, "start"
        self.has_trained = True
        if cause in EVENTS:
            record.event(EVENTS[cause], self.step)
        record.state()
        record.enter("compute")

    async def _wait_for_members(self, *stages: str) -> bool:
        """Wait until all members are at one of some stages; return whether they are."""
        await self.server.wait_until(lambda: self._is_broken(*stages) or self._are_at(*stages), PREPARE_TIMEOUT_S)
        if not self._is_broken(*stages):
            self._disconnect_unless(*stages)
        return self.server.stopped is None and not self._is_broken(*stages)

    def _are_at(self, *stages: str) -> bool:
        return all(member.stage in stages for member in self._members)

    def _disconnect_unless(self, *stages: str) -> None:
        """Count members that are too slow as dead, unless the job is over, which they are still to hear."""
        for member in self._members:
            if member.stage not in stages and self.server.stopped is None:
                member.disconnect()

    def _is_broken(self, *stages: str) -> bool:
        """Tell whether a member is lost, has failed, or has left where `stages` does not say that it should."""
        may_be_idle = "idle" in stages
        return any(not one.alive or one.error or (one.stage == "idle" and not may_be_idle) for one in self._members)

    # Training, and its end.

    async def _train(self) -> None:
        """Wait until the generation ends, by a failure or a pause."""
        self._begin_step()
        while self.server.stopped is None and not self._is_broken():
            self._request_join()
            num_alive = len(self.server.workers)
            await self.server.wait_until(
                lambda num_alive=num_alive: (  # type: ignore[misc]
                    self._is_broken() or self.step > self._reported_step or len(self.server.workers) != num_alive
                ),
                self._newcomers.left_s,
            )
            await self._report_steps()
        await self._report_steps()

    async def _report_steps(self) -> None:
        """Report the steps done since the last report."""
        while self._reported_step < self.step:
            self._reported_step += 1
            self._begin_step()
            self._request_rebalance(self._reported_step)
            await self._emit("stepped", self._reported_step)

    def _begin_step(self) -> None:
        """Let nodes join that are due at this step boundary; where none would come into use, others are to come."""
        if not self._request_join():
            self._newcomers.close()

    def _request_join(self) -> bool:
        """Ask all ranks to pause where nodes are due that would come into use; return False where none would."""
        if self._pause_cause or not self._newcomers.is_due:
            return True
        alive: list[Any] = self._alive()
        if self.system.newcomers(self.costs, self._held, alive, self._usable_nodes):
            nodes = self.system, self._members, alive, self._usable_nodes
            self._request_pause("join", save=not protocol.find_joining_in_place(*nodes, self._dropped))
        return bool(self._pause_cause)

    def _request_rebalance(self, step: int) -> None:
        """Ask all ranks to pause where a rebalance is due and would move experts."""
        due = protocol.rebalance_is_due(self.system, step, step - 1, self.costs.job.rebalance_interval_steps)
        if due and not self._pause_cause and not self._is_broken():
            assert self._plan is not None, "a generation trains"
            plan = self.system.plan(self.costs, len(self._members), self._loads(step))
            if not is_same_placement(plan.slots_LNS, np.array(self._plan.slots)):
                self._request_pause("rebalance")

    def _request_pause(self, cause: str, *, save: bool = False) -> None:
        self._pause_cause = cause
        self._command("save" if save else "pause")

    def _command(self, what: Literal["train", "pause", "save", "abort"]) -> None:
        """Tell all members what to do."""
        for member in self._members:
            member.send(messages.Command(self._generation, what))

    async def _end_generation(self) -> None:
        """Bring all members out of the generation, and learn what each holds."""
        if self._pause_cause or self._is_finished():
            if await self._wait_for_members("idle"):
                self.step = max([self.step, *(member.held.step for member in self._members)])
                await self._emit("paused")
                if self._is_finished():
                    self.server.stop()
                    return
            if not self._is_broken("idle"):
                return
        await self._handle_failure()

    async def _handle_failure(self) -> None:
        """Abort a generation that has failed; a member that does not leave counts as dead."""
        record, server = self.record, self.server
        self._pause_cause = ""
        if self._is_joining:
            # Those that are left join at the next step boundary.
            self._newcomers.at_next_boundary(set(self._alive()).difference(self._held.nodes))
            self._is_joining = False
        known_s = self._known_s = self.now_s()
        # A rank may report a lost peer before the peer's own connection ends here, on a GPU by more than the window.
        await asyncio.sleep(FAILURE_WINDOW_S)
        killed_s = [record.killed_s[member.name] for member in self._members if member.name in record.killed_s]
        failed_s = min([known_s, *killed_s, *([] if self._failed_s is None else [self._failed_s])])
        record.fail(failed_s)
        record.stand_still("reconfigure", known_s)
        recovery = record.recovery("failure", failed_s)
        recovery.detect_s += known_s - failed_s
        await self._emit("failed")
        self._command("abort")
        await server.wait_until(lambda: self._are_at("idle"), LEAVE_TIMEOUT_S)
        self._disconnect_unless("idle")
        await server.wait_until(lambda: self._are_at("idle"))
        lost = [member.name for member in self._members if not member.alive]
        # The driver of a GPU may take longer than the window to end a process that was killed.
        record.log.count("failures", int(bool(lost)))
        recovery.age_s = record.youngest_s(lost)
        record.event("failure", self.step, num_lost=len(lost))
        recovery.rebuild_s += self.now_s() - known_s
        if not lost:
            self._count_failed_attempt()
        else:
            self._failed_attempts = 0

    def _count_failed_attempt(self) -> None:
        """Give up after too many: on workers that have never trained, among others that have, else on the job."""
        error = next((member.error for member in self._members if member.error), "no error given")
        self._failed_attempts += 1
        newcomers = [member for member in self._members if not member.has_trained]
        if len(newcomers) == len(self._members):
            newcomers = []
        for member in newcomers:
            member.failed_attempts += 1
            if member.failed_attempts == MAX_FAILED_ATTEMPTS:
                # Steps between its attempts would keep the job, which pauses for each, from giving up.
                told = f"{MAX_FAILED_ATTEMPTS} attempts to join failed; the last: {member.error or error}"
                member.dismiss(f"{member.name}: {told}")
                self._failed_attempts = 0
        if self._failed_attempts == MAX_FAILED_ATTEMPTS:
            told = f"{MAX_FAILED_ATTEMPTS} attempts to go on failed in a row with no dead worker; the last: {error}"
            self.server.stop(told)

    def _is_finished(self) -> bool:
        """Tell whether a rank has done the last step."""
        last = self.spec.num_steps
        members = [member for member in self._members if member.alive and member.stage == "idle"]
        return last is not None and any(member.held.step >= last for member in members)
