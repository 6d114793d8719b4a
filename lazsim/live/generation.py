"""A worker's part in a live job, from generation to generation.

The main thread trains. A second thread listens to the controller. It interrupts the main thread's collective when the
controller aborts the generation or is lost.
"""

import math
import queue
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
from torch import Tensor

from lazsim.errors import LazsimError, first_line
from lazsim.live import messages
from lazsim.live.checkpoint import BackgroundWriter, job_hash, load_blocks, save_blocks
from lazsim.live.controller_client import RECONNECT_TIMEOUT_S, WELCOME_TIMEOUT_S, ControllerClient, DisconnectedError
from lazsim.live.messages import SECRET_VARIABLE, LiveError, StartGeneration, Stop, Welcome
from lazsim.live.state import DENSE, Key, TrainingState, all_keys, initial_values
from lazsim.live.trainer import Trainer, load_text
from lazsim.placement.plan import PlacementPlan
from lazsim.pytorch import fused
from lazsim.pytorch.device import is_out_of_memory, take_device
from lazsim.pytorch.group import TIMEOUT, ProcessGroup, dist
from lazsim.pytorch.transformer import RankDispatch
from lazsim.specs import sha256

RETRY_S = 0.1
"""Time between two attempts to reach the controller."""


class AbortedError(Exception):
    """The generation is over for this worker: the controller has aborted it, or is lost."""


class Worker:
    """A node of a live job; its `local_rank` chooses its GPU.

    Other workers reach it at `host`, where empty at the address that the controller sees. Its `group` may outlive a
    generation.
    """

    def __init__(self, address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> None:
        self.name, self.host = name, host
        self.group: ProcessGroup | None = None
        # Kept, since the destructor of a group waits for the call that hangs.
        self._stuck_groups: list[ProcessGroup] = []
        self._address, self._secret, self._local_rank = address, secret, local_rank
        self._instance = messages.new_nonce().decode()
        self._state: TrainingState | None = None
        # When it gives up on a controller that does not welcome it.
        self._gives_up_s = math.inf

    def run(self) -> str:
        """Work until the controller ends the job; return its reason, empty where the job ended well."""
        while True:
            try:
                with closing(ControllerClient(self._address, self._secret, self.abort)) as client:
                    return self._serve(client)
            except DisconnectedError as error:
                why = str(error) or (
                    f"the controller at {self._address[0]}:{self._address[1]} does not answer; "
                    f"{SECRET_VARIABLE} and the version of lazsim must be the same as there"
                )
            finally:
                self.drop_group()
            # Others may crowd it out for a time.
            self._gives_up_s = min(self._gives_up_s, time.monotonic() + RECONNECT_TIMEOUT_S)
            if time.monotonic() >= self._gives_up_s:
                raise LiveError(f"{self.name}: {why}")
            time.sleep(RETRY_S)

    def abort(self) -> None:
        """Make a call of the group in another thread fail."""
        if (group := self.group) is not None:
            group.abort()

    def drop_group(self) -> None:
        """Close the communicators."""
        group, self.group = self.group, None
        if group is not None and group.is_stuck:
            self._stuck_groups.append(group)
        elif group is not None:
            group.close()

    def _serve(self, client: ControllerClient) -> str:
        held, job = messages.HeldState(), ""
        if self._state is not None:
            held, job = self._state.held(), job_hash(self._state.spec)
        client.send(messages.Hello(self.name, self._instance, held, job))
        try:
            welcome = client.inbox.get(timeout=WELCOME_TIMEOUT_S)
        except queue.Empty:
            raise DisconnectedError from None
        if isinstance(welcome, Stop):
            return welcome.reason
        if not isinstance(welcome, Welcome):
            raise DisconnectedError
        self._gives_up_s = math.inf
        # Before slow work such as reading the text.
        client.start_heartbeats(welcome.spec.heartbeat_s)
        state = self._prepare(welcome)
        while True:
            message = client.inbox.get()
            if message is None:
                raise DisconnectedError
            if isinstance(message, Stop):
                return message.reason
            if isinstance(message, StartGeneration):
                self._take_part(client, state, message)
            elif isinstance(message, messages.Command) and message.do == "abort":
                self._leave(client, state, message.generation)

    def _leave(self, client: ControllerClient, state: TrainingState, generation: int, failure: str = "") -> None:
        """Report the state held; where the connection is lost, the inbox tells, and before that whether all is over."""
        with suppress(DisconnectedError):
            client.send(messages.Reached(generation, "idle", state.held(), failure))

    def _prepare(self, welcome: Welcome) -> TrainingState:
        """Check the text and take a device; return the state, which outlives a connection."""
        spec = welcome.spec
        if sha256(load_text(spec.text)) != spec.text_sha256:
            name = spec.text or "the documentation of Python"
            raise LiveError(f"{self.name}: {name} differs from the controller's; give all nodes the same `text`")
        if self._state is None:
            try:
                self._state = TrainingState(spec, take_device(spec.device, self._local_rank))
            except RuntimeError as error:
                raise LiveError(f"{self.name}: cannot take a GPU: {first_line(error)}; or use `device` cpu") from None
        return self._state

    def _take_part(self, client: ControllerClient, state: TrainingState, start: StartGeneration) -> None:
        """Take part in a generation, and report how it ended."""
        failure = ""
        try:
            Generation(self, client, state, start).run()
        except (AbortedError, DisconnectedError):
            pass
        except RuntimeError as error:
            # Torch reports a lost peer in this way.
            failure = first_line(error)[: messages.MAX_TEXT_LENGTH]
            if is_out_of_memory(error) or failure.startswith("CUDA error"):
                # Neither heals, and the others can go on without this worker.
                raise LiveError(f"{self.name}: {failure}") from None
        # Report first: nobody should wait while this worker closes its communicators.
        self._leave(client, state, start.generation, failure)
        if failure or client.is_over(start.generation):
            self.drop_group()


class MeetingPoint(dist.Store):  # type: ignore[misc]
    """A store of torch that sends what a rank tells by way of the controller, to which every worker is connected.

    Torch's own store would listen for anybody.
    """

    def __init__(self, client: ControllerClient, generation: int) -> None:
        super().__init__()
        self._client, self._generation = client, generation

    def set(self, key: str, value: bytes) -> None:
        """Tell the other ranks."""
        self._client.tell(self._generation, key, value)

    def get(self, key: str) -> bytes:
        """Wait for what a rank tells."""
        return self._client.await_notes(self._generation, [key], TIMEOUT.total_seconds())[0]

    def wait(self, keys: Sequence[str], timeout: timedelta = TIMEOUT) -> None:
        """Wait for what ranks tell."""
        self._client.await_notes(self._generation, keys, timeout.total_seconds())


class Generation:
    """The part of a worker in the generation that a message has started: communicators, states, training.

    The worker leaves as soon as the controller aborts the generation or is lost; see `lazsim.live.coordinator`.
    """

    def __init__(self, worker: Worker, client: ControllerClient, state: TrainingState, start: StartGeneration) -> None:
        self._worker, self._client, self._state, self._spec = worker, client, state, state.spec
        self._start, self._plan = start, start.plan
        self._rank = start.plan.members.index(worker.name)
        slots_LNS = np.array(start.plan.slots, dtype=np.int64)
        self._replicas_LEJ = PlacementPlan(slots_LNS, self._spec.model.num_experts).replicas_LEN
        # What a generation that was aborted has not written yet counts no more, whatever becomes of it.
        self._writer = BackgroundWriter()
        self._saved_step = -1

    def run(self) -> None:
        """Take part until the generation ends; raise an AbortedError if early, a RuntimeError if a peer is lost."""
        start, plan, state = self._start, self._plan, self._state
        self._check()
        if not (start.reuse and self._worker.group is not None):
            self._join_group("members", len(plan.members))
        self._check()
        self._client.send(messages.Reached(start.generation, "connected", state.held()))
        wanted = [
            {key for key in all_keys(self._spec) if key == DENSE or self._replicas_LEJ[(*key, rank)]}
            for rank in range(plan.num_ranks)
        ]
        wanted += [set() for _ in plan.members[plan.num_ranks :]]
        self._obtain(wanted)
        self._client.send(messages.Reached(start.generation, "ready", state.held()))
        self._client.await_train(start.generation)
        self._check()
        state.blocks = {key: block for key, block in state.blocks.items() if key in wanted[self._rank]}
        if self._rank >= plan.num_ranks:
            self._worker.drop_group()
            return
        if plan.num_ranks < len(plan.members):
            self._join_group("ranks", plan.num_ranks)
        groups_J = None if plan.groups is None else np.array(plan.groups, dtype=np.int64)
        try:
            self._train(
                Trainer(state, self._group, RankDispatch(self._replicas_LEJ, groups_J, plan.padded), plan.sequences)
            )
        finally:
            # The next generation changes the state.
            self._writer.wait_for_copy()

    def _check(self) -> None:
        """Leave the generation if the controller has aborted it, or is lost."""
        if self._client.is_over(self._start.generation):
            raise AbortedError

    @property
    def _group(self) -> ProcessGroup:
        assert self._worker.group is not None, "communicators are built"
        return self._worker.group

    def _join_group(self, name: str, size: int) -> None:
        worker, meeting = self._worker, MeetingPoint(self._client, self._start.generation)
        host = worker.host or self._client.own_address
        worker.drop_group()
        group = ProcessGroup(meeting, name, self._rank, size, host, self._state.device)
        worker.group = group
        # An abort that came before this did not reach the group.
        self._check()
        group.connect()

    def _obtain(self, wanted: list[set[Key]]) -> None:
        """Bring the state to the step of the generation, and fetch what the plan needs."""
        plan, state, rank, keys = self._plan, self._state, self._rank, all_keys(self._spec)
        if plan.source == "peers":
            holds = [{keys[number] for number in numbers} for numbers in plan.holds]
            if holds[rank] and state.step == plan.step - 1:
                state.commit()
            assert state.step == plan.step or not holds[rank], "a worker that serves states is at the job's step"
            if not holds[rank]:
                state.replace({}, plan.step)
            state.prepared = False
            state.fetch(self._group, holds, wanted)
            return
        if plan.source == "checkpoint":
            values = load_blocks(self._spec, plan.step, wanted[rank])
        else:
            values = {key: initial_values(self._spec, key) for key in wanted[rank]}
        state.replace({}, plan.step)
        state.add(values)

    def _train(self, trainer: Trainer) -> None:
        """Train until a pause or a failure."""
        generation, client, state, spec = self._start.generation, self._client, self._state, self._spec
        interval_steps = spec.checkpoint_interval_steps
        state.generation, begun_s = generation, time.monotonic()
        by = self._group.by, fused.rows_by(state.device.torch)
        while True:
            self._check()
            if spec.num_steps is not None and state.step >= spec.num_steps:
                if self._saved_step != state.step:
                    self._save()
                self._writer.wait()
                return
            part, loads = trainer.prepare()
            asked = client.command.do
            loss, to_pause, to_save = trainer.vote(part, pause=asked != "train", save=asked == "save")
            self._writer.wait_for_copy()
            state.commit()
            now_s = time.monotonic()
            if self._rank == 0:
                client.send(messages.StepDone(generation, state.step, loss, now_s - begun_s, loads, *by))
            begun_s = now_s
            if to_save or (interval_steps and state.step % interval_steps == 0):
                begun_s += self._save(behind=self._plan.saves_behind and not to_pause)
            if to_pause and state.step != spec.num_steps:
                self._writer.wait()
                return

    def _save(self, *, behind: bool = False) -> float:
        """Write the blocks of which this rank is the first holder; `behind` the next steps, or before them.

        Returns the seconds in which nothing trains. What it takes to begin a save behind steps is part of the next one.
        """
        state, begun_s = self._state, time.monotonic()
        # One save is written at a time.
        self._writer.wait()
        self._saved_step = state.step
        own = {
            key: block.values
            for key, block in state.blocks.items()
            if (0 if key == DENSE else int(np.flatnonzero(self._replicas_LEJ[key])[0])) == self._rank
        }
        start, step, waited_s = self._start, state.step, time.monotonic() - begun_s

        def write(values: Mapping[Key, Tensor]) -> None:
            error = ""
            try:
                save_blocks(Path(self._spec.checkpoint_folder), step, start.draft, values)
            except LazsimError as found:
                # No failure of this node: others would find the same disk full. The controller ends the job.
                error = str(found)[: messages.MAX_TEXT_LENGTH]
            seconds = time.monotonic() - begun_s - waited_s
            stall_s = waited_s if behind else waited_s + seconds
            self._client.send(messages.CheckpointWritten(start.generation, step, seconds, stall_s, error))

        if behind:
            self._writer.start(own, write)
            return waited_s
        write(own)
        return time.monotonic() - begun_s
