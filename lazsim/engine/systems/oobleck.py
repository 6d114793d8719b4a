"""Pipeline templates (Oobleck, SOSP 2023, arXiv 2309.08125)."""

import math
from dataclasses import dataclass, replace

import numpy as np

from lazsim.costmodel.recovery_times import read_s, restart_s
from lazsim.costmodel.step import CostModel
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision, StoppedJob
from lazsim.engine.systems.seats import SeatSystem, by_replica, order_by_replica
from lazsim.engine.systems.system import TimedPlan
from lazsim.placement.plan import Floats, PlacementPlan


@dataclass(frozen=True)
class Oobleck(SeatSystem):
    """A pipeline that loses nodes takes a template with fewer; its layers are copied from other pipelines.

    Notes
    -----
    Templates of ``n0`` to ``2 n0 - 1`` nodes, ``n0`` those that hold the model once, cover every number of nodes from
    ``n0`` on. Here a stage has as many nodes in each template. Stages hold whole layers, and the fullest decides: of 61
    layers, 9 stages hold up to 7. Micro-batches are divided so that the last pipeline ends as early as it can. As many
    pipelines form, of as many stages, as train fastest: nodes without a stage hold states only. Two form where nodes
    suffice, since one survives no failure. Whole model replicas are as in the job.

    Of ``n`` nodes, those that make no whole number of ``n0`` take places of one more model replica. After a failure
    nodes change their places until each is taken ``n // n0`` times, as in whole model replicas. A copy is the
    state of a place that a node takes, or of one of the missing nodes, whose pipelines go on with fewer; one that lost
    all of its ``n0`` nodes ends.
    """

    takes_two_replicas: bool = True

    def usable_nodes(self, costs: CostModel, num_nodes: int) -> int:
        """See `System.usable_nodes`: all from those on that hold the model once."""
        return num_nodes if super().usable_nodes(costs, num_nodes) else 0

    def num_seats(self, costs: CostModel, num_nodes: int) -> int:
        """See `System.num_seats`."""
        return -(-num_nodes // costs.grid.replica_nodes) * costs.grid.replica_nodes

    def timed(self, costs: CostModel, num_nodes: int, num_seats: int) -> TimedPlan:
        """See `System.timed`: of the fastest pipelines."""
        found = fastest_pipelines(costs, num_nodes)
        return found if found.factor < 1 else super().timed(costs, num_nodes, found.num_seats)

    def outlives_a_loss(self, costs: CostModel, plan: PlacementPlan, num_nodes: int) -> bool:
        """See `System.outlives_a_loss`: there are two pipelines."""
        return num_nodes >= 2 * costs.grid.replica_nodes

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision[str]:
        """See `System.decide`."""
        held = stopped.held
        if not stopped.paused and held.made is not None and len(held.begun) < 2 * costs.grid.replica_nodes:
            return protocol.decide_start(stopped, "one pipeline has each layer once")
        decision = super().decide(costs, stopped)
        if stopped.paused or decision.action is not Action.CONTINUE:
            return decision
        moved = self.moves(costs, held)
        node_in = dict(zip(held.seats, held.nodes, strict=True))
        movers = tuple(node_in[seat] for seat in moved)
        stay = tuple(node for node in held.nodes if node not in movers)
        return replace(decision, nodes=stay + movers, seats=tuple(moved.values()))

    def continue_s(self, costs: CostModel, held: Held) -> tuple[tuple[str, float], ...]:
        """See `SeatSystem.continue_s`: with copies of what moves, and of what was lost but by a whole pipeline."""
        begun_N = np.isin(np.arange(held.num_seats), held.begun)
        begun_KP, alive_KP = begun_N[order_by_replica(costs, held)], by_replica(costs, held)
        is_gone_K = np.all(begun_KP, axis=1) & ~np.any(alive_KP, axis=1)
        lost_N = begun_N & ~held.alive_N & ~is_gone_K[costs.grid.replica_N(held.num_seats)]
        copied = sorted({*self.moves(costs, held).values(), *np.flatnonzero(lost_N).tolist()})
        return ("reconfigure", self.rebuild_s(costs)), ("transfer", self.fetch_s(costs, held, copied))

    def moves(self, costs: CostModel, held: Held) -> dict[int, int]:
        """Return the places that nodes leave, the last first, and those that they take: each is taken often enough."""
        order_KP, alive_KP = order_by_replica(costs, held), by_replica(costs, held)
        often = len(held.nodes) // costs.grid.replica_nodes
        leaves_KP = alive_KP & (alive_KP.cumsum(axis=0) > often)
        takes_KP = ~alive_KP & ((~alive_KP).cumsum(axis=0) <= often - alive_KP.sum(axis=0))
        return dict(zip(order_KP[leaves_KP][::-1].tolist(), order_KP[takes_KP].tolist(), strict=False))

    def restart_s(self, costs: CostModel, decision: Decision[str], plan: PlacementPlan) -> float:
        """See `System.restart_s`: each node reads what is in a place."""
        load_s = 0.0
        if decision.source == "checkpoint":
            seats = costs.grid.by_replica_N(plan.num_nodes)[: decision.num_nodes]
            load_s = read_s(costs, self.load_bytes(costs, plan)[seats])
        return restart_s(costs, decision.num_nodes) + load_s


def fastest_pipelines(costs: CostModel, num_nodes: int) -> TimedPlan:
    """Return the fastest pipelines of templates that nodes can form: two or more, where there are two model replicas.

    By any time, a pipeline ends as many micro-batches as the best template of its stages or fewer. Each number of
    pipelines takes the earliest time by which they can end all together.
    """
    grid, num_stages = costs.grid, num_nodes // costs.grid.unit_nodes
    most = num_stages // grid.num_stages
    number_P = np.arange(min(2, most), most + 1)
    nodes_P = (number_P * grid.replica_nodes).tolist()
    even_P = np.array(list(map(costs.even_micro_batches, nodes_P)))
    # A template has less than twice the stages of the job: each has half of the work or more.
    stages, *numbers_and_ends = zip(*costs.templates(2 * (math.ceil(even_P[0]) + grid.num_stages)), strict=True)
    end_s_T = np.unique(np.concatenate(numbers_and_ends[1]))
    ended_XT = np.maximum.accumulate([
        np.append(0, ended)[np.searchsorted(end_s, end_s_T, side="right")]
        for ended, end_s in zip(*numbers_and_ends, strict=True)
    ])  # fmt: skip
    ended_XT = ended_XT[np.searchsorted(stages, np.unique(stages), side="right") - 1]
    last_P, after_P = np.zeros_like(number_P), np.full_like(number_P, len(end_s_T))
    while (last_P < after_P).any():
        middle_P = (last_P + after_P) // 2
        middle_U, which_P = np.unique(middle_P, return_inverse=True)
        ended_PU = most_ended(ended_XT[:, middle_U], grid.num_stages, num_stages)
        is_enough_P = ended_PU[number_P - 1, which_P] / number_P >= even_P
        last_P, after_P = np.where(is_enough_P, last_P, middle_P + 1), np.where(is_enough_P, middle_P, after_P)
    factor_P = end_s_T[last_P] / end_s_T[np.searchsorted(ended_XT[0], even_P)]
    best = int(np.argmin(factor_P * [costs.even_step_s(nodes) / costs.samples_per_step(nodes) for nodes in nodes_P]))
    ended_P = most_ended(ended_XT[:, last_P[best], None], grid.num_stages, num_stages)[number_P - 1, 0]
    return TimedPlan(nodes_P[best], float(factor_P[best]), float(1 - even_P[best] * number_P[best] / ended_P[best]))


def most_ended(ended_XU: Floats, fewest_stages: int, num_stages: int) -> Floats:
    """Return the most micro-batches that one pipeline, two and so on end by some times with stages for all, (P, U).

    Each takes the fewest stages or some more, with which it ends as many alone: shape (X, U).
    """
    # By the stages of all pipelines so far, beyond the fewest.
    found_PU, ended_BU = [], np.zeros((1, ended_XU.shape[1]))
    for left in range(num_stages - fewest_stages, -1, -fewest_stages):
        before_BU, most = ended_BU, len(ended_BU) + len(ended_XU) - 1
        ended_BU = np.zeros((min(left + 1, most), ended_XU.shape[1]))
        for further, ended_U in enumerate(ended_XU):
            one_more_BU = ended_BU[further : further + len(before_BU)]
            np.maximum(one_more_BU, before_BU[: len(one_more_BU)] + ended_U, out=one_more_BU)
        found_PU.append(ended_BU[-1])
    return np.array(found_PU)


OOBLECK = Oobleck(
    "oobleck",
    "Oobleck: pipelines that lose nodes take templates with fewer; batches are divided anew",
    survives="failures that leave each stage in some pipeline",
    needs="two model replicas or more, whole optimizer states",
)
