"""Live jobs that are small enough for tests, and scripts of what happens to their nodes."""

import asyncio
import os
import random
import resource
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from lazsim.live.checkpoint import load_blocks
from lazsim.live.fault_injector import LocalNodes
from lazsim.live.record import LiveRun
from lazsim.live.run import run_locally
from lazsim.live.spec import SMALL_MODEL, LiveSpec
from lazsim.live.state import all_keys
from lazsim.live.worker_pool import WorkerPool
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
        silence_s=3.0,
    )
    return msgspec.structs.replace(spec, **changes)


@dataclass
class Script:
    """Acts on nodes when something happens: (event, number) -> acts; steps by number, the rest by generation."""

    num_nodes: int
    acts: dict[tuple[str, int], list[tuple[str, str]]] = field(default_factory=dict)
    seen: list[tuple[str, int, int]] = field(default_factory=list)
    nodes: LocalNodes | None = None
    has_more: bool = False

    def begin(self, nodes):
        self.nodes = nodes
        for node in range(self.num_nodes):
            nodes.start(f"n{node}")

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


def random_script(seed: int) -> Script:
    """Kill and start nodes at random: at and within steps, and in the middle of recoveries; rank 0 as likely as others.

    One node of four is never touched, and one is always left beside it, so that there is somebody to go on.
    """
    draw = random.Random(seed)
    script = Script(4)
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
            script.acts.setdefault(when, []).append(("start", f"m{len(script.acts)}"))
    return script


def run_live(spec: LiveSpec, script: Script, pool: WorkerPool, device: str = "cpu") -> tuple[LiveRun, dict]:
    """Train through a script; return the run and the final state of every block."""
    with tempfile.TemporaryDirectory() as folder:
        spec = msgspec.structs.replace(spec, checkpoint_folder=folder)
        counts = {"num_initial": script.num_nodes, "max_nodes": spec.global_batch}
        run = asyncio.run(run_locally(spec, script, pool, **counts, device=device))
        blocks = load_blocks(Path(folder), spec.num_steps, all_keys(spec))
        return run, {key: values.numpy() for key, values in blocks.items()}


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[key] - other[key]).max()) for key in one)


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
