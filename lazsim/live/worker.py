"""A worker: one node of a live job. ``python -m lazsim.live.worker --controller HOST:PORT --name NAME``.

The main thread trains. A second one listens to the controller, and makes the main thread leave whatever collective it
is in when the controller says so or is gone. The secret of the run comes in the environment.
"""

import argparse
import ctypes
import os
import signal
import socket
import sys
import time

import torch

from lazsim.errors import LazsimError
from lazsim.live.epoch import AbandonedError, Epoch, Groups, Place
from lazsim.live.line import RECONNECT_S, GoneError, Line
from lazsim.live.messages import (
    SECRET_VARIABLE,
    Enter,
    Hello,
    Leave,
    Left,
    LiveError,
    Stop,
    Welcome,
    new_nonce,
    secret_from_environment,
)
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.live.trainer import State
from lazsim.live.transfer import block_number
from lazsim.pytorch.device import Device, local_rank_from_environment, take_device
from lazsim.pytorch.memory import is_out_of_memory

MOST_REFUSALS = 4
"""So often a worker speaks in vain to a controller that does not answer."""


class Worker:
    """A node of a live job.

    Parameters
    ----------
    address
        Of the controller.
    name
        Of this node.
    secret
        Of the run.
    host
        The address on which this node listens to others; that by which it reaches the controller when empty.
    local_rank
        Number of this worker on its machine, which decides on its GPU.
    """

    def __init__(self, address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> None:
        self._address, self._name, self._secret, self._host = address, name, secret, host
        self._local_rank = local_rank
        self._instance = new_nonce().decode()
        self._device: Device | None = None
        self._state: State | None = None
        self._groups = Groups()

    def run(self) -> str:
        """Work until the controller ends the job; return why it did, empty when all went well.

        Raises
        ------
        LiveError
            When the controller cannot be found, or not again.
        """
        refusals = 0
        while refusals < MOST_REFUSALS:
            line = self._connect()
            try:
                return self._serve(line)
            except GoneError:
                refusals = 0 if line.welcomed else refusals + 1
            finally:
                self._groups.drop(line)
                line.close()
            time.sleep(0.1 * refusals)
        raise LiveError(
            f"{self._name}: the controller at {self._address[0]}:{self._address[1]} does not answer; "
            f"{SECRET_VARIABLE} and the version of lazsim must be the same as there"
        )

    def _connect(self) -> Line:
        deadline = time.monotonic() + RECONNECT_S
        while True:
            try:
                return Line(self._address, self._secret)
            except OSError as error:
                if time.monotonic() > deadline:
                    where = f"{self._address[0]}:{self._address[1]}"
                    raise LiveError(f"{self._name}: no controller at {where} ({error}); is it running?") from None
                time.sleep(0.1)

    def _serve(self, line: Line) -> str:
        state = self._state
        if state is None:
            line.send(Hello(self._name, self._instance))
        else:
            line.send(Hello(self._name, self._instance, state.step, state.prepared, held_blocks(state)))
        welcome = line.inbox.get()
        if isinstance(welcome, Stop):
            return welcome.why
        if not isinstance(welcome, Welcome):
            raise GoneError
        line.welcomed = True
        # Before all that takes long, such as reading the text.
        line.beat(welcome.spec.heartbeat_s)
        place = self._settle_in(welcome)
        state = self._state = State(welcome.spec) if state is None else state
        while True:
            message = line.inbox.get()
            if message is None:
                raise GoneError
            if isinstance(message, Stop):
                return message.why
            if isinstance(message, Enter):
                self._take_part(place, state, line, message)
            elif isinstance(message, Leave):
                self._report(state, line, message.epoch)

    def _settle_in(self, welcome: Welcome) -> Place:
        spec = welcome.spec
        text = load_text(spec.text)
        if text_hash(text) != spec.text_sha256:
            name = spec.text or "the standard library's documentation"
            raise LiveError(
                f"{self._name}: {name} differs from the controller's; give all nodes the same file (--text)"
            )
        check_length(text, spec.model.sequence_length, spec.text)
        if self._device is None:
            try:
                self._device = take_device(welcome.device, self._local_rank)
            except RuntimeError as error:
                raise LiveError(f"{self._name}: cannot take a GPU: {_first_line(error)}; or use --device cpu") from None
        return Place(self._name, self._host, (self._address[0], welcome.store_port), self._device, text)

    def _take_part(self, place: Place, state: State, line: Line, enter: Enter) -> None:
        """Live through an epoch."""
        why = ""
        try:
            Epoch(place, state, self._groups, line, enter).run()
        except AbandonedError:
            pass
        except RuntimeError as error:
            why = _first_line(error)
            if is_out_of_memory(error) or why.startswith("CUDA error"):
                # Neither heals, and the others can do without this one.
                raise LiveError(f"{self._name}: {why}") from None
            # Torch reports a lost peer so.
        if line.lost:
            raise GoneError
        # First of all: nobody is to wait for this one while it lets go of the others.
        self._report(state, line, enter.epoch, why)
        if why or line.left_epoch >= enter.epoch:
            self._groups.drop(line)

    def _report(self, state: State, line: Line, epoch: int, why: str = "") -> None:
        line.send(Left(epoch, state.step, state.prepared, held_blocks(state), why))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def held_blocks(state: State) -> list[int]:
    """Return the numbers of the blocks that a node holds."""
    return sorted(block_number(state.spec, key) for key in state.blocks)


PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def work(address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> int:
    """Run a worker in this process and return its exit code."""
    torch.set_num_threads(1)
    try:
        why = Worker(address, name, secret, host, local_rank).run()
    except LazsimError as error:
        why = str(error)
    if why:
        print(f"lazsim: {why}", file=sys.stderr, flush=True)
    return 1 if why else 0


def main() -> None:
    """Parse the command line, run a worker and exit."""
    parser = argparse.ArgumentParser(prog="python -m lazsim.live.worker", description="One node of a live job.")
    parser.add_argument("--controller", required=True, metavar="HOST:PORT")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="unique in the job")
    parser.add_argument(
        "--host", default="", help="address at which other workers reach this one; default: as the controller sees it"
    )
    parser.add_argument(
        "--local-rank",
        type=int,
        default=local_rank_from_environment(),
        help="number of this worker on its machine, which decides on its GPU; default: as torchrun or Slurm says, or 0",
    )
    arguments = parser.parse_args()
    host, _, port = arguments.controller.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--controller {arguments.controller!r}: give HOST:PORT")
    try:
        secret = secret_from_environment()
    except LazsimError as error:
        print(f"lazsim: {error}", file=sys.stderr)
        sys.exit(2)
    code = work((host, int(port)), arguments.name, secret, arguments.host, arguments.local_rank)
    # Not sys.exit, which waits for groups that are stuck.
    os._exit(code)


if __name__ == "__main__":
    main()
