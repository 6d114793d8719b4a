"""The cost of skewed loads, measured and predicted: a preset of `lazsim.profiling.ranks` with one layer.

Axes: E experts, N virtual ranks.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from lazsim.costmodel.profile import Profile, profile_paths, read_profile, require_header
from lazsim.dispatch import Ints
from lazsim.errors import SpecError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_size, place_ep_on_most
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.profiling.rank_loads import MeasureOptions, RankTimes, measure_ranks_on_device
from lazsim.profiling.results import SkewResult, SkewRow
from lazsim.profiling.scheduler import Progress
from lazsim.specs import ModelSpec, load_spec

LEAST_ADDED = 0.05
"""Share of the even layer's time that skew must add before the share won back is given."""

FAULT_THRESHOLD = 2
"""Least replicas of an expert under allocation: the default of Lazarus (arXiv 2407.04656)."""


@dataclass(frozen=True, kw_only=True)
class SkewOptions(MeasureOptions):
    """Options of the measurement; see ``lazsim profile skew --help``."""

    width: int = 1024
    experts: int = 8
    nodes: int = 10
    slots: int = 6
    tokens: int = 4096
    skews: tuple[float, ...] = ()


def skewed_loads(num_experts: int, skew: float, num_tokens: int) -> Ints:
    """Let the first expert draw `skew` times its even share, and the others the same of the rest; shape (E,).

    Examples
    --------
    >>> skewed_loads(4, 2.0, 120).tolist()
    [60, 20, 20, 20]
    """
    first = min(round(num_tokens * skew / num_experts), num_tokens)
    cuts = np.arange(num_experts) * (num_tokens - first) // (num_experts - 1)
    return np.concatenate([[first], np.diff(cuts)])


def even_loads(load_E: Ints, num_nodes: int, num_slots: int) -> list[list[int]]:
    """Return the tokens of each expert on each rank under expert parallelism; `load_E` is that of one rank."""
    plan = place_ep_on_most(1, len(load_E), num_nodes, num_slots)
    group = ep_size(len(load_E), num_slots)
    return [[int(load_E[expert]) * group for expert in slots if expert >= 0] for slots in plan.slots_LNS[0]]


def allocated_loads(load_E: Ints, num_nodes: int, num_slots: int) -> list[list[int]]:
    """Return the tokens of each replica on each rank under allocation, MRO and flexible dispatch."""
    total_LE = load_E[None] * num_nodes
    replicas_LE = allocate(total_LE, num_nodes * num_slots, FAULT_THRESHOLD)
    plan = place("mro", PlacementRequest(replicas_LE, num_nodes, num_slots, load_LE=total_LE))
    quota_E = total_LE[0] / plan.replicas_LE[0]
    return [[math.ceil(quota_E[expert]) for expert in slots if expert >= 0] for slots in plan.slots_LNS[0]]


def measure_skew(options: SkewOptions, progress: Progress = iter) -> SkewResult:
    """Measure and predict a layer under growing skew."""
    begin_s = time.monotonic()
    skews = options.skews or tuple(2.0**power for power in range(int(math.log2(options.experts)) + 1))
    for skew in skews:
        if skew > options.experts:
            raise SpecError(f"`skew` {skew:g}: {options.experts} experts have an even share of 1/{options.experts}")
    model = msgspec.structs.replace(
        load_spec(ModelSpec, "gpt-s"), name=f"layer of width {options.width}", d_model=options.width,
        d_ff_expert=4 * options.width, num_experts=options.experts,
    )  # fmt: skip
    pairs = [
        [split(load_E, options.nodes, options.slots) for split in (even_loads, allocated_loads)]
        for load_E in (skewed_loads(options.experts, skew, options.tokens) for skew in skews)
    ]
    ranks = [rank for pair in pairs for layer in pair for rank in layer]
    profile = _fitting_profile(options.profile, model) if options.profile is not None else None
    times, conditions = measure_ranks_on_device(
        options, model, ranks, options.tokens * model.top_k, profile, begin_s, progress
    )
    first_s = max(map(times.measured_s, pairs[0][0]))
    rows = [_row(skew, pair, times, first_s) for skew, pair in zip(skews, pairs, strict=True)]
    kept = {name: value for name, value in vars(options).items() if name != "skews"}
    return SkewResult(kept | conditions, tuple(rows))


def _row(skew: float, pair: Sequence[Sequence[Sequence[int]]], times: RankTimes, first_s: float) -> SkewRow:
    """Compare the two layers of a skew; time is won back if skew adds enough to `first_s`, that of the first."""
    even, allocated = ((max(map(times.measured_s, ranks)), max(map(times.predicted_s, ranks))) for ranks in pair)
    added_s = even[0] - first_s
    is_enough = skew > 1 and added_s > LEAST_ADDED * first_s
    return SkewRow(
        skew=skew,
        even_measured_s=even[0],
        even_predicted_s=even[1],
        allocated_measured_s=allocated[0],
        allocated_predicted_s=allocated[1],
        won_back=(even[0] - allocated[0]) / added_s if is_enough else None,
    )


def _fitting_profile(name: str, model: ModelSpec) -> Profile:
    """Return the first profile of a file or device whose experts have the shapes of the model's."""
    profiles = [read_profile(path) for path in profile_paths(name)]
    fitting = [one for one in profiles if _shapes(require_header(one).model) == _shapes(model)]
    if not fitting:
        widths = ", ".join(map(str, sorted({require_header(one).model.d_model for one in profiles})))
        raise SpecError(
            f"`profile` {name}: measured for experts of other shapes, of width {widths}; give one of those as `width`, "
            "or leave the profile out"
        )
    return fitting[0]


def _shapes(model: ModelSpec) -> tuple[int, int, int]:
    return model.d_model, model.d_ff_expert, model.matrices_per_expert
