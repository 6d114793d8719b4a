"""A worker: one node of a live job. ``python -m lazsim.live.worker --controller HOST:PORT --name NAME``.

The main thread trains. A second thread listens to the controller. It interrupts the main thread's collective when the
controller aborts the generation or is lost. The secret of the run comes in the environment.
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
from lazsim.live import messages
from lazsim.live.controller_client import RECONNECT_TIMEOUT_S, ControllerClient, DisconnectedError
from lazsim.live.generation import AbortedError, Communicators, Generation, WorkerContext
from lazsim.live.messages import SECRET_VARIABLE, HeldState, LiveError, StartGeneration, Stop, Welcome
from lazsim.live.state import TrainingState, block_number
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.pytorch.device import Device, local_rank_from_environment, take_device
from lazsim.pytorch.memory import is_out_of_memory

MAX_ATTEMPTS = 4
"""Connections to a controller that accepts none, before a worker gives up."""


class Worker:
    """A node of a live job.

    Parameters
    ----------
    address
        Of the controller.
    host
        Address for other workers; the one that the controller sees where empty.
    local_rank
        Number of this worker on its machine, which chooses its GPU.
    """

    def __init__(self, address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> None:
        self._address, self._name, self._secret, self._host = address, name, secret, host
        self._local_rank = local_rank
        self._instance = messages.new_nonce().decode()
        self._device: Device | None = None
        self._state: TrainingState | None = None
        self._communicators = Communicators()
        self._is_welcome = False

    def run(self) -> str:
        """Work until the controller ends the job; return its reason, empty where the job ended well.

        Raises
        ------
        LiveError
            When the controller cannot be reached.
        """
        failed_attempts = 0
        while failed_attempts < MAX_ATTEMPTS:
            client = self._connect()
            self._is_welcome = False
            try:
                return self._serve(client)
            except DisconnectedError:
                failed_attempts = 0 if self._is_welcome else failed_attempts + 1
            finally:
                client.close()
                self._communicators.drop()
            time.sleep(0.1 * failed_attempts)
        raise LiveError(
            f"{self._name}: the controller at {self._address[0]}:{self._address[1]} does not answer; "
            f"{SECRET_VARIABLE} and the version of lazsim must be the same as there"
        )

    def _connect(self) -> ControllerClient:
        deadline = time.monotonic() + RECONNECT_TIMEOUT_S
        while True:
            try:
                return ControllerClient(self._address, self._secret, self._communicators.abort)
            except OSError as error:
                if time.monotonic() > deadline:
                    where = f"{self._address[0]}:{self._address[1]}"
                    raise LiveError(f"{self._name}: no controller at {where} ({error}); is it running?") from None
                time.sleep(0.1)

    def _serve(self, client: ControllerClient) -> str:
        client.send(messages.Hello(self._name, self._instance, _describe(self._state)))
        welcome = client.inbox.get()
        if isinstance(welcome, Stop):
            return welcome.reason
        if not isinstance(welcome, Welcome):
            raise DisconnectedError
        self._is_welcome = True
        # Before slow work such as reading the text.
        client.start_heartbeats(welcome.spec.heartbeat_s)
        context = self._prepare(client, welcome)
        while True:
            message = client.inbox.get()
            if message is None:
                raise DisconnectedError
            if isinstance(message, Stop):
                return message.reason
            if isinstance(message, StartGeneration):
                self._take_part(context, message)
            elif isinstance(message, messages.Abort):
                client.send(messages.Left(message.generation, _describe(self._state)))

    def _prepare(self, client: ControllerClient, welcome: Welcome) -> WorkerContext:
        """Load the text and take a device."""
        spec = welcome.spec
        text = load_text(spec.text)
        if text_hash(text) != spec.text_sha256:
            name = spec.text or "the standard library's documentation"
            raise LiveError(f"{self._name}: {name} differs from the controller's; give all nodes the same `text`")
        check_length(text, spec.model.sequence_length, spec.text)
        if self._device is None:
            try:
                self._device = take_device(welcome.device, self._local_rank)
            except RuntimeError as error:
                raise LiveError(f"{self._name}: cannot take a GPU: {_first_line(error)}; or use `device` cpu") from None
        if self._state is None:
            self._state = TrainingState(spec)
        return WorkerContext(
            name=self._name,
            host=self._host or client.own_address,
            store=(self._address[0], welcome.store_port),
            device=self._device,
            text=text,
            state=self._state,
            communicators=self._communicators,
            client=client,
        )

    def _take_part(self, context: WorkerContext, start: StartGeneration) -> None:
        """Take part in a generation, and report how it ended."""
        failure = ""
        try:
            Generation(context, start).run()
        except AbortedError:
            pass
        except RuntimeError as error:
            # Torch reports a lost peer in this way.
            failure = _first_line(error)
            if is_out_of_memory(error) or failure.startswith("CUDA error"):
                # Neither heals, and the others can go on without this worker.
                raise LiveError(f"{self._name}: {failure}") from None
        client = context.client
        if client.lost:
            raise DisconnectedError
        # Report first: nobody should wait while this worker closes its communicators.
        client.send(messages.Left(start.generation, _describe(context.state), failure))
        if failure or client.aborted_generation >= start.generation:
            self._communicators.drop()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _describe(state: TrainingState | None) -> HeldState:
    if state is None:
        return HeldState()
    return HeldState(state.step, state.prepared, frozenset(block_number(state.spec, key) for key in state.blocks))


PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; end at once if it has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run_worker(address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> int:
    """Run a worker in this process and return its exit code."""
    torch.set_num_threads(1)
    try:
        reason = Worker(address, name, secret, host, local_rank).run()
    except LazsimError as error:
        reason = str(error)
    if reason:
        print(f"lazsim: {reason}", file=sys.stderr, flush=True)
    return 1 if reason else 0


def main() -> None:
    """Parse the command line, run a worker and exit."""
    parser = argparse.ArgumentParser(prog="python -m lazsim.live.worker", description="One node of a live job.")
    parser.add_argument("--controller", required=True, metavar="HOST:PORT")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="unique in the job")
    parser.add_argument("--host", default="", help="address for other workers; default: the one the controller sees")
    parser.add_argument(
        "--local-rank",
        type=int,
        default=local_rank_from_environment(),
        help="number of this worker on its machine, which chooses its GPU; default: from torchrun or Slurm, or 0",
    )
    arguments = parser.parse_args()
    host, _, port = arguments.controller.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--controller {arguments.controller!r}: give HOST:PORT")
    try:
        secret = messages.secret_from_environment()
    except LazsimError as error:
        print(f"lazsim: {error}", file=sys.stderr)
        sys.exit(2)
    code = run_worker((host, int(port)), arguments.name, secret, arguments.host, arguments.local_rank)
    # Not sys.exit, which waits for groups that are stuck.
    os._exit(code)


if __name__ == "__main__":
    main()
