"""The job of a run that gives none: the model's own or a usual one, by what trains most on the nodes of the trace."""

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

from lazsim.costmodel.step import NodeLayout
from lazsim.engine.layout import LayoutCosts, grid_of, layout_costs, padding
from lazsim.engine.systems.system import System
from lazsim.errors import LazsimError, SpecError
from lazsim.placement.plan import Ints
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

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""

NUM_PARTS = 32
"""Parts of a run, each with its number of nodes: what lasts less than about a thirtieth of it may count nothing."""

NUM_KEPT = 8
"""Choices whose layouts are kept, a few MiB each: those of the systems of a run follow each other."""

PLAIN = System("plain", "trains, and keeps nothing for failures")
"""Stands for all systems that add nothing to what training needs."""


class JobChoice(NamedTuple):
    """What the choice of a job depends on beside the system."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    """With the most nodes that the trace has at once."""
    nodes: tuple[int, ...]
    """Numbers of nodes that it has, from 1 on, ascending, each for as long as any other; see `Trace.typical_nodes`."""
    step: bytes
    """The `StepConstants` as JSON, which can be hashed."""

    def costs(self, job: JobSpec, system: System) -> LayoutCosts:
        """Return the costs of a job with a layout under a system."""
        assert job.parallel is not None, "the job has a layout"
        constants = msgspec.json.decode(self.step, type=StepConstants)
        return layout_costs(job.parallel.trained(self.model), self.gpu, self.cluster, job, constants, system)

    def filled(self, replica_nodes: int) -> list[int]:
        """Return the numbers of nodes that whole model replicas fill, ascending."""
        sizes = {*self.nodes, self.cluster.num_nodes}
        return sorted({size - size % replica_nodes for size in sizes} - {0})

    def holds_two(self, costs: LayoutCosts) -> bool:
        """Tell whether the median number of nodes holds two model replicas."""
        return 2 * costs.grid.replica_nodes <= self.nodes[len(self.nodes) // 2]


class FittingJob(NamedTuple):
    """A job, and the fewest nodes of whole model replicas from which on it fits."""

    job: JobSpec
    fewest_nodes: int


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
    return job if _fewest_nodes(costs, PLAIN, choice.filled(costs.grid.replica_nodes)) else None


@functools.lru_cache(maxsize=256)
def default_job(choice: JobChoice, system: System) -> JobSpec | SpecError:
    """Return the job with which a system trains most on the nodes of a trace; an error says why there is none.

    Notes
    -----
    On each number of nodes, a job trains the samples of a step of all that the system uses of them, by the time of the
    step, or none where it does not fit. These nodes are taken to share a step evenly: what pipelines of unequal stages
    lose is left out, as finding it takes long. So is what failures cost, but that a system which recovers from other
    nodes, other than by stages, takes two model replicas: layouts of which the median of nodes holds two come first.

    Tried are the fastest layouts on the most nodes, one for each number of nodes of a model replica and each fewest on
    which it fits, with 16 sequences for each GPU of whole replicas. All systems have the job that is named as the model
    if one without states to keep trains more by it, on a median of nodes that holds two replicas.
    """
    try:
        return _own_job(choice) or _searched_job(choice, system)
    except SpecError as error:
        return error


@functools.lru_cache(maxsize=64)
def _own_job(choice: JobChoice) -> JobSpec | None:
    job = named_job(choice.model.name, choice)
    if job is None or not choice.holds_two(costs := choice.costs(job, PLAIN)):
        return None
    fewest_nodes = _fewest_nodes(costs, PLAIN, choice.filled(costs.grid.replica_nodes))
    others = _candidates(choice, PLAIN, keeps_whole_states=False)
    most = max((_samples_per_s(choice, PLAIN, one) for one in others), default=0.0)
    return job if _samples_per_s(choice, PLAIN, FittingJob(job, fewest_nodes)) >= most else None


def _searched_job(choice: JobChoice, system: System) -> JobSpec:
    # Systems that need nothing of a layout but whole states, or not even these, share a search.
    adds = system.padded or system.stage_use or type(system).extra_gpu_bytes is not System.extra_gpu_bytes
    # Where no layout fits with what a system needs, the run says so of the one that it has.
    found = _candidates(choice, system if adds else PLAIN, keeps_whole_states=system.keeps_whole_states)
    found = found or _candidates(choice, PLAIN, keeps_whole_states=False)
    if not found:
        raise _no_layout(choice)
    needs_two = system.keeps_whole_states and not system.doubles_stages

    def worth(one: FittingJob) -> tuple[bool, bool, float]:
        costs, samples_per_s = choice.costs(one.job, system), _samples_per_s(choice, system, one)
        is_safe = not needs_two or choice.holds_two(costs)
        return samples_per_s > 0 and is_safe, _runs(costs, system, choice.cluster.num_nodes), samples_per_s

    return max(found, key=worth).job


def _samples_per_s(choice: JobChoice, system: System, one: FittingJob) -> float:
    """Return what a system trains by a job on the nodes of a trace, summed over equal parts of time."""
    costs = choice.costs(one.job, system)
    return math.fsum(
        number * costs.samples_per_step(used) / (costs.even_step_s(used) + _masked_s(costs, system, used))
        for num_nodes, number in Counter(choice.nodes).items()
        if (used := system.usable_nodes(costs, num_nodes)) >= one.fewest_nodes
    )


def _masked_s(costs: LayoutCosts, system: System, num_nodes: int) -> float:
    return float(costs.masked_s(num_nodes, padding(_even_LE(costs)[None]))[0]) if system.masked_reorder else 0.0


def _even_LE(costs: LayoutCosts) -> Ints:
    return np.ones((costs.model.num_moe_layers, costs.model.num_experts), dtype=np.int64)


def _needed_bytes(costs: LayoutCosts, system: System, num_nodes: int) -> float:
    """Return the bytes of each GPU that a layout takes on whole model replicas, with what a system adds."""
    layout = NodeLayout(np.arange(num_nodes), None, system.padded, system.masked_reorder)
    return costs.memory(num_nodes, layout, _even_LE(costs)).total + system.extra_gpu_bytes(costs, num_nodes)


def _fits(costs: LayoutCosts, system: System, num_nodes: int) -> bool:
    return _needed_bytes(costs, system, num_nodes) <= usable_bytes(costs.inputs)


def _runs(costs: LayoutCosts, system: System, num_nodes: int) -> bool:
    try:
        system.require(costs, num_nodes)
    except LazsimError:
        return False
    return True


def _fewest_nodes(costs: LayoutCosts, system: System, filled: Sequence[int]) -> int:
    """Return the fewest nodes of some, in ascending order, from which on a layout fits on all; 0 where it fits on none.

    The more nodes, the less of the states and the fewer micro-batches each has: what fits on some mostly fits on more.
    """
    return min(itertools.takewhile(lambda size: _fits(costs, system, size), reversed(filled)), default=0)


@functools.lru_cache(maxsize=64)
def _candidates(choice: JobChoice, system: System, keeps_whole_states: bool) -> list[FittingJob]:
    """Return the fastest layout for each number of nodes of a model replica, and each fewest on which it fits."""
    usual = msgspec.structs.replace(load_spec(JobSpec, DEFAULT_JOB), checkpoint_interval_steps={})
    most_nodes, found = choice.cluster.num_nodes, list[FittingJob]()

    @functools.cache
    def costs_of(parallel: ParallelSpec) -> LayoutCosts:
        return choice.costs(msgspec.structs.replace(usual, parallel=parallel), system)

    def fits(model: StepModel, num_nodes: int) -> bool:
        costs = costs_of(model.inputs.parallel)
        return _runs(costs, system, most_nodes) and _fits(costs, system, num_nodes)

    def beside_s(model: StepModel) -> float:
        masks = system.masked_reorder
        return _masked_s(costs_of(model.inputs.parallel), system, model.inputs.cluster.num_nodes) if masks else 0.0

    for replica_nodes, models in _models(choice, keeps_whole_states).items():
        filled = choice.filled(replica_nodes)
        # The fastest of those that fit on the most nodes; of those that fit on fewer than that one; and so on.
        while filled and (best := fastest(models, 1, functools.partial(fits, num_nodes=filled[-1]), beside_s)):
            fewest_nodes = _fewest_nodes(costs_of(best[0].parallel), system, filled)
            parallel = msgspec.structs.replace(best[0].parallel, sharding=first_layout(choice.cluster).sharding)
            found.append(FittingJob(msgspec.structs.replace(usual, parallel=parallel), fewest_nodes))
            filled = filled[: filled.index(fewest_nodes)]
    return found


@functools.lru_cache(NUM_KEPT)
def _models(choice: JobChoice, keeps_whole_states: bool) -> dict[int, list[StepModel]]:
    """Return the layouts that fit where a system adds nothing, by the nodes of a model replica."""
    found = defaultdict[int, list[StepModel]](list)
    tried, layers = _tried(choice)
    for replica_nodes, inputs in tried:
        if keeps_whole_states:
            inputs = replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, sharding="none"))
        if needed_bytes(inputs) <= usable_bytes(inputs):
            found[replica_nodes].append(StepModel(inputs, layers))
    return dict(sorted(found.items()))


@functools.lru_cache(NUM_KEPT)
def _tried(choice: JobChoice) -> tuple[list[tuple[int, StepInputs]], Layers]:
    """Return each layout that divides a job, on the most nodes that replicas fill, and what their steps share.

    Each comes with the nodes of a model replica.
    """
    start, found = _start(choice), list[tuple[int, StepInputs]]()
    for parallel in layouts_tried(start.parallel, start.cluster):
        if refused_settings(parallel, choice.model, are_avoidable=True):
            continue
        with contextlib.suppress(SpecError):
            replica_nodes = grid_of(choice.model, parallel, start.cluster.gpus_per_node).replica_nodes
            if used := start.cluster.num_nodes // replica_nodes * replica_nodes:
                cluster = msgspec.structs.replace(start.cluster, num_nodes=used)
                batch = first_layout(cluster).global_batch
                parallel = msgspec.structs.replace(parallel, global_batch=batch)
                found.append((replica_nodes, replace(start, cluster=cluster, parallel=parallel)))
    return found, Layers()


def _start(choice: JobChoice) -> StepInputs:
    model, gpu, cluster, _, step = choice
    constants = msgspec.json.decode(step, type=StepConstants)
    return StepInputs(model, gpu, cluster, first_layout(cluster), tables_of(gpu), constants)


def _no_layout(choice: JobChoice) -> SpecError:
    needs = [(needed_bytes(inputs), inputs) for _, inputs in _tried(choice)[0]]
    least = min(needs, key=lambda one: one[0])[1] if needs else _start(choice)
    return none_fits(least, [num_bytes for num_bytes, _ in needs])
