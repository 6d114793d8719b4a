"""Messages between controller and workers: one authenticated JSON line each, plain data only.

A line is ``<hex HMAC-SHA256> <JSON>``. The code covers a nonce from each end of the connection, the direction, a
running number and the text. So nobody can forge a line, send it again, or send it back.
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

MAX_LINE_BYTES = 1 << 26
"""A plan of the largest models takes a few million bytes."""

MAX_NONCE_BYTES = 256


class LiveError(LazsimError):
    """Report a live job that cannot go on, in one line."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """A message; its JSON names its type."""


class HeldState(msgspec.Struct, frozen=True):
    """The blocks that a worker holds after `step` steps, by number; `prepared` with the next step's gradients."""

    step: int = 0
    prepared: bool = False
    blocks: frozenset[int] = frozenset()


class Hello(Message, frozen=True, tag=True):
    """A worker registers; `instance` tells a worker that reconnects from another one of the same name."""

    name: str
    instance: str
    held: HeldState


class Heartbeat(Message, frozen=True, tag=True):
    """A worker is alive."""


class StepDone(Message, frozen=True, tag=True):
    """Rank 0 has committed a step: `step` are done now."""

    generation: int
    step: int
    loss: float
    step_s: float
    loads: list[list[int]]


class CheckpointWritten(Message, frozen=True, tag=True):
    """A rank has written its part of the checkpoint of a step."""

    generation: int
    step: int
    seconds: float


class Left(Message, frozen=True, tag=True):
    """A worker has left its generation; `error` is empty where it was told to."""

    generation: int
    held: HeldState
    error: str = ""


class Connected(Message, frozen=True, tag=True):
    """A worker has its communicators; tensors on its device go by `backend`, ``gloo`` or ``nccl``."""

    generation: int
    backend: str


class Ready(Message, frozen=True, tag=True):
    """A worker has every state that it needs."""

    generation: int


class Welcome(Message, frozen=True, tag=True):
    """The job, the device to train on, and the port of the controller's host where ranks meet."""

    spec: LiveSpec
    device: str
    store_port: int


class GenerationPlan(msgspec.Struct, frozen=True):
    """The ranks of a generation, and their states.

    Its `members` are the `num_ranks` workers that train, in the order of ranks, then others that hold states. Each has
    the blocks `holds` after `step` steps; a worker one step behind commits what it has prepared. States come from
    `source`: ``initial``, ``checkpoint`` or ``peers``. The experts in the `slots` of each rank have shape (L, J, S).
    """

    source: str
    step: int
    members: list[str]
    num_ranks: int
    holds: list[frozenset[int]]
    slots: list[list[list[int]]]
    groups: list[int] | None
    padded: bool


class StartGeneration(Message, frozen=True, tag=True):
    """Build communicators, unless those of the last generation can be reused, and obtain the states of the plan."""

    generation: int
    plan: GenerationPlan
    reuse: bool


class Train(Message, frozen=True, tag=True):
    """All workers are ready: drop the states that the plan does not need, and train."""

    generation: int


class Pause(Message, frozen=True, tag=True):
    """Stop together after the current step; write a checkpoint there where `save` is set."""

    generation: int
    save: bool = False


class Abort(Message, frozen=True, tag=True):
    """Leave the generation at once."""

    generation: int


class Stop(Message, frozen=True, tag=True):
    """The job is over; `reason` is empty where it ended well."""

    reason: str = ""


_DECODERS = {
    "worker": msgspec.json.Decoder(Hello | Heartbeat | StepDone | CheckpointWritten | Left | Connected | Ready),
    "controller": msgspec.json.Decoder(Welcome | StartGeneration | Train | Pause | Abort | Stop),
}


def new_nonce() -> bytes:
    """Draw a nonce: each end of a connection sends one as its first line, the controller first."""
    return secrets.token_hex(16).encode()


def secret_from_environment() -> bytes:
    """Read the secret of a run; raise a LiveError where the environment has none."""
    try:
        secret = bytes.fromhex(os.environ.get(SECRET_VARIABLE, ""))
    except ValueError:
        secret = b""
    if not secret:
        raise LiveError(
            f"{SECRET_VARIABLE} is not set to a secret in hexadecimal; export the same one for the controller and all "
            f"workers of a run: export {SECRET_VARIABLE}=$(python -c 'import secrets; print(secrets.token_hex(32))')"
        )
    return secret


class MessageAuth:
    """Signs the messages of one side and verifies those of the other.

    Examples
    --------
    >>> controller, worker = MessageAuth(b"key", b"nonce", "controller"), MessageAuth(b"key", b"nonce", "worker")
    >>> controller.verify(worker.sign(Heartbeat())), worker.verify(controller.sign(Train(3)))
    (Heartbeat(), Train(generation=3))
    """

    def __init__(self, secret: bytes, nonce: bytes, side: str) -> None:
        self._secret, self._nonce, self._side = secret, nonce, side
        self._num_sent = self._num_received = 0

    def sign(self, message: Message) -> bytes:
        """Return the line that carries a message."""
        body = msgspec.json.encode(message)
        line = self._code(self._side, self._num_sent, body) + b" " + body + b"\n"
        self._num_sent += 1
        return line

    def verify(self, line: bytes) -> Message:
        """Return the message of a line; raise a LiveError unless the line is the next one of the other side."""
        other = "worker" if self._side == "controller" else "controller"
        code, _, body = line.rstrip(b"\n").partition(b" ")
        if not hmac.compare_digest(code, self._code(other, self._num_received, body)):
            raise LiveError(f"the message is not from a {other} of this run; both must have the same secret")
        self._num_received += 1
        try:
            message: Message = _DECODERS[other].decode(body)
        except msgspec.DecodeError as error:
            raise LiveError(f"unknown message ({error}); use the same version of lazsim everywhere") from None
        return message

    def _code(self, side: str, number: int, body: bytes) -> bytes:
        signed = b"%s %s %d " % (self._nonce, side.encode(), number) + body
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest().encode()
