"""Make a live run: on this machine with workers that a fault injector starts and kills, or with workers elsewhere."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from lazsim import __version__
from lazsim.costmodel.costs import CostModel
from lazsim.engine.simulate import require_layout
from lazsim.engine.systems import LIVE_SYSTEMS
from lazsim.errors import LazsimError
from lazsim.files.folders import hold_folder
from lazsim.files.writing import scratch_folder
from lazsim.live.checkpoint import LOCK, drop_unfinished, refuse_other_jobs
from lazsim.live.coordinator import Coordinator
from lazsim.live.fault_injector import FaultInjector, LocalNodes
from lazsim.live.messages import LiveError
from lazsim.live.record import LiveRun
from lazsim.live.spec import LiveSpec, check_model
from lazsim.live.state import DENSE, block_size
from lazsim.live.trainer import load_text
from lazsim.live.worker_pool import WorkerPool, last_error
from lazsim.live.worker_server import DESCRIPTORS_PER_WORKER, WorkerServer
from lazsim.processes import check_processes, clearing
from lazsim.profiling.machine import machine
from lazsim.pytorch.device import check_memory, choose_device
from lazsim.scenario import Scenario, resolve
from lazsim.specs import sha256
from lazsim.trace.table import Trace
from lazsim.units import counted

LOCAL_START_TIMEOUT_S = 60.0
CLUSTER_START_TIMEOUT_S = 3600.0
"""Longest waits for the next of the first workers; a cluster starts workers when it has room for them."""

INTERVAL_STEPS = 50
"""Steps between checkpoints of a system that the job does not name: as of `ds` in Lazarus's evaluation."""

WORKER_BYTES = 200 * 2**20
"""Memory of a worker beside its state: of up to 430 MiB after half a minute, 230 are shared with the others."""

WORKER_TASKS = 9
"""Threads of a worker: seven, and two while ranks meet."""

OnStart = Callable[[Coordinator], object]
"""Called with the coordinator of a run before the run starts."""


def live_scenario(spec: LiveSpec, num_nodes: int) -> Scenario:
    """Return sizes and shapes of a live job in the simulation's terms; its times are those of another cluster."""
    cluster = {"name": "live", "num_nodes": num_nodes, "gpus_per_node": 1, "nodes_per_server": 1}
    cluster["slots_per_gpu"] = spec.slots_per_node
    scenario = resolve({"system": spec.system, **{f"cluster.{name}": value for name, value in cluster.items()}})
    return replace(scenario, model=spec.model, job=spec.job)


def live_costs(spec: LiveSpec, num_nodes: int) -> CostModel:
    """Return the costs of `live_scenario`; raise a LazsimError where the experts do not fit on all nodes together."""
    costs = live_scenario(spec, num_nodes).costs()
    system = LIVE_SYSTEMS[spec.system]
    require_layout(system, costs, num_nodes)
    if not system.usable_nodes(costs, num_nodes):
        raise LazsimError(
            f"{spec.model.name}: {spec.model.num_experts} experts do not fit on {counted(num_nodes, 'node')} of "
            f"{counted(spec.slots_per_node, 'slot')} under {spec.system}; use more `nodes` or `slots`"
        )
    return costs


def check_job(spec: LiveSpec, num_nodes: int) -> CostModel:
    """Return `live_costs`; raise a LazsimError also where this machine cannot hold the workers of a job."""
    costs, state_bytes = live_costs(spec, num_nodes), 0
    if choose_device(spec.device) == "cpu":
        num_experts = spec.model.num_moe_layers * spec.slots_per_node
        # Parameters, two moments and a gradient.
        num_values = 4 * (block_size(spec, DENSE) + num_experts * block_size(spec, (0, 0)))
        state_bytes = num_values * np.dtype(spec.dtype).itemsize
        # All workers are on this machine. Logits and their gradients are the least that a batch takes.
        num_logits = spec.global_batch * spec.model.sequence_length * spec.model.vocab_size
        check_memory(f"`batch` {spec.global_batch}", 2.0 * num_logits * np.dtype(spec.dtype).itemsize, "cpu")
    check_processes(
        "nodes",
        num_nodes,
        "workers",
        each_bytes=WORKER_BYTES + state_bytes,
        each_tasks=WORKER_TASKS,
        each_descriptors=DESCRIPTORS_PER_WORKER,
    )
    return costs


def prepare(spec: LiveSpec) -> LiveSpec:
    """Check that workers can build the model and read the text; fill in its hash, and what the job leaves open."""
    check_model(spec.model, spec.num_heads)
    text = load_text(spec.text)
    length = spec.model.sequence_length
    # A sequence, the byte after it, and a choice of where it begins.
    if len(text) < length + 2:
        raise LazsimError(f"{spec.text}: {len(text)} bytes are too few for sequences of {length}; give a longer text")
    intervals = {spec.system: INTERVAL_STEPS} | spec.job.checkpoint_interval_steps
    job = msgspec.structs.replace(spec.job, checkpoint_interval_steps=intervals)
    return msgspec.structs.replace(spec, text_sha256=sha256(text), job=job)


def compress(spec: LiveSpec, trace: Trace, speedup: float) -> tuple[LiveSpec, Trace]:
    """Return a job and its trace in seconds of the run, each of which stands for `speedup` seconds of the trace."""
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    played = replace(trace, time_s=trace.time_s / speedup, duration_s=trace.duration_s / speedup)
    return msgspec.structs.replace(spec, job=job), played


def describe_inputs(spec: LiveSpec, trace: Trace | None, replay: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a live run as plain data: the job, its trace if any, and the replay of the trace."""
    names, described = ("format", "sha256", "events_sha256"), None
    if trace is not None:
        described = {"name": Path(trace.name).name} | {name: getattr(trace, name) for name in names}
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "device": spec.device,
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "trace": described,
        "replay": dict(replay),
        "spec": msgspec.to_builtins(spec),
    }


async def run_locally(
    spec: LiveSpec,
    injector: FaultInjector,
    pool: WorkerPool,
    *,
    max_nodes: int,
    on_start: OnStart = lambda _coordinator: None,
) -> LiveRun:
    """Train with nodes that are processes of this machine, while the injector starts and kills them.

    The first step waits for the injector's first nodes; there are never more than `max_nodes`. Raises a LazsimError
    where the job cannot go on, or there is no GPU where it asks for one.
    """
    costs = check_job(spec, max_nodes)
    with (
        scratch_folder() as scratch,
        _made_ready(spec, scratch) as spec,
        clearing(partial(drop_unfinished, Path(spec.checkpoint_folder))),
        clearing(pool.kill_all),
    ):
        server = WorkerServer(spec, secrets.token_bytes(32))
        coordinator = Coordinator(server, costs, len(injector.initial), LOCAL_START_TIMEOUT_S)
        nodes = LocalNodes(coordinator, pool, scratch / "workers.log", injector.places)
        coordinator.place_of = lambda name: nodes.places.get(name, max_nodes)
        coordinator.may_return, coordinator.num_ended = pool.is_running, nodes.num_ended
        coordinator.on_event = lambda event, generation, step: injector.on_event(nodes, event, generation, step)

        def begin(coordinator: Coordinator) -> None:
            server.start(nodes.watch(injector))
            injector.begin(nodes)
            on_start(coordinator)

        try:
            return await _lead(coordinator, begin)
        except LiveError as error:
            last = last_error(nodes.log, str(error))
            raise LiveError(f"{error}; a worker's last words: {last}" if last else str(error)) from None


async def run_on_cluster(
    spec: LiveSpec,
    secret: bytes,
    host: str,
    port: int,
    *,
    num_initial: int,
    on_start: OnStart = lambda _coordinator: None,
) -> LiveRun:
    """Train with workers that torchrun, Slurm, Kubernetes or a shell on each node start.

    Workers have the same secret and share the checkpoint folder. Raises a LazsimError where the job cannot go on.
    """
    costs = live_costs(spec, num_initial)
    with _made_ready(spec, Path(spec.checkpoint_folder)) as spec:
        server = WorkerServer(spec, secret, host, port)
        return await _lead(Coordinator(server, costs, num_initial, CLUSTER_START_TIMEOUT_S), on_start)


async def _lead(coordinator: Coordinator, begin: OnStart) -> LiveRun:
    """Lead a job to its end, which begins once the server listens."""
    await coordinator.server.open(coordinator)
    try:
        begin(coordinator)
        await coordinator.run()
        return coordinator.result
    finally:
        await coordinator.server.close()


@contextmanager
def _made_ready(spec: LiveSpec, scratch: Path) -> Iterator[LiveSpec]:
    """Check the job, and hold its checkpoint folder, one in a scratch folder where none was chosen."""
    spec = prepare(spec)
    folder = Path(spec.checkpoint_folder or scratch / "checkpoints").absolute()
    spec = msgspec.structs.replace(spec, checkpoint_folder=str(folder))
    with hold_folder(folder, LOCK):
        refuse_other_jobs(spec)
        drop_unfinished(folder)
        yield spec
