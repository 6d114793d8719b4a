"""The fastest layout that fits into memory."""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from lazsim.errors import SpecError
from lazsim.specs import ClusterSpec, ParallelSpec
from lazsim.specs.effects import refused_settings
from lazsim.specs.parallel import Recompute, Recomputed
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.predict import Layers, StepModel, StepTime
from lazsim.units import counted

USABLE_SHARE = 0.92
"""Share of the memory that a layout may take: 3 % and more is lost to fragmentation, and predictions err."""

ROUNDING = 1e-6
"""Share by which rounding may put a bound above what it bounds, and far more."""

SEARCHED = ("tensor", "pipeline", "virtual_stages", "expert", "micro_batch", "recompute", "recomputed", "stages")
"""Fields that a search chooses."""

SIZES = (1, 2, 4, 8, 16, 32, 64)
MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL_STAGES = (1, 2, 4, 8)
RECOMPUTES: tuple[tuple[Recompute, tuple[Recomputed, ...]], ...] = (
    ("none", ()),
    ("selective", ("norm", "expert_activation")),
    ("full", ()),
)

TRIED = (
    f"tried powers of two: tensor, pipeline and expert up to {SIZES[-1]}, parts of a stage up to {VIRTUAL_STAGES[-1]}, "
    f"sequences of a micro-batch up to {MICRO_BATCHES[-1]}; tensor inside a node; no recomputation, that of norms and "
    "expert activations, or full; no stages or recomputation that NVIDIA/Megatron-LM refuses; all else as given, and a "
    "usual batch if none is"
)
"""What a search tries, as people are told."""

DEFAULT_SEQUENCES_PER_GPU = 16
"""Sequences of a step for each GPU where no batch is given: a batch of 4,096 on 256 GPUs, as published runs have."""

MOST_DEFAULT_SEQUENCES = 16_384
"""Sequences of such a step above which each GPU has fewer: DeepSeek-V3 took 15,360 of 4,096 tokens (arXiv 2412.19437,
4.2). A larger batch would hide the bubble of a pipeline in a way that nobody trains."""


@dataclass(frozen=True)
class Candidate:
    """A layout, its predicted step, and the seconds of this with what is done beside."""

    parallel: ParallelSpec
    time: StepTime
    step_s: float


@dataclass(frozen=True)
class LayoutSearch:
    """Layouts by their step time, and how many were looked at."""

    candidates: list[Candidate]
    """Layouts that fit, the fastest first."""
    num_valid: int
    num_fitting: int
    """Layouts that divide model, batch and GPUs, and those of them that fit into memory."""


def search_layouts(inputs: StepInputs, most: int = 10, chooses_batch: bool = False) -> LayoutSearch:
    """Predict the layouts of the usual sizes that may be the fastest, and keep those of them that fit.

    Tensor parallelism stays inside a node, expert parallelism goes over any ranks of a stage; recomputation is none,
    that of norms and expert activations, or full. Layers are divided evenly. The batch is as given, or the
    `usual_batch`; precision, dispatcher and all else are as given. Layouts that NVIDIA/Megatron-LM refuses are left
    out. Where no layout fits, a `SpecError` names what the one that needs least would take.
    """
    fitting: list[StepModel] = []
    all_bytes: list[float] = []
    layers = Layers()
    for parallel in layouts_tried(inputs.parallel, inputs.cluster):
        if refused_settings(parallel, inputs.model, are_avoidable=True):
            continue
        if chooses_batch:
            parallel = msgspec.structs.replace(parallel, global_batch=usual_batch(parallel, inputs.num_gpus))
        try:
            changed = replace(inputs, parallel=parallel)
        except SpecError:
            continue
        all_bytes.append(needed_bytes(changed))
        if all_bytes[-1] <= usable_bytes(inputs):
            fitting.append(StepModel(changed, layers))
    if not fitting:
        raise none_fits(inputs, all_bytes)
    return LayoutSearch(fastest(fitting, most), len(all_bytes), len(fitting))


def fastest(
    models: Sequence[StepModel],
    most: int,
    is_valid: Callable[[StepModel], bool] = lambda _: True,
    beside_s: Callable[[StepModel], float] = lambda _: 0.0,
) -> list[Candidate]:
    """Return the layouts that are valid and train most samples a second, with the seconds of what is beside a step.

    Notes
    -----
    Layouts are predicted in the order of a bound that the time of a sample cannot go below (`StepModel.least_s`), until
    the bound exceeds those of the `most` best: branch and bound, which finds what predicting all of them would.
    """
    # Of equal times, the first stands first, in whatever order they were predicted.
    best: list[tuple[float, int, Candidate]] = []
    sizes = [model.inputs.parallel.global_batch for model in models]
    bounds = (((model.least_s + beside_s(model)) / sizes[order], order) for order, model in enumerate(models))
    for least_s, order in sorted(bounds):
        if len(best) == most and (1 - ROUNDING) * least_s > best[-1][0]:
            break
        model = models[order]
        if is_valid(model):
            time = model.predict()
            found = Candidate(model.inputs.parallel, time, time.step_s + beside_s(model))
            bisect.insort(best, (found.step_s / sizes[order], order, found), key=lambda one: one[:2])
            del best[most:]
    return [found for _, _, found in best]


def needed_bytes(inputs: StepInputs) -> float:
    """Return the bytes of a GPU that a layout takes."""
    return math.fsum(memory_bytes(inputs).values())


def usable_bytes(inputs: StepInputs) -> float:
    """Return the bytes of a GPU that a layout may take."""
    return USABLE_SHARE * inputs.gpu.memory_bytes


def fits(inputs: StepInputs) -> bool:
    """Tell whether a layout fits into what it may take of the memory."""
    return needed_bytes(inputs) <= usable_bytes(inputs)


def none_fits(inputs: StepInputs, all_bytes: Sequence[float]) -> SpecError:
    """Return the error that says what the layout that needs least would take."""
    reason = f"none divides model, batch and GPUs ({TRIED})"
    if all_bytes:
        reason = f"the least of {len(all_bytes):,} takes {min(all_bytes) / 2**30:.0f} GiB"
    return SpecError(
        f"no layout of {inputs.model.name} fits on {counted(inputs.num_gpus, 'GPU')} of "
        f"{inputs.gpu.memory_bytes / 2**30:.0f} GiB, {USABLE_SHARE:.0%} of it for use: {reason}; give more GPUs, or a "
        "number that larger powers of two divide"
    )


def usual_batch(parallel: ParallelSpec, num_gpus: int) -> int:
    """Return the sequences of a step where no batch is given: those of the most micro-batches that a layout can run.

    0 where a micro-batch alone is more.
    """
    num_ranks = max(1, num_gpus // parallel.gpus_per_replica)
    most = min(DEFAULT_SEQUENCES_PER_GPU * parallel.gpus_per_replica, MOST_DEFAULT_SEQUENCES // num_ranks)
    numbers = range(max(1, most) // parallel.micro_batch, 0, -1)
    return num_ranks * parallel.micro_batch * next((n for n in numbers if parallel.whole_rounds(n) == n), 0)


def layouts_tried(given: ParallelSpec, cluster: ClusterSpec) -> Iterator[ParallelSpec]:
    """Yield the layouts of a search, whether they divide a job or not; all else is as `given`."""
    for tensor, pipeline, virtual, expert, micro_batch, (recompute, modules) in itertools.product(
        SIZES, SIZES, VIRTUAL_STAGES, SIZES, MICRO_BATCHES, RECOMPUTES
    ):
        if tensor > cluster.gpus_per_node:
            continue
        stops_early = given.recompute_stops_early and recompute == "full"
        values = (tensor, pipeline, virtual, expert, micro_batch, recompute, modules, "")
        chosen: dict[str, object] = dict(zip(SEARCHED, values, strict=True))
        try:
            yield msgspec.structs.replace(given, recompute_stops_early=stops_early, **chosen)
        except ValueError:
            continue  # stages that the schedule does not run, or parts of stages where there are none
