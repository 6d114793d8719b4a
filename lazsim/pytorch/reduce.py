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


def piece(size: int, num_pieces: int, index: int) -> slice:
    """Return one of `num_pieces` nearly equal pieces.

    Examples
    --------
    >>> [piece(7, 3, index) for index in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(size * index // num_pieces, size * (index + 1) // num_pieces)


class ExpertReduction:
    """Sums gradients over replicas for one placement.

    Parameters
    ----------
    group
        The ranks.
    holders
        See `Holders`.
    sizes
        Parameters of each expert.
    """

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
        self._num_theirs = [_length(parts) for parts in self._theirs]
        self._num_mine = [_length(parts) for parts in self._mine]

    def __call__(self, gradients: Mapping[ExpertKey, Tensor]) -> None:
        """Replace own gradients by their sums over all holders."""
        template = next(iter(gradients.values()))
        received = self._exchange(template, gradients, self._theirs, self._num_theirs, self._num_mine)
        self._add_up(gradients, received)
        received = self._exchange(template, gradients, self._mine, self._num_mine, self._num_theirs)
        for key, part, values in _parts(self._theirs, received):
            gradients[key][part] = values

    def _exchange(
        self,
        template: Tensor,
        gradients: Mapping[ExpertKey, Tensor],
        parts: list[list[tuple[ExpertKey, slice]]],
        counts_in: list[int],
        counts_out: list[int],
    ) -> Tensor:
        rows = [gradients[key][part] for to_rank in parts for key, part in to_rank]
        return self._group.all_to_all(torch.cat([template[:0], *rows]), counts_in, counts_out)

    def _add_up(self, gradients: Mapping[ExpertKey, Tensor], received: Tensor) -> None:
        for key, part, values in _parts(self._mine, received):
            gradients[key][part] += values


def _length(parts: Sequence[tuple[ExpertKey, slice]]) -> int:
    return sum(part.stop - part.start for _, part in parts)


def _parts(by_rank: list[list[tuple[ExpertKey, slice]]], received: Tensor) -> list[tuple[ExpertKey, slice, Tensor]]:
    """Cut received values into their parts, in the order of ranks."""
    parts = [part for of_rank in by_rank for part in of_rank]
    lengths = [part.stop - part.start for _, part in parts]
    return [(key, part, values) for (key, part), values in zip(parts, torch.split(received, lengths), strict=True)]
