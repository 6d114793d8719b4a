"""The step of a layout: micro-batches through the pipeline, exchange of gradients, optimizer."""

import itertools
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from lazsim.specs import ParallelSpec, StepConstants
from lazsim.stepmodel.blocks import blocks_of
from lazsim.stepmodel.dispatchers import DISPATCHERS
from lazsim.stepmodel.exchange import ShardedExchange, exchanges_of_step, optimizer_s, sharded_exchange, slowed_by
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.kernels import Kernels
from lazsim.stepmodel.layers import EXCHANGE, OFFLOAD, LayerTime, layer_spans, layer_time
from lazsim.stepmodel.memory import StageParameters, memory_bytes, part_parameters, stage_parameters
from lazsim.stepmodel.operations import Item, Span
from lazsim.stepmodel.pipeline import (
    PartTime,
    Schedule,
    StagePart,
    parts_of,
    parts_of_stage,
    run_dual_pipe,
    run_pipeline,
)

SLOWEST = 0.9
"""Largest slowdown beside an exchange: it takes no more than its share of the multiprocessors."""


@dataclass(frozen=True)
class StepTime:
    """Predicted step of a layout."""

    step_s: float
    """Time of a step."""
    tokens_per_s_per_gpu: float
    """Tokens that are trained, for each GPU."""
    mfu: float
    """Model FLOP utilisation: operations of the model without recomputation over the peak of its precision."""
    exposed_s: Mapping[str, float]
    """Time of each part that adds to the step; the values sum to `step_s`."""
    hidden_s: Mapping[str, float]
    """Time of exchanges that run behind compute."""
    memory_bytes: Mapping[str, float]
    """Memory of each part on the GPU that needs most; the values sum to what it needs."""
    schedule: Schedule
    """Passes over the stages."""


def predict_step(inputs: StepInputs, layers: "Layers | None" = None) -> StepTime:
    """Predict the time of a step; a `SpecError` says that the tables have no kernel of the model's attention.

    `layers` may be shared by steps; see there.
    """
    return StepModel(inputs, layers).predict()


BEYOND_LAYERS = ("pipeline", "virtual_stages", "stages", "global_batch", "sharding")
"""Fields of a layout on which no layer depends."""

_LAYER_FIELDS = operator.attrgetter(*(name for name in ParallelSpec.__struct_fields__ if name not in BEYOND_LAYERS))


class Layers:
    """The layers of a model under layouts, each played once.

    They may be shared by steps of one model, GPU, network and set of constants: the layout, the number of nodes and the
    known imbalance may differ.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Mapping[str, Item], dict[str, LayerTime]]] = {}

    def of(self, inputs: StepInputs, names: Iterable[str]) -> tuple[Mapping[str, Item], Mapping[str, LayerTime]]:
        """Return the blocks of the model, and the time of each layer of these names."""
        key = (_LAYER_FIELDS(inputs.parallel), inputs.num_pods, inputs.known_imbalance)
        if key not in self._known:
            self._known[key] = blocks_of(inputs), {}
        blocks, times = self._known[key]
        settings = _settings(inputs)
        for name in names:
            if name not in times:
                times[name] = layer_time([blocks[block] for block in name.split()], *settings)
        return blocks, times


class StepModel:
    """The layers of a model under a layout, put together to a step."""

    def __init__(self, inputs: StepInputs, layers: Layers | None = None) -> None:
        self.inputs = inputs
        self.parts = parts_of(inputs.model, inputs.parallel)
        names = {name for part in set(self.parts) for name, _ in part}
        self.blocks, self.layers = (layers or Layers()).of(inputs, names)
        self.params = part_parameters(inputs.model, inputs.parallel, self.parts)
        # Most parts are alike.
        whole = list(zip(self.parts, self.params, strict=True))
        sharded = {each: self._sharded(*each) for each in set(whole)}
        times = {each: self._time(each[0], extra) for each, extra in sharded.items()}
        self.sharded, self.times = [sharded[each] for each in whole], [times[each] for each in whole]

    @cached_property
    def transfer_s(self) -> float:
        """Time to send what a micro-batch makes to the next stage, over fast links where these join all GPUs."""
        inputs = self.inputs
        if inputs.parallel.pipeline == 1:
            return 0.0
        is_near = inputs.num_gpus <= inputs.domain
        rate = inputs.cluster.network.local_bytes_per_s if is_near else inputs.nic_bytes_per_s
        return 2 * inputs.model.d_model * inputs.own_tokens / rate

    @cached_property
    def least_s(self) -> float:
        """A time that the step takes at least: that of the busiest stage, with the way there and back.

        A stage waits until the first micro-batch went forward through those before it, and these wait for its last one
        on the way back. Passes at the same time save what either could, at most, or nothing. All exchanges hide.
        """
        inputs, parallel = self.inputs, self.inputs.parallel
        each = inputs.num_micro_batches / parallel.stages_of_part
        before_s = least_s = 0.0
        for stage in range(parallel.pipeline):
            held = [self.times[part] for part in parts_of_stage(parallel, stage)]
            busy_s = each * math.fsum(time.forward_s + time.backward_s - max(0.0, time.saved_s) for time in held)
            least_s = max(least_s, busy_s + before_s)
            if parallel.schedule == "1f1b":
                before_s += math.fsum(self.times[stage][:2]) + 2 * self.transfer_s
        return least_s + self._once_s()[0] + inputs.constants.fixed_s

    def predict(self) -> StepTime:
        """Run the parts through the pipeline and add what is done once a step."""
        inputs, parallel, sharded, times = self.inputs, self.inputs.parallel, self.sharded, self.times
        parts, pipeline, micro_batches = self.parts, parallel.pipeline, inputs.num_micro_batches
        if parallel.schedule == "dualpipe":
            weight_s = math.fsum(self._sum(part, "weight_gradient_s") for part in parts) / pipeline
            schedule = run_dual_pipe(times, weight_s, micro_batches)
        else:
            schedule = run_pipeline(times, pipeline, micro_batches, self.transfer_s, parallel.overlaps_exchanges)
        share = micro_batches / pipeline
        exposed, hidden = self._by_part(share, schedule.saved_s)
        exposed["gradient_exchange"] += share * math.fsum(extra.exposed_s for extra in sharded)
        hidden["gradient_exchange"] += share * math.fsum(extra.hidden_s for extra in sharded)
        exposed["overlap_slowdown"] += share * math.fsum(extra.slowed_s for extra in sharded)
        bubble_s = schedule.total_s - math.fsum(exposed.values())
        exposed["bubble"] = bubble_s if abs(bubble_s) > 1e-9 * schedule.total_s else 0.0
        late_s, exchange_s = exchanges_of_step(inputs, self.params, times, schedule)
        exposed["gradient_exchange"] += late_s
        hidden["gradient_exchange"] += exchange_s - late_s
        exposed["overlap_slowdown"] += slowed_by(inputs, exchange_s - late_s)
        updated_s, moved_s = self._once_s()
        # The link to the host carries none of this.
        meanwhile_s = math.fsum(exposed.values())
        exposed["offload"] += max(0.0, moved_s - meanwhile_s)
        hidden["offload"] += min(moved_s, meanwhile_s)
        exposed |= {"optimizer": updated_s, "fixed": inputs.constants.fixed_s}
        step_s = math.fsum(exposed.values())
        tokens = parallel.global_batch * inputs.model.sequence_length / step_s / inputs.num_gpus
        peak = inputs.gpu.peak_of(parallel.precision)
        by_part = dict(exposed), dict(hidden), memory_bytes(inputs)
        return StepTime(step_s, tokens, tokens * flop_per_token(inputs) / peak, *by_part, schedule)

    def _once_s(self) -> tuple[float, float]:
        """Return the time of the optimizer, and that to move its states, on the stage where it takes longest."""
        held = stage_parameters(self.params, self.inputs.parallel)
        stages = [tuple(self.parts[part] for part in parts_of_stage(self.inputs.parallel, n)) for n in range(len(held))]
        return max(optimizer_s(self.inputs, *stage) for stage in set(zip(held, stages, strict=True)))

    def _sum(self, part: StagePart, name: str) -> float:
        return math.fsum(count * getattr(self.layers[layer], name) for layer, count in part)

    def _saved_s(self, part: StagePart) -> float:
        layers = [(self.layers[name], count) for name, count in part]
        return math.fsum(
            count * (layer.forward_s + layer.backward_s - layer.pair.total_s) for layer, count in layers if layer.pair
        )

    def _time(self, part: StagePart, sharded: ShardedExchange) -> PartTime:
        extra_s = sharded.exposed_s + sharded.slowed_s
        forward_s, backward_s = self._sum(part, "forward_s"), self._sum(part, "backward_s")
        longer = 1 + extra_s / ((forward_s + backward_s) or 1.0)
        return PartTime(longer * forward_s, longer * backward_s, self._saved_s(part))

    def _sharded(self, part: StagePart, params: StageParameters) -> ShardedExchange:
        if not self.inputs.parallel.gathers_each_time:
            return ShardedExchange(0.0, 0.0, 0.0)
        seconds = self._sum(part, "forward_s"), self._sum(part, "backward_s")
        # Without stages, all but the first forward and the last backward pass run two at once.
        saved_s = (1 - 1 / self.inputs.num_micro_batches) * self._saved_s(part)
        ends = part_parameters(self.inputs.model, self.inputs.parallel, [part[:1], part[-1:]])
        layers = StageParameters(*(whole - math.fsum(some) for whole, *some in zip(params, *ends, strict=True)))
        units = [(ends[0], 1), (layers, sum(count for _, count in part) - 2), (ends[1], 1)]
        return sharded_exchange(self.inputs, units, *seconds, saved_s)

    def _by_part(self, share: float, saved_s: float) -> tuple[dict[str, float], dict[str, float]]:
        """Sum what each kind of work takes: all micro-batches of the mean stage, with passes that save `saved_s`."""
        exposed, hidden, paired = (defaultdict[str, float](float) for _ in range(3))
        could_save_s = math.fsum(time.saved_s for time in self.times)
        for part in self.parts:
            for name, count in part:
                layer = self.layers[name]
                for into, values in ((exposed, layer.exposed_s), (hidden, layer.hidden_s)):
                    for kind, seconds in values.items():
                        into[kind] += share * count * seconds
                pair = layer.pair
                if pair is None:
                    continue
                changes = {
                    "idle": pair.idle_s - layer.exposed_s.get("idle", 0.0), "overlap_slowdown": pair.slowed_s,
                    EXCHANGE: -pair.hidden_s, OFFLOAD: pair.offload_s - layer.exposed_s.get(OFFLOAD, 0.0),
                }  # fmt: skip
                for kind, seconds in changes.items():
                    paired[kind] += count * seconds
        if could_save_s:
            pairs = min(max(saved_s / could_save_s, 0.0), share)
            for kind, seconds in paired.items():
                exposed[kind] += pairs * seconds
            for kind in (EXCHANGE, OFFLOAD):
                hidden[kind] -= pairs * paired[kind]
        return exposed, hidden

    def spans(self) -> list[Span]:
        """Return what host, kernels and exchanges do in the most frequent layer, with experts where there is one."""
        counts = Counter[str]()
        for name, count in itertools.chain(*self.parts):
            counts[name] += count
        name = max(counts, key=lambda one: ("moe" in one.split(), counts[one]))
        return layer_spans([self.blocks[block] for block in name.split()], *_settings(self.inputs))


def _settings(inputs: StepInputs) -> tuple[StepConstants, float | None, float]:
    """Return what the time of a layer depends on beside its blocks; see `layer_time`."""
    kernels, parallel, constants = Kernels(inputs), inputs.parallel, inputs.constants
    # A piece has a backward graph of its own to start, waits for an event of the other stream and records one
    # (NVIDIA/Megatron-LM, combined 1F1B).
    piece_s = kernels.launch_s + 2 * kernels.native_launch_s
    # Multiprocessors by default, beside the share by which kernels are slower next to an exchange of tokens.
    dispatcher = DISPATCHERS[parallel.dispatcher]
    slowdown: float = getattr(constants, dispatcher.slowdown)
    if dispatcher.multiprocessors and parallel.exchange_multiprocessors:
        slowdown *= parallel.exchange_multiprocessors / dispatcher.multiprocessors
    return constants, min(slowdown, SLOWEST) if parallel.overlaps_exchanges else None, piece_s


def flop_per_token(inputs: StepInputs) -> float:
    """Count the operations of the model for a token, forward and backward, without recomputation.

    Six for each active parameter, the head's included and the embedding's not, and attention over the causal half. What
    a capacity below the mean drops in any case is not computed.
    """
    model = inputs.model
    top_k = model.top_k * min(1.0, inputs.parallel.capacity_factor or 1.0)
    experts = model.num_moe_layers * top_k * model.expert_params
    embedding = (model.num_vocab_matrices - 1) * model.vocab_size + model.num_learned_positions
    further = model.num_mtp_layers * (
        model.block_params["mtp"] + model.block_params["vocabulary"] + top_k * model.expert_params
    )
    windows = model.attention.num_window_layers if model.attention else 0
    window = min(model.attention.window, model.sequence_length) if model.attention else 0
    pairs = (model.attention_layers + model.num_mtp_layers - windows) * model.sequence_length / 2
    chunked = model.attention is not None and model.attention.chunked
    pairs += windows * window * (0.5 if chunked else 1 - window / model.sequence_length / 2)
    active = model.dense_params - embedding * model.d_model + experts + further
    return 6.0 * active + 6.0 * model.pair_dim * pairs
