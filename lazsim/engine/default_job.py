"""The job of a run that gives none: that of the model or a usual one, by what trains most on the nodes of the trace."""

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
from lazsim.stepmodel.search import fastest, layouts_tried, none_fits, usable_bytes

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""


NUM_PARTS = 32
"""Parts of a run, each with its number of nodes: what lasts less than about a thirtieth of it may count nothing."""


class Fitting(NamedTuple):
    """A layout, and the fewest nodes of model replicas on which it fits."""

    parallel: ParallelSpec
    fewest_nodes: int


def own_job(name: str, model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, step: StepConstants) -> JobSpec | None:
    """Return the job of the catalogue with which a model's name begins, if it has a layout that runs on the cluster."""
    named = [job for job in catalog_names("jobs") if f"{name}-".startswith(f"{job}-")]
    job = load_spec(JobSpec, max(named, key=len)) if named else None
    if job is None or job.parallel is None or not gpu.kernels:
        return None
    try:
        costs = layout_costs(job.parallel.trained(model), gpu, cluster, job, step)
        filled = _filled([cluster.num_nodes], costs.grid.replica_nodes)
        costs.step_s(costs.grid.replica_nodes, np.ones(1))
    except SpecError:
        # The tables lack a kernel of the model.
        return None
    return job if filled and _fits(costs, None, filled[0]) else None


@functools.lru_cache(maxsize=256)
def default_job(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, nodes: tuple[int, ...], step: bytes, system: System
) -> JobSpec | SpecError:
    """Return the job with which a system trains most on the nodes of a trace; an error says why there is none.

    Parameters
    ----------
    cluster
        With the most nodes that the trace has at once.
    nodes
        Numbers of nodes that it has, each for as long as any other; see `Trace.typical_nodes`.
    step
        The `StepConstants` as JSON, which can be hashed.

    Notes
    -----
    On each number of nodes, a layout trains the samples of a step of all that the system uses of them, by the time of
    the step, or none where it does not fit. What failures cost is left out, but that a system which recovers from other
    nodes, other than by stages, takes two model replicas: layouts of which the median of `nodes` holds two come first.

    Tried are the fastest layouts on the most nodes, one for each number of nodes of a model replica and each fewest on
    which it fits, with 16 sequences for each GPU of whole replicas; and the job that is named as the model.
    """
    constants = msgspec.json.decode(step, type=StepConstants)
    usual = msgspec.structs.replace(load_spec(JobSpec, DEFAULT_JOB), checkpoint_interval_steps={})
    sizes = tuple(sorted({*nodes, cluster.num_nodes}))
    # Systems that need nothing of a layout but whole states, or not even these, share a search.
    adds = system.padded or system.stage_use or type(system).extra_gpu_bytes is not System.extra_gpu_bytes
    try:
        found = _fastest_layouts(model, gpu, cluster, sizes, step, system if adds else None, system.keeps_whole_states)
        if isinstance(found, SpecError) and (adds or system.keeps_whole_states):
            # The run says what does not fit.
            found = _fastest_layouts(model, gpu, cluster, sizes, step, None, False)
    except SpecError as error:
        # The model has no heads, or the tables lack a kernel of it.
        return error
    if isinstance(found, SpecError):
        return found
    jobs = [(msgspec.structs.replace(usual, parallel=one.parallel), one.fewest_nodes) for one in found]

    def costs_of(job: JobSpec) -> LayoutCosts:
        assert job.parallel is not None, "the job has a layout"
        return layout_costs(job.parallel.trained(model), gpu, cluster, job, constants, system)

    if own := own_job(model.name, model, gpu, cluster, constants):
        costs = costs_of(own)
        fewest = _fewest_nodes(costs, system, _filled(sizes, costs.grid.replica_nodes))
        jobs = [(own, fewest)] * (fewest > 0) + jobs
    needs_two = system.keeps_whole_states and not system.doubles_stages

    def worth(one: tuple[JobSpec, int]) -> tuple[bool, float]:
        job, fewest = one
        costs = costs_of(job)
        samples_per_s = math.fsum(
            number * costs.samples_per_step(used) / even_step_s(costs, system, used)
            for num_nodes, number in sorted(Counter(nodes).items())
            if (used := system.usable_nodes(costs, num_nodes)) >= fewest
        )
        is_redundant = not needs_two or 2 * costs.grid.replica_nodes <= sorted(nodes)[len(nodes) // 2]
        return samples_per_s > 0 and is_redundant, samples_per_s

    try:
        return max(jobs, key=worth)[0]
    except SpecError as error:
        return error


def even_step_s(costs: LayoutCosts, system: System, num_nodes: int) -> float:
    """Return the seconds of a step of a system on `num_nodes` nodes that it uses, under even loads."""
    seats, factor, _ = system.timed(costs, num_nodes, system.num_seats(costs, num_nodes))
    return factor * (costs.even_step_s(seats) + _masked_s(costs, system, seats))


def _masked_s(costs: LayoutCosts, system: System | None, num_nodes: int) -> float:
    is_masked = system is not None and system.masked_reorder
    return float(costs.masked_s(num_nodes, padding(_even_LE(costs)[None]))[0]) if is_masked else 0.0


def _even_LE(costs: LayoutCosts) -> Ints:
    return np.ones((costs.model.num_moe_layers, costs.model.num_experts), dtype=np.int64)


def _fits(costs: LayoutCosts, system: System | None, num_nodes: int) -> bool:
    return _needed_bytes(costs, system, num_nodes) <= usable_bytes(costs.inputs)


def _needed_bytes(costs: LayoutCosts, system: System | None, num_nodes: int) -> float:
    """Return the bytes of each GPU that a layout takes on whole model replicas, with what a system adds."""
    pads, masks = (False, False) if system is None else (system.padded, system.masked_reorder)
    needed = costs.memory(num_nodes, NodeLayout(np.arange(num_nodes), None, pads, masks), _even_LE(costs)).total
    return needed + (0.0 if system is None else system.extra_gpu_bytes(costs, num_nodes))


def _fewest_nodes(costs: LayoutCosts, system: System | None, filled: Sequence[int]) -> int:
    """Return the fewest nodes of some, in ascending order, from which on a layout fits on all; 0 where it fits on none.

    The more nodes, the less of the states and the fewer micro-batches each has: what fits on some mostly fits on more.
    """
    fitting = itertools.takewhile(lambda size: _fits(costs, system, size), reversed(filled))
    return min(fitting, default=0)


def _filled(sizes: Iterable[int], replica_nodes: int) -> list[int]:
    """Return the nodes that whole model replicas fill of some numbers of nodes, in ascending order."""
    return sorted({size - size % replica_nodes for size in sizes} - {0})


@functools.lru_cache(maxsize=256)
def _fastest_layouts(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, sizes: tuple[int, ...], step: bytes, system: System | None,
    keeps_whole_states: bool,
) -> list[Fitting] | SpecError:  # fmt: skip
    """Return the fastest layout for each number of nodes of a model replica, and each fewest on which it fits."""
    constants, usual, layers = msgspec.json.decode(step, type=StepConstants), load_spec(JobSpec, DEFAULT_JOB), Layers()
    of_replica = defaultdict[int, list[tuple[LayoutCosts, StepModel, float]]](list)
    given, found = first_layout(cluster), list[Fitting]()
    start = StepInputs(model, gpu, cluster, given, tables_of(gpu), constants)
    for tried in layouts_tried(given, cluster):
        if refused_settings(tried, model, are_avoidable=True):
            continue
        try:
            nodes = grid_of(model, tried, cluster.gpus_per_node).replica_nodes
            used = cluster.num_nodes - cluster.num_nodes % nodes
            batch = first_layout(msgspec.structs.replace(cluster, num_nodes=used)).global_batch
            sharding = "none" if keeps_whole_states else given.sharding
            parallel = msgspec.structs.replace(tried, global_batch=batch, sharding=sharding)
            job = msgspec.structs.replace(usual, parallel=parallel)
            costs = layout_costs(model, gpu, cluster, job, constants, system)
            if system is not None:
                system.require(costs, cluster.num_nodes)
            inputs = costs.inputs_for(used) if used else start
        except LazsimError:
            continue
        # Batches that do not divide would leave micro-batches empty.
        if used and inputs.parallel.global_batch == batch:
            of_replica[nodes].append((costs, StepModel(inputs, layers), _masked_s(costs, system, used)))
    for nodes, some in sorted(of_replica.items()):
        for best, fewest in _fastest_by_fit(some, system, _filled(sizes, nodes)):
            found.append(Fitting(msgspec.structs.replace(best, sharding=given.sharding), fewest))
    if found:
        return found
    needs = [
        (_needed_bytes(costs, system, one.inputs.cluster.num_nodes), one.inputs)
        for costs, one, _ in itertools.chain(*of_replica.values())
    ]
    least = min(needs, key=lambda one: one[0])[1] if needs else start
    return none_fits(least, [needed for needed, _ in needs])


def _fastest_by_fit(
    layouts: Sequence[tuple[LayoutCosts, StepModel, float]], system: System | None, filled: Sequence[int]
) -> Iterator[tuple[ParallelSpec, int]]:
    """Yield the fastest layout that fits on the most nodes, then on fewer than that one, and so on, with the fewest."""
    timed = [(model, beside_s) for _, model, beside_s in layouts]
    best = filled and fastest(timed, 1, lambda index: _fits(layouts[index][0], system, filled[-1]))
    if best:
        fewest = _fewest_nodes(layouts[best[0].index][0], system, filled)
        yield best[0].parallel, fewest
        yield from _fastest_by_fit(layouts, system, filled[: filled.index(fewest)])
