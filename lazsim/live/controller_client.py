"""A worker's connection to its controller."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable

from lazsim.live.messages import MAX_NONCE_BYTES, Abort, Heartbeat, LiveError, Message, MessageAuth, Pause, new_nonce

RECONNECT_TIMEOUT_S = 10.0
"""Time that a worker tries to reach its controller before it gives up."""

SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""Messages go out at once, and the loss of the controller's machine is noticed within half a minute."""


class DisconnectedError(Exception):
    """The connection to the controller is lost."""


class ControllerClient:
    """The connection to the controller: any thread can send, and a thread of its own receives.

    The receiving thread calls `on_abort` when the controller aborts a generation or is lost. Messages for the main
    thread come to `inbox`: None once the connection is lost.
    """

    def __init__(self, address: tuple[str, int], secret: bytes, on_abort: Callable[[], None]) -> None:
        self.inbox: queue.Queue[Message | None] = queue.Queue()
        self.aborted_generation = 0
        self.pause: Pause | None = None
        self.lost = self._closed = False
        self._on_abort = on_abort
        self._lock = threading.Lock()
        self._socket = socket.create_connection(address, timeout=RECONNECT_TIMEOUT_S)
        self.own_address = str(self._socket.getsockname()[0])
        for level, option, value in SOCKET_OPTIONS:
            self._socket.setsockopt(level, option, value)
        self._reader = self._socket.makefile("rb")
        nonce = new_nonce()
        self._auth = MessageAuth(secret, self._reader.readline(MAX_NONCE_BYTES).strip() + nonce, "worker")
        self._socket.sendall(nonce + b"\n")
        self._socket.settimeout(None)
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message; raise a DisconnectedError where the connection is lost."""
        try:
            with self._lock:
                self._socket.sendall(self._auth.sign(message))
        except OSError:
            raise DisconnectedError from None

    def start_heartbeats(self, interval_s: float) -> None:
        """Send heartbeats from a thread of their own."""

        def run() -> None:
            with contextlib.suppress(DisconnectedError):
                while not self.lost:
                    self.send(Heartbeat())
                    time.sleep(interval_s)

        threading.Thread(target=run, daemon=True).start()

    def _receive(self) -> None:
        try:
            for line in self._reader:
                message = self._auth.verify(line)
                if isinstance(message, Abort):
                    self.aborted_generation = max(self.aborted_generation, message.generation)
                    self._abort()
                elif isinstance(message, Pause):
                    self.pause = message
                self.inbox.put(message)
        except (OSError, ValueError, LiveError):
            pass
        self.lost = True
        self._abort()
        self.inbox.put(None)

    def _abort(self) -> None:
        # A connection that this end has closed must not abort what the next one builds.
        if not self._closed:
            self._on_abort()

    def close(self) -> None:
        """End the connection."""
        self.lost = self._closed = True
        # The receiving thread holds the reader; the end of the connection wakes it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
