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
from lazsim.live.state import DENSE, Block, Key, TrainingState, block_key, expert_keys, initial_values
from lazsim.live.trainer import Trainer
from lazsim.live.transfer import transfer
from lazsim.pytorch.device import Device
from lazsim.pytorch.group import Group
from lazsim.pytorch.transformer import Layout, replicas_on_ranks


class AbortedError(Exception):
    """The generation is over for this worker: the controller has aborted it, or is lost."""


class Communicators:
    """The communicator of a worker, which may outlive a generation, and those whose calls hang."""

    def __init__(self) -> None:
        self.current: Group | None = None
        self._stuck: list[Group] = []

    def abort(self) -> None:
        """Make calls in other threads fail."""
        if (group := self.current) is not None:
            group.abort()

    def drop(self) -> None:
        """Close the current communicator."""
        group, self.current = self.current, None
        if group is not None and group.is_stuck:
            # Keep it: its destructor waits for the call that hangs.
            self._stuck.append(group)
        elif group is not None:
            group.close()


@dataclass(frozen=True)
class WorkerContext:
    """A worker: its name, the address for other workers, where ranks meet, its device, text, and possessions."""

    name: str
    host: str
    store: tuple[str, int]
    device: Device
    text: bytes
    state: TrainingState
    communicators: Communicators
    client: ControllerClient


class Generation:
    """The part of a worker in the generation that a message has started."""

    def __init__(self, context: WorkerContext, start: StartGeneration) -> None:
        self._context, self._start, self._plan = context, start, start.plan
        self._state, self._communicators, self._client = context.state, context.communicators, context.client
        self._spec = context.state.spec
        self._rank = start.plan.members.index(context.name)
        self._replicas_LEJ = replicas_on_ranks(np.array(start.plan.slots, dtype=np.int64), self._spec.model.num_experts)

    def run(self) -> None:
        """Take part until the generation ends.

        Raises
        ------
        AbortedError
            When it ends early.
        RuntimeError
            When a peer is lost.
        """
        start, plan, state = self._start, self._plan, self._state
        self._check()
        if not (start.reuse and self._communicators.current is not None):
            self._join_group("members", len(plan.members))
        self._check()
        self._client.send(Connected(start.generation, self._group.by))
        wanted = [
            {DENSE, *(key for key in expert_keys(self._spec) if self._replicas_LEJ[(*key, rank)])}
            for rank in range(plan.num_ranks)
        ]
        wanted += [set() for _ in plan.members[plan.num_ranks :]]
        self._obtain(wanted)
        self._client.send(Ready(start.generation))
        self._await_train()
        state.blocks = {key: block for key, block in state.blocks.items() if key in wanted[self._rank]}
        if self._rank >= plan.num_ranks:
            self._communicators.drop()
            return
        if plan.num_ranks < len(plan.members):
            self._join_group("ranks", plan.num_ranks)
        groups_J = None if plan.groups is None else np.array(plan.groups, dtype=np.int64)
        self._train(Trainer(state, self._group, Layout(self._replicas_LEJ, groups_J, plan.padded), self._context.text))

    def _check(self) -> None:
        """Leave the generation if the controller has aborted it, or is lost."""
        if self._client.lost or self._client.aborted_generation >= self._start.generation:
            raise AbortedError

    @property
    def _group(self) -> Group:
        assert self._communicators.current is not None, "communicators are built"
        return self._communicators.current

    def _join_group(self, name: str, size: int) -> None:
        context = self._context
        self._communicators.drop()
        meeting = f"{self._start.generation}/{name}"
        group = Group(context.store, meeting, self._rank, size, context.host, context.device)
        self._communicators.current = group
        # An abort that came before this did not reach the group.
        self._check()
        group.connect()

    def _obtain(self, wanted: list[set[Key]]) -> None:
        """Bring the state to the step of the generation, and fetch what the plan needs."""
        plan, state, rank, spec = self._plan, self._state, self._rank, self._spec
        if plan.source == "peers":
            holds = [{block_key(spec, number) for number in numbers} for numbers in plan.holds]
            if holds[rank] and state.step == plan.step - 1:
                state.commit()
            assert state.step == plan.step or not holds[rank], "a worker that serves states is at the job's step"
            if not holds[rank]:
                state.replace({}, plan.step)
            state.prepared = False
            own = {key: block.values for key, block in state.blocks.items()}
            fetched = transfer(spec, self._group, own, holds, wanted)
            self._group.confirm()
            state.blocks |= self._blocks(fetched)
            return
        keys = sorted(wanted[rank])
        if plan.source == "checkpoint":
            values = load_blocks(Path(spec.checkpoint_folder), plan.step, keys)
        else:
            values = {key: initial_values(spec, key) for key in keys}
        state.replace(self._blocks(values), plan.step)

    def _blocks(self, values: Mapping[Key, Tensor]) -> dict[Key, Block]:
        device = self._context.device.torch
        return {key: Block(self._spec, key, value.to(device)) for key, value in values.items()}

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
        generation, client, state, spec = self._start.generation, self._client, self._state, self._spec
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
                client.send(StepDone(generation, state.step, vote.loss, now_s - begun_s, trainer.loads))
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
        save_blocks(Path(self._spec.checkpoint_folder), state.step, own)
        self._client.send(CheckpointWritten(self._start.generation, state.step, time.monotonic() - begun_s))
