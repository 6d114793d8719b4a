"""A worker's connection to its controller."""

import contextlib
import queue
import socket
import threading
import time

from lazsim.live.messages import LONGEST_NONCE, Beat, Leave, LiveError, Message, Pause, Seal, new_nonce
from lazsim.pytorch.group import Group

RECONNECT_S = 10.0
"""For so long a worker tries to find its controller again."""


SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""Nothing is left waiting to be sent along; and within half a minute a controller's machine that is gone is noticed."""


class GoneError(Exception):
    """The connection to the controller is lost."""


class Line:
    """The connection to the controller: sends from any thread, receives in a thread of its own.

    Attributes
    ----------
    inbox : Queue
        Messages for the main thread; None when the connection is lost.
    left_epoch : int
        The epoch up to which the controller has called everybody out.
    pausing : Pause or None
        The last request to pause.
    lost : bool
        Whether the connection is lost.
    own_address : str
        This end of it.
    welcomed : bool
        Whether the controller has answered.
    """

    def __init__(self, address: tuple[str, int], secret: bytes) -> None:
        self.inbox: queue.Queue[Message | None] = queue.Queue()
        self.left_epoch = 0
        self.pausing: Pause | None = None
        self.lost = self.welcomed = False
        self.group: Group | None = None
        self._lock = threading.Lock()
        self._socket = socket.create_connection(address, timeout=RECONNECT_S)
        self.own_address = str(self._socket.getsockname()[0])
        for level, option, value in SOCKET_OPTIONS:
            self._socket.setsockopt(level, option, value)
        self._reader = self._socket.makefile("rb")
        nonce = new_nonce()
        self._seal = Seal(secret, self._reader.readline(LONGEST_NONCE).strip() + nonce, "worker")
        self._socket.sendall(nonce + b"\n")
        self._socket.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises
        ------
        GoneError
            When the connection is lost.
        """
        try:
            with self._lock:
                self._socket.sendall(self._seal.close(message))
        except OSError:
            raise GoneError from None

    def beat(self, interval_s: float) -> None:
        """Send heartbeats from now on, from a thread of their own."""

        def run() -> None:
            try:
                while not self.lost:
                    self.send(Beat())
                    time.sleep(interval_s)
            except GoneError:
                pass

        threading.Thread(target=run, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in self._reader:
                self._take(self._seal.open(line))
        except (OSError, ValueError, LiveError):
            pass
        self.lost = True
        self._cut()
        self.inbox.put(None)

    def _take(self, message: Message) -> None:
        if isinstance(message, Leave):
            self.left_epoch = max(self.left_epoch, message.epoch)
            self._cut()
        elif isinstance(message, Pause):
            self.pausing = message
        self.inbox.put(message)

    def _cut(self) -> None:
        group = self.group
        if group is not None:
            group.abort()

    def close(self) -> None:
        """Give up the connection."""
        self.lost = True
        # The listening thread holds the reader; the end of the connection wakes it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
