"""Parameters on the GPUs of each pipeline stage."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.pipeline import Part


class StageParameters(NamedTuple):
    """Parameters that one GPU of a stage computes with: of dense blocks and of experts."""

    dense: float
    expert: float


@lru_cache(maxsize=256)
def stage_blocks(parts: tuple[Part, ...], pipeline: int) -> list[Mapping[str, int]]:
    """Count the blocks of each kind on each stage."""
    stages: list[Mapping[str, int]] = []
    for stage in range(pipeline):
        counts: dict[str, int] = {}
        for part in parts[stage::pipeline]:
            for name, number in part:
                for block in name.split():
                    counts[block] = counts.get(block, 0) + number
        stages.append(counts)
    return stages


def part_parameters(inputs: StepInputs, parts: Sequence[Part]) -> list[StageParameters]:
    """Count the parameters of each part on a GPU of its stage."""
    model, parallel = inputs.model, inputs.parallel
    experts = model.num_experts / parallel.expert / parallel.expert_tensor * model.expert_params
    params = model.block_params
    head = params["vocabulary"] if model.num_vocab_matrices > 1 or parallel.pipeline > 1 else 0
    dense_of = {**params, "window": params["attention"], "embedding": params["vocabulary"], "head": head}

    def params_of(counts: Mapping[str, int]) -> StageParameters:
        dense = sum(number * dense_of[block] for block, number in counts.items()) / parallel.tensor
        return StageParameters(dense, (counts.get("moe", 0) + counts.get("mtp", 0)) * experts)

    # Most parts are alike.
    distinct = {part: params_of(stage_blocks((part,), 1)[0]) for part in set(parts)}
    return [distinct[part] for part in parts]


def stage_parameters(params: Sequence[StageParameters], pipeline: int) -> list[StageParameters]:
    """Sum the parameters of the parts of each stage."""
    return [
        StageParameters(sum(part.dense for part in some), sum(part.expert for part in some))
        for some in (params[stage::pipeline] for stage in range(pipeline))
    ]
