"""A placement task: loads, replicas and nodes. Axes: L layers, E experts, N nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import SpecError, prefix_errors
from lazsim.loads import check_amount
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.plan_files import read_plan
from lazsim.placement.policies import seed_notes
from lazsim.placement.request import PlacementRequest, require_plan_size
from lazsim.reliability.failure_sets import number_domains
from lazsim.routing.loading import UNIFORM
from lazsim.routing.one_step import get_loads, is_made
from lazsim.specs import ClusterSpec, ModelSpec, load_spec, sha256
from lazsim.units import counted

DEFAULT_MIN_REPLICAS = 2
"""The published default of the fault threshold (Lazarus, arXiv 2407.04656)."""


@dataclass(frozen=True, eq=False)
class PlanningTask(PlacementRequest):
    """A request for a plan, and what it was made from."""

    min_replicas: int = 1
    """Fewest replicas of an expert, where nodes are enough."""
    domains: tuple[str, ...] | None = None
    """Failure domain of each node, by name; none where nodes fail alone."""
    has_layers: bool = False
    """Whether results have an axis of layers."""
    is_drawn: bool = False
    """Whether loads are drawn."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """All that it was made from, with the hashes of files."""
    notes: tuple[str, ...] = ()

    def seed_notes(self, policies: Iterable[str], *, is_drawn: bool = False) -> tuple[str, ...]:
        """Say that the seed changes nothing, unless loads, policies or what else there is are drawn."""
        return seed_notes(self.seed, policies, is_drawn=is_drawn or self.is_drawn)

    def on_survivors(self, survivors: Ints, plan: PlacementPlan) -> PlacementRequest:
        """Return the request for the nodes left of a plan, with what they hold: the same loads, allocated anew."""
        replicas_LE = allocate(self.load_LE, len(survivors) * self.num_slots, self.min_replicas)
        domains = self.domains and tuple(self.domains[node] for node in survivors)
        return replace(
            self, replicas_LE=replicas_LE, num_nodes=len(survivors), old=plan.nodes(survivors), domains=domains,
            domain_N=None if domains is None else number_domains(domains),
        )  # fmt: skip


def build_task(
    nodes: int | None = None,
    slots: int | None = None,
    *,
    gpus_per_node: int | None = None,
    cluster: str | None = None,
    domains: Sequence[str] | None = None,
    replicas: Sequence[int] | None = None,
    experts: int | None = None,
    loads: str | Sequence[float] | None = None,
    min_replicas: int | None = None,
    layers: int | None = None,
    step: int | None = None,
    lenient: bool = False,
    seed: int = 0,
    groups: int = 1,
    move_cost: float | None = None,
    model: str | None = None,
) -> PlanningTask:
    """Make a task, and refuse one that contradicts itself or does not fit.

    Parameters
    ----------
    nodes, slots, gpus_per_node
        Nodes, replica slots of a node in one layer, and its GPUs; those of the cluster, or 1 GPU, by default.
    cluster
        A cluster, by name or TOML file.
    domains
        Failure domain of each node, by name; those of the cluster by default.
    replicas
        Replicas of each expert, which fill all slots; in place of `experts` and `loads`.
    experts, loads, layers, step, lenient
        See `lazsim.routing.one_step.get_loads`; loads are even by default.
    min_replicas
        Fewest replicas of an expert; `DEFAULT_MIN_REPLICAS` by default.
    seed
        Seed of every draw.
    groups
        Groups of experts in group-limited routing; a divisor of the experts.
    move_cost
        See `lazsim.placement.steady.keep_steady`; `MOVE_COST` by default.
    model
        A model, by name or file, whose experts and MoE layers are taken where nothing else says how many experts.

    Examples
    --------
    >>> build_task(nodes=2, slots=3, loads=[60, 30, 10], min_replicas=1).replicas_LE.tolist()
    [[4, 1, 1]]
    """
    if cluster is not None:
        spec = load_spec(ClusterSpec, cluster, "cluster")
        nodes, slots = nodes or spec.num_nodes, slots or spec.slots_per_node
        gpus_per_node = gpus_per_node or spec.gpus_per_node
        if domains is None and spec.nodes_per_domain:
            domains = [str(node // spec.nodes_per_domain) for node in range(nodes)]
    if nodes is None or slots is None:
        raise SpecError("give `nodes` and `slots`, or the `cluster` that has them")
    gpus_per_node = gpus_per_node or 1
    if slots % gpus_per_node:
        text = f"{counted(gpus_per_node, 'GPU')} of a node share them evenly; give a multiple of {gpus_per_node}"
        raise SpecError(f"`slots` {slots}: {text}")
    require_plan_size(layers or 1, experts or 1, nodes, slots)
    shape: dict[str, Any] = {"num_nodes": nodes, "num_slots": slots, "gpus_per_node": gpus_per_node, "seed": seed}
    shape |= {"num_groups": groups} if groups > 1 else {}
    shape |= {} if move_cost is None else {"move_cost": check_amount("move_cost", move_cost)}
    inputs = shape | ({} if domains is None else {"domains": list(domains)})
    if domains is not None:
        shape |= {"domains": tuple(domains), "domain_N": number_domains(domains)}
    if replicas is not None:
        others = {"experts": experts, "loads": loads, "min_replicas": min_replicas, "layers": layers, "step": step}
        return _task_of_replicas(replicas, others, shape, inputs, groups)
    origin = expert_source(replicas, experts, loads, model)
    if origin == "model":
        of_model = load_spec(ModelSpec, str(model), "model")
        experts, layers = of_model.num_experts, layers or of_model.num_moe_layers
    found = get_loads(UNIFORM if loads is None else loads, experts, layers, step, seed, lenient)
    num_layers, num_experts = found.load_LE.shape
    _require_divisor(groups, num_experts)
    require_plan_size(num_layers, num_experts, nodes, slots)
    least = DEFAULT_MIN_REPLICAS if min_replicas is None else min_replicas
    room, notes = nodes * slots, found.notes
    if least * num_experts > room:
        note = f"{counted(least, 'replica')} of each of {num_experts} experts do not fit into {room} slots; at least "
        notes += (f"{note}{room // num_experts} of each are placed",)
    inputs = {
        "loads": {"name": found.name, "sha256": found.sha256},
        "num_experts": num_experts,
        "num_layers": num_layers,
        "step": step,
        "min_replicas": least,
    } | inputs
    with prefix_errors(f"`{origin}`"):
        replicas_LE = allocate(found.load_LE, room, least)
    return PlanningTask(
        replicas_LE, **shape, load_LE=found.load_LE, min_replicas=least,
        has_layers=found.has_layers, is_drawn=found.is_drawn, inputs=inputs, notes=notes,
    )  # fmt: skip


def _task_of_replicas(
    replicas: Sequence[int], others: Mapping[str, Any], shape: dict[str, Any], inputs: dict[str, Any], groups: int
) -> PlanningTask:
    """Return the task of replicas that are given; `others` are what they would follow from, and are refused."""
    for name, value in others.items():
        if value is not None:
            raise SpecError(f"`replicas` and `{name}` exclude each other: replicas are given, or follow from loads")
    _require_divisor(groups, len(replicas))
    return PlanningTask(
        np.array([replicas]), **shape, min_replicas=min(replicas), inputs={"replicas": list(replicas)} | inputs,
        notes=("loads are taken to be in proportion to the replicas given",),
    )  # fmt: skip


def expert_source(
    replicas: Sequence[int] | None, experts: int | None, loads: str | Sequence[float] | None, model: str | None
) -> str:
    """Return the parameter of `build_task` that says how many experts there are."""
    if replicas is not None:
        return "replicas"
    if experts is not None:
        return "experts"
    return "model" if model is not None and (loads is None or is_made(loads)) else "loads"


def with_old_plan(task: PlanningTask, name: str) -> PlanningTask:
    """Return the task on nodes that hold the plan of a file, or raise LazsimError; see `read_plan`."""
    num_layers, num_experts = task.load_LE.shape
    with prefix_errors("`old`"):
        old, content = read_plan(name, (num_layers, task.num_nodes, task.num_slots), num_experts)
    return replace(task, old=old, inputs={**task.inputs, "old": {"name": Path(name).name, "sha256": sha256(content)}})


def _require_divisor(groups: int, num_experts: int) -> None:
    if num_experts % groups:
        raise SpecError(f"`groups` {groups}: groups are equally large; give a divisor of {num_experts} experts")
