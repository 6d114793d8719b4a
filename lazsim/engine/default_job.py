"""The job of a run that gives none: that of the model, or a usual one with the fastest layout that fits."""

import functools

import msgspec
import numpy as np

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.engine.layout import layout_costs
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
from lazsim.stepmodel.search import default_layout

DEFAULT_JOB = "testbed-a"
"""The job of a model without one of its own."""


def own_job(model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, step: StepConstants) -> str:
    """Return the job of the catalogue whose name the model's begins with, if the GPU has the kernels of its layout.

    All else is trained as on the published testbed.
    """
    named = [name for name in catalog_names("jobs") if model.name == name or model.name.startswith(f"{name}-")]
    if not named or not gpu.kernels:
        return DEFAULT_JOB
    job = load_spec(JobSpec, max(named, key=len))
    return DEFAULT_JOB if _fault(model, gpu, cluster, job, step) else job.name


def with_layout(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, job: JobSpec, step: StepConstants, *, keeps_whole_states: bool
) -> JobSpec | SpecError:
    """Return a job with the layout that `default_layout` chooses; an error says why a GPU with kernels has none."""
    layout = _chosen_layout(model, gpu, cluster, msgspec.json.encode(step, order="sorted"), keeps_whole_states)
    if isinstance(layout, SpecError):
        return layout
    chosen = msgspec.structs.replace(job, parallel=layout)
    return _fault(model, gpu, cluster, chosen, step) or chosen


@functools.lru_cache(maxsize=256)
def _chosen_layout(
    model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, step: bytes, keeps_whole_states: bool
) -> ParallelSpec | SpecError:
    """Search once for all runs of a model on a cluster, which takes seconds; an error says why there is no layout.

    `step` is JSON, which can be hashed.
    """
    constants = msgspec.json.decode(step, type=StepConstants)
    try:
        start = StepInputs(model, gpu, cluster, first_layout(cluster), tables_of(gpu), constants)
        return default_layout(start, keeps_whole_states=keeps_whole_states)
    except SpecError as error:
        return error


def _fault(model: ModelSpec, gpu: GpuSpec, cluster: ClusterSpec, job: JobSpec, step: StepConstants) -> SpecError | None:
    """Return why steps of a job with a layout cannot be predicted, if so; tables may lack a kernel of the model."""
    times = AnalyticCompute(model, gpu, cluster, job), AnalyticCommunication(cluster.network, cluster.host)
    try:
        costs = layout_costs(model, gpu, cluster, job, step, times, keeps_whole_states=False, exchanges_plainly=False)
        costs.step_s(costs.grid.replica_nodes, np.ones(1))
    except SpecError as error:
        return error
    return None
