"""Messages between controller and workers: one authenticated JSON line each, plain data only.

A line is ``<hex HMAC-SHA256> <JSON>``. The code covers a nonce from each end of the connection, the version of lazsim,
the direction, a running number and the text. So nobody can forge a line, send it again, or send it back, and workers of
another version, whose messages may differ, never begin.

A connection begins with a nonce of the controller, then a nonce and a proof of the worker, then a proof of the
controller. They have fixed sizes, so that a stranger can send neither end more than that.

Then the messages of a worker, and what it is to the coordinator after each::

    worker                              controller
    Hello                          -->                                  idle
                                   <--  Welcome
                                   <--  StartGeneration                 entered
    Note                           -->  Note, to the other members
    Reached("connected")           -->                                  connected
    Reached("ready")               -->                                  ready
                                   <--  Command("train")
    StepDone, of rank 0            -->
    CheckpointWritten              -->
                                   <--  Command("pause" or "save", at the end of a step; "abort", at once)
    Reached("idle")                -->                                  idle, until the next StartGeneration
                                   <--  Stop

A worker is dead once its connection ends. One that has lost its controller begins anew with the state that it holds.
"""

import hashlib
import hmac
import os
import secrets
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lazsim import __version__
from lazsim.errors import FailedError, LazsimError
from lazsim.limits import MAX_WHOLE
from lazsim.live.spec import LiveSpec
from lazsim.specs.record import Seconds

SECRET_VARIABLE = "LAZSIM_LIVE_SECRET"
"""Environment variable that hands a worker the secret of its run."""

NONCE_BYTES = 32
PROOF_BYTES = 64
"""In hexadecimal digits: 16 random bytes, and an HMAC-SHA256."""

MAX_PLAN_BYTES = 1 << 26
"""Longest line of a controller, which has proved that it has the secret: a plan of the largest models takes a few
million bytes."""

MAX_TEXT_LENGTH = 1000
"""Characters of the longest name or error of a worker."""

MAX_ADDRESS_BYTES = 1 << 16
"""Longest note of a rank to the others: gloo's takes 154 bytes and 8 for each rank."""

WholeNumber = Annotated[int, Meta(ge=0, le=MAX_WHOLE)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]


class LiveError(FailedError):
    """Report a live job that cannot go on, in one line."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """A message; its JSON names its type."""


class HeldState(msgspec.Struct, frozen=True):
    """The blocks that a worker holds after `step` steps, by number; `prepared` with the next step's gradients.

    It trained last in a `generation`, whose sequences those gradients are of.
    """

    step: WholeNumber = 0
    prepared: bool = False
    blocks: frozenset[WholeNumber] = frozenset()
    generation: WholeNumber = 0


class Hello(Message, frozen=True, tag=True):
    """A worker registers; `instance` tells a worker that reconnects from another one of the same name.

    What it holds is of a `job`; see `lazsim.live.checkpoint.job_hash`. The job is empty where it holds nothing yet.
    """

    name: Text
    instance: Text
    held: HeldState
    job: Text = ""


class Heartbeat(Message, frozen=True, tag=True):
    """A worker is alive."""


class StepDone(Message, frozen=True, tag=True):
    """Rank 0 has committed a step: `step` are done now; tensors on the ranks' devices went by `backend`.

    The loss is none where it is no finite number, for which JSON has no word.
    """

    generation: WholeNumber
    step: WholeNumber
    loss: float | None
    step_s: Seconds
    loads: list[list[WholeNumber]]
    backend: Literal["gloo", "nccl"] = "gloo"
    rows_by: Literal["torch", "triton"] = "torch"


class CheckpointWritten(Message, frozen=True, tag=True):
    """A rank has written its part of the checkpoint of a step, unless there was an `error`.

    For `stall_s` of the seconds it did not train.
    """

    generation: WholeNumber
    step: WholeNumber
    seconds: Seconds
    stall_s: Seconds
    error: Text = ""


class Reached(Message, frozen=True, tag=True):
    """A worker is ``connected`` to the other ranks, ``ready`` with every state that it needs, or ``idle`` again.

    It is idle once it has left its generation; `error` is empty where it was told to.
    """

    generation: WholeNumber
    stage: Literal["connected", "ready", "idle"]
    held: HeldState
    error: Text = ""


class Note(Message, frozen=True, tag=True):
    """A note of a rank to the others of its generation, by which they find each other; the controller passes it on."""

    generation: WholeNumber
    key: Text
    value: Annotated[bytes, Meta(max_length=MAX_ADDRESS_BYTES)]


class Welcome(Message, frozen=True, tag=True):
    """The job."""

    spec: LiveSpec


class GenerationPlan(msgspec.Struct, frozen=True):
    """The ranks of a generation, and their states.

    Its `members` are the `num_ranks` workers that train, in the order of ranks, then others that hold states. Each has
    the blocks `holds` after `step` steps; a worker one step behind commits what it has prepared. States come from
    `source`: ``initial``, ``checkpoint`` or ``peers``. The experts in the `slots` of each rank have shape (L, J, S).
    Each rank trains some `sequences` of the global batch, together all unless ranks keep their places while others are
    missing. Where it `saves_behind`, checkpoints are written behind the steps that follow.
    """

    source: str
    step: int
    members: list[str]
    num_ranks: int
    holds: list[frozenset[int]]
    slots: list[list[list[int]]]
    groups: list[int] | None
    padded: bool
    sequences: list[list[int]]
    saves_behind: bool = False


class StartGeneration(Message, frozen=True, tag=True):
    """Build communicators, unless those of the last generation can be reused, and obtain the states of the plan.

    Checkpoints of the generation are drafts of this name until they are whole; see `lazsim.live.checkpoint`.
    """

    generation: int
    plan: GenerationPlan
    reuse: bool
    draft: str


class Command(Message, frozen=True, tag=True):
    """What the members of a generation do now.

    They ``train``: all are ready, and drop the states that the plan does not need. They ``pause`` together after the
    current step, or ``save`` a checkpoint there too. They ``abort``: leave the generation at once.
    """

    generation: int
    do: Literal["train", "pause", "save", "abort"]


class Stop(Message, frozen=True, tag=True):
    """The job is over; `reason` is empty where it ended well."""

    reason: str = ""


_DECODERS = {
    "worker": msgspec.json.Decoder(Hello | Heartbeat | StepDone | CheckpointWritten | Reached | Note),
    "controller": msgspec.json.Decoder(Welcome | StartGeneration | Note | Command | Stop),
}


def max_report_bytes(spec: LiveSpec) -> int:
    """Return the longest line of a worker: it holds every block, or tells the loads of every expert of every layer."""
    num_blocks = 1 + spec.model.num_moe_layers * spec.model.num_experts
    # A number takes up to 16 digits and a comma; base64 makes four bytes of three, and JSON six of a control character.
    return 18 * num_blocks + 2 * MAX_ADDRESS_BYTES + 12 * MAX_TEXT_LENGTH


def check_report(spec: LiveSpec, message: Message) -> None:
    """Raise a LiveError where the message of a worker cannot be about this job."""
    model = spec.model
    match message:
        case Hello(held=HeldState(blocks=blocks)) | Reached(held=HeldState(blocks=blocks)):
            if blocks and max(blocks) > model.num_moe_layers * model.num_experts:
                raise LiveError("a worker named a block that is not in the model")
        case StepDone(loads=loads):
            num_tokens = spec.global_batch * model.sequence_length * model.top_k
            if [len(layer) for layer in loads] != [model.num_experts] * model.num_moe_layers:
                raise LiveError("a worker counted tokens of other layers or experts than the model has")
            # While replicas are missing, all layers have fewer.
            if len({sum(layer) for layer in loads}) > 1 or sum(loads[0]) > num_tokens:
                raise LiveError("a worker counted other tokens than its step has")


def new_nonce() -> bytes:
    """Draw a nonce, which differs from that of any other connection."""
    return secrets.token_hex(NONCE_BYTES // 2).encode()


def secret_from_environment() -> bytes:
    """Read the secret of a run; raise a LazsimError where the environment has none."""
    try:
        secret = bytes.fromhex(os.environ.get(SECRET_VARIABLE, ""))
    except ValueError:
        secret = b""
    if not secret:
        raise LazsimError(
            f"{SECRET_VARIABLE} is not set to a secret in hexadecimal; export the same one for the controller and all "
            f"workers of a run: export {SECRET_VARIABLE}=$(python -c 'import secrets; print(secrets.token_hex(32))')"
        )
    return secret


class MessageAuth:
    """Signs the messages of one side and verifies those of the other.

    Examples
    --------
    >>> controller, worker = MessageAuth(b"key", b"nonce", "controller"), MessageAuth(b"key", b"nonce", "worker")
    >>> controller.verify(worker.sign(Heartbeat())), worker.verify(controller.sign(Command(3, "train")))
    (Heartbeat(), Command(generation=3, do='train'))
    """

    def __init__(self, secret: bytes, nonce: bytes, side: str) -> None:
        self._secret, self._nonce, self._side = secret, nonce, side
        self._other = "worker" if side == "controller" else "controller"
        self._num_sent = self._num_received = 0

    def sign(self, message: Message) -> bytes:
        """Return the line that carries a message."""
        body = msgspec.json.encode(message)
        return self.prove(body) + b" " + body + b"\n"

    def verify(self, line: bytes) -> Message:
        """Return the message of a line; raise a LiveError unless the line is the next one of the other side."""
        code, _, body = line.rstrip(b"\n").partition(b" ")
        self.check(code, body)
        try:
            message: Message = _DECODERS[self._other].decode(body)
        # A line that is nested too deep, or not UTF-8.
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise LiveError(f"unknown message ({error})") from None
        return message

    def prove(self, body: bytes = b"") -> bytes:
        """Return the code of the next text of this side; that of an empty one proves that this side has the secret."""
        code = self._code(self._side, self._num_sent, body)
        self._num_sent += 1
        return code

    def check(self, code: bytes, body: bytes = b"") -> None:
        """Raise a LiveError unless the code is that of the next text of the other side."""
        if not hmac.compare_digest(code, self._code(self._other, self._num_received, body)):
            raise LiveError(f"the message is not from a {self._other} of this run; both must have the same secret")
        self._num_received += 1

    def _code(self, side: str, number: int, body: bytes) -> bytes:
        signed = b"%s %s %s %d " % (self._nonce, __version__.encode(), side.encode(), number) + body
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest().encode()
