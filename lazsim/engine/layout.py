"""Costs of a job with a layout: steps from measured kernels, nodes in pipeline stages.

Axes: B samples of the loads, L MoE layers, E experts, G GPUs.
"""

import functools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.costs import CostModel, NodeDispatch, StepTimes, Template
from lazsim.costmodel.memory import MASK_BUFFER_BYTES, MASK_BYTES, MemoryUse
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.step import assigned_tokens, slots_by_gpu
from lazsim.engine.systems.system import System
from lazsim.errors import SpecError
from lazsim.placement.grid import Grid
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.specs import WEIGHT_BYTES_PER_PARAM, ClusterSpec, GpuSpec, JobSpec, ModelSpec, ParallelSpec, StepConstants
from lazsim.stepmodel.assumptions import AssumedConstant, weigh_assumptions
from lazsim.stepmodel.experts import chance_imbalance
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import tables_of
from lazsim.stepmodel.memory import ACTIVATION_BYTES, memory_bytes, part_parameters, stage_parameters
from lazsim.stepmodel.pipeline import parts_of, stage_of
from lazsim.stepmodel.predict import Layers, predict_step

IMBALANCE_RATIO = 1.25
"""Ratio of the imbalances for which steps are predicted; steps are nearly linear between them."""


@dataclass(frozen=True, kw_only=True)
class LayoutCosts(CostModel):
    """A cost model whose steps come from the kernels of a GPU and a layout; see `lazsim.stepmodel`."""

    inputs: StepInputs
    """Model, layout, tables and constants, on the nodes that hold the model once."""
    compute: AnalyticCompute
    """Times of what a system adds to the layout."""

    @property
    def layout(self) -> ParallelSpec:
        """The job's layout as its system uses it; see `layout_costs`."""
        return msgspec.structs.replace(self.inputs.parallel, global_batch=self.samples_per_step(0))

    def samples_per_step(self, num_nodes: int) -> int:
        """Return the global batch, whatever the nodes."""
        assert self.job.parallel is not None, "the job has a layout"
        return self.job.parallel.global_batch

    @cached_property
    def grid(self) -> Grid:
        """Stages of the layout, and the nodes that hold the experts of one."""
        return grid_of(self.model, self.inputs.parallel, self.cluster.gpus_per_node)

    @cached_property
    def _known(self) -> "KnownSteps":
        """The steps found so far, those of other systems with the same layout among them."""
        one, parallel = self.inputs, self.job.parallel
        # The tables are those of the GPU, and the inputs of a step on any nodes follow from these.
        return _known_steps(
            msgspec.json.encode([one.model, one.gpu, one.cluster, one.parallel, parallel, one.constants])
        )

    def num_micro_batches(self, num_nodes: int) -> int:
        """Return the micro-batches of a data-parallel rank in a step on `num_nodes` nodes."""
        return self.inputs_for(num_nodes).num_micro_batches

    def even_micro_batches(self, num_nodes: int) -> float:
        """See `CostModel.even_micro_batches`."""
        parallel = self.inputs.parallel
        ranks = num_nodes * self.cluster.gpus_per_node / parallel.gpus_per_replica
        return self.samples_per_step(num_nodes) / (ranks * parallel.micro_batch)

    def even_step_s(self, num_nodes: int) -> float:
        """See `CostModel.even_step_s`."""
        return float(self.step_s(num_nodes, np.ones(1))[0])

    def templates(self, num_micro_batches: int) -> list[Template]:
        """See `CostModel.templates`: predicted, with as many parts of a stage as in the job or fewer."""
        own, known, layers = self.inputs.parallel, self._known.templates, self.model.num_whole_layers
        if num_micro_batches not in known:
            pipelines = range(own.pipeline, min(2 * own.pipeline, layers + 1), own.stages_of_part)
            layouts = [
                msgspec.structs.replace(own, pipeline=pipeline, virtual_stages=virtual, stages="")
                for pipeline in pipelines
                for virtual in range(1, min(own.virtual_stages, layers // pipeline) + 1)
            ]
            known[num_micro_batches] = [self._template(layout, num_micro_batches) for layout in [own, *layouts]]
        return known[num_micro_batches]

    def _template(self, parallel: ParallelSpec, num_micro_batches: int) -> Template:
        stages = parallel.pipeline // parallel.stages_of_part
        cluster = msgspec.structs.replace(self.cluster, num_nodes=stages * self.grid.unit_nodes)
        of_rank = cluster.num_nodes * cluster.gpus_per_node // parallel.gpus_per_replica * parallel.micro_batch

        def step_s(number: int) -> float:
            layout = msgspec.structs.replace(parallel, global_batch=number * of_rank, routing="balanced")
            return predict_step(replace(self.inputs, cluster=cluster, parallel=layout), self._known.layers).step_s

        # Steps are nearly linear between powers of two, and so they are beyond a few rounds.
        powers = [2**power for power in range(num_micro_batches.bit_length() + 1)]
        ended, some = (
            sorted(set(map(parallel.whole_rounds, each))) for each in (range(1, num_micro_batches + 1), powers)
        )
        return stages, np.array(ended, dtype=np.float64), np.interp(ended, some, list(map(step_s, some)))

    @property
    def dense_state_bytes(self) -> int:
        """Training state outside the routed experts, once, with that of further-token layers."""
        further = self.model.num_mtp_weights * self.model.block_params["mtp"]
        return super().dense_state_bytes + self.state_bytes_per_param * further

    @property
    def expert_states_bytes(self) -> int:
        """Training state of all routed experts, once, with those of further-token layers."""
        further = self.model.num_mtp_weights * self.model.num_experts * self.expert_state_bytes
        return super().expert_states_bytes + further

    @cached_property
    def further_expert_bytes_S(self) -> Floats:
        """Training state of the experts of further-token layers on one node of each stage.

        They are divided as in the layout: plans have the experts of other layers.
        """
        stages = stages_of(self.model, self.inputs.parallel, "mtp")
        stages = np.unique(stages) if self.model.mtp_use_repeated_layer else stages
        layers_S = np.bincount(stages, minlength=self.grid.num_stages)
        nodes = max(1.0, self.inputs.parallel.expert / self.cluster.gpus_per_node)
        bytes_S: Floats = layers_S.astype(np.float64) * (self.model.num_experts * self.expert_state_bytes / nodes)
        return bytes_S

    def stage_bytes(self, num_gpus: int) -> tuple[Floats, Floats]:
        """See `CostModel.stage_bytes`: with all that the layers of a stage have, and further-token layers."""
        parallel = self.inputs.parallel
        # GPUs that follow each other hold what one does of as many times fewer ranks.
        ranks = {name: max(1, getattr(parallel, name) // num_gpus) for name in ("tensor", "expert")}
        parts = part_parameters(self.model, msgspec.structs.replace(parallel, **ranks), parts_of(self.model, parallel))
        held = stage_parameters(parts, parallel)[: self.grid.num_stages]
        dense_S, experts_S = np.array(held).T * self.state_bytes_per_param
        return dense_S, experts_S

    def kept_shares(self, num_nodes: int, num_gpus: int) -> tuple[float, float]:
        """See `CostModel.kept_shares`.

        Notes
        -----
        GPUs with the same parameters divide optimizer states, as ZeRO does, and under full sharding parameters: between
        steps no GPU has these gathered. Each GPU of a stage owns as much of its dense state as any other, and of its
        experts. Of weights that all have whole, one GPU saves each, and all read them.
        """
        parallel = self.inputs.parallel
        if parallel.sharding == "none":
            return super().kept_shares(num_nodes, num_gpus)
        whole = WEIGHT_BYTES_PER_PARAM / self.state_bytes_per_param if parallel.sharding == "optimizer" else 0.0
        stage_gpus = num_nodes * self.cluster.gpus_per_node // self.grid.num_stages
        dense, experts = (
            whole + (1 - whole) * min(1.0, max(num_gpus, ranks) / stage_gpus)
            for ranks in (parallel.tensor, parallel.expert)
        )
        return dense, experts

    def stage_bytes_per_node(self, num_nodes: int) -> float:
        """Return the bytes that a node sends to other pipeline stages in a step: activations forward, gradients back.

        Each part of a stage sends every token to the next and gets its gradient; the nodes of a stage share the tokens.
        """
        parallel = self.inputs.parallel
        if parallel.pipeline == 1:
            return 0.0
        tokens = self.samples_per_step(num_nodes) * self.model.sequence_length
        sent = 2 * ACTIVATION_BYTES * parallel.virtual_stages * tokens * self.model.d_model
        return sent * parallel.pipeline / num_nodes

    def step_times(self, plan: PlacementPlan, dispatch: NodeDispatch) -> StepTimes:
        """Return the step times of a plan."""
        return LayoutStepTimes(self, plan, dispatch)

    def inputs_for(self, num_nodes: int) -> StepInputs:
        """Return the inputs of a step on `num_nodes` nodes, whose GPUs do as much each as on whole model replicas.

        Notes
        -----
        The global batch stays. Where it is no multiple of the data-parallel ranks, some have a micro-batch more, and
        the others wait for them. Under flexible dispatch nodes may fill no whole replica: the step is that of the GPUs
        of whole replicas with as many micro-batches each.
        """
        parallel, gpus = self.inputs.parallel, self.cluster.gpus_per_node
        micro_batches = parallel.whole_rounds(math.ceil(self.even_micro_batches(num_nodes)))
        whole = max(1, num_nodes // self.grid.replica_nodes) * self.grid.replica_nodes
        data = whole * gpus // parallel.gpus_per_replica
        return replace(
            self.inputs,
            cluster=msgspec.structs.replace(self.cluster, num_nodes=whole),
            parallel=msgspec.structs.replace(parallel, global_batch=micro_batches * data * parallel.micro_batch),
        )

    def step_s(self, num_nodes: int, imbalance_B: Floats) -> Floats:
        """Return the seconds of steps whose busiest GPU has `imbalance_B` times the mean tokens for its experts.

        Notes
        -----
        Loads are sums over a step: those of a micro-batch are uneven by chance also where these are even, as in
        `lazsim.stepmodel.experts.imbalance`. Where loads are more uneven than that, chance adds nothing.
        """
        uneven_B = np.maximum(imbalance_B, self._least_imbalance)
        powers_B = np.log(uneven_B / self._least_imbalance) / math.log(IMBALANCE_RATIO)
        powers = range(int(powers_B.min()), int(powers_B.max()) + 2)
        return np.interp(
            uneven_B,
            [self._least_imbalance * IMBALANCE_RATIO**power for power in powers],
            [self._predicted_s(num_nodes, power) for power in powers],
        )

    @cached_property
    def _least_imbalance(self) -> float:
        return chance_imbalance(self.inputs.own_tokens * self.model.top_k, self.inputs.parallel.expert)

    def _predicted_s(self, num_nodes: int, power: int) -> float:
        known_s = self._known.step_s
        if (num_nodes, power) not in known_s:
            uneven = self._uneven_inputs(num_nodes, self._least_imbalance * IMBALANCE_RATIO**power)
            known_s[num_nodes, power] = predict_step(uneven, self._known.layers).step_s
        return known_s[num_nodes, power]

    def _uneven_inputs(self, num_nodes: int, imbalance: float) -> StepInputs:
        inputs = self.inputs_for(num_nodes)
        parallel = msgspec.structs.replace(inputs.parallel, routing="learned")
        return replace(inputs, parallel=parallel, known_imbalance=imbalance)

    def assumptions(self, num_nodes: int, masked_reorder: bool) -> list[AssumedConstant]:
        """Return the assumed constants with what each weighs in a step under even loads, the heaviest first."""
        known, key = self._known.assumptions, (num_nodes, masked_reorder)
        if key not in known:
            even_BL = np.ones((1, self.model.num_moe_layers))
            beside_s = float(self.masked_s(num_nodes, even_BL)[0]) if masked_reorder else 0.0
            known[key] = weigh_assumptions(self._uneven_inputs(num_nodes, self._least_imbalance), beside_s)
        return known[key]

    def masked_s(self, num_nodes: int, padding_BL: Floats) -> Floats:
        """Return the seconds of a step to reorder tokens by masks, shape (B,)."""
        inputs, model = self.inputs_for(num_nodes), self.model
        capacity_BL = inputs.own_tokens * model.top_k * padding_BL / model.num_experts
        seconds_BL = self.compute.masked_reorder_s(inputs.own_tokens, capacity_BL)
        seconds: Floats = inputs.num_micro_batches / inputs.parallel.pipeline * seconds_BL.sum(axis=1)
        return seconds

    def memory(self, num_nodes: int, dispatch: NodeDispatch, load_LE: Ints) -> MemoryUse:
        """Return what the fullest GPU needs: under even loads, but for padding and masks.

        Notes
        -----
        Each row of padding is kept as routed ones are (`lazsim.costmodel.memory.layer_activation_bytes`). A stage holds
        the micro-batches of as many stages as follow it, so that all layers count once.
        """
        inputs, model = self._even_inputs(num_nodes), self.model
        parts = memory_bytes(inputs)
        if dispatch.padded:
            routed = inputs.own_tokens * model.top_k
            rows_L = routed * padding(load_LE[None])[0]
            row_bytes = WEIGHT_BYTES_PER_PARAM * (2 * model.expert_dim + model.matrices_per_expert * model.d_ff_expert)
            mask_L = inputs.own_tokens * rows_L * dispatch.masked_reorder
            kept = ((rows_L - routed) * row_bytes + MASK_BYTES * mask_L).sum()
            parts = {
                **parts, "activations": parts["activations"] + float(kept),
                "padding": float((2 * rows_L * model.expert_dim * 2 + MASK_BUFFER_BYTES * mask_L).max()),
            }  # fmt: skip
        return MemoryUse(
            weights=parts["parameters"],
            gradients=parts["gradients"],
            optimizer_states=parts["optimizer"],
            activations=parts["activations"],
            buffers=math.fsum(num_bytes for name, num_bytes in parts.items() if name not in MEMORY_PARTS),
            runtime=parts["runtime"],
        )

    def rerouted_bytes(self, num_nodes: int, share: float) -> float:
        """See `CostModel.rerouted_bytes`: of the GPU that needs most with them."""
        inputs = self._even_inputs(num_nodes)
        need, more = (math.fsum(memory_bytes(inputs, rerouted).values()) for rerouted in (0.0, share))
        return more - need

    def _even_inputs(self, num_nodes: int) -> StepInputs:
        inputs = self.inputs_for(num_nodes)
        return replace(inputs, parallel=msgspec.structs.replace(inputs.parallel, routing="balanced"))


class KnownSteps:
    """Steps by number of nodes and power of `IMBALANCE_RATIO`, those of templates, what they hang on, and layers."""

    def __init__(self) -> None:
        self.step_s: dict[tuple[int, int], float] = {}
        self.templates: dict[int, list[Template]] = {}
        self.assumptions: dict[tuple[int, bool], list[AssumedConstant]] = {}
        self.layers = Layers()


@functools.lru_cache(maxsize=64)
def _known_steps(_inputs: bytes) -> KnownSteps:
    return KnownSteps()


MEMORY_PARTS = ("parameters", "gradients", "optimizer", "activations", "runtime")
"""Parts that a job with a layout has in common with one without; all else counts as buffers."""


def padding(load_BLE: Ints) -> Floats:
    """Return the rows of buffers that are all as large as the fullest over the tokens in them, shape (B, L)."""
    share: Floats = load_BLE.max(axis=2) * load_BLE.shape[2] / load_BLE.sum(axis=2)
    return share


class LayoutStepTimes(StepTimes):
    """Step times of one plan of a job with a layout under any loads."""

    def __init__(self, costs: LayoutCosts, plan: PlacementPlan, dispatch: NodeDispatch) -> None:
        self._costs, self._num_nodes, self._dispatch = costs, plan.num_nodes, dispatch
        self._replicas_LE = plan.replicas_LE
        grid = costs.grid
        self._slots = _slots_of_stages(plan, costs.cluster.gpus_per_node, tuple(grid.stage_L.tolist()), grid.num_stages)

    def step_s(self, load_BLE: Ints) -> Floats:
        """Return the seconds of a step for each sample of the loads, shape (B,)."""
        seconds = self._costs.step_s(self._num_nodes, self.imbalance(load_BLE))
        if self._dispatch.masked_reorder:
            seconds = seconds + self._costs.masked_s(self._num_nodes, padding(load_BLE))
        return seconds

    def imbalance(self, load_BLE: Ints) -> Floats:
        """Return the tokens of the busiest GPU over their mean, averaged over layers, shape (B,)."""
        num_samples, num_layers, num_experts = load_BLE.shape
        share_BLE = np.zeros((num_samples, num_layers, num_experts + 1))
        share_BLE[:, :, :-1] = assigned_tokens(load_BLE, 1.0, padded=self._dispatch.padded) / self._replicas_LE
        flat = share_BLE.reshape(num_samples, -1)
        total = sum(
            num_gpus * flat.take(slots, axis=1).sum(axis=1).max(axis=2).sum(axis=1) for num_gpus, slots in self._slots
        )
        busiest: Floats = total / num_layers
        return busiest


# Few, since on thousands of nodes a plan takes tens of MB; systems of plain expert parallelism share theirs.
@functools.lru_cache(maxsize=4)
def _slots_of_stages(
    plan: PlacementPlan, gpus_per_node: int, stages: tuple[int, ...], num_stages: int
) -> list[tuple[int, Ints]]:
    """Return the GPUs of each stage with MoE layers, and the slots of those that differ; see `slots_by_gpu`."""
    slots, found = slots_by_gpu(plan, gpus_per_node), []
    for stage, gpus in enumerate(np.split(np.arange(slots.shape[2]), num_stages)):
        of_stage = slots[:, np.array(stages) == stage][:, :, gpus]
        if of_stage.size:
            # GPUs with the same experts have the same tokens: one of them stands for all.
            by_gpu = np.ascontiguousarray(of_stage.transpose(2, 0, 1))
            unlike = {content.tobytes(): index for index, content in enumerate(by_gpu)}
            found.append((len(gpus), of_stage[:, :, list(unlike.values())]))
    return found


def layout_costs(
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    job: JobSpec,
    constants: StepConstants,
    system: System | None = None,
) -> LayoutCosts:
    """Return the costs of a job with a layout, under a system or of training alone.

    Of the layout, a system that recovers from other nodes changes the sharding, as every replica of a parameter has its
    own optimizer state. One that reorders by masks changes the dispatch: tokens go by torch's all-to-all, in half
    precision, while experts wait.

    Raises
    ------
    SpecError
        When the layout does not fit the model or the nodes, or the catalogue has no kernels of the GPU.
    """
    parallel = job.parallel
    assert parallel is not None, "the job has a layout"
    if parallel.expert_tensor > 1:
        raise SpecError("a run takes experts that are whole on a GPU: set expert_tensor to 1")
    if system is not None and system.keeps_whole_states:
        parallel = msgspec.structs.replace(parallel, sharding="none")
    if parallel.data_replicate > 1 and parallel.sharding != "none":
        raise SpecError("a run divides states over all data-parallel ranks: set data_replicate to 1")
    if system is not None and system.masked_reorder:
        plain: dict[str, Any] = {"dispatcher": "all_to_all", "dispatch_precision": "bf16", "overlap_expert": False}
        parallel = msgspec.structs.replace(parallel, **plain)
    if model.num_experts % parallel.expert:
        raise SpecError(f"expert ({parallel.expert}) must divide {model.num_experts} experts")
    grid, gpus = grid_of(model, parallel, cluster.gpus_per_node), cluster.gpus_per_node
    compute = AnalyticCompute(model, gpu, cluster, job, constants)
    communication = AnalyticCommunication(cluster.network, cluster.host)
    cluster = msgspec.structs.replace(cluster, slots_per_gpu=model.num_experts // parallel.expert)
    ranks = grid.replica_nodes * gpus // parallel.gpus_per_replica
    one = ranks * parallel.micro_batch * parallel.pipeline * parallel.stages_of_part
    tables = tables_of(gpu)
    cluster_of_one = msgspec.structs.replace(cluster, num_nodes=grid.replica_nodes)
    parallel = msgspec.structs.replace(parallel, global_batch=-(-parallel.global_batch // one) * one)
    inputs = StepInputs(model, gpu, cluster_of_one, parallel, tables, constants)
    return LayoutCosts(model, cluster, job, constants, communication, compute=compute, inputs=inputs)


def grid_of(model: ModelSpec, parallel: ParallelSpec, gpus_per_node: int) -> Grid:
    """Return how a layout uses nodes; with DualPipe, both stages that hold the same parts are one.

    Raises
    ------
    SpecError
        When there are more stages than layers, or nodes and the GPUs that hold a stage once do not divide each other.
    """
    if parallel.pipeline * parallel.virtual_stages > model.num_whole_layers:
        raise SpecError(f"pipeline x virtual_stages must not exceed the {model.num_whole_layers} layers")
    unit_gpus = math.lcm(parallel.tensor * parallel.context, parallel.expert)
    if unit_gpus % gpus_per_node and gpus_per_node % unit_gpus:
        raise SpecError(
            f"the {unit_gpus} GPUs that hold the experts of a stage once and the {gpus_per_node} of a node "
            "must divide each other"
        )
    column, matrix = (
        math.lcm(ranks, gpus_per_node) // gpus_per_node if ranks > gpus_per_node else 1
        for ranks in (parallel.tensor * parallel.context, parallel.tensor)
    )
    same = parallel.stages_of_part
    unit_nodes = same * max(1, unit_gpus // gpus_per_node)
    return Grid(stages_of(model, parallel, "moe"), parallel.pipeline // same, unit_nodes, same * column, matrix)


def stages_of(model: ModelSpec, parallel: ParallelSpec, block: str) -> Ints:
    """Return the stage of each layer that has a block, such as ``moe``, in the order of the model."""
    stages = [
        stage_of(parallel, index)
        for index, part in enumerate(parts_of(model, parallel))
        for name, number in part
        for _ in range(number if block in name.split() else 0)
    ]
    return np.array(stages, dtype=np.int64)
