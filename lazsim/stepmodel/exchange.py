"""Gradients and parameters between data-parallel ranks, and the optimizer."""

from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.memory import PARAM_BYTES
from lazsim.stepmodel.parameters import StageParameters


def exchange_s(inputs: StepInputs, params: StageParameters) -> float:
    """Return the time of all exchanges of a step: gradients reduced, parameters gathered."""
    parallel = inputs.parallel
    groups = [
        (params.dense, inputs.data * parallel.context, parallel.tensor),
        (params.expert, inputs.expert_data, parallel.expert * parallel.expert_tensor),
    ]
    gathers = 2 if parallel.sharding == "full" else 1
    return sum(
        inputs.collective_s("reduce_scatter", parallel.gradient_bytes * held, ranks, stride)
        + gathers * inputs.collective_s("all_gather", PARAM_BYTES * held, ranks, stride)
        for held, ranks, stride in groups
    )


def exposed_exchange_s(inputs: StepInputs, params: StageParameters, micro_batch_s: float) -> float:
    """Return the time of exchanges that does not hide behind the first or the last micro-batch."""
    constants, parallel = inputs.constants, inputs.parallel
    seconds = exchange_s(inputs, params)
    if not (parallel.overlap_gradients or parallel.overlap_parameters):
        return seconds
    return max(constants.gradient_exposed_share * seconds, seconds - constants.gradient_overlap_share * micro_batch_s)


def optimizer_s(inputs: StepInputs, params: StageParameters) -> float:
    """Return the time to update the parameters whose states a GPU holds."""
    sharded = inputs.parallel.sharding != "none"
    dense = params.dense / (inputs.data * inputs.parallel.context if sharded else 1)
    experts = params.expert / (inputs.expert_data if sharded else 1)
    rate = inputs.gpu.memory_efficiency * inputs.gpu.memory_bytes_per_s
    return inputs.constants.optimizer_bytes_per_param * (dense + experts) / rate
