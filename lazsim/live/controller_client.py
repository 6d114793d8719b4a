"""A worker's connection to its controller."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence

from lazsim.live import messages
from lazsim.live.messages import Command, LiveError, Message, MessageAuth, Note, StartGeneration

RECONNECT_TIMEOUT_S = 10.0
"""Time that a worker tries to reach its controller before it gives up."""

WELCOME_TIMEOUT_S = 60.0
"""Time that a worker that has reached it waits for a proof, and again for a welcome: a controller may be planning."""

UNHEARD_MS = 30_000
"""Time after which a heartbeat that the controller's machine does not take ends the connection: the controller has
counted this worker as dead well before, after `LiveSpec.silence_s`, and this one may come back with its states."""


class DisconnectedError(Exception):
    """The connection to the controller is lost, or there is none; the message says why, if that is known."""


class ControllerClient:
    """The connection to the controller: any thread can send, and a thread of its own receives.

    The receiving thread calls `on_abort` when the controller aborts a generation or is lost. It keeps notes of other
    ranks, and the last `command` to train or pause. All else comes to `inbox`: None once the connection is lost.

    Raises a DisconnectedError where none answers, or the other end does not prove that it has the secret.
    """

    def __init__(self, address: tuple[str, int], secret: bytes, on_abort: Callable[[], None]) -> None:
        self.inbox: queue.Queue[Message | None] = queue.Queue()
        self.command = Command(0, "pause")
        self.lost = False
        self._aborted_generation = 0
        self._on_abort = on_abort
        self._notes: dict[tuple[int, str], bytes] = {}
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        try:
            self._socket = socket.create_connection(address, timeout=RECONNECT_TIMEOUT_S)
        except (OSError, UnicodeError) as error:
            raise DisconnectedError(f"no controller at {address[0]}:{address[1]} ({error}); is it running?") from None
        self.own_address = str(self._socket.getsockname()[0])
        # Messages go out at once.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
        try:
            self._auth = self._prove(secret)
        except (OSError, LiveError):
            self._socket.close()
            raise DisconnectedError from None
        self._socket.settimeout(None)
        threading.Thread(target=self._receive, daemon=True).start()

    def _prove(self, secret: bytes) -> MessageAuth:
        """Exchange nonces and proofs with the controller."""
        deadline_s, nonce = time.monotonic() + WELCOME_TIMEOUT_S, messages.new_nonce()
        auth = MessageAuth(secret, self._read(messages.NONCE_BYTES, deadline_s) + nonce, "worker")
        self._socket.sendall(nonce + auth.prove())
        auth.check(self._read(messages.PROOF_BYTES, deadline_s))
        return auth

    def _read(self, num_bytes: int, deadline_s: float) -> bytes:
        read = b""
        while len(read) < num_bytes:
            self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            part = self._socket.recv(num_bytes - len(read))
            if not part:
                raise ConnectionResetError
            read += part
        return read

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
                    self.send(messages.Heartbeat())
                    time.sleep(interval_s)

        threading.Thread(target=run, daemon=True).start()

    def tell(self, generation: int, key: str, value: bytes) -> None:
        """Send a note to the other ranks of a generation; a lost connection ends the wait for theirs."""
        self._keep_note(Note(generation, key, value))
        with contextlib.suppress(DisconnectedError):
            self.send(Note(generation, key, value))

    def is_over(self, generation: int) -> bool:
        """Tell whether the controller has aborted a generation, or is lost."""
        return self.lost or self._aborted_generation >= generation

    def await_train(self, generation: int) -> None:
        """Wait for the command to train, or until the generation is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over(generation) or self.command.generation == generation)

    def await_notes(self, generation: int, keys: Sequence[str], timeout_s: float) -> list[bytes]:
        """Wait for notes; raise a RuntimeError where the generation is over before, or the time."""
        wanted = [(generation, key) for key in keys]
        with self._changed:
            self._changed.wait_for(lambda: self.is_over(generation) or self._notes.keys() >= set(wanted), timeout_s)
            if self.is_over(generation) or not self._notes.keys() >= set(wanted):
                raise RuntimeError("ranks did not tell each other where they are")
            return [self._notes[one] for one in wanted]

    def _keep_note(self, note: Note) -> None:
        with self._changed:
            self._notes[note.generation, note.key] = note.value
            self._changed.notify_all()

    def _receive(self) -> None:
        reader = self._socket.makefile("rb")
        try:
            # A line that is longer fails the check.
            while line := reader.readline(messages.MAX_PLAN_BYTES):
                match message := self._auth.verify(line):
                    case Note():
                        self._keep_note(message)
                    case Command(do="abort"):
                        self._aborted_generation = message.generation
                        self._abort()
                        self.inbox.put(message)
                    case Command():
                        self.command = message
                        self._notify()
                    case StartGeneration():
                        self._notes.clear()
                        self.inbox.put(message)
                    case _:
                        self.inbox.put(message)
        except (OSError, ValueError, LiveError):
            pass
        finally:
            # First of all, since an abort may fail, as where no descriptor is left.
            self.lost = True
            self.inbox.put(None)
            self._abort()

    def _abort(self) -> None:
        self._notify()
        self._on_abort()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the connection."""
        self.lost = True
        # What the next connection builds must not be aborted by the end of this one.
        self._on_abort = lambda: None
        # The receiving thread holds the reader; the end of the connection wakes it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
