"""One worker's part in an epoch: communicators are built, states come, and it trains until the epoch ends.

An epoch is left as soon as the controller calls everybody out, or is gone; see `lazsim.live.controller`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lazsim.live.checkpoint import load_blocks, save_blocks
from lazsim.live.line import Line
from lazsim.live.messages import Enter, Go, Ready, Rebuilt, Saved, Stepped
from lazsim.live.state import DENSE, Block, Key, expert_keys, initial_states
from lazsim.live.trainer import State, Trainer
from lazsim.live.transfer import block_key, transfer
from lazsim.pytorch.device import Device
from lazsim.pytorch.group import Group
from lazsim.pytorch.transformer import Layout, replicas_on_ranks


class AbandonedError(Exception):
    """The epoch is over for this worker: it was told so, or has lost the controller."""


@dataclass(frozen=True)
class Place:
    """Where a worker stands.

    Attributes
    ----------
    name : str
        Of the node.
    host : str
        The address on which it listens to others; that by which it reaches the controller when empty.
    store : tuple of str and int
        Host and port where ranks meet.
    device : Device
        Where it computes.
    text : bytes
        What is trained on.
    """

    name: str
    host: str
    store: tuple[str, int]
    device: Device
    text: bytes


class Groups:
    """The communicator of a worker, which may outlive an epoch, and those that cannot be let go of."""

    def __init__(self) -> None:
        self.current: Group | None = None
        self._stuck: list[Group] = []

    def drop(self, line: Line) -> None:
        """Let go of the communicator."""
        if self.current is not None:
            if self.current.is_stuck:
                self._stuck.append(self.current)
            else:
                self.current.close()
            self.current = None
        line.group = None


class Epoch:
    """A worker's part in an epoch.

    Parameters
    ----------
    place, state, groups, line
        Of the worker; states and communicators outlive the epoch.
    enter
        What the epoch is.
    """

    def __init__(self, place: Place, state: State, groups: Groups, line: Line, enter: Enter) -> None:
        self._place, self._state, self._groups, self._line, self._enter = place, state, groups, line, enter
        self._rank = enter.senders.index(place.name)
        self._replicas_LEJ = replicas_on_ranks(np.array(enter.slots, dtype=np.int64), state.spec.model.num_experts)

    def run(self) -> None:
        """Take part until the epoch ends.

        Raises
        ------
        AbandonedError
            When it ends early.
        RuntimeError
            When a peer is lost.
        """
        enter, state = self._enter, self._state
        self._check()
        groups = None if enter.groups is None else np.array(enter.groups, dtype=np.int64)
        layout = Layout(self._replicas_LEJ, groups, enter.padded)
        self._rebuild()
        wanted = [
            {DENSE, *(key for key in expert_keys(state.spec) if self._replicas_LEJ[(*key, other)])}
            for other in range(enter.num_ranks)
        ]
        wanted += [set() for _ in enter.senders[enter.num_ranks :]]
        self._obtain(wanted)
        self._line.send(Ready(enter.epoch))
        self._await_go()
        state.blocks = {key: block for key, block in state.blocks.items() if key in wanted[self._rank]}
        if enter.num_ranks < len(enter.senders):
            self._groups.drop(self._line)
            if self._rank >= enter.num_ranks:
                return
            self._join_group("ranks", enter.num_ranks)
        self._train(Trainer(state, self._group(), layout, self._place.text))

    def _check(self) -> None:
        """Leave the epoch if the controller has called everybody out, or is gone."""
        if self._line.lost or self._line.left_epoch >= self._enter.epoch:
            raise AbandonedError

    def _group(self) -> Group:
        assert self._groups.current is not None, "communicators are built"
        return self._groups.current

    def _rebuild(self) -> None:
        enter = self._enter
        if not (enter.reuse and self._groups.current is not None):
            self._groups.drop(self._line)
            self._join_group("senders", len(enter.senders))
        self._check()
        self._line.send(Rebuilt(enter.epoch, self._group().by))

    def _join_group(self, whom: str, size: int) -> None:
        place, line = self._place, self._line
        group = Group(
            place.store, f"{self._enter.epoch}/{whom}", self._rank, size, place.host or line.own_address, place.device
        )
        line.group = self._groups.current = group
        # Whoever called everybody out before the line knew of this group has not cut it.
        self._check()
        group.connect()

    def _obtain(self, wanted: list[set[Key]]) -> None:
        """Bring the state to the step of the epoch, and get what the plan wants."""
        enter, state, rank = self._enter, self._state, self._rank
        spec = state.spec
        if enter.source == "peers":
            holds = [{block_key(spec, number) for number in numbers} for numbers in enter.holds]
            if holds[rank] and state.step == enter.step - 1:
                state.commit()
            assert state.step == enter.step or not holds[rank], "whoever serves states is as far as the job"
            if not holds[rank]:
                state.replace({}, enter.step)
            state.prepared = False
            own = {key: block.values for key, block in state.blocks.items()}
            fetched = transfer(spec, self._group(), own, holds, wanted)
            self._group().confirm()
            state.blocks |= self._blocks(fetched)
            return
        if enter.source == "checkpoint":
            values = load_blocks(Path(spec.checkpoint_folder), enter.step, sorted(wanted[rank]))
        else:
            values = initial_states(spec, sorted(wanted[rank]))
        state.replace(self._blocks(values), enter.step)

    def _blocks(self, values: Mapping[Key, Tensor]) -> dict[Key, Block]:
        device = self._place.device.torch
        return {key: Block(self._state.spec, key, value.to(device)) for key, value in values.items()}

    def _await_go(self) -> None:
        while True:
            message = self._line.inbox.get()
            if message is None:
                raise AbandonedError
            if isinstance(message, Go) and message.epoch == self._enter.epoch:
                return
            self._check()

    def _train(self, trainer: Trainer) -> None:
        """Train until a pause, or until something goes wrong."""
        enter, line, state, spec = self._enter, self._line, self._state, self._state.spec
        begun_s = time.monotonic()
        while True:
            self._check()
            if spec.num_steps is not None and state.step >= spec.num_steps:
                self._save()
                return
            loss = trainer.prepare()
            pausing = line.pausing if line.pausing is not None and line.pausing.epoch == enter.epoch else None
            vote = trainer.vote(loss, pause=pausing is not None, save=pausing is not None and pausing.save)
            state.commit()
            now_s = time.monotonic()
            if self._rank == 0:
                loads = [list(row) for row in trainer.loads]
                line.send(Stepped(enter.epoch, state.step, vote.loss, now_s - begun_s, loads))
            begun_s = now_s
            if vote.save or state.step % spec.checkpoint_interval_steps == 0:
                self._save()
                begun_s = time.monotonic()
            if vote.pause and state.step != spec.num_steps:
                return

    def _save(self) -> None:
        """Write the blocks of which this is the first holder."""
        state, begun_s = self._state, time.monotonic()
        own = {
            key: block.values
            for key, block in state.blocks.items()
            if (0 if key == DENSE else int(np.flatnonzero(self._replicas_LEJ[key])[0])) == self._rank
        }
        save_blocks(Path(state.spec.checkpoint_folder), state.step, own)
        self._line.send(Saved(self._enter.epoch, state.step, time.monotonic() - begun_s))
