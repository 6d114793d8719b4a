"""Training jobs: their batch, and when they plan anew, take new nodes and write checkpoints."""

from typing import Literal

from lazsim.specs.parallel import ParallelSpec
from lazsim.specs.record import Amount, Count, PositiveSeconds, Quantity, Seconds, Spec


class TimesSpec(Spec, frozen=True, kw_only=True):
    """Times of a job as someone measured or published them, in place of those from kernels and links.

    Attributes
    ----------
    step_s : float or tuple of float
        Seconds of a step, whatever its plan and loads; or those with one model replica, with two and so on, the last
        for any more.
    storage_s : float
        Seconds of a save, as of a load.
    transfer_s : float
        Seconds in which a node gets states from another.
    samples_per_step : int
        Sequences of a step, whatever the nodes; 0 for as many as the job's settings give each node.
    num_stages, nodes_per_stage : int
        Pipeline stages of a model replica, and nodes that hold a stage once; 0 for as many as equal chunks of the
        experts fill.
    """

    step_s: PositiveSeconds | tuple[PositiveSeconds, ...]
    storage_s: Seconds = 0.0
    transfer_s: Seconds = 0.0
    samples_per_step: Amount = 0
    num_stages: Count = 1
    nodes_per_stage: Amount = 0

    def __post_init__(self) -> None:
        if self.step_s == ():
            raise ValueError("need one step_s or more")


class JobSpec(Spec, frozen=True, kw_only=True):
    """Settings of a training job.

    Attributes
    ----------
    name : str
        Name in results.
    sequences_per_gpu, num_micro_batches : int
        Sequences that one GPU trains in one micro-batch, and micro-batches whose gradients are accumulated in a step.
        A layout has its own: `parallel` goes before these.
    fault_threshold : int
        ``f``: fewest replicas of each expert, where they fit.
    rebalance_interval_steps : int
        Steps between plans from newly observed loads.
    join_wait_s : float
        Waiting time in which new nodes gather before they join together.
    regrouped_joins : str
        How new nodes join the fault-tolerant variants of plain expert parallelism (``ds-ft``, ``tutel-ft``,
        ``dropless-ft``): ``reconfigure``, or a checkpoint and a ``restart``. The publication does not say which.
    checkpoint_interval_steps : mapping
        Steps between checkpoints by system, 0 where it makes none; Young's interval for a system that is not named.
    activation_passes : float
        Activations of width ``d_model`` that a layer's element-wise kernels read or write, per token, forward.
    logit_passes : float
        Passes over the fp16 logits by the loss, forward and backward together.
    reorder_kernels : float
        Small kernels of gate, top-k, counts and offsets in one layer, forward and backward together.
    expert_kernels : str
        ``separate``: the matmuls of each expert one by one; ``fused``: all experts of a layer at once, as measured for
        inference kernels; it needs a GPU with such measurements.
    parallel : ParallelSpec, optional
        Layout of the job over GPUs; steps come from `lazsim.stepmodel`.
    times : TimesSpec, optional
        Known times, in place of those from kernels, links and a layout.
    """

    name: str
    sequences_per_gpu: Count = 1
    num_micro_batches: Count = 1
    fault_threshold: Count
    rebalance_interval_steps: Count
    join_wait_s: Seconds
    regrouped_joins: Literal["reconfigure", "restart"] = "reconfigure"
    checkpoint_interval_steps: dict[str, Amount]
    activation_passes: Quantity
    logit_passes: Quantity
    reorder_kernels: Quantity
    expert_kernels: Literal["separate", "fused"] = "separate"
    parallel: ParallelSpec | None = None
    times: TimesSpec | None = None
