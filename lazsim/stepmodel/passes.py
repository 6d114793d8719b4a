"""Order of the passes over the stages of a pipeline, whatever they take."""

import itertools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

Half = tuple[str, int]
"""F forward, B backward, b backward without gradients of weights or W these; and the part."""

Pass = tuple[int, int, int, int]
"""A pass: its stage, its kind, and the numbers of its two halves; one of a single half has it twice.

The number of a half follows that of the half it waits for, or one that no half has.
"""


class Passes(NamedTuple):
    """Passes in an order in which each comes after those that it waits for."""

    places: "Places"
    order: list[Pass]
    kinds: Mapping[int, Sequence[Half]]
    """Halves of each kind, one or two at once."""
    counts: Mapping[int, int]
    """Passes of each kind."""
    further: Mapping[int, int]
    """Those of them that came with the last micro-batches, as many as there are stages."""


class Places:
    """Kinds of halves, and their numbers in the row of a micro-batch.

    A row has the forward passes of all parts in their order, the backward passes in theirs, which is the reverse, and
    the gradients of weights, which wait for none.
    """

    def __init__(self, num_parts: int) -> None:
        self.num_parts, self.row = num_parts, 4 * num_parts + 2
        backward = range(2 * num_parts + 1, num_parts + 1, -1)
        numbers = {"F": range(1, num_parts + 1), "B": backward, "b": backward, "W": range(backward[0] + 2, self.row, 2)}
        self.number_of = {(half, part): number for half, some in numbers.items() for part, number in enumerate(some)}
        self.kind_of = {half: kind for kind, half in enumerate(self.number_of, 1)}

    def alone(self, stage: int, half: Half, micro_batch: int) -> Pass:
        """Make a pass of one half."""
        number = micro_batch * self.row + self.number_of[half]
        return stage, self.kind_of[half], number, number

    def at_once(self, one: Pass, other: Pass) -> Pass:
        """Join two passes of a stage, each of a single half."""
        return one[0], one[1] * self.row + other[1], one[2], other[2]

    def in_waves(self, lanes: Sequence[Sequence[Pass | None]], further: Mapping[int, int]) -> Passes:
        """Order the passes of lanes by waves: the first pass of each lane or none, then the second, and so on."""
        order = list(filter(None, itertools.chain.from_iterable(itertools.zip_longest(*lanes))))
        counts = Counter(map(operator.itemgetter(1), filter(None, itertools.chain(*lanes))))
        halves = [None, *self.number_of]
        kinds = {kind: [half for code in divmod(kind, self.row) if (half := halves[code])] for kind in counts}
        return Passes(self, order, kinds, counts, further)


def warm_up_parts(stage: int, pipeline: int, virtual: int, overlap: bool) -> int:
    """Return the parts of which a stage runs the forward pass before its first backward pass."""
    # Two passes at once take as long as both: what a stage sends comes back later, so twice as many are on their way.
    rounds = 2 if virtual > 1 or overlap else 1
    return (pipeline - stage - 1) * rounds + (virtual - 1) * pipeline + overlap


@lru_cache(maxsize=4096)
def kept_passes(pipeline: int, virtual: int, in_flight: int, total: int) -> list[tuple[int, ...]]:
    """List how many passes of each part of a stage wait to go backward, whenever either direction turns to a new part.

    Of `total` passes, `in_flight` wait at once. A stage runs a part for `pipeline` micro-batches before the next part,
    backward in the reverse order.

    Examples
    --------
    >>> kept_passes(2, 2, 5, 12)
    [(3, 2), (4, 1), (4, 1), (3, 2)]
    """

    def begun(passes: int, part: int) -> int:
        rounds, rest = divmod(passes, virtual * pipeline)
        return rounds * pipeline + min(max(rest - part * pipeline, 0), pipeline)

    return [
        tuple(begun(ahead, part) - begun(ahead - in_flight, virtual - 1 - part) for part in range(virtual))
        for ahead in range(in_flight, min(in_flight + virtual * pipeline, total + 1))
        if ahead % pipeline == 0 or (ahead - in_flight) % pipeline == 0
    ]


@lru_cache(maxsize=256)
def interleaved_passes(pipeline: int, virtual: int, micro_batches: int, overlap: bool) -> Passes:
    """Order the passes of 1F1B; see `lazsim.stepmodel.pipeline.run_pipeline`.

    A stage has a lane of forward passes and one of backward passes, which begins later by what warms it up; or one lane
    of both at once. In a wave a pass waits for that of a stage before it. Where stages warm up in twice as many passes,
    each begins a wave after the one before it, and passes wait for those of earlier waves.
    """
    num_parts, total = pipeline * virtual, micro_batches * virtual
    places, lanes, further = Places(num_parts), list[Sequence[Pass | None]](), Counter[int]()
    delay = virtual > 1 or overlap
    for stage in range(pipeline):
        parts = range(stage, num_parts, pipeline)
        forward: Sequence[Pass | None] = _alone(places, stage, pipeline, micro_batches, [("F", part) for part in parts])
        backward = _alone(places, stage, pipeline, micro_batches, [("B", part) for part in reversed(parts)])
        later = [*[None] * warm_up_parts(stage, pipeline, virtual, overlap), *backward]
        both = [forward, later]
        if overlap:
            pairs = itertools.zip_longest(forward, later)
            both = [[places.at_once(one, other) if one and other else one or other for one, other in pairs]]
        for lane in both:
            further.update(one[1] for one in lane[total - num_parts : total] if one)
            lanes.append([*[None] * (stage * delay), *lane])
    return places.in_waves(lanes, further)


def _alone(places: Places, stage: int, pipeline: int, micro_batches: int, halves: Sequence[Half]) -> list[Pass]:
    """List the passes of a stage in one direction: one half after the other, each of `pipeline` micro-batches."""
    row, end = places.row, micro_batches * places.row
    kinds = [(places.kind_of[half], places.number_of[half]) for half in halves]
    return [
        (stage, kind, number, number)
        for start in range(0, end, pipeline * row)
        for kind, first in kinds
        for number in range(start + first, min(start + pipeline * row, end), row)
    ]


@lru_cache(maxsize=256)
def dual_pipe_passes(pipeline: int, each_way: int) -> Passes:
    """Order the passes of DualPipe; see `lazsim.stepmodel.pipeline.run_dual_pipe`.

    The nearer a stage is to the middle, the later it begins. Then a pass waits for those of earlier waves, or in its
    wave for that of a stage nearer to an end.
    """
    places, lanes = Places(pipeline), list[Sequence[Pass | None]]()
    for near, stage in sorted((min(stage, pipeline - 1 - stage), stage) for stage in range(pipeline)):
        lanes.append([*[None] * near, *_dual_pipe_order(places, stage, near, each_way)])
    return places.in_waves(lanes, {})


def _dual_pipe_order(places: Places, stage: int, near: int, each_way: int) -> list[Pass]:
    """List the passes of a stage in the eight phases of deepseek-ai/DualPipe; `near` is how many are before it."""
    pipeline = places.num_parts
    far, flipped = pipeline // 2 - near - 1, int(stage >= pipeline // 2)
    parts = stage, pipeline - 1 - stage
    forward, backward = ([itertools.count(way * each_way) for way in (0, 1)] for _ in "FB")
    order, left = list[Pass](), list[Pass]()

    def alone(half: str, way: int) -> Pass:
        way ^= flipped
        part, micro_batch = parts[way], next((forward if half == "F" else backward)[way])
        if half == "b":
            left.append(places.alone(stage, ("W", part), micro_batch))
        return places.alone(stage, (half, part), micro_batch)

    def at_once(way: int) -> Pass:
        return places.at_once(alone("F", way), alone("B", 1 - way))

    order += [alone("F", 0) for _ in range(2 * far)]
    for _ in range(near + 1):
        order += [alone("F", 0), alone("F", 1)]
    for _ in range(far):
        order += [alone("b", 1), left.pop(0), alone("F", 1)]
    for turn in range(each_way - pipeline + near + 1):
        # The stages in the middle begin with two passes apart, so that neither neighbour waits for both.
        order += [alone("F", 0), alone("B", 1)] if far == turn == 0 else [at_once(0)]
        order.append(at_once(1))
    for _ in range(far):
        order += [alone("B", 1), at_once(1)]
    # The second half of this phase leaves the gradients of weights for the next.
    order += [alone("b" if number > near else "B", 1 - number % 2) for number in range(2 * (near + 1))]
    for _ in range(far):
        order += [left.pop(0), alone("b", 0)]
    return order + left
