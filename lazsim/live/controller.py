"""The controller: decides who trains with which plan, and leads everybody from epoch to epoch.

An epoch is a set of ranks with a plan and communicators. It ends when one of them fails or leaves, or when all
pause together at a step boundary. `lazsim.engine.protocol` decides what comes next, as for a simulated job.
"""

import asyncio
from collections.abc import Callable, Iterable

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.protocol import collect_until, find_newcomers, join_is_due, rebalance_is_due
from lazsim.live.decider import Decider
from lazsim.live.hub import Peer
from lazsim.live.messages import Enter, Go, Leave, LiveError, Pause
from lazsim.live.plan import NextEpoch, layout_groups
from lazsim.live.spec import LiveSpec

SETTLE_S = 0.02
"""Failures that the controller hears of within this time are one."""

MOST_VAIN_EPOCHS = 5
"""So many epochs may end one after the other without a death and without a step: then something else is wrong."""

ENTER_S = 600.0
"""For so long a worker may take to have its communicators, and then its states; then it counts as dead."""

LEAVE_S = 60.0
"""For so long a worker may take to leave an epoch, be it in the midst of a checkpoint; then it counts as dead."""

START_S = 60.0
"""For so long the first workers are waited for."""


class Controller(Decider):
    """Leads one job.

    Parameters
    ----------
    spec, costs, secret, device, host, port
        See `Listener`.
    initial_nodes
        Nodes to wait for before the first step.

    Attributes
    ----------
    start_s : float
        For how long the first workers are waited for.
    """

    def __init__(
        self,
        spec: LiveSpec,
        costs: CostModel,
        secret: bytes,
        initial_nodes: int,
        device: str = "cpu",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(spec, costs, secret, device, host, port)
        self.initial_nodes = initial_nodes
        self.start_s = START_S
        self._slots: list[list[list[int]]] = []

    async def run(self) -> None:
        """Lead the job until it is over.

        Raises
        ------
        LiveError
            When it cannot go on.
        """
        await self._until(lambda: len(self.peers) >= self.initial_nodes, self.start_s)
        if len(self.peers) < self.initial_nodes:
            self.stop(f"{len(self.peers)} of {self.initial_nodes} workers came within {self.start_s:g} s")
        if not self._usable_nodes(len(self.peers)):
            # The job waits from the first instant on, and what happens to nodes begins.
            await self._begin_clock()
        while self.stopped is None:
            decision = await self._decide()
            if decision is None:
                continue
            if await self._enter(decision):
                await self._train()
            await self._assemble()
        self.record.enter("waiting")
        if self._bug is not None:
            raise self._bug
        if self.stopped:
            raise LiveError(self.stopped)

    async def _begin_clock(self) -> None:
        self._start_clock()
        self._clock_runs = True
        await self.on_happening("started", self._epoch, self.step)

    async def _enter(self, decision: NextEpoch) -> bool:
        """Lead the candidates into an epoch; return whether all of them got there."""
        record, candidates = self.record, self._candidates
        ranks = candidates[: decision.num_ranks]
        self._epoch += 1
        epoch = self._epoch
        reuse = bool(self._pausing) and len(candidates) == len(ranks) and candidates == self._in_use
        if decision.source != "peers":
            self._roll_back(decision)
        self.step = decision.step
        cause = self._pausing or ("failure" if decision.source == "peers" else "restart")
        self._pausing = ""
        if cause == "rebalance":
            record.enter("rebalance")
        else:
            record.enter("reconfigure" if decision.source == "peers" else "restart")
        recovery = record.recovery(cause)
        recovery.num_nodes, recovery.busiest_bytes = len(ranks), decision.busiest_bytes
        recovery.source = decision.source
        begun_s = self.now_s()
        self._in_use, self._failed_s = list(candidates), None
        self._call_in(decision, reuse=reuse)
        await self.on_happening("entered", epoch, self.step)
        if not await self._all(lambda peer: peer.rebuilt == epoch):
            return False
        recovery.rebuild_s += self.now_s() - begun_s
        await self.on_happening("rebuilt", epoch, self.step)
        if decision.source == "peers" and cause != "rebalance":
            record.enter("transfer")
        begun_s = self.now_s()
        if not await self._all(lambda peer: peer.ready == epoch):
            return False
        recovery.transfer_s += self.now_s() - begun_s
        await self.on_happening("ready", epoch, self.step)
        if not self._clock_runs:
            # What comes before the first step is no part of what a trace does to a job.
            await self._begin_clock()
        self._start(decision, ranks, cause)
        return True

    def _roll_back(self, decision: NextEpoch) -> None:
        record = self.record
        self._has_state = False
        lost = max(0, self.step - decision.step)
        record.log.count("lost_steps", lost)
        if lost:
            record.event("rolled_back", decision.step, lost_steps=lost)
            record.ledger.move("compute", "lost_work", min(record.unsaved_s, record.ledger.seconds()["compute"]))
        record.unsaved_s = 0.0

    def _call_in(self, decision: NextEpoch, *, reuse: bool) -> None:
        """Tell all candidates what the epoch is."""
        self._slots = decision.slots_LNS.tolist()
        enter = Enter(
            epoch=self._epoch,
            step=decision.step,
            source=decision.source,
            senders=[peer.name for peer in self._candidates],
            num_ranks=decision.num_ranks,
            holds=[sorted(holds) for holds in decision.holds],
            slots=self._slots,
            groups=layout_groups(self.system, self.costs, decision.num_ranks),
            padded=self.system.padded,
            reuse=reuse,
        )
        for peer in self._candidates:
            peer.idle, peer.epoch, peer.why = False, self._epoch, ""
            peer.send(enter)

    def _start(self, decision: NextEpoch, ranks: list[Peer], cause: str) -> None:
        record = self.record
        if not self._started and len(self.peers) > len(self._candidates):
            # Who came while the first epoch was prepared joins like those who come later.
            self._join_at_s = collect_until(self._join_at_s, self.now_s(), self.costs.job.join_wait_s)
        for peer in self._candidates:
            peer.send(Go(self._epoch))
        self._in_use, self._has_state = ranks, True
        record.num_used = len(ranks)
        if decision.source == "peers":
            record.log.count("rebalances" if cause == "rebalance" else "reconfigurations")
        elif self._started:
            record.log.count("restarts")
        if not self._started:
            record.first_step = decision.step
        cause = cause if self._started else "start"
        self._started = True
        record.event(
            {"failure": "recovered", "join": "joined", "rebalance": "rebalanced", "start": "started"}.get(
                cause, "restarted"
            ),
            self.step,
        )
        record.enter("compute")

    async def _all(self, condition: Callable[[Peer], bool]) -> bool:
        """Wait until a condition holds for everyone in the epoch; return whether it does."""
        await self._until(lambda: self._broken() or all(condition(peer) for peer in self._in_use), ENTER_S)
        if not self._broken():
            self._give_up(peer for peer in self._in_use if not condition(peer))
        return self.stopped is None and not self._broken()

    @staticmethod
    def _give_up(peers: Iterable[Peer]) -> None:
        """Take workers for dead that are alive, and do nothing."""
        for peer in peers:
            peer.writer.transport.abort()
            peer.alive = False

    def _broken(self) -> bool:
        return any(not peer.alive or peer.idle for peer in self._in_use)

    def _failed(self) -> bool:
        return any(not peer.alive or peer.why for peer in self._in_use)

    async def _train(self) -> None:
        """Wait until the epoch ends, by a failure or a pause."""
        told = self.step
        while self.stopped is None and not self._broken():
            join_at_s = None if self._pausing else self._join_at_s
            if join_is_due(join_at_s, self.now_s()):
                self._ask_to_join()
                continue
            await self._until(
                lambda told=told, join_at_s=join_at_s: (  # type: ignore[misc]
                    self._broken() or self.step > told or (not self._pausing and self._join_at_s != join_at_s)
                ),
                None if join_at_s is None else join_at_s - self.now_s(),
            )
            told = await self._tell_steps(told)
        await self._tell_steps(told)

    async def _tell_steps(self, told: int) -> int:
        """Tell of every step made since; return the last one."""
        while told < self.step:
            told += 1
            self._ask_to_rebalance(told)
            await self.on_happening("stepped", self._epoch, told)
        return told

    def _ask_to_join(self) -> None:
        """Ask all to pause, where that brings more nodes into use."""
        if find_newcomers(self.system, self._in_use, self.peers, self._usable_nodes):
            self._pause("join", save=not self.system.is_elastic)
        else:
            self._join_at_s = None

    def _ask_to_rebalance(self, step: int) -> None:
        due = rebalance_is_due(self.system, step, step - 1, self.costs.job.rebalance_interval_steps)
        if due and not self._pausing and not self._broken():
            load_LE = np.array(self._loads, dtype=np.int64)
            plan = self.system.plan(self.costs, len(self._in_use), load_LE)
            now = np.sort(np.array(self._slots), axis=2)
            moves = {row.tobytes() for row in np.sort(plan.slots_LNS, axis=2).swapaxes(0, 1)}
            if moves != {row.tobytes() for row in now.swapaxes(0, 1)}:
                self._pause("rebalance")

    def _pause(self, cause: str, *, save: bool = False) -> None:
        self._pausing = cause
        for peer in self._in_use:
            peer.send(Pause(self._epoch, save))

    async def _assemble(self) -> None:
        """Have everybody out of the epoch, and know what each holds."""
        if self.stopped is not None:
            return
        if self._pausing or self._at_end():
            await self._until(lambda: self._failed() or all(peer.idle for peer in self._in_use))
            if not self._failed():
                self.step = max([self.step, *(peer.offer.step for peer in self._in_use)])
                await self.on_happening("paused", self._epoch, self.step)
                if self._at_end():
                    self.stop()
                return
        await self._take_failure()

    async def _take_failure(self) -> None:
        """Call everybody out of an epoch that has failed; to the job, who does not come is dead."""
        record = self.record
        self._pausing = ""
        known_s = self.now_s()
        # The others may have said that one is lost before its connection ended here.
        await asyncio.sleep(SETTLE_S)
        failed_s = known_s if self._failed_s is None else min(known_s, self._failed_s)
        record.lost_since(failed_s)
        record.enter("reconfigure", known_s)
        record.num_used = 0
        record.log.count("failures", int(any(not peer.alive for peer in self._in_use)))
        record.state(0.0)
        recovery = record.recovery("failure", failed_s)
        recovery.detect_s += known_s - failed_s
        await self.on_happening("failed", self._epoch, self.step)
        for peer in self._in_use:
            peer.send(Leave(self._epoch))
        await self._until(lambda: all(peer.idle for peer in self._in_use), LEAVE_S)
        self._give_up(peer for peer in self._in_use if not peer.idle)
        await self._until(lambda: all(peer.idle for peer in self._in_use))
        lost = sum(not peer.alive for peer in self._in_use)
        record.event("failure", self.step, num_lost=lost)
        recovery.rebuild_s += self.now_s() - known_s
        self._count_vain(lost)

    def _at_end(self) -> bool:
        """Tell whether somebody has made the last step."""
        last = self.spec.num_steps
        return last is not None and any(peer.idle and peer.offer.step >= last for peer in self._in_use if peer.alive)

    def _count_vain(self, num_lost: int) -> None:
        self._vain = 0 if num_lost else self._vain + 1
        if self._vain >= MOST_VAIN_EPOCHS:
            why = next((peer.why for peer in self._in_use if peer.why), "no reason given")
            self.stop(
                f"{self._vain} attempts to go on failed one after the other, although nobody died; the last: {why}"
            )
