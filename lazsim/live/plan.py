"""From a decision to a generation: the order of ranks, the plan, and the states that each worker holds.

Axes: L layers, E experts, N nodes of a plan, H candidates.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.engine.protocol import Action, Decision
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.systems import System
from lazsim.live.messages import GenerationPlan, HeldState
from lazsim.live.worker_server import WorkerConnection
from lazsim.placement.plan import Bools, Ints

Blocks = frozenset[int]
"""Numbers of blocks, their places in `lazsim.live.state.all_keys`."""


class NextGeneration(NamedTuple):
    """The members of a generation by rank, and those that train by node of the plan; bytes of the busiest node."""

    members: list[WorkerConnection]
    holders: list[WorkerConnection]
    plan: GenerationPlan
    busiest_bytes: float


def plan_generation(
    system: System,
    costs: CostModel,
    decision: Decision[WorkerConnection],
    checkpoint_step: int,
    load_LE: Ints,
    members_before: Sequence[WorkerConnection],
) -> NextGeneration:
    """Plan the generation that a decision, a reconfiguration or a restart, asks for.

    The plan is for the loads `load_LE`. Members of the generation before keep the order of their ranks where they can.
    """
    workers, num_ranks = decision.nodes, decision.num_nodes
    plan = system.plan(costs, num_ranks, load_LE)
    if decision.action is Action.RESTART:
        step, holds, busiest_bytes = checkpoint_step, [Blocks()] * num_ranks, 0.0
        chosen_N = order = np.arange(num_ranks)
        senders: list[int] = []
    else:
        step, holds = agree_on_step([worker.held for worker in workers], partial(_are_complete, costs))
        has_dense_H = np.array([0 in blocks for blocks in holds])
        binding = bind_nodes(costs, _experts_LEH(costs, holds), plan, has_dense_H=has_dense_H)
        busiest_bytes, chosen_N, order = binding.busiest_bytes(), binding.chosen_N, np.arange(num_ranks)
        if system.is_elastic:
            # Without expert-parallel groups the order of ranks is free; ranks that keep their place keep communicators.
            rank = {worker: rank for rank, worker in enumerate(members_before)}
            order = np.argsort([rank.get(workers[index], len(rank)) for index in chosen_N], kind="stable")
        senders = [index for index in binding.order_H[num_ranks:].tolist() if holds[index]]
    members = chosen_N[order].tolist() + senders
    group_N = system.layout(costs, np.arange(num_ranks)).group_N
    generation = GenerationPlan(
        source=decision.source,
        step=step,
        members=[workers[index].name for index in members],
        num_ranks=num_ranks,
        holds=[holds[index] for index in members],
        slots=plan.slots_LNS[:, order].tolist(),
        groups=None if group_N is None else group_N.tolist(),
        padded=system.padded,
    )
    holders = [workers[index] for index in chosen_N]
    return NextGeneration([workers[index] for index in members], holders, generation, busiest_bytes)


def hold_everything(costs: CostModel, workers: Sequence[WorkerConnection]) -> bool:
    """Tell whether workers together hold every block after the same step."""
    _, holds = agree_on_step([worker.held for worker in workers], partial(_are_complete, costs))
    return _are_complete(costs, holds)


def _are_complete(costs: CostModel, holds: Sequence[Blocks]) -> bool:
    return len(frozenset().union(*holds)) == 1 + costs.model.num_moe_layers * costs.model.num_experts


def agree_on_step(held: Sequence[HeldState], are_complete: Callable[[list[Blocks]], bool]) -> tuple[int, list[Blocks]]:
    """Return the step to go on from, and the blocks that each worker holds after it.

    A worker that has committed a step knows that all workers had prepared it. So a worker that is one step behind can
    catch up: it commits what it has prepared. The last step with every block counts. It need not be the highest step: a
    worker may come back after the others have gone back to a checkpoint.

    Examples
    --------
    >>> ahead, behind, late = (HeldState(*state) for state in ((5, False, {0}), (4, True, {1}), (3, True, set())))
    >>> agree_on_step([ahead, behind, late], lambda blocks: set().union(*blocks) == {0, 1})
    (5, [{0}, {1}, frozenset()])
    """
    for step in sorted({state.step for state in held if state.blocks}, reverse=True):
        holds = [
            state.blocks if state.step == step or (state.step == step - 1 and state.prepared) else Blocks()
            for state in held
        ]
        if are_complete(holds):
            return step, holds
    return 0, [Blocks() for _ in held]


def _experts_LEH(costs: CostModel, holds: Sequence[Blocks]) -> Bools:
    """Turn block numbers into experts held by each worker, shape (L, E, H)."""
    num_layers, num_experts = costs.model.num_moe_layers, costs.model.num_experts
    has = np.zeros((len(holds), 1 + num_layers * num_experts), dtype=np.bool_)
    for index, blocks in enumerate(holds):
        has[index, list(blocks)] = True
    return has[:, 1:].T.reshape(num_layers, num_experts, len(holds))


def is_same_placement(slots_LNS: Ints, other_LNS: Ints) -> bool:
    """Tell whether two plans put the same experts together on nodes, in any order of nodes and slots."""
    plans = [np.sort(slots, axis=2).swapaxes(0, 1) for slots in (slots_LNS, other_LNS)]
    nodes, others = ({node.tobytes() for node in plan} for plan in plans)
    return nodes == others
