"""Sums of each expert's gradient over the nodes that hold it, all at once, without a communicator for each expert.

Every holder owns one piece of an expert's gradient: pieces go to their owners, are summed there, and go back to all
holders. That is a reduce-scatter and an all-gather among any set of ranks, in two all-to-alls of one group, and sends
``2 (r - 1) / r`` times the gradient for ``r`` holders, as a ring does. All holders get the same bits.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lazsim.pytorch.group import ProcessGroup

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
    """Sums gradients over replicas for one placement; `size` is the number of an expert's parameters."""

    def __init__(self, group: ProcessGroup, holders: Holders, size: int) -> None:
        self._group = group
        held = sorted(key for key, ranks in holders.items() if group.rank in ranks)

        def pieces(other: int, owner: int) -> list[tuple[ExpertKey, slice]]:
            """Return an owner's pieces of the experts that this rank shares with another."""
            shared = [key for key in held if other in holders[key] and other != group.rank]
            return [(key, piece(size, len(holders[key]), holders[key].index(owner))) for key in shared]

        self._theirs = [pieces(other, other) for other in range(group.size)]
        self._mine = [pieces(other, group.rank) for other in range(group.size)]

    def __call__(self, gradients: Mapping[ExpertKey, Tensor]) -> None:
        """Replace own gradients by their sums over all holders."""
        empty = next(iter(gradients.values()))[:0]
        for key, part, values in exchange_pieces(self._group, gradients, self._theirs, self._mine, empty):
            gradients[key][part] += values
        for key, part, values in exchange_pieces(self._group, gradients, self._mine, self._theirs, empty):
            gradients[key][part] = values


def exchange_pieces(
    group: ProcessGroup, tensors: Mapping[ExpertKey, Tensor], sent: Pieces, due: Pieces, empty: Tensor
) -> list[tuple[ExpertKey, slice, Tensor]]:
    """Send pieces of flat tensors to each rank, and return those due from each rank; `empty` gives type and device."""
    rows = [tensors[key][part] for to_rank in sent for key, part in to_rank]
    counts_in, counts_out = ([sum(part.stop - part.start for _, part in one) for one in side] for side in (sent, due))
    received = group.all_to_all(torch.cat([empty, *rows]), counts_in, counts_out)
    pieces = [one for from_rank in due for one in from_rank]
    values = torch.split(received, [part.stop - part.start for _, part in pieces])
    return [(key, part, value) for (key, part), value in zip(pieces, values, strict=True)]
