"""What of the kernels of a step was not measured as the step takes it."""

import math

from lazsim.grouping import grouped
from lazsim.stepmodel.inputs import SCALED_BY_TENSOR_CORES, StepInputs
from lazsim.stepmodel.tables import KERNEL_AXES

UNMEASURED = (
    "no kernel of sparse attention was measured: scores of the indexer and of chosen keys are taken to run at the rate "
    "of dense attention, where trainers without fused kernels take far longer"
)


def kernel_remarks(inputs: StepInputs) -> list[str]:
    """Return remarks on kernels that the step may take and that were not measured as it has them."""
    attention, gpu, precision, remarks = inputs.model.attention, inputs.gpu, inputs.parallel.precision, list[str]()
    if gpu.kernels.endswith(".csv"):
        remarks.append(f"kernels of {gpu.name} are those of {gpu.kernels}")
    elif gpu.kernels != gpu.name:
        times = f"{gpu.kernels_speedup:.3g} times " * (gpu.kernels_speedup != 1)
        remarks.append(f"kernels of {gpu.name} are taken to be {times}as fast as those of {gpu.kernels}")
    if precision in SCALED_BY_TENSOR_CORES:
        remarks.append(f"matmuls in {precision} take the table of 8 bits with a scale for each 128 numbers")
    is_latent = attention is not None and attention.kind == "latent"
    unused = {"attention_64", "attention_128"} if is_latent else {"attention_latent"}
    unused |= {"exchange_deepep", "exchange_hybridep"} - {inputs.exchange_kernel}
    told, taken = (remark.partition(":") for remark in inputs.tables.remarks), KERNEL_AXES.keys() - unused
    kernels_by_text = grouped((text, kernel) for kernel, _, text in told if kernel in taken)
    remarks += [f"{', '.join(kernels)}:{text}" for text, kernels in kernels_by_text.items()]
    if attention is not None:
        kernel, ratio = inputs.attention_kernel
        if ratio != 1:
            remarks.append(f"attention takes {ratio:.3g} times the time of measured heads, of another width")
        longest = inputs.tables.grids[kernel].axes[1][-1] if kernel in inputs.tables.grids else math.inf
        if longest < inputs.model.sequence_length:
            remarks.append(
                f"attention was measured up to {longest:,.0f} tokens; longer sequences go with their length squared"
            )
    space, (scanned_gpu, scanned) = inputs.model.state_space, inputs.constants.scan_measured
    if space is not None and (gpu.name, space.kind) != (scanned_gpu, scanned):
        same = f"they take the share of the peak of {scanned} on {scanned_gpu}"
        remarks.append(f"{space.kind} scans were not measured on {gpu.name}: {same}")
    if inputs.parallel.dispatcher == "hybridep" and inputs.exchange_kernel == "exchange_deepep":
        remarks.append(f"exchanges by HybridEP were not measured on {inputs.gpu.name}: those of DeepEP stand in")
    elif inputs.exchange_kernel == "exchange_deepep" and "exchange_deepep" in inputs.tables.grids:
        numbers = inputs.tables.grids["exchange_deepep"].axes[2]
        if not numbers[0] <= inputs.multiprocessors <= numbers[-1]:
            remarks.append(
                f"DeepEP was measured with {numbers[0]:g} to {numbers[-1]:g} multiprocessors, and sends with no "
                "fewer and no more"
            )
    remarks += [UNMEASURED] if attention is not None and attention.index_heads else []
    if inputs.link_stretch > 1:
        remarks.append(
            "exchanges inside a domain were measured over faster links than this cluster's (`local_bytes_per_s`): "
            f"bytes take {inputs.link_stretch:.3g} times as long here"
        )
    # ``attn_forward_func_with_cp`` of NVIDIA/TransformerEngine 2.9.
    is_ring = inputs.parallel.context_exchange == "ring"
    if inputs.parallel.context > 1 and is_ring and attention is not None and attention.num_window_layers:
        remarks.append("TransformerEngine has no ring for windows: take another `context_exchange`")
    elif inputs.parallel.context > 1 and is_latent and not is_ring:
        remarks.append("TransformerEngine divides sequences of latent attention in a ring alone")
    return remarks
