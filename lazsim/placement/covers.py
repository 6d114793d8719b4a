"""Choose the nodes of each expert of a layer where the groups of Maximum Rank Overlap do not fit.

Sets of nodes are the bits of an integer. The score of a plan is the number of sets of live nodes, of any size, that
hold every expert: `Cover.num_surviving`. `hold` chooses the nodes that have each expert, `lack` those that lack it;
each passes its remainder on to the other, as Euclid's algorithm does with lengths. ``docs/guides/euclid.md`` has the
argument.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, repeat
from math import prod
from operator import attrgetter
from typing import NamedTuple


class Cover(NamedTuple):
    """A set of nodes for each expert, and the number of sets of live nodes that hold every expert."""

    num_surviving: int
    nodes: list[int]


def hold(replicas: list[int], num_nodes: int, num_slots: int) -> Cover | None:
    """Choose the nodes that hold each expert: the best cover found, or none.

    `replicas` are the most nodes of each expert, ascending; `num_slots` is the most experts of a node. Every expert is
    on ``min(replicas[0], num_nodes)`` nodes or more. There is a cover if ``sum(replicas) <= num_nodes * num_slots``.

    Notes
    -----
    Experts share nodes in groups of `num_slots`; a group gets one node for each replica of its first expert. Where the
    groups need more nodes than there are, the largest groups shrink, or `lack` places the last group, which is short,
    together with the one before it.

    Examples
    --------
    Three experts on three nodes of two slots: every two experts share a node, and any one node may fail.

    >>> hold([2, 2, 2], num_nodes=3, num_slots=2)
    Cover(num_surviving=4, nodes=[6, 5, 3])
    """
    return max(_groups(replicas, num_nodes, num_slots), key=attrgetter("num_surviving"), default=None)


def lack(least: list[int], num_nodes: int, num_lacking: int) -> Cover | None:
    """Choose the nodes that lack each expert, the mirror image of `hold`: the best cover found, or none.

    `least` has the fewest nodes that lack each expert, descending; `num_lacking` is the fewest experts that a node
    lacks. At most ``least[0]`` nodes lack an expert.

    Notes
    -----
    An expert is lost when all live nodes lack it. So experts share the nodes that lack them, in blocks of at least
    `num_lacking` experts, and many small blocks lose less than a few large ones.
    """
    covers = chain(_blocks(least, num_nodes, num_lacking), _blocks_and_rest(least, num_nodes, num_lacking))
    return max(covers, key=attrgetter("num_surviving"), default=None) or _ring(least, num_nodes, num_lacking)


def _groups(replicas: list[int], num_nodes: int, num_slots: int) -> Iterator[Cover]:
    sizes = [min(size, num_nodes) for size in replicas[::num_slots]]
    fitted = _levelled(sizes, num_nodes, -1)
    if min(fitted) >= sizes[0]:
        num_surviving = prod(map(_first, fitted)) << (num_nodes - sum(fitted))
        yield Cover(num_surviving, _lay_out(fitted, repeat(num_slots))[: len(replicas)])
    num_short = len(replicas) % num_slots
    if sum(sizes) > num_nodes and num_short and len(sizes) > 1:
        ahead = sizes[:-2]
        left = num_nodes - sum(ahead)
        rest = replicas[len(ahead) * num_slots :]
        lacking = lack([max(left - most, 0) for most in rest], left, num_short) if left >= max(sizes[0], 1) else None
        if lacking:
            num_surviving = lacking.num_surviving * prod(map(_first, ahead))
            held = [(_first(left) & ~nodes) << sum(ahead) for nodes in lacking.nodes]
            yield Cover(num_surviving, _lay_out(ahead, repeat(num_slots)) + held)


def _blocks(least: list[int], num_nodes: int, num_lacking: int) -> Iterator[Cover]:
    """Give every expert to a block; where the blocks need more nodes than there are, the first two overlap."""
    for num_blocks in range(2, len(least) // num_lacking + 1):
        counts, sizes = _cut(least, num_blocks, num_lacking)
        excess = sum(sizes) - num_nodes
        sizes = _levelled(sizes, num_nodes, 1)
        if sizes[0] > least[0] or excess >= sizes[1]:
            continue
        overlap = max(excess, 0)
        # The sets of live nodes of every block; the empty set and those in two blocks count once.
        num_lost = sum(map(_first, sizes)) + 1 - _first(overlap)
        yield Cover((1 << num_nodes) - num_lost, _lay_out(sizes, counts, overlap))


def _blocks_and_rest(least: list[int], num_nodes: int, num_lacking: int) -> Iterator[Cover]:
    """Give the last experts, too few for a block, to `hold` on the nodes outside the blocks."""
    for num_rest in range(num_lacking + 1, min(2 * num_lacking, len(least) - num_lacking + 1)):
        rest = least[-num_rest:]
        counts, sizes = _cut(least[:-num_rest], (len(least) - num_rest) // num_lacking, num_lacking)
        left = num_nodes - sum(sizes)
        if left <= 0 or left < rest[0]:
            continue
        held = hold([left - fewest for fewest in rest], left, num_rest - num_lacking)
        if held:
            num_lost = sum(map(_first, sizes)) + (1 << left) - held.num_surviving
            lacking = [(_first(left) & ~nodes) << sum(sizes) for nodes in held.nodes]
            yield Cover((1 << num_nodes) - num_lost, _lay_out(sizes, counts) + lacking)


def _ring(least: list[int], num_nodes: int, num_lacking: int) -> Cover | None:
    """Lay sets of equal size end to end around all nodes, so that ``least[0]`` nodes lack each expert."""
    size = least[0]
    if len(least) * size < num_nodes * num_lacking:
        return None
    nodes = []
    for index in range(len(least)):
        turned = _first(size) << (index * size % num_nodes)
        nodes.append((turned | turned >> num_nodes) & _first(num_nodes))
    return Cover(0, nodes)


def _cut(least: list[int], num_blocks: int, num_lacking: int) -> tuple[list[int], list[int]]:
    """Cut experts into blocks, the first with the remainder; return their numbers of experts and least sizes."""
    counts = [len(least) - (num_blocks - 1) * num_lacking] + [num_lacking] * (num_blocks - 1)
    return counts, [least[start] for start in accumulate(counts[:-1], initial=0)]


def _lay_out(sizes: list[int], counts: Iterable[int], overlap: int = 0) -> list[int]:
    """Return disjoint sets of consecutive nodes, each once per expert; the first two may overlap."""
    ends = accumulate(sizes)
    starts = [end - size - (overlap if index else 0) for index, (end, size) in enumerate(zip(ends, sizes, strict=True))]
    return [_first(size) << start for size, start, n in zip(sizes, starts, counts, strict=False) for _ in range(n)]


def _levelled(sizes: list[int], total: int, step: int) -> list[int]:
    """Raise the smallest sizes by 1, or lower the largest by a `step` of -1, until they add up to the total."""
    sizes, pick = list(sizes), min if step > 0 else max
    for _ in range(step * (total - sum(sizes))):
        sizes[pick(range(len(sizes)), key=sizes.__getitem__)] += step
    return sizes


def _first(size: int) -> int:
    """Return the set of the first nodes; as a number, the count of its non-empty subsets."""
    return (1 << size) - 1
