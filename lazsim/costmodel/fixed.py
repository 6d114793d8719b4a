"""Costs of a job whose times are given as numbers, whatever its plan and loads."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lazsim.costmodel.costs import CostModel, NodeDispatch, StepTimes
from lazsim.costmodel.network import FixedTransfers
from lazsim.errors import SpecError
from lazsim.placement.expert_parallel import ep_unit_nodes
from lazsim.placement.grid import Grid
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.specs import ClusterSpec, JobSpec, ModelSpec, StepConstants, TimesSpec


@dataclass(frozen=True)
class FixedStep(StepTimes):
    """Steps of equal seconds."""

    seconds: float

    def step_s(self, load_BLE: Ints) -> Floats:
        """See `lazsim.costmodel.costs.StepTimes`."""
        return np.full(len(load_BLE), self.seconds)


@dataclass(frozen=True)
class FixedCosts(CostModel):
    """A cost model with the known times of a job; see `lazsim.specs.TimesSpec`."""

    @property
    def times(self) -> TimesSpec:
        """The known times."""
        assert self.job.times is not None, "the job has known times"
        return self.job.times

    @cached_property
    def grid(self) -> Grid:
        """Stages share the layers evenly."""
        num_layers, num_stages = self.model.num_moe_layers, self.times.num_stages
        unit_nodes = self.times.nodes_per_stage or super().grid.unit_nodes
        return Grid(np.arange(num_layers) * num_stages // num_layers, num_stages, unit_nodes)

    def samples_per_step(self, num_nodes: int) -> int:
        """Return the known samples of a step, if any, and else as many for each node."""
        return self.times.samples_per_step or super().samples_per_step(num_nodes)

    def step_times(self, plan: PlacementPlan, dispatch: NodeDispatch) -> StepTimes:
        """Return the time of a step on the model replicas of a plan, without counting its traffic."""
        known = self.times.step_s
        if isinstance(known, tuple):
            replicas = max(1, plan.num_nodes // self.grid.replica_nodes)
            known = known[min(replicas, len(known)) - 1]
        return FixedStep(known)


def fixed_costs(model: ModelSpec, cluster: ClusterSpec, job: JobSpec, constants: StepConstants) -> FixedCosts:
    """Return the costs of a job with known times; a `SpecError` says that their stages fit no layers or nodes."""
    times = job.times
    assert times is not None, "the job has known times"
    if times.num_stages > model.num_moe_layers:
        raise SpecError(f"`times`: {times.num_stages} stages for {model.num_moe_layers} MoE layers: give fewer")
    unit_nodes = ep_unit_nodes(model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)
    if times.nodes_per_stage % unit_nodes:
        raise SpecError(
            f"`times`: {times.nodes_per_stage} nodes a stage, but equal chunks of {model.num_experts} experts, at most "
            f"{cluster.slots_per_gpu} on a GPU, fill {unit_nodes}: give a multiple of that, or none"
        )
    return FixedCosts(model, cluster, job, constants, FixedTransfers(times.transfer_s, times.storage_s))
