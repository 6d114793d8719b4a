"""Training jobs: their batch, and when they plan anew, take new nodes and write checkpoints."""

from typing import Literal

import msgspec

from lazsim.specs.parallel import ParallelSpec
from lazsim.specs.record import Amount, Count, PositiveSeconds, Quantity, Seconds, Spec


class TimesSpec(Spec, frozen=True, kw_only=True):
    """Times of a job as someone measured or published them, in place of those from kernels and links."""

    step_s: PositiveSeconds | tuple[PositiveSeconds, ...]
    """Seconds of a step, whatever its plan and loads; or those with one model replica, with two and so on, the last for
    any more."""
    storage_s: Seconds = 0.0
    """Seconds of a save, as of a load."""
    transfer_s: Seconds = 0.0
    """Seconds in which a node gets states from another."""
    samples_per_step: Amount = 0
    """Sequences of a step, whatever the nodes; 0 for as many as the job's settings give each node."""
    num_stages: Count = 1
    """Pipeline stages of a model replica."""
    nodes_per_stage: Amount = 0
    """Nodes that hold a stage once; 0 for as many as equal chunks of the experts fill."""

    def __post_init__(self) -> None:
        if self.step_s == ():
            raise ValueError("need one step_s or more")


class JobSpec(Spec, frozen=True, kw_only=True):
    """Settings of a training job."""

    name: str = "unnamed"
    """Name in results."""
    sequences_per_gpu: Count = 1
    """Sequences that one GPU trains in one micro-batch; the layout of `parallel` goes before it."""
    num_micro_batches: Count = 1
    """Micro-batches whose gradients are accumulated in a step; the layout of `parallel` goes before it."""
    fault_threshold: Count = 2
    """``f``: fewest replicas of each expert, where they fit. This default and the next two are those of Lazarus (arXiv
    2407.04656)."""
    rebalance_interval_steps: Count = 200
    """Steps between plans from newly observed loads."""
    min_nodes: Amount = 0
    """Fewest nodes on which the job starts, as under ``torchrun --nnodes MIN:MAX``: a start or a restart waits for as
    many. Nodes that go on without a restart may be fewer."""
    join_wait_s: Seconds = 120.0
    """Waiting time in which new nodes gather before they join together."""
    regrouped_joins: Literal["reconfigure", "restart"] = "reconfigure"
    """Way in which new nodes join the fault-tolerant variants of plain expert parallelism (``ds-ft``, ``tutel-ft``,
    ``dropless-ft``): ``reconfigure``, or a checkpoint and a ``restart``. The publication does not say which."""
    checkpoint_interval_steps: dict[str, Amount] = msgspec.field(default_factory=dict)
    """Steps between checkpoints by system, 0 where it makes none; Young's interval for a system that is not named."""
    checkpoint_save_s: PositiveSeconds | None = None
    """Seconds until a checkpoint of all states is written, as measured; else `storage_s` of `times`, or by bytes and
    the cluster's rates."""
    activation_passes: Quantity = 16.0
    """Activations of width ``d_model`` that a layer's element-wise kernels read or write, per token, forward; the
    default counts two norms (2 each), two residual sums (3 each), biases, dropout and casts (*assumption*)."""
    logit_passes: Quantity = 6.0
    """Passes over the fp16 logits by the loss, forward and backward together; by default softmax and loss read and
    write them three times (*assumption*)."""
    reorder_kernels: Quantity = 24.0
    """Small kernels of gate, top-k, counts and offsets in one layer, forward and backward together (*assumption*)."""
    expert_kernels: Literal["separate", "fused"] = "separate"
    """``separate``: the matmuls of each expert one by one; ``fused``: all experts of a layer at once, as measured for
    inference kernels; it needs a GPU with such measurements."""
    parallel: ParallelSpec | None = None
    """Layout of the job over GPUs; steps come from `lazsim.stepmodel`, and `lazsim.specs.effects` names what has no
    effect then."""
    times: TimesSpec | None = None
    """Known times, in place of those from kernels, links and a layout."""

    def __post_init__(self) -> None:
        if self.parallel is not None and self.times is not None:
            raise ValueError("steps come from the layout of `parallel` or from known `times`, not both: leave one out")
