"""Stages of a pipeline: which layers each part holds, and how long a step of parts takes under 1F1B."""

import math
import re
from collections.abc import Sequence

from lazsim.errors import SpecError
from lazsim.specs import ModelSpec, ParallelSpec

Part = tuple[tuple[str, int], ...]
"""Blocks of a part in the order of the model, each as often as it follows itself: ``(("attention moe", 3), ...)``."""


SIMULATED_ROUNDS, MIN_SIMULATED = 2, 16
"""Micro-batches that are simulated, in multiples of the stages and at least."""


def layers_of(model: ModelSpec) -> list[str]:
    """List the layers of a model by the blocks they have, dense ones first; a hybrid model has one block a layer."""
    if model.state_space is not None:
        singles = model.num_layers - model.state_space.num_layers - model.attention_layers
        kinds = [("state_space", model.state_space.num_layers), ("attention", model.attention_layers), ("moe", singles)]
        return _interleaved(kinds)
    windows = model.attention.num_window_layers if model.attention else 0
    attention = _interleaved([("window", windows), ("attention", model.num_layers - windows)])
    dense = model.num_layers - model.num_moe_layers
    return [f"{kind} {'dense' if layer < dense else 'moe'}" for layer, kind in enumerate(attention)]


def _interleaved(kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Spread each kind evenly over the layers."""
    places = [
        ((index + 0.5) / count, order, kind) for order, (kind, count) in enumerate(kinds) for index in range(count)
    ]
    return [kind for _, _, kind in sorted(places)]


def parts_of(model: ModelSpec, parallel: ParallelSpec) -> list[Part]:
    """Divide a model into ``pipeline * virtual_stages`` parts, in the order of the model.

    Part ``c * pipeline + s`` is the ``c``-th of stage ``s``. Without `stages`, layers are divided evenly where that is
    possible, else with the embedding and the head counted as a layer each.

    Raises
    ------
    SpecError
        When `stages` names other numbers of parts or layers than the layout and the model have.
    """
    layers, num_parts = layers_of(model), parallel.pipeline * parallel.virtual_stages
    names = {"E": "embedding", "m": "mtp", "L": "head"}
    parts: list[list[str]] = []
    remaining = iter(layers)
    for text in _expanded(parallel.stages).split("|") if parallel.stages else _even(model, layers, num_parts):
        parts.append([])
        for letter in text:
            if letter not in "EtmL":
                raise SpecError(f"`parallel`: stages {parallel.stages!r} has {letter!r}: use E, t, m, L, |, ( ) and *")
            name = next(remaining, "") if letter == "t" else names[letter]
            if not name:
                raise SpecError(f"`parallel`: stages {parallel.stages!r} has more than {len(layers)} layers")
            parts[-1].append(name)
    if len(parts) != num_parts or next(remaining, None) is not None:
        raise SpecError(
            f"`parallel`: stages {parallel.stages!r} must have {num_parts} parts (pipeline x virtual_stages) and "
            f"{len(layers)} layers"
        )
    return [_runs(part) for part in parts]


def _expanded(stages: str) -> str:
    while group := re.search(r"\(([^()]*)\)\*(\d{1,3})", stages):
        stages = stages[: group.start()] + group[1] * int(group[2]) + stages[group.end() :]
    return re.sub(r"([A-Za-z])\*(\d{1,3})", lambda letter: letter[1] * int(letter[2]), stages)


def _even(model: ModelSpec, layers: Sequence[str], num_parts: int) -> list[str]:
    ends = 0 if len(layers) % num_parts == 0 else 1
    units = len(layers) + 2 * ends
    sizes = [units // num_parts + (index < units % num_parts) for index in range(num_parts)]
    sizes[0] -= ends
    sizes[-1] -= ends
    parts = ["t" * size for size in sizes]
    parts[0] = "E" + parts[0]
    parts[-1] += "m" * model.num_mtp_layers + "L"
    return parts


def _runs(names: Sequence[str]) -> Part:
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = name, runs[-1][1] + 1
        else:
            runs.append((name, 1))
    return tuple(runs)


def pipeline_s(
    forward_s: Sequence[float], backward_s: Sequence[float], pipeline: int, num_micro_batches: int, transfer_s: float
) -> float:
    """Return the time of a step of one-forward-one-backward, interleaved where a stage has several parts.

    Parameters
    ----------
    forward_s, backward_s
        Time of each part for a micro-batch, in the order of the model.
    pipeline
        Stages; part ``v`` is on stage ``v % pipeline``.
    num_micro_batches
        Micro-batches of the step; a multiple of `pipeline` where stages have several parts.
    transfer_s
        Time until the next stage has what a stage sends; the sender does not wait for it.

    Notes
    -----
    Each stage keeps the order of Megatron-LM (arXiv 2104.04473): ``2 (p - s - 1) + (v - 1) p`` forward parts first for
    ``v > 1``, else ``p - s - 1``; then one forward and one backward in turn. After `SIMULATED_ROUNDS` times ``p``
    micro-batches, and 16 at least, each further one costs what the slowest stage takes for it: an error of 3 % at most
    where stages are as unequal as 1 to 4, and none where they are equal.

    Examples
    --------
    Four equal stages, eight micro-batches of 1 s forward and 2 s backward: ``(8 + 4 - 1) * 3`` seconds.

    >>> pipeline_s([1.0] * 4, [2.0] * 4, 4, 8, 0.0)
    33.0
    """
    num_parts = len(forward_s)
    virtual = num_parts // pipeline
    rounds = max(SIMULATED_ROUNDS, math.ceil(MIN_SIMULATED / pipeline))
    simulated = min(num_micro_batches, rounds * pipeline)
    slowest_s = max(sum(forward_s[stage::pipeline]) + sum(backward_s[stage::pipeline]) for stage in range(pipeline))
    total = simulated * virtual
    done = [0.0] * (2 * num_parts * simulated)
    orders = [_order(stage, pipeline, virtual, total) for stage in range(pipeline)]
    positions, free_s = [0] * pipeline, [0.0] * pipeline
    left = 2 * total * pipeline
    while left:
        before = left
        for stage in range(pipeline):
            order, position, now = orders[stage], positions[stage], free_s[stage]
            while position < len(order):
                step = order[position]
                index, is_backward = step >> 1, step & 1
                micro_batch = index // num_parts * pipeline + index % pipeline
                chunk = index // pipeline % virtual
                part = (virtual - 1 - chunk if is_backward else chunk) * pipeline + stage
                base = micro_batch * num_parts
                ready = 0.0
                if is_backward:
                    last = part == num_parts - 1
                    ready = done[base + part] if last else done[num_parts * simulated + base + part + 1]
                    pause = 0.0 if last else transfer_s
                elif part:
                    ready, pause = done[base + part - 1], transfer_s
                else:
                    ready, pause = -1.0, 0.0
                if ready == 0.0:
                    break
                now = max(now, ready + pause) + (backward_s if is_backward else forward_s)[part]
                done[(num_parts * simulated if is_backward else 0) + base + part] = now
                position += 1
                left -= 1
            positions[stage], free_s[stage] = position, now
        if left == before:
            raise RuntimeError("the pipeline's order has a part wait for one that comes later")
    return max(free_s) + (num_micro_batches - simulated) * slowest_s


def _order(stage: int, pipeline: int, virtual: int, total: int) -> list[int]:
    """List the parts that a stage runs: twice their number, plus one for backward."""
    warm_up = (pipeline - stage - 1) * 2 + (virtual - 1) * pipeline if virtual > 1 else pipeline - stage - 1
    warm_up = min(total, warm_up)
    order = [2 * index for index in range(warm_up)]
    for index in range(total - warm_up):
        order += [2 * (warm_up + index), 2 * index + 1]
    return order + [2 * index + 1 for index in range(total - warm_up, total)]
