"""Move states between ranks: all owners of a block send equal pieces to each rank that lacks it."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from lazsim.live.spec import LiveSpec
from lazsim.live.state import Key, block_size
from lazsim.pytorch.group import Group
from lazsim.pytorch.reduce import piece


def transfer(
    spec: LiveSpec,
    group: Group,
    own: Mapping[Key, Tensor],
    holds: Sequence[Collection[Key]],
    wants: Sequence[Collection[Key]],
) -> dict[Key, Tensor]:
    """Send the blocks that others lack, and return the blocks that this rank lacked.

    Parameters
    ----------
    group
        All ranks that hold or want a block.
    own
        Blocks of this rank, each of shape (3, P).
    holds, wants
        Blocks that each rank holds, and blocks that it should hold.
    """
    rank, template = group.rank, next(iter(own.values()), None)
    if template is None:
        template = torch.empty(0, dtype=getattr(torch, spec.dtype), device=group.device)
    owners: dict[Key, list[int]] = {}
    for other, keys in enumerate(holds):
        for key in keys:
            owners.setdefault(key, []).append(other)
    sizes = {key: 3 * block_size(spec, key) for key in owners}

    def pieces(sender: int, receiver: int) -> list[tuple[Key, slice]]:
        missing = sorted(set(wants[receiver]) - set(holds[receiver]))
        return [
            (key, piece(sizes[key], len(owners[key]), owners[key].index(sender)))
            for key in missing
            if sender in owners[key]
        ]

    sent = [pieces(rank, receiver) for receiver in range(group.size)]
    due = [pieces(sender, rank) for sender in range(group.size)]
    rows = [own[key].reshape(-1)[part] for parts in sent for key, part in parts]
    received = group.all_to_all(torch.cat([template.reshape(-1)[:0], *rows]), _lengths(sent), _lengths(due))
    fetched = {key: received.new_empty(sizes[key]) for parts in due for key, _ in parts}
    parts = [part for of_sender in due for part in of_sender]
    for (key, part), values in zip(parts, torch.split(received, [p.stop - p.start for _, p in parts]), strict=True):
        fetched[key][part] = values
    return {key: values.view(3, -1) for key, values in fetched.items()}


def _lengths(parts: Sequence[Sequence[tuple[Key, slice]]]) -> list[int]:
    return [sum(part.stop - part.start for _, part in of_rank) for of_rank in parts]
