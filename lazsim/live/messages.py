"""What controller and workers tell each other: one authenticated JSON line each, plain data only.

A line is ``<hex HMAC-SHA256> <JSON>``. The code covers nonces that both ends have drawn for the connection, the
direction, a running number and the text, so that a line can be neither forged nor sent again nor sent back.
"""

import hashlib
import hmac
import os
import secrets

import msgspec

from lazsim.errors import LazsimError
from lazsim.live.spec import LiveSpec

SECRET_VARIABLE = "LAZSIM_LIVE_SECRET"
"""Environment variable that hands a worker the secret of its run."""

LONGEST_LINE = 1 << 26
"""Bytes of one message: a plan of the largest models takes a few million."""


LONGEST_NONCE = 256
"""Bytes of a line that holds one."""


class LiveError(LazsimError):
    """Report a live job that cannot go on, in one line."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """A message; its JSON names its type."""


class Hello(Message, frozen=True, tag=True):
    """A worker offers itself, with what it holds: blocks by number (see `block_number`) after so many steps.

    Of two with the same name, `instance` tells whether they are the same worker, whose connection broke.
    """

    name: str
    instance: str
    step: int = 0
    prepared: bool = False
    holds: list[int] = []


class Beat(Message, frozen=True, tag=True):
    """A worker is alive."""


class Stepped(Message, frozen=True, tag=True):
    """Rank 0 has committed a step: `step` are made now."""

    epoch: int
    step: int
    loss: float
    step_s: float
    loads: list[list[int]]


class Saved(Message, frozen=True, tag=True):
    """A rank has written its part of the checkpoint of a step."""

    epoch: int
    step: int
    seconds: float


class Left(Message, frozen=True, tag=True):
    """A worker is out of its epoch; why is empty when it was asked to leave or paused."""

    epoch: int
    step: int
    prepared: bool
    holds: list[int]
    why: str = ""


class Rebuilt(Message, frozen=True, tag=True):
    """A worker has its communicators, and exchanges by ``gloo`` or ``nccl`` what is where it computes."""

    epoch: int
    by: str


class Ready(Message, frozen=True, tag=True):
    """A worker has every state that it needs."""

    epoch: int


FromWorker = Hello | Beat | Stepped | Saved | Left | Rebuilt | Ready


class Welcome(Message, frozen=True, tag=True):
    """The job, and the port of the controller's host at which ranks meet."""

    spec: LiveSpec
    device: str
    store_port: int


class Enter(Message, frozen=True, tag=True):
    """Begin an epoch.

    Attributes
    ----------
    epoch : int
        Its number.
    step : int
        Steps made; who is one behind commits what it has prepared.
    source : str
        Where states come from: ``initial``, ``checkpoint`` or ``peers``.
    senders : list of str
        Who exchanges states: those in use, in the order of ranks, then others that hold some.
    num_ranks : int
        The first so many of the senders train.
    holds : list of list of int
        Blocks that each sender holds after `step` steps.
    slots : list
        Expert in each slot of each rank, shape (L, J, S).
    groups : list of int or None
        Group of each rank under expert parallelism.
    padded : bool
        Whether expert buffers are padded.
    reuse : bool
        Whether the communicators of the epoch before still serve.
    """

    epoch: int
    step: int
    source: str
    senders: list[str]
    num_ranks: int
    holds: list[list[int]]
    slots: list[list[list[int]]]
    groups: list[int] | None
    padded: bool
    reuse: bool


class Go(Message, frozen=True, tag=True):
    """All are ready: drop what the plan does not want, and train."""

    epoch: int


class Pause(Message, frozen=True, tag=True):
    """Stop together after the step under way; write a checkpoint there when asked to."""

    epoch: int
    save: bool = False


class Leave(Message, frozen=True, tag=True):
    """Abandon the epoch at once."""

    epoch: int


class Stop(Message, frozen=True, tag=True):
    """The job is over; why is empty when all went well."""

    why: str = ""


FromController = Welcome | Enter | Go | Pause | Leave | Stop

_FROM_WORKER = msgspec.json.Decoder(FromWorker)
_FROM_CONTROLLER = msgspec.json.Decoder(FromController)


def new_secret() -> bytes:
    """Draw the secret of a run."""
    return secrets.token_bytes(32)


def new_nonce() -> bytes:
    """Draw an end's nonce for a connection: the first line that it sends, the controller before the worker."""
    return secrets.token_hex(16).encode()


def secret_from_environment() -> bytes:
    """Read the secret that a worker was started with.

    Raises
    ------
    LiveError
        When there is none.
    """
    text = os.environ.get(SECRET_VARIABLE, "")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if not secret:
        raise LiveError(
            f"{SECRET_VARIABLE} is not set to a secret in hexadecimal; export the same one for the controller and all "
            "workers of a run: export "
            f"{SECRET_VARIABLE}=$(python -c 'import secrets; print(secrets.token_hex(32))')"
        )
    return secret


class Seal:
    """Seals lines of one direction and opens those of the other.

    Examples
    --------
    >>> controller, worker = Seal(b"key", b"nonce", "controller"), Seal(b"key", b"nonce", "worker")
    >>> controller.open(worker.close(Beat())), worker.open(controller.close(Go(3)))
    (Beat(), Go(epoch=3))
    """

    def __init__(self, secret: bytes, nonce: bytes, side: str) -> None:
        self._secret, self._nonce, self._side = secret, nonce, side
        self._num_sent = self._num_received = 0

    def close(self, message: Message) -> bytes:
        """Return the line that carries a message."""
        body = msgspec.json.encode(message)
        line = self._code(self._side, self._num_sent, body) + b" " + body + b"\n"
        self._num_sent += 1
        return line

    def open(self, line: bytes) -> Message:
        """Return the message of a line.

        Raises
        ------
        LiveError
            When it was not made by the other side with the same secret, as the next one, or is no known message.
        """
        other = "worker" if self._side == "controller" else "controller"
        code, _, body = line.rstrip(b"\n").partition(b" ")
        if not hmac.compare_digest(code, self._code(other, self._num_received, body)):
            raise LiveError(f"a message that no {other} of this run has sent; both must have the same secret")
        self._num_received += 1
        try:
            decoder = _FROM_WORKER if other == "worker" else _FROM_CONTROLLER
            message: Message = decoder.decode(body)
        except msgspec.DecodeError as error:
            raise LiveError(
                f"a message that this version does not know ({error}); use the same lazsim everywhere"
            ) from None
        return message

    def _code(self, side: str, number: int, body: bytes) -> bytes:
        signed = b"%s %s %d " % (self._nonce, side.encode(), number) + body
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest().encode()
