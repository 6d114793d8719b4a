"""Fields without effect: the one table from which changes of them are refused, and values in files are told.

A field that the kind of a job leaves without effect is refused where it is changed. One that other values leave so is
told, since a sweep may vary both.
"""

from collections.abc import Callable, Iterable, Mapping

from lazsim.errors import SpecError
from lazsim.grouping import grouped
from lazsim.specs.hardware import GpuSpec
from lazsim.specs.job import JobSpec
from lazsim.specs.model import ModelSpec
from lazsim.specs.overrides import field_at
from lazsim.specs.parallel import ParallelSpec
from lazsim.specs.record import given_fields
from lazsim.specs.step import StepConstants

HOST_LAUNCHES = ("host_launch_s", "host_launch_clock_hz", "host_wait_s")
"""Constants of a step that a job without a layout has, too."""

SCAN = "scan_peak_share"

_TIMES_OF_PLAIN_JOBS = ("job.activation_passes", "job.logit_passes", "job.expert_kernels")
_OF_PLAIN_JOBS = ("job.sequences_per_gpu", "job.num_micro_batches", *_TIMES_OF_PLAIN_JOBS, "cluster.slots_per_gpu")
_ANALYTIC_LINKS = (
    "all_to_all_efficiency", "all_reduce_efficiency", "local_all_reduce_bytes_per_s", "local_all_reduce_latency_s",
)  # fmt: skip
_OF_LAYOUTS = (
    *(f"step.{name}" for name in StepConstants.__struct_fields__ if name not in ("name", SCAN, *HOST_LAUNCHES)),
    *(f"gpu.{name}" for name in ("kernels_speedup", "peak_fp8_flop_per_s", "peak_fp4_flop_per_s")),
    *(f"cluster.{name}" for name in ("gpus_per_domain", "network.nodes_per_pod", "network.spine_share")),
)
_OF_STEP_ALONE = ("step.assumed", "step.measured_over_predicted", "gpu.peak_fp8_flop_per_s")
_OF_LOADS = ("job.parallel.routing", "step.learned_imbalance")
_OF_UNKNOWN_TIMES = (
    *_OF_LAYOUTS, *_TIMES_OF_PLAIN_JOBS, "job.reorder_kernels", "cluster.network", "cluster.nodes_per_server",
    "cluster.host.clock_hz", "cluster.host.launches_per_clock", "cluster.host.serialise_bytes_per_s",
    *(f"step.{name}" for name in (SCAN, *HOST_LAUNCHES)),
    *(f"gpu.{name}" for name in GpuSpec.__struct_fields__ if name not in ("name", "memory_bytes", "kernels", "source")),
)  # fmt: skip

_SEPARATE = "on a job whose expert_kernels are separate"

BESIDE: Mapping[str, tuple[Callable[[ParallelSpec], bool], str]] = {
    "context_exchange": (lambda one: one.context == 1, "context is 1"),
    "overlap_tensor": (lambda one: one.tensor == 1, "tensor is 1"),
    "overlap_expert": (
        lambda one: one.expert * one.expert_tensor == 1 or one.schedule == "dualpipe",
        "no GPUs share experts, or dualpipe overlaps their exchanges by itself",
    ),
    **dict.fromkeys(("overlap_parameters", "data_replicate"), (lambda one: one.sharding == "none", "sharding is none")),
    "reshard_after_forward": (lambda one: not one.gathers_each_time, "it takes sharding full, and no stages"),
    "moment_bytes": (lambda one: one.state_bytes == 2, "state_bytes is 2"),
    "dispatch_precision": (lambda one: one.expert * one.expert_tensor == 1, "no GPUs share experts"),
    "exchange_multiprocessors": (
        lambda one: (
            one.expert * one.expert_tensor == 1
            or (one.dispatcher != "deepep" and (one.dispatcher, one.overlap_expert) != ("hybridep", True))
        ),
        "it takes GPUs that share experts, and deepep, or hybridep with overlap_expert",
    ),
    "eight_bit_parameters": (lambda one: one.precision in ("bf16", "nvfp4"), "it takes matmuls of 8 bits"),
    "graph_attention": (lambda one: one.graphs != "partial", "graphs are not partial"),
}
"""When a field of a layout has no effect beside the others, and how people are told."""


OF_MODULES: Mapping[str, Callable[[ModelSpec], bool]] = {
    "latent_up": lambda one: one.attention is None or one.attention.kind != "latent",
    "dense_block": lambda one: not one.num_dense_layers,
}
"""When a model lacks a module of `recomputed`."""


IN_MODEL: Mapping[str, tuple[Callable[[ModelSpec], bool], str]] = {
    "attention_params": (lambda one: one.attention is not None, "beside attention"),
    "attention_score_dim": (lambda one: one.attention is not None, "beside attention"),
    "num_groups_per_token": (lambda one: one.num_expert_groups == 1, "num_expert_groups is 1"),
    **dict.fromkeys(
        ("attention.window", "attention.chunked"),
        (lambda one: one.attention is None or not one.attention.num_window_layers, "num_window_layers is 0"),
    ),
}
"""The same for a field of a model."""


REFUSED: Mapping[str, tuple[Callable[[ParallelSpec, ModelSpec], bool], bool]] = {
    "overlap_expert with stages of one part each (virtual_stages 1)": (
        lambda one, _: one.overlaps_exchanges and one.pipeline > 1 and one.virtual_stages == 1, True),
    "overlap_expert with recompute 'full'": (
        lambda one, _: one.overlaps_exchanges and one.recompute == "full", True),
    "overlap_expert of layers for further tokens without stages": (
        lambda one, model: one.overlaps_exchanges and one.pipeline == 1 and model.num_mtp_layers > 0, True),
    "overlap_expert without expert parallelism (expert 1)": (
        lambda one, _: one.overlaps_exchanges and one.expert == 1, True),
    "dispatchers 'deepep' and 'hybridep' without expert parallelism (expert and expert_tensor 1)": (
        lambda one, _: one.dispatcher in ("deepep", "hybridep") and one.expert * one.expert_tensor == 1, True),
    "graphs 'partial' with recompute 'full'": (
        lambda one, _: one.graphs == "partial" and one.recompute == "full", True),
    "overlap_expert of more than one layer for further tokens": (
        lambda one, model: one.overlaps_exchanges and model.num_mtp_layers > 1, False),
    "overlap_expert with dispatcher 'all_gather'": (
        lambda one, _: one.overlaps_exchanges and one.dispatcher == "all_gather", False),
}  # fmt: skip
"""Settings that NVIDIA/Megatron-LM 0.16.1 refuses together (``TransformerConfig.__post_init__``, and
``MoEFlexTokenDispatcher``), as people are told, and whether a choice of sizes avoids them, as a search does.

It also refuses `overlap_expert` with graphs of a whole iteration, which published runs of later versions have. DualPipe
is another trainer's.
"""


def without_effect(job: JobSpec, model: ModelSpec) -> dict[str, str]:
    """Return what the kind of a job, or of its model, leaves without effect: dotted paths, each with the reason.

    Examples
    --------
    >>> from lazsim.specs import load_spec
    >>> model = load_spec(ModelSpec, "gpt-s")
    >>> without_effect(JobSpec(parallel=ParallelSpec(global_batch=64)), model)["job.num_micro_batches"]
    'on a job with a layout'
    """
    parallel = job.parallel
    found: dict[str, str] = {}
    if parallel is not None and parallel.sequence_length:
        found["model.sequence_length"] = "beside that of job.parallel"
    if model.state_space is None:
        found[f"step.{SCAN}"] = f"on {model.name}, which has no state-space layers"
    if job.times is not None:
        return found | dict.fromkeys(_OF_UNKNOWN_TIMES, "on a job with known times")
    if parallel is None:
        found |= dict.fromkeys(_OF_LAYOUTS, "on a job without a layout")
        return found | ({"gpu.fused_experts": _SEPARATE} if job.expert_kernels == "separate" else {})
    links = [f"cluster.network.{name}" for name in _ANALYTIC_LINKS]
    found |= dict.fromkeys([*_OF_PLAIN_JOBS, *links, "gpu.fused_experts"], "on a job with a layout")
    found |= dict.fromkeys(_OF_STEP_ALONE, "on a run, only on `lazsim step`")
    return found | dict.fromkeys(_OF_LOADS, "on a run, whose loads are those of `routing`")


def why_without_effect(path: str, idle: Mapping[str, str]) -> str:
    """Return why a field at a dotted path, or the part that it belongs to, has no effect; empty where it has one."""
    parts = path.split(".")
    return next((idle[name] for end in range(len(parts)) if (name := ".".join(parts[: end + 1])) in idle), "")


def refuse_without_effect(paths: Iterable[str], idle: Mapping[str, str], where: str = "") -> None:
    """Raise a `SpecError` that begins with `where` at the first field that is changed to no effect."""
    for path in paths:
        if why := why_without_effect(path, idle):
            raise SpecError(f"{where}{path} has no effect {why}: leave it out")


def refused_settings(parallel: ParallelSpec, model: ModelSpec, *, are_avoidable: bool = False) -> list[str]:
    """Name the settings of a layout that NVIDIA/Megatron-LM refuses together, or those that other sizes avoid."""
    rules = REFUSED.items() if parallel.schedule == "1f1b" else ()
    return [name for name, (holds, by_size) in rules if (by_size or not are_avoidable) and holds(parallel, model)]


def layout_remarks(parallel: ParallelSpec, model: ModelSpec) -> list[str]:
    """Tell of fields with other values than their defaults that have no effect beside others, of refusals and drops."""
    given, capacity = given_fields(parallel), parallel.capacity_factor
    told = [f"{name} ({why})" for name, (is_idle, why) in BESIDE.items() if name in given and is_idle(parallel)]
    lacking = [one for one in parallel.recomputed if one in OF_MODULES and OF_MODULES[one](model)]
    told += [f"recomputed {one} ({model.name} has none)" for one in lacking]
    drops = f"capacity_factor {capacity:g} drops {1 - capacity:.0%} or more of what experts would compute: "
    refused = refused_settings(parallel, model)
    return [
        *[f"of no effect in this layout: {', '.join(told)}"] * bool(told),
        *[f"NVIDIA/Megatron-LM 0.16 refuses {one}; the step is that of a trainer that runs it" for one in refused],
        *[f"{drops}tokens and samples count all the same, MFU what is computed"] * (0 < capacity < 1),
    ]


def model_remarks(model: ModelSpec) -> list[str]:
    """Tell of fields of a model with other values than their defaults that have no effect beside the others."""
    given = given_fields(model)
    idle = {path: why for path, (is_idle, why) in IN_MODEL.items() if is_idle(model)}
    found = [f"{path} ({why})" for path, why in idle.items() if field_at(given, path) is not None]
    return [f"of no effect in {model.name}: {', '.join(found)}"] if found else []


def cluster_remarks(job: JobSpec, model: ModelSpec, step: StepConstants) -> list[str]:
    """Name the fields of a user's cluster that a run does not use, and the constants that it uses instead."""
    idle = [path for path in without_effect(job, model) if path.startswith("cluster.network.")]
    if job.parallel is None or not idle:
        return []
    shares = [f"step.{name} ({getattr(step, name):g})" for name in ("all_to_all_nic_share", "gather_nic_share")]
    return [f"of no effect on a job with a layout: {', '.join(idle)}; of nic_bytes_per_s it takes {', '.join(shares)}"]


def job_remarks(job: JobSpec, model: ModelSpec) -> list[str]:
    """Tell of fields of a job with other values than their defaults that have no effect on a run."""
    given, idle = {"job": given_fields(job)}, without_effect(job, model)
    found = grouped((why, path) for path, why in idle.items() if field_at(given, path) is not None)
    remarks = [f"of no effect {why}: {', '.join(paths)}" for why, paths in found.items()]
    return remarks + ([] if job.parallel is None else layout_remarks(job.parallel, model))
