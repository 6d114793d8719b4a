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
from lazsim.placement.plan import Ints, PlacementPlan


@dataclass(frozen=True)
class Oobleck(SeatSystem):
    """A pipeline that loses nodes takes a template with fewer; its layers are copied from other pipelines.

    Notes
    -----
    Templates of ``n0`` to ``2 n0 - 1`` nodes, ``n0`` those that hold the model once, cover every number of nodes from
    ``n0`` on. Here a stage has as many nodes in each template, and further nodes make further stages, as evenly as
    they can; those that make no stage, or one that gains nothing, hold states only. Stages hold whole layers, and the
    fullest decides: of 61 layers, 9 stages hold up to 7. Micro-batches are divided so that the last pipeline ends as
    early as it can. Where this gains nothing, pipelines are as in the job, and so they are of whole model replicas.

    Of ``n`` nodes, those that make no whole number of ``n0`` take places of one more model replica. After a failure
    nodes change their places until each is taken ``n // n0`` times, as often as there are pipelines. A copy is the
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

    def timed_seats(self, costs: CostModel, num_nodes: int, num_seats: int) -> tuple[int, float]:
        """See `System.timed_seats`: those of as many model replicas as there are pipelines."""
        pipelines = Pipelines(costs, num_nodes)
        return pipelines.whole, pipelines.factor

    def empty_share(self, costs: CostModel, num_nodes: int, num_seats: int) -> float:
        """See `System.empty_share`: of what pipelines could do until the last one ends."""
        pipelines = Pipelines(costs, num_nodes)
        return pipelines.empty_share if pipelines.factor < 1 else super().empty_share(costs, num_nodes, pipelines.whole)

    def plan(self, costs: CostModel, num_nodes: int, load_LE: Ints, domain_N: Ints | None = None) -> PlacementPlan:
        """See `System.plan`: for the places that nodes take, and those beside them."""
        return super().plan(costs, self.num_seats(costs, num_nodes), load_LE, domain_N)

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
        """Return the places that nodes leave, and those that they take: from where most are to where fewest are."""
        order_KP = order_by_replica(costs, held)
        alive_KP, left_KP = by_replica(costs, held), by_replica(costs, held)
        moved: dict[int, int] = {}
        while (count_P := alive_KP.sum(axis=0)).min() < len(held.nodes) // costs.grid.replica_nodes:
            most, fewest = int(count_P.argmax()), int(count_P.argmin())
            # One that was there goes, the last of them, and the first that is free is taken.
            leaves, takes = int(np.flatnonzero(left_KP[:, most])[-1]), int(np.argmin(alive_KP[:, fewest]))
            moved[int(order_KP[leaves, most])] = int(order_KP[takes, fewest])
            alive_KP[leaves, most] = left_KP[leaves, most] = False
            alive_KP[takes, fewest] = True
        return moved

    def restart_s(self, costs: CostModel, decision: Decision[str], plan: PlacementPlan) -> float:
        """See `System.restart_s`: each node reads what is in a place."""
        load_s = 0.0
        if decision.source == "checkpoint":
            seats = costs.grid.by_replica_N(plan.num_nodes)[: decision.num_nodes]
            load_s = read_s(costs, self.load_bytes(costs, plan)[seats])
        return restart_s(costs, decision.num_nodes) + load_s


class Pipelines:
    """The pipelines that some nodes form from templates, and the micro-batches that each has of a step."""

    def __init__(self, costs: CostModel, num_nodes: int) -> None:
        grid = costs.grid
        pipelines = num_nodes // grid.replica_nodes
        self.whole = pipelines * grid.replica_nodes
        self._micro_batches = costs.even_micro_batches(self.whole) * pipelines
        each = math.ceil(self._micro_batches / pipelines)
        stages_K = (num_nodes // grid.unit_nodes + np.arange(pipelines)) // pipelines
        fastest = {
            most: min(range(grid.num_stages, most + 1), key=lambda stages: costs.template_s(stages, each))
            for most in set(stages_K.tolist())
        }
        stages_K = np.array([fastest[most] for most in stages_K.tolist()])
        ends_2K = np.array([[costs.template_s(one, many) for one in stages_K.tolist()] for many in (each, 2 * each)])
        more_s_K = (ends_2K[1] - ends_2K[0]) / each
        # One more stage takes half of the work of a stage at most, beside the time to fill the pipeline.
        most = 2 * each + int(stages_K.max())
        ends_MK = ends_2K[0] + np.arange(1 - each, most + 1 - each)[:, None] * more_s_K
        last = math.ceil(self._micro_batches) - 1
        end_s = float(np.partition(ends_MK, last, axis=None)[last])
        own_s = costs.template_s(grid.num_stages, costs.num_micro_batches(self.whole), is_own=True)
        # As many stages as in the job take its step: they gain nothing where it is longer, such as by whole rounds.
        self.factor = min(1.0, end_s / min(own_s, costs.template_s(grid.num_stages, each)))
        """Their step over that of whole model replicas as the job has them, which they take where those are faster."""
        self._could_K = each + (self.factor * own_s - ends_2K[0]) / more_s_K

    @property
    def empty_share(self) -> float:
        """The share of the micro-batches which they could have until the step ends that they lack."""
        return 1 - self._micro_batches / float(self._could_K.clip(min=0).sum())


OOBLECK = Oobleck(
    "oobleck",
    "Oobleck: pipelines that lose nodes take templates with fewer; batches are divided anew",
    survives="failures that leave each stage in some pipeline",
    needs="two model replicas or more, whole optimizer states",
)
