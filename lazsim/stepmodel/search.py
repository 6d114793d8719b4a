"""The fastest layout that fits into memory."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from lazsim.errors import SpecError
from lazsim.specs import ParallelSpec
from lazsim.specs.parallel import Recompute, Recomputed
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.predict import StepTime, predict_step
from lazsim.units import counted

MEMORY_SHARE = 0.92
"""Share of the memory that a layout may take: 3 % and more is lost to fragmentation, and predictions err."""

SIZES = (1, 2, 4, 8, 16, 32, 64)
MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL_STAGES = (1, 2, 4, 8)
RECOMPUTES: tuple[tuple[Recompute, tuple[Recomputed, ...]], ...] = (
    ("none", ()),
    ("selective", ("norm", "expert_activation")),
    ("full", ()),
)


@dataclass(frozen=True)
class Candidate:
    """A layout, and its predicted step."""

    parallel: ParallelSpec
    time: StepTime


@dataclass(frozen=True)
class Search:
    """Layouts by their step time, and how many were looked at."""

    candidates: list[Candidate]
    """Layouts that fit, the fastest first."""
    num_valid: int
    num_fitting: int
    """Layouts that divide model, batch and GPUs, and those of them that fit into memory."""


def search_layouts(inputs: StepInputs, most: int = 10) -> Search:
    """Predict all layouts of the usual sizes and keep the fastest that fit.

    Tensor parallelism stays inside a node, expert parallelism goes over any ranks of a stage; recomputation is none,
    that of norms and expert activations, or full. Layers are divided evenly. Batch, precision, dispatcher and all else
    are as given.

    Raises
    ------
    SpecError
        When no layout fits; the message names what the one that needs least would take.
    """
    valid = 0
    found: list[Candidate] = []
    least = float("inf")
    limit = MEMORY_SHARE * inputs.gpu.memory_bytes
    for parallel in _layouts(inputs):
        try:
            changed = replace(inputs, parallel=parallel)
        except SpecError:
            continue
        valid += 1
        needed = sum(memory_bytes(changed).values())
        least = min(least, needed)
        if needed <= limit:
            found.append(Candidate(parallel, predict_step(changed)))
    if not found:
        reason = (
            f"the least of {valid} takes {least / 2**30:.0f} GiB" if valid else "none divides model, batch and GPUs"
        )
        raise SpecError(
            f"no layout of {inputs.model.name} fits on {counted(inputs.num_gpus, 'GPU')} of "
            f"{inputs.gpu.memory_bytes / 2**30:.0f} GiB, {MEMORY_SHARE:.0%} of it for use: {reason}; give more GPUs"
        )
    found.sort(key=lambda candidate: candidate.time.step_s)
    return Search(found[:most], valid, len(found))


def default_layout(inputs: StepInputs) -> ParallelSpec:
    """Return the first layout that fits, without the prediction of a step.

    Experts are spread over as many GPUs as fast links join. Then recomputation is tried as `search_layouts` does, none
    first; then tensor parallelism, none first; then stages, the fewest first; one sequence is a micro-batch. Two or
    more replicas with whole optimizer states, as recovery from other nodes takes, are tried before those of the layout.

    Raises
    ------
    SpecError
        When no layout fits.
    """
    limit = MEMORY_SHARE * inputs.gpu.memory_bytes
    joined = min(inputs.domain, inputs.num_gpus, inputs.model.num_experts)
    experts = [size for size in SIZES if size <= joined and inputs.model.num_experts % size == 0]
    for sharding, (recompute, modules), tensor, pipeline in itertools.product(
        dict.fromkeys(("none", inputs.parallel.sharding)), RECOMPUTES, SIZES, SIZES
    ):
        if tensor > inputs.cluster.gpus_per_node:
            continue
        parallel = msgspec.structs.replace(
            inputs.parallel, tensor=tensor, pipeline=pipeline, expert=max(experts), sharding=sharding,
            recompute=recompute, recomputed=modules,
        )  # fmt: skip
        try:
            tried = replace(inputs, parallel=parallel)
            needed = sum(memory_bytes(tried).values())
        except SpecError:
            continue
        if needed <= limit and (sharding != "none" or tried.expert_copies > 1):
            return msgspec.structs.replace(parallel, sharding=inputs.parallel.sharding)
    raise SpecError(f"no layout of {inputs.model.name} fits on {counted(inputs.num_gpus, 'GPU')}")


def _layouts(inputs: StepInputs) -> Iterator[ParallelSpec]:
    for tensor, pipeline, virtual, expert, micro_batch, (recompute, modules) in itertools.product(
        SIZES, SIZES, VIRTUAL_STAGES, SIZES, MICRO_BATCHES, RECOMPUTES
    ):
        if tensor > inputs.cluster.gpus_per_node or (virtual > 1 and pipeline == 1):
            continue
        stops_early = inputs.parallel.recompute_stops_early and recompute == "full"
        try:
            yield msgspec.structs.replace(
                inputs.parallel, tensor=tensor, pipeline=pipeline, virtual_stages=virtual, expert=expert, stages="",
                micro_batch=micro_batch, recompute=recompute, recomputed=modules, recompute_stops_early=stops_early,
            )  # fmt: skip
        except ValueError:
            continue  # stages that the schedule does not run
