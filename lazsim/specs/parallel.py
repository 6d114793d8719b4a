"""Layouts: how a job divides a model, its batch and its work over GPUs."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from lazsim.specs.model import OPTIMIZER_STATE_BYTES_PER_PARAM, ModelSpec
from lazsim.specs.record import Amount, Count, NumLayers, Spec, given_fields

Precision = Literal["bf16", "fp8", "fp8_block", "mxfp8", "nvfp4"]
"""Type of matmul operands: half precision; 8 bits with one scale a tensor, one per 128 or 32 numbers; 4 bits."""

Dispatcher = Literal["all_gather", "all_to_all", "deepep", "hybridep"]
"""Exchange of tokens between experts; the last two send a token once to each rank that has experts of it."""


Recompute = Literal["none", "selective", "full"]
"""Modules whose forward pass runs again before their backward pass: none, some, or all."""

Recomputed = Literal["latent_up", "attention_core", "expert_activation", "norm", "dense_block"]
"""A module whose forward pass runs again before its backward pass."""


class ParallelSpec(Spec, frozen=True, kw_only=True):
    """The layout of a training job, its batch, and what it does to save memory and time."""

    tensor: Count = 1
    """GPUs that share a matrix; those that share nothing are data-parallel."""
    pipeline: Count = 1
    """Stages."""
    context: Count = 1
    """GPUs that share a sequence."""
    expert: Count = 1
    """GPUs that share a layer's experts."""
    expert_tensor: Count = 1
    """GPUs that share one expert's matrices."""
    schedule: Literal["1f1b", "dualpipe"] = "1f1b"
    """Order of micro-batches: ``1f1b``, interleaved where stages have several parts, or ``dualpipe``, which feeds them
    from both ends of the pipeline, hides exchanges of tokens and holds each parameter twice (arXiv 2412.19437)."""
    virtual_stages: NumLayers = 1
    """Parts of the model that a stage holds (interleaved 1F1B, arXiv 2104.04473)."""
    stages: str = ""
    """The layers of each part in the order of the model, parts divided by ``|``: E embedding, t layer, m further-token
    layer, L head; ``t*3`` and ``(tt|)*4`` repeat. Empty: as even as possible."""
    global_batch: Count
    """Sequences of a step."""
    micro_batch: Count = 1
    """Sequences of a micro-batch of one data-parallel rank."""
    sequence_length: Amount = 0
    """Tokens of a sequence; 0 for that of the model's file."""
    sharding: Literal["none", "optimizer", "full"] = "optimizer"
    """Parts that data-parallel ranks divide: ``none``, ``optimizer`` states (ZeRO-1), or ``full``, parameters too
    (FSDP). If a pipeline has stages, these stay gathered, and gradients whole, from the first micro-batch of a step to
    the last, as in ``torch.distributed.pipelining``."""
    data_replicate: Count = 1
    """Groups of data-parallel ranks that each divide these parts, and sum gradients with the others (HSDP):
    ``data_parallel_replicate_degree`` of torchtitan, ``num_distributed_optimizer_instances`` of Megatron."""
    reshard_after_forward: bool = True
    """Whether `full` parameters are freed after each forward pass and gathered again before the backward pass, which
    frees them in any case (``fully_shard`` of PyTorch). Stages keep them."""
    optimizer: Literal["adam", "muon"] = "adam"
    """``adam``, or ``muon``, which makes each update orthogonal by five Newton-Schulz iterations (arXiv 2502.16982)."""
    gradient_bytes: Literal[2, 4] = 4
    """Bytes of a gradient while it is accumulated and reduced."""
    state_bytes: Literal[2, 4] = 4
    """Bytes of a number that the optimizer keeps: 4, with weights in fp32 beside those of 16 bits, or 2, with no
    others, as ``torch.optim`` has with parameters in 16 bits."""
    moment_bytes: Literal[2, 4] = 4
    """Bytes of a moment where states have 4: 2 is Megatron's precision-aware optimizer with ``exp_avg_dtype`` and
    ``exp_avg_sq_dtype`` in bf16. Of weights in fp32 it keeps 2 bytes beside parameters of 16 bits, which have the
    others (``store_param_remainders``), unless matmuls have fewer bits."""
    precision: Precision = "bf16"
    """Operands of the matmuls of layers; the head, attention scores and gradients have 16 bits or more."""
    eight_bit_parts: tuple[Literal["attention", "head"], ...] = ()
    """``attention`` and ``head``, where these have 8 bits, too (mxfp8)."""
    eight_bit_parameters: bool = True
    """Whether parameters have the 8 bits of their matmuls, in which they are gathered, or 16 beside copies in 8
    (Megatron's ``fp8_param_gather``, torchao's ``enable_fsdp_float8_all_gather``); beside four bits, they have 16.
    Those of ``mxfp8`` are gathered in 16 unless `sharding` is full, as Megatron does."""
    recompute: Recompute = "none"
    """``none``, ``selective`` (the `recomputed` modules), or ``full``: every layer's forward pass again."""
    recomputed: tuple[Recomputed, ...] = ()
    """Any of ``latent_up``, ``attention_core``, ``expert_activation``, ``norm``, ``dense_block``."""
    recompute_stops_early: bool = False
    """Whether full recomputation of a layer ends with the last tensor that the backward pass reads, as PyTorch's own
    does, and not with the layer."""
    offloaded: tuple[Literal["optimizer", "expert_input", "expert_activation"], ...] = ()
    """Parts in host memory: ``optimizer`` states, ``expert_input`` and ``expert_activation`` between the forward and
    the backward pass."""
    context_exchange: Literal["ring", "all_gather", "all_to_all"] = "ring"
    """Exchange of keys among ranks of one sequence: passed around a ``ring`` behind attention, gathered first
    (``all_gather``), or heads exchanged for positions (``all_to_all``)."""
    dispatcher: Dispatcher = "all_to_all"
    """See `Dispatcher`."""
    exchange_multiprocessors: Annotated[int, Meta(ge=0, le=64)] = 0
    """Multiprocessors that ``deepep`` or ``hybridep`` takes from kernels beside it, and with which ``deepep`` sends;
    0: 20 or 16, their defaults."""
    dispatch_precision: Literal["bf16", "fp8"] = "bf16"
    """Type of tokens on their way to experts, and of gradients of what these made: ``bf16`` or ``fp8``; back, all have
    16 bits."""
    overlap_expert: bool = False
    """Whether exchanges of tokens run behind compute."""
    overlap_gradients: bool = True
    """Whether exchanges of gradients run behind compute."""
    overlap_parameters: bool = True
    """Whether exchanges of parameters run behind compute."""
    overlap_tensor: bool = False
    """Whether exchanges of tensor-parallel activations run behind compute."""
    graphs: Literal["none", "partial", "full"] = "none"
    """Part that CUDA graphs replay: ``none``, ``partial`` (attention, gate) or ``full``: the whole iteration."""
    graph_attention: bool = True
    """Whether partial graphs hold attention, beside the gate."""
    routing: Literal["balanced", "learned", "consecutive"] = "balanced"
    """``balanced``: forced to be even but for chance; ``learned``: by a trained gate; ``consecutive``: without a gate,
    each token goes to the experts that follow those of the token before, so to few ranks."""
    capacity_factor: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """Tokens that an expert takes at most, over the mean; 0: all, none is dropped."""
    pad_to_capacity: bool = False
    """Whether experts always compute with as many, so that the host need not know how many there are."""

    def __post_init__(self) -> None:
        if self.virtual_stages > 1 and self.pipeline == 1:
            raise ValueError(f"virtual_stages ({self.virtual_stages}) need pipeline stages: set pipeline to 2 or more")
        if self.schedule == "dualpipe" and (self.pipeline % 2 or self.virtual_stages > 1):
            raise ValueError(f"dualpipe needs an even number of stages without virtual_stages, not {self.pipeline}")
        if self.recomputed and self.recompute != "selective":
            raise ValueError(
                f"recomputed ({', '.join(self.recomputed)}) needs recompute = 'selective', not {self.recompute!r}: "
                "empty it, too"
            )
        if self.recompute == "selective" and not self.recomputed:
            raise ValueError("recompute = 'selective' needs `recomputed` modules, such as attention_core")
        if self.recompute_stops_early and self.recompute != "full":
            raise ValueError(f"recompute_stops_early needs recompute = 'full', not {self.recompute!r}")
        if self.eight_bit_parts and self.precision != "mxfp8":
            raise ValueError(f"eight_bit_parts need precision = 'mxfp8', not {self.precision!r}")
        if self.moment_bytes == 2 and self.optimizer != "adam":
            raise ValueError(f"moment_bytes 2 need optimizer = 'adam', not {self.optimizer!r}")
        if self.pad_to_capacity and not self.capacity_factor:
            raise ValueError("pad_to_capacity needs a capacity_factor, such as 1.0")

    @property
    def description(self) -> str:
        """The precision, and every field that has not its default.

        Examples
        --------
        >>> ParallelSpec(global_batch=64, expert=8, overlap_expert=True, overlap_gradients=False).description
        'expert 8, global batch 64, precision bf16, overlap expert, no overlap gradients'
        """
        given = given_fields(self)
        told = []
        for field in self.__struct_fields__:
            name, value = field.replace("_", " "), getattr(self, field)
            if isinstance(value, bool):
                words = name if value else f"no {name}"
            else:
                words = f"{name} {' + '.join(value) if isinstance(value, tuple) else value}"
            told += [words] if field in given or field == "precision" else []
        return ", ".join(told)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes that the optimizer keeps of a parameter beside its 16 bits."""
        moments = OPTIMIZER_STATE_BYTES_PER_PARAM[self.optimizer] - 4
        if self.state_bytes == 2:
            return moments // 2
        return (2 if self.keeps_remainders else 4) + moments * self.moment_bytes // 4

    @property
    def keeps_remainders(self) -> bool:
        """Whether weights in fp32 are parameters of 16 bits and what these lack (``OptimizerConfig`` of Megatron)."""
        return self.state_bytes == 4 and self.moment_bytes == 2 and self.precision == "bf16"

    def trained(self, model: ModelSpec) -> ModelSpec:
        """Return a model with the `sequence_length` of this layout, if it has one."""
        length = self.sequence_length or model.sequence_length
        return msgspec.structs.replace(model, sequence_length=length)

    @property
    def stages_of_part(self) -> int:
        """Stages that hold the same part of the model."""
        return 2 if self.schedule == "dualpipe" else 1

    def whole_rounds(self, micro_batches: int) -> int:
        """Return the next number of micro-batches of a data-parallel rank that the schedule can run.

        Interleaved stages take multiples of `pipeline` (NVIDIA/Megatron-LM), DualPipe as many from both ends, and twice
        as many as there are stages or more (deepseek-ai/DualPipe).
        """
        if self.schedule == "dualpipe":
            return max(2 * self.pipeline, micro_batches + micro_batches % 2)
        return micro_batches + (-micro_batches % self.pipeline if self.virtual_stages > 1 else 0)

    @property
    def overlaps_exchanges(self) -> bool:
        """Whether exchanges of tokens run behind compute of another micro-batch, where there are any."""
        return self.schedule == "dualpipe" or (self.overlap_expert and self.expert * self.expert_tensor > 1)

    @property
    def gathers_each_time(self) -> bool:
        """Whether parameters are gathered, and gradients scattered, in every micro-batch and not once a step."""
        return self.sharding == "full" and self.pipeline == 1

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that hold the dense parameters once."""
        return self.tensor * self.pipeline * self.context
