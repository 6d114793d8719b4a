"""A placement task: loads, replicas and nodes. Axes: L layers, E experts, N nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError, ReliabilityError, SpecError, prefix_errors
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.plan_files import read_plan
from lazsim.placement.request import PlacementRequest, require_plan_size
from lazsim.placement.steady import MOVE_COST, check_move_cost
from lazsim.reliability.loads import get_loads
from lazsim.routing.loading import UNIFORM
from lazsim.specs import ClusterSpec, load_spec, sha256

DEFAULT_MIN_REPLICAS = 2
"""The published default of the fault threshold (Lazarus, arXiv 2407.04656)."""


@dataclass(frozen=True, eq=False)
class PlanningTask:
    """Experts with their loads, and nodes for their replicas.

    Attributes
    ----------
    load_LE, replicas_LE : ndarray of int64, shape (L, E)
        Tokens routed to each expert, and its replicas on all nodes.
    num_nodes, num_slots, gpus_per_node, seed, num_groups, old, move_cost
        See `PlacementRequest`.
    min_replicas
        Fewest replicas of an expert, where nodes are enough.
    domains
        Failure domain of each node, by name; none where nodes fail alone.
    has_layers
        Whether results have an axis of layers.
    inputs
        All that it was made from, with the hashes of files.
    """

    load_LE: Ints
    replicas_LE: Ints
    num_nodes: int
    num_slots: int
    gpus_per_node: int = 1
    min_replicas: int = 1
    seed: int = 0
    has_layers: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_groups: int = 1
    old: PlacementPlan | None = None
    move_cost: float = MOVE_COST
    domains: tuple[str, ...] | None = None

    @property
    def request(self) -> PlacementRequest:
        """The request that policies get."""
        return self._request(self.replicas_LE, np.arange(self.num_nodes), self.old)

    def request_on(self, survivors: Ints, plan: PlacementPlan) -> PlacementRequest:
        """Return the request for the nodes left of a plan, with what they hold: the same loads, allocated anew."""
        replicas_LE = allocate(self.load_LE, len(survivors) * self.num_slots, self.min_replicas)
        return self._request(replicas_LE, survivors, plan.nodes(survivors))

    def domain_N(self, nodes_N: Ints) -> Ints | None:
        """Return the failure domain of each of these nodes, numbered from 0; None where there are none."""
        if self.domains is None:
            return None
        return np.unique(np.array(self.domains)[nodes_N], return_inverse=True)[1]

    def _request(self, replicas_LE: Ints, nodes_N: Ints, old: PlacementPlan | None) -> PlacementRequest:
        return PlacementRequest(
            replicas_LE,
            len(nodes_N),
            self.num_slots,
            self.gpus_per_node,
            self.load_LE,
            self.seed,
            self.num_groups,
            old,
            self.move_cost,
            self.domain_N(nodes_N),
        )


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
        See `lazsim.reliability.loads.get_loads`; loads are even by default.
    min_replicas
        Fewest replicas of an expert; `DEFAULT_MIN_REPLICAS` by default.
    seed
        Seed of every draw.
    groups
        Groups of experts in group-limited routing; a divisor of the experts.
    move_cost
        See `lazsim.placement.steady.keep_steady`; `MOVE_COST` by default.

    Raises
    ------
    LazsimError
        In one line that names the field.

    Examples
    --------
    >>> build_task(nodes=2, slots=3, loads=[60, 30, 10], min_replicas=1).replicas_LE.tolist()
    [[4, 1, 1]]
    """
    if cluster is not None:
        with prefix_errors("`cluster`"):
            spec = load_spec(ClusterSpec, cluster)
        nodes, slots = nodes or spec.num_nodes, slots or spec.slots_per_node
        gpus_per_node = gpus_per_node or spec.gpus_per_node
        if domains is None and spec.nodes_per_domain:
            domains = [str(node // spec.nodes_per_domain) for node in range(nodes)]
    if nodes is None or slots is None:
        raise SpecError("give `nodes` and `slots`, or the `cluster` that has them")
    gpus_per_node = gpus_per_node or 1
    require_domains(domains, nodes)
    if slots % gpus_per_node:
        text = f"{gpus_per_node} GPUs of a node share them evenly; give a multiple of {gpus_per_node}"
        raise SpecError(f"`slots` {slots}: {text}")
    require_plan_size(layers or 1, experts or 1, nodes, slots)
    shape = {"num_nodes": nodes, "num_slots": slots, "gpus_per_node": gpus_per_node, "seed": seed}
    shape |= {"num_groups": groups} if groups > 1 else {}
    domain_names = None if domains is None else tuple(domains)
    cost = MOVE_COST if move_cost is None else check_move_cost("`move_cost`", move_cost)
    inputs: dict[str, Any] = shape | ({} if move_cost is None else {"move_cost": cost})
    if domains is not None:
        inputs["domains"] = list(domains)
    if replicas is not None:
        others = {"experts": experts, "loads": loads, "min_replicas": min_replicas, "layers": layers, "step": step}
        for name, value in others.items():
            if value is not None:
                raise SpecError(f"`replicas` and `{name}` exclude each other: replicas are given, or follow from loads")
        replicas_LE = _checked_replicas(replicas, nodes, slots)
        _require_divisor(groups, len(replicas))
        return PlanningTask(
            replicas_LE, replicas_LE, nodes, slots, gpus_per_node, int(replicas_LE.min()), seed,
            inputs={"replicas": list(replicas)} | inputs,
            notes=("loads are taken to be in proportion to the replicas given",), num_groups=groups, move_cost=cost,
            domains=domain_names,
        )  # fmt: skip
    if experts is None and loads is None:
        raise SpecError(
            "nothing to place: give `replicas` 2,2,3,... or `experts` E with `loads` uniform, zipf:1.2 or a file"
        )
    if experts is not None:
        _require_room("`experts`", experts, nodes, slots)
    found = get_loads(UNIFORM if loads is None else loads, experts, layers, step, seed, lenient)
    num_layers, num_experts = found.load_LE.shape
    _require_room("`loads`", num_experts, nodes, slots)
    _require_divisor(groups, num_experts)
    require_plan_size(num_layers, num_experts, nodes, slots)
    least = DEFAULT_MIN_REPLICAS if min_replicas is None else min_replicas
    room, notes = nodes * slots, found.notes
    if least * num_experts > room:
        note = f"{least} replicas of each of {num_experts} experts do not fit into {room} slots; at least "
        notes += (f"{note}{room // num_experts} of each are placed",)
    inputs = {
        "loads": {"name": found.name, "sha256": found.sha256},
        "num_experts": num_experts,
        "num_layers": num_layers,
        "step": step,
        "min_replicas": least,
    } | inputs
    replicas_LE = allocate(found.load_LE, room, least)
    return PlanningTask(
        found.load_LE, replicas_LE, nodes, slots, gpus_per_node, least, seed, found.has_layers, inputs, notes,
        num_groups=groups, move_cost=cost, domains=domain_names,
    )  # fmt: skip


def require_domains(domains: Sequence[str] | None, num_nodes: int) -> None:
    """Raise ReliabilityError unless each node has a failure domain, or none has."""
    if domains is not None and len(domains) != num_nodes:
        text = ",".join(domains)[:40]
        raise ReliabilityError(f"`domains` {text}: {len(domains)} domains for {num_nodes} nodes; name one for each")


def with_old_plan(task: PlanningTask, name: str) -> PlanningTask:
    """Return the task on nodes that hold a plan.

    Parameters
    ----------
    task
        The task without it.
    name
        File of the plan, see `lazsim.placement.plan_files.read_plan`.

    Raises
    ------
    LazsimError
        In one line that names the field.
    """
    num_layers, num_experts = task.load_LE.shape
    with prefix_errors("`old`"):
        old, content = read_plan(name, (num_layers, task.num_nodes, task.num_slots), num_experts)
    return replace(task, old=old, inputs={**task.inputs, "old": {"name": Path(name).name, "sha256": sha256(content)}})


def _checked_replicas(replicas: Sequence[int], nodes: int, slots: int) -> Ints:
    text = ",".join(map(str, replicas))
    text = text if len(text) <= 40 else f"{text[:40]}..."
    if 0 in replicas:
        raise SpecError(f"`replicas` {text}: expert {list(replicas).index(0)} has none; give each at least 1")
    _require_room("`replicas`", len(replicas), nodes, slots)
    room = nodes * slots
    if sum(replicas) != room:
        raise SpecError(
            f"`replicas` {text}: {sum(replicas)} replicas for {room} slots ({nodes} nodes of {slots}); "
            f"make them add up to {room}"
        )
    return np.array([replicas], dtype=np.int64)


def _require_divisor(groups: int, num_experts: int) -> None:
    if num_experts % groups:
        raise SpecError(f"`groups` {groups}: groups are equally large; give a divisor of {num_experts} experts")


def _require_room(field_name: str, num_experts: int, nodes: int, slots: int) -> None:
    if num_experts > nodes * slots:
        raise InfeasiblePlanError(
            f"{field_name}: {num_experts} experts need as many slots, and {nodes} nodes of {slots} have "
            f"{nodes * slots}; give more `nodes` or `slots`"
        )
