"""Sums of each expert's gradient over the nodes that hold it, all at once, without a communicator for each expert.

Every holder owns one piece of an expert's gradient: pieces go to their owners, are summed there, and go back to all
holders. That is a reduce-scatter and an all-gather among any set of ranks, in two all-to-alls of one group, and sends
``2 (r - 1) / r`` times the gradient for ``r`` holders, as a ring does. All holders get the same bits.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lazsim.pytorch.group import Group

ExpertKey = tuple[int, int]
"""MoE layer and expert."""

Holders = Mapping[ExpertKey, Sequence[int]]
"""The ranks that hold each expert, ascending."""

Pieces = Sequence[Sequence[tuple[ExpertKey, slice]]]
"""Pieces of flat tensors, for each rank."""


def piece(size: int, num_pieces: int, index: int) -> slice:
    """Return one of `num_pieces` nearly equal pieces.

    Examples
    --------
    >>> [piece(7, 3, index) for index in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(size * index // num_pieces, size * (index + 1) // num_pieces)


class ExpertReduction:
    """Sums gradients over replicas for one placement; `sizes` are the parameters of each expert."""

    def __init__(self, group: Group, holders: Holders, sizes: Mapping[ExpertKey, int]) -> None:
        self._group = group
        rank = group.rank
        # For each rank: its pieces of the experts held here, and the pieces owned here of experts that it holds.
        self._theirs: list[list[tuple[ExpertKey, slice]]] = [[] for _ in range(group.size)]
        self._mine: list[list[tuple[ExpertKey, slice]]] = [[] for _ in range(group.size)]
        for key in sorted(key for key, ranks in holders.items() if rank in ranks and len(ranks) > 1):
            ranks = holders[key]
            own = piece(sizes[key], len(ranks), ranks.index(rank))
            for index, other in enumerate(ranks):
                if other != rank:
                    self._theirs[other].append((key, piece(sizes[key], len(ranks), index)))
                    self._mine[other].append((key, own))

    def __call__(self, gradients: Mapping[ExpertKey, Tensor]) -> None:
        """Replace own gradients by their sums over all holders."""
        empty = next(iter(gradients.values()))[:0]
        for key, part, values in exchange_pieces(self._group, gradients, self._theirs, self._mine, empty):
            gradients[key][part] += values
        for key, part, values in exchange_pieces(self._group, gradients, self._mine, self._theirs, empty):
            gradients[key][part] = values


def exchange_pieces(
    group: Group, tensors: Mapping[ExpertKey, Tensor], sent: Pieces, due: Pieces, empty: Tensor
) -> list[tuple[ExpertKey, slice, Tensor]]:
    """Send pieces of flat tensors to each rank, and return those due from each rank; `empty` gives type and device."""
    rows = [tensors[key][part] for to_rank in sent for key, part in to_rank]
    counts_in, counts_out = ([sum(_length(part) for _, part in of_rank) for of_rank in side] for side in (sent, due))
    received = group.all_to_all(torch.cat([empty, *rows]), counts_in, counts_out)
    pieces = [one for from_rank in due for one in from_rank]
    values = torch.split(received, [_length(part) for _, part in pieces])
    return [(key, part, value) for (key, part), value in zip(pieces, values, strict=True)]


def _length(part: slice) -> int:
    return int(part.stop - part.start)
