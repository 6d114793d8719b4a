"""What is to be placed where: from options to the request that policies get. Axes: L layers, E experts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.placement.allocation import allocate
from lazsim.placement.plan import Ints
from lazsim.placement.request import PlacementRequest
from lazsim.reliability.loads import get_loads
from lazsim.reliability.options import parse_counts
from lazsim.routing.loading import UNIFORM

DEFAULT_MIN_REPLICAS = 2
"""The published default of the fault threshold (Lazarus, arXiv 2407.04656)."""

MAX_SLOTS = 1 << 24
"""Slots of all layers: a slip in a number must not fill the memory."""


@dataclass(frozen=True)
class PlanningOptions:
    """What the user asked for, as the command line has it.

    Attributes
    ----------
    nodes, slots, gpus_per_node : int
        Nodes, replica slots of a node in one layer, and its GPUs.
    replicas : str, optional
        Replicas of each expert, separated by commas; in place of `experts` and `loads`.
    experts, loads, layers, step, lenient
        As of `lazsim.reliability.loads.get_loads`.
    min_replicas : int, optional
        Fewest replicas of an expert; `DEFAULT_MIN_REPLICAS` by default.
    seed : int
        Of all that is drawn.
    """

    nodes: int
    slots: int
    gpus_per_node: int = 1
    replicas: str | None = None
    experts: int | None = None
    loads: str | None = None
    layers: int | None = None
    step: int | None = None
    min_replicas: int | None = None
    seed: int = 0
    lenient: bool = False


@dataclass(frozen=True, eq=False)
class PlanningTask:
    """Experts with their loads, and nodes for their replicas.

    Attributes
    ----------
    load_LE, replicas_LE : ndarray of int64, shape (L, E)
        Tokens routed to each expert, and its replicas on all nodes.
    num_nodes, num_slots, gpus_per_node, seed : int
        As of `PlacementRequest`.
    min_replicas : int
        Fewest replicas of an expert, where nodes are enough.
    has_layers : bool
        Whether what is printed has an axis of layers.
    inputs : mapping
        All that it was made from, with the hashes of files.
    notes : tuple of str
        What the user should know.
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

    @property
    def request(self) -> PlacementRequest:
        """What policies are asked for."""
        return PlacementRequest(
            self.replicas_LE, self.num_nodes, self.num_slots, self.gpus_per_node, self.load_LE, self.seed
        )

    def request_on(self, num_nodes: int) -> PlacementRequest:
        """Return what policies are asked for when so many nodes are left: the same loads, allocated anew.

        Raises
        ------
        InfeasiblePlanError
            When there are fewer slots than experts.
        """
        replicas_LE = allocate(self.load_LE, num_nodes * self.num_slots, self.min_replicas)
        return PlacementRequest(replicas_LE, num_nodes, self.num_slots, self.gpus_per_node, self.load_LE, self.seed)


def build_task(options: PlanningOptions) -> PlanningTask:
    """Make a task of options, and refuse what contradicts itself or does not fit.

    Raises
    ------
    LazsimError
        In one line that names the option.

    Examples
    --------
    >>> build_task(PlanningOptions(nodes=2, slots=3, experts=3, loads="60,30,10", min_replicas=1)).replicas_LE.tolist()
    [[4, 1, 1]]
    """
    _check_shape(options)
    if options.replicas is not None:
        return _with_replicas(options, options.replicas)
    if options.experts is None and options.loads is None:
        raise SpecError(
            "nothing to place: give `replicas` 2,2,3,... or `experts` E with `loads` uniform, zipf:1.2 or a file"
        )
    return _with_loads(options)


def _check_shape(options: PlanningOptions) -> None:
    slots, gpus = options.slots, options.gpus_per_node
    if slots % gpus:
        raise SpecError(f"`slots` {slots}: {gpus} GPUs of a node have equally many; give a multiple of {gpus}")
    if options.nodes * slots * (options.layers or 1) > MAX_SLOTS:
        raise SpecError(f"`nodes` {options.nodes} `slots` {slots}: more than {MAX_SLOTS:,} slots; give fewer")


def _with_replicas(options: PlanningOptions, text: str) -> PlanningTask:
    for option, value in (
        ("`experts`", options.experts),
        ("`loads`", options.loads),
        ("`min_replicas`", options.min_replicas),
        ("`layers`", options.layers),
        ("`step`", options.step),
    ):
        if value is not None:
            raise SpecError(f"`replicas` and {option} exclude each other: replicas are given, or follow from loads")
    replicas = parse_counts("`replicas`", text)
    if 0 in replicas:
        raise SpecError(f"`replicas` {_short(text)}: expert {replicas.index(0)} has none; give each at least 1")
    _require_room("`replicas`", len(replicas), options)
    room = options.nodes * options.slots
    if sum(replicas) != room:
        raise SpecError(
            f"`replicas` {_short(text)}: {sum(replicas)} replicas for {room} slots ({options.nodes} nodes of "
            f"{options.slots}); make them add up to {room}"
        )
    replicas_LE = np.array([replicas], dtype=np.int64)
    inputs = {"replicas": replicas} | _shape_inputs(options)
    return PlanningTask(
        replicas_LE,
        replicas_LE,
        options.nodes,
        options.slots,
        options.gpus_per_node,
        min(replicas),
        options.seed,
        inputs=inputs,
        notes=("loads are taken to be in proportion to the replicas given",),
    )


def _with_loads(options: PlanningOptions) -> PlanningTask:
    if options.experts is not None:
        _require_room("`experts`", options.experts, options)
    source = UNIFORM if options.loads is None else options.loads
    loads = get_loads(source, options.experts, options.layers, options.step, options.seed, options.lenient)
    num_layers, num_experts = loads.load_LE.shape
    _require_room("`loads`", num_experts, options)
    asked = DEFAULT_MIN_REPLICAS if options.min_replicas is None else options.min_replicas
    room = options.nodes * options.slots
    replicas_LE = allocate(loads.load_LE, room, asked)
    notes = loads.notes
    if asked * num_experts > room:
        note = f"{asked} replicas of each of {num_experts} experts do not fit into {room} slots; at least "
        notes += (f"{note}{room // num_experts} of each are placed",)
    inputs = {
        "loads": {"name": loads.name, "sha256": loads.sha256},
        "num_experts": num_experts,
        "num_layers": num_layers,
        "step": options.step,
        "min_replicas": asked,
    } | _shape_inputs(options)
    return PlanningTask(
        loads.load_LE,
        replicas_LE,
        options.nodes,
        options.slots,
        options.gpus_per_node,
        asked,
        options.seed,
        loads.has_layers,
        inputs,
        notes,
    )


def _shape_inputs(options: PlanningOptions) -> dict[str, Any]:
    return {
        "num_nodes": options.nodes,
        "num_slots": options.slots,
        "gpus_per_node": options.gpus_per_node,
        "seed": options.seed,
    }


def _require_room(option: str, num_experts: int, options: PlanningOptions) -> None:
    room = options.nodes * options.slots
    if num_experts > room:
        raise InfeasiblePlanError(
            f"{option}: {num_experts} experts need as many slots, and {options.nodes} nodes of {options.slots} have "
            f"{room}; give more `nodes` or `slots`"
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."
