"""Systems that go on in their places while nodes are missing, and let others take the free places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.recovery_times import flow_s, held_bytes
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision, StoppedJob, UsableNodes
from lazsim.engine.systems.system import System
from lazsim.placement.expert_parallel import ep_unit_nodes
from lazsim.placement.plan import Bools, Floats, Ints, PlacementPlan


@dataclass(frozen=True)
class SeatSystem(System):
    """A system whose nodes keep their places in the plan after a failure, as long as `goes_on`."""

    recovers_from_peers: bool = True

    @property
    def joins_in_place(self) -> bool:
        """Whether nodes join without a restart: they take free places."""
        return True

    def goes_on(self, costs: CostModel, held: Held) -> bool:
        """Tell whether the nodes left can go on in their places: every place has a node in some model replica."""
        return bool(by_replica(costs, held).any(axis=0).all())

    def keep(self, costs: CostModel, held: Held) -> Held:
        """Return the nodes left that still train."""
        return held

    def continue_s(self, costs: CostModel, held: Held) -> tuple[tuple[str, float], ...]:
        """Return the buckets and seconds that the nodes left take until they go on."""
        return (("reconfigure", self.rebuild_s(costs)),)

    def free_seats(self, costs: CostModel, held: Held, num_newcomers: int) -> tuple[int, ...]:
        """Return the places that newcomers take: where most nodes are missing, first."""
        order_N = order_by_replica(costs, held).ravel()
        missing = ~by_replica(costs, held)
        rank_N = np.empty(held.num_seats, dtype=np.int64)
        rank_N[order_N] = (missing * missing.cumsum(axis=0)).ravel()
        seats = np.argsort(-rank_N, kind="stable")[: min(num_newcomers, int(missing.sum()))]
        return tuple(np.sort(seats).tolist())

    def newcomers(
        self, costs: CostModel, held: Held, alive: Sequence[str], usable_nodes: UsableNodes
    ) -> tuple[str, ...]:
        """See `System.newcomers`."""
        in_use = set(held.nodes)
        others = tuple(node for node in alive if node not in in_use)
        if usable_nodes(len(alive)) > held.num_seats:
            return others
        return others[: len(self.free_seats(costs, held, len(others)))]

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """See `System.decide`."""
        held = stopped.held
        if stopped.paused and stopped.usable_nodes(len(stopped.alive)) <= held.num_seats:
            seats = self.free_seats(costs, held, len(stopped.newcomers))
            phases = (("reconfigure", self.rebuild_s(costs)), ("transfer", self.fetch_s(costs, held, seats)))
            nodes = held.nodes + stopped.newcomers[: len(seats)]
            return Decision(Action.CONTINUE, "peers", nodes, len(nodes), phases, seats)
        if not stopped.paused and held.made is not None:
            kept = self.keep(costs, held)
            if kept.nodes and self.goes_on(costs, kept):
                why, go_on_s = "the nodes left go on in their places", self.continue_s(costs, kept)
                return Decision(Action.CONTINUE, "peers", kept.nodes, len(kept.nodes), go_on_s, why=why)
        return super().decide(costs, stopped)

    def fetch_s(self, costs: CostModel, held: Held, seats: Sequence[int]) -> float:
        """Return the seconds in which the states of places are fetched from the nodes left.

        All that have a state send equal shares of it. Each place counts as on its server of the plan, also where a node
        from another server takes it. For connections, see `lazsim.costmodel.recovery_times.transfer_s`.
        """
        assert held.made is not None, "some nodes hold states"
        places, server_N = list(seats), np.arange(held.num_seats) // costs.cluster.nodes_per_server
        state_KN, bytes_KN = self.states(costs, held.made.plan)
        sent_NR = np.zeros((held.num_seats, len(places)))
        for state_R, bytes_R in zip(state_KN[:, places], bytes_KN[:, places], strict=True):
            has_NR = held.alive_N[:, None] & (state_KN[:, :, None] == state_R).any(axis=0)
            sent_NR += has_NR * (bytes_R / has_NR.sum(axis=0))
        return flow_s(costs, sent_NR, server_N, server_N[places])

    def states(self, costs: CostModel, plan: PlacementPlan) -> tuple[Ints, Floats]:
        """Return the states that each node of a plan has, by number, and their bytes, both of shape (K, N).

        One is its part of the dense state of its stage, the other that of the experts.
        """
        grid, cluster = costs.grid, costs.cluster
        expert_nodes = ep_unit_nodes(costs.model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)
        dense_N, experts_N = (grid.part_N(plan.num_nodes, nodes) for nodes in (grid.matrix_nodes, expert_nodes))
        return np.array([dense_N, grid.num_dense_parts + experts_N]), np.array(held_bytes(costs, plan))


@dataclass(frozen=True)
class ReplicaSystem(SeatSystem):
    """A system of which only whole model replicas go on: the other nodes of one that fails stand by."""

    takes_two_replicas: bool = True

    def keep(self, costs: CostModel, held: Held) -> Held:
        """Return the nodes of whole replicas."""
        broken_N = broken_replicas(costs, held)[costs.grid.replica_N(held.num_seats)]
        return held.only([node for node, seat in zip(held.nodes, held.seats, strict=True) if not broken_N[seat]])


def broken_replicas(costs: CostModel, held: Held) -> Bools:
    """Return whether each model replica of the plan lacks a node."""
    return np.logical_not(by_replica(costs, held).all(axis=1))


def by_replica(costs: CostModel, held: Held) -> Bools:
    """Return which nodes are there, by model replica and place."""
    alive_KP: Bools = held.alive_N[order_by_replica(costs, held)]
    return alive_KP


def order_by_replica(costs: CostModel, held: Held) -> Ints:
    """Return the nodes of the plan by model replica and place."""
    return costs.grid.by_replica_N(held.num_seats).reshape(-1, costs.grid.replica_nodes)
