"""Copies in the memory of other nodes (Gemini, SOSP 2023)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision, StoppedJob
from lazsim.engine.systems.system import System, fetch_s, held_state_bytes
from lazsim.placement.plan import Ints


@dataclass(frozen=True)
class Gemini(System):
    """Every node sends its share of the state to others of its group while the network is idle; all go back to it."""

    num_copies: int = 2
    """Nodes that keep a share, its own among them (published: 2)."""
    idle_share: float = 0.5
    """Share of a step in which the network is idle: an assumption. What does not fit into one step takes several."""

    def copies_survive(self, held: Held) -> bool:
        """Tell whether one of the nodes that keep each share is left."""
        return bool(held.alive_N[self._keepers_NK(held.num_seats)].any(axis=1).all())

    def memory_lag_steps(self, costs: CostModel, num_nodes: int, step_s: float) -> int:
        """Return the steps that a copy takes to get through the idle network."""
        exchange_s = fetch_s(costs, (min(self.num_copies, num_nodes) - 1) * share_bytes(costs, num_nodes))
        return max(1, math.ceil(exchange_s / (self.idle_share * step_s)))

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """See `System.decide`."""
        held = stopped.held
        num_nodes = stopped.num_usable
        is_newest = stopped.has_newer_copy
        if not stopped.paused and is_newest and self.copies_survive(held):
            if not num_nodes:
                return Decision(Action.WAIT, "memory", why="copies are left in memory, but too few nodes")
            nodes = stopped.alive[:num_nodes]
            phases = (("restart", self.recall_s(costs, held, num_nodes)),)
            why = "copies of every share are left in memory"
            return Decision(Action.RESTART, "memory", nodes, num_nodes, phases, why=why)
        if stopped.paused:
            return super().decide(costs, stopped)
        why = "every copy of a share is lost" if is_newest else "no copy is newer than the checkpoint"
        return protocol.decide_start(stopped, why)

    def recall_s(self, costs: CostModel, held: Held, num_nodes: int) -> float:
        """Return the seconds in which each of some nodes gets from memory what it would read from storage.

        A node that is new has nothing of it, and every other one no more than its share where nodes hold the same. What
        all need each node passes on, so that it sends as much as it gets. Nodes that keep more lost shares than one
        send further ones beside; those that keep the same share equally.
        """
        lost_RK = self._keepers_NK(held.num_seats)[~held.alive_N]
        left_RK = held.alive_N[lost_RK]
        shares_N = np.zeros(held.num_seats)
        np.add.at(shares_N, lost_RK, left_RK / left_RK.sum(axis=1, keepdims=True))
        further = max(0.0, float(shares_N.max()) - 1) * share_bytes(costs, held.num_seats)
        return fetch_s(costs, float(self.load_bytes(costs, self.plan_evenly(costs, num_nodes)).max()) + further)

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of two versions of each copy: the last, and the one under way."""
        return 2 * min(self.num_copies, num_nodes) * share_bytes(costs, num_nodes)

    def choices(self) -> Mapping[str, Sequence[int]]:
        """See `System.choices`."""
        return {"num_copies": (2, 3, 4), **super().choices()}

    def _keepers_NK(self, num_nodes: int) -> Ints:
        """Return the nodes that keep the share of each node: all of its group of consecutive ones.

        The last group takes in the rest; there they are the node and the next ones in a ring (mixed placement of the
        publication).
        """
        copies = min(self.num_copies, num_nodes)
        last = (num_nodes // copies - 1) * copies
        node_N = np.arange(num_nodes)
        first_N = np.minimum(node_N // copies * copies, last)
        size_N = np.where(first_N == last, num_nodes - last, copies)
        keepers: Ints = first_N[:, None] + ((node_N - first_N)[:, None] + np.arange(copies)) % size_N[:, None]
        return keepers


def share_bytes(costs: CostModel, num_nodes: int) -> float:
    """Return the share of a node of the stage that has most: its nodes divide all that they hold among them."""
    per_stage = num_nodes // costs.grid.num_stages
    return held_state_bytes(costs, per_stage * costs.cluster.gpus_per_node) / per_stage


GEMINI = Gemini(
    "gemini",
    "Gemini: copies in the memory of other nodes, as often as the idle network takes them; all go back to the newest",
    survives="failures that leave a node of each group of two",
    needs="memory of the nodes for two versions of two copies, idle network",
)
