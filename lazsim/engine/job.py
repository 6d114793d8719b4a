"""The training job as a SimPy process: it trains, and recovers when nodes under it fail.

The job is always in one activity, each a generator of SimPy events. A failure, an end of a wait for new nodes and the
end of the simulation interrupt it; `_life` then chooses the next activity from what the job knows.
"""

import simpy

from lazsim.costmodel.recovery_times import checkpoint_load_s, checkpoint_save_s, restart_s
from lazsim.costmodel.step import CostModel
from lazsim.engine.activity import Activity, Cause
from lazsim.engine.ledger import Ledger
from lazsim.engine.log import Event, Log, State
from lazsim.engine.nodes import Nodes
from lazsim.engine.plan_reliability import OnPlan, ignore
from lazsim.engine.planner import Planner
from lazsim.engine.progress import Progress, steps_begun, steps_in
from lazsim.engine.reconfiguration import bind_survivors
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, Pace, PaceOf
from lazsim.engine.systems import System
from lazsim.placement.plan import PlacementPlan, is_recoverable
from lazsim.routing import Routing
from lazsim.trace.table import Batch


class Job:
    """A job under one system.

    Parameters
    ----------
    env
        The simulation, at time 0.
    system, costs, routing
        What is run, what it takes and what the gate asks for.
    pace_of
        How fast it is on a plan; see `lazsim.engine.step_timer`.
    on_plan
        Told how the job stands whenever that may have changed; see `lazsim.engine.plan_reliability`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        system: System,
        costs: CostModel,
        routing: Routing,
        pace_of: PaceOf,
        on_plan: OnPlan = ignore,
    ) -> None:
        self.env, self.on_plan = env, on_plan
        self.system, self.costs, self._pace_of = system, costs, pace_of
        self.planner = Planner(system, costs, routing)
        self.log = Log()
        self.ledger = Ledger("waiting")
        self.nodes = Nodes(costs.cluster.nodes_per_server)
        self.progress = Progress()
        self._planned_step = 0
        self._undetected = False
        self._started = False
        self._join_at_s: float | None = None
        self._hears_joins = False
        self._stretch: tuple[float, float] | None = None
        self._in_use: list[str] = []
        self._taking_part: set[str] = set()
        self._plan: PlacementPlan | None = None
        self._running: Pace | None = None
        self.extrapolated_s = self._extrapolated_share = 0.0
        self._process: simpy.Process | None = None

    # What happens to the job.

    def begin(self, batch: Batch) -> None:
        """Start with the nodes of the trace's first instant, at no cost where they suffice."""
        self.nodes.apply(batch)
        usable = self.planner.usable_nodes(len(self.nodes))
        if usable:
            self._adopt(self.nodes.first(usable), self.planner.plan(usable, self.progress.step))
            self._started = True
        self._log("start")
        self._process = self.env.process(self._life())

    def change(self, batch: Batch) -> None:
        """Let nodes go and come; all that go at one instant are one failure."""
        failed = self._taking_part.intersection(batch.removed)
        self.nodes.apply(batch)
        if batch.added and self._join_at_s is None:
            self._join_at_s = self.env.now + self.costs.job.join_wait_s
            self.env.process(self._wake_to_join(self._join_at_s))
        if failed:
            self._drop(failed)
            self._interrupt(Cause.FAILURE)
        self._log("failure" if failed else "nodes", num_lost=len(batch.removed), num_joined=len(batch.added))

    def end(self) -> None:
        """Stop here; a step under way stays unfinished."""
        self._interrupt(Cause.END)

    def _interrupt(self, cause: Cause) -> None:
        assert self._process is not None, "the job has begun"
        self._process.interrupt(cause)

    def _wake_to_join(self, at_s: float) -> Activity:
        yield self.env.timeout(at_s - self.env.now)
        # What happens to nodes at this very instant comes first: who comes now still joins.
        yield self.env.timeout(0)
        if self._join_at_s == at_s and self._hears_joins:
            self._interrupt(Cause.JOIN)

    def _drop(self, failed: set[str]) -> None:
        kept = [index for index, node in enumerate(self._in_use) if node not in failed]
        if self._plan is not None:
            self._plan = self._plan.nodes(kept)
        self._in_use = [self._in_use[index] for index in kept]
        self._taking_part = set(self._in_use)
        self._running = None
        self._undetected = True
        self.log.count("failures")

    # What the job does.

    def _life(self) -> Activity:
        while True:
            try:
                if self._undetected:
                    yield from self._spend("detect", self.costs.cluster.recovery.detect_s)
                    self._undetected = False
                elif self._running is not None:
                    yield from self._train()
                elif self._can_recover():
                    yield from self._reconfigure(list(self._in_use), "recovered")
                else:
                    yield from self._start_over()
            except simpy.Interrupt as interrupt:
                if interrupt.cause is Cause.END:
                    self.ledger.close(self.env.now)
                    self._log("end")
                    return

    def _spend(self, bucket: str, seconds: float) -> Activity:
        self.ledger.enter(bucket, self.env.now)
        self._note_state(0.0)
        yield self.env.timeout(seconds)

    def _train(self) -> Activity:
        """Train until something interrupts."""
        job = self.costs.job
        checkpoint_steps = job.checkpoint_interval_steps[self.system.name]
        boundaries = (LOAD_SAMPLE_STEPS, checkpoint_steps, job.rebalance_interval_steps)
        while True:
            if self._join_at_s is not None and self.env.now >= self._join_at_s:
                yield from self._join()
            if self.system.is_elastic and self.progress.is_due(job.rebalance_interval_steps, self._planned_step):
                yield from self._rebalance()
            if self.progress.is_due(checkpoint_steps, self.progress.saved_step):
                yield from self._checkpoint()
            if self._join_at_s is not None and self.env.now >= self._join_at_s:
                continue
            step = self.progress.step
            num_steps = min(interval - step % interval for interval in boundaries)
            assert self._running is not None, "only a running job trains"
            step_s = self._running.step_s(step)
            self._note_state(self._running.samples_per_step / step_s)
            self._extrapolated_share = self._running.extrapolated_share(step)
            yield from self._compute(num_steps, step_s, self._running.samples_per_step)

    def _compute(self, num_steps: int, step_s: float, samples_per_step: int) -> Activity:
        """Make so many steps; when nodes are to join, stop after the step under way."""
        self.ledger.enter("compute", self.env.now)
        start_s = self.env.now
        try:
            self._hears_joins = True
            self._stretch = (start_s, step_s)
            yield self.env.timeout(num_steps * step_s)
        except simpy.Interrupt as interrupt:
            if interrupt.cause is not Cause.JOIN:
                raise
            self._hears_joins = False
            num_steps = min(num_steps, steps_begun(self.env.now - start_s, step_s))
            yield self.env.timeout(max(0.0, start_s + num_steps * step_s - self.env.now))
        finally:
            self._hears_joins = False
            self._stretch = None
            self._book_steps(num_steps, step_s, samples_per_step, self.env.now - start_s)

    def _book_steps(self, num_steps: int, step_s: float, samples_per_step: int, spent_s: float) -> None:
        """Count the steps made in the time spent; a failure makes that of the unfinished step lost work."""
        self.ledger.enter("compute", self.env.now)
        self.extrapolated_s += spent_s * self._extrapolated_share
        done = min(num_steps, steps_in(spent_s, step_s))
        if self._undetected:
            self.ledger.move("compute", "lost_work", max(0.0, spent_s - done * step_s))
        self.progress.add(done, samples_per_step, step_s)

    def _checkpoint(self) -> Activity:
        yield from self._spend("checkpoint", checkpoint_save_s(self.costs))
        self.progress.save()
        self.log.count("checkpoints")

    def _rebalance(self) -> Activity:
        """Plan from the loads seen last; change over at this step boundary if that moves anything."""
        nodes, plan, seconds = self._change_over(self._in_use, len(self._in_use))
        if seconds > 0:
            yield from self._spend("rebalance", self.costs.cluster.recovery.regroup_s + seconds)
            self.log.count("rebalances")
            self._log("rebalanced")
        self._adopt(nodes, plan)

    def _join(self) -> Activity:
        """Take in the nodes collected: elastically, or by a checkpoint and a restart where that helps."""
        self._join_at_s = None
        usable = self.planner.usable_nodes(len(self.nodes))
        try:
            if self.system.is_elastic:
                waiting = [node for node in self.nodes.first(usable) if node not in self._taking_part]
                if waiting:
                    yield from self._reconfigure([*self._in_use, *waiting], "joined")
            elif usable > len(self._in_use):
                if self.progress.step > self.progress.saved_step:
                    yield from self._checkpoint()
                yield from self._restart()
        except simpy.Interrupt:
            # Those that are still there join at the next step boundary.
            self._join_at_s = self.env.now
            raise

    def _reconfigure(self, candidates: list[str], event: str) -> Activity:
        """Plan for these nodes, rebuild communicators, fetch missing states and go on at the same step."""
        self._taking_part = set(candidates)
        nodes, plan, seconds = self._change_over(candidates, self.planner.usable_nodes(len(candidates)))
        yield from self._spend("reconfigure", self.costs.cluster.recovery.rebuild_s)
        yield from self._spend("transfer", seconds)
        self._adopt(nodes, plan)
        self.log.count("reconfigurations")
        self._log(event)

    def _start_over(self) -> Activity:
        """Go back to the last checkpoint, wait for enough nodes, and restart on all that are alive."""
        lost_steps, lost_s = self.progress.roll_back()
        self.ledger.enter("waiting", self.env.now)
        self.ledger.move("compute", "lost_work", lost_s)
        self.log.count("lost_steps", lost_steps)
        self._in_use, self._plan, self._taking_part = [], None, set()
        if lost_steps:
            self._log("rolled_back", lost_steps=lost_steps)
        while not self.planner.usable_nodes(len(self.nodes)):
            if self._join_at_s is not None and self._join_at_s <= self.env.now:
                # Those who were collected meanwhile are counted already; the next to come start a new collection.
                self._join_at_s = None
            try:
                self._hears_joins = True
                yield self.env.event()
            except simpy.Interrupt as interrupt:
                if interrupt.cause is not Cause.JOIN:
                    raise
            finally:
                self._hears_joins = False
        yield from self._restart()

    def _restart(self) -> Activity:
        self._join_at_s = None
        usable = self.planner.usable_nodes(len(self.nodes))
        nodes, plan = self.nodes.first(usable), self.planner.plan(usable, self.progress.step)
        self._running, self._plan, self._in_use, self._taking_part = None, None, [], set(nodes)
        load_s = checkpoint_load_s(self.costs, plan) if self.progress.saved_step else 0.0
        yield from self._spend("restart", restart_s(self.costs, usable) + load_s)
        self._adopt(nodes, plan)
        if self._started:
            self.log.count("restarts")
        self._log("restarted" if self._started else "started")
        self._started = True

    # What the job knows.

    def _can_recover(self) -> bool:
        plan = self._plan if self.system.recovers_from_peers else None
        usable = self.planner.usable_nodes(len(self._in_use))
        return usable > 0 and plan is not None and is_recoverable(plan.holds_LEN)

    def _change_over(self, candidates: list[str], num_nodes: int) -> tuple[list[str], PlacementPlan, float]:
        """Plan for so many of the candidates; return them in the plan's order, the plan, and the transfer time."""
        assert self._plan is not None, "something to change over from"
        plan = self.planner.plan(num_nodes, self.progress.step)
        chosen_N, seconds = bind_survivors(self.costs, self._plan, plan, self.nodes.servers(candidates))
        return [candidates[index] for index in chosen_N.tolist()], plan, seconds

    def _adopt(self, nodes: list[str], plan: PlacementPlan) -> None:
        self._in_use, self._plan, self._taking_part = nodes, plan, set(nodes)
        self._planned_step = self.progress.step
        self._running = self._pace_of(plan, self.nodes.servers(nodes))

    def _note_state(self, samples_per_s: float) -> None:
        num_used = len(self._in_use) if self._running is not None else 0
        self.on_plan(self.env.now, self._plan if num_used else None, len(self.nodes))
        self.log.state(State(self.env.now, len(self.nodes), num_used, samples_per_s))

    def _log(self, event: str, **numbers: int) -> None:
        num_used = len(self._in_use) if self._running is not None else 0
        step = self.progress.step
        if self._stretch is not None:
            start_s, step_s = self._stretch
            step += steps_in(self.env.now - start_s, step_s)
        self.log.events.append(Event(self.env.now, event, step, len(self.nodes), num_used, **numbers))
        training = self._stretch is not None and self._running is not None
        self._note_state(self.log.states[-1].samples_per_s if training else 0.0)
