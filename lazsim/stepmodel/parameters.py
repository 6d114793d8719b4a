"""Parameters on the GPUs of each pipeline stage."""

from collections.abc import Sequence
from typing import NamedTuple

from lazsim.specs import ParallelSpec
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.pipeline import Part, parts_of_stage


class StageParameters(NamedTuple):
    """Parameters that one GPU of a stage computes with: of dense blocks and of experts."""

    dense: float
    expert: float


def part_parameters(inputs: StepInputs, parts: Sequence[Part]) -> list[StageParameters]:
    """Count the parameters of each part on a GPU of its stage.

    Tensor-parallel ranks divide all but gates, projections to latent vectors, and those around narrow experts.
    """
    model, parallel, width = inputs.model, inputs.parallel, inputs.model.d_model
    experts = model.num_experts / parallel.expert / parallel.expert_tensor * model.expert_params
    params = model.block_params
    positions = model.num_learned_positions * width
    head = params["vocabulary"] if model.num_vocab_matrices > 1 or parallel.pipeline > 1 else 0
    dense_of = {
        **params, "window": params["attention"], "embedding": params["vocabulary"] + positions, "head": head
    }  # fmt: skip
    projections = model.attention.projections(width) if model.attention else ()
    latents = sum(outputs * read for outputs, read, divided in projections if not divided)
    gates = width * (model.num_experts + 2 * (model.d_expert or 0))
    whole_of = {"attention": latents, "window": latents, "moe": gates, "mtp": latents + gates}

    def params_of(part: Part) -> StageParameters:
        dense = expert = 0.0
        for name, number in part:
            for block in name.split():
                whole = whole_of.get(block, 0)
                dense += number * (whole + (dense_of[block] - whole) / parallel.tensor)
                expert += number * experts if block in ("moe", "mtp") else 0.0
        return StageParameters(dense, expert)

    # Most parts are alike.
    distinct = {part: params_of(part) for part in set(parts)}
    return [distinct[part] for part in parts]


def stage_parameters(params: Sequence[StageParameters], parallel: ParallelSpec) -> list[StageParameters]:
    """Sum the parameters of the parts that the GPUs of each stage hold."""
    return [
        StageParameters(sum(params[part].dense for part in some), sum(params[part].expert for part in some))
        for some in (parts_of_stage(parallel, stage) for stage in range(parallel.pipeline))
    ]
