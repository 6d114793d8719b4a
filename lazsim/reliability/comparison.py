"""Compare the plans of several policies for one task, before and after a loss of nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from lazsim import __version__
from lazsim.errors import SpecError
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import policy_input
from lazsim.reliability.node_loss import NodeLoss, lose_nodes
from lazsim.reliability.plans import PlanScore, make_plans, score_plan
from lazsim.reliability.task import PlanningTask
from lazsim.specs import ModelSpec, load_spec, sha256


@dataclass(frozen=True, eq=False)
class PlanComparison:
    """Plans of several policies for one task.

    Attributes
    ----------
    task : PlanningTask
        The experts and nodes.
    plans, scores : mapping
        By policy.
    notes : tuple of str
        Notes for the user.
    lost : tuple of int
        Nodes that then fail.
    losses : mapping
        Consequences by policy; None where no node fails.
    model : str
        Model whose experts move when nodes fail.
    state_bytes : int
        Training state of an expert that moves.
    layer : int, optional
        The layer to show; by default the most endangered one of each plan.
    """

    task: PlanningTask
    plans: Mapping[str, PlacementPlan]
    scores: Mapping[str, PlanScore]
    notes: tuple[str, ...]
    lost: tuple[int, ...] = ()
    losses: Mapping[str, NodeLoss] | None = None
    model: str = ""
    state_bytes: int = 0
    layer: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim place --json`` prints."""
        value: dict[str, Any] = {
            "replicas": self._by_layer(self.task.replicas_LE.tolist()),
            "plans": {name: self._slots(plan) for name, plan in self.plans.items()},
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }
        if self.losses is not None:
            value["lose"] = {
                "nodes": list(self.lost),
                "model": self.model,
                "state_bytes": self.state_bytes,
                "policies": {name: self._loss_json(loss) for name, loss in self.losses.items()},
            }
        inputs = all_inputs(self.task, list(self.plans), {"lose": list(self.lost), "model": self.model})
        return value | {"inputs": inputs, "notes": list(self.notes)}

    def _loss_json(self, loss: NodeLoss) -> dict[str, Any]:
        value = loss.to_json(has_layers=self.task.has_layers)
        if loss.plan is not None:
            value |= {"replicas": self._by_layer(loss.plan.replicas_LE.tolist()), "plan": self._slots(loss.plan)}
        return value

    def _slots(self, plan: PlacementPlan) -> Any:
        return self._by_layer(
            [
                [[None if expert < 0 else expert for expert in node] for node in layer]
                for layer in plan.slots_LNS.tolist()
            ]
        )

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
    lose
        Nodes that then fail.
    model
        Name or TOML file of the model whose experts move when nodes fail.
    layer
        The layer to show.

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
        raise SpecError(f"`layer` {layer}: layers are 0 to {len(task.load_LE) - 1}")
    lost = _checked_nodes(lose, task.num_nodes)
    state_bytes = load_spec(ModelSpec, model).expert_state_bytes if lost else 0
    plans, notes = make_plans(task, policies)
    scores = {name: score_plan(plan, task.load_LE) for name, plan in plans.items()}
    losses = None
    if lost:
        losses = {
            name: lose_nodes(task, name, plan, lost, state_bytes, was_asked=name in policies)
            for name, plan in plans.items()
        }
    return PlanComparison(
        task, plans, scores, (*task.notes, *notes), lost, losses, model if lost else "", state_bytes, layer
    )


def all_inputs(task: PlanningTask, policies: Sequence[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return every input with a hash of them all: equal inputs, equal result."""
    inputs = {**task.inputs, "policies": [policy_input(name) for name in policies], **more, "version": __version__}
    return {"id": sha256(msgspec.json.encode(inputs, order="deterministic"))[:16], **inputs}


def _checked_nodes(lose: Sequence[int], num_nodes: int) -> tuple[int, ...]:
    lost, text = sorted(set(lose)), ",".join(map(str, lose))
    if lost and lost[-1] >= num_nodes:
        raise SpecError(f"`lose` {text}: no node {lost[-1]}; nodes are 0 to {num_nodes - 1}")
    if len(lost) == num_nodes:
        raise SpecError(f"`lose` {text}: all {num_nodes} nodes fail and nothing is left to plan for; leave one")
    return tuple(lost)
