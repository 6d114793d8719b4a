"""A live job does what a simulated one does: its coordinator leads workers that only count steps, in a time of its own.

Both go through the same random failures and joins, of which some come while a job recovers, saves or waits.
"""

import asyncio
import selectors
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.live.coordinator import Coordinator
from lazsim.live.fault_injector import LocalNodes, TraceInjector
from lazsim.live.messages import (
    CheckpointWritten,
    Command,
    HeldState,
    LiveError,
    Reached,
    StartGeneration,
    StepDone,
)
from lazsim.live.worker_server import WorkerConnection, WorkerServer
from tests.jobs import REBUILD_S, RESTART_S, SAVE_S, STEP_S, TRANSFER_S, EvenLoads, costs, trace
from tests.live_jobs import tiny_spec

NUM_LAYERS, NUM_EXPERTS = 2, 4
NOTHING = HeldState()
JOIN_WAIT_S = 30.0
NEVER = 10**6
"""Steps between saves but those for nodes that join: a live job that saves hears a pause after the next step only."""


class PatientSelector(selectors.SelectSelector):
    """Does not wait: the time for which it would have passes at once."""

    now_s = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "a job waits for what never comes"
        # A little at least, as for any turn: what is due in less would never come.
        self.now_s += max(1e-6, timeout)
        return super().select(0)


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own."""

    def __init__(self):
        self.clock = PatientSelector()
        super().__init__(self.clock)

    def time(self):
        return self.clock.now_s


@dataclass(eq=False)
class CountingWorker(WorkerConnection):
    """A worker that has states by name only, and counts steps with the others of its generation."""

    pool: "CountingPool | None" = None
    state: HeldState = NOTHING
    asked: str = ""
    task: asyncio.Task | None = None

    def send(self, message):
        asyncio.get_running_loop().call_soon(self._receive, message)

    def disconnect(self):
        self.pool.kill(self.name)

    def report(self, message):
        if self.alive:
            self.pool.coordinator.on_message(self, message)
            self.pool.server.notify()

    def _receive(self, message):
        match message:
            case StartGeneration():
                self.asked, self.plan, self.number = "", message.plan, message.generation
                self.rank = message.plan.members.index(self.name)
                self.task = asyncio.create_task(self._take_part(message))
            case Command(do="train"):
                self.state = msgspec.structs.replace(self.state, blocks=wanted_by(self.plan, self.rank))
                if self.rank >= self.plan.num_ranks:
                    self.report(Reached(self.number, "idle", self.state))
                elif self.rank == 0:
                    self.task = asyncio.create_task(self.pool.train(self.number, self.plan))
            case Command(do="abort"):
                self.task.cancel()
                self.report(Reached(self.number, "idle", self.state))
            case Command():
                self.asked = message.do

    async def _take_part(self, start):
        """Connect to the others, and obtain the states of the plan."""
        plan, number = start.plan, start.generation
        wanted = wanted_by(plan, self.rank)
        if plan.source == "peers":
            await asyncio.sleep(0.0 if start.reuse else REBUILD_S)
            lacking = (wanted_by(plan, rank) - plan.holds[rank] for rank in range(plan.num_ranks))
            transfer_s = TRANSFER_S if any(lacking) else 0.0
        else:
            # A restart loads a checkpoint if there is one. Real workers keep what they hold until they load it.
            self.state = NOTHING
            await asyncio.sleep(RESTART_S - (SAVE_S if plan.source == "initial" else 0.0))
            transfer_s = 0.0
        self.report(Reached(number, "connected", self.state))
        await asyncio.sleep(transfer_s)
        held = plan.holds[self.rank] if plan.source == "peers" else frozenset()
        self.state = HeldState(plan.step, False, wanted | held, self.state.generation)
        self.report(Reached(number, "ready", self.state))


class CountingPool:
    """Starts and kills such workers, and lets those of a generation train together."""

    def __init__(self, server, coordinator, saved):
        self.server, self.coordinator, self.saved = server, coordinator, saved
        self.running = {}

    @property
    def num_workers(self):
        return len(self.running)

    def is_running(self, name):
        return name in self.running

    def start(self, name, *_):
        self.running[name] = None
        asyncio.get_running_loop().call_soon(self._connect, name)

    def _connect(self, name):
        worker = CountingWorker(name, name, None, None, HeldState(), 0.0, pool=self)
        self.running[name] = worker
        self.server.workers.append(worker)
        self.coordinator.on_join(worker)
        self.server.notify()

    def kill(self, name):
        worker = self.running.pop(name, None)
        if worker is not None:
            worker.alive, worker.stage = False, "idle"
            self.server.workers.remove(worker)
            self.coordinator.on_leave(worker)
            self.server.notify()

    async def train(self, number, plan):
        """Make steps until a rank is lost, or all pause at the end of one."""
        ranks = [self.running.get(name) for name in plan.members[: plan.num_ranks]]
        step = plan.step
        # Simulated nodes that have been collected join before the first step; real ones are asked to pause after it.
        for _ in range(9):
            await asyncio.sleep(0)
        asked = {rank.asked for rank in ranks if rank is not None}
        while True:
            if asked == {""}:
                await asyncio.sleep(STEP_S)
            # The others wait for a rank that is lost.
            if any(rank is None or not rank.alive or rank.number != number for rank in ranks):
                return
            if asked == {""}:
                asked, step = {rank.asked for rank in ranks}, step + 1
                for rank in ranks:
                    rank.state = msgspec.structs.replace(rank.state, step=step, generation=number)
                ranks[0].report(StepDone(number, step, 0.0, STEP_S, [[1] * NUM_EXPERTS] * NUM_LAYERS))
            if "save" in asked and step > max(self.saved, default=0):
                await asyncio.sleep(SAVE_S)
                for rank in ranks:
                    rank.report(CheckpointWritten(number, step, SAVE_S, SAVE_S))
            if asked != {""}:
                for rank in ranks:
                    rank.report(Reached(number, "idle", rank.state))
                return


def wanted_by(plan, rank):
    """Return the blocks that a rank trains: the dense one and the experts in its slots."""
    if rank >= plan.num_ranks:
        return frozenset()
    experts = ((layer, expert) for layer, slots in enumerate(plan.slots) for expert in slots[rank] if expert >= 0)
    return frozenset({0} | {1 + layer * NUM_EXPERTS + expert for layer, expert in experts})


def lead(system, cost_model, events):
    """Lead a live job through a trace; return its record."""
    loop, saved = PatientLoop(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazsim.live.coordinator.time", SimpleNamespace(monotonic=loop.time))
        in_memory = SimpleNamespace(
            complete=lambda _spec, step, _draft: saved.append(step), last_step=lambda _folder: max(saved, default=0)
        )
        patch.setattr("lazsim.live.coordinator.checkpoint", in_memory)
        # Both jobs make their steps at the same times.
        patch.setattr("lazsim.live.coordinator.FAILURE_WINDOW_S", 1e-4)
        patch.setattr("lazsim.live.fault_injector.WATCH_INTERVAL_S", 10.0)

        async def run():
            spec = tiny_spec(system, interval=NEVER)
            server = WorkerServer(msgspec.structs.replace(spec, num_steps=None), b"secret")
            server.max_workers = 1000
            injector = TraceInjector(events)
            coordinator = Coordinator(server, cost_model, len(injector.initial), 60.0)
            pool = CountingPool(server, coordinator, saved)
            nodes = LocalNodes(coordinator, pool, Path("none"), injector.places)
            coordinator.place_of = nodes.places.__getitem__
            coordinator.may_return, coordinator.num_ended = pool.is_running, nodes.num_ended
            coordinator.on_event = lambda *event: injector.on_event(nodes, *event)
            server.start(nodes.watch(injector))
            injector.begin(nodes)
            await coordinator.run()
            return coordinator.result.run

        try:
            return loop.run_until_complete(run())
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def what_happened(run):
    """Return what a job did: how it went on each time with how many nodes, and how often it did what."""
    # The start at the first instant is no event of a simulation.
    kinds = ("recovered", "joined", "restarted", "started")
    went_on = [one.num_used for one in run.events if one.event in kinds and one.time_s > 0.1]
    return went_on, {name: run.counts[name] for name in ("failures", "reconfigurations", "restarts")}


@st.composite
def changes(draw):
    """Draw when nodes go and come. No two changes of a job fall on one step boundary, whatever it has lost before."""
    alive, num_named, time_s = [], 0, 0.0
    found = []
    for index in range(draw(st.integers(3, 9))):
        added = 0 if alive and draw(st.booleans()) else draw(st.integers(1, 4 if index else 5))
        if added:
            names = [f"n{number}" for number in range(num_named, num_named + added)]
            num_named += added
            alive += names
            found.append((time_s, "add", " ".join(names)))
        else:
            # Half of the time the last that have come: perhaps while others wait for them, or save.
            count = draw(st.integers(1, len(alive)))
            names = alive[-count:] if draw(st.booleans()) else draw(st.permutations(alive))[:count]
            alive = [name for name in alive if name not in names]
            found.append((time_s, "remove", " ".join(names)))
        # Within a recovery or a save, about when nodes join, or when all is calm.
        time_s += draw(st.integers(3, 15) | st.integers(30, 45) | st.integers(60, 200)) + 0.17
    return trace(*found, duration_s=time_s + 200)


def compare(system, events, **job):
    cost_model = costs(
        **job,
        join_wait_s=JOIN_WAIT_S,
        checkpoint_interval_steps=dict.fromkeys(LIVE_SYSTEMS, NEVER),
        rebalance_interval_steps=NEVER,
    )
    # A coordinator notices at once.
    recovery = msgspec.structs.replace(cost_model.cluster.recovery, detect_s=0.0)
    cost_model = replace(cost_model, cluster=msgspec.structs.replace(cost_model.cluster, recovery=recovery))
    simulated = simulate_system(events, LIVE_SYSTEMS[system], cost_model, EvenLoads(NUM_LAYERS, NUM_EXPERTS))
    assert what_happened(lead(system, cost_model, events)) == what_happened(simulated)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(system=st.sampled_from(sorted(LIVE_SYSTEMS)), events=changes())
def test_a_live_job_goes_on_as_a_simulated_one_through_any_failures_and_joins(system, events):
    compare(system, events)


@pytest.mark.parametrize("system", LIVE_SYSTEMS)
@pytest.mark.parametrize("gone", ["c d", "c d e", "a", "a c d", "a b", "a b c d e"])
def test_a_live_job_goes_on_as_a_simulated_one_that_loses_nodes_while_it_takes_others_in(gone, system):
    # They are collected until 81 s and the step ends at 82 s. A save for them ends at 92 s, a reconfiguration at 99 s.
    joining = (51.0, "add", "c d" if "e" not in gone else "c d e")
    compare(system, trace((0.0, "add", "a b"), joining, (86.5, "remove", gone), (240.3, "add", "f g")))


@pytest.mark.parametrize("system", LIVE_SYSTEMS)
def test_nodes_that_come_to_a_live_job_wait_for_others_where_those_that_were_to_join_are_gone(system):
    # a fails while c and d join, who go while the others recover: g, too, joins 30 s after it came, with h.
    joins, losses = [(51.0, "add", "c d"), (90.3, "add", "g"), (115.3, "add", "h")], [(86.5, "remove", "a")]
    losses.append((88.3, "remove", "c d"))
    compare(system, trace((0.0, "add", "a b e f"), *sorted([*joins, *losses]), duration_s=400.0))


@pytest.mark.parametrize("system", LIVE_SYSTEMS)
def test_nodes_that_no_step_boundary_takes_in_wait_for_others_that_come_in_the_next_step(system):
    # Of those that join, j alone is left at 85.1 s. It is of no use at the end of the recovery, a boundary too; k and l
    # come in the step after that, and wait for others.
    joins = [(43.22, "add", "h i"), (48.93, "add", "j"), (96.27, "add", "k l"), (110.44, "add", "m n o p")]
    events = trace((0.0, "add", "a b c d e f"), *joins[:2], (85.1, "remove", "e f h i"), *joins[2:], duration_s=400.0)
    compare(system, events, regrouped_joins="restart")


@pytest.mark.parametrize("error", [LiveError("no process is left"), OSError("no descriptor is left")])
def test_a_job_ends_with_the_error_of_a_node_that_cannot_be_started_later(error, monkeypatch):
    start = CountingPool.start

    def start_first_two(pool, *arguments):
        if len(pool.running) == 2:
            raise error
        start(pool, *arguments)

    monkeypatch.setattr(CountingPool, "start", start_first_two)
    cost_model = costs(checkpoint_interval_steps=dict.fromkeys(LIVE_SYSTEMS, NEVER))
    with pytest.raises(type(error), match=str(error)):
        lead("lazarus", cost_model, trace((0.0, "add", "a b"), (51.0, "add", "c"), (240.0, "add", "d")))
