"""The job of a run that gives none: that of the model, or a usual one with the fastest layout that fits."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from lazsim.costmodel.step import NodeLayout
from lazsim.engine.layout import grid_of, layout_costs, padding
from lazsim.engine.systems.system import System
from lazsim.errors import SpecError
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
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import first_layout, tables_of
from lazsim.stepmodel.predict import Layers
from lazsim.stepmodel.search import Needs, plain_needs, require_layout, search_layouts, usable_bytes
from lazsim.units import counted

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""


def job_named(model_name: str) -> str:
    """Return the job of the catalogue whose name a model's begins with, or nothing."""
    return max((name for name in catalog_names("jobs") if f"{model_name}-".startswith(f"{name}-")), key=len, default="")


def own_job(model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, step: StepConstants) -> str:
    """Return the job of the catalogue whose name the model's begins with, if its layout runs on the cluster.

    The GPU has its kernels, then, the nodes hold two model replicas (with one, a job waits for each lost node), and no
    layout that `default_layout` finds trains more. All else is trained as on the published testbed.
    """
    if not (name := job_named(model.name)) or not gpu.kernels:
        return DEFAULT_JOB
    job, half = load_spec(JobSpec, name), msgspec.structs.replace(cluster, num_nodes=cluster.num_nodes // 2)
    if job.parallel is None:
        return name
    if _fault(model, gpu, half, job, step):
        return DEFAULT_JOB

    def samples_per_s(parallel: ParallelSpec) -> float:
        costs = layout_costs(model, gpu, cluster, msgspec.structs.replace(job, parallel=parallel), step)
        used = cluster.num_nodes - cluster.num_nodes % costs.grid.replica_nodes
        return parallel.global_batch / costs.even_step_s(used)

    found = _chosen_layout(model, gpu, cluster, msgspec.json.encode(step, order="sorted"), False, None)
    is_slower = isinstance(found, ParallelSpec) and samples_per_s(found) > samples_per_s(job.parallel)
    return DEFAULT_JOB if is_slower else name


def with_layout(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, job: JobSpec, step: StepConstants, system: System
) -> JobSpec | SpecError:
    """Return a job with the layout that `default_layout` chooses for a system; an error says why it has none.

    What the system pads under even loads counts, and states that it keeps for other nodes. Steps between checkpoints
    are dropped: they were chosen for steps of the job as it was, and a layout's take another time. Of 61 nodes, model
    replicas of 1, 2, 4, 8, 16 or 32 nodes fill 61, 60, 60, 56, 48 or 32: what trains most on any of these is chosen.
    """
    encoded, adding = msgspec.json.encode(step, order="sorted"), None
    if system.padded or type(system).extra_gpu_bytes is not System.extra_gpu_bytes:
        adding = system, msgspec.json.encode(job, order="sorted")
    layout = _chosen_layout(model, gpu, cluster, encoded, system.keeps_whole_states, adding)
    if isinstance(layout, SpecError):
        return layout
    chosen = msgspec.structs.replace(job, parallel=layout, checkpoint_interval_steps={})
    return _fault(model, gpu, cluster, chosen, step) or chosen


def default_layout(
    starts: Sequence[StepInputs], *, keeps_whole_states: bool, needs: Sequence[Needs] = (plain_needs,)
) -> ParallelSpec:
    """Return the fastest layout that fits of those that hold every expert twice, or else of all.

    With one copy of an expert, a job waits for each lost node. Where a system keeps whole optimizer states, layouts in
    which these fit come first, also with one copy; before all, those that fit by the first of `needs`. Each of `starts`
    has some number of nodes; of the layouts found for these, the one counts that trains most. A `SpecError` says that
    none fits.
    """
    given, layers = starts[0].parallel.sharding, Layers()
    shardings = ["none"] * keeps_whole_states + [given]
    for each, sharding, least_copies in itertools.product(needs, shardings, (2, 1)):
        found: list[tuple[float, ParallelSpec]] = []
        errors: list[SpecError] = []
        for start in starts:
            parallel = msgspec.structs.replace(start.parallel, sharding=sharding)
            try:
                best = search_layouts(replace(start, parallel=parallel), 1, least_copies, layers, each).candidates[0]
            except SpecError as error:
                errors.append(error)
                continue
            chosen = msgspec.structs.replace(best.parallel, sharding=given)
            found.append((chosen.global_batch / best.step_s, chosen))
        if found:
            return max(found, key=lambda one: one[0])[1]
    raise errors[0]


@functools.lru_cache(maxsize=256)
def _chosen_layout(
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    step: bytes,
    keeps_whole_states: bool,
    adding: tuple[System, bytes] | None,
) -> ParallelSpec | SpecError:
    """Search once for all runs of a model on a cluster, which takes seconds; an error says why there is no layout.

    `step` is JSON, which can be hashed. A system that adds to what training needs comes with the JSON of the job.
    """
    replicas = (2**power for power in range(cluster.num_nodes.bit_length()))
    sizes = dict.fromkeys(cluster.num_nodes // replica * replica for replica in replicas)
    found = [_start(model, gpu, cluster, step, size) for size in sizes]
    starts = [one for one in found if isinstance(one, StepInputs)]
    faults = [one for one in found if isinstance(one, SpecError)]
    if not starts:
        # Of the last, replicas fill most nodes, so that each GPU holds least.
        return faults[-1]
    needs: list[Needs] = [functools.partial(_plain_needs, cluster.num_nodes)]
    if adding is not None:
        system, job = adding[0], msgspec.json.decode(adding[1], type=JobSpec)
        needs.insert(0, functools.partial(_needs, system, job, cluster.num_nodes))
    try:
        return default_layout(starts, keeps_whole_states=keeps_whole_states, needs=needs)
    except SpecError as error:
        return error


@functools.lru_cache(maxsize=256)
def _start(model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, step: bytes, size: int) -> StepInputs | SpecError:
    """Return where searches on `size` nodes start; an error says that none fits, even where a system adds nothing."""
    constants, used = msgspec.json.decode(step, type=StepConstants), msgspec.structs.replace(cluster, num_nodes=size)
    try:
        start = StepInputs(model, gpu, used, first_layout(used), tables_of(gpu), constants)
        require_layout(start, functools.partial(_plain_needs, cluster.num_nodes))
    except SpecError as error:
        return error
    return start


def _plain_needs(num_nodes: int, inputs: StepInputs) -> tuple[float, float]:
    """Return what training needs; a layout whose model replicas fill more or fewer of `num_nodes` is none."""
    cluster = inputs.cluster
    grid = grid_of(inputs.model, inputs.parallel, cluster.gpus_per_node)
    if num_nodes - num_nodes % grid.replica_nodes != cluster.num_nodes:
        raise SpecError(f"model replicas do not fill {counted(cluster.num_nodes, 'node')} of {num_nodes}")
    return plain_needs(inputs)


def _needs(system: System, job: JobSpec, num_nodes: int, inputs: StepInputs) -> tuple[float, float]:
    """Return the bytes of each GPU that a layout needs under a system with even loads, and the seconds of its masks."""
    plain = _plain_needs(num_nodes, inputs)
    if plain[0] > usable_bytes(inputs):
        # With what the system adds, it fits even less.
        return plain
    model, cluster = inputs.model, inputs.cluster
    job = msgspec.structs.replace(job, parallel=inputs.parallel)
    costs = layout_costs(model, inputs.gpu, cluster, job, inputs.constants, system)
    num_nodes = cluster.num_nodes
    layout = NodeLayout(np.arange(num_nodes), None, system.padded, system.masked_reorder)
    even_LE = np.ones((model.num_moe_layers, model.num_experts), dtype=np.int64)
    needed = costs.memory(num_nodes, layout, even_LE).total + system.extra_gpu_bytes(costs, num_nodes)
    return needed, float(costs.masked_s(num_nodes, padding(even_LE[None]))[0]) if system.masked_reorder else 0.0


def _fault(model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, job: JobSpec, step: StepConstants) -> SpecError | None:
    """Return why a job with a layout cannot run, if so: nodes are too few, or tables lack a kernel of the model."""
    try:
        costs = layout_costs(model, gpu, cluster, job, step)
        needed = costs.grid.replica_nodes
        if needed > cluster.num_nodes:
            return SpecError(f"a model replica takes {needed} of {counted(cluster.num_nodes, 'node')}")
        costs.step_s(needed, np.ones(1))
    except SpecError as error:
        return error
    return None
