"""A way to survive failures: what every system answers, and the answers of most.

A system is a frozen `System`. It says how nodes are used, how long a step takes on what is left of them, what is saved
and when, how the job goes on after a failure, and which nodes join: in this order. One that differs overrides the
method in question.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.costs import CostModel, NodeDispatch
from lazsim.costmodel.recovery_times import checkpoint_load_bytes, checkpoint_save_s, read_s, restart_s
from lazsim.engine import protocol
from lazsim.engine.held import Held
from lazsim.engine.protocol import Action, Decision, StoppedJob, UsableNodes
from lazsim.errors import InfeasiblePlanError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import place_ep
from lazsim.placement.grid import Grid
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.placement.policies import NamedPolicy, place
from lazsim.placement.request import PlacementRequest, require_plan_size
from lazsim.specs import JobSpec


class Pace(NamedTuple):
    """Steps on what is left of a plan, against those on all of it."""

    step_factor: float = 1.0
    samples_share: float = 1.0


class TimedPlan(NamedTuple):
    """A plan whose step, times a factor, is that of some nodes, which train its samples."""

    num_seats: int
    factor: float
    empty_share: float
    """Share of their micro-batches that the nodes leave empty, as rounds are whole."""


class Save(NamedTuple):
    """A save of the training state."""

    stall_s: float
    """Time in which training waits."""
    persist_s: float = 0.0
    """Time until it counts, beside training; the next save waits for it."""


@dataclass(frozen=True)
class System:
    """A system, by what tells it from the others."""

    name: str
    description: str
    survives: str = "nothing: every failure is a restart from the checkpoint"
    """Failures after which it goes on without a checkpoint, in a few words."""
    needs: str = "storage for checkpoints"
    """What it takes for that."""
    policy: NamedPolicy | None = None
    """Placement policy under flexible dispatch; none for plain expert parallelism."""
    placement: str = ""
    """Name of a policy that was chosen; empty where it is the one that the system publishes."""
    seed: int = 0
    """Seed of a policy that draws."""
    padded: bool = False
    masked_reorder: bool = False
    most_chunks: int = 1
    """See `lazsim.costmodel.costs.NodeDispatch`."""
    recovers_from_peers: bool = False
    """Whether survivors that hold every expert go on from the step that failed; else every failure is a restart."""
    regroups_joins: bool = False
    """Whether new nodes join by regrouping where it is plain expert parallelism; those that it dropped wait for a
    restart."""
    restarts_for_joins: bool = True
    """Whether it restarts for nodes that join no other way; else they wait for the restart after the next failure."""
    min_replicas: int = 0
    """Fewest replicas of an expert under flexible dispatch; 0 for the fault threshold of the job."""
    most_lost_tokens: float = 1.0
    """Most that its best setting may lose of the updates of experts (MoC's budget, arXiv 2408.04307: 3.75 %)."""
    stage_use: str = ""
    """Use of pipeline stages, in a few words, if it needs two or more."""
    takes_two_replicas: bool = False
    """Whether it needs two model replicas or more."""
    doubles_stages: bool = False
    """Whether each node also holds the states of its place in the next pipeline stage."""

    # Nodes

    def usable_nodes(self, costs: CostModel, num_nodes: int) -> int:
        """Return the largest usable node count up to `num_nodes`; 0 when the experts do not fit.

        Notes
        -----
        A policy that was chosen may not apply to every number of nodes. It says so when it is asked to plan for even
        loads, and the most nodes to which it applies are used.

        Raises
        ------
        SpecError
            When a plan for all the nodes would fill the memory.
        """
        model, cluster, grid = costs.model, costs.cluster, costs.grid
        require_plan_size(model.num_moe_layers, model.num_experts, num_nodes, cluster.slots_per_node)
        fewest = self.fewest_nodes(costs)
        if self.is_elastic:
            unit = grid.num_stages * grid.column_nodes
            counts = range(num_nodes // unit * unit, fewest - 1, -unit)
            return next((count for count in counts if not self.placement or self._applies(costs, count)), 0)
        return num_nodes // fewest * fewest

    def num_seats(self, costs: CostModel, num_nodes: int) -> int:
        """Return the places of a plan for nodes, of which those of the last model replica may stay free."""
        return num_nodes

    # Steps, and what they take

    def timed(self, costs: CostModel, num_nodes: int, num_seats: int) -> TimedPlan:
        """Return what the step of nodes in some seats of a plan follows from.

        Steps on all places, the free ones included, are those that `pace` is held against.
        """
        return TimedPlan(num_seats, 1.0, 1 - costs.even_micro_batches(num_seats) / costs.num_micro_batches(num_seats))

    def pace(self, costs: CostModel, held: Held, step_s: float) -> Pace:
        """Return how steps of `step_s` on the whole plan go on the nodes left of it."""
        return Pace()

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of a node's own memory that copies and logs take, with steps of `step_s`."""
        return 0.0

    def extra_gpu_bytes(self, costs: CostModel, num_nodes: int) -> Mapping[str, float]:
        """Return the bytes of each GPU that the system takes beside training, by part of its `MemoryUse`."""
        return {}

    @property
    def keeps_whole_states(self) -> bool:
        """Whether every replica of a parameter has its own optimizer state."""
        return self.recovers_from_peers

    # Saves

    def save(self, costs: CostModel, num_nodes: int, step_s: float) -> Save:
        """Return what a checkpoint of `num_nodes` nodes takes, with steps of `step_s`."""
        return Save(checkpoint_save_s(costs, num_nodes))

    def save_all(self, costs: CostModel, num_nodes: int, step_s: float) -> Save:
        """Return what a checkpoint of everything takes, with which a job stops in order."""
        return self.save(costs, num_nodes, step_s)

    def interval_s(self, costs: CostModel, plan: PlacementPlan, save: Save, between_s: float) -> float | None:
        """Return the seconds of training between checkpoints that are published for it, from those between failures.

        None where Young's formula says them; see `lazsim.engine.interval`.
        """
        return None

    def memory_lag_steps(self, costs: CostModel, num_nodes: int, step_s: float) -> int | None:
        """Return the steps between copies in the memory of other nodes; None without any."""
        return None

    # Failures

    def detect_s(self, costs: CostModel, rest_s: float) -> float:
        """Return how long survivors take to notice a failure `rest_s` before the end of the step."""
        return costs.cluster.recovery.detect_s

    def decide(self, costs: CostModel, stopped: StoppedJob) -> Decision:
        """Decide how the job goes on; see `lazsim.engine.protocol.decide`."""
        return protocol.decide(self, stopped)

    def restart_s(self, costs: CostModel, decision: Decision, plan: PlacementPlan) -> float:
        """Return the seconds of a restart, with the load of the states and the phases of the decision."""
        load_s = 0.0
        if decision.source == "checkpoint":
            # Nodes take the first places of a plan that has more.
            seats = costs.grid.by_replica_N(plan.num_nodes)[: decision.num_nodes]
            load_s = read_s(costs, self.load_bytes(costs, plan)[seats])
        return restart_s(costs, decision.num_nodes) + load_s + math.fsum(seconds for _, seconds in decision.phases)

    def load_bytes(self, costs: CostModel, plan: PlacementPlan) -> Floats:
        """Return the bytes of the checkpoint that each node of a plan reads, shape (N,)."""
        return checkpoint_load_bytes(costs, plan)

    def rebuild_s(self, costs: CostModel) -> float:
        """Return the seconds in which a running job plans again and rebuilds its communicators."""
        return costs.cluster.recovery.rebuild_s

    def replica_start_s(self, costs: CostModel) -> float | None:
        """Return the seconds until the processes of a replica that failed have started anew, beside training.

        None where nodes do not get their states beside training, but all wait for them.
        """
        return None

    def outlives_a_loss(self, costs: CostModel, plan: PlacementPlan, num_nodes: int) -> bool:
        """Tell whether it goes on without a checkpoint whichever one node of a plan for some of `num_nodes` goes.

        It does where others hold every expert.
        """
        return self.recovers_from_peers and plan.fewest_nodes > 1

    def why_exposed(self, costs: CostModel, num_nodes: int) -> str:
        """Say why every failure on `num_nodes` nodes is a restart, where the system promises more; or nothing."""
        needed = 2 * costs.grid.replica_nodes
        takes_two = self.takes_two_replicas or (self.recovers_from_peers and not self.is_elastic)
        if not takes_two or num_nodes >= needed:
            return ""
        return f"two model replicas take {needed} nodes, and at most {num_nodes} train"

    def stale_steps(self, interval_steps: int, since_steps: float = math.inf) -> float | None:
        """Return the steps whose updates of experts a rollback loses, in the mean; None where none can be.

        Of them, `since_steps` were kept since the rollback before, or the start.
        """
        return None

    def within_budget(self, lost_steps: float, num_steps: int, interval_steps: int) -> "System":
        """Return the system as it goes on when its rollbacks have lost the updates of `lost_steps` of `num_steps`."""
        return self

    # New nodes

    @property
    def joins_in_place(self) -> bool:
        """Whether nodes join without a restart."""
        return self.is_elastic or self.regroups_joins

    def newcomers(
        self, costs: CostModel, held: Held, alive: Sequence[str], usable_nodes: UsableNodes
    ) -> tuple[str, ...]:
        """Return the nodes for which a pause of training is worthwhile."""
        return protocol.find_newcomers(held.nodes, alive, usable_nodes)

    # Searches

    def choices(self) -> Mapping[str, Sequence[int]]:
        """Return the fields of the system that a search for its best setting may change, with the values to try."""
        if self.is_elastic:
            return {"min_replicas": (1, 2, 3, 4)}
        return {} if self.joins_in_place and not self.regroups_joins else {"restarts_for_joins": (True, False)}

    def quickly(self) -> "System":
        """Return the system as it is simulated where layouts are compared: without what takes seconds to find."""
        return self

    # What no system of lazsim overrides

    @property
    def is_elastic(self) -> bool:
        """Whether it uses any number of nodes, rebalances, and lets nodes join without a restart."""
        return self.policy is not None

    @property
    def run_name(self) -> str:
        """Its name, with the policy where that was chosen: tells runs of one system apart."""
        return f"{self.name}:{self.placement}" if self.placement else self.name

    def can_start(self, costs: CostModel, num_nodes: int) -> bool:
        """Tell whether a job starts with this many nodes, or waits for more."""
        return self.usable_nodes(costs, num_nodes) >= max(1, costs.job.min_nodes)

    def fewest_nodes(self, costs: CostModel) -> int:
        """Return the fewest nodes whose slots hold every expert."""
        grid = costs.grid
        if self.is_elastic:
            columns = -(-costs.model.num_experts // costs.cluster.slots_per_node)
            return grid.num_stages * -(-columns // grid.column_nodes) * grid.column_nodes
        return grid.replica_nodes

    def plan(self, costs: CostModel, num_nodes: int, load_LE: Ints, domain_N: Ints | None = None) -> PlacementPlan:
        """Plan for `num_nodes` nodes, of these failure domains where they have any, from the observed loads."""
        if self.policy is None:
            model, cluster, grid = costs.model, costs.cluster, costs.grid
            stages = tuple(grid.stage_L.tolist())
            slots = cluster.gpus_per_node, cluster.slots_per_gpu
            return _plan_plainly(stages, grid.num_stages, model.num_experts, num_nodes, *slots)
        return costs.grid.place(
            load_LE,
            num_nodes,
            lambda loads, nodes: self._plan_layers(costs, loads, nodes, None if domain_N is None else domain_N[nodes]),
            layers_alone=self.policy.plans_layers_alone,
        )

    def _plan_layers(self, costs: CostModel, load_LE: Ints, nodes_N: Ints, domain_N: Ints | None) -> PlacementPlan:
        cluster, num_nodes = costs.cluster, len(nodes_N)
        assert self.policy is not None, "plain expert parallelism has no policy"
        replicas = allocate(load_LE, num_nodes * cluster.slots_per_node, self.min_replicas or costs.job.fault_threshold)
        slots = cluster.slots_per_node, cluster.gpus_per_node
        request = PlacementRequest(replicas, num_nodes, *slots, load_LE, self.seed, domain_N=domain_N)
        if not self.policy.is_custom:
            plan: PlacementPlan = self.policy.function(request)
            return plan
        # A user's plan may leave out empty slots.
        return place(self.policy, request).with_slots(cluster.slots_per_node)

    def plan_evenly(self, costs: CostModel, num_nodes: int) -> PlacementPlan:
        """Plan for places of nodes from even loads; an `InfeasiblePlanError` says that the policy does not apply."""
        shape = (costs.model.num_moe_layers, costs.model.num_experts)
        return self.plan(costs, self.num_seats(costs, num_nodes), np.ones(shape, dtype=np.int64))

    def _applies(self, costs: CostModel, num_nodes: int) -> bool:
        try:
            self.plan_evenly(costs, num_nodes)
        except InfeasiblePlanError:
            return False
        return True

    def dispatch(self, costs: CostModel, server_N: npt.NDArray[np.int64]) -> NodeDispatch:
        """Return how nodes on these servers dispatch tokens."""
        group_N = None if self.is_elastic else costs.grid.replica_N(len(server_N))
        return NodeDispatch(server_N, group_N, self.padded, self.masked_reorder, self.most_chunks)


PLAIN_PLANS_KEPT = 8
"""Plans of plain expert parallelism that all systems share: on thousands of nodes each takes tens of MB."""


@functools.lru_cache(PLAIN_PLANS_KEPT)
def _plan_plainly(
    stages: tuple[int, ...], num_stages: int, num_experts: int, num_nodes: int, gpus_per_node: int, slots_per_gpu: int
) -> PlacementPlan:
    """Plan by plain expert parallelism for layers of these stages: loads change nothing."""
    return Grid(np.array(stages), num_stages, unit_nodes=1).place(
        np.ones((len(stages), num_experts), dtype=np.int64),
        num_nodes,
        lambda loads, nodes: place_ep(len(loads), num_experts, len(nodes), gpus_per_node, slots_per_gpu),
        layers_alone=True,
    )


def under_job(system: System, job: JobSpec) -> System:
    """Return a system with new nodes joining as a job says."""
    return replace(system, regroups_joins=system.regroups_joins and job.regrouped_joins == "reconfigure")


def decide_next(system: System, costs: CostModel, stopped: StoppedJob) -> Decision:
    """Decide how a job goes on: as its system says, or as before where it paused for nodes that do not join now."""
    held, stopped = stopped.held, replace(stopped, min_nodes=costs.job.min_nodes)
    is_joining = stopped.paused and stopped.joins_due
    if is_joining and not system.newcomers(costs, held, stopped.alive, stopped.usable_nodes):
        return Decision(Action.RESUME, "peers", held.nodes, len(held.nodes), why="no node is left to join")
    decision = system.decide(costs, stopped)
    starts = decision.action is Action.RESTART and system.restarts_for_joins
    if is_joining and decision.action in (Action.RESTART, Action.WAIT) and not starts:
        return Decision(Action.RESUME, "peers", held.nodes, len(held.nodes), why="new nodes wait for a restart")
    if decision.source == "checkpoint" and not stopped.checkpoint_step:
        # Without one, a restart reads nothing.
        return replace(decision, source="initial")
    return decision


def held_state_bytes(costs: CostModel, num_gpus: int) -> float:
    """Return the training state, each part once, on GPUs that follow each other, of the stage that has most."""
    dense_S, experts_S = costs.stage_bytes(num_gpus)
    return float((dense_S + experts_S).max())


def state_bytes(costs: CostModel) -> float:
    """Return the training state of the whole model, once."""
    return costs.dense_state_bytes + costs.expert_states_bytes


def fetch_s(costs: CostModel, num_bytes: float) -> float:
    """Return the seconds in which a node fetches bytes from another."""
    return float(costs.communication.transfer_s(np.array(num_bytes), np.array(0.0)))


def saved_behind(copy_s: float, write_s: float, step_s: float) -> Save:
    """Return a save that is copied to the memory of the nodes behind a step, and written from there.

    Training waits for what of the copy does not fit behind the step: it ends before weights change again (CheckFreq,
    section 4).
    """
    stall_s = max(0.0, copy_s - step_s)
    return Save(stall_s, copy_s - stall_s + write_s)


def copy_to_host_s(costs: CostModel, num_nodes: int, experts_share: float = 1.0) -> float:
    """Return the seconds in which each GPU copies what it saves, with a share of its experts, to its node's memory."""
    return costs.saved_bytes(num_nodes, 1, experts_share) / costs.cluster.host.link_bytes_per_s
