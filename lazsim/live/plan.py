"""Who trains next, from where and with which plan: decisions as the simulated job takes them, for workers that report.

Axes: L layers, E experts, N nodes of a plan, H candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.systems import System
from lazsim.placement.migration import map_greedily, migrate, num_missing
from lazsim.placement.plan import Bools, Ints, PlacementPlan


@dataclass(frozen=True)
class Offer:
    """What a worker says it holds: blocks by number, after so many steps, perhaps with the next one prepared."""

    step: int
    prepared: bool
    holds: frozenset[int]


@dataclass(frozen=True, eq=False)
class Decision:
    """The next epoch.

    Attributes
    ----------
    source : str
        ``initial``, ``checkpoint`` or ``peers``.
    step : int
        Steps made at its start.
    senders : list of int
        Candidates by index, survivors first: those that train in the order of ranks, then others that hold states.
    num_ranks : int
        How many of them train.
    holds : list of frozenset of int
        Blocks that each of the senders holds after `step` steps.
    slots_LNS : ndarray of int64, shape (L, N, S)
        The plan, by rank.
    busiest_bytes : float
        What the node that sends or receives most of the states does.
    """

    source: str
    step: int
    senders: list[int]
    num_ranks: int
    holds: list[frozenset[int]]
    slots_LNS: Ints
    busiest_bytes: float = 0.0


def decide(
    system: System,
    costs: CostModel,
    survivors: Sequence[Offer],
    others: Sequence[Offer],
    *,
    joining: bool,
    checkpoint_step: int,
    paused: bool,
    load_LE: Ints | None,
) -> Decision | None:
    """Choose the next epoch; None where the nodes are too few.

    Parameters
    ----------
    survivors
        Those of the last epoch, in the order of its ranks; empty when what they hold does not count any more.
    others
        Further workers, first come first.
    joining
        Whether `others` may join now.
    checkpoint_step
        Step of the last checkpoint; 0 where there is none.
    paused
        Whether the last epoch ended in order, at a step boundary.
    load_LE
        Loads seen last; none before the first step.
    """
    if load_LE is None:
        load_LE = np.ones((costs.model.num_moe_layers, costs.model.num_experts), dtype=np.int64)
    offers = [*survivors, *others]
    if (system.recovers_from_peers or paused) and (system.is_elastic or not (paused and joining)):
        own = range(len(survivors))
        # Whoever lost its connection and is back holds states, too, and counts before any is given up.
        back = [index for index in range(len(offers)) if index in own or offers[index].holds]
        for candidates in (range(len(offers)) if joining and system.is_elastic else own, back):
            decision = _go_on(system, costs, offers, list(candidates), load_LE)
            if decision is not None:
                return decision
    return _restart(system, costs, len(offers), checkpoint_step, load_LE)


def _go_on(
    system: System, costs: CostModel, offers: Sequence[Offer], candidates: list[int], load_LE: Ints
) -> Decision | None:
    """Go on with what these candidates hold; None where that is not everything, or where they are too few."""
    step, holds = valid_holds([offers[index] for index in candidates], lambda held: _is_whole(costs, held))
    num_ranks = system.usable_nodes(costs, len(candidates))
    if not num_ranks or not _is_whole(costs, holds):
        return None
    plan = system.plan(costs, num_ranks, load_LE)
    chosen = map_greedily(num_missing(holds_LEH(costs, holds), plan.holds_LEN))
    # Without groups the order of ranks is free: who keeps its place keeps its communicators.
    order = np.argsort(chosen) if system.is_elastic else np.arange(num_ranks)
    left_out = [index for index in range(len(candidates)) if index not in chosen and holds[index]]
    senders = chosen[order].tolist() + left_out
    held = [holds[index] for index in senders]
    moved = _busiest_bytes(costs, held, plan.nodes(order))
    return Decision(
        "peers", step, [candidates[index] for index in senders], num_ranks, held, plan.slots_LNS[:, order], moved
    )


def _is_whole(costs: CostModel, holds: Sequence[frozenset[int]]) -> bool:
    """Tell whether together they hold every block."""
    return len(frozenset().union(*holds)) == 1 + costs.model.num_moe_layers * costs.model.num_experts


def _restart(system: System, costs: CostModel, num_nodes: int, checkpoint_step: int, load_LE: Ints) -> Decision | None:
    num_ranks = system.usable_nodes(costs, num_nodes)
    if not num_ranks:
        return None
    plan = system.plan(costs, num_ranks, load_LE)
    source = "checkpoint" if checkpoint_step else "initial"
    nothing = [frozenset[int]()] * num_ranks
    return Decision(source, checkpoint_step, list(range(num_ranks)), num_ranks, nothing, plan.slots_LNS)


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


def _busiest_bytes(costs: CostModel, holds: Sequence[frozenset[int]], plan: PlacementPlan) -> float:
    """Return what the busiest node sends or receives, in the sizes of the simulation."""
    has_LEN = holds_LEH(costs, holds)
    wants_LEN = np.zeros_like(has_LEN)
    wants_LEN[:, :, : plan.num_nodes] = plan.holds_LEN
    has_dense_N = np.array([0 in held for held in holds])
    model = costs.model
    moved = migrate(has_LEN, wants_LEN, model.expert_state_bytes, has_dense_N, model.dense_state_bytes)
    return float(max(moved.bytes_NN.sum(axis=0).max(), moved.bytes_NN.sum(axis=1).max()))
