"""Training jobs."""

from typing import Literal

from lazsim.specs.record import Spec, require_not_negative, require_positive


class JobSpec(Spec, frozen=True, kw_only=True):
    """Settings of a training job.

    Attributes
    ----------
    sequences_per_gpu : int
        Sequences that one GPU trains in one micro-batch.
    num_micro_batches : int
        Micro-batches whose gradients are accumulated in a step.
    fault_threshold : int
        ``f``: fewest replicas of each expert, where they fit.
    rebalance_interval_steps : int
        Steps between plans from newly observed loads.
    join_wait_s : float
        Waiting time in which new nodes gather before they join together.
    checkpoint_interval_steps : mapping
        Steps between checkpoints, for each system by name.
    activation_passes : float
        Activations of width ``d_model`` that a layer's element-wise kernels read or write, per token, forward.
    logit_passes : float
        Passes over the fp16 logits by the loss, forward and backward together.
    reorder_kernels : float
        Small kernels of gate, top-k, counts and offsets in one layer, forward and backward together.
    expert_kernels : str
        ``separate``: the matmuls of each expert one by one; ``fused``: all experts of a layer at once, as measured for
        inference kernels; it needs a GPU with such measurements.
    """

    name: str
    sequences_per_gpu: int
    num_micro_batches: int
    fault_threshold: int
    rebalance_interval_steps: int
    join_wait_s: float
    checkpoint_interval_steps: dict[str, int]
    activation_passes: float
    logit_passes: float
    reorder_kernels: float
    expert_kernels: Literal["separate", "fused"] = "separate"

    def __post_init__(self) -> None:
        require_positive(self, "sequences_per_gpu", "num_micro_batches", "fault_threshold", "rebalance_interval_steps")
        require_not_negative(self, "join_wait_s", "activation_passes", "logit_passes", "reorder_kernels")
        if any(steps <= 0 for steps in self.checkpoint_interval_steps.values()):
            raise ValueError("checkpoint_interval_steps must be positive")
