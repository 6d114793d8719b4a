"""Inputs of a step by name: model, cluster, layout."""

import contextlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from lazsim.errors import SpecError, prefix_errors
from lazsim.limits import MAX_NODES
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, ParallelSpec, StepConstants, load_spec
from lazsim.specs.overrides import override
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.search import layouts_tried, usual_batch
from lazsim.stepmodel.tables import KernelTables, load_tables
from lazsim.units import counted

CONSTANTS = "training"

LISTS = [field.name for field in msgspec.structs.fields(ParallelSpec) if field.default == ()]
"""Fields of a layout that hold several words."""


@cache
def load_constants() -> StepConstants:
    """Read the constants of a step from the catalogue."""
    return load_spec(StepConstants, CONSTANTS)


@cache
def tables_of(gpu: GpuSpec) -> KernelTables:
    """Read the kernel tables of a GPU; a `SpecError` says that it has none."""
    if not gpu.kernels:
        raise SpecError(
            f"{gpu.name}: the catalogue has no measured kernels of this GPU, so steps cannot be predicted from parts; "
            "set kernels in its TOML file to those of a similar GPU, or to a file of lazsim profile import"
        )
    return load_tables(gpu.kernels).faster(gpu.kernels_speedup)


def load_inputs(
    model: str, cluster: str, job: str | None = None, layout: Mapping[str, Any] | None = None, gpus: int | None = None,
    searches: bool = False,
) -> StepInputs:  # fmt: skip
    """Resolve the inputs of a step.

    Model, cluster and job are names of the catalogue or paths of TOML files. The fields of the `layout` replace those
    of the job's ``[parallel]``, or of `first_layout`; `gpus` those of the cluster. A `SpecError` says that a name or a
    field is unknown, or that the layout does not fit; where a search chooses it, that none of those tried does.
    """
    spec = load_spec(ModelSpec, model, "model")
    nodes = load_spec(ClusterSpec, cluster, "cluster")
    if gpus is not None:
        nodes = with_gpus(nodes, gpus, "`gpus`")
    gpu = load_spec(GpuSpec, nodes.gpu, "cluster")
    start = load_spec(JobSpec, job, "job").parallel if job else first_layout(nodes)
    if start is None:
        raise SpecError(f"`job` {job}: has no table [parallel]; give a job with a layout, or leave it out")
    tables = tables_of(gpu)
    if searches and (layout or {}).get("schedule") == "dualpipe":
        layout = {"pipeline": 2, **(layout or {})}  # a search chooses the stages, of which DualPipe has two or more
    with prefix_errors("`layout`"):
        chosen = override(start, layout) if layout else start
    given = [f"`job` {job}: parallel"] * (job is not None) + ["`layout`"] * bool(layout)
    with prefix_errors(" with ".join(given)):
        try:
            return StepInputs(chosen.trained(spec), gpu, nodes, chosen, tables, load_constants())
        except SpecError:
            # A small batch may leave too little for data-parallel ranks alone.
            for tried in layouts_tried(chosen, nodes) if searches else ():
                with contextlib.suppress(SpecError):
                    return StepInputs(chosen.trained(spec), gpu, nodes, tried, tables, load_constants())
            raise


def with_gpus(cluster: ClusterSpec, num_gpus: int, field: str) -> ClusterSpec:
    """Return a cluster cut or grown to a number of GPUs, a `field` of errors; part of a node has its part of NICs."""
    per_node = max(1, min(cluster.gpus_per_node, num_gpus))
    if num_gpus % per_node:
        raise SpecError(f"{field} {num_gpus}: give a multiple of the {counted(per_node, 'GPU')} of a node")
    if num_gpus > MAX_NODES * per_node:
        raise SpecError(f"{field} {num_gpus}: give at most {MAX_NODES * per_node:,}, on {MAX_NODES:,} nodes")
    changes = {"num_nodes": num_gpus // per_node, "gpus_per_node": per_node}
    share = f"x{per_node / cluster.gpus_per_node!r}"
    return override(cluster, {**changes, "network.nic_bytes_per_s": share}, cluster.name)


def first_layout(cluster: ClusterSpec) -> ParallelSpec:
    """Return the layout from which a job without one starts: nothing but data parallelism, and a usual batch."""
    layout = ParallelSpec(global_batch=1)
    batch = usual_batch(layout, cluster.num_nodes * cluster.gpus_per_node)
    return msgspec.structs.replace(layout, global_batch=batch)


def parse_layout(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read fields of a layout from ``field=value`` texts; values are TOML, or plain words.

    Examples
    --------
    >>> parse_layout(("tensor=2", "precision=mxfp8", "recomputed=norm,expert_activation", "overlap_expert=true"))
    {'tensor': 2, 'precision': 'mxfp8', 'recomputed': ['norm', 'expert_activation'], 'overlap_expert': True}
    """
    fields: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise SpecError(f"`layout` {text}: give a field and its value, such as tensor=2")
        if name in fields:
            raise SpecError(f"`layout` {text}: {name} is given twice; keep one of them")
        if name in LISTS:
            fields[name] = [part.strip() for part in value.split(",") if part.strip()]
            continue
        try:
            fields[name] = msgspec.toml.decode(f"value = {value}".encode())["value"]
        except (msgspec.DecodeError, ValueError, RecursionError):
            fields[name] = value
    return fields
