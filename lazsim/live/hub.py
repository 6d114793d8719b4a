"""The controller's ears: connections to workers, who is there, and waiting for something to change."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from lazsim.live.messages import LONGEST_LINE, Hello, LiveError, Message, Seal, Stop, Welcome, new_nonce
from lazsim.live.plan import Offer
from lazsim.live.spec import LiveSpec
from lazsim.pytorch.group import serve_store

MISSED_BEATS = 3
"""A worker that was silent for so many heartbeats may be replaced by one of the same name."""

GOODBYE_S = 2.0
"""How long to wait for workers to take in that the job is over: one that hangs never does."""


@dataclass(eq=False)
class Peer:
    """A worker as the controller knows it."""

    name: str
    instance: str
    writer: asyncio.StreamWriter
    seal: Seal
    offer: Offer
    heard_s: float
    alive: bool = True
    epoch: int = 0
    rebuilt: int = 0
    ready: int = 0
    idle: bool = True
    why: str = ""

    def send(self, message: Message) -> None:
        """Send a message; a peer that is gone is noticed by its connection's end."""
        if self.alive:
            self.writer.write(self.seal.close(message))


class Hub:
    """Speaks with the workers of a run.

    Parameters
    ----------
    spec
        The job that workers are told of.
    secret
        Of the run.
    device
        Where workers compute: ``auto``, ``cpu`` or ``cuda``.
    host, port
        Where to listen; ranks meet at the next port. Port 0 is any two that are free.

    Attributes
    ----------
    peers : list of Peer
        The workers alive.
    port : int
        Where the controller listens.
    stopped : str or None
        Why the job is over, empty when all went well; none while it is not.
    """

    def __init__(self, spec: LiveSpec, secret: bytes, device: str, host: str, port: int) -> None:
        self.spec, self.secret, self.device = spec, secret, device
        self.host, self.port = host, port
        self.peers: list[Peer] = []
        self.stopped: str | None = None
        self._bug: Exception | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _came(self, peer: Peer) -> None:
        """Take note of a new worker."""

    def _hear(self, peer: Peer, message: Message) -> None:
        """Take in what a worker says."""

    def _gone(self, peer: Peer) -> None:
        """Take note of the end of a worker."""

    async def open(self) -> None:
        """Listen for workers.

        Raises
        ------
        LiveError
            When the address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(self._converse, self.host, self.port, limit=LONGEST_LINE)
            self._store, self._store_port = serve_store(self.host, self.port + 1 if self.port else 0)
        except OSError as error:
            ports = f"{self.port} or {self.port + 1}" if self.port else "any port"
            raise LiveError(f"cannot listen on {self.host}:{ports} ({error.strerror}); choose another") from None
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._watch_task = asyncio.create_task(self._watch_silence())

    async def close(self, why: str = "") -> None:
        """Send everybody home and stop listening."""
        for peer in self.peers:
            peer.send(Stop(why))
        self._watch_task.cancel()
        self._server.close()
        writers = [peer.writer for peer in self.peers]
        for writer in writers:
            writer.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        except TimeoutError:
            for writer in writers:
                writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        del self._store

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        nonce = new_nonce()
        peer = None
        try:
            writer.write(nonce + b"\n")
            # Not wait_for: under Python 3.11 that forgets to cancel when a line comes at the same moment.
            async with asyncio.timeout(self.spec.silence_s):
                seal = Seal(self.secret, nonce + (await reader.readline()).strip(), "controller")
                hello = seal.open(await reader.readline())
            if isinstance(hello, Hello):
                peer = self._greet(hello, writer, seal)
            while peer is not None and (line := await reader.readline()):
                peer.heard_s = time.monotonic()
                self._hear(peer, seal.open(line))
        except (LiveError, OSError, ValueError, TimeoutError, asyncio.CancelledError):
            # Who does not speak as a worker of this run is not heard; `close` cancels what is left.
            pass
        except Exception as error:
            self._bug = error
            self.stop("a bug of the controller")
        finally:
            if peer is not None:
                peer.alive, peer.idle = False, True
                self.peers.remove(peer)
                self._gone(peer)
                self._changed.set()
            writer.close()

    def _greet(self, hello: Hello, writer: asyncio.StreamWriter, seal: Seal) -> Peer | None:
        if self.stopped is not None:
            writer.write(seal.close(Stop(self.stopped)))
            return None
        for peer in self.peers:
            if peer.name != hello.name:
                continue
            is_other = peer.instance != hello.instance
            if is_other and time.monotonic() - peer.heard_s < MISSED_BEATS * self.spec.heartbeat_s:
                why = f"{hello.name}: another worker has this name; give each its own (--name)"
                writer.write(seal.close(Stop(why)))
                return None
            # The same one, back before the end of its old connection was noticed.
            peer.writer.transport.abort()
            peer.alive = False
        offer = Offer(hello.step, hello.prepared, frozenset(hello.holds))
        peer = Peer(hello.name, hello.instance, writer, seal, offer, time.monotonic())
        self.peers.append(peer)
        peer.send(Welcome(self.spec, self.device, self._store_port))
        self._came(peer)
        self._changed.set()
        return peer

    async def _watch_silence(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(self.spec.heartbeat_s)
            if time.monotonic() - before_s > 2 * self.spec.heartbeat_s:
                # It was this process that was not there: what workers said meanwhile is yet to be read.
                for peer in self.peers:
                    peer.heard_s = time.monotonic()
            for peer in list(self.peers):
                if time.monotonic() - peer.heard_s > self.spec.silence_s:
                    peer.writer.transport.abort()

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until a condition holds, the job is stopped, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition() and self.stopped is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def stop(self, why: str = "") -> None:
        """End the job; why is empty when all went well."""
        if self.stopped is None:
            self.stopped = why
        self._changed.set()
