"""Sparse snapshots and local recovery (MoEvement; code of Swapnil-Gandhi/MoEvement)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.recovery_times import flow_s
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision, StoppedJob
from lazsim.engine.systems.system import System
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.specs import WEIGHT_BYTES_PER_PARAM


@dataclass(frozen=True)
class MoEvement(System):
    """A window of steps saves every operator once; a spare replays the steps of a failed stage from its logs.

    Notes
    -----
    In each step ``a`` of a GPU's ``P`` parameters are saved whole and the others' weights as long as
    ``12 a + 2 (P - a)`` bytes fit behind the step; a window takes ``P / a`` steps. After a failure, a spare fetches the
    last whole window, replays its steps and those after it; the other nodes wait. Replayed steps take their stage no
    fill and drain of the pipeline, which is left out here: each counts as the last step before the failure.

    All go back to the checkpoint where no window is whole since the start or the last restart, where a pipeline has
    lost every stage, so that no neighbour has logs for it, and where nodes fail while others recover (its documentation
    and code).
    """

    num_peers: int = 2
    """Data-parallel peers that keep a node's snapshots (published: 2)."""
    recovers_from_peers: bool = True
    stage_use: str = "replays single pipeline stages"

    def outlives_a_loss(self, costs: CostModel, plan: PlacementPlan, num_nodes: int) -> bool:
        """See `System.outlives_a_loss`: a spare takes the snapshots of peers, or all wait where no others can train."""
        has_others = num_nodes > plan.num_nodes or not self.can_start(costs, plan.num_nodes - 1)
        return has_others and not self.why_exposed(costs, plan.num_nodes)

    def why_exposed(self, costs: CostModel, num_nodes: int) -> str:
        """See `System.why_exposed`: no peer keeps the snapshots of a stage of one node."""
        return "" if num_nodes > costs.grid.num_stages else "each stage has one node, whose snapshots no other keeps"

    def window_steps(self, costs: CostModel, step_s: float) -> int:
        """Return the steps in which every operator is saved once: all wait for the stage that has most parameters."""
        params = float(self._node_params_S(costs).max()) / costs.cluster.gpus_per_node
        room = step_s * costs.cluster.host.link_bytes_per_s - WEIGHT_BYTES_PER_PARAM * params
        active = max(room / (self._saved_bytes(costs) - WEIGHT_BYTES_PER_PARAM), params / 1000)
        return max(1, math.ceil(params / active))

    def window_bytes_S(self, costs: CostModel, window: int) -> Floats:
        """Return the bytes of the snapshots of a window, of a node of each stage.

        Those of whole parameters, and in each step the weights of those whose turn is to come: half of them on average,
        in all steps but the last.
        """
        of_param = self._saved_bytes(costs) + WEIGHT_BYTES_PER_PARAM * (window - 1) / 2
        bytes_S: Floats = self._node_params_S(costs) * of_param
        return bytes_S

    def fetch_s(self, costs: CostModel, held: Held, window: int) -> float:
        """Return the seconds in which spares get the windows of missing nodes; the peers left share the sending.

        Each place counts as on its server of the plan, also where a spare from another server takes it.
        """
        missing_R, server_N = np.flatnonzero(~held.alive_N), np.arange(held.num_seats) // costs.cluster.nodes_per_server
        peers_KR = self._peers_NR(costs, held.num_seats)[missing_R].T
        keeps_NR = np.zeros((held.num_seats, len(missing_R)))
        keeps_NR[peers_KR, np.arange(len(missing_R))] = held.alive_N[peers_KR]
        bytes_R = self.window_bytes_S(costs, window)[costs.grid.stage_N(held.num_seats)[missing_R]]
        return flow_s(costs, keeps_NR * (bytes_R / keeps_NR.sum(axis=0)), server_N, server_N[missing_R])

    def snapshots_survive(self, costs: CostModel, held: Held) -> bool:
        """Tell whether a node of each pipeline is left, and each missing node or one of its next peers of its stage."""
        peers = self._peers_NR(costs, held.num_seats)
        pipelines = held.alive_N.reshape(costs.grid.num_stages, -1).any(axis=0)
        return bool(pipelines.all() and (held.alive_N | held.alive_N[peers].any(axis=1)).all())

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """See `System.decide`."""
        held = stopped.held
        num_lost = held.num_seats - len(held.nodes)
        if stopped.paused:
            return super().decide(costs, stopped)
        window = self.window_steps(costs, stopped.step_s) if stopped.step_s else 1
        # Windows follow each other from the start or the last restart on.
        num_steps = stopped.step - held.made.step if held.made is not None else 0
        is_whole = num_steps >= window and not stopped.in_recovery
        survive = is_whole and self.snapshots_survive(costs, held)
        if survive and num_lost <= len(stopped.newcomers):
            seats = tuple(np.flatnonzero(~held.alive_N).tolist())
            nodes = held.nodes + stopped.newcomers[:num_lost]
            replayed = window + num_steps % window
            phases = (
                ("reconfigure", self.rebuild_s(costs)),
                ("transfer", self.fetch_s(costs, held, window)),
                ("lost_work", replayed * stopped.step_s),
            )
            return Decision(
                Action.CONTINUE, "peers", nodes, len(nodes), phases, seats, "spares take the places of the failed nodes"
            )
        if survive and not stopped.num_usable:
            return Decision(Action.WAIT, "peers", why="snapshots are left, but too few nodes")
        # Without a spare, all go back to the checkpoint, on fewer nodes.
        why = "spares are too few" if survive else "a snapshot is lost"
        if not is_whole:
            why = "nodes failed while others recovered" if stopped.in_recovery else "no window is whole"
        return protocol.decide_start(stopped, why)

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of two windows of its own snapshots and its peers', and of what it sent in their steps."""
        window, num_peers = self.window_steps(costs, step_s), len(self._peers_NR(costs, num_nodes)[0])
        logs = window * costs.stage_bytes_per_node(num_nodes)
        return 2 * ((1 + num_peers) * float(self.window_bytes_S(costs, window).max()) + logs)

    def choices(self) -> Mapping[str, Sequence[int]]:
        """See `System.choices`."""
        return {"num_peers": (1, 2, 3), **super().choices()}

    def _node_params_S(self, costs: CostModel) -> Floats:
        """Return the parameters on a node of each stage."""
        params_S: Floats = np.add(*costs.stage_bytes(costs.cluster.gpus_per_node)) / costs.state_bytes_per_param
        return params_S

    def _saved_bytes(self, costs: CostModel) -> int:
        """Return the bytes that a snapshot takes of a parameter whose turn it is (12 of Adam in scheduler.py)."""
        return costs.state_bytes_per_param - WEIGHT_BYTES_PER_PARAM

    def _peers_NR(self, costs: CostModel, num_nodes: int) -> Ints:
        """Return the next nodes of the same stage, as far as there are others."""
        per_stage = num_nodes // costs.grid.num_stages
        node_N, place_N = np.divmod(np.arange(num_nodes), per_stage)
        steps = np.arange(1, min(self.num_peers, per_stage - 1) + 1)
        peers: Ints = node_N[:, None] * per_stage + (place_N[:, None] + steps) % per_stage
        return peers


MOEVEMENT = MoEvement(
    "moevement",
    "MoEvement: sparse snapshots over a window of steps; spares replay the failed stages only",
    survives="failures of nodes that spares replace, while one of the next two nodes of their stage is left",
    needs="pipeline stages, spare nodes, memory of the nodes for two windows of three snapshots",
)
