"""The ranks of a plan on one device: the work of each in each layer, measured and predicted.

Axes: L layers, E experts, N nodes, S slots of a node, G ranks (one to a GPU).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.measured import compute_tables
from lazsim.costmodel.profile import find_profile, read_profile
from lazsim.costmodel.step import CostModel, StepCost
from lazsim.dispatch import Ints
from lazsim.engine.systems import System
from lazsim.errors import SpecError
from lazsim.placement.plan import PlacementPlan
from lazsim.profiling.rank_loads import MeasureOptions, RankTimes, measure_ranks_on_device
from lazsim.profiling.results import LayerRow, RankResult
from lazsim.profiling.scheduler import Progress
from lazsim.scenario import resolve


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
    num_ranks = plan.num_nodes * gpus_per_node
    tokens_LE = load_LE * (tokens_of_rank * num_ranks / load_LE.sum(axis=1, keepdims=True))
    if padded:
        tokens_LE = np.broadcast_to(tokens_LE.max(axis=1, keepdims=True), tokens_LE.shape)
    quota_LE = np.ceil(tokens_LE / plan.replicas_LE - 1e-9).astype(np.int64)
    # An empty slot, -1, reads the zero at the end.
    quota_LE = np.pad(quota_LE, ((0, 0), (0, 1)))
    num_layers, num_nodes, num_slots = plan.slots_LNS.shape
    by_slot = np.take_along_axis(quota_LE, plan.slots_LNS.reshape(num_layers, -1), axis=1)
    by_gpu = by_slot.reshape(num_layers, num_nodes, num_slots // gpus_per_node, gpus_per_node)
    loads: Ints = by_gpu.transpose(0, 1, 3, 2).reshape(num_layers, num_ranks, -1)
    return loads


def measure_ranks(options: RankOptions, progress: Progress = iter) -> RankResult:
    """Measure the work of every rank of a plan in turn, and compare the slowest with the prediction."""
    begin_s = time.monotonic()
    settings = {name: getattr(options, name) for name in ("model", "cluster", "job", "system", "routing", "seed")}
    # The profile replaces measurements here, not the modelled times of a step.
    scenario = resolve(settings)
    model, cluster, system = scenario.model, scenario.cluster, scenario.find_system()
    profile = None
    if options.profile is not None:
        profile = read_profile(find_profile(options.profile, model.name))
        compute_tables(profile, model, 1)
    if options.tokens is not None:
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
    times, conditions = measure_ranks_on_device(options, scenario.model, ranks, num_tokens, profile, begin_s, progress)
    exchange_s = _exchange_s(costs, system, plan, load_LE) / model.num_moe_layers
    rows = [_row(layer, ranks, times, exchange_s) for layer, ranks in enumerate(loads.tolist())]
    return RankResult(vars(options) | conditions, tuple(rows))


def _exchange_s(costs: CostModel, system: System, plan: PlacementPlan, load_LE: Ints) -> float:
    servers = np.arange(plan.num_nodes) // costs.cluster.nodes_per_server
    parts = StepCost(costs, plan, system.layout(costs, servers)).parts_s(load_LE[None])
    return float(parts["all_to_all"][0]) / costs.job.num_micro_batches


def _row(layer: int, ranks: Sequence[Sequence[int]], times: RankTimes, exchange_s: float) -> LayerRow:
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
