"""Live jobs that are small enough for tests, and scripts of what happens to their nodes."""

import asyncio
import itertools
import json
import os
import random
import resource
import signal
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch

from lazsim.live.checkpoint import load_blocks
from lazsim.live.fault_injector import LocalNodes
from lazsim.live.record import LiveRun
from lazsim.live.run import run_locally
from lazsim.live.spec import SMALL_MODEL, LiveSpec
from lazsim.live.state import Block, TrainingState, all_keys, initial_values
from lazsim.live.trainer import Trainer
from lazsim.live.worker_pool import WorkerPool
from lazsim.pytorch.device import CPU
from lazsim.pytorch.group import ProcessGroup
from lazsim.pytorch.transformer import RankDispatch
from lazsim.specs import JobSpec, load_spec

TINY = msgspec.structs.replace(
    SMALL_MODEL,
    name="tiny",
    num_layers=2,
    num_moe_layers=2,
    d_model=16,
    d_ff_expert=32,
    num_experts=4,
    sequence_length=16,
    num_learned_positions=16,
)
NUM_STEPS = 16


def tiny_options(folder: Path, slots: int = 3) -> tuple[str, ...]:
    """Write the model and a text to a folder; return the options with which commands train it."""
    fields = {name: value for name, value in msgspec.to_builtins(TINY).items() if value is not None}
    path = folder / "tiny.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    (folder / "text").write_bytes(random.Random(0).randbytes(1000))
    options = ("--model", path, "--heads", 2, "--slots", slots, "--batch", 6, "--text", folder / "text")
    return tuple(map(str, options))


def tiny_spec(system: str = "lazarus", *, top_k: int = 1, interval: int = 100, **changes) -> LiveSpec:
    job = load_spec(JobSpec, "testbed-a")
    job = msgspec.structs.replace(
        job, join_wait_s=0.02, rebalance_interval_steps=7, checkpoint_interval_steps={system: interval}
    )
    spec = LiveSpec(
        model=msgspec.structs.replace(TINY, top_k=top_k),
        job=job,
        system=system,
        slots_per_node=3,
        num_heads=2,
        global_batch=6,
        num_steps=NUM_STEPS,
        dtype="float64",
        # On a busy machine a worker may be silent for seconds.
        silence_s=30.0,
    )
    return msgspec.structs.replace(spec, **changes)


@dataclass
class Script:
    """Acts on nodes when something happens: (event, number) -> acts; steps by number, the rest by generation."""

    num_nodes: int
    acts: dict[tuple[str, int], list[tuple[str, str]]] = field(default_factory=dict)
    seen: list[tuple[str, int, int]] = field(default_factory=list)
    nodes: LocalNodes | None = None
    brings_nodes: bool = False
    is_awaited: bool = False
    places: dict[str, int] = field(default_factory=dict)

    @property
    def initial(self):
        return [f"n{node}" for node in range(self.num_nodes)]

    def begin(self, nodes):
        self.nodes = nodes
        for node in self.initial:
            nodes.start(node)

    async def on_event(self, nodes, event, generation, step):
        self.seen.append((event, generation, step))
        number = step if event == "stepped" else generation
        for act, node in self.acts.pop((event, number), []):
            if act == "drop":
                for worker in nodes.coordinator.server.workers:
                    if worker.name.split("#")[0] == node:
                        worker.writer.transport.abort()
            elif act == "call":
                node(nodes)
            elif act == "kill soon":
                delay_s, name = node
                asyncio.get_running_loop().call_later(delay_s, nodes.kill, name)
            else:
                getattr(nodes, act)(node)


def random_script(seed: int, script_type: type[Script] = Script) -> Script:
    """Kill and start nodes at random: at and within steps, and in the middle of recoveries; rank 0 as likely as others.

    One node of four is never touched, and one is always left beside it, so that there is somebody to go on. Some of
    those that are started are killed soon.
    """
    draw = random.Random(seed)
    script = script_type(4)
    down: list[str] = []
    for _ in range(draw.randint(2, 4)):
        when = ("stepped", draw.randint(1, NUM_STEPS - 2))
        if draw.random() < 0.35:
            when = (draw.choice(["entered", "rebuilt", "ready"]), draw.randint(2, 4))
        act = draw.choice(["kill", "kill", "start", "drop"])
        if act == "kill" and len(down) < 2:
            node = draw.choice([name for name in ("n0", "n1", "n2") if name not in down])
            down.append(node)
            # A step takes some 20 ms: anywhere in it, also between the commits of its ranks.
            soon = ("kill soon", (draw.uniform(0.0, 0.03), node))
            script.acts.setdefault(when, []).append(soon if draw.random() < 0.5 else ("kill", node))
        elif act == "drop":
            script.acts.setdefault(when, []).append(("drop", draw.choice(["n0", "n1", "n2", "n3"])))
        else:
            name, acts = f"m{len(script.acts)}", script.acts.setdefault(when, [])
            acts.append(("start", name))
            if draw.random() < 0.4:
                # It takes some 100 ms to join: before that, while others pause or restart for it, or after it.
                acts.append(("kill soon", (draw.uniform(0.0, 0.3), name)))
    return script


def run_live(spec: LiveSpec, script: Script, pool: WorkerPool) -> tuple[LiveRun, dict]:
    """Train through a script; return the run and the final state of every block."""
    with tempfile.TemporaryDirectory() as folder:
        spec = msgspec.structs.replace(spec, checkpoint_folder=folder)
        run = asyncio.run(run_locally(spec, script, pool, max_nodes=spec.global_batch))
        blocks = load_blocks(spec, spec.num_steps, all_keys(spec))
        return run, {key: values.numpy() for key, values in blocks.items()}


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


def signal_worker(pool: WorkerPool, name: str, number: signal.Signals) -> None:
    """Send a signal to a worker, if it has not ended."""
    if pool.is_running(name):
        with suppress(ProcessLookupError):
            os.kill(pool._workers[name].pid, number)


@contextmanager
def descriptors_left(number):
    """Let this process open so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@dataclass
class Witness(Script):
    """Checks at each generation that all is kept that the system promises, and keeps what each step trains."""

    sequences: dict[int, list[int]] = field(default_factory=dict)
    num_checked: int = 0
    _before: tuple[list, list[int]] | None = None
    _reported: int = 0

    async def on_event(self, nodes, event, generation, step):
        coordinator = nodes.coordinator
        plan = coordinator._plan
        if event == "stepped":
            self._reported = step
        elif event == "entered":
            if self._before is not None and self._reported:
                self._check(coordinator.spec, plan)
            self._reported = plan.step
        elif event == "ready":
            # A generation that does not come so far trains nothing.
            for later in range(plan.step + 1, NUM_STEPS + 1):
                self.sequences[later] = sorted(itertools.chain.from_iterable(plan.sequences))
            self._before = coordinator._members[: plan.num_ranks], plan.groups
        await super().on_event(nodes, event, generation, step)

    def _check(self, spec, plan):
        if spec.system == "replica-drop":
            members, groups = self._before
            lost = {group for member, group in zip(members, groups, strict=True) if not member.alive}
            if lost < set(groups):
                # A whole replica is left: nothing that was reported is lost.
                assert plan.source == "peers"
                assert plan.step >= self._reported
                self.num_checked += 1
        elif plan.source != "peers":
            # The save before the last one begun is written, since one is written at a time.
            interval = spec.checkpoint_interval_steps
            assert plan.step >= (self._reported - 1) // interval * interval - interval
            self.num_checked += 1


def train_alone(spec: LiveSpec, sequences: dict[int, list[int]]) -> dict:
    """Train given sequences of each step in this process; return the final state of every block."""
    state = TrainingState(spec)
    state.replace({key: Block(spec, key, initial_values(spec, key)) for key in all_keys(spec)}, 0)
    group = ProcessGroup(torch.distributed.HashStore(), "alone", 0, 1, "127.0.0.1", CPU)
    group.connect()
    dispatch = RankDispatch(np.ones((spec.model.num_moe_layers, spec.model.num_experts, 1), dtype=np.int64))
    for step in range(1, NUM_STEPS + 1):
        Trainer(state, group, dispatch, [sequences[step]]).prepare()
        state.commit()
    group.close()
    return {key: block.values.detach().numpy() for key, block in state.blocks.items()}
