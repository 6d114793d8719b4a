"""Placement policies by name: those of lazsim, of installed packages, and functions in a file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from lazsim.errors import SpecError, prefix_errors
from lazsim.extensions import Registry, own_code, require_repeats
from lazsim.placement.balanced import place_balanced
from lazsim.placement.baselines import place_compact, place_random, place_spread
from lazsim.placement.domains import place_over_domains
from lazsim.placement.eplb import place_eplb, place_groups
from lazsim.placement.euclid import place_euclid
from lazsim.placement.expert_parallel import place_ep_on_most
from lazsim.placement.gpus import spread_over_gpus
from lazsim.placement.local_search import Rules
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import PlacementPlan, gpu_slots, node_slots
from lazsim.placement.request import PlacementRequest
from lazsim.placement.steady import keep_steady

STEADY = "steady"
"""The policy that changes an old plan."""

RANDOM = "random"
"""The policy that draws."""

DOMAINS = "domains"
"""The policy that spreads experts over failure domains."""


@dataclass(frozen=True)
class NamedPolicy:
    """A placement policy."""

    name: str
    """Its name; for a function in a file, ``path.py:function``."""
    function: Callable[[PlacementRequest], Any]
    """Takes a `PlacementRequest` and returns a plan; a custom one may also return an array of its slots."""
    description: str = ""
    """One line for people."""
    is_custom: bool = False
    """Whether it comes from a user's file or another package."""
    allocates: bool = False
    """Whether it chooses the replicas itself; other policies of lazsim place exactly the replicas of the request."""
    plans_layers_alone: bool = False
    """Whether the plan of a layer depends on that layer alone; one request may then hold layers of several plans."""


SIZES, LOADS = ("replicas_LE", "num_nodes", "num_slots"), ("replicas_LE", "load_LE", "num_nodes", "num_slots")


def _on_nodes(place_nodes: Callable[..., PlacementPlan], *names: str) -> Callable[[PlacementRequest], PlacementPlan]:
    """Return a policy that plans with these fields of a request, and gives the replicas of a node to different GPUs."""
    fields = attrgetter(*names)
    return lambda request: spread_over_gpus(place_nodes(*fields(request)), request.gpus_per_node)


def _ep(request: PlacementRequest) -> PlacementPlan:
    num_layers, num_experts = request.replicas_LE.shape
    return place_ep_on_most(num_layers, num_experts, request.num_nodes, request.num_slots, request.gpus_per_node)


def _eplb(request: PlacementRequest) -> PlacementPlan:
    """Keep groups on one node each under the condition of the original; see `place_groups`."""
    num_nodes, num_slots, num_gpus = request.num_nodes, request.num_slots, request.gpus_per_node
    if request.num_groups > 1 and request.num_groups % num_nodes == 0:
        slots_N, gpus_N = np.full(num_nodes, num_slots), np.full(num_nodes, num_gpus)
        return place_groups(request.load_LE, request.num_groups, slots_N, gpus_N)
    return place_eplb(request.load_LE, num_nodes, num_slots, num_gpus)


def _steady(request: PlacementRequest) -> PlacementPlan:
    """Change the old plan of a request towards that of ``eplb`` where groups are kept, of ``balanced`` elsewhere."""
    keeps_groups = request.num_groups > 1 and request.num_groups % request.num_nodes == 0
    fresh = place("eplb" if keeps_groups else "balanced", request)
    if request.old is None:
        return fresh
    fewest_nodes = min(int(request.replicas_LE.min()), fresh.fewest_nodes)
    node_G = np.arange(request.num_nodes).repeat(request.gpus_per_node)
    rules = Rules(node_G, fewest_nodes, request.num_groups if keeps_groups else 1)
    held_LGK, fresh_LGK = (gpu_slots(plan, request.gpus_per_node) for plan in (request.old, fresh))
    steady_LGK = keep_steady(held_LGK, fresh_LGK, request.load_LE, rules, request.move_cost)
    return node_slots(steady_LGK, fresh.num_experts, request.gpus_per_node)


POLICIES: Mapping[str, NamedPolicy] = {
    policy.name: policy
    for policy in (
        NamedPolicy(
            "mro", _on_nodes(place_mro, *SIZES), "Maximum Rank Overlap, as published.", plans_layers_alone=True
        ),
        NamedPolicy(
            "euclid",
            _on_nodes(place_euclid, *SIZES),
            "Place as mro, on the same nodes in all layers, and better where mro cuts its last group short.",
        ),
        NamedPolicy(
            DOMAINS,
            _on_nodes(place_over_domains, *LOADS, "domain_N"),
            "Spread experts over failure domains, then over the nodes of each; as euclid without domains.",
        ),
        NamedPolicy(
            "spread",
            _on_nodes(place_spread, *SIZES),
            "Deal replicas over different nodes in turn, expert by expert.",
            plans_layers_alone=True,
        ),
        NamedPolicy(
            "compact",
            _on_nodes(place_compact, *SIZES),
            "Put the replicas of an expert on few nodes.",
            plans_layers_alone=True,
        ),
        NamedPolicy(RANDOM, _on_nodes(place_random, *SIZES, "seed"), "Put replicas into slots drawn at random."),
        NamedPolicy(
            "balanced",
            _on_nodes(place_balanced, *LOADS),
            "Deal replicas over the nodes in rounds, heaviest first, an expert to different nodes.",
            plans_layers_alone=True,
        ),
        NamedPolicy(
            "eplb",
            _eplb,
            "Balance GPUs greedily as DeepSeek's EPLB does, groups of experts on one node each; allocates by itself.",
            allocates=True,
            plans_layers_alone=True,
        ),
        NamedPolicy(
            STEADY,
            _steady,
            "Change the old plan as far as the gain is worth the moves; allocates by itself, as balanced without one.",
            allocates=True,
        ),
        NamedPolicy(
            "ep",
            _ep,
            "Plain expert parallelism on whole groups of nodes; allocates by itself.",
            allocates=True,
            plans_layers_alone=True,
        ),
    )
}
"""Policies of lazsim by name. To add one, add an entry here."""

REGISTRY = Registry("policy", "function", "lazsim.policies", POLICIES, attrgetter("description"))

OWN_POLICIES = (
    "An entry point of group lazsim.policies in an installed package, or path.py:function, works wherever a name does; "
    "see docs/guides/policies.md."
)
"""How to add a policy from outside."""

policy_names, policy_input = REGISTRY.names, REGISTRY.source


def seed_notes(seed: int, policies: Iterable[str], *, is_drawn: bool) -> tuple[str, ...]:
    """Say that a seed changes nothing, where one is given and neither policies draw, as others' may, nor all else."""
    may_draw = is_drawn or any(name == RANDOM or name not in POLICIES for name in policies)
    return () if may_draw or not seed else (f"`seed` {seed} has no effect: nothing is drawn with it",)


def find_policy(name: str) -> NamedPolicy:
    """Find a policy: a name of `POLICIES`, an entry point of an installed package, or ``path.py:function``.

    A `SpecError` says that there is no such name, file or function, or that it cannot be imported.

    Examples
    --------
    >>> find_policy("mor")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: unknown policy 'mor': did you mean 'mro'? known: mro, ...
    """
    if name in POLICIES:
        return POLICIES[name]
    function = REGISTRY.load(name)
    if not callable(function):
        raise SpecError(f"policy {name!r} is no function but of type {type(function).__name__}")
    return NamedPolicy(name, function, is_custom=True)


def place(policy: NamedPolicy | str, request: PlacementRequest) -> PlacementPlan:
    """Call a policy, given itself or by name, and check its plan; an invalid one of `POLICIES` is a bug of lazsim.

    An `InfeasiblePlanError` says that the policy does not apply, as plain expert parallelism on too few nodes, a
    `SpecError` that there is no such policy, or that a custom one fails or returns no plan for the request.

    Examples
    --------
    >>> request = PlacementRequest(np.array([[1, 1, 2, 2]]), num_nodes=3, num_slots=2)
    >>> place("mro", request).slots_LNS.tolist()
    [[[0, 1], [2, 3], [2, 3]]]
    """
    named = find_policy(policy) if isinstance(policy, str) else policy
    if named.is_custom:
        return call_policy(named.name, named.function, request)
    plan: PlacementPlan = named.function(request)
    assert plan.num_nodes == request.num_nodes, "the plan has the nodes of the request"
    return plan.check(None if named.allocates else request.replicas_LE)


def call_policy(name: str, function: Callable[..., Any], request: PlacementRequest) -> PlacementPlan:
    """Call a custom policy, which returns a plan or an array of its slots, and check its plan.

    Its own `InfeasiblePlanError` says that it does not apply. Errors of lazsim keep their kind; any other error, a bad
    plan, and another plan for the same request is a `SpecError`.
    """

    def ask() -> PlacementPlan:
        path = getattr(getattr(function, "__code__", None), "co_filename", None)
        with prefix_errors(f"policy {name!r}"), own_code(path):
            result = function(request)
        num_layers, num_experts = request.replicas_LE.shape
        return checked_plan(name, result, (num_layers, request.num_nodes, request.num_slots), num_experts)

    plan = ask()
    require_repeats(f"policy {name!r}", lambda: np.array_equal(ask().slots_LNS, plan.slots_LNS))
    return plan


def checked_plan(name: str, result: Any, shape: tuple[int, int, int], num_experts: int) -> PlacementPlan:
    """Turn the result of a policy, a plan or its slots, into a plan of a shape (L, N, S), or with fewer slots.

    Raise SpecError when the shape is wrong, a slot holds an unknown expert, or an expert of a layer has no replica.

    Examples
    --------
    >>> checked_plan("mine", [[[0, 0], [1, -1]]], (1, 2, 2), num_experts=3)
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: policy 'mine' returned an invalid plan: expert 2 of layer 0 is on no node
    """
    with prefix_errors(f"policy {name!r} returned an invalid plan"):
        with own_code(what="expected an array of (layers, nodes, slots), which numpy cannot make of it"):
            # A copy, since a policy may write the next plan into the same array.
            slots = np.asarray(result.slots_LNS if isinstance(result, PlacementPlan) else result).copy()
        if slots.ndim != 3 or slots.shape[:2] != shape[:2] or slots.shape[2] > shape[2]:
            found = f"an array of {slots.shape}" if slots.ndim else type(result).__name__
            raise SpecError(f"expected (layers, nodes, slots) of {shape}, or fewer slots, not {found}")
        try:
            plan = PlacementPlan(slots, num_experts)
        except SpecError as error:
            raise SpecError(str(error).removeprefix("`slots_LNS`: ")) from None
        for layer, expert in np.argwhere(plan.replicas_LE == 0)[:1]:
            raise SpecError(f"expert {expert} of layer {layer} is on no node")
    return plan
