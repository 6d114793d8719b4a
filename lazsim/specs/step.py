"""Constants of a training step that hold for every layout."""

from typing import Annotated

from msgspec import Meta

from lazsim.specs.record import Factor, Quantity, Rate, Seconds, Spec, require_numbers

Curve = tuple[tuple[Quantity, Quantity], ...]
"""Bytes of a message, ascending, and the microseconds that it takes."""


End = Annotated[float, Meta(gt=0, le=1e6)]
"""The least or the most of what a constant may be."""


class StepConstants(Spec, frozen=True, kw_only=True):
    """Costs of a training step beside the kernels of the tables.

    ``lazsim/catalog/steps/training.toml`` explains each constant and gives its source. `measured_over_predicted` is the
    range of measured runs, a fortieth left out at each end, by what their graphs replay. `assumed` has the constants
    that no source tells, or not for every GPU or precision that takes them, with the least and the most of each.
    `scan_measured` has the GPU and the kind of scan whose share of the peak others take.
    """

    name: str
    assumed: dict[str, tuple[End, End]]
    slowest_gpu_rate: Factor
    block_weight_gradient_slowdown: Factor
    training_attention_speedup: Factor
    grouped_attention_backward: Factor
    latent_attention_backward: Factor
    sink_gradient_s: Seconds
    eight_bit_attention_speedup: Factor
    eight_bit_attention_backward_speedup: Factor
    norm_backward_slowdown: Factor
    strided_copy_slowdown: Factor
    host_launch_s: Seconds
    host_launch_clock_hz: Rate
    host_native_launch_s: Seconds
    host_expert_s: tuple[Seconds, Seconds]
    host_quantised_expert_s: tuple[Seconds, Seconds]
    host_wait_s: Seconds
    graph_launch_s: Seconds
    kernel_gap_s: Seconds
    all_to_all_nic_share: Factor
    deduplicated_nic_share: Factor
    gather_nic_share: Factor
    gather_curve_us: Curve
    exchange_curve_us: Curve
    exchange_latency_s: Seconds
    deepep_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    hybridep_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    nccl_slowdown: Annotated[float, Meta(ge=0, lt=1)]
    learned_imbalance: Factor
    four_bit_speedup: Factor
    gate_peak_share: Factor
    scan_peak_share: Factor
    scan_measured: tuple[str, str]
    fixed_s: Seconds
    optimizer_bytes_per_param: Quantity
    measured_over_predicted: dict[str, tuple[Factor, Factor]]

    def __post_init__(self) -> None:
        require_numbers(self, self.assumed)
        for name, (low, high) in self.assumed.items():
            if low > high:
                raise ValueError(f"assumed: {name} has {low:g} to {high:g}; give the least first")
