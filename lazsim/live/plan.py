"""From a decision to a generation: the order of ranks, the plan, and the states that each worker holds.

Axes: L layers, E experts, N nodes of a plan, H candidates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine.held import Held, Planned
from lazsim.engine.protocol import Action, Decision
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.systems import System
from lazsim.live.messages import GenerationPlan, HeldState
from lazsim.live.worker_server import WorkerConnection
from lazsim.placement.migration import migrate
from lazsim.placement.plan import Bools, Ints
from lazsim.pytorch.reduce import piece

Blocks = frozenset[int]
"""Numbers of blocks, their places in `lazsim.live.state.all_keys`."""


class LastStep(NamedTuple):
    """A step that the job has made, so that all of the generation that trained last had prepared it."""

    step: int = 0
    generation: int = 0


class NextGeneration(NamedTuple):
    """The members of a generation by rank, and those that will train in their places; bytes of the busiest node."""

    members: list[WorkerConnection]
    held: Held
    plan: GenerationPlan
    busiest_bytes: float


class GenerationPlanner:
    """Plans the generations of a job."""

    def __init__(self, system: System, costs: CostModel, global_batch: int) -> None:
        self._system, self._costs, self._global_batch = system, costs, global_batch

    def plan(
        self,
        decision: Decision,
        held: Held,
        reached: LastStep,
        load_LE: Ints,
        members_before: Sequence[WorkerConnection],
    ) -> NextGeneration:
        """Plan the generation that a decision asks for.

        Those that go on keep their places in `held`; else there is a plan for the loads `load_LE`. A restart begins at
        the step that is `reached`, and peers go on from there or a later one. Members of the generation before keep the
        order of their ranks where they can.
        """
        if decision.action is Action.CONTINUE:
            return self._plan_going_on(held.going_on(decision.nodes, decision.seats), reached)
        workers, num_ranks = decision.nodes, decision.num_nodes
        plan = self._system.plan(self._costs, num_ranks, load_LE)
        if decision.action is Action.RESTART:
            step, holds, busiest_bytes = reached.step, [Blocks()] * num_ranks, 0.0
            chosen_N = order = np.arange(num_ranks)
            senders: list[int] = []
        else:
            step, holds = self._agree(workers, reached)
            has_dense_H = np.array([0 in blocks for blocks in holds])
            binding = bind_nodes(self._costs, self._experts_LEH(holds), plan.holds_LEN, has_dense_H=has_dense_H)
            busiest_bytes, chosen_N, order = binding.busiest_bytes(), binding.chosen_N, np.arange(num_ranks)
            if self._system.is_elastic:
                # Without expert-parallel groups the order of ranks is free; ranks that keep theirs keep communicators.
                rank = {worker: rank for rank, worker in enumerate(members_before)}
                order = np.argsort([rank.get(workers[index], len(rank)) for index in chosen_N], kind="stable")
            senders = [index for index in binding.order_H[num_ranks:].tolist() if holds[index]]
        chosen = chosen_N[order].tolist() + senders
        members = [workers[index] for index in chosen]
        now_held = Held.full(
            [workers[index] for index in chosen_N], Planned(num_ranks, step, lambda _num_nodes, _step: plan)
        )
        held_blocks, slots_LNS = [holds[index] for index in chosen], plan.slots_LNS[:, order]
        generation = self._generation(decision.source, step, members, held_blocks, slots_LNS, now_held)
        return NextGeneration(members, now_held, generation, busiest_bytes)

    def _plan_going_on(self, held: Held, reached: LastStep) -> NextGeneration:
        """Plan a generation whose ranks keep their places, or take free ones."""
        members, plan, costs = list(held.nodes), held.plan, self._costs
        assert plan is not None, "some nodes hold states"
        step, holds = self._agree(members, reached)
        assert self._are_complete(holds), "those that keep their places hold all"
        has_dense = np.array([0 in blocks for blocks in holds])
        moved = migrate(
            self._experts_LEH(holds), plan.holds_LEN, costs.expert_state_bytes, has_dense, costs.dense_state_bytes
        )
        busiest_bytes = float(max(moved.bytes_NN.sum(axis=0).max(), moved.bytes_NN.sum(axis=1).max()))
        generation = self._generation("peers", step, members, holds, plan.slots_LNS, held)
        return NextGeneration(members, held, generation, busiest_bytes)

    def _generation(
        self,
        source: str,
        step: int,
        members: Sequence[WorkerConnection],
        holds: list[Blocks],
        slots_LNS: Ints,
        held: Held,
    ) -> GenerationPlan:
        """Put a plan together; nobody trains the sequences of places in `held` that no rank has."""
        system, costs, num_sequences = self._system, self._costs, self._global_batch
        seats, group_N = list(held.seats), system.dispatch(costs, np.arange(held.num_seats)).group_N
        return GenerationPlan(
            source=source,
            step=step,
            members=[worker.name for worker in members],
            num_ranks=len(seats),
            holds=holds,
            slots=slots_LNS.tolist(),
            groups=None if group_N is None else group_N[seats].tolist(),
            padded=system.padded,
            sequences=[list(range(num_sequences)[piece(num_sequences, held.num_seats, seat)]) for seat in seats],
            # It writes checkpoints beside training.
            saves_behind=system.save(costs, held.num_seats, step_s=0.0).persist_s > 0,
        )

    def hold_everything(self, workers: Sequence[WorkerConnection], reached: LastStep) -> bool:
        """Tell whether workers together hold every block after the step that is reached, or after a later one."""
        return self._are_complete(self._agree(workers, reached)[1])

    def _agree(self, workers: Sequence[WorkerConnection], reached: LastStep) -> tuple[int, list[Blocks]]:
        return agree_on_step([worker.held for worker in workers], self._are_complete, reached)

    def _are_complete(self, holds: Sequence[Blocks]) -> bool:
        return len(frozenset().union(*holds)) == 1 + self._costs.model.num_moe_layers * self._costs.model.num_experts

    def _experts_LEH(self, holds: Sequence[Blocks]) -> Bools:
        """Turn block numbers into experts held by each worker, shape (L, E, H)."""
        num_layers, num_experts = self._costs.model.num_moe_layers, self._costs.model.num_experts
        has = np.zeros((len(holds), 1 + num_layers * num_experts), dtype=np.bool_)
        for index, blocks in enumerate(holds):
            has[index, list(blocks)] = True
        return has[:, 1:].T.reshape(num_layers, num_experts, len(holds))


def agree_on_step(
    held: Sequence[HeldState], are_complete: Callable[[list[Blocks]], bool], reached: LastStep
) -> tuple[int, list[Blocks]]:
    """Return the step to go on from, and the blocks that each worker holds after it.

    States from before the step that is reached do not count: a checkpoint may be newer. Gradients that others have
    prepared than the generation that trained last do not, either: that may have trained other sequences since.

    A worker that has committed a step knows that all workers had prepared it. So a worker that is one step behind can
    catch up: it commits what it has prepared. The last step with every block counts. It need not be the highest step: a
    worker may come back after the others have gone back to a checkpoint.

    Examples
    --------
    >>> ahead, behind, late = (HeldState(*state) for state in ((5, False, {0}), (4, True, {1}), (3, True, set())))
    >>> agree_on_step([ahead, behind, late], lambda blocks: set().union(*blocks) == {0, 1}, LastStep())
    (5, [{0}, {1}, frozenset()])
    """
    steps = {reached.step, *(state.step for state in held if state.blocks and state.step > reached.step)}
    are_valid = [state.prepared and state.generation == reached.generation for state in held]
    for step in sorted(steps, reverse=True):
        holds = [
            state.blocks if state.step == step or (state.step == step - 1 and is_valid) else Blocks()
            for state, is_valid in zip(held, are_valid, strict=True)
        ]
        if are_complete(holds):
            return step, holds
    return 0, [Blocks() for _ in held]


def is_same_placement(slots_LNS: Ints, other_LNS: Ints) -> bool:
    """Tell whether two plans put the same experts together on nodes, in any order of nodes and slots."""
    plans = [np.sort(slots, axis=2).swapaxes(0, 1) for slots in (slots_LNS, other_LNS)]
    nodes, others = ({node.tobytes() for node in plan} for plan in plans)
    return nodes == others
