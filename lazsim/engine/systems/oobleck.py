"""Pipeline templates (Oobleck, SOSP 2023, arXiv 2309.08125)."""

import bisect
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lazsim.costmodel.costs import CostModel
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
    shares_evenly: bool = False
    """Whether nodes between whole model replicas share a step evenly, without templates: these take seconds to find."""

    def quickly(self) -> "Oobleck":
        """See `System.quickly`."""
        return replace(self, shares_evenly=True)

    def usable_nodes(self, costs: CostModel, num_nodes: int) -> int:
        """See `System.usable_nodes`: all from those on that hold the model once."""
        return num_nodes if super().usable_nodes(costs, num_nodes) else 0

    def num_seats(self, costs: CostModel, num_nodes: int) -> int:
        """See `System.num_seats`."""
        return -(-num_nodes // costs.grid.replica_nodes) * costs.grid.replica_nodes

    def timed(self, costs: CostModel, num_nodes: int, num_seats: int) -> TimedPlan:
        """See `System.timed`: of the fastest pipelines."""
        if self.shares_evenly:
            whole = num_nodes // costs.grid.replica_nodes * costs.grid.replica_nodes
            return TimedPlan(whole, costs.even_step_s(num_nodes) / costs.even_step_s(whole), 0.0)
        found = fastest_pipelines(costs, num_nodes)
        return found if found.factor < 1 else super().timed(costs, num_nodes, found.num_seats)

    def outlives_a_loss(self, costs: CostModel, plan: PlacementPlan, num_nodes: int) -> bool:
        """See `System.outlives_a_loss`: there are two pipelines."""
        return num_nodes >= 2 * costs.grid.replica_nodes

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
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


def fastest_pipelines(costs: CostModel, num_nodes: int) -> TimedPlan:
    """Return the fastest pipelines of templates that nodes can form: two or more, where there are two model replicas.

    By any time, a pipeline ends as many micro-batches as the best template of its stages or fewer. Each number of
    pipelines takes the earliest time by which they can end all together. Parts of pipelines, of two numbers of stages
    on average as many as there are, would end no fewer: numbers that are slower even so need no closer look.
    """
    grid, num_stages = costs.grid, num_nodes // costs.grid.unit_nodes
    most = num_stages // grid.num_stages
    number_P = np.arange(min(2, most), most + 1)
    nodes_P = (number_P * grid.replica_nodes).tolist()
    even_P = np.array(list(map(costs.even_micro_batches, nodes_P)))
    sample_s_P = np.array([costs.even_step_s(nodes) / costs.samples_per_step(nodes) for nodes in nodes_P])
    # A template has less than twice the stages of the job: each has half of the work or more.
    stages, *numbers_and_ends = zip(*costs.templates(2 * (math.ceil(even_P[0]) + grid.num_stages)), strict=True)
    end_s_T = np.unique(np.concatenate(numbers_and_ends[1]))
    ended_XT = np.maximum.accumulate([
        np.append(0, ended)[np.searchsorted(end_s, end_s_T, side="right")]
        for ended, end_s in zip(*numbers_and_ends, strict=True)
    ])  # fmt: skip
    ended_XT = ended_XT[np.searchsorted(stages, np.unique(stages), side="right") - 1]
    further_P, whole_P = num_stages - number_P * grid.num_stages, np.searchsorted(ended_XT[0], even_P)
    few_K, many_K = np.triu_indices(len(ended_XT))
    above_KP = further_P / number_P - few_K[:, None]
    share_KP = np.minimum(1.0, above_KP / np.maximum(1, many_K - few_K)[:, None])
    first_P, after_P = np.zeros_like(whole_P), whole_P
    while (first_P < after_P).any():
        middle_P = (first_P + after_P) // 2
        few_KP, many_KP = ended_XT[:, middle_P][few_K], ended_XT[:, middle_P][many_K]
        ended_P = np.where(above_KP < 0, 0.0, few_KP + share_KP * (many_KP - few_KP)).max(axis=0)
        # Rounding must not leave out the best.
        is_enough_P = ended_P >= even_P * (1 - 1e-9)
        first_P, after_P = np.where(is_enough_P, first_P, middle_P + 1), np.where(is_enough_P, middle_P, after_P)
    least_s_P, best = end_s_T[first_P] / end_s_T[whole_P] * sample_s_P, (math.inf, TimedPlan(0, 1.0, 0.0))
    for index in np.argsort(least_s_P).tolist():
        if least_s_P[index] <= best[0]:
            ended_by = partial(mean_ended, ended_XT.T, int(number_P[index]), int(further_P[index]))
            last = bisect.bisect_left(range(whole_P[index]), even_P[index], lo=first_P[index], key=ended_by)
            factor = float(end_s_T[last] / end_s_T[whole_P[index]])
            found = TimedPlan(nodes_P[index], factor, float(1 - even_P[index] / ended_by(last)))
            best = min(best, (factor * sample_s_P[index], found))
    return best[1]


def mean_ended(ended_TX: Floats, number: int, further: int, time: int) -> float:
    """Return the most micro-batches, per pipeline, that a number of pipelines end by a time.

    They share some stages beyond the fewest. Each ends as many alone, by the time and its stages, as `ended_TX` says.
    """
    ended_B, gains = np.zeros(further + 1), np.flatnonzero(np.diff(ended_TX[time])) + 1
    for _ in range(number):
        before_B, ended_B = ended_B, ended_B + ended_TX[time, 0]
        for stages in gains.tolist():
            np.maximum(ended_B[stages:], before_B[:-stages] + ended_TX[time, stages], out=ended_B[stages:])
    return float(ended_B[-1]) / number


OOBLECK = Oobleck(
    "oobleck",
    "Oobleck: pipelines that lose nodes take templates with fewer; batches are divided anew",
    survives="failures that leave each stage in some pipeline",
    needs="two model replicas or more, whole optimizer states",
)
