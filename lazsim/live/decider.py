"""What the next epoch of a live job is: who takes part, in which order, and where their states come from."""

from pathlib import Path

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.protocol import can_start, join_is_due
from lazsim.live import checkpoint
from lazsim.live.hub import Peer
from lazsim.live.listener import Listener
from lazsim.live.plan import NextEpoch, plan_epoch
from lazsim.live.spec import LiveSpec

RECONNECT_GRACE_S = {"cpu": 0.5, "auto": 5.0, "cuda": 5.0}
"""So long states are waited for that may only have lost their connection, before a checkpoint is gone back to.

A worker on a GPU first has to let go of NCCL.
"""


class Decider(Listener):
    """Decides on epochs, and waits for nodes where there are too few.

    Parameters
    ----------
    spec, costs, secret, device, host, port
        See `Listener`.
    """

    def __init__(self, spec: LiveSpec, costs: CostModel, secret: bytes, device: str, host: str, port: int) -> None:
        super().__init__(spec, costs, secret, device, host, port)
        self._candidates: list[Peer] = []
        # Whether ranks of the last epoch hold the state of the job.
        self._has_state = self._started = False
        # Why all were asked to pause; empty when nobody was.
        self._pausing = ""

    async def _decide(self) -> NextEpoch | None:
        """Choose the next epoch; wait for more nodes where there are too few."""
        decision = self._choose()
        if self._has_state and self.system.recovers_from_peers and (decision is None or decision.source != "peers"):
            # What only lost its connection comes back with all that it holds.
            await self._until(lambda: self._goes_on(self._choose()), RECONNECT_GRACE_S[self.device])
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
        return not self._started or join_is_due(self._join_at_s, self.now_s())

    def _choose(self) -> NextEpoch | None:
        return plan_epoch(
            self.system,
            self.costs,
            [peer.offer for peer in self._offering()],
            sum(peer.alive and self._has_state for peer in self._in_use),
            joins_due=self._is_joining(),
            checkpoint_step=checkpoint.last_step(Path(self.spec.checkpoint_folder)),
            paused=self._pausing != "",
            load_LE=None if self._loads is None else np.array(self._loads, dtype=np.int64),
        )

    @staticmethod
    def _goes_on(decision: NextEpoch | None) -> bool:
        return decision is not None and decision.source == "peers"

    async def _wait_for_nodes(self) -> None:
        """Wait until there are enough nodes and those who come together have been collected."""
        while self.stopped is None and not can_start(
            len(self.peers), self._usable_nodes, self._join_at_s, self.now_s()
        ):
            if join_is_due(self._join_at_s, self.now_s()):
                self._join_at_s = None
            left_s = None if self._join_at_s is None else self._join_at_s - self.now_s()
            num_peers = len(self.peers)
            await self._until(lambda num_peers=num_peers: len(self.peers) != num_peers, left_s)  # type: ignore[misc]

    def _usable_nodes(self, num_nodes: int) -> int:
        return self.system.usable_nodes(self.costs, num_nodes)
