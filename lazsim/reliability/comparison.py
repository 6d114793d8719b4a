"""Plans with their scores as data, as files, and as maps to draw. Axes: N nodes, S slots of a node, E experts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from lazsim import __version__
from lazsim.errors import SpecError
from lazsim.files import json_bytes
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import policy_input
from lazsim.reliability.node_loss import LossOutcome, lose_nodes, parse_lost
from lazsim.reliability.plans import PlanScore, make_plans, most_endangered, score_plan
from lazsim.reliability.task import PlanningOptions, PlanningTask, build_task
from lazsim.specs import ModelSpec, load_spec, sha256


@dataclass(frozen=True, eq=False)
class LayerMap:
    """One layer of a plan, to be drawn.

    Attributes
    ----------
    policy : str
        Whose plan it is.
    layer : int
        Which layer; -1 where there is but one.
    slots_NS : ndarray of int64, shape (N, S)
        Expert in each slot, -1 where it is empty.
    share_E : ndarray of float64, shape (E,)
        Part of the layer's tokens that each expert gets.
    expert, num_nodes : int
        The layer's most endangered expert, and the nodes that hold it.
    """

    policy: str
    layer: int
    slots_NS: Ints
    share_E: npt.NDArray[np.float64]
    expert: int
    num_nodes: int


@dataclass(frozen=True, eq=False)
class Placed:
    """What policies make of one task.

    Attributes
    ----------
    task : PlanningTask
        What was to be placed.
    plans, scores : mapping
        By policy.
    lost : tuple of int
        Nodes that then fail.
    outcomes : mapping
        What follows from that, by policy.
    state_bytes : int
        Training state of an expert that moves.
    layer : int, optional
        The layer to show; by default the most endangered one of each plan.
    notes : tuple of str
        What the user should know.
    """

    task: PlanningTask
    plans: Mapping[str, PlacementPlan]
    scores: Mapping[str, PlanScore]
    notes: tuple[str, ...]
    lost: tuple[int, ...] = ()
    outcomes: Mapping[str, LossOutcome] | None = None
    model: str = ""
    state_bytes: int = 0
    layer: int | None = None

    def maps(self) -> list[LayerMap]:
        """Return the layer to show of each plan."""
        return [self._map(policy, plan) for policy, plan in self.plans.items()]

    def _map(self, policy: str, plan: PlacementPlan) -> LayerMap:
        load_LE = self.task.load_LE
        layer, expert = most_endangered(plan, load_LE, self.layer)
        shown = layer if plan.num_layers > 1 else -1
        share_E = load_LE[layer] / load_LE[layer].sum()
        return LayerMap(policy, shown, plan.slots_LNS[layer], share_E, expert, int(plan.holds_LEN[layer, expert].sum()))

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim place --json`` prints."""
        has_layers = self.task.has_layers
        value: dict[str, Any] = {
            "replicas": without_layers(self.task.replicas_LE.tolist(), has_layers=has_layers),
            "plans": {name: without_layers(_slots(plan), has_layers=has_layers) for name, plan in self.plans.items()},
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }
        if self.outcomes is not None:
            value["lose"] = {
                "nodes": list(self.lost),
                "model": self.model,
                "state_bytes": self.state_bytes,
                "policies": {
                    name: outcome.to_json(has_layers=has_layers)
                    | {
                        "replicas": without_layers(outcome.plan.replicas_LE.tolist(), has_layers=has_layers),
                        "plan": without_layers(_slots(outcome.plan), has_layers=has_layers),
                    }
                    if outcome.plan is not None
                    else outcome.to_json(has_layers=has_layers)
                    for name, outcome in self.outcomes.items()
                },
            }
        inputs = all_inputs(self.task, list(self.plans), {"lose": list(self.lost), "model": self.model})
        return value | {"inputs": inputs, "notes": list(self.notes)}

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the content of every file of the folder, pictures included."""
        from lazsim.output.plots.placement import placement_figure

        pictures = placement_figure(self.maps())
        contents = {f"placement.{kind}": content for kind, content in pictures.items()}
        contents["place.json"] = json_bytes(self.to_json())
        return {folder / name: content for name, content in contents.items()}


def place_and_score(
    options: PlanningOptions,
    policies: Sequence[str] = (),
    lose: str | None = None,
    model: str = "gpt-s",
    layer: int | None = None,
) -> Placed:
    """Place experts by each policy, score the plans, and let nodes fail where asked for.

    Parameters
    ----------
    options
        What is to be placed where.
    policies
        Names of policies; without any, all that apply.
    lose
        Nodes that then fail, separated by commas.
    model
        Whose experts they are: what moves when nodes fail.
    layer
        The layer to show.

    Raises
    ------
    LazsimError
        In one line that names the option.

    Examples
    --------
    >>> placed = place_and_score(PlanningOptions(nodes=3, slots=2, replicas="1,1,4"), ["spread"])
    >>> placed.to_json()["plans"]
    {'spread': [[0, 2], [1, 2], [2, 2]]}
    """
    task = build_task(options)
    if layer is not None and layer >= len(task.load_LE):
        raise SpecError(f"`layer` {layer}: layers are 0 to {len(task.load_LE) - 1}")
    lost = () if lose is None else parse_lost(lose, task.num_nodes)
    state_bytes = load_spec(ModelSpec, model).expert_state_bytes if lost else 0
    plans, notes = make_plans(task, policies)
    scores = {name: score_plan(plan, task.load_LE) for name, plan in plans.items()}
    outcomes = None
    if lost:
        outcomes = {
            name: lose_nodes(task, name, plan, lost, state_bytes, was_asked=name in policies)
            for name, plan in plans.items()
        }
    return Placed(task, plans, scores, (*task.notes, *notes), lost, outcomes, model if lost else "", state_bytes, layer)


def all_inputs(task: PlanningTask, policies: Sequence[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return every input with a hash of them all: equal inputs, equal result."""
    inputs = {**task.inputs, "policies": [policy_input(name) for name in policies], **more, "version": __version__}
    return {"id": sha256(msgspec.json.encode(inputs, order="deterministic"))[:16], **inputs}


def without_layers(by_layer: list[Any], *, has_layers: bool) -> Any:
    """Drop the axis of layers where loads have none."""
    return by_layer if has_layers else by_layer[0]


def _slots(plan: PlacementPlan) -> list[Any]:
    return [
        [[None if expert < 0 else expert for expert in node] for node in layer] for layer in plan.slots_LNS.tolist()
    ]
