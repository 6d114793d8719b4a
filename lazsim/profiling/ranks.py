"""Layers on one device, the work of each rank in turn, measured and predicted: those of a plan, or under growing skew.

Axes: L layers, E experts, N nodes, S slots of a node, G ranks (one to a GPU).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from lazsim.costmodel.measured import compute_tables
from lazsim.costmodel.profile import Profile, find_profile, profile_paths, read_profile, require_header
from lazsim.costmodel.step import KernelCosts, StepCost, assigned_tokens, slots_by_gpu
from lazsim.engine.systems import System
from lazsim.errors import SpecError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import place_ep_on_most
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.profiling.rank_loads import MeasureOptions, RankTimes, measure_ranks_on_device
from lazsim.profiling.results import LayerRow, RankResult, SkewResult, SkewRow
from lazsim.profiling.scheduler import ProgressBar
from lazsim.scenario import resolve
from lazsim.specs import ModelSpec, load_spec

LEAST_ADDED = 0.05
"""Share of the even layer's time that skew must add before the share won back is given."""

FAULT_THRESHOLD = 2
"""Least replicas of an expert under allocation: the default of Lazarus (arXiv 2407.04656)."""


@dataclass(frozen=True, kw_only=True)
class RankOptions(MeasureOptions):
    """Options of the measurement; see ``lazsim profile ranks --help``."""

    model: str = "gpt-l"
    cluster: str = "rtx3090x10"
    job: str = "testbed-a"
    system: str = "lazarus"
    routing: str = "smartmoe-fit"
    step: int = 1000
    layers: int = 2
    tokens: int | None = None


def plan_loads(plan: PlacementPlan, load_LE: Ints, tokens_of_rank: int, gpus_per_node: int, *, padded: bool) -> Ints:
    """Return the tokens of every slot of every rank, rounded up, shape (L, G, slots of a GPU).

    Slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``. Of `load_LE` only ratios within a layer count; each
    rank has `tokens_of_rank` assignments before the exchange. If `padded`, every expert's buffer is as large as the
    fullest expert's.

    Examples
    --------
    >>> plan = PlacementPlan(np.array([[[0, 1], [1, 1]]]), num_experts=2)
    >>> plan_loads(plan, np.array([[1, 3]]), 40, 1, padded=False).tolist()
    [[[20, 20], [20, 20]]]
    """
    num_assignments = tokens_of_rank * plan.num_nodes * gpus_per_node
    tokens_LE = assigned_tokens(load_LE[None], num_assignments, padded=padded)[0]
    quota_LE = np.ceil(tokens_LE / plan.replicas_LE - 1e-9).astype(np.int64)
    by_slot = np.pad(quota_LE, ((0, 0), (0, 1))).ravel().take(slots_by_gpu(plan, gpus_per_node))
    loads: Ints = by_slot.transpose(1, 2, 0)
    return loads


def measure_ranks(options: RankOptions, progress: ProgressBar) -> RankResult:
    """Measure the work of every rank of a plan in turn, and compare the slowest with the prediction."""
    settings = {name: getattr(options, name) for name in ("model", "cluster", "job", "system", "routing", "seed")}
    # The profile replaces measurements here, not the modelled times of a step.
    scenario = resolve(settings)
    model, cluster, system = scenario.model, scenario.cluster, scenario.find_system()
    profile = None
    if options.profile is not None:
        profile = read_profile(find_profile(options.profile, model.name))
        compute_tables(profile, model, 1)
    if options.tokens is not None:
        if scenario.job.parallel is not None:
            raise SpecError(f"`tokens` {options.tokens}: {scenario.job.name} has a layout with its own; leave it out")
        # The modelled step has that many tokens on each GPU, too.
        scenario = resolve(settings | {"model.sequence_length": options.tokens, "job.sequences_per_gpu": 1})
    if options.layers > model.num_moe_layers:
        raise SpecError(f"`layers` {options.layers}: {model.name} has {model.num_moe_layers} MoE layers")
    costs = scenario.costs()
    num_nodes = system.usable_nodes(costs, cluster.num_nodes)
    if not num_nodes:
        raise SpecError(f"{model.name} does not fit on {cluster.name}: choose a larger cluster, or a smaller model")
    load_LE = scenario.load_routing().loads([options.step])[0]
    plan = system.plan(costs, num_nodes, load_LE)
    num_tokens = costs.tokens_per_gpu * model.top_k
    loads = plan_loads(plan, load_LE, num_tokens, cluster.gpus_per_node, padded=system.padded)[: options.layers]
    ranks = loads.reshape(-1, loads.shape[2]).tolist()
    times, conditions = measure_ranks_on_device(options, scenario.model, ranks, num_tokens, profile, progress)
    # A layout has other exchanges, and none for a plan alone.
    of_kernels = costs if isinstance(costs, KernelCosts) else scenario.analytic_costs()
    exchange_s = _exchange_s(of_kernels, system, plan, load_LE) / model.num_moe_layers
    rows = [_layer_row(layer, ranks, times, exchange_s) for layer, ranks in enumerate(loads.tolist())]
    return RankResult(vars(options) | conditions, tuple(rows))


def _exchange_s(costs: KernelCosts, system: System, plan: PlacementPlan, load_LE: Ints) -> float:
    servers = np.arange(plan.num_nodes) // costs.cluster.nodes_per_server
    parts = StepCost(costs, plan, system.dispatch(costs, servers)).parts_s(load_LE[None])
    return float(parts["all_to_all"][0]) / costs.job.num_micro_batches


def _layer_row(layer: int, ranks: Sequence[Sequence[int]], times: RankTimes, exchange_s: float) -> LayerRow:
    measured = np.array([times.measured_s(rank) for rank in ranks])
    predicted = np.array([times.predicted_s(rank) for rank in ranks])
    errors = predicted / measured - 1
    return LayerRow(
        layer=layer,
        measured_s=float(measured.max()),
        predicted_s=float(predicted.max()),
        error=float(predicted.max() / measured.max() - 1),
        worst_rank_error=float(errors[np.abs(errors).argmax()]),
        measured_rank=int(measured.argmax()),
        predicted_rank=int(predicted.argmax()),
        spread=float(measured.max() / measured.mean()),
        modelled_exchange_s=exchange_s,
    )


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


def loads_under_skew(load_E: Ints, num_nodes: int, num_slots: int) -> list[list[list[int]]]:
    """Return the tokens of each slot of each rank: under expert parallelism, and under allocation and MRO."""
    total_LE = load_E[None] * num_nodes
    groups = place_ep_on_most(1, len(load_E), num_nodes, num_slots)
    replicas_LE = allocate(total_LE, num_nodes * num_slots, FAULT_THRESHOLD)
    plans = (
        # Without the nodes that whole groups leave idle.
        groups.nodes(np.flatnonzero(groups.num_held_N)),
        place("mro", PlacementRequest(replicas_LE, num_nodes, num_slots, load_LE=total_LE)),
    )
    return [plan_loads(plan, total_LE, int(load_E.sum()), 1, padded=False)[0].tolist() for plan in plans]


def measure_skew(options: SkewOptions, progress: ProgressBar) -> SkewResult:
    """Measure and predict a layer under growing skew."""
    skews = options.skews or tuple(2.0**power for power in range(int(math.log2(options.experts)) + 1))
    for skew in skews:
        if skew > options.experts:
            raise SpecError(f"`skew` {skew:g}: {options.experts} experts have an even share of 1/{options.experts}")
    model = msgspec.structs.replace(
        load_spec(ModelSpec, "gpt-s"), name=f"layer of width {options.width}", d_model=options.width,
        d_ff_expert=4 * options.width, num_experts=options.experts,
    )  # fmt: skip
    pairs = [
        loads_under_skew(load_E, options.nodes, options.slots)
        for load_E in (skewed_loads(options.experts, skew, options.tokens) for skew in (1.0, *skews))
    ]
    ranks = [rank for pair in pairs for layer in pair for rank in layer]
    profile = _fitting_profile(options.profile, model) if options.profile is not None else None
    times, conditions = measure_ranks_on_device(options, model, ranks, options.tokens * model.top_k, profile, progress)
    unskewed_s = max(map(times.measured_s, pairs[0][0]))
    rows = [_skew_row(skew, pair, times, unskewed_s) for skew, pair in zip(skews, pairs[1:], strict=True)]
    kept = {name: value for name, value in vars(options).items() if name != "skews"}
    return SkewResult(kept | conditions, tuple(rows))


def _skew_row(skew: float, pair: Sequence[Sequence[Sequence[int]]], times: RankTimes, unskewed_s: float) -> SkewRow:
    """Compare the two layers of a skew; time is won back if skew adds enough to that without it, `unskewed_s`."""
    even, allocated = ((max(map(times.measured_s, ranks)), max(map(times.predicted_s, ranks))) for ranks in pair)
    added_s = even[0] - unskewed_s
    is_enough = skew > 1 and added_s > LEAST_ADDED * unskewed_s
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
