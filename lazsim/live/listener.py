"""What the controller knows: how far the job is, and who has said what."""

import time
from collections.abc import Awaitable, Callable

from lazsim.costmodel.step import CostModel
from lazsim.engine.protocol import collect_until
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.live import checkpoint
from lazsim.live.hub import Hub, Peer
from lazsim.live.messages import Beat, Left, Message, Ready, Rebuilt, Saved, Stepped
from lazsim.live.plan import Offer
from lazsim.live.record import Recorder
from lazsim.live.spec import LiveSpec

Happening = Callable[[str, int, int], Awaitable[None]]
"""Is told of ``started``, ``entered``, ``rebuilt``, ``ready``, ``stepped``, ``paused`` and ``failed``; epoch, step."""


async def ignore(_what: str, _epoch: int, _step: int) -> None:
    """Do nothing about what happens."""


class Listener(Hub):
    """Takes in what workers report.

    Parameters
    ----------
    spec, costs
        The job; sizes and shapes in the simulation's terms.
    secret, device, host, port
        See `Hub`.

    Attributes
    ----------
    record : Recorder
        What happened so far.
    step : int
        Steps made.
    on_happening : Happening
        Told of what happens.
    """

    def __init__(self, spec: LiveSpec, costs: CostModel, secret: bytes, device: str, host: str, port: int) -> None:
        super().__init__(spec, secret, device, host, port)
        self.costs = costs
        self.on_happening: Happening = ignore
        self.step = 0
        self.system = SYSTEMS[spec.system]
        self._start_clock()
        self._clock_runs = False
        self._epoch = 0
        self._in_use: list[Peer] = []
        self._loads: list[list[int]] | None = None
        self._join_at_s: float | None = None
        self._failed_s: float | None = None
        self._saved: set[str] = set()
        self._save_s = 0.0
        self._vain = 0

    def _start_clock(self) -> None:
        self._began_s = time.monotonic()
        placement = self.system.policy.name if self.system.policy is not None else None
        self.record = Recorder(self.system.name, placement, self.spec.global_batch, self.now_s)
        self.record.num_alive = len(self.peers)

    def now_s(self) -> float:
        """Return seconds since the job began."""
        return time.monotonic() - self._began_s

    # What workers report.

    def _hear(self, peer: Peer, message: Message) -> None:
        if isinstance(message, Beat):
            return
        if isinstance(message, Left) and message.epoch >= peer.epoch:
            peer.offer = Offer(message.step, message.prepared, frozenset(message.holds))
            # Who had already left by itself says why only then.
            peer.idle, peer.why = True, message.why or peer.why
        elif isinstance(message, Rebuilt):
            peer.rebuilt = message.epoch
            self.record.exchanged_by.add(message.by)
        elif isinstance(message, Ready):
            peer.ready = message.epoch
        elif isinstance(message, Stepped) and message.epoch == self._epoch:
            self._take_step(message)
        elif isinstance(message, Saved) and message.epoch == self._epoch:
            self._take_saved(peer, message)
        self._changed.set()

    def _take_step(self, message: Stepped) -> None:
        self.step = message.step
        self._loads = message.loads
        self._vain = 0
        self.record.step(message.step, message.step_s, message.loss, message.loads)

    def _take_saved(self, peer: Peer, message: Saved) -> None:
        self._saved.add(f"{message.epoch}/{message.step}/{peer.name}")
        self._save_s = max(self._save_s, message.seconds)
        if self._saved >= {f"{message.epoch}/{message.step}/{other.name}" for other in self._in_use}:
            try:
                checkpoint.complete(self.spec, message.step)
            except (OSError, LazsimError) as error:
                self.stop(f"{self.spec.checkpoint_folder}: the checkpoint cannot be completed ({error})")
                return
            self.record.saved(self._save_s)
            self._save_s = 0.0
            self._saved.clear()

    def _came(self, peer: Peer) -> None:
        if self._clock_runs:
            self._join_at_s = collect_until(self._join_at_s, self.now_s(), self.costs.job.join_wait_s)
        self._note_alive()

    def _gone(self, peer: Peer) -> None:
        if peer in self._in_use and self._failed_s is None:
            self._failed_s = self.record.killed_s.get(peer.name, self.now_s())
        self._note_alive()

    def _note_alive(self) -> None:
        self.record.num_alive = len(self.peers)
        rate = self.record.log.states[-1].samples_per_s if self.record.log.states else 0.0
        self.record.state(rate)
