"""A live run on this machine: a controller, the workers that it leads, and what kills and starts them."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

import msgspec

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.files import check_folder
from lazsim.live.controller import Controller
from lazsim.live.messages import LiveError, new_secret
from lazsim.live.nursery import Birth, Nursery, tail
from lazsim.live.record import LiveRun
from lazsim.live.spec import LiveSpec, check_model
from lazsim.live.text import check_length, load_text, text_hash
from lazsim.profiling.device import choose_device
from lazsim.specs import ClusterSpec, GpuSpec, load_spec
from lazsim.trace.table import Trace

WATCH_S = 0.5
"""How often to look whether there is still somebody to do the job."""

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


@dataclass
class Machine:
    """Workers of one run on this machine; what a trace, or a test, does to them."""

    controller: Controller
    nursery: Nursery
    log: Path
    _births: dict[str, int] = field(default_factory=dict)
    _local_ranks: dict[str, int] = field(default_factory=dict)

    def start(self, node: str) -> None:
        """Start a worker for a node; each time under a name of its own, and with the first number that is free."""
        self._births[node] = self._births.get(node, 0) + 1
        taken = set(self._local_ranks.values())
        self._local_ranks[node] = next(number for number in count() if number not in taken)
        self.nursery.start(
            Birth(
                self.controller.host,
                self.controller.port,
                self._worker(node),
                self._local_ranks[node],
                self.controller.secret.hex(),
                str(self.log),
            )
        )

    def kill(self, node: str) -> None:
        """Kill the worker of a node."""
        name = self._worker(node)
        self.controller.record.killed_s[name] = self.controller.now_s()
        self.nursery.kill(name)
        self._local_ranks.pop(node, None)

    def _worker(self, node: str) -> str:
        number = self._births[node]
        return node if number == 1 else f"{node}#{number}"

    async def watch(self, play: "Play") -> None:
        """End the job when there is nobody left to do it."""
        while True:
            await asyncio.sleep(WATCH_S)
            if not self.nursery.is_alive:
                self.controller.stop("the process that starts workers has ended")
            elif not (self.controller.peers or self.nursery.num_workers or play.has_more):
                self.controller.stop("all workers have ended")


class Play(Protocol):
    """What happens to the nodes of a run."""

    @property
    def has_more(self) -> bool:
        """Whether nodes are yet to come."""
        ...

    def begin(self, machine: Machine) -> None:
        """Start the first nodes."""

    async def happen(self, machine: Machine, what: str, epoch: int, step: int) -> None:
        """Act on what the controller tells of; see `lazsim.live.listener.Happening`."""


class TracePlay:
    """Starts and kills workers as a trace says, so many times as fast.

    Parameters
    ----------
    trace
        What happens to the nodes; those of its first instant are there from the start.
    speedup
        Seconds of the trace in a second of the run.
    """

    def __init__(self, trace: Trace, speedup: float) -> None:
        self._batches = list(trace.batches())
        self._speedup = speedup
        self._end_s = trace.duration_s / speedup
        self._task: asyncio.Task[None] | None = None
        self.has_more = True
        first = self._batches[0] if self._batches else None
        self.initial = first.added if first is not None and first.time_s == 0 else ()

    def begin(self, machine: Machine) -> None:
        """Start the nodes of the first instant."""
        for node in self.initial:
            machine.start(node)

    async def happen(self, machine: Machine, what: str, _epoch: int, _step: int) -> None:
        """Begin with the trace when the job does."""
        if what == "started":
            self._task = asyncio.create_task(self._play(machine))

    async def _play(self, machine: Machine) -> None:
        try:
            await self._act(machine)
        except LiveError as error:
            machine.controller.stop(str(error))

    async def _act(self, machine: Machine) -> None:
        for batch in self._batches[1 if self.initial else 0 :]:
            await asyncio.sleep(batch.time_s / self._speedup - machine.controller.now_s())
            for node in batch.removed:
                machine.kill(node)
            for node in batch.added:
                machine.start(node)
        self.has_more = False
        await asyncio.sleep(self._end_s - machine.controller.now_s())
        machine.controller.stop()


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
        await controller.open()
        watching = asyncio.create_task(machine.watch(play))
        try:
            play.begin(machine)
            if watch is not None:
                watch(controller)
            await controller.run()
            return controller.record.result(controller.step, controller.now_s())
        except LiveError as error:
            said = tail(machine.log)
            raise LiveError(f"{error}; a worker's last words: {said}" if said else str(error)) from None
        finally:
            watching.cancel()
            await controller.close(controller.stopped or "")
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
    await controller.open()
    try:
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
    """Make the checkpoint folder, in a scratch folder where none was chosen."""
    folder = Path(spec.checkpoint_folder or scratch / "checkpoints").absolute()
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return msgspec.structs.replace(spec, checkpoint_folder=str(folder))
