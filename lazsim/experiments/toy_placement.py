"""Placements small enough to check by eye."""

from __future__ import annotations

import numpy as np

from lazsim.experiments.bench import Bench
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import recovery_curve
from lazsim.specs import Spec


class Toy(Spec, frozen=True, kw_only=True):
    """One example: replicas of each expert for nodes of so many slots."""

    title: str
    num_nodes: int
    num_slots: int
    replicas: tuple[int, ...]

    def __post_init__(self) -> None:
        if sum(self.replicas) != self.num_nodes * self.num_slots:
            raise ValueError(f"{self.title}: replicas must add up to the slots, {self.num_nodes * self.num_slots}")


class ToyPlacement(Experiment, frozen=True, kw_only=True, tag="toy-placement"):
    """Examples, and the policies that place each."""

    policies: tuple[str, ...]
    example: tuple[Toy, ...]


def run_toy_placement(spec: ToyPlacement, _bench: Bench) -> Outcome:
    """Place each example by each policy, with the exact probability that every expert survives."""
    import pandas as pd

    from lazsim.output.plots.experiments_placement import toy_figure

    plans = {(toy.title, policy): _plan(toy, policy) for toy in spec.example for policy in spec.policies}
    rows = [
        {"example": title, "policy": policy, "failures": count, "recovery_prob": prob}
        for (title, policy), plan in plans.items()
        for count, prob in _survival(plan)
    ]
    slots = [
        {"example": title, "policy": policy, "node": node, "experts": " ".join(map(str, sorted(experts)))}
        for (title, policy), plan in plans.items()
        for node, experts in enumerate(plan.slots_LNS[0].tolist())
    ]
    frame = pd.DataFrame(rows)
    figures = {"placements": toy_figure({key: plan.slots_LNS[0] for key, plan in plans.items()}, frame)}
    return Outcome({"recovery": frame, "placements": pd.DataFrame(slots)}, figures)


def _plan(toy: Toy, policy: str) -> PlacementPlan:
    request = PlacementRequest(np.array([toy.replicas], dtype=np.int64), toy.num_nodes, toy.num_slots)
    return place(policy, request)


def _survival(plan: PlacementPlan) -> list[tuple[int, float]]:
    counts = range(1, plan.num_nodes)
    curve = recovery_curve(plan.holds_LEN, list(counts), method="exact")
    return list(zip(counts, curve.recovery_prob.tolist(), strict=True))
