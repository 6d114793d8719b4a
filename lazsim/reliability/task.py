"""A placement task: loads, replicas and nodes. Axes: L layers, E experts, N nodes."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import SpecError, prefix_errors
from lazsim.loads import FINEST, check_amount, whole_loads
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.plan_files import read_plan
from lazsim.placement.policies import seed_notes
from lazsim.placement.request import PlacementRequest, require_plan_size
from lazsim.reliability.failure_sets import number_domains
from lazsim.routing import RecordedRouting, load_routing, read_routing, top_experts
from lazsim.routing.loading import UNIFORM, is_generator, unknown_loads
from lazsim.specs import ClusterSpec, ModelSpec, load_spec, sha256
from lazsim.units import counted

DEFAULT_MIN_REPLICAS = 2
"""The published default of the fault threshold (Lazarus, arXiv 2407.04656)."""

ZIPF = "zipf"


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
        See `get_loads`; loads are even by default.
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
        for name, value in others.items():
            if value is not None:
                raise SpecError(f"`replicas` and `{name}` exclude each other: replicas are given, or follow from loads")
        _require_divisor(groups, len(replicas))
        return PlanningTask(
            np.array([replicas]), **shape, min_replicas=min(replicas), inputs={"replicas": list(replicas)} | inputs,
            notes=("loads are taken to be in proportion to the replicas given",),
        )  # fmt: skip
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
    # The order of experts is drawn from the second layer on.
    is_drawn = isinstance(loads, str) and (is_generator(loads) or (_is_zipf(loads) and num_layers > 1))
    return PlanningTask(
        replicas_LE, **shape, load_LE=found.load_LE, min_replicas=least,
        has_layers=found.has_layers, is_drawn=is_drawn, inputs=inputs, notes=notes,
    )  # fmt: skip


def expert_source(
    replicas: Sequence[int] | None, experts: int | None, loads: str | Sequence[float] | None, model: str | None
) -> str:
    """Return the parameter of `build_task` that says how many experts there are."""
    if replicas is not None:
        return "replicas"
    if experts is not None:
        return "experts"
    return "model" if model is not None and (loads is None or _is_made(loads)) else "loads"


def with_old_plan(task: PlanningTask, name: str) -> PlanningTask:
    """Return the task on nodes that hold the plan of a file, or raise LazsimError; see `read_plan`."""
    num_layers, num_experts = task.load_LE.shape
    with prefix_errors("`old`"):
        old, content = read_plan(name, (num_layers, task.num_nodes, task.num_slots), num_experts)
    return replace(task, old=old, inputs={**task.inputs, "old": {"name": Path(name).name, "sha256": sha256(content)}})


def _require_divisor(groups: int, num_experts: int) -> None:
    if num_experts % groups:
        raise SpecError(f"`groups` {groups}: groups are equally large; give a divisor of {num_experts} experts")


@dataclass(frozen=True, eq=False)
class Loads:
    """Tokens routed to each expert."""

    load_LE: Ints
    """Only ratios within a layer count."""
    name: str
    sha256: str
    """Where they come from, and its hash."""
    has_layers: bool = False
    """Whether the layers are real ones; otherwise one stands for any."""
    notes: tuple[str, ...] = ()


def get_loads(
    source: str | Sequence[float],
    num_experts: int | None,
    num_layers: int | None,
    step: int | None,
    seed: int,
    lenient: bool = False,
) -> Loads:
    """Get loads by name or path, or from a list.

    Parameters
    ----------
    source
        ``uniform``; ``zipf:S``; the tokens or shares of each expert; a recording; or a generator of loads, by name or
        as a ``.toml`` file.
    num_experts
        Experts of a layer; of a larger recording the fullest are taken. By default all of a recording or list.
    num_layers
        Layers, the first ones of a recording; by default all of it, and 1 of anything else.
    step
        Training step of a recording or generator; by default the first.
    seed
        Seed of every draw.
    lenient
        Repair defects of a recording where possible.

    Raises
    ------
    LazsimError
        When there are no such loads, or they do not fit the number of experts.
    """
    if not isinstance(source, str):
        return _listed(source, num_experts, num_layers, step)
    if not source.strip():
        raise SpecError(f"`loads` {source!r}: names no loads; give uniform, zipf:1.2, tokens by expert, or a file")
    if not _is_made(source):
        return _recorded(source, num_experts, num_layers, step, lenient)
    is_zipf = _is_zipf(source)
    if not (source == UNIFORM or is_zipf or is_generator(source)):
        with prefix_errors("`loads`"):
            raise unknown_loads(source, f"{ZIPF}:S")
    if num_experts is None:
        needed = "give `replicas` 2,2,3,..., `experts` E, the `model` that has them, or a file of loads"
        raise SpecError(f"`loads` {source} are for any number of experts: {needed}")
    if is_zipf or source == UNIFORM:
        _refuse_step(source, step)
    if is_zipf:
        load_LE = _zipf(source, num_experts, num_layers or 1, seed)
        return Loads(load_LE, source, sha256(source.encode()), num_layers is not None)
    with prefix_errors("`loads`"):
        routing = load_routing(source, num_layers or 1, num_experts, seed, lenient)
    return Loads(
        routing.loads([step or 0])[0], Path(routing.name).name, routing.sha256, num_layers is not None, routing.notes
    )


def _is_made(source: str | Sequence[float]) -> bool:
    """Return whether loads are made for a number of experts, and not those of a list or a recording."""
    return isinstance(source, str) and (source.endswith(".toml") or source == UNIFORM or not os.path.exists(source))


def _is_zipf(source: str) -> bool:
    return source.partition(":")[0] == ZIPF


def _refuse_step(source: str, step: int | None) -> None:
    if step is not None:
        raise SpecError(f"`step` {step}: loads {source} are the same at every step; leave it out, or give a recording")


def _recorded(source: str, num_experts: int | None, num_layers: int | None, step: int | None, lenient: bool) -> Loads:
    with prefix_errors("`loads`"):
        recorded = read_routing(source, lenient)
    for option, asked, has in (
        ("`experts`", num_experts, recorded.num_experts),
        ("`layers`", num_layers, recorded.num_layers),
    ):
        if asked is not None and asked > has:
            raise SpecError(f"{option} {asked}: {source} has {has}; give at most {has}")
    with prefix_errors("`loads`"):
        taken = top_experts(recorded, num_layers or recorded.num_layers, num_experts or recorded.num_experts)
    asked_step = int(taken.steps[0]) if step is None else step
    notes = (*taken.notes, *_step_notes(taken, step))
    return Loads(taken.loads([asked_step])[0], Path(source).name, taken.sha256, True, notes)


def _step_notes(recorded: RecordedRouting, step: int | None) -> tuple[str, ...]:
    """Say which of several recorded steps was taken, unless it is the one asked for."""
    if len(recorded.steps) == 1 or step in recorded.steps:
        return ()
    if step is None:
        return (f"loads of step {recorded.steps[0]}, the first of {len(recorded.steps)}; `step` chooses another",)
    row = max(0, int(np.searchsorted(recorded.steps, step, side="right")) - 1)
    return (f"nothing is recorded at step {step}; its loads are those of step {recorded.steps[row]}",)


def _listed(source: Sequence[float], num_experts: int | None, num_layers: int | None, step: int | None) -> Loads:
    text = ",".join(f"{load:.15g}" for load in source)
    _refuse_step(text, step)
    if min(source) < 0:
        raise SpecError(f"`loads` {text}: give tokens from 0 up")
    if not any(source):
        raise SpecError(f"`loads` {text}: no expert has any tokens; give at least one a load, or uniform")
    if num_experts not in (None, len(source)):
        raise SpecError(f"`loads` {text}: {len(source)} loads for `experts` {num_experts}; give one for each")
    with prefix_errors("`loads`"):
        load_LE, _ = whole_loads(np.tile(np.array(source, dtype=np.float64), (num_layers or 1, 1)))
    return Loads(load_LE, "list", sha256(text.encode()), num_layers is not None)


def _zipf(source: str, num_experts: int, num_layers: int, seed: int) -> Ints:
    """Give the expert of rank ``i`` a load of ``i**-S``; layers after the first rank their experts at random."""
    try:
        exponent = float(source.removeprefix(f"{ZIPF}:"))
    except ValueError:
        exponent = math.nan
    if not 0 <= exponent <= 100:
        raise SpecError(f"`loads` {source}: expected zipf:S with an exponent S from 0 to 100, as zipf:1.2")
    share = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    load_LE = np.tile(np.rint(share / share.sum() * FINEST).astype(np.int64), (num_layers, 1))
    load_LE[1:] = np.random.default_rng(seed).permuted(load_LE[1:], axis=1)
    return load_LE
