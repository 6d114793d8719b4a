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
    "expert activations, or full; no stages or recomputation that NVIDIA/Megatron-LM refuses; all else as given"
)
"""What a search tries, as people are told."""

Needs = Callable[[StepInputs], tuple[float, float]]
"""From a layout to the bytes that a GPU needs, and to the seconds of a step beyond those predicted."""


def plain_needs(inputs: StepInputs) -> tuple[float, float]:
    """Return what training needs where a system adds nothing."""
    return math.fsum(memory_bytes(inputs).values()), 0.0


@dataclass(frozen=True)
class Candidate:
    """A layout, its predicted step, and the seconds of this with what `needs` adds."""

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


def search_layouts(
    inputs: StepInputs,
    most: int = 10,
    least_copies: int = 1,
    layers: Layers | None = None,
    needs: Needs = plain_needs,
) -> LayoutSearch:
    """Predict the layouts of the usual sizes that may be the fastest, and keep those of them that fit.

    Tensor parallelism stays inside a node, expert parallelism goes over any ranks of a stage; recomputation is none,
    that of norms and expert activations, or full. Layers are divided evenly. Batch, precision, dispatcher and all else
    are as given. Layouts that hold experts in fewer than `least_copies` places are left out, those that
    NVIDIA/Megatron-LM refuses, and those that `needs` refuses by a `SpecError`; `layers` may be shared by searches.
    Where no layout fits, a `SpecError` names what the one that needs least would take.

    Notes
    -----
    Layouts are predicted in the order of a bound that their step cannot go below (`StepModel.least_s`), until the bound
    exceeds the steps of the `most` best: branch and bound, which finds what predicting all of them would.
    """
    fitting: list[tuple[StepModel, float]] = []
    all_bytes: list[float] = []
    layers = layers or Layers()
    for changed, needed, further_s in _valid_layouts(inputs, least_copies, needs):
        all_bytes.append(needed)
        if needed <= usable_bytes(inputs):
            fitting.append((StepModel(changed, layers), further_s))
    if not fitting:
        raise _none_fits(inputs, all_bytes)
    # Of equal steps, the first stands first, in whatever order they were predicted.
    best: list[tuple[float, int, Candidate]] = []
    bounds = ((model.least_s() + further_s, order) for order, (model, further_s) in enumerate(fitting))
    for least_s, order in sorted(bounds):
        if len(best) == most and (1 - ROUNDING) * least_s > best[-1][0]:
            break
        model, further_s = fitting[order]
        time = model.predict()
        found = Candidate(model.inputs.parallel, time, time.step_s + further_s)
        bisect.insort(best, (found.step_s, order, found), key=lambda one: one[:2])
        del best[most:]
    return LayoutSearch([found for _, _, found in best], len(all_bytes), len(fitting))


def require_layout(inputs: StepInputs, needs: Needs) -> None:
    """Raise the `SpecError` of `search_layouts` unless some layout fits; the first that does ends the search."""
    all_bytes: list[float] = []
    for _, needed, _ in _valid_layouts(inputs, 1, needs):
        if needed <= usable_bytes(inputs):
            return
        all_bytes.append(needed)
    raise _none_fits(inputs, all_bytes)


def usable_bytes(inputs: StepInputs) -> float:
    """Return the bytes of a GPU that a layout may take."""
    return USABLE_SHARE * inputs.gpu.memory_bytes


def fits(inputs: StepInputs) -> bool:
    """Tell whether a layout fits into what it may take of the memory."""
    return plain_needs(inputs)[0] <= usable_bytes(inputs)


def _none_fits(inputs: StepInputs, all_bytes: Sequence[float]) -> SpecError:
    reason = f"none divides model, batch and GPUs ({TRIED})"
    if all_bytes:
        reason = f"the least of {len(all_bytes)} takes {min(all_bytes) / 2**30:.0f} GiB"
    return SpecError(
        f"no layout of {inputs.model.name} fits on {counted(inputs.num_gpus, 'GPU')} of "
        f"{inputs.gpu.memory_bytes / 2**30:.0f} GiB, {USABLE_SHARE:.0%} of it for use: {reason}; give more GPUs, or a "
        "number that larger powers of two divide"
    )


def _valid_layouts(inputs: StepInputs, least_copies: int, needs: Needs) -> Iterator[tuple[StepInputs, float, float]]:
    """Yield layouts that neither a trainer nor `needs` refuses, with what that says of them."""
    for parallel in layouts_tried(inputs.parallel, inputs.cluster):
        if refused_settings(parallel, inputs.model, are_avoidable=True):
            continue
        try:
            changed = replace(inputs, parallel=parallel)
            if changed.expert_copies < least_copies:
                continue
            needed, further_s = needs(changed)
        except SpecError:
            continue
        yield changed, needed, further_s


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
