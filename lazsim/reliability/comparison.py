"""Make the plans of several policies for one task, and compare them before and after a loss of nodes.

Axes: L layers, E experts, N nodes, V survivors, M failure sets.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lazsim import __version__
from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError, prefix_errors
from lazsim.placement.mapping import lay_on
from lazsim.placement.migration import MigrationReport, migration_report
from lazsim.placement.plan import Ints, PlacementPlan, gpu_slots
from lazsim.placement.policies import DOMAINS, POLICIES, STEADY, find_policy, place, policy_input, policy_names
from lazsim.placement.steady import PlanChange, tell_change
from lazsim.reliability.failure_sets import guaranteed_failures, minimal_failure_sets
from lazsim.reliability.task import PlanningTask
from lazsim.specs import ModelSpec, hash_id, load_spec
from lazsim.units import counted


@dataclass(frozen=True)
class PlanScore:
    """The spread of experts and load in a plan."""

    num_slots: int
    num_slots_used: int
    """Slots of all layers, and those that hold a replica."""
    guaranteed: int
    """The fault threshold that holds: the fewest failures that can lose an expert, which are the distinct nodes of the
    least spread one. Fewer failures are always survived."""
    num_deadly: int
    num_sets: float
    """Sets of `guaranteed` nodes whose failure loses an expert, and all sets of that size: infinite beyond floats."""
    layer: int
    expert: int
    num_as_endangered: int
    """The most endangered expert: on the fewest nodes, and of those the one with most load; and their number."""
    max_mean_load: float
    """Load of the fullest node over the mean of all nodes, in a layer; averaged over layers."""


@dataclass(frozen=True, eq=False)
class NodeLoss:
    """The consequences of a loss of nodes under one policy."""

    lost_experts: tuple[tuple[int, int], ...]
    """Those that no survivor holds: training restarts from a checkpoint."""
    plan: PlacementPlan | None
    """That of the same policy for the survivors."""
    report: MigrationReport | None
    """State that each kind of migration moves, where no expert is lost."""
    refusal: str = ""
    """Why there is no plan."""


@dataclass(frozen=True, eq=False)
class PlanComparison:
    """Plans of several policies for one task, with notes for the user."""

    task: PlanningTask
    plans: Mapping[str, PlacementPlan]
    scores: Mapping[str, PlanScore]
    """By policy, as `plans` and `losses` are; no losses where no node fails."""
    notes: tuple[str, ...]
    lost: tuple[int, ...]
    """Nodes that then fail."""
    losses: Mapping[str, NodeLoss]
    model: str
    state_bytes: int
    """Model whose experts move when nodes fail, or whose memory is shown, and the training state of one of them."""
    layer: int | None
    """The layer to show; by default the most endangered one of each plan."""
    memory: Mapping[str, Any] | None = None
    """Bytes on each GPU by part, and the model and GPU that they are of; see `lazsim.study.memory.with_memory`."""
    changes: Mapping[str, PlanChange] = field(default_factory=dict)
    """Moves and gain from the old plan of the task, by policy."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim place --json`` prints."""
        value: dict[str, Any] = {
            "replicas": self._by_layer(self.task.replicas_LE.tolist()),
            "plans": {name: self._slots(plan) for name, plan in self.plans.items()},
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "memory": self.memory and dict(self.memory),
            "lose": None,
            "old": None,
        }
        if self.lost:
            value["lose"] = {
                "nodes": list(self.lost),
                "model": self.model,
                "state_bytes": self.state_bytes,
                "policies": {name: self._loss_json(loss) for name, loss in self.losses.items()},
            }
        if self.changes:
            value["old"] = {
                "move_cost": self.task.move_cost,
                "model": self.model,
                "state_bytes": self.state_bytes,
                # An infinity, which stands for a lost expert, is written as null.
                "policies": {name: asdict(change) for name, change in self.changes.items()},
            }
        gpu = {"gpu": self.memory["gpu"]} if self.memory and "gpu" in self.memory else {}
        inputs = all_inputs(self.task, list(self.plans), {"lose": list(self.lost), "model": self.model, **gpu})
        return value | {"inputs": inputs, "notes": list(self.notes)}

    def _loss_json(self, loss: NodeLoss) -> dict[str, Any]:
        lost = [list(pair) if self.task.has_layers else pair[1] for pair in loss.lost_experts]
        value: dict[str, Any] = {"lost_experts": lost, "migrations": []}
        if loss.report is not None:
            value["migrations"] = [asdict(row) for row in loss.report.rows]
            value |= {"least_bytes": loss.report.least_bytes, "bound_bytes": loss.report.bound_bytes}
        if loss.refusal:
            value["no_plan"] = loss.refusal
        if loss.plan is not None:
            value |= {"replicas": self._by_layer(loss.plan.replicas_LE.tolist()), "plan": self._slots(loss.plan)}
        return value

    def _slots(self, plan: PlacementPlan) -> Any:
        return self._by_layer(np.where(plan.slots_LNS < 0, None, plan.slots_LNS).tolist())  # type: ignore[call-overload]

    def _by_layer(self, values: list[Any]) -> Any:
        """Drop the axis of layers where loads have none."""
        return values if self.task.has_layers else values[0]


def compare_plans(
    task: PlanningTask,
    policies: Sequence[str] = (),
    lose: Sequence[int] = (),
    model: str = "gpt-s",
    layer: int | None = None,
) -> PlanComparison:
    """Place experts by each policy, score the plans, and let nodes fail.

    Parameters
    ----------
    task
        The experts and nodes.
    policies
        Names of policies; without any, all that apply.
    lose, model, layer
        See `PlanComparison`; the model by name or TOML file.

    Raises
    ------
    LazsimError
        In one line that names the field.

    Examples
    --------
    >>> from lazsim.reliability.task import build_task
    >>> comparison = compare_plans(build_task(nodes=3, slots=2, replicas=[1, 1, 4]), ["spread"])
    >>> comparison.to_json()["plans"]
    {'spread': [[0, 2], [1, 2], [2, 2]]}
    """
    if layer is not None and layer >= len(task.load_LE):
        most = len(task.load_LE) - 1
        known = f"layers are 0 to {most}" if most else "there is one layer, 0; `layers` or a `model` makes more"
        raise SpecError(f"`layer` {layer}: {known}")
    lost = _checked_nodes(lose, task.num_nodes)
    is_moving = bool(lost) or task.old is not None
    state_bytes = load_spec(ModelSpec, model, "model").expert_state_bytes if is_moving else 0
    plans, notes = make_plans(task, policies)
    scores = {name: score_plan(plan, task.load_LE) for name, plan in plans.items()}
    losses = {
        name: lose_nodes(task, name, plan, lost, state_bytes, was_asked=name in policies)
        for name, plan in plans.items() if lost
    }  # fmt: skip
    notes = (*task.notes, *notes, *task.seed_notes(plans))
    changes = {name: change_from_old(task, plan, state_bytes) for name, plan in plans.items() if task.old is not None}
    shown = model if is_moving else ""
    return PlanComparison(task, plans, scores, notes, lost, losses, shown, state_bytes, layer, changes=changes)


def make_plans(task: PlanningTask, policies: Sequence[str]) -> tuple[dict[str, PlacementPlan], tuple[str, ...]]:
    """Ask policies for plans; return these by policy, and notes on the policies that were skipped.

    Without names, or ``path.py:function``, all that apply are asked, and of those of packages all that work. One that
    was asked for raises LazsimError where it is unknown, fails, returns no valid plan or does not apply.
    """
    plans: dict[str, PlacementPlan] = {}
    names, notes = (list(dict.fromkeys(policies)), []) if policies else _all_policies(task)
    for name in names:
        try:
            with prefix_errors("`policy`"):
                plans[name] = place(find_policy(name), task)
        except LazsimError as error:
            # Nobody asked for a package's broken policy; one of lazsim's that breaks is a bug to be seen.
            if policies or (name in POLICIES and not isinstance(error, InfeasiblePlanError)):
                raise
            notes.append(f"left out {name}: {str(error).removeprefix('`policy`: ')}")
    asked = min(task.min_replicas, task.num_nodes, task.num_nodes * task.num_slots // task.replicas_LE.shape[1])
    if thin := [name for name, plan in plans.items() if plan.fewest_nodes < asked]:
        notes.append(f"some expert is on fewer than {asked} nodes under {', '.join(thin)}")
    if split := [name for name, plan in plans.items() if _splits_groups(plan, task.num_groups)]:
        notes.append(f"some group of experts is on several nodes under {', '.join(split)}")
    return plans, tuple(notes)


def _splits_groups(plan: PlacementPlan, num_groups: int) -> bool:
    holds_LUEN = plan.holds_LEN.reshape(plan.num_layers, num_groups, -1, plan.num_nodes)
    return num_groups > 1 and bool((holds_LUEN.any(axis=2).sum(axis=2) > 1).any())


def _all_policies(task: PlanningTask) -> tuple[list[str], list[str]]:
    """Return the names of all policies that differ, and a note where those of packages cannot be told apart."""
    names, notes = list(POLICIES), []
    try:
        names = policy_names()
    except SpecError as error:
        notes = [f"left out policies of installed packages: {error}"]
    needs = {STEADY: task.old, DOMAINS: task.domains}
    return [name for name in names if name not in needs or needs[name] is not None], notes


def score_plan(plan: PlacementPlan, load_LE: Ints) -> PlanScore:
    """Score a plan under the loads that it was made for.

    Examples
    --------
    Each of three experts is on two of three nodes; the loss of two nodes always loses one of them.

    >>> plan = PlacementPlan(np.array([[[0, 1], [1, 2], [2, 0]]]), num_experts=3)
    >>> score = score_plan(plan, np.array([[10, 10, 10]]))
    >>> score.guaranteed, score.num_deadly, score.num_sets, score.max_mean_load
    (2, 3, 3, 1.0)
    """
    sets_MN = minimal_failure_sets(plan.holds_LEN)
    guaranteed = guaranteed_failures(sets_MN)
    num_sets = math.comb(plan.num_nodes, guaranteed)
    layer, expert, num_as_endangered = most_endangered(plan, load_LE)
    return PlanScore(
        num_slots=plan.slots_LNS.size,
        num_slots_used=int((plan.slots_LNS >= 0).sum()),
        guaranteed=guaranteed,
        num_deadly=int((sets_MN.sum(axis=1) == guaranteed).sum()),
        num_sets=num_sets if num_sets <= sys.float_info.max else math.inf,
        layer=layer,
        expert=expert,
        num_as_endangered=num_as_endangered,
        max_mean_load=max_mean_load(plan, load_LE),
    )


def most_endangered(plan: PlacementPlan, load_LE: Ints, layer: int | None = None) -> tuple[int, int, int]:
    """Return layer and expert on the fewest nodes, of several that with the largest share of its layer's load.

    The last number is how many are on as few nodes, this one included.
    """
    share_LE = load_LE / np.maximum(load_LE.sum(axis=1, keepdims=True), 1)
    some = slice(None) if layer is None else slice(layer, layer + 1)
    nodes = plan.nodes_LE[some].ravel()
    found_layer, expert = divmod(int(np.lexsort((-share_LE[some].ravel(), nodes))[0]), plan.num_experts)
    return found_layer + (layer or 0), expert, int((nodes == nodes.min()).sum())


def max_mean_load(plan: PlacementPlan, load_LE: Ints) -> float:
    """Return the fullest node's load over the mean node's, averaged over layers; replicas share a load evenly."""
    share_LE = load_LE / plan.replicas_LE
    load_LN = (share_LE[:, :, None] * plan.replicas_LEN).sum(axis=1)
    return float((load_LN.max(axis=1) / load_LN.mean(axis=1)).mean())


def change_from_old(task: PlanningTask, plan: PlacementPlan, state_bytes: float) -> PlanChange:
    """Tell what a plan moves and gains from the old plan of a task.

    Nodes of the plan, all layers together, become the nodes that hold most of their replicas, and likewise their GPUs.
    """
    assert task.old is not None, "the task has an old plan"
    held_LGK, new_LGK = (gpu_slots(one.with_slots(task.num_slots), task.gpus_per_node) for one in (task.old, plan))
    node_G = np.arange(task.num_nodes).repeat(task.gpus_per_node)
    laid_LGK = lay_on(new_LGK, held_LGK, node_G, together=True)
    return tell_change(held_LGK, laid_LGK, task.load_LE, state_bytes)


def lose_nodes(
    task: PlanningTask,
    policy: str,
    plan: PlacementPlan,
    lost: Sequence[int],
    state_bytes: float,
    *,
    was_asked: bool = True,
) -> NodeLoss:
    """Plan anew on the survivors, by the same policy for the same loads, and compare the ways to get there.

    `state_bytes` is the training state of one expert of one layer. A policy that nobody asked for may fail, which the
    refusal then tells; one that was asked for raises `LazsimError`.
    """
    survivors = np.setdiff1d(np.arange(plan.num_nodes), lost)
    has_LEV = plan.holds_LEN[:, :, survivors]
    lost_experts = tuple((int(layer), int(expert)) for layer, expert in np.argwhere(~has_LEV.any(axis=2)))
    try:
        with prefix_errors("`lose`"):
            request = task.on_survivors(survivors, plan)
            after = place(find_policy(policy), request)
    except LazsimError as error:
        if was_asked and not isinstance(error, InfeasiblePlanError):
            raise
        return NodeLoss(lost_experts, None, None, str(error).removeprefix("`lose`: "))
    # What was spread over domains stays in them.
    domain_V = request.domain_N if policy == DOMAINS else None
    report = None if lost_experts else migration_report(has_LEV, after.holds_LEN, state_bytes, domain_N=domain_V)
    return NodeLoss(lost_experts, after, report)


def all_inputs(task: PlanningTask, policies: Sequence[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return every input with a hash of them all: equal inputs, equal result."""
    inputs = {**task.inputs, "policies": [policy_input(name) for name in policies], **more, "version": __version__}
    return {"id": hash_id(inputs), **inputs}


def _checked_nodes(lose: Sequence[int], num_nodes: int) -> tuple[int, ...]:
    lost, text = sorted(set(lose)), ",".join(map(str, lose))
    if lost and lost[-1] >= num_nodes:
        raise SpecError(f"`lose` {text}: no node {lost[-1]}; nodes are 0 to {num_nodes - 1}")
    if len(lost) == num_nodes:
        raise SpecError(
            f"`lose` {text}: all {counted(num_nodes, 'node')} fail and nothing is left to plan for; leave one"
        )
    return tuple(lost)
