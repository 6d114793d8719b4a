"""The controller's end of the connections: workers that register, their messages, and heartbeats that stop."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lazsim.live import messages
from lazsim.live.messages import Hello, LiveError, Message, MessageAuth, Stop
from lazsim.live.spec import LiveSpec
from lazsim.pytorch.group import serve_store

MAX_MISSED_HEARTBEATS = 3
"""After this many missed heartbeats, another worker may take the name of a silent one."""

CLOSE_TIMEOUT_S = 2.0
"""Time that workers have to read that the job is over; a worker that hangs never does."""


@dataclass(eq=False)
class WorkerConnection:
    """A connected worker, the state that it last reported, and its progress into the current generation.

    The last generation that it was told to start is `generation`; it has communicators for that of `connected`, and the
    states of that of `ready`. While `idle` it is in none; `error` tells why it left the last one by itself.
    """

    name: str
    instance: str
    writer: asyncio.StreamWriter
    auth: MessageAuth
    held: messages.HeldState
    last_heard_s: float
    alive: bool = True
    generation: int = 0
    connected: int = 0
    ready: int = 0
    idle: bool = True
    error: str = ""

    def send(self, message: Message) -> None:
        """Send a message; the end of the connection tells when the worker is gone."""
        if self.alive:
            self.writer.write(self.auth.sign(message))

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

    It listens on a port, and ranks meet at the next one; port 0 takes any two free ones. `stopped` tells why the job is
    over, empty where it ended well, None while it goes on. `bug` is an exception of the handler, which stops the job.
    """

    def __init__(self, spec: LiveSpec, secret: bytes, device: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.spec, self.secret, self.device = spec, secret, device
        self.host, self.port = host, port
        self.workers: list[WorkerConnection] = []
        self.stopped: str | None = None
        self.bug: Exception | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, handler: WorkerHandler) -> None:
        """Listen for workers; raise a LiveError where the address is not free."""
        self._handler = handler
        try:
            self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=messages.MAX_LINE_BYTES)
            self._store, self._store_port = serve_store(self.host, self.port + 1 if self.port else 0)
        except OSError as error:
            ports = f"{self.port} or {self.port + 1}" if self.port else "any port"
            raise LiveError(f"cannot listen on {self.host}:{ports} ({error.strerror}); choose another") from None
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._silence_task = asyncio.create_task(self._disconnect_silent_workers())

    async def close(self) -> None:
        """Tell all workers that the job is over, and stop listening."""
        self._silence_task.cancel()
        self._server.close()
        writers = [worker.writer for worker in self.workers]
        for worker in self.workers:
            worker.send(Stop(self.stopped or ""))
            worker.writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        except TimeoutError:
            for writer in writers:
                writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        del self._store

    def stop(self, reason: str = "") -> None:
        """End the job; the first reason counts, and an empty one means that all went well."""
        if self.stopped is None:
            self.stopped = reason
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection has a task"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        nonce = messages.new_nonce()
        worker = None
        try:
            writer.write(nonce + b"\n")
            # Not wait_for: under Python 3.11 that forgets to cancel when a line comes at the same moment.
            async with asyncio.timeout(self.spec.silence_s):
                auth = MessageAuth(self.secret, nonce + (await reader.readline()).strip(), "controller")
                hello = auth.verify(await reader.readline())
            if isinstance(hello, Hello):
                worker = self._register(hello, writer, auth)
            while worker is not None and (line := await reader.readline()):
                worker.last_heard_s = time.monotonic()
                message = auth.verify(line)
                if not isinstance(message, messages.Heartbeat):
                    self._handler.on_message(worker, message)
                    self._changed.set()
        except (LiveError, OSError, ValueError, TimeoutError, asyncio.CancelledError):
            # A stranger or a lost connection; `close` cancels the connections that are left.
            pass
        except Exception as error:
            self.bug = error
            self.stop("a bug of the controller")
        finally:
            if worker is not None:
                worker.alive, worker.idle = False, True
                self.workers.remove(worker)
                self._handler.on_leave(worker)
                self._changed.set()
            writer.close()

    def _register(self, hello: Hello, writer: asyncio.StreamWriter, auth: MessageAuth) -> WorkerConnection | None:
        if self.stopped is not None:
            writer.write(auth.sign(Stop(self.stopped)))
            return None
        for worker in self.workers:
            if worker.name != hello.name:
                continue
            silent_s = time.monotonic() - worker.last_heard_s
            if worker.instance != hello.instance and silent_s < MAX_MISSED_HEARTBEATS * self.spec.heartbeat_s:
                reason = f"{hello.name}: another worker has this name; give each its own `name`"
                writer.write(auth.sign(Stop(reason)))
                return None
            # The same worker, back before the end of its old connection was noticed.
            worker.disconnect()
        worker = WorkerConnection(hello.name, hello.instance, writer, auth, hello.held, time.monotonic())
        self.workers.append(worker)
        worker.send(messages.Welcome(self.spec, self.device, self._store_port))
        self._handler.on_join(worker)
        self._changed.set()
        return worker

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
