"""Plans of several policies for one task, and how they spread experts and load.

Axes: L layers, E experts, N nodes, S slots of a node, M failure sets.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError, prefix_errors
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.placement.policies import DOMAINS, POLICIES, STEADY, find_policy, place, policy_names
from lazsim.reliability.failure_sets import guaranteed_failures, minimal_failure_sets
from lazsim.reliability.task import PlanningTask


@dataclass(frozen=True)
class PlanScore:
    """How a plan spreads experts and load."""

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
    """The most endangered expert: on the fewest nodes, and of those the one with most load."""
    max_mean_load: float
    """Load of the fullest node over the mean of all nodes, in a layer; averaged over layers."""


def make_plans(task: PlanningTask, policies: Sequence[str] = ()) -> tuple[dict[str, PlacementPlan], tuple[str, ...]]:
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
    num_sets = comb(plan.num_nodes, guaranteed)
    layer, expert = most_endangered(plan, load_LE)
    return PlanScore(
        num_slots=plan.slots_LNS.size,
        num_slots_used=int((plan.slots_LNS >= 0).sum()),
        guaranteed=guaranteed,
        num_deadly=int((sets_MN.sum(axis=1) == guaranteed).sum()),
        num_sets=num_sets if num_sets <= sys.float_info.max else math.inf,
        layer=layer,
        expert=expert,
        max_mean_load=max_mean_load(plan, load_LE),
    )


def most_endangered(plan: PlacementPlan, load_LE: Ints, layer: int | None = None) -> tuple[int, int]:
    """Return layer and expert on the fewest nodes; of several the one with the largest share of its layer's load."""
    num_nodes_LE = plan.holds_LEN.sum(axis=2)
    share_LE = load_LE / np.maximum(load_LE.sum(axis=1, keepdims=True), 1)
    layers = range(plan.num_layers) if layer is None else [layer]
    ranks = ((num_nodes_LE[i, e], -share_LE[i, e], i, e) for i in layers for e in range(plan.num_experts))
    *_, found_layer, expert = min(ranks)
    return found_layer, expert


def max_mean_load(plan: PlacementPlan, load_LE: Ints) -> float:
    """Return the fullest node's load over the mean node's, averaged over layers; replicas share a load evenly."""
    share_LE = load_LE / plan.replicas_LE
    load_LN = (share_LE[:, :, None] * plan.replicas_LEN).sum(axis=1)
    return float((load_LN.max(axis=1) / load_LN.mean(axis=1)).mean())
