"""A live run on this machine: a controller, the workers that it leads, and what kills and starts them."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.files import check_folder
from lazsim.live.checkpoint import refuse_other_jobs
from lazsim.live.controller import Controller
from lazsim.live.messages import LiveError, new_secret
from lazsim.live.nursery import Nursery, tail
from lazsim.live.play import Machine, Play
from lazsim.live.record import LiveRun
from lazsim.live.spec import LiveSpec, check_model
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.pytorch.device import choose_device
from lazsim.specs import ClusterSpec, GpuSpec, load_spec

ELSEWHERE_START_S = 3600.0
"""For so long workers are waited for that a cluster starts when it has room for them."""

HARDWARE = "rtx3090x10"
"""Where plans are made for live workers, sizes count and times do not: any cluster's times will do."""


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
        When the model cannot be built, or the text not read.
    """
    check_model(spec.model, spec.num_heads)
    text = load_text(spec.text)
    check_length(text, spec.model.sequence_length, spec.text)
    return msgspec.structs.replace(spec, text_sha256=text_hash(text))


async def live_run(
    spec: LiveSpec,
    play: Play,
    nursery: Nursery,
    *,
    num_initial: int,
    most_nodes: int,
    device: str = "cpu",
    watch: Callable[[Controller], None] | None = None,
) -> LiveRun:
    """Train through what happens to the nodes, all of them processes of this machine.

    Parameters
    ----------
    spec
        The job.
    play
        What happens.
    nursery
        Where workers come from.
    num_initial, most_nodes
        Nodes to wait for before the first step, and the most that there can be at once.
    device
        ``auto``, ``cpu`` or ``cuda``.
    watch
        Is given the controller before it begins, to show how it gets on.

    Raises
    ------
    LazsimError
        When the job cannot go on, or there is no GPU where one is asked for.
    """
    spec = prepare(spec)
    require_fit(spec, most_nodes)
    choose_device(device)
    with tempfile.TemporaryDirectory(prefix="lazsim-live-") as scratch:
        spec = _with_checkpoints(spec, Path(scratch))
        controller = Controller(spec, planning_costs(spec, most_nodes), new_secret(), num_initial, device)
        machine = Machine(controller, nursery, Path(scratch) / "workers.log")
        controller.on_happening = lambda what, epoch, step: play.happen(machine, what, epoch, step)
        watching = asyncio.create_task(machine.watch(play))
        try:
            return await _lead(controller, watch, lambda: play.begin(machine))
        except LiveError as error:
            said = tail(machine.log)
            raise LiveError(f"{error}; a worker's last words: {said}" if said else str(error)) from None
        finally:
            watching.cancel()
            nursery.kill_all()


async def lead(
    spec: LiveSpec,
    secret: bytes,
    host: str,
    port: int,
    *,
    num_initial: int,
    device: str = "auto",
    watch: Callable[[Controller], None] | None = None,
) -> LiveRun:
    """Lead workers that others start: torchrun, Slurm, Kubernetes or a shell on each node.

    Parameters
    ----------
    spec
        The job; its checkpoint folder is one that all workers share.
    secret
        That the workers have, too.
    host, port
        Where to listen for them.
    num_initial
        Workers to wait for before the first step.
    device, watch
        As for `live_run`.

    Raises
    ------
    LazsimError
        When the job cannot go on.
    """
    spec = prepare(spec)
    require_fit(spec, num_initial)
    spec = _with_checkpoints(spec, Path(spec.checkpoint_folder))
    controller = Controller(spec, planning_costs(spec, num_initial), secret, num_initial, device, host, port)
    controller.start_s = ELSEWHERE_START_S
    return await _lead(controller, watch, lambda: None)


async def _lead(
    controller: Controller, watch: Callable[[Controller], None] | None, begin: Callable[[], None]
) -> LiveRun:
    """Lead a job from its beginning to its end; workers can come once the controller listens."""
    await controller.open()
    try:
        begin()
        if watch is not None:
            watch(controller)
        await controller.run()
        return controller.record.result(controller.step, controller.now_s())
    finally:
        await controller.close(controller.stopped or "")


def require_fit(spec: LiveSpec, most_nodes: int) -> None:
    """Refuse a job whose experts the most nodes that there can be do not hold.

    Raises
    ------
    LazsimError
        When they are too few.
    """
    costs = planning_costs(spec, most_nodes)
    if not SYSTEMS[spec.system].usable_nodes(costs, most_nodes):
        raise LazsimError(
            f"{spec.model.name}: {spec.model.num_experts} experts do not fit on {most_nodes} nodes of "
            f"{spec.slots_per_node} slots under {spec.system}; use more --nodes or --slots"
        )


def _with_checkpoints(spec: LiveSpec, scratch: Path) -> LiveSpec:
    """Make the checkpoint folder, in a scratch folder where none was chosen.

    Raises
    ------
    LazsimError
        When it cannot be made, or holds checkpoints of another job.
    """
    folder = Path(spec.checkpoint_folder or scratch / "checkpoints").absolute()
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = msgspec.structs.replace(spec, checkpoint_folder=str(folder))
    refuse_other_jobs(spec)
    return spec
