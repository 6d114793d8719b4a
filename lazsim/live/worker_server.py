"""The controller's end of the connections: workers that register, their messages, and heartbeats that stop."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from lazsim.errors import LazsimError
from lazsim.live import messages
from lazsim.live.checkpoint import job_hash
from lazsim.live.messages import NONCE_BYTES, PROOF_BYTES, Hello, LiveError, Message, MessageAuth, Stop
from lazsim.live.spec import LiveSpec
from lazsim.processes import free_descriptors
from lazsim.units import counted

MAX_MISSED_HEARTBEATS = 3
"""After this many missed heartbeats, another worker may take the name of a silent one."""

MAX_STRANGERS = 64
"""Connections that have not proved yet that they have the secret; past that, the oldest ends.

A worker proves it in one round trip. With a connection every `ACCEPT_INTERVAL_S`, it has 0.3 s for that at worst.
"""

PROOF_TIMEOUT_S = 10.0
"""Time to prove it while there are fewer: long enough for a machine whose cores are all at work."""

ACCEPT_RETRY_S = 0.1
"""Time until the next attempt to accept a connection after one that failed."""

ACCEPT_INTERVAL_S = 0.005
"""Time between two connections: a flood of them takes some 2 % of a core, and a thousand workers come in 5 s."""

BACKLOG = 64
"""Connections that wait to be accepted: a worker behind that many waits 0.3 s."""

DESCRIPTORS_PER_WORKER = 3
"""Its connection and, where it runs on this machine, two for its process."""

MAX_UNREAD_BYTES = 2 * messages.MAX_PLAN_BYTES
"""A worker that leaves that much unread counts as dead."""

CLOSE_TIMEOUT_S = 2.0
"""Time that workers have to read that the job is over; a worker that hangs never does."""


@dataclass(eq=False)
class WorkerConnection:
    """A connected worker, the state that it last reported, and its progress into the current generation.

    The last generation that it was told to start is `generation`. There it has ``entered``, is ``connected`` to the
    other ranks, ``ready`` with every state that it needs, or ``idle`` again; `error` tells why it left by itself.
    Until it `has_trained`, its `failed_attempts` to do so count, in which no worker was lost.
    """

    name: str
    instance: str
    writer: asyncio.StreamWriter
    auth: MessageAuth
    held: messages.HeldState
    last_heard_s: float
    alive: bool = True
    generation: int = 0
    stage: str = "idle"
    error: str = ""
    has_trained: bool = False
    failed_attempts: int = 0

    def send(self, message: Message) -> None:
        """Send a message; the end of the connection tells when the worker is gone."""
        if self.alive and self.writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.disconnect()
        elif self.alive:
            self.writer.write(self.auth.sign(message))

    def dismiss(self, reason: str) -> None:
        """Tell the worker that the job is over for it, and end its connection."""
        self.send(Stop(reason))
        self.writer.close()
        self.alive = False

    def disconnect(self) -> None:
        """Count the worker as dead, and cut its connection."""
        self.writer.transport.abort()
        self.alive = False


class WorkerHandler(Protocol):
    """Reacts to workers that register, send a message that is no heartbeat, or lose their connection."""

    def on_join(self, worker: WorkerConnection) -> None: ...  # noqa: D102

    def on_message(self, worker: WorkerConnection, message: Message) -> None: ...  # noqa: D102

    def on_leave(self, worker: WorkerConnection) -> None: ...  # noqa: D102


class WorkerServer:
    """Accepts the workers of a run; `workers` are those alive.

    It listens on a port; port 0 takes any free one. `stopped` tells why the job is over, empty where it ended well,
    None while it goes on. `bug` is an exception of a task, which stops the job.

    Anybody who reaches the port can connect. Until a peer has proved that it has the secret, it costs one descriptor,
    one of `MAX_STRANGERS`, and a hundred bytes. `max_workers` leaves the rest of the descriptors to this process. A
    worker that sends anything but reports on this job, of the size that they can have, is disconnected.
    """

    def __init__(self, spec: LiveSpec, secret: bytes, host: str = "127.0.0.1", port: int = 0) -> None:
        self.spec, self.secret = spec, secret
        self.host, self.port = host, port
        self._job = job_hash(spec)
        self.max_workers = max(0, free_descriptors() - MAX_STRANGERS) // DESCRIPTORS_PER_WORKER
        self.workers: list[WorkerConnection] = []
        self.stopped: str | None = None
        self.bug: BaseException | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # The oldest first.
        self._strangers: dict[asyncio.Task[None], None] = {}

    async def open(self, handler: WorkerHandler) -> None:
        """Listen for workers; raise a LazsimError where the address is not free."""
        self._handler = handler
        try:
            self._listener = socket.create_server((self.host, self.port), backlog=BACKLOG)
        except OSError as error:
            port = self.port or "any port"
            # What follows in brackets repeats the address.
            why = str(error.strerror).partition(" (")[0]
            raise LazsimError(f"cannot listen on {self.host}:{port} ({why}); choose another") from None
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._listen(0.0)
        self.start(self._disconnect_silent_workers())

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of the run, which `close` ends; where it fails, the job stops."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LiveError):
            self.stop(str(error))
        elif error is not None:
            self._stop_for(error)

    def _stop_for(self, bug: BaseException) -> None:
        self.bug = bug
        self.stop("a bug of the controller")

    async def close(self) -> None:
        """Tell all workers that the job is over, or broken off where nothing has stopped it, and stop listening."""
        self._listening.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        # A task that has not begun would not close its connection.
        await asyncio.sleep(0)
        writers = [worker.writer for worker in self.workers]
        reason = "the controller has ended before the job" if self.stopped is None else self.stopped
        for worker in self.workers:
            worker.dismiss(reason)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        except TimeoutError:
            for writer in writers:
                writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def stop(self, reason: str = "") -> None:
        """End the job; the first reason counts, and an empty one means that all went well."""
        if self.stopped is None:
            self.stopped = reason
        self.notify()

    def notify(self) -> None:
        """Let those who wait look again."""
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until a condition on workers holds, the job is stopped, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition() and self.stopped is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _accept(self) -> None:
        """Accept a connection, and look for the next one a little later.

        `sock_accept` of the event loop would lose one that it has accepted when its task is cancelled at that moment.
        """
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # The peer is gone again, or the system is out of descriptors: those who wait will be there later.
            self._listen(ACCEPT_RETRY_S)
            return
        if len(self._strangers) == MAX_STRANGERS:
            next(iter(self._strangers)).cancel()
        task = self.start(self._serve(connection))
        self._strangers[task] = None
        task.add_done_callback(lambda task: self._strangers.pop(task, None))
        self._listen(ACCEPT_INTERVAL_S)

    def _listen(self, delay_s: float) -> None:
        """Look for connections again after a delay."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._listening = loop.call_later(delay_s, loop.add_reader, self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        """Serve a peer from its proof to its end."""
        worker = writer = None
        try:
            # Not wait_for: under Python 3.11 that forgets to cancel when data comes at the same moment.
            async with asyncio.timeout(PROOF_TIMEOUT_S):
                auth = await self._prove(connection)
                limit = messages.max_report_bytes(self.spec)
                reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
                # What it holds may be of another job.
                hello = auth.verify(await reader.readline())
            self._strangers.pop(asyncio.current_task())  # type: ignore[arg-type]
            if isinstance(hello, Hello):
                worker = self._register(hello, writer, auth)
            while worker is not None and (line := await reader.readline()):
                worker.last_heard_s = time.monotonic()
                message = auth.verify(line)
                messages.check_report(self.spec, message)
                if not isinstance(message, messages.Heartbeat):
                    self._hand_on(worker, message)
                # A peer that floods this process with messages takes turns with the others.
                await asyncio.sleep(0)
        except (LiveError, OSError, ValueError, TimeoutError, EOFError, asyncio.CancelledError):
            # A stranger or a lost connection; `close` cancels the connections that are left.
            pass
        finally:
            if worker is not None:
                worker.alive, worker.stage = False, "idle"
                self.workers.remove(worker)
                self._handler.on_leave(worker)
                self._changed.set()
            if writer is not None:
                writer.close()
            else:
                connection.close()

    def _hand_on(self, worker: WorkerConnection, message: Message) -> None:
        """Let the handler react; its own fault is none of the worker, whatever the error."""
        try:
            self._handler.on_message(worker, message)
        except Exception as error:
            self._stop_for(error)
        self.notify()

    async def _prove(self, connection: socket.socket) -> MessageAuth:
        """Exchange nonces and proofs; nothing is buffered for a peer that has proved nothing."""
        loop, nonce, answer = asyncio.get_running_loop(), messages.new_nonce(), b""
        connection.setblocking(False)
        await loop.sock_sendall(connection, nonce)
        while len(answer) < NONCE_BYTES + PROOF_BYTES:
            received = await loop.sock_recv(connection, NONCE_BYTES + PROOF_BYTES - len(answer))
            if not received:
                raise EOFError
            answer += received
        auth = MessageAuth(self.secret, nonce + answer[:NONCE_BYTES], "controller")
        auth.check(answer[NONCE_BYTES:])
        await loop.sock_sendall(connection, auth.prove())
        return auth

    def _register(self, hello: Hello, writer: asyncio.StreamWriter, auth: MessageAuth) -> WorkerConnection | None:
        refusal = self._refusal(hello)
        if refusal is not None:
            writer.write(auth.sign(Stop(refusal)))
            return None
        messages.check_report(self.spec, hello)
        worker = WorkerConnection(hello.name, hello.instance, writer, auth, hello.held, time.monotonic())
        worker.has_trained = bool(hello.held.blocks)
        self.workers.append(worker)
        worker.send(messages.Welcome(self.spec))
        self._handler.on_join(worker)
        self._changed.set()
        return worker

    def _refusal(self, hello: Hello) -> str | None:
        """Return the reason to turn a worker away, if any; the job is over where it is empty."""
        if self.stopped is not None:
            return self.stopped
        if hello.job not in ("", self._job):
            return f"{hello.name}: holds the state of another job; end it, and start a worker for this one"
        for worker in self.workers:
            if worker.name != hello.name:
                continue
            silent_s = time.monotonic() - worker.last_heard_s
            if worker.instance != hello.instance and silent_s < MAX_MISSED_HEARTBEATS * self.spec.heartbeat_s:
                return f"{hello.name}: another worker has this name; give each its own --name"
            # The same worker, back before the end of its old connection was noticed.
            worker.disconnect()
        if len(self.workers) >= self.max_workers:
            return f"the controller has descriptors for {counted(self.max_workers, 'worker')}; raise its `ulimit -n`"
        return None

    async def _disconnect_silent_workers(self) -> None:
        interval_s = self.spec.heartbeat_s
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(interval_s)
            if time.monotonic() - before_s > 2 * interval_s:
                # This process was held up: heartbeats sent meanwhile are still to be read.
                for worker in self.workers:
                    worker.last_heard_s = time.monotonic()
            for worker in list(self.workers):
                if time.monotonic() - worker.last_heard_s > self.spec.silence_s:
                    worker.writer.transport.abort()
