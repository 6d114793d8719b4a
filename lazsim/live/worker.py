"""A worker: one node of a live job. ``python -m lazsim.live.worker --controller HOST:PORT --name NAME``.

The main thread trains. A second one listens to the controller, and makes the main thread leave whatever collective it
is in when the controller says so or is gone. The secret of the run comes in the environment.
"""

import argparse
import contextlib
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from lazsim.errors import LazsimError
from lazsim.live.checkpoint import load_blocks, save_blocks
from lazsim.live.group import Group, choose_device
from lazsim.live.messages import (
    SECRET_VARIABLE,
    Beat,
    Enter,
    Go,
    Hello,
    Leave,
    Left,
    LiveError,
    Message,
    Pause,
    Ready,
    Rebuilt,
    Saved,
    Seal,
    Stepped,
    Stop,
    Welcome,
    secret_from_environment,
)
from lazsim.live.model import Layout, replicas_on_ranks
from lazsim.live.state import DENSE, Block, Key, expert_keys, initial_states
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.live.trainer import State, Trainer
from lazsim.live.transfer import block_key, block_number, transfer

RECONNECT_S = 10.0
"""For so long a worker tries to find its controller again."""

MOST_REFUSALS = 4
"""So often a worker speaks in vain to a controller that does not answer."""


class AbandonedError(Exception):
    """The epoch is over for this worker; why is in the text, empty when it was told."""


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
        self._socket.settimeout(None)
        self.own_address = str(self._socket.getsockname()[0])
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self._seal = Seal(secret, self._reader.readline().strip(), "worker")
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
            group.cut()

    def close(self) -> None:
        """Give up the connection."""
        self.lost = True
        # The listening thread holds the reader; the end of the connection wakes it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


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
    """

    def __init__(self, address: tuple[str, int], name: str, secret: bytes, host: str) -> None:
        self._address, self._name, self._secret, self._host = address, name, secret, host
        self._state: State | None = None
        self._group: Group | None = None
        self._stuck: list[Group] = []

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
                self._drop_group(line)
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
            line.send(Hello(self._name))
        else:
            line.send(Hello(self._name, state.step, state.prepared, self._holds()))
        welcome = line.inbox.get()
        if isinstance(welcome, Stop):
            return welcome.why
        if not isinstance(welcome, Welcome):
            raise GoneError
        line.welcomed = True
        # Before all that takes long, such as reading the text.
        line.beat(welcome.spec.heartbeat_s)
        self._settle_in(welcome)
        while True:
            message = line.inbox.get()
            if message is None:
                raise GoneError
            if isinstance(message, Stop):
                return message.why
            if isinstance(message, Enter):
                self._take_part(line, message)
            elif isinstance(message, Leave):
                self._report(line, message.epoch)

    def _settle_in(self, welcome: Welcome) -> None:
        spec = welcome.spec
        self._text = load_text(spec.text)
        if text_hash(self._text) != spec.text_sha256:
            name = spec.text or "the standard library's documentation"
            raise LiveError(
                f"{self._name}: {name} differs from the controller's; give all nodes the same file (--text)"
            )
        check_length(self._text, spec.model.sequence_length, spec.text)
        self._store = (self._address[0], welcome.store_port)
        self._device_choice = welcome.device
        if self._state is None:
            self._state = State(spec)

    def _take_part(self, line: Line, enter: Enter) -> None:
        """Live through an epoch."""
        why = ""
        try:
            self._train(line, enter)
        except AbandonedError as abandoned:
            why = str(abandoned)
        except RuntimeError as error:
            # Torch reports a lost peer so.
            why = f"{error}".splitlines()[0]
        if line.lost:
            raise GoneError
        if why or line.left_epoch >= enter.epoch:
            self._drop_group(line)
        self._report(line, enter.epoch, why)

    def _report(self, line: Line, epoch: int, why: str = "") -> None:
        assert self._state is not None, "the controller has said what the job is"
        line.send(Left(epoch, self._state.step, self._state.prepared, self._holds(), why))

    def _holds(self) -> list[int]:
        assert self._state is not None, "the controller has said what the job is"
        return sorted(block_number(self._state.spec, key) for key in self._state.blocks)

    def _drop_group(self, line: Line) -> None:
        line.group = None
        if self._group is not None:
            if self._group.is_stuck:
                self._stuck.append(self._group)
            else:
                self._group.close()
            self._group = None

    def _train(self, line: Line, enter: Enter) -> None:
        state = self._state
        assert state is not None, "the controller has said what the job is"
        rank = enter.senders.index(self._name)
        self._check(line, enter)
        slots = np.array(enter.slots, dtype=np.int64)
        groups = None if enter.groups is None else np.array(enter.groups, dtype=np.int64)
        layout = Layout(replicas_on_ranks(slots, state.spec.model.num_experts), groups, enter.padded)
        device = choose_device(self._device_choice, rank)
        self._rebuild(line, enter, rank)
        wanted = [
            {DENSE, *(key for key in expert_keys(state.spec) if layout.replicas_LEJ[(*key, other)])}
            for other in range(enter.num_ranks)
        ]
        wanted += [set() for _ in enter.senders[enter.num_ranks :]]
        self._obtain(enter, rank, wanted, device)
        line.send(Ready(enter.epoch))
        self._await_go(line, enter)
        state.blocks = {key: block for key, block in state.blocks.items() if key in wanted[rank]}
        if rank >= enter.num_ranks:
            self._drop_group(line)
            return
        if enter.num_ranks < len(enter.senders):
            self._drop_group(line)
            self._join_group(line, enter, "ranks", rank, enter.num_ranks)
        assert self._group is not None, "communicators are built"
        self._loop(line, enter, Trainer(state, self._group, layout, self._text))

    def _check(self, line: Line, enter: Enter) -> None:
        """Leave the epoch if the controller has called everybody out, or is gone."""
        if line.lost or line.left_epoch >= enter.epoch:
            raise AbandonedError

    def _rebuild(self, line: Line, enter: Enter, rank: int) -> None:
        if not (enter.reuse and self._group is not None):
            self._drop_group(line)
            self._join_group(line, enter, "senders", rank, len(enter.senders))
        self._check(line, enter)
        line.send(Rebuilt(enter.epoch))

    def _join_group(self, line: Line, enter: Enter, whom: str, rank: int, size: int) -> None:
        device = choose_device(self._device_choice, rank)
        line.group = self._group = Group(
            self._store, f"{enter.epoch}/{whom}", rank, size, self._host or line.own_address, device
        )
        # Whoever called everybody out before the line knew of this group has not cut it.
        self._check(line, enter)
        self._group.connect()

    def _obtain(self, enter: Enter, rank: int, wanted: list[set[Key]], device: torch.device) -> None:
        """Bring the state to the step of the epoch, and get what the plan wants."""
        state = self._state
        assert state is not None, "the controller has said what the job is"
        spec = state.spec
        if enter.source == "peers":
            holds = [{block_key(spec, number) for number in numbers} for numbers in enter.holds]
            if holds[rank] and state.step == enter.step - 1:
                state.commit()
            assert state.step == enter.step or not holds[rank], "whoever serves states is as far as the job"
            if not holds[rank]:
                state.replace({}, enter.step)
            state.prepared = False
            assert self._group is not None, "communicators are built"
            own = {key: block.values for key, block in state.blocks.items()}
            fetched = transfer(spec, self._group, own, holds, wanted)
            state.blocks |= {key: Block(spec, key, values.to(device)) for key, values in fetched.items()}
            return
        if enter.source == "checkpoint":
            values = load_blocks(Path(spec.checkpoint_folder), enter.step, sorted(wanted[rank]))
        else:
            values = initial_states(spec, sorted(wanted[rank]))
        state.replace({key: Block(spec, key, value.to(device)) for key, value in values.items()}, enter.step)

    def _await_go(self, line: Line, enter: Enter) -> None:
        while True:
            message = line.inbox.get()
            if message is None:
                raise AbandonedError
            if isinstance(message, Go) and message.epoch == enter.epoch:
                return
            self._check(line, enter)

    def _loop(self, line: Line, enter: Enter, trainer: Trainer) -> None:
        """Train until a pause, or until something goes wrong."""
        state, spec, group = trainer.state, trainer.state.spec, trainer.group
        begun_s = time.monotonic()
        while True:
            self._check(line, enter)
            if spec.num_steps is not None and state.step >= spec.num_steps:
                self._save(line, enter, group)
                return
            loss = trainer.prepare()
            pausing = line.pausing if line.pausing is not None and line.pausing.epoch == enter.epoch else None
            vote = trainer.vote(loss, pause=pausing is not None, save=pausing is not None and pausing.save)
            state.commit()
            now_s = time.monotonic()
            if group.rank == 0:
                line.send(
                    Stepped(enter.epoch, state.step, vote.loss, now_s - begun_s, [list(row) for row in trainer.loads])
                )
            begun_s = now_s
            if vote.save or state.step % spec.checkpoint_interval_steps == 0:
                self._save(line, enter, group)
                begun_s = time.monotonic()
            if vote.pause and state.step != spec.num_steps:
                return

    def _save(self, line: Line, enter: Enter, group: Group) -> None:
        """Write the blocks of which this is the first holder."""
        state = self._state
        assert state is not None, "the controller has said what the job is"
        begun_s = time.monotonic()
        replicas_LEJ = replicas_on_ranks(np.array(enter.slots, dtype=np.int64), state.spec.model.num_experts)
        own = {
            key: block.values
            for key, block in state.blocks.items()
            if (0 if key == DENSE else int(np.flatnonzero(replicas_LEJ[key])[0])) == group.rank
        }
        save_blocks(Path(state.spec.checkpoint_folder), state.step, own)
        line.send(Saved(enter.epoch, state.step, time.monotonic() - begun_s))


PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def work(address: tuple[str, int], name: str, secret: bytes, host: str) -> int:
    """Run a worker in this process and return its exit code."""
    torch.set_num_threads(1)
    try:
        why = Worker(address, name, secret, host).run()
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
    arguments = parser.parse_args()
    host, _, port = arguments.controller.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--controller {arguments.controller!r}: give HOST:PORT")
    try:
        secret = secret_from_environment()
    except LazsimError as error:
        print(f"lazsim: {error}", file=sys.stderr)
        sys.exit(2)
    code = work((host, int(port)), arguments.name, secret, arguments.host)
    # Not sys.exit, which waits for groups that are stuck.
    os._exit(code)


if __name__ == "__main__":
    main()
