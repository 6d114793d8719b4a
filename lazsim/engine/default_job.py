"""The job of a run that gives none: the model's own or a usual one, by what trains most on the trace.

1. Candidates are the fastest layouts on the most nodes: one for each number of nodes of a model replica, and each
   fewest on which it fits with what the system adds, with a `usual_batch`. It starts on no fewer (`min_nodes`).
2. The system is simulated on the trace with each of them: under even loads, with the interval between checkpoints that
   is published for it, or Young's. Steps that still do not fit into memory count as not trained.
3. Of a trace with more than `MOST_CHANGES`, a stretch of each of `NUM_PARTS` equal parts of its time is simulated, at a
   random time, and counts for the part. The stretches are as long as each other, and have about `MOST_CHANGES` in all.
4. The candidate that trains most is taken. Where no node is lost, systems that recover from other nodes, other than by
   stages, have one of which the median number of nodes holds two replicas, if there is any.
5. All systems have the job that is named as the model if a system that only makes checkpoints trains no more by another
   layout, and the median number of nodes holds two replicas of it.
"""

import bisect
import contextlib
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from lazsim.costmodel.memory import MemoryUse
from lazsim.engine.interval import interval_steps
from lazsim.engine.layout import LayoutCosts, grid_of, layout_costs, padding
from lazsim.engine.memory import lacks_memory, peak_memory, sizes_held
from lazsim.engine.nodes import NO_SPARES, Spares
from lazsim.engine.plan_reliability import count_losses
from lazsim.engine.planner import Planner
from lazsim.engine.simulate import SystemRun, require_fit, simulate_system
from lazsim.engine.systems.system import System
from lazsim.errors import LazsimError, SpecError
from lazsim.routing import Routing
from lazsim.routing.loading import UNIFORM, load_routing
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, ParallelSpec, StepConstants, catalog_names, load_spec
from lazsim.specs.effects import refused_settings
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import first_layout, tables_of
from lazsim.stepmodel.predict import Layers, StepModel
from lazsim.stepmodel.search import fastest, fits, layouts_tried, needed_bytes, none_fits, usable_bytes, usual_batch
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import divide

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""

NUM_PARTS = 8
"""Equal parts of the time of a long trace of each of which a stretch is simulated."""

MOST_CHANGES = 256
"""Changes of nodes that are simulated in all, or about as many, which takes about a tenth of a second for each
candidate; and at most in a stretch."""

NUM_SIZES = 32
"""Equal parts of the time, each with its number of nodes, on one of which a candidate is to fit."""

STAYING_S = 86_400.0
"""Time for which all nodes stay where nothing is known of them, in which there are thousands of steps."""

NUM_KEPT = 8
"""Choices of which the layouts that fit are kept, a few MiB each: the systems of a run follow each other."""

PLAIN = System("plain", "adds nothing")
"""Stands for all systems that add nothing to what training needs, and restart from checkpoints."""


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

    def inputs(self) -> StepInputs:
        """Return the inputs of a step of nothing but data parallelism, from which layouts differ."""
        constants = msgspec.json.decode(self.step, type=StepConstants)
        layout = first_layout(self.cluster)
        return StepInputs(self.model, self.gpu, self.cluster, layout, tables_of(self.gpu), constants)

    def costs(self, job: JobSpec, system: System) -> LayoutCosts:
        """Return the costs of a job with a layout under a system."""
        assert job.parallel is not None, "the job has a layout"
        constants = msgspec.json.decode(self.step, type=StepConstants)
        return layout_costs(job.parallel.trained(self.model), self.gpu, self.cluster, job, constants, system)

    def nodes(self) -> list[int]:
        """Return numbers of nodes that train, ascending, each for as long as any other."""
        most_nodes = self.cluster.num_nodes
        parts = self.trace.typical_nodes(self.wall_s, NUM_SIZES).tolist() if self.trace is not None else []
        # All layouts train nothing without a node, so that such times do not tell them apart.
        return [min(number, most_nodes) for number in parts if number > 0] or [most_nodes]

    def holds_two(self, job: JobSpec) -> bool:
        """Tell whether the median number of nodes holds two model replicas of a job."""
        assert job.parallel is not None, "the job has a layout"
        replica_nodes = grid_of(self.model, job.parallel, self.cluster.gpus_per_node).replica_nodes
        nodes = self.nodes()
        return 2 * replica_nodes <= nodes[len(nodes) // 2]


@functools.lru_cache(maxsize=256)
def default_job(choice: JobChoice, system: System) -> JobSpec | SpecError:
    """Return the job with which a system trains most on the nodes of a trace; an error says why there is none."""
    try:
        return own_job(choice) or best_job(choice, system.quickly(), candidates(choice, system))
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
    if not used or _peak_memory(costs, PLAIN, used).total > usable_bytes(costs.inputs):
        return None
    return msgspec.structs.replace(job, min_nodes=_fewest(costs, PLAIN, used))


@functools.lru_cache(NUM_KEPT)
def own_job(choice: JobChoice) -> JobSpec | None:
    """Return the job that is named as the model, if all systems have it."""
    job = named_job(choice.model.name, choice)
    if job is None or not choice.holds_two(job):
        return None
    return job if best_job(choice, PLAIN, [job, *_found(choice, PLAIN)]) is job else None


def best_job(choice: JobChoice, system: System, jobs: Sequence[JobSpec]) -> JobSpec:
    """Return the job of some by which a system trains most; the first of equal ones."""
    is_lossless = choice.trace is None or not choice.trace.nodes_lost(choice.wall_s)
    if is_lossless and system.keeps_whole_states and not system.doubles_stages:
        jobs = [job for job in jobs if choice.holds_two(job)] or jobs
    return jobs[0] if len(jobs) == 1 else max(jobs, key=functools.partial(trained_samples_per_s, choice, system))


def trained_samples_per_s(choice: JobChoice, system: System, job: JobSpec) -> float:
    """Return the samples that a system trains with a job in steps that fit, over the time; 0 where it cannot run."""
    costs, (stretches, between_s) = choice.costs(job, system), _stretches(choice)
    loads = _even_loads(costs)
    try:
        steps = interval_steps(system, costs, loads, choice.cluster.num_nodes, between_s)
        planner = Planner(system, costs, loads)
        runs = [
            simulate_system(part, system, costs, loads, s, planner=planner, interval_steps=steps, spares=choice.spares)
            for part, s in stretches
        ]
    except LazsimError:
        return 0.0
    return math.fsum(run.goodput_samples_per_s * _fitting_share(run, costs, system) for run in runs) / len(runs)


@functools.lru_cache(NUM_KEPT)
def _stretches(choice: JobChoice) -> tuple[list[tuple[Trace, float]], float]:
    """Return what is simulated of a trace, each with its seconds, and the mean time between failures."""
    trace, wall_s = choice.trace, choice.wall_s
    if trace is None:
        nodes = [Event(0.0, "add", f"node{number}") for number in range(choice.cluster.num_nodes)]
        return [(build_trace(nodes), STAYING_S)], STAYING_S
    between_s = wall_s / max(1, sum(count_losses(trace, wall_s).values()))
    changes_s = np.unique(trace.time_s[trace.time_s < wall_s])
    if len(changes_s) <= MOST_CHANGES:
        return [(trace, wall_s)], between_s
    part_s, share, stretches = wall_s / NUM_PARTS, MOST_CHANGES / len(changes_s), list[tuple[Trace, float]]()
    # Random times coincide with no period of the trace, such as a day.
    begins = np.arange(NUM_PARTS) + (1 - share) * np.random.default_rng(0).random(NUM_PARTS)
    for start_s in (part_s * begins).tolist():
        later_s = changes_s[changes_s > start_s][MOST_CHANGES:]
        last_s = min([share * part_s, *(later_s[:1] - start_s).tolist()])
        stretches.append((trace.window(start_s, last_s), last_s))
    return stretches, between_s


def candidates(choice: JobChoice, system: System) -> list[JobSpec]:
    """Return jobs of which a system has one, the fastest first; a `SpecError` says that no layout fits.

    Where none fits with what a system needs, the run says so of the one that it has.
    """
    found = _found(choice, system) or _found(choice, PLAIN)
    if not found:
        raise none_fits(*_needs(choice))
    return found


# Each of many systems asks for it.
@functools.lru_cache(NUM_KEPT)
def _needs(choice: JobChoice) -> tuple[StepInputs, list[float]]:
    """Return the layout that needs least memory, and what each needs."""
    needs = [(needed_bytes(inputs), inputs) for _, inputs in _tried(choice)[1]]
    least = min(needs, key=lambda one: one[0])[1] if needs else choice.inputs()
    return least, [num_bytes for num_bytes, _ in needs]


def _found(choice: JobChoice, system: System) -> list[JobSpec]:
    """Find the fastest layout for each number of nodes of a model replica, and each fewest on which it fits."""
    found = list[tuple[float, JobSpec]]()
    usual = msgspec.structs.replace(load_spec(JobSpec, DEFAULT_JOB), checkpoint_interval_steps={})
    sizes = {*choice.nodes(), choice.cluster.num_nodes}

    @functools.cache
    def costs_of(parallel: ParallelSpec) -> LayoutCosts:
        return choice.costs(msgspec.structs.replace(usual, parallel=parallel), system)

    def fits_on(parallel: ParallelSpec, num_nodes: int) -> bool:
        costs = costs_of(parallel)
        return _peak_memory(costs, system, num_nodes).total <= usable_bytes(costs.inputs)

    def runs(model: StepModel, num_nodes: int) -> bool:
        parallel = model.inputs.parallel
        try:
            require_fit(system, costs_of(parallel), choice.cluster.num_nodes)
        except LazsimError:
            return False
        return fits_on(parallel, num_nodes)

    def beside_s(model: StepModel) -> float:
        if not system.masked_reorder:
            return 0.0
        costs, num_nodes = costs_of(model.inputs.parallel), model.inputs.cluster.num_nodes
        return float(costs.masked_s(num_nodes, padding(_even_loads(costs).loads([0])))[0])

    for replica_nodes, models in _fitting(choice, system.keeps_whole_states).items():
        filled = sorted({size - size % replica_nodes for size in sizes} - {0}, reverse=True)
        # The fastest of those that fit on the most nodes; of those that fit on fewer than that one; and so on.
        while filled and (best := fastest(models, 1, functools.partial(runs, num_nodes=filled[0]), beside_s)):
            parallel, samples_per_s = best[0].parallel, best[0].parallel.global_batch / best[0].step_s
            min_nodes = _fewest(costs_of(parallel), system, filled[0])
            filled = list(itertools.dropwhile(functools.partial(fits_on, parallel), filled))
            parallel = msgspec.structs.replace(parallel, sharding=first_layout(choice.cluster).sharding)
            found.append((samples_per_s, msgspec.structs.replace(usual, parallel=parallel, min_nodes=min_nodes)))
    return [job for _, job in sorted(found, key=lambda one: one[0], reverse=True)]


def _fewest(costs: LayoutCosts, system: System, num_nodes: int) -> int:
    """Return the fewest of up to `num_nodes` nodes from which on a layout fits; 0 where it does on all, or on none.

    More model replicas take no more memory, but for a second one, which alone has all work of the first to take over.
    """
    replica_nodes, fits = costs.grid.replica_nodes, functools.partial(_fits, costs, system)
    sizes = range(replica_nodes, num_nodes + 1, replica_nodes)
    first = bisect.bisect_left(sizes, True, 1, key=fits)
    if first >= len(sizes) or (first == 1 and fits(sizes[0])):
        return 0
    return sizes[first]


@functools.lru_cache(2 * NUM_KEPT)
def _fitting(choice: JobChoice, keeps_whole_states: bool) -> dict[int, list[StepModel]]:
    """Find the layouts that fit where a system adds nothing, by the nodes of a model replica."""
    found, (layers, tried) = defaultdict[int, list[StepModel]](list), _tried(choice)
    for replica_nodes, inputs in tried:
        if keeps_whole_states:
            inputs = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, sharding="none"))
        if fits(inputs):
            found[replica_nodes].append(StepModel(inputs, layers))
    return dict(sorted(found.items()))


@functools.lru_cache(NUM_KEPT)
def _tried(choice: JobChoice) -> tuple[Layers, list[tuple[int, StepInputs]]]:
    """Find each layout that divides a job, on the most nodes that replicas fill, with the nodes of a replica."""
    start, found = choice.inputs(), list[tuple[int, StepInputs]]()
    for parallel in layouts_tried(start.parallel, start.cluster):
        if refused_settings(parallel, start.model, are_avoidable=True):
            continue
        with contextlib.suppress(SpecError):
            replica_nodes = grid_of(start.model, parallel, start.cluster.gpus_per_node).replica_nodes
            used = start.cluster.num_nodes // replica_nodes * replica_nodes
            if used and (batch := usual_batch(parallel, used * start.cluster.gpus_per_node)):
                cluster = msgspec.structs.replace(start.cluster, num_nodes=used)
                parallel = msgspec.structs.replace(parallel, global_batch=batch)
                found.append((replica_nodes, replace(start, cluster=cluster, parallel=parallel)))
    return Layers(), found


def _even_loads(costs: LayoutCosts) -> Routing:
    return load_routing(UNIFORM, costs.model.num_moe_layers, costs.model.num_experts, seed=0)


def _peak_memory(costs: LayoutCosts, system: System, *sizes: int) -> MemoryUse:
    """Return what each GPU takes at most on any of some numbers of nodes, with what a system adds."""
    return peak_memory(system, costs, _even_loads(costs), sizes, 0)


def _fits(costs: LayoutCosts, system: System, *sizes: int) -> bool:
    """Tell whether a job fits into the memory of the GPUs and of the nodes on all of some numbers of nodes."""
    host_bytes = max(system.host_bytes(costs, size, costs.even_step_s(size)) for size in sizes)
    is_held = host_bytes <= costs.cluster.host_memory_bytes
    return is_held and not lacks_memory(costs.inputs.gpu, _peak_memory(costs, system, *sizes))


def _fitting_share(run: SystemRun, costs: LayoutCosts, system: System) -> float:
    """Return the share of what a run trains that fits into memory, as runs tell it."""
    all_node_s, fitting_node_s = [0.0], [0.0]
    for size, spent_s in run.steps_s.items():
        all_node_s.append(size[0] * spent_s)
        if _fits(costs, system, *sizes_held(system, costs, *size)):
            fitting_node_s.append(size[0] * spent_s)
    return divide(math.fsum(fitting_node_s), math.fsum(all_node_s), 0.0)
