"""Placement policies by name: lazsim's own, those of installed packages, and functions of a file.

Axes: L layers, E experts, N nodes, S slots of a node.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import SpecError
from lazsim.files import read_bytes
from lazsim.placement.balanced import place_balanced
from lazsim.placement.baselines import place_compact, place_random, place_spread
from lazsim.placement.custom import call_policy, installed_policies, load_from_file, load_installed, origin
from lazsim.placement.eplb import place_eplb
from lazsim.placement.euclid import place_euclid
from lazsim.placement.expert_parallel import place_ep_on_most
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.specs import sha256, unknown_name


@dataclass(frozen=True, eq=False)
class PlacementRequest:
    """What a policy is asked for; its arrays can be read only.

    Attributes
    ----------
    replicas_LE : ndarray of int64, shape (L, E)
        Replicas allocated to each expert. A policy that allocates by itself may place others.
    num_nodes, num_slots : int
        Nodes, and replica slots of each of them in a layer; the slots of all nodes together are the replicas.
    gpus_per_node : int
        GPUs of a node; slot ``s`` of a node belongs to its GPU ``s % gpus_per_node``.
    load_LE : ndarray of int64, shape (L, E)
        Tokens routed to each expert; the replicas where nothing else is known.
    seed : int
        Seed of a policy that draws.
    """

    replicas_LE: Ints
    num_nodes: int
    num_slots: int
    gpus_per_node: int = 1
    load_LE: Ints = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    seed: int = 0

    def __post_init__(self) -> None:
        """Take the replicas for the loads where there are none, let nobody write to either, and check both.

        Raises
        ------
        SpecError
            When an expert has no replica, those of a layer do not fill the slots, or loads are not counts from 0 up.
        """
        replicas_LE = np.asarray(self.replicas_LE)
        load_LE = np.asarray(self.load_LE) if np.size(self.load_LE) else replicas_LE
        for name, array in (("replicas_LE", replicas_LE), ("load_LE", load_LE)):
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        _check_replicas(replicas_LE, self.num_nodes * self.num_slots)
        if load_LE is not replicas_LE:
            _check_loads(load_LE, replicas_LE.shape)


def _check_replicas(replicas_LE: Ints, num_room: int) -> None:
    if replicas_LE.ndim != 2 or not replicas_LE.size or replicas_LE.dtype.kind not in "iu":
        found = f"{replicas_LE.dtype} of shape {replicas_LE.shape}"
        raise SpecError(f"replicas: expected integers of shape (layers, experts), found {found}")
    if replicas_LE.min() < 1:
        layer, expert = np.argwhere(replicas_LE < 1)[0]
        count = replicas_LE[layer, expert]
        raise SpecError(f"replicas: expert {expert} of layer {layer} has {count}; give each at least 1")
    placed_L = replicas_LE.sum(axis=1)
    if (placed_L != num_room).any():
        layer = int((placed_L != num_room).argmax())
        raise SpecError(f"replicas: {placed_L[layer]} in layer {layer} for {num_room} slots; make them add up to these")


def _check_loads(load_LE: Ints, shape: tuple[int, ...]) -> None:
    if load_LE.shape != shape or load_LE.dtype.kind not in "iu":
        raise SpecError(f"loads: expected integers of shape {shape}, found {load_LE.dtype} of shape {load_LE.shape}")
    if load_LE.min() < 0:
        layer, expert = np.argwhere(load_LE < 0)[0]
        count = load_LE[layer, expert]
        raise SpecError(f"loads: expert {expert} of layer {layer} has {count} tokens; give counts from 0 up")


Policy = Callable[[PlacementRequest], PlacementPlan]
"""From what is asked for to a plan."""


def _mro(request: PlacementRequest) -> PlacementPlan:
    """Maximum Rank Overlap, as published."""
    return place_mro(request.replicas_LE, request.num_nodes, request.num_slots)


def _euclid(request: PlacementRequest) -> PlacementPlan:
    """Place as mro, on the same nodes in all layers, and better where mro cuts its last group short."""
    return place_euclid(request.replicas_LE, request.num_nodes, request.num_slots)


def _spread(request: PlacementRequest) -> PlacementPlan:
    """Deal replicas over different nodes in turn, expert by expert."""
    return place_spread(request.replicas_LE, request.num_nodes, request.num_slots)


def _balanced(request: PlacementRequest) -> PlacementPlan:
    """Deal replicas over the nodes in rounds, heaviest first, an expert to different nodes."""
    return place_balanced(request.replicas_LE, request.load_LE, request.num_nodes, request.num_slots)


def _compact(request: PlacementRequest) -> PlacementPlan:
    """Put the replicas of an expert on few nodes."""
    return place_compact(request.replicas_LE, request.num_nodes, request.num_slots)


def _random(request: PlacementRequest) -> PlacementPlan:
    """Put replicas into slots drawn at random."""
    rng = np.random.default_rng(request.seed)
    return place_random(request.replicas_LE, request.num_nodes, request.num_slots, rng)


def _eplb(request: PlacementRequest) -> PlacementPlan:
    """Balance GPUs greedily as DeepSeek's EPLB does; allocates by itself."""
    return place_eplb(request.load_LE, request.num_nodes, request.num_slots, request.gpus_per_node)


def _ep(request: PlacementRequest) -> PlacementPlan:
    """Plain expert parallelism on whole groups of nodes; allocates by itself."""
    num_layers, num_experts = request.replicas_LE.shape
    return place_ep_on_most(
        num_layers, num_experts, request.num_nodes, request.num_slots, gpus_per_node=request.gpus_per_node
    )


POLICIES: Mapping[str, Policy] = {
    "mro": _mro,
    "euclid": _euclid,
    "spread": _spread,
    "compact": _compact,
    "random": _random,
    "balanced": _balanced,
    "eplb": _eplb,
    "ep": _ep,
}
"""Policies by name; the first line of a policy's docstring describes it."""

ALLOCATE_THEMSELVES = frozenset({"eplb", "ep"})
"""Those of `POLICIES` that do not place the replicas they are given; all others place exactly these."""

PLAN_LAYERS_ALONE = frozenset({"mro", "spread", "compact", "balanced", "eplb", "ep"})
"""Those of `POLICIES` that plan each layer as if there were no other; all others look at several layers together."""

OWN_POLICIES = (
    "An entry point of group lazsim.policies in an installed package, or path.py:function, works wherever a name does; "
    "see docs/policies.md."
)
"""How users add their own."""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that was found.

    Attributes
    ----------
    name : str
        What the user calls it.
    function : callable
        Takes a `PlacementRequest`; a user's returns a plan or an array of its slots.
    is_own : bool
        Whether it is a user's and not lazsim's.
    plans_layers_alone : bool
        Whether it plans each layer as if there were no other, so that layers of several plans can be asked for at once.
    """

    name: str
    function: Callable[[PlacementRequest], Any]
    is_own: bool = False
    plans_layers_alone: bool = False


def policy_names() -> list[str]:
    """List the names of lazsim's policies, then those of installed packages, sorted."""
    return [*POLICIES, *(name for name in installed_policies() if name not in POLICIES)]


def describe_policy(name: str) -> str:
    """Describe a policy in a line; one of an installed package by where it comes from, without importing it.

    Examples
    --------
    >>> describe_policy("mro")
    'Maximum Rank Overlap, as published.'
    """
    if name in POLICIES:
        return (POLICIES[name].__doc__ or "").splitlines()[0]
    return origin(installed_policies()[name])


def find_policy(name: str) -> NamedPolicy:
    """Find a policy: a name of `POLICIES`, an entry point of an installed package, or ``path.py:function``.

    Raises
    ------
    SpecError
        When there is no such name, file or function, or it cannot be imported.

    Examples
    --------
    >>> find_policy("mor")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: unknown policy 'mor': did you mean 'mro'? known: mro, ...
    """
    if name in POLICIES:
        return NamedPolicy(name, POLICIES[name], plans_layers_alone=name in PLAN_LAYERS_ALONE)
    if ":" in name or name.endswith(".py"):
        return NamedPolicy(name, load_from_file(name), is_own=True)
    installed = installed_policies()
    if name not in installed:
        raise SpecError(unknown_name("policy", name, policy_names()) + "; or path.py:function")
    return NamedPolicy(name, load_installed(installed[name]), is_own=True)


def policy_input(name: str) -> dict[str, str]:
    """Name a policy as an input: a function in a file with the hash of that file, one of a package by where it is from.

    Examples
    --------
    >>> policy_input("mro")
    {'name': 'mro'}
    """
    if name in POLICIES:
        return {"name": name}
    if ":" in name:
        return {"name": Path(name).name, "sha256": sha256(read_bytes(name.rpartition(":")[0]))}
    return {"name": name, "origin": origin(installed_policies()[name])}


def place(policy: NamedPolicy | str, request: PlacementRequest) -> PlacementPlan:
    """Ask a policy for a plan and check it.

    Parameters
    ----------
    policy
        A policy that was found, or a name to find.

    Raises
    ------
    InfeasiblePlanError
        When the policy does not apply, as plain expert parallelism on too few nodes.
    SpecError
        When there is no such policy, or a user's fails or returns what is no plan for the request.
    AssertionError
        When a plan of one of `POLICIES` is invalid, which is a bug of lazsim.

    Examples
    --------
    >>> request = PlacementRequest(np.array([[1, 1, 2, 2]]), num_nodes=3, num_slots=2)
    >>> place("mro", request).slots_LNS.tolist()
    [[[0, 1], [2, 3], [2, 3]]]
    """
    named = find_policy(policy) if isinstance(policy, str) else policy
    if named.is_own:
        return call_policy(named.name, named.function, request)
    plan: PlacementPlan = named.function(request)
    assert plan.num_nodes == request.num_nodes, "a plan has as many nodes as asked for"
    return plan.check(None if named.name in ALLOCATE_THEMSELVES else request.replicas_LE)
