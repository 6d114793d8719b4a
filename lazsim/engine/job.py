"""The training job as a SimPy process: it trains, and recovers when nodes under it fail.

The job is in one of the states of `lazsim.engine.states`, for each of which a method here passes the time and enters
the next. `lazsim.engine.protocol` decides which that is. Failures, ends of waits for new nodes and the end of the
simulation interrupt it.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import simpy

from lazsim.costmodel.recovery_times import restart_s
from lazsim.engine import protocol
from lazsim.engine.clock import CHANGE, JOIN, Activity, Clock, Moment
from lazsim.engine.held import NOTHING, Held
from lazsim.engine.joining import Joining
from lazsim.engine.ledger import Ledger
from lazsim.engine.log import FailureRecord, JobEvent, Log, State
from lazsim.engine.nodes import Nodes, Spares
from lazsim.engine.plan_reliability import OnPlan
from lazsim.engine.planner import Planner
from lazsim.engine.progress import Made, Progress, steps_begun
from lazsim.engine.run_plans import NO_MOVE, Moved, RunPlans
from lazsim.engine.sampling import window_s
from lazsim.engine.states import Detecting, Ended, JobState, Reconfiguring, Restarting, Stretch, Training, Waiting
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, require_end, scaled
from lazsim.engine.systems.system import System, decide_next, under_job
from lazsim.limits import MAX_WHOLE
from lazsim.trace.table import Batch, Trace


class Signal(Enum):
    """Why a job is interrupted when no node of its own fails."""

    JOIN = auto()
    END = auto()


class Job:
    """A job under one system, on the nodes of a trace up to `end_s`; see `lazsim.engine.simulate.simulate_system`.

    It saves a checkpoint every `interval_steps`, those of the job when None; 0 is never. `on_plan` is called whenever
    the plan in force may have changed; see `lazsim.engine.plan_reliability`. `planning` is one of
    `lazsim.limits.PLANNINGS`, and `spares` says which nodes stand by.
    """

    def __init__(
        self,
        env: Clock,
        trace: Trace,
        system: System,
        planner: Planner,
        end_s: float,
        *,
        on_plan: OnPlan | None,
        interval_steps: int | None,
        planning: str,
        spares: Spares,
    ) -> None:
        self.env, self.on_plan = env, on_plan
        costs = self.costs = planner.costs
        self.system = under_job(system, costs.job)
        self.log = Log()
        self.ledger = Ledger()
        self.spares = spares
        self.nodes = Nodes(trace.places, costs.cluster.nodes_per_server, spares.most_in_service)
        num_changes = int((trace.num_alive()[0] < end_s).sum())
        self.plans = RunPlans(self.system, planner, self.nodes, planning, num_changes)
        self.state: JobState = Waiting()
        self.extrapolated_s = self.below_threshold_s = self.stale_steps = 0.0
        self.steps_s: dict[tuple[int, int], float] = {}
        self.steps_made = Counter[tuple[float, int]]()
        self._shortest_step_s: dict[int, float] = {}
        self._has_started = False
        self._all_saved_step = 0
        self.step_s = 0.0
        own_steps = costs.job.checkpoint_interval_steps
        self.interval_steps = own_steps[system.name] if interval_steps is None else interval_steps
        self.progress = Progress(self.interval_steps)
        self._most_steps = min(LOAD_SAMPLE_STEPS, costs.job.rebalance_interval_steps)
        if planner.routing.is_even:
            self._most_steps = max(LOAD_SAMPLE_STEPS, self.interval_steps or MAX_WHOLE)
        # Mostly, a checkpoint takes what the last one took.
        self._save = lru_cache(1)(lambda system, *size: system.save(costs, *size))
        self.joining = Joining(env, self.nodes, costs.job.join_wait_s, spares.start_s, self._hear_join)
        self._trace, self._end_s = trace, end_s
        self._process: simpy.Process | None = None

    @property
    def lost_token_share(self) -> float | None:
        """Share of the tokens trained whose updates of experts rollbacks lost; None where none can be."""
        return self.stale_steps / max(1, self.progress.step) if self._stale_steps() is not None else None

    @property
    def host_bytes(self) -> float:
        """Bytes of a node's own memory that copies and logs take at the peak; 0 before the first step."""
        # Copies of shorter steps may take more windows, and the system of the end saves most at a time.
        sizes = self._shortest_step_s.items()
        return max((self.system.host_bytes(self.costs, *plan_and_step_s) for plan_and_step_s in sizes), default=0.0)

    # What happens to the job.

    def play(self) -> Activity:
        """Begin with the first nodes of the trace, let nodes go and come up to the end, and end."""
        batches = self._trace.batches()
        self._begin(next(batches))
        for batch in itertools.takewhile(lambda batch: batch.time_s < self._end_s, batches):
            yield Moment(self.env, batch.time_s - self.env.now, CHANGE)
            self._change(batch)
        yield Moment(self.env, self._end_s - self.env.now, CHANGE)
        # A step under way stays unfinished.
        self._interrupt(Signal.END)

    def _begin(self, batch: Batch) -> None:
        """Start with the nodes of the trace's first instant, at no cost where they suffice."""
        self._apply(batch)
        self._enter("waiting")
        decision = self._decide(NOTHING)
        if decision.action is protocol.Action.RESTART:
            self._train_on(self.plans.seated(decision.nodes, self.plans.planned(decision.nodes, self.progress.step)))
            self._has_started = True
        self._log("start")
        self._process = self.env.process(self._run())

    def _change(self, batch: Batch) -> None:
        """Let nodes go and come; all that go at one instant are one failure."""
        failed = not set(self.state.involved).isdisjoint(batch.removed)
        waited = self.joining.due_s is not None
        self.joining.change(batch, self._apply(batch))
        if failed:
            self._interrupt(batch)
            return
        # Those that take no part in what is going on may hold copies.
        self.state.held = self.state.held.without(batch.removed)
        self._log("nodes", num_lost=len(batch.removed), num_joined=len(batch.added))
        if waited and self.joining.due_s is None and isinstance(self.state, Waiting):
            # No node is left to wait for.
            self._interrupt(Signal.JOIN)

    def _apply(self, batch: Batch) -> tuple[str, ...]:
        """Let nodes go and come, and note it; return the spares that are called."""
        called = self.nodes.apply(batch)
        self.log.node_spans.change(self.env.now, None, batch.removed)
        self.log.node_spans.change(self.env.now, "spare", batch.added)
        return called

    def _interrupt(self, cause: Signal | Batch) -> None:
        assert self._process is not None, "the job has begun"
        self._process.interrupt(cause)

    def _hear_join(self) -> None:
        if self.state.hears_joins:
            self._interrupt(Signal.JOIN)

    # The states.

    def _run(self) -> Activity:
        activities: dict[type[JobState], Callable[[Any], Activity]] = {
            Waiting: self._wait,
            Detecting: self._detect,
            Reconfiguring: self._reconfigure,
            Restarting: self._restart,
            Training: self._train,
        }
        while not isinstance(self.state, Ended):
            try:
                yield from activities[type(self.state)](self.state)
            except simpy.Interrupt as interrupt:
                if interrupt.cause is not Signal.JOIN:
                    self._stop(interrupt.cause if isinstance(interrupt.cause, Batch) else None)

    def _stop(self, failure: Batch | None) -> None:
        """End whatever is going on, by a failure or at the end of the simulation."""
        self.ledger.close(self.env.now)
        before_s, step_end_s = self.ledger.seconds(), self.env.now
        self.log.end_failure(before_s)
        if isinstance(self.state, Detecting):
            step_end_s = self.state.step_end_s
        elif isinstance(self.state, Training) and (stretch := self.state.stretch) is not None:
            num_steps = stretch.steps_made(self.env.now)
            step_end_s = stretch.start_s + (num_steps + 1) * stretch.step_s
            self.plans.error.misplace(stretch.step_s)
            spent_s = self._book_steps(self.state, stretch, num_steps)
            if failure is not None:
                # The step under way is lost.
                self.ledger.move("compute", "lost_work", max(0.0, spent_s - num_steps * stretch.step_s))
        if self.progress.fail(self.env.now):
            self.log.count("checkpoints", -1)
        if failure is None:
            self._log("end")
            self.state = Ended()
            return
        if self.state.is_joining:
            # Those that are left join at the next step boundary.
            self.joining.at_next_boundary(set(self.nodes.in_order()).difference(self.state.held.nodes))
        before, removed = self.state, set(failure.removed)
        involved = set(before.involved)
        failed = tuple(node for node in failure.removed if node in involved)
        self.log.begin_failure(FailureRecord(self.env.now, failed, seconds=before_s))
        self.state = Detecting(
            before.held.without(failure.removed),
            survivors=tuple(node for node in before.involved if node not in removed),
            step_end_s=step_end_s,
            in_recovery=before.is_recovering,
        )
        self._log("failure", num_lost=len(failure.removed), num_joined=len(failure.added))

    def _wait(self, state: Waiting) -> Activity:
        if self.joining.due_s == self.env.now:
            yield Moment(self.env, 0.0, JOIN)
        decision = self._decide(state.held)
        waits_on = decision.action is protocol.Action.WAIT
        if self.joining.is_due:
            self.joining.close(are_enough=not waits_on)
        if waits_on or self.joining.due_s is not None:
            # Until an interrupt: where nodes may join, the job comes here again.
            yield self.env.event()
        self._carry_out(state.held, decision)

    def _detect(self, state: Detecting) -> Activity:
        rest_s = max(0.0, state.step_end_s - self.env.now)
        yield from self._spend("detect", self.system.detect_s(self.costs, rest_s))
        assert self.log.failure is not None, "a failure is detected"
        self.log.failure.detected_s = self.env.now
        decision = self._recovery(state)
        if self.joining.forming and decision.source != "peers":
            self.joining.give_up()
            decision = self._recovery(state)
        if decision.action is protocol.Action.RESTART:
            in_place = self.system.joins_in_place
            join_s = self.system.rebuild_s(self.costs) if in_place else restart_s(self.costs, decision.num_nodes)
            num_coming, start = self.joining.spares_within(join_s)
            num_nodes = self.plans.usable_nodes(len(self.nodes.in_order()) + num_coming)
            if start is not None and num_nodes > decision.num_nodes:
                # To restart now, and to stop once more for these, would take longer.
                self._enter("waiting")
                self._note_state()
                yield start
                decision = self._recovery(state)
        saved_step = self.progress.saved_step
        since_s = (self.progress.step - saved_step) * self.step_s
        # Before the first checkpoint, a rollback loses all steps.
        self.plans.note_failure(state.held, decision, since_s, self.interval_steps * self.step_s if saved_step else 0.0)
        self._carry_out(state.held, decision)

    def _recovery(self, state: Detecting) -> protocol.Decision:
        """Decide how the survivors of a failure go on."""
        # A system that plans anew does so once: with nodes that stand by, as stages could not share them evenly, and
        # with spares that have come into service.
        comes_into_service = self.spares.most_in_service is not None and self.joining.is_due
        takes_others = self.system.is_elastic and (self.joining.due_s is None or comes_into_service)
        return self._decide(state.held, joins_due=takes_others, in_recovery=state.in_recovery)

    def _reconfigure(self, state: Reconfiguring) -> Activity:
        """Plan anew, rebuild communicators and fetch missing states, or keep the places; go on at the same step."""
        decision, is_ready = state.decision, state.is_joining and self.plans.replica_start_s is not None
        if decision.action is protocol.Action.CONTINUE:
            for bucket, seconds in decision.phases:
                if bucket != "transfer" or not is_ready:
                    yield from self._spend(bucket, seconds)
            held = state.held.going_on(decision.nodes, decision.seats)
            others = self.system.newcomers(self.costs, held, self.nodes.in_order(), self.plans.usable_nodes)
            if others and not state.is_joining and self.joining.due_s is None:
                # Nodes that stood by take free places.
                self.joining.at_next_boundary(others)
            self._note_moved(None if dict(decision.phases).get("transfer") else NO_MOVE)
        else:
            held, moved = self.plans.bind(state.held, decision.nodes, decision.num_nodes, self.progress.step)
            yield from self._spend("reconfigure", self.system.rebuild_s(self.costs))
            if not is_ready:
                yield from self._spend("transfer", moved.seconds)
                self.plans.note_spent((state.held.size, held.size), self.progress.step, 1, moved.seconds)
            self._note_moved(moved)
        self.joining.leave(state.held.nodes, held.nodes)
        self._train_on(held)
        self.log.count("reconfigurations")
        self._log("joined" if state.is_joining else "recovered")

    def _restart(self, state: Restarting) -> Activity:
        # All nodes alive are taken in.
        self.joining.close()
        self.joining.dropped.clear()
        decision = state.decision
        planned = self.plans.planned(decision.nodes, self.progress.step)
        moved = self.plans.restart(self.system, decision, planned)
        yield from self._spend("restart", moved.seconds)
        # From memory, it is the system that knows what is fetched.
        loads = {"checkpoint": moved, "initial": NO_MOVE}
        self._note_moved(loads.get(decision.source))
        self._train_on(self.plans.seated(decision.nodes, planned))
        if self._has_started:
            self.log.count("restarts")
            self.system = self.system.within_budget(self.stale_steps, self.progress.step, self.interval_steps)
        self._log("restarted" if self._has_started else "started")
        self._has_started = True

    def _train(self, _state: Training) -> Activity:
        """Do what is due at a step boundary, in this order, and make steps up to the next one."""
        while True:
            for activity in (self._join_if_due, self._rebalance_if_due, self._checkpoint_if_due, self._compute):
                if not isinstance(self.state, Training):
                    return
                yield from activity(self.state)

    def _join_if_due(self, state: Training) -> Activity:
        """Take in the nodes collected: in place, or by a checkpoint and a restart."""
        if self.joining.is_due or self.progress.is_save_due or self._rebalance_is_due(state):
            # Who comes at this very instant still joins, before anything else begins.
            yield Moment(self.env, 0.0, JOIN)
        if not self.joining.is_due:
            return
        self.joining.close()
        ready = self.nodes.in_order()
        if (start_s := self.plans.replica_start_s) is not None:
            self._prepare_replicas(state.held, start_s)
            # Others would have to get ready before.
            ready = self.joining.ready(state.held.nodes)
        if not self.system.newcomers(self.costs, state.held, ready, self.plans.usable_nodes):
            return
        state.is_joining = True
        decision = self._decide(state.held, ready, joins_due=True, paused=True)
        if decision.action is protocol.Action.RESTART:
            yield from self._save_all(state)
            decision = self._decide(state.held, joins_due=True, paused=True)
        if decision.action is protocol.Action.RESUME:
            state.is_joining = False
            return
        self._carry_out(state.held, decision, is_joining=True)
        if isinstance(self.state, Reconfiguring):
            # The rest of the work at this boundary follows.
            yield from self._reconfigure(self.state)

    def _save_all(self, state: Training) -> Activity:
        """Make a checkpoint of everything before a restart, or wait until the one of this step is written."""
        all_step = self._all_saved_step if self._stale_steps() else self.progress.saved_step
        if self.progress.step > all_step:
            yield from self._checkpoint(state, waits=True)
        elif (left_s := self.progress.written_at_s() - self.env.now) > 0:
            yield from self._spend("checkpoint", left_s)
            # Rounding may end the wait just before the write does.
            self.progress.save(self.env.now)

    def _prepare_replicas(self, held: Held, start_s: float) -> None:
        """Let nodes that make whole replicas get ready to join beside training, each replica by itself.

        One with nodes of a replica that failed takes `start_s` more.
        """
        taken, dropped = set(held.nodes).union(*self.joining.forming), self.joining.dropped
        # Nodes of replicas that failed come last: all with which they make a replica start anew, too.
        others = sorted((node for node in self.nodes.in_order() if node not in taken), key=dropped.__contains__)
        decision = self._decide(held, (*held.nodes, *others), joins_due=True, paused=True)
        transfer_s = dict(decision.phases).get("transfer", 0.0)
        if decision.action is protocol.Action.RECONFIGURE:
            transfer_s = self.plans.bind(held, decision.nodes, decision.num_nodes, self.progress.step)[1].seconds
        chosen, size = set(decision.nodes), self.costs.grid.replica_nodes
        nodes = [node for node in others if node in chosen]
        for first in range(0, len(nodes), size):
            replica = tuple(nodes[first : first + size])
            self.joining.get_ready(replica, (0.0 if dropped.isdisjoint(replica) else start_s) + transfer_s)

    def _rebalance_if_due(self, state: Training) -> Activity:
        """Plan from the loads seen last; pause at this step boundary if that moves anything."""
        if not self._rebalance_is_due(state):
            return
        step, nodes = self.progress.step, state.held.nodes
        held, moved = self.plans.bind(state.held, nodes, len(nodes), step)
        if moved.seconds > 0:
            pause_s = self.costs.cluster.recovery.regroup_s + moved.seconds
            self.plans.note_spent(state.held.size, step, 0, pause_s)
            yield from self._spend("rebalance", pause_s)
            self.log.count("rebalances")
            self._log("rebalanced")
        self._train_on(held)

    def _rebalance_is_due(self, state: Training) -> bool:
        interval_steps = self.plans.rebalance_interval_steps
        return protocol.rebalance_is_due(self.system, self.progress.step, state.planned_step, interval_steps)

    def _checkpoint_if_due(self, state: Training) -> Activity:
        if self.progress.is_save_due:
            yield from self._checkpoint(state)

    def _checkpoint(self, state: Training, *, waits: bool = False) -> Activity:
        """Save the state, after the save before is written; where it `waits`, all of it, until it is written."""
        size = state.held.num_seats, state.timer(self.progress.step).step_s
        save = self.system.save_all(self.costs, *size) if waits else self._save(self.system, *size)
        before_s = max(0.0, self.progress.written_at_s() - self.env.now)
        stopped_s = before_s + save.stall_s + (save.persist_s if waits else 0.0)
        if stopped_s:
            yield from self._spend("checkpoint", stopped_s)
        self.progress.save(self.env.now, 0.0 if waits else save.persist_s)
        if waits:
            self._all_saved_step = self.progress.step
        self.log.count("checkpoints")

    def _compute(self, state: Training) -> Activity:
        """Make steps that take as long as each other; when nodes are to join, stop after the step under way."""
        if self.joining.is_due:
            return
        step_s, num_steps, extrapolated_share = state.timer(self.progress.step)
        if self.system.is_elastic and (interval := self.plans.rebalance_interval_steps):
            num_steps = min(num_steps, interval - self.progress.step % interval)
        persist_s = None
        if num_steps > self.progress.steps_to_save:
            save = self._save(self.system, state.held.num_seats, step_s)
            if save.stall_s or self.progress.save_must_wait(self.env.now, step_s, save.persist_s):
                num_steps = self.progress.steps_to_save
            else:
                persist_s = save.persist_s
        self.step_s = step_s
        self._note_state()
        self._enter("compute")
        state.stretch = stretch = Stretch(self.env.now, step_s, num_steps, extrapolated_share, persist_s)
        try:
            yield from self.env.passing(num_steps * step_s)
        except simpy.Interrupt as interrupt:
            if interrupt.cause is not Signal.JOIN:
                raise
            num_steps = min(num_steps, steps_begun(self.env.now - stretch.start_s, step_s))
            state.stretch = stretch = replace(stretch, num_steps=num_steps, is_cut=True)
            yield from self.env.passing(max(0.0, stretch.start_s + num_steps * step_s - self.env.now))
        self._book_steps(state, stretch, stretch.num_steps)

    # What the states share.

    def _carry_out(self, held: Held, decision: protocol.Decision, *, is_joining: bool = False) -> None:
        """Enter the state to which a decision leads, after going back as far as it says."""
        self.log.decide(decision.action.name.lower(), decision.source, decision.why)
        if decision.action in (protocol.Action.CONTINUE, protocol.Action.RECONFIGURE):
            self.state = Reconfiguring(held, decision, is_joining)
            return
        if decision.source != "peers":
            self._roll_back(self._copied_step(held) if decision.source == "memory" else 0)
        if decision.action is protocol.Action.WAIT:
            self._enter("waiting")
            self._assign(())
            self.state = Waiting(held if decision.source else NOTHING)
        else:
            # Nodes keep their copies in memory during a restart from these.
            self.state = Restarting(held if decision.source == "memory" else NOTHING, decision, is_joining)

    def _copied_step(self, held: Held) -> int:
        """Return the step of the newest copy in the memory of nodes; 0 where there is none."""
        has_stepped = held.num_seats and self.step_s
        lag_steps = self.system.memory_lag_steps(self.costs, held.num_seats, self.step_s) if has_stepped else None
        return 0 if lag_steps is None else self.progress.copied_step(lag_steps)

    def _enter(self, bucket: str) -> None:
        self.ledger.enter(bucket, self.env.now)
        self.log.phases.change(self.env.now, bucket)

    def _spend(self, bucket: str, seconds: float) -> Activity:
        self._enter(bucket)
        self._note_state()
        yield from self.env.passing(seconds)

    def _book_steps(self, state: Training, stretch: Stretch, num_steps: int) -> float:
        """Count the steps made of a stretch that ends now, and return its seconds."""
        state.stretch = None
        self.ledger.enter("compute", self.env.now)
        spent_s = self.env.now - stretch.start_s
        if spent_s:
            # A plan under which no step begins needs no memory.
            self.steps_s[state.held.size] = self.steps_s.get(state.held.size, 0.0) + spent_s
            shortest_s = self._shortest_step_s.get(state.held.num_seats, stretch.step_s)
            self._shortest_step_s[state.held.num_seats] = min(stretch.step_s, shortest_s)
        self.extrapolated_s += spent_s * stretch.extrapolated_share
        if state.is_below_threshold:
            self.below_threshold_s += spent_s
        samples = state.samples_per_step
        if num_steps:
            self.steps_made[stretch.step_s, samples] += num_steps
            end_s = min(stretch.start_s + num_steps * stretch.step_s, self.env.now)
            self.log.trained(stretch.start_s, end_s, samples / stretch.step_s)
        made = Made(stretch.start_s, num_steps, stretch.step_s, samples)
        self.plans.note_spent(state.held.size, self.progress.step, num_steps, num_steps * stretch.step_s)
        if stretch.persist_s is None:
            self.progress.add(made)
        else:
            # One that is due at the end of all is made there, as any other.
            saves_last = num_steps < stretch.num_steps
            self.log.count("checkpoints", self.progress.add_saving(made, stretch.persist_s, saves_last=saves_last))
        return spent_s

    def _roll_back(self, copied_step: int) -> None:
        """Go back to the last checkpoint, or to copies in memory of a step; updates of experts may be lost."""
        before = self.progress.samples
        lost = self.progress.roll_back(self.env.now, copied_step)
        self.ledger.move("compute", "lost_work", lost.seconds)
        self.log.count("lost_steps", lost.steps)
        if lost.steps:
            self.log.lost(lost.since_s, self.env.now)
            self._log("rolled_back", lost_steps=lost.steps, lost_samples=before - self.progress.samples)
        if self.log.failure is not None:
            self.log.failure.lost_steps += lost.steps
        since_steps = self.progress.step - self._all_saved_step
        self.stale_steps += self._stale_steps(since_steps) or 0.0
        self._all_saved_step = self.progress.step

    def _stale_steps(self, since_steps: float = math.inf) -> float | None:
        """See `System.stale_steps`."""
        return self.system.stale_steps(self.interval_steps, since_steps)

    def _note_moved(self, moved: Moved | None) -> None:
        """Note what recovery from a failure moved; None where only the time is known."""
        if (failure := self.log.failure) is not None:
            failure.experts_moved = moved and moved.experts
            failure.bytes_moved = moved and moved.num_bytes

    def _assign(self, nodes: tuple[str, ...]) -> None:
        """Note which nodes are in use from now on."""
        in_use = set(nodes)
        self.log.node_spans.change(self.env.now, "in use", nodes)
        self.log.node_spans.change(
            self.env.now, "spare", (node for node in self.nodes.in_order() if node not in in_use)
        )

    def _decide(
        self,
        held: Held,
        alive: tuple[str, ...] | None = None,
        *,
        paused: bool = False,
        joins_due: bool = False,
        in_recovery: bool = False,
    ) -> protocol.Decision:
        """Decide how to go on with all nodes alive, or these.

        After a failure the survivors recover first, and new nodes join at the next boundary.
        """
        stopped = protocol.StoppedJob(
            held,
            self.nodes.in_order() if alive is None else alive,
            self.plans.usable_nodes,
            lambda _nodes: self.plans.is_complete(held),
            paused=paused,
            joins_due=joins_due,
            checkpoint_step=self.progress.saved_step,
            copied_step=self._copied_step(held),
            dropped=self.joining.dropped,
            step=self.progress.step,
            step_s=self.step_s,
            in_recovery=in_recovery,
        )
        return decide_next(self.system, self.costs, stopped)

    def _train_on(self, held: Held) -> None:
        self.ledger.close(self.env.now)
        self.log.end_failure(self.ledger.seconds(), self.env.now)
        if not isinstance(self.state, Training):
            self._assign(held.nodes)
        step, timer = self.progress.step, self.plans.timer(held)
        num_steps = step + (self._end_s - self.env.now) / timer(step).step_s
        self.plans.sampler.consider(num_steps, window_s(self.system, self.costs, held.num_seats))
        step_s = timer(step).step_s
        pace = self.system.pace(self.costs, held, step_s)
        require_end(step_s, self.env.now, self._end_s, self._most_steps)
        self.state = Training(
            held,
            timer=scaled(timer, pace.step_factor),
            samples_per_step=round(self.plans.samples_per_step(held) * pace.samples_share),
            planned_step=step,
            is_below_threshold=self.system.is_elastic
            and self.plans.fewest_nodes(held) < self.costs.job.fault_threshold,
        )

    def _note_state(self) -> None:
        num_used = self.state.num_used
        if self.on_plan is not None:
            held, per_domain = self.state.held, self.costs.cluster.nodes_per_domain
            domains = self.nodes.domains_from(held.nodes, per_domain) if per_domain else range(len(self.nodes))
            self.on_plan(self.env.now, held.plan if num_used else None, domains)
        self.log.state(State(self.env.now, len(self.nodes), num_used))

    def _log(self, event: str, **numbers: int) -> None:
        step = self.progress.step
        if isinstance(self.state, Training) and self.state.stretch is not None:
            step += self.state.stretch.steps_made(self.env.now)
        self.log.events.append(JobEvent(self.env.now, event, step, len(self.nodes), self.state.num_used, **numbers))
        self._note_state()
