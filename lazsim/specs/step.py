"""Constants of a training step that hold for every layout."""

from typing import Annotated

from msgspec import Meta

from lazsim.specs.record import Factor, Quantity, Seconds, Share, Spec


class StepConstants(Spec, frozen=True, kw_only=True):
    """What a training step costs beside the kernels of the tables.

    ``lazsim/catalog/steps/training.toml`` explains each constant and gives its source. `measured_over_predicted` is the
    range of eight of ten measured runs, by what their graphs replay.
    """

    name: str
    slowest_gpu_rate: Factor
    grouped_backward_slowdown: Factor
    grouped_attention_backward: Factor
    latent_attention_backward: Factor
    norm_backward_slowdown: Factor
    host_launch_s: Seconds
    host_native_launch_s: Seconds
    host_wait_s: Seconds
    graph_launch_s: Seconds
    kernel_gap_s: Seconds
    all_to_all_nic_share: Factor
    deduplicated_nic_share: Factor
    gather_nic_share: Factor
    exchange_latency_s: Seconds
    expert_overlap_share: Share
    deepep_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    hybridep_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    nccl_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    tensor_exposed_share: Share
    gradient_overlap_share: Share
    gradient_exposed_share: Share
    learned_imbalance: Factor
    four_bit_speedup: Factor
    gate_peak_share: Factor
    scan_peak_share: Factor
    fixed_s: Seconds
    optimizer_bytes_per_param: Quantity
    measured_over_predicted: dict[str, tuple[Factor, Factor]]
