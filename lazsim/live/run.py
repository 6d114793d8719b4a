"""Make a live run: on this machine with workers that a fault injector starts and kills, or with workers elsewhere."""

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from lazsim import __version__
from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.files import check_folder
from lazsim.live.checkpoint import refuse_other_jobs
from lazsim.live.coordinator import Coordinator
from lazsim.live.fault_injector import FaultInjector, LocalNodes
from lazsim.live.messages import LiveError, new_secret
from lazsim.live.record import LiveRun
from lazsim.live.spec import LiveSpec, check_model
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.live.worker_pool import WorkerPool, last_error
from lazsim.live.worker_server import WorkerServer
from lazsim.profiling.machine import machine
from lazsim.pytorch.device import choose_device
from lazsim.specs import ClusterSpec, GpuSpec, load_spec
from lazsim.trace.table import Trace

LOCAL_START_TIMEOUT_S = 60.0
CLUSTER_START_TIMEOUT_S = 3600.0
"""Longest waits for the first workers; a cluster starts workers when it has room for them."""

HARDWARE = "rtx3090x10"
"""Plans of live workers depend on sizes and not on times, so that any cluster's times will do."""

OnStart = Callable[[Coordinator], None]
"""Called with the coordinator of a run before the run starts."""


def planning_costs(spec: LiveSpec, num_nodes: int) -> CostModel:
    """Return sizes and shapes of a live job in the simulation's terms."""
    cluster = load_spec(ClusterSpec, HARDWARE)
    cluster = msgspec.structs.replace(
        cluster,
        name="live",
        num_nodes=num_nodes,
        gpus_per_node=1,
        nodes_per_server=1,
        slots_per_gpu=spec.slots_per_node,
    )
    compute = AnalyticCompute(spec.model, load_spec(GpuSpec, cluster.gpu), cluster, spec.job)
    return CostModel(spec.model, cluster, spec.job, compute, AnalyticCommunication(cluster.network))


def prepare(spec: LiveSpec) -> LiveSpec:
    """Check a job and fill in the hash of its text.

    Raises
    ------
    LazsimError
        When live workers cannot build the model, or the text cannot be read.
    """
    check_model(spec.model, spec.num_heads)
    text = load_text(spec.text)
    check_length(text, spec.model.sequence_length, spec.text)
    return msgspec.structs.replace(spec, text_sha256=text_hash(text))


def describe_inputs(spec: LiveSpec, device: str, trace: Trace | None, replay: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the inputs of a live run as plain data.

    Parameters
    ----------
    spec
        The job, with the hash of its text.
    device
        ``auto``, ``cpu`` or ``cuda``.
    trace
        Node events in their own time; none where workers are started elsewhere.
    replay
        The stretch of the trace, and its speedup.
    """
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "device": device,
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "trace": None
        if trace is None
        else {
            "name": Path(trace.name).name,
            "format": trace.format,
            "sha256": trace.sha256,
            "events_sha256": trace.events_sha256,
        },
        "replay": dict(replay),
        "spec": msgspec.to_builtins(spec),
    }


async def run_locally(
    spec: LiveSpec,
    injector: FaultInjector,
    pool: WorkerPool,
    *,
    num_initial: int,
    max_nodes: int,
    device: str = "cpu",
    on_start: OnStart | None = None,
) -> LiveRun:
    """Train while faults are injected; all nodes are processes of this machine.

    Parameters
    ----------
    spec
        The job.
    injector
        Starts and kills nodes.
    pool
        Starts the worker processes.
    num_initial, max_nodes
        Nodes to wait for before the first step, and the most nodes at once.
    device
        ``auto``, ``cpu`` or ``cuda``.
    on_start
        Called before the run starts, for example to show its progress.

    Raises
    ------
    LazsimError
        When the job cannot go on, or there is no GPU where `device` asks for one.
    """
    spec = prepare(spec)
    require_fit(spec, max_nodes)
    choose_device(device)
    with tempfile.TemporaryDirectory(prefix="lazsim-live-") as scratch:
        spec = _with_checkpoints(spec, Path(scratch))
        server = WorkerServer(spec, new_secret(), device)
        coordinator = Coordinator(server, planning_costs(spec, max_nodes), num_initial, LOCAL_START_TIMEOUT_S)
        nodes = LocalNodes(coordinator, pool, Path(scratch) / "workers.log")
        coordinator.on_event = lambda event, generation, step: injector.on_event(nodes, event, generation, step)
        watching = asyncio.create_task(nodes.watch(injector))
        try:
            return await _lead(coordinator, on_start, lambda: injector.begin(nodes))
        except LiveError as error:
            last = last_error(nodes.log)
            raise LiveError(f"{error}; a worker's last words: {last}" if last else str(error)) from None
        finally:
            watching.cancel()
            pool.kill_all()


async def run_on_cluster(
    spec: LiveSpec,
    secret: bytes,
    host: str,
    port: int,
    *,
    num_initial: int,
    device: str = "auto",
    on_start: OnStart | None = None,
) -> LiveRun:
    """Train with workers that torchrun, Slurm, Kubernetes or a shell on each node start.

    Parameters
    ----------
    spec
        The job; all workers share its checkpoint folder.
    secret
        Of the run; the workers have it, too.
    host, port
        Address to listen on.
    num_initial
        Workers to wait for before the first step.
    device, on_start
        As for `run_locally`.

    Raises
    ------
    LazsimError
        When the job cannot go on.
    """
    spec = prepare(spec)
    require_fit(spec, num_initial)
    spec = _with_checkpoints(spec, Path(spec.checkpoint_folder))
    server = WorkerServer(spec, secret, device, host, port)
    coordinator = Coordinator(server, planning_costs(spec, num_initial), num_initial, CLUSTER_START_TIMEOUT_S)
    return await _lead(coordinator, on_start, lambda: None)


async def _lead(coordinator: Coordinator, on_start: OnStart | None, begin: Callable[[], None]) -> LiveRun:
    """Lead a job to its end; `begin` starts workers once the server listens."""
    await coordinator.server.open(coordinator)
    try:
        begin()
        if on_start is not None:
            on_start(coordinator)
        await coordinator.run()
        return coordinator.record.result(coordinator.step, coordinator.now_s())
    finally:
        await coordinator.server.close()


def require_fit(spec: LiveSpec, max_nodes: int) -> None:
    """Refuse a job whose experts do not fit on the largest number of nodes.

    Raises
    ------
    LazsimError
        When they do not fit.
    """
    if not SYSTEMS[spec.system].usable_nodes(planning_costs(spec, max_nodes), max_nodes):
        raise LazsimError(
            f"{spec.model.name}: {spec.model.num_experts} experts do not fit on {max_nodes} nodes of "
            f"{spec.slots_per_node} slots under {spec.system}; use more `nodes` or `slots`"
        )


def _with_checkpoints(spec: LiveSpec, scratch: Path) -> LiveSpec:
    """Make the checkpoint folder, in a scratch folder where none was chosen.

    Raises
    ------
    LazsimError
        When the folder cannot be made, or holds checkpoints of another job.
    """
    folder = Path(spec.checkpoint_folder or scratch / "checkpoints").absolute()
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = msgspec.structs.replace(spec, checkpoint_folder=str(folder))
    refuse_other_jobs(spec)
    return spec
