"""A worker's part in one generation: a set of ranks with a plan and communicators, until the set changes.

The worker builds communicators, obtains its states, and trains. It leaves as soon as the controller aborts the
generation or is lost; see `lazsim.live.coordinator`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lazsim.live.checkpoint import load_blocks, save_blocks
from lazsim.live.controller_client import ControllerClient
from lazsim.live.messages import CheckpointWritten, Connected, Ready, StartGeneration, StepDone, Train
from lazsim.live.state import DENSE, Block, Key, TrainingState, block_key, expert_keys, initial_states
from lazsim.live.trainer import Trainer
from lazsim.live.transfer import transfer
from lazsim.pytorch.device import Device
from lazsim.pytorch.group import Group
from lazsim.pytorch.transformer import Layout, replicas_on_ranks


class AbortedError(Exception):
    """The generation is over for this worker: the controller has aborted it, or is lost."""


@dataclass(frozen=True)
class WorkerContext:
    """Fixed properties of a worker.

    Attributes
    ----------
    name : str
        Of the node.
    host : str
        Address for other workers; the one that the controller sees where empty.
    store : tuple of str and int
        Host and port where ranks meet.
    device : Device
        Where the worker computes.
    text : bytes
        The training text.
    """

    name: str
    host: str
    store: tuple[str, int]
    device: Device
    text: bytes


class Communicators:
    """The communicator of a worker, which may outlive a generation, and those whose calls hang."""

    def __init__(self) -> None:
        self.current: Group | None = None
        self._stuck: list[Group] = []

    def drop(self, client: ControllerClient) -> None:
        """Close the current communicator."""
        if self.current is not None:
            if self.current.is_stuck:
                # Keep it: its destructor waits for the call that hangs.
                self._stuck.append(self.current)
            else:
                self.current.close()
            self.current = None
        client.group = None


class Generation:
    """A worker's part in a generation.

    Parameters
    ----------
    context, state, communicators, client
        Of the worker; they outlive the generation.
    start
        The message that started it.
    """

    def __init__(
        self,
        context: WorkerContext,
        state: TrainingState,
        communicators: Communicators,
        client: ControllerClient,
        start: StartGeneration,
    ) -> None:
        self._context, self._state, self._communicators = context, state, communicators
        self._client, self._start = client, start
        self._rank = start.members.index(context.name)
        self._replicas_LEJ = replicas_on_ranks(np.array(start.slots, dtype=np.int64), state.spec.model.num_experts)

    def run(self) -> None:
        """Take part until the generation ends.

        Raises
        ------
        AbortedError
            When it ends early.
        RuntimeError
            When a peer is lost.
        """
        start, state = self._start, self._state
        self._check()
        groups = None if start.groups is None else np.array(start.groups, dtype=np.int64)
        layout = Layout(self._replicas_LEJ, groups, start.padded)
        self._connect()
        wanted = [
            {DENSE, *(key for key in expert_keys(state.spec) if self._replicas_LEJ[(*key, other)])}
            for other in range(start.num_ranks)
        ]
        wanted += [set() for _ in start.members[start.num_ranks :]]
        self._obtain(wanted)
        self._client.send(Ready(start.generation))
        self._await_train()
        state.blocks = {key: block for key, block in state.blocks.items() if key in wanted[self._rank]}
        if start.num_ranks < len(start.members):
            self._communicators.drop(self._client)
            if self._rank >= start.num_ranks:
                return
            self._join_group("ranks", start.num_ranks)
        self._train(Trainer(state, self._group(), layout, self._context.text))

    def _check(self) -> None:
        """Leave the generation if the controller has aborted it, or is lost."""
        if self._client.lost or self._client.aborted_generation >= self._start.generation:
            raise AbortedError

    def _group(self) -> Group:
        assert self._communicators.current is not None, "communicators are built"
        return self._communicators.current

    def _connect(self) -> None:
        start = self._start
        if not (start.reuse and self._communicators.current is not None):
            self._communicators.drop(self._client)
            self._join_group("members", len(start.members))
        self._check()
        self._client.send(Connected(start.generation, self._group().by))

    def _join_group(self, name: str, size: int) -> None:
        context, client = self._context, self._client
        meeting = f"{self._start.generation}/{name}"
        host = context.host or client.own_address
        group = Group(context.store, meeting, self._rank, size, host, context.device)
        client.group = self._communicators.current = group
        # An abort that came before the client knew the group did not reach the group.
        self._check()
        group.connect()

    def _obtain(self, wanted: list[set[Key]]) -> None:
        """Bring the state to the step of the generation, and fetch what the plan needs."""
        start, state, rank = self._start, self._state, self._rank
        spec = state.spec
        if start.source == "peers":
            holds = [{block_key(spec, number) for number in numbers} for numbers in start.holds]
            if holds[rank] and state.step == start.step - 1:
                state.commit()
            assert state.step == start.step or not holds[rank], "a worker that serves states is at the job's step"
            if not holds[rank]:
                state.replace({}, start.step)
            state.prepared = False
            own = {key: block.values for key, block in state.blocks.items()}
            fetched = transfer(spec, self._group(), own, holds, wanted)
            self._group().confirm()
            state.blocks |= self._blocks(fetched)
            return
        if start.source == "checkpoint":
            values = load_blocks(Path(spec.checkpoint_folder), start.step, sorted(wanted[rank]))
        else:
            values = initial_states(spec, sorted(wanted[rank]))
        state.replace(self._blocks(values), start.step)

    def _blocks(self, values: Mapping[Key, Tensor]) -> dict[Key, Block]:
        device = self._context.device.torch
        return {key: Block(self._state.spec, key, value.to(device)) for key, value in values.items()}

    def _await_train(self) -> None:
        while True:
            message = self._client.inbox.get()
            if message is None:
                raise AbortedError
            if isinstance(message, Train) and message.generation == self._start.generation:
                return
            self._check()

    def _train(self, trainer: Trainer) -> None:
        """Train until a pause or a failure."""
        generation, client, state, spec = self._start.generation, self._client, self._state, self._state.spec
        begun_s = time.monotonic()
        while True:
            self._check()
            if spec.num_steps is not None and state.step >= spec.num_steps:
                self._save()
                return
            loss = trainer.prepare()
            pause = client.pause if client.pause is not None and client.pause.generation == generation else None
            vote = trainer.vote(loss, pause=pause is not None, save=pause is not None and pause.save)
            state.commit()
            now_s = time.monotonic()
            if self._rank == 0:
                loads = [list(row) for row in trainer.loads]
                client.send(StepDone(generation, state.step, vote.loss, now_s - begun_s, loads))
            begun_s = now_s
            if vote.save or state.step % spec.checkpoint_interval_steps == 0:
                self._save()
                begun_s = time.monotonic()
            if vote.pause and state.step != spec.num_steps:
                return

    def _save(self) -> None:
        """Write the blocks of which this rank is the first holder."""
        state, begun_s = self._state, time.monotonic()
        own = {
            key: block.values
            for key, block in state.blocks.items()
            if (0 if key == DENSE else int(np.flatnonzero(self._replicas_LEJ[key])[0])) == self._rank
        }
        save_blocks(Path(state.spec.checkpoint_folder), state.step, own)
        self._client.send(CheckpointWritten(self._start.generation, state.step, time.monotonic() - begun_s))
