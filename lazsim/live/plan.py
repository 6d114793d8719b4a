"""The next epoch of a live job: what the protocol decides, with the plan and the order of ranks.

Axes: L layers, E experts, N nodes of a plan, H candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine import protocol
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.systems import System
from lazsim.placement.plan import Bools, Ints


@dataclass(frozen=True)
class Offer:
    """What a worker says it holds: blocks by number, after so many steps, perhaps with the next one prepared."""

    step: int
    prepared: bool
    holds: frozenset[int]


@dataclass(frozen=True, eq=False)
class NextEpoch:
    """The next epoch.

    Attributes
    ----------
    source : str
        ``initial``, ``checkpoint`` or ``peers``.
    step : int
        Steps made at its start.
    senders : list of int
        Candidates by index: those that train in the order of ranks, then others that hold states.
    num_ranks : int
        Senders that train.
    holds : list of frozenset of int
        Blocks that each of the senders holds after `step` steps.
    slots_LNS : ndarray of int64, shape (L, N, S)
        The plan, by rank.
    busiest_bytes : float
        Bytes that the busiest node sends or receives, in the sizes of the simulation.
    """

    source: str
    step: int
    senders: list[int]
    num_ranks: int
    holds: list[frozenset[int]]
    slots_LNS: Ints
    busiest_bytes: float = 0.0


def plan_epoch(
    system: System,
    costs: CostModel,
    offers: Sequence[Offer],
    num_survivors: int,
    *,
    joins_due: bool,
    checkpoint_step: int,
    paused: bool,
    load_LE: Ints | None,
) -> NextEpoch | None:
    """Plan the next epoch; None where the nodes are too few.

    Parameters
    ----------
    offers
        What workers hold: survivors of the last epoch in the order of its ranks, then others, first come first.
    num_survivors
        Offers that are from survivors; 0 when what these hold no longer counts.
    joins_due, checkpoint_step, paused
        See `lazsim.engine.protocol.Situation`.
    load_LE
        Loads seen last; none before the first step.
    """
    everyone = tuple(range(len(offers)))
    situation = protocol.Situation(
        survivors=everyone[:num_survivors],
        alive=everyone,
        returned=tuple(index for index in everyone[num_survivors:] if offers[index].holds),
        paused=paused,
        joins_due=joins_due,
        checkpoint_step=checkpoint_step,
    )

    def holds_by(nodes: Sequence[int]) -> tuple[int, list[frozenset[int]]]:
        return valid_holds([offers[index] for index in nodes], lambda held: _is_whole(costs, held))

    decision = protocol.decide(
        system,
        situation,
        lambda num_nodes: system.usable_nodes(costs, num_nodes),
        lambda nodes: _is_whole(costs, holds_by(nodes)[1]),
    )
    if decision.action is protocol.Action.WAIT:
        return None
    if load_LE is None:
        load_LE = np.ones((costs.model.num_moe_layers, costs.model.num_experts), dtype=np.int64)
    num_ranks, nodes = decision.num_nodes, decision.nodes
    plan = system.plan(costs, num_ranks, load_LE)
    if decision.action is protocol.Action.RESTART:
        nothing = [frozenset[int]()] * num_ranks
        return NextEpoch(decision.source, checkpoint_step, list(nodes), num_ranks, nothing, plan.slots_LNS)
    step, holds = holds_by(nodes)
    binding = bind_nodes(costs.model, holds_LEH(costs, holds), np.array([0 in held for held in holds]), plan)
    # Without groups the order of ranks is free: who keeps its place keeps its communicators.
    order = np.argsort(binding.chosen_N) if system.is_elastic else np.arange(num_ranks)
    left_out = [index for index in binding.order_H[num_ranks:].tolist() if holds[index]]
    senders = binding.chosen_N[order].tolist() + left_out
    return NextEpoch(
        decision.source,
        step,
        [nodes[index] for index in senders],
        num_ranks,
        [holds[index] for index in senders],
        plan.slots_LNS[:, order],
        binding.busiest_bytes,
    )


def _is_whole(costs: CostModel, holds: Sequence[frozenset[int]]) -> bool:
    """Tell whether together they hold every block."""
    return len(frozenset().union(*holds)) == 1 + costs.model.num_moe_layers * costs.model.num_experts


def valid_holds(
    offers: Sequence[Offer], is_whole: Callable[[list[frozenset[int]]], bool]
) -> tuple[int, list[frozenset[int]]]:
    """Return the step to go on from, and what each worker holds of it.

    Parameters
    ----------
    offers
        What workers hold.
    is_whole
        Tells whether blocks, by worker, are all that there are.

    Notes
    -----
    Whoever has committed a step knows that all had prepared it. So those one step behind catch up by committing what
    they have prepared. The furthest step of which everything is there counts; that of a worker that comes back after
    the others went back to a checkpoint need not be it.

    Examples
    --------
    >>> ahead, behind, late = (Offer(*held) for held in ((5, False, {0}), (4, True, {1}), (3, True, set())))
    >>> valid_holds([ahead, behind, late], lambda held: set().union(*held) == {0, 1})
    (5, [{0}, {1}, frozenset()])
    """
    steps = sorted({offer.step for offer in offers if offer.holds}, reverse=True)
    for step in steps:
        held = [
            offer.holds if offer.step == step or (offer.step == step - 1 and offer.prepared) else frozenset()
            for offer in offers
        ]
        if is_whole(held):
            return step, held
    return 0, [frozenset() for _ in offers]


def holds_LEH(costs: CostModel, holds: Sequence[frozenset[int]]) -> Bools:
    """Turn blocks by number into who holds which expert, shape (L, E, H)."""
    num_layers, num_experts = costs.model.num_moe_layers, costs.model.num_experts
    has = np.zeros((len(holds), 1 + num_layers * num_experts), dtype=np.bool_)
    for index, numbers in enumerate(holds):
        has[index, list(numbers)] = True
    return has[:, 1:].T.reshape(num_layers, num_experts, len(holds))


def layout_groups(system: System, costs: CostModel, num_ranks: int) -> list[int] | None:
    """Return the group of each rank under expert parallelism."""
    group_N = system.layout(costs, np.arange(num_ranks)).group_N
    return None if group_N is None else group_N.tolist()
