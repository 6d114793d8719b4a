"""The controller: decides who trains with which plan, and leads everybody from epoch to epoch.

An epoch is a set of ranks with a plan and communicators. It ends when one of them fails or leaves, or when all
pause together at a step boundary. What comes next is decided as `lazsim.engine.job` decides it for the simulation, by
the same `lazsim.engine.systems`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.live import checkpoint
from lazsim.live.hub import Peer
from lazsim.live.listener import Listener
from lazsim.live.messages import Enter, Go, Leave, LiveError, Pause
from lazsim.live.plan import Decision, decide, layout_groups
from lazsim.live.record import Recovery
from lazsim.live.spec import LiveSpec

SETTLE_S = 0.02
"""Failures that the controller hears of within this time are one."""

MOST_VAIN_EPOCHS = 5
"""So many epochs may end one after the other without a death and without a step: then something else is wrong."""

RECONNECT_GRACE_S = 0.5
"""So long states are waited for that may only have lost their connection, before a checkpoint is gone back to."""

START_S = 60.0
"""For so long the first workers are waited for."""

Happening = Callable[[str, int, int], Awaitable[None]]
"""Is told of ``started``, ``entered``, ``rebuilt``, ``ready``, ``stepped``, ``paused`` and ``failed``; epoch, step."""


async def ignore(_what: str, _epoch: int, _step: int) -> None:
    """Do nothing about what happens."""


class Controller(Listener):
    """Leads one job.

    Parameters
    ----------
    spec, costs, secret, device, host, port
        See `Listener`.
    initial_nodes
        Nodes to wait for before the first step.

    Attributes
    ----------
    on_happening : Happening
        Told of what happens.
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
        self.on_happening: Happening = ignore
        self.start_s = START_S
        self._has_state = self._started = False
        self._slots: list[list[list[int]]] = []
        self._pausing = ""

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
        if not self._can_begin():
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

    async def _decide(self) -> Decision | None:
        """Choose the next epoch; wait for more nodes where there are too few."""
        decision = self._choose()
        if self._has_state and self.system.recovers_from_peers and (decision is None or decision.source != "peers"):
            # What only lost its connection comes back with all that it holds.
            await self._until(lambda: self._goes_on(self._choose()), RECONNECT_GRACE_S)
            decision = self._choose()
        if decision is None:
            self._has_state = False
            self.record.num_used = 0
            self.record.enter("waiting")
            self.record.state(0.0)
            await self._wait_for_nodes()
            return None
        if decision.source != "peers" or self.system.is_elastic:
            # All who came are taken in; else they join once the job runs.
            self._join_at_s = None if self._is_joining() else self._join_at_s
        self._candidates = [self._offering()[index] for index in decision.senders]
        return decision

    def _offering(self) -> list[Peer]:
        """Return survivors of the last epoch in the order of its ranks, then all others."""
        survivors = [peer for peer in self._in_use if peer.alive and self._has_state]
        return [*survivors, *(peer for peer in self.peers if peer not in survivors)]

    def _is_joining(self) -> bool:
        return not self._started or (self._join_at_s is not None and self.now_s() >= self._join_at_s)

    def _choose(self) -> Decision | None:
        offers = [peer.offer for peer in self._offering()]
        num_survivors = sum(peer.alive and self._has_state for peer in self._in_use)
        return decide(
            self.system,
            self.costs,
            offers[:num_survivors],
            offers[num_survivors:],
            joining=self._is_joining(),
            checkpoint_step=checkpoint.last_step(Path(self.spec.checkpoint_folder)),
            paused=self._pausing != "",
            load_LE=None if self._loads is None else np.array(self._loads, dtype=np.int64),
        )

    @staticmethod
    def _goes_on(decision: Decision | None) -> bool:
        return decision is not None and decision.source == "peers"

    async def _wait_for_nodes(self) -> None:
        """Wait until there are enough nodes and those who come together have been collected."""
        while self.stopped is None:
            left_s = None if self._join_at_s is None else self._join_at_s - self.now_s()
            if self._can_begin() and (left_s is None or left_s <= 0):
                return
            if left_s is not None and left_s <= 0:
                self._join_at_s = left_s = None
            num_peers = len(self.peers)
            await self._until(lambda num_peers=num_peers: len(self.peers) != num_peers, left_s)  # type: ignore[misc]

    def _can_begin(self) -> bool:
        return self.system.usable_nodes(self.costs, len(self.peers)) > 0

    async def _enter(self, decision: Decision) -> bool:
        """Lead the candidates into an epoch; return whether all of them got there."""
        record, candidates = self.record, self._candidates
        ranks = candidates[: decision.num_ranks]
        self._epoch += 1
        epoch = self._epoch
        reuse = (
            bool(self._pausing)
            and [peer.name for peer in ranks] == self._rank_names()
            and len(candidates) == len(ranks)
        )
        if decision.source != "peers":
            self._has_state = False
            lost = max(0, self.step - decision.step)
            record.log.count("lost_steps", lost)
            if lost:
                record.event("rolled_back", decision.step, lost_steps=lost)
                record.ledger.move("compute", "lost_work", min(record.unsaved_s, record.ledger.seconds()["compute"]))
            record.unsaved_s = 0.0
        self.step = decision.step
        cause = self._pausing or ("failure" if decision.source == "peers" else "restart")
        self._pausing = ""
        record.enter("reconfigure" if decision.source == "peers" else "restart")
        if cause == "rebalance":
            record.enter("rebalance")
        if not record.recoveries or record.recoveries[-1].complete:
            record.recoveries.append(Recovery(cause, self.now_s()))
        recovery = record.recoveries[-1]
        recovery.num_nodes = len(ranks)
        recovery.busiest_bytes = decision.busiest_bytes
        begun_s = self.now_s()
        self._in_use, self._failed_s = list(candidates), None
        self._slots = decision.slots_LNS.tolist()
        for peer in candidates:
            peer.idle, peer.epoch, peer.why = False, epoch, ""
            peer.send(
                Enter(
                    epoch=epoch,
                    step=decision.step,
                    source=decision.source,
                    senders=[other.name for other in candidates],
                    num_ranks=decision.num_ranks,
                    holds=[sorted(holds) for holds in decision.holds],
                    slots=self._slots,
                    groups=layout_groups(self.system, self.costs, decision.num_ranks),
                    padded=self.system.padded,
                    reuse=reuse,
                )
            )
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

    def _start(self, decision: Decision, ranks: list[Peer], cause: str) -> None:
        record = self.record
        if not self._started and len(self.peers) > len(self._candidates) and self._join_at_s is None:
            # Who came while the first epoch was prepared joins like those who come later.
            self._join_at_s = self.now_s() + self.costs.job.join_wait_s
        for peer in self._candidates:
            peer.send(Go(self._epoch))
        self._in_use, self._has_state = ranks, True
        record.num_used = len(ranks)
        if decision.source == "peers":
            record.log.count("rebalances" if cause == "rebalance" else "reconfigurations")
        elif self._started:
            record.log.count("restarts")
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
        await self._until(
            lambda: self._broken() or all(condition(peer) for peer in self._in_use),
        )
        return self.stopped is None and not self._broken()

    def _broken(self) -> bool:
        return any(not peer.alive or peer.idle for peer in self._in_use)

    def _failed(self) -> bool:
        return any(not peer.alive or peer.why for peer in self._in_use)

    def _rank_names(self) -> list[str]:
        return [peer.name for peer in self._in_use]

    async def _train(self) -> None:
        """Wait until the epoch ends, by a failure or a pause."""
        told = self.step
        while self.stopped is None and not self._broken():
            join_at_s = None if self._pausing else self._join_at_s
            if join_at_s is not None and join_at_s <= self.now_s():
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
        if self.system.usable_nodes(self.costs, len(self.peers)) > len(self._in_use):
            self._pause("join", save=not self.system.is_elastic)
        else:
            self._join_at_s = None

    def _ask_to_rebalance(self, step: int) -> None:
        due = step % self.costs.job.rebalance_interval_steps == 0
        if self.system.is_elastic and due and not self._pausing and not self._broken():
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
        record = self.record
        if self._pausing or self._at_end():
            await self._until(lambda: self._failed() or all(peer.idle for peer in self._in_use))
            if not self._failed():
                self.step = max([self.step, *(peer.offer.step for peer in self._in_use)])
                await self.on_happening("paused", self._epoch, self.step)
                if self._at_end():
                    self.stop()
                return
        self._pausing = ""
        failed_s = self.now_s() if self._failed_s is None else self._failed_s
        known_s = self.now_s()
        deaths = any(not peer.alive for peer in self._in_use)
        record.lost_since(failed_s)
        record.enter("reconfigure", known_s)
        record.num_used = 0
        record.log.count("failures", int(deaths))
        record.state(0.0)
        if not record.recoveries or record.recoveries[-1].complete:
            record.recoveries.append(Recovery("failure", failed_s))
        record.recoveries[-1].detect_s += known_s - failed_s
        await self.on_happening("failed", self._epoch, self.step)
        await asyncio.sleep(SETTLE_S)
        for peer in self._in_use:
            peer.send(Leave(self._epoch))
        await self._until(lambda: all(peer.idle for peer in self._in_use), self.spec.silence_s)
        for peer in self._in_use:
            if not peer.idle:
                # It neither answers nor leaves: to the job it is dead.
                peer.writer.transport.abort()
        await self._until(lambda: all(peer.idle for peer in self._in_use))
        lost = sum(not peer.alive for peer in self._in_use)
        record.event("failure", self.step, num_lost=lost)
        record.recoveries[-1].rebuild_s += self.now_s() - known_s
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
