"""The job of a run that gives none: the model's own or a usual one, by what trains most on the trace."""

import contextlib
import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from lazsim.engine.interval import interval_steps
from lazsim.engine.layout import LayoutCosts, grid_of, layout_costs, padding
from lazsim.engine.memory import layout_memory
from lazsim.engine.nodes import NO_SPARES, Spares
from lazsim.engine.plan_reliability import count_losses
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems.system import System
from lazsim.errors import LazsimError, SpecError
from lazsim.placement.plan import Ints
from lazsim.routing.loading import UNIFORM, load_routing
from lazsim.specs import (
    ClusterSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    ParallelSpec,
    StepConstants,
    catalog_names,
    load_spec,
)
from lazsim.specs.effects import refused_settings
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import first_layout, tables_of
from lazsim.stepmodel.predict import Layers, StepModel
from lazsim.stepmodel.search import fastest, layouts_tried, needed_bytes, none_fits, usable_bytes
from lazsim.trace.table import Trace

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""

NUM_PARTS = 32
"""Equal parts of the time, each with its number of nodes, by which candidates are ordered."""

MOST_CHANGES = 256
"""Changes of nodes up to which candidates are simulated, which takes about a tenth of a second for each candidate."""

LEAST_SIMULATED = 4
"""Candidates simulated at least, though they train less without failures than others with them: systems that use nodes
of no whole replica may pass that."""

NUM_KEPT = 8
"""Searches kept, a few MiB each: the systems of a run follow each other."""

PLAIN, WHOLE = (System("plain", "adds nothing", recovers_from_peers=is_whole) for is_whole in (False, True))
"""Stand for all systems that add nothing to what training needs, and for those that add whole optimizer states."""


class JobChoice(NamedTuple):
    """What the choice of a job depends on beside the system."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    """With the most nodes that train at once."""
    step: bytes
    """The `StepConstants` as JSON, which can be hashed."""
    trace: Trace | None = None
    wall_s: float = 0.0
    """What happens to the nodes, and for how long; without any, all are there all the time."""
    spares: Spares = NO_SPARES

    def costs(self, job: JobSpec, system: System) -> LayoutCosts:
        """Return the costs of a job with a layout under a system."""
        assert job.parallel is not None, "the job has a layout"
        constants = msgspec.json.decode(self.step, type=StepConstants)
        return layout_costs(job.parallel.trained(self.model), self.gpu, self.cluster, job, constants, system)

    def nodes(self, end_s: float) -> list[int]:
        """Return numbers of nodes that train until a time, ascending, each for as long as any other."""
        most_nodes = self.cluster.num_nodes
        parts = self.trace.typical_nodes(end_s, NUM_PARTS).tolist() if self.trace is not None and end_s else []
        # All layouts train nothing without a node, so that such times do not tell them apart.
        return [min(number, most_nodes) for number in parts if number > 0] or [most_nodes]

    def simulated_s(self) -> float:
        """Return how much of the time is simulated; nothing where no node is lost."""
        if self.trace is None or not self.trace.nodes_lost(self.wall_s):
            return 0.0
        later_s: list[float] = np.unique(self.trace.time_s)[MOST_CHANGES:].tolist()
        return min([self.wall_s, *later_s[:1]])


@functools.lru_cache(maxsize=256)
def default_job(choice: JobChoice, system: System) -> JobSpec | SpecError:
    """Return the job with which a system trains most on the nodes of a trace; an error says why there is none.

    Notes
    -----
    Candidates are the fastest layouts on the most nodes, one for each number of nodes of a model replica and each
    fewest on which it fits, with 16 sequences for each GPU of whole replicas. They are ordered by what they train on
    the nodes of the trace without failures; nodes on which one does not fit into memory train nothing.

    The system is simulated on the trace with the first `LEAST_SIMULATED` of them, and with others that may be better:
    under even loads, with the interval between checkpoints that is published for it, or Young's. The share that
    failures leave, up to `MOST_CHANGES`, of steps that fit counts for the whole trace. Where no node is lost, the
    order decides, but that systems which recover from other nodes, other than by stages, take a layout of which the
    median of nodes holds two replicas, if any.

    All systems have the job that is named as the model if one that keeps no states trains most by it, on a median of
    nodes that holds two replicas.
    """
    try:
        search = _search_of(choice)
        return search.own_job or search.best(system.quickly(), search.candidates(system))
    except SpecError as error:
        return error


def named_job(name: str, choice: JobChoice) -> JobSpec | None:
    """Return the job of the catalogue with which a name begins, if it has a layout that the GPU and the nodes run."""
    named = [job for job in catalog_names("jobs") if f"{name}-".startswith(f"{job}-")]
    job = load_spec(JobSpec, max(named, key=len)) if named and choice.gpu.kernels else None
    if job is None or job.parallel is None:
        return None
    try:
        costs = choice.costs(job, PLAIN)
        costs.step_s(costs.grid.replica_nodes, np.ones(1))
    except SpecError:
        # The tables lack a kernel of the model or of the layout.
        return None
    used = PLAIN.usable_nodes(costs, choice.cluster.num_nodes)
    return job if used and _is_usable(costs, PLAIN, used) else None


class JobSearch:
    """Chooses the jobs of the systems of a run, and finds once what they share."""

    def __init__(self, choice: JobChoice) -> None:
        self._choice = choice
        self._simulated_s = choice.simulated_s()
        self._layers = Layers()
        self._found = functools.cache(self._find)
        self._fitting = functools.cache(self._find_fitting)

    @functools.cached_property
    def own_job(self) -> JobSpec | None:
        """The job that is named as the model, if all systems have it."""
        job = named_job(self._choice.model.name, self._choice)
        if job is None or not self._holds_two(self._choice.costs(job, PLAIN)):
            return None
        return job if self.best(PLAIN, [job, *self._found(PLAIN)]) is job else None

    def candidates(self, system: System) -> list[JobSpec]:
        """Return jobs of which a system has one; a `SpecError` says that no layout fits.

        Where none fits with what a system needs, the run says so of the one that it has.
        """
        adds = system.padded or system.stage_use or type(system).extra_gpu_bytes is not System.extra_gpu_bytes
        found = self._found(system if adds else WHOLE if system.keeps_whole_states else PLAIN) or self._found(PLAIN)
        if not found:
            needs = [(needed_bytes(inputs), inputs) for _, inputs in self._tried]
            least = min(needs, key=lambda one: one[0])[1] if needs else self._start
            raise none_fits(least, [num_bytes for num_bytes, _ in needs])
        return found

    def best(self, system: System, jobs: Sequence[JobSpec]) -> JobSpec:
        """Return the job of some by which a system trains most."""
        trained = [(self._by_nodes(system, job, self._choice.wall_s), job) for job in jobs]
        trained.sort(key=lambda one: one[0], reverse=True)
        if self._simulated_s and len(jobs) > 1:
            return self._best_with_failures(system, trained)
        needs_two = system.keeps_whole_states and not system.doubles_stages
        safe = [job for most, job in trained if most and self._holds_two(self._choice.costs(job, system))]
        return safe[0] if needs_two and safe else trained[0][1]

    def _best_with_failures(self, system: System, trained: Sequence[tuple[float, JobSpec]]) -> JobSpec:
        """Return the job that trains most on the trace, of some in the order of what they train without failures."""
        best = -1.0, trained[0][1]
        for number, (by_nodes, job) in enumerate(trained):
            if number >= LEAST_SIMULATED and by_nodes <= best[0]:
                break
            best = max(best, (by_nodes * self._share_kept(system, job), job), key=lambda one: one[0])
        return best[1]

    def _by_nodes(self, system: System, job: JobSpec, end_s: float) -> float:
        """Return the samples a second of the nodes until a time on which a job fits, without failures."""
        costs, nodes = self._choice.costs(job, system), self._choice.nodes(end_s)
        if not _runs(costs, system, self._choice.cluster.num_nodes):
            return 0.0
        used = Counter(system.usable_nodes(costs, num_nodes) for num_nodes in nodes)
        return math.fsum(
            number * costs.samples_per_step(size) / (costs.even_step_s(size) + _masked_s(costs, system, size))
            for size, number in used.items()
            if size and _fits(costs, system, size)
        ) / len(nodes)

    def _share_kept(self, system: System, job: JobSpec) -> float:
        """Return the share that failures leave of what nodes train on which a job fits, where that is simulated."""
        choice, costs, end_s = self._choice, self._choice.costs(job, system), self._simulated_s
        assert choice.trace is not None, "it loses nodes"
        loads = load_routing(UNIFORM, costs.model.num_moe_layers, costs.model.num_experts, seed=0)
        between_s = choice.wall_s / max(1, sum(count_losses(choice.trace, choice.wall_s).values()))
        try:
            steps = interval_steps(system, costs, loads, choice.cluster.num_nodes, between_s)
            run = simulate_system(choice.trace, system, costs, loads, end_s, interval_steps=steps, spares=choice.spares)
        except LazsimError:
            return 0.0
        trained, steps_s = self._by_nodes(system, job, end_s), math.fsum(run.steps_s.values())
        fitting_s = math.fsum(spent_s for (_, size), spent_s in run.steps_s.items() if _fits(costs, system, size))
        return run.goodput_samples_per_s * fitting_s / steps_s / trained if steps_s and trained else 0.0

    def _holds_two(self, costs: LayoutCosts) -> bool:
        """Tell whether the median number of nodes holds two model replicas."""
        nodes = self._choice.nodes(self._choice.wall_s)
        return 2 * costs.grid.replica_nodes <= nodes[len(nodes) // 2]

    def _find(self, system: System) -> list[JobSpec]:
        """Find the fastest layout for each number of nodes of a model replica, and each fewest on which it fits."""
        choice, found = self._choice, list[JobSpec]()
        usual = msgspec.structs.replace(load_spec(JobSpec, DEFAULT_JOB), checkpoint_interval_steps={})
        sizes = {*choice.nodes(choice.wall_s), choice.cluster.num_nodes}

        @functools.cache
        def costs_of(parallel: ParallelSpec) -> LayoutCosts:
            return choice.costs(msgspec.structs.replace(usual, parallel=parallel), system)

        def fits(model: StepModel, num_nodes: int) -> bool:
            costs = costs_of(model.inputs.parallel)
            return _runs(costs, system, choice.cluster.num_nodes) and _is_usable(costs, system, num_nodes)

        def beside_s(model: StepModel) -> float:
            masks = system.masked_reorder
            return _masked_s(costs_of(model.inputs.parallel), system, model.inputs.cluster.num_nodes) if masks else 0.0

        for replica_nodes, models in self._fitting(system.keeps_whole_states).items():
            filled = sorted({size - size % replica_nodes for size in sizes} - {0}, reverse=True)
            # The fastest of those that fit on the most nodes; of those that fit on fewer than that one; and so on.
            while filled and (best := fastest(models, 1, functools.partial(fits, num_nodes=filled[0]), beside_s)):
                parallel = best[0].parallel
                is_usable = functools.partial(_is_usable, costs_of(parallel), system)
                filled = list(itertools.dropwhile(is_usable, filled))
                parallel = msgspec.structs.replace(parallel, sharding=first_layout(choice.cluster).sharding)
                found.append(msgspec.structs.replace(usual, parallel=parallel))
        return found

    def _find_fitting(self, keeps_whole_states: bool) -> dict[int, list[StepModel]]:
        """Find the layouts that fit where a system adds nothing, by the nodes of a model replica."""
        found = defaultdict[int, list[StepModel]](list)
        for replica_nodes, inputs in self._tried:
            if keeps_whole_states:
                inputs = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, sharding="none"))
            if needed_bytes(inputs) <= usable_bytes(inputs):
                found[replica_nodes].append(StepModel(inputs, self._layers))
        return dict(sorted(found.items()))

    @functools.cached_property
    def _tried(self) -> list[tuple[int, StepInputs]]:
        """Each layout that divides a job, on the most nodes that replicas fill, with the nodes of a replica."""
        start, found = self._start, list[tuple[int, StepInputs]]()
        for parallel in layouts_tried(start.parallel, start.cluster):
            if refused_settings(parallel, start.model, are_avoidable=True):
                continue
            with contextlib.suppress(SpecError):
                replica_nodes = grid_of(start.model, parallel, start.cluster.gpus_per_node).replica_nodes
                if used := start.cluster.num_nodes // replica_nodes * replica_nodes:
                    cluster = msgspec.structs.replace(start.cluster, num_nodes=used)
                    batch = first_layout(cluster).global_batch
                    parallel = msgspec.structs.replace(parallel, global_batch=batch)
                    found.append((replica_nodes, replace(start, cluster=cluster, parallel=parallel)))
        return found

    @property
    def _start(self) -> StepInputs:
        model, gpu, cluster, step, *_ = self._choice
        constants = msgspec.json.decode(step, type=StepConstants)
        return StepInputs(model, gpu, cluster, first_layout(cluster), tables_of(gpu), constants)


_search_of = functools.lru_cache(NUM_KEPT)(JobSearch)


def _masked_s(costs: LayoutCosts, system: System, num_nodes: int) -> float:
    return float(costs.masked_s(num_nodes, padding(_even_LE(costs)[None]))[0]) if system.masked_reorder else 0.0


def _even_LE(costs: LayoutCosts) -> Ints:
    return np.ones((costs.model.num_moe_layers, costs.model.num_experts), dtype=np.int64)


def _is_usable(costs: LayoutCosts, system: System, num_nodes: int) -> bool:
    """Tell whether a layout fits into the share of the memory that a search may fill."""
    return layout_memory(system, costs, num_nodes, _even_LE(costs)).total <= usable_bytes(costs.inputs)


def _fits(costs: LayoutCosts, system: System, num_nodes: int) -> bool:
    """Tell whether a layout fits into all the memory of the GPUs and of the nodes, as runs tell it."""
    host_bytes = system.host_bytes(costs, num_nodes, costs.even_step_s(num_nodes))
    is_held = host_bytes <= costs.cluster.host_memory_bytes
    return is_held and layout_memory(system, costs, num_nodes, _even_LE(costs)).total <= costs.inputs.gpu.memory_bytes


def _runs(costs: LayoutCosts, system: System, num_nodes: int) -> bool:
    try:
        system.require(costs, num_nodes)
    except LazsimError:
        return False
    return True
