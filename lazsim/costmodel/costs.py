"""What an engine asks of a job: sizes of its states, its micro-batches, and the step times of a plan.

Axes: B samples of the loads, L layers, E experts, N nodes, S stages, V servers.
"""

import abc
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lazsim.costmodel.network import AnalyticCommunication, FixedTransfers
from lazsim.dispatch import Partition
from lazsim.placement.expert_parallel import ep_unit_nodes
from lazsim.placement.grid import Grid
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.specs import (
    OPTIMIZER_STATE_BYTES_PER_PARAM,
    WEIGHT_BYTES_PER_PARAM,
    ClusterSpec,
    JobSpec,
    ModelSpec,
    StepConstants,
)


class StepTimes(abc.ABC):
    """Step times of one plan under any loads."""

    @abc.abstractmethod
    def step_s(self, load_BLE: Ints) -> Floats:
        """Return the seconds of a step for each sample of the loads, shape (B,)."""

    def step_and_measured_s(self, load_BLE: Ints) -> tuple[Floats, Floats]:
        """Return the same, and what is left of it without the time beyond the sizes of a profile."""
        step_s = self.step_s(load_BLE)
        return step_s, step_s


Template = tuple[int, Floats, Floats]
"""Stages of a pipeline, the micro-batches that it can have in a step, in whole rounds, and its steps, in any unit."""


@dataclass(frozen=True, eq=False)
class NodeDispatch:
    """How the nodes of a plan dispatch tokens: their servers and groups, and the buffers of their experts."""

    server_N: Ints
    """Server of each node, 0 .. V - 1."""
    group_N: Ints | None = None
    """Expert-parallel group of each node, inside which tokens stay; none under flexible dispatch."""
    padded: bool = False
    """Whether every expert's buffer has the size of the largest."""
    masked_reorder: bool = False
    """Whether tokens are reordered by a matmul with a one-hot mask."""
    most_chunks: int = 1
    """Chunks in which an exchange can go behind the experts; the fastest number of them is taken in each layer."""

    @cached_property
    def servers(self) -> Partition:
        """The nodes by server."""
        return Partition(self.server_N)


@dataclass(frozen=True)
class CostModel:
    """Specifications, and what steps, transfers and checkpoints take; each kind of job has its own steps."""

    model: ModelSpec
    cluster: ClusterSpec
    job: JobSpec
    constants: StepConstants
    communication: AnalyticCommunication | FixedTransfers

    @property
    def measured_part(self) -> "CostModel | None":
        """The same model without the time beyond the sizes of a profile; none where times are not extrapolated."""
        return None

    @property
    def tokens_per_gpu(self) -> int:
        """Tokens of one GPU in a micro-batch."""
        return self.job.sequences_per_gpu * self.model.sequence_length

    @property
    def state_bytes_per_param(self) -> int:
        """Training state of a parameter: its weight, and what the optimizer keeps."""
        parallel = self.job.parallel
        kept = parallel.optimizer_bytes if parallel else OPTIMIZER_STATE_BYTES_PER_PARAM["adam"]
        return WEIGHT_BYTES_PER_PARAM + kept

    @property
    def expert_state_bytes(self) -> int:
        """Training state of one expert of one layer."""
        return self.state_bytes_per_param * self.model.expert_params

    @property
    def dense_state_bytes(self) -> int:
        """Training state outside the routed experts, once."""
        return self.state_bytes_per_param * self.model.dense_params

    @property
    def expert_states_bytes(self) -> int:
        """Training state of all routed experts, once."""
        return self.model.num_moe_layers * self.model.num_experts * self.expert_state_bytes

    @property
    def further_expert_bytes_S(self) -> Floats:
        """Training state of experts that no plan places on one node of each stage: none, here."""
        return np.zeros(self.grid.num_stages)

    def stage_bytes(self, num_gpus: int) -> tuple[Floats, Floats]:
        """Return the training state of `num_gpus` GPUs of each stage that follow each other, each part once.

        Of the GPUs of a node, which share the dense part, and of those that hold the experts once.

        Returns
        -------
        dense_S, experts_S : ndarray of float64, shape (S,)
            Bytes outside the routed experts, and of these under plain expert parallelism.
        """
        gpus, stages = self.cluster.gpus_per_node, self.grid.num_stages
        dense_S = np.full(stages, self.dense_state_bytes / (stages * max(1.0, gpus / num_gpus)))
        layers_S = np.bincount(self.grid.stage_L, minlength=stages)
        of_layer = self.model.num_experts * self.expert_state_bytes
        return dense_S, layers_S * of_layer / max(1.0, self.grid.unit_nodes * gpus / num_gpus)

    def kept_shares(self, num_nodes: int, num_gpus: int) -> tuple[float, float]:
        """Return what GPUs save and read again of the dense state and of the experts that `num_gpus` of them hold.

        All, here: of the GPUs that hold the same, one saves it, and each reads it.
        """
        return 1.0, 1.0

    def saved_bytes(self, num_nodes: int, num_gpus: int, experts_share: float = 1.0) -> float:
        """Return what those `num_gpus` GPUs save that save most, with a share of their experts."""
        dense_share, expert_share = self.kept_shares(num_nodes, num_gpus)
        dense_S, experts_S = self.stage_bytes(num_gpus)
        return float((dense_share * dense_S + experts_share * expert_share * experts_S).max())

    @cached_property
    def grid(self) -> Grid:
        """How the job uses nodes: one stage, here."""
        model, cluster = self.model, self.cluster
        unit = ep_unit_nodes(model.num_experts, cluster.gpus_per_node, cluster.slots_per_gpu)
        return Grid(np.zeros(model.num_moe_layers, dtype=np.int64), 1, unit)

    def num_micro_batches(self, num_nodes: int) -> int:
        """Return the micro-batches of a step on `num_nodes` nodes."""
        return self.job.num_micro_batches

    def even_micro_batches(self, num_nodes: int) -> float:
        """Return the micro-batches that each data-parallel rank of `num_nodes` nodes has of an even global batch."""
        return float(self.num_micro_batches(num_nodes))

    def even_step_s(self, num_nodes: int) -> float:
        """Return the step of whole model replicas under even loads, in any unit: as long on any number, here."""
        return 1.0

    def templates(self, num_micro_batches: int) -> list[Template]:
        """Return how a pipeline can run up to some micro-batches, with the stages of the job or more, but not twice.

        Here, every micro-batch takes a stage as long as it has layers.
        """
        ended = np.arange(1.0, num_micro_batches + 1)
        return [
            (stages, ended, (ended + stages - 1) * math.ceil(self.model.num_whole_layers / stages))
            for stages in range(self.grid.num_stages, 2 * self.grid.num_stages)
        ]

    def stage_bytes_per_node(self, num_nodes: int) -> float:
        """Return the bytes that a node sends to other pipeline stages in a step: none, since there is one stage."""
        return 0.0

    def rerouted_bytes(self, num_nodes: int, share: float) -> float:
        """Return what a GPU keeps of other micro-batches, a share of its own, while they are in later stages.

        Nothing, here: one goes forward and backward before the next.
        """
        return 0.0

    def samples_per_step(self, num_nodes: int) -> int:
        """Return the sequences of a step on nodes: as many for each, here."""
        return num_nodes * self.cluster.gpus_per_node * self.job.sequences_per_gpu * self.job.num_micro_batches

    def part_step_factor(self, num_nodes: int, num_left: int) -> float:
        """Return how many times as long a step is in which only some nodes of a plan do their part: no nodes share."""
        return 1.0

    def step_times(self, plan: PlacementPlan, dispatch: NodeDispatch) -> StepTimes:
        """Return the step times of a plan."""
        raise NotImplementedError
