"""The ranks of a plan on one device: what each one computes of each layer, measured, against what is predicted.

Axes: L layers, E experts, N nodes, S slots of a node, G ranks (one to a GPU).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from lazsim import __version__
from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.measured import compute_tables
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.profile import find_profile, read_profile
from lazsim.costmodel.step import CostModel, StepCost
from lazsim.costmodel.tables import Table
from lazsim.dispatch import Ints
from lazsim.engine.systems import SYSTEMS, System
from lazsim.errors import SpecError
from lazsim.files import json_bytes
from lazsim.placement.plan import PlacementPlan
from lazsim.profiling.compute import Device
from lazsim.profiling.machine import conditions, measure_peaks, peak_budget_s
from lazsim.profiling.shares import KERNELS, MeasuredShares, check_conditions, measure_shares
from lazsim.pytorch.device import choose_device, choose_dtype
from lazsim.routing import load_routing
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, load_spec, unknown_name


@dataclass(frozen=True)
class RankOptions:
    """What is asked for; see ``lazsim profile ranks --help``."""

    device: str = "auto"
    dtype: str = "auto"
    profile: str | None = None
    model: str = "gpt-l"
    cluster: str = "rtx3090x10"
    job: str = "testbed-a"
    system: str = "lazarus"
    routing: str = "smartmoe-fit"
    step: int = 1000
    layers: int = 2
    tokens: int | None = None
    threads: int | None = None
    budget: float = 600.0
    seed: int = 0


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, forward and backward: its slowest rank, measured and predicted, and its exchanges, which are modelled.

    `error` and `worst_rank_error` are ``predicted / measured - 1``, of the slowest rank and of the rank that is
    furthest off; `spread` is the slowest rank's time over the mean of all.
    """

    layer: int
    measured_s: float
    predicted_s: float
    error: float
    worst_rank_error: float
    measured_rank: int
    predicted_rank: int
    spread: float
    modelled_exchange_s: float


@dataclass(frozen=True)
class RankResult:
    """Rows by layer, and what they were measured with."""

    inputs: dict[str, Any]
    rows: tuple[LayerRow, ...]

    @property
    def error(self) -> float:
        """Predicted over measured time of the slowest ranks of all layers, less 1."""
        return sum(row.predicted_s for row in self.rows) / sum(row.measured_s for row in self.rows) - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"inputs": self.inputs, "error": self.error, "layers": self.rows}

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the numbers by path."""
        return {folder / "ranks.json": json_bytes(self.to_json())}

    def table(self) -> list[str]:
        """Return lines of at most 80 columns."""
        lines = [
            f"{'':>5}{'slowest rank':>32}{'worst':>9}{'which rank':>16}{'over':>7}{'exchange':>11}",
            f"{'layer':>5}{'measured':>12}{'predicted':>11}{'error':>9}{'rank':>9}{'meas.':>9}{'pred.':>7}{'mean':>7}"
            f"{'modelled':>11}",
        ]
        lines += [
            f"{row.layer:>5}{_ms(row.measured_s):>12}{_ms(row.predicted_s):>11}{row.error:>+9.1%}"
            f"{row.worst_rank_error:>+9.1%}{row.measured_rank:>9}{row.predicted_rank:>7}{row.spread:>7.2f}"
            f"{_ms(row.modelled_exchange_s):>11}"
            for row in self.rows
        ]
        return [*lines, f"all layers: predicted {self.error:+.1%} off the measured time of the slowest ranks"]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def rank_shares(plan: PlacementPlan, load_LE: Ints, tokens_of_rank: int, gpus_per_node: int, *, padded: bool) -> Ints:
    """Return the tokens of every slot of every rank, rounded up, shape (L, G, slots of a GPU).

    Parameters
    ----------
    plan
        Who holds what; slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``.
    load_LE
        Tokens routed to each expert; only ratios within a layer count.
    tokens_of_rank
        Token assignments that each rank has before the exchange.
    gpus_per_node
        Ranks of a node.
    padded
        Whether every expert's buffer is as large as the fullest expert's.

    Examples
    --------
    >>> plan = PlacementPlan(np.array([[[0, 1], [1, 1]]]), num_experts=2)
    >>> rank_shares(plan, np.array([[1, 3]]), 40, 1, padded=False).tolist()
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
    shares: Ints = by_gpu.transpose(0, 1, 3, 2).reshape(num_layers, num_ranks, -1)
    return shares


def measure_ranks(options: RankOptions, progress: Callable[[Iterable[str]], Iterable[str]] = iter) -> RankResult:
    """Measure what every rank of a plan computes, one after the other, and compare the slowest with the prediction.

    Raises
    ------
    LazsimError
        When a name is unknown, the model does not fit on the cluster, or the profile is of another model.
    """
    begin_s = time.monotonic()
    if options.system not in SYSTEMS:
        raise SpecError(unknown_name("system", options.system, list(SYSTEMS)))
    system, costs = SYSTEMS[options.system], _costs(options)
    model, gpus = costs.model, costs.cluster.gpus_per_node
    if options.layers > model.num_moe_layers:
        raise SpecError(f"--layers {options.layers}: {model.name} has {model.num_moe_layers} MoE layers")
    num_nodes = system.usable_nodes(costs, costs.cluster.num_nodes)
    if not num_nodes:
        raise SpecError(
            f"{model.name} does not fit on {costs.cluster.name}: choose a larger cluster, or a smaller model"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    routing = load_routing(options.routing, model.num_moe_layers, model.num_experts, options.seed)
    load_LE = routing.loads([options.step])[0]
    plan = system.plan(costs, num_nodes, load_LE)
    tokens_of_rank = (options.tokens or costs.tokens_per_gpu) * model.top_k
    shares = rank_shares(plan, load_LE, tokens_of_rank, gpus, padded=system.padded)[: options.layers]
    name = choose_device(options.device)
    dtype = choose_dtype(options.dtype, name)
    tables = _tables(options.profile, load_spec(ModelSpec, options.model), name, dtype)
    device = Device(name, dtype, *measure_peaks(name, dtype, peak_budget_s(options.budget)))
    all_ranks = shares.reshape(-1, shares.shape[2]).tolist()
    found = measure_shares(model, device, all_ranks, tokens_of_rank, tables, options.budget, begin_s, progress)
    exchange_s = _exchange_s(costs, system, plan, load_LE)
    rows = [_row(layer, ranks, found, exchange_s / model.num_moe_layers) for layer, ranks in enumerate(shares.tolist())]
    inputs = vars(options) | {"device": name, "dtype": dtype, "version": __version__, "conditions": conditions(name)}
    return RankResult(inputs, tuple(rows))


def _costs(options: RankOptions) -> CostModel:
    model, cluster = load_spec(ModelSpec, options.model), load_spec(ClusterSpec, options.cluster)
    job = load_spec(JobSpec, options.job)
    if options.tokens is not None:
        # A step of so many tokens on each GPU, for what is modelled, too.
        model = msgspec.structs.replace(model, sequence_length=options.tokens)
        job = msgspec.structs.replace(job, sequences_per_gpu=1)
    compute = AnalyticCompute(model, load_spec(GpuSpec, cluster.gpu), cluster, job)
    return CostModel(model, cluster, job, compute, AnalyticCommunication(cluster.network))


def _tables(profile: str | None, model: ModelSpec, device: str, dtype: str) -> Mapping[str, Table]:
    if profile is None:
        return {}
    measured = read_profile(find_profile(profile, model.name))
    check_conditions(profile, measured.header, device, dtype)
    return {name: table for name, table in compute_tables(measured, model, 1).items() if name in KERNELS}


def _exchange_s(costs: CostModel, system: System, plan: PlacementPlan, load_LE: Ints) -> float:
    servers = np.arange(plan.num_nodes) // costs.cluster.nodes_per_server
    parts = StepCost(costs, plan, system.layout(costs, servers)).parts_s(load_LE[None])
    return float(parts["all_to_all"][0]) / costs.job.num_micro_batches


def _row(layer: int, ranks: Sequence[Sequence[int]], found: MeasuredShares, exchange_s: float) -> LayerRow:
    measured = np.array([found.measured_s(rank) for rank in ranks])
    predicted = np.array([found.predicted_s(rank) for rank in ranks])
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
