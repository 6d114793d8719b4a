"""What the layout of a job has to divide, and its stages to hold."""

from collections.abc import Iterator

from lazsim.errors import SpecError
from lazsim.specs import ModelSpec, ParallelSpec
from lazsim.stepmodel.pipeline import parts_of
from lazsim.units import counted


def check_layout(model: ModelSpec, parallel: ParallelSpec, num_gpus: int) -> None:
    """Raise SpecError when a layout does not divide the model, the batch or the GPUs, or its stages are others."""
    attention, tensor, pipeline, context = model.attention, parallel.tensor, parallel.pipeline, parallel.context
    _check_layers(model)
    for name, number, whole, described in _divisions(model, parallel, num_gpus):
        if whole % number:
            raise SpecError(f"{name} ({number}) must divide {described}")
    # As NVIDIA/Megatron-LM 0.16 has it: ranks that share such a head gather the projection, and hold copies.
    keys = attention.num_kv_heads if attention and attention.kind == "grouped" else tensor
    if keys % tensor and tensor % keys:
        raise SpecError(f"tensor ({tensor}) must divide {keys} key-value heads, or be a multiple of them")
    if context > 1 and attention and attention.index_heads:
        raise SpecError(f"context ({context}) must be 1: NVIDIA/Megatron-LM divides no sequences of sparse attention")
    data = num_gpus // parallel.gpus_per_replica
    micro_batches, rest = divmod(parallel.global_batch, data * parallel.micro_batch)
    if rest or not micro_batches:
        raise SpecError(
            f"global_batch ({parallel.global_batch}) must be a multiple of {counted(data, 'data-parallel rank')} x "
            f"micro_batch ({parallel.micro_batch})"
        )
    if micro_batches != parallel.whole_rounds(micro_batches):
        needed = f"interleaved stages need micro-batches ({micro_batches}) in multiples of pipeline ({pipeline})"
        if parallel.schedule == "dualpipe":
            needed = f"dualpipe needs an even number of micro-batches, {2 * pipeline} or more, and not {micro_batches}"
        raise SpecError(needed)
    if pipeline * parallel.virtual_stages > model.num_whole_layers:
        layers = counted(model.num_whole_layers, "layer")
        raise SpecError(f"pipeline x virtual_stages must not exceed the {layers}")
    if parallel.stages:
        parts_of(model, parallel)


def _check_layers(model: ModelSpec) -> None:
    """Raise SpecError when the kinds of layers that a model has do not add up."""
    attention, space = model.attention, model.state_space
    if attention is None and model.attention_layers:
        raise SpecError(f"{model.name}: its TOML file has no heads of attention; add a table [attention]")
    windows = attention.num_window_layers if attention else 0
    if windows > model.num_layers:
        raise SpecError(f"num_window_layers ({windows}) exceeds num_layers ({model.num_layers})")
    kinds = space.num_layers + model.attention_layers + model.num_moe_layers if space else model.num_layers
    if kinds != model.num_layers:
        raise SpecError(
            f"layers of state space, attention and experts are {kinds} together, and num_layers {model.num_layers}"
        )


def _divisions(model: ModelSpec, parallel: ParallelSpec, num_gpus: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield what has to divide what: a name and its number, and the whole and its description."""
    attention, space, length = model.attention, model.state_space, model.sequence_length
    tensor, pipeline, context = parallel.tensor, parallel.pipeline, parallel.context
    gpus, cut = f"the {counted(num_gpus, 'GPU')}", tensor * context
    data = num_gpus // parallel.gpus_per_replica
    groups = 1 if parallel.sharding == "none" else parallel.data_replicate
    expert_copies = num_gpus // (pipeline * parallel.expert * parallel.expert_tensor)
    heads, scanned = attention.num_heads if attention else cut, space.num_heads if space else cut
    yield from [
        ("tensor x pipeline x context", parallel.gpus_per_replica, num_gpus, gpus),
        ("pipeline x expert x expert_tensor", pipeline * parallel.expert * parallel.expert_tensor, num_gpus, gpus),
        ("data_replicate", groups, data, counted(data, "data-parallel rank")),
        ("data_replicate", groups, expert_copies, counted(expert_copies, "copy", "copies") + " of an expert"),
        ("expert", parallel.expert, model.num_experts, f"{model.num_experts} experts"),
        ("expert_tensor", parallel.expert_tensor, model.d_ff_expert, f"the {model.d_ff_expert} columns of an expert"),
        ("tensor", tensor, heads, f"{heads} attention heads"),
        # Ranks take all positions of some heads each (``MambaContextParallel`` of NVIDIA/Megatron-LM).
        ("tensor x context", cut, scanned, f"{scanned} state-space heads"),
        ("tensor x context", cut, length, f"the sequence of {length} tokens"),
        # A rank has a piece of the first half and one of the second (``get_batch_on_this_cp_rank`` of Megatron-LM).
        ("2 x context", 2 * context if context > 1 else 1, length, f"the sequence of {length} tokens"),
    ]
    if parallel.context_exchange == "all_to_all":
        # As with state-space heads (DeepSpeed-Ulysses, arXiv 2309.14509).
        ulysses = f"{heads} attention heads where context_exchange is 'all_to_all'"
        yield "tensor x context", cut, heads, ulysses
