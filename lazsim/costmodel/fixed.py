"""Costs of a job whose times are given as numbers, whatever its plan and loads."""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.step import CostModel, NodeLayout, StepTimes
from lazsim.costmodel.times import Floats
from lazsim.placement.grid import Grid
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.specs import ClusterSpec, JobSpec, ModelSpec, StepConstants, load_spec
from lazsim.specs.overrides import override


@dataclass(frozen=True)
class FixedCompute:
    """Every micro-batch takes as long; experts, reorders and the optimizer count in it."""

    step_s: float

    def dense_s(self, num_tokens: float) -> float:
        """See `lazsim.costmodel.times.ComputeTimes`."""
        return self.step_s

    def expert_s(self, num_tokens: Floats) -> Floats:
        """See `lazsim.costmodel.times.ComputeTimes`."""
        return np.zeros_like(num_tokens)

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """See `lazsim.costmodel.times.ComputeTimes`."""
        return np.zeros_like(num_tokens)

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """See `lazsim.costmodel.times.ComputeTimes`."""
        return np.zeros_like(capacity)

    def optimizer_s(self, num_params: Floats) -> Floats:
        """See `lazsim.costmodel.times.ComputeTimes`."""
        return 0.0 * num_params


@dataclass(frozen=True)
class FixedCommunication:
    """Collectives count in the step; every transfer, and every save or load, takes as long."""

    transfer_time_s: float = 0.0
    storage_time_s: float = 0.0

    def all_to_all_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """See `lazsim.costmodel.times.CommunicationTimes`."""
        return 0.0 * nic_bytes

    def all_reduce_s(self, nic_bytes: Floats, local_bytes: Floats, nic_hops: Floats, local_hops: Floats) -> Floats:
        """See `lazsim.costmodel.times.CommunicationTimes`."""
        return 0.0 * nic_bytes

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """See `lazsim.costmodel.times.CommunicationTimes`."""
        return self.transfer_time_s + 0.0 * nic_bytes

    def save_s(self, num_bytes: float, writer_bytes: float) -> float:
        """See `lazsim.costmodel.times.CommunicationTimes`."""
        return self.storage_time_s

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """See `lazsim.costmodel.times.CommunicationTimes`."""
        return self.storage_time_s


@dataclass(frozen=True)
class FixedStep:
    """Steps of equal seconds."""

    samples_per_step: int
    seconds: float

    def step_s(self, load_BLE: Ints) -> Floats:
        """See `lazsim.costmodel.step.StepTimes`."""
        return np.full(len(load_BLE), self.seconds)


@dataclass(frozen=True)
class FixedCosts(CostModel):
    """A cost model whose model replicas have given numbers of nodes and stages."""

    num_stages: int = 1
    unit_nodes: int = 1

    @property
    def grid(self) -> Grid:
        """Layers are shared evenly by stages, each of which holds its experts once on `unit_nodes` nodes."""
        num_layers = self.model.num_moe_layers
        return Grid(np.arange(num_layers) * self.num_stages // num_layers, self.num_stages, self.unit_nodes)

    def step_times(self, plan: PlacementPlan, layout: NodeLayout) -> StepTimes:
        """Return the same time for every plan, without counting its traffic."""
        return FixedStep(plan.num_nodes * self.samples_per_node, self.dense_s)


def fixed_costs(
    num_nodes: int,
    step_s: float,
    *,
    storage_s: float = 0.0,
    detect_s: float = 0.0,
    rebuild_s: float = 0.0,
    restart_s: float = 0.0,
    restart_per_node_s: float = 0.0,
    unit_nodes: int = 1,
    num_stages: int = 1,
    num_experts: int = 1,
    slots: int = 1,
    rebalance_interval_steps: int = 10**6,
) -> FixedCosts:
    """Return the costs of a job on nodes of one GPU with given times.

    Parameters
    ----------
    num_nodes
        Nodes of the cluster. A node trains one sequence a step.
    step_s, storage_s, detect_s, rebuild_s
        Seconds of a step, of a save as of a load, until a failure is noticed, and of new communicators.
    restart_s, restart_per_node_s
        Seconds of a restart beside the load, and for each node.
    unit_nodes, num_stages
        Nodes of a stage of a model replica, and its stages, each with a layer.
    num_experts, slots
        Experts of a layer, and those that fit on a node.
    rebalance_interval_steps
        Steps between plans.

    Examples
    --------
    >>> costs = fixed_costs(num_nodes=30, step_s=10.9)
    >>> costs.dense_s, costs.grid.replica_nodes
    (10.9, 1)
    """
    model = override(
        load_spec(ModelSpec, "gpt-s"),
        {"num_experts": num_experts, "num_layers": num_stages, "num_moe_layers": num_stages},
        "model",
    )
    recovery = {
        "detect_s": detect_s, "rebuild_s": rebuild_s, "regroup_s": 0.0, "restart_base_s": restart_s,
        "restart_per_node_s": restart_per_node_s, "connect_s": 0.0,
    }  # fmt: skip
    cluster = override(
        load_spec(ClusterSpec, "dgx-h100"),
        {
            "name": "nodes", "num_nodes": num_nodes, "gpus_per_node": 1, "slots_per_gpu": slots,
            **{f"recovery.{name}": seconds for name, seconds in recovery.items()},
        },
        "cluster",
    )  # fmt: skip
    job = override(
        load_spec(JobSpec, "testbed-a"),
        {"sequences_per_gpu": 1, "join_wait_s": 0.0, "rebalance_interval_steps": rebalance_interval_steps},
        "job",
    )
    constants = load_spec(StepConstants, "training")
    compute, communication = FixedCompute(step_s), FixedCommunication(storage_time_s=storage_s)
    return FixedCosts(
        model, cluster, job, constants, compute, communication, num_stages=num_stages, unit_nodes=unit_nodes
    )
