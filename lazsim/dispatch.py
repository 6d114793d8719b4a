"""Send tokens to replicas, and count the traffic through NICs.

Axes: L layers, E experts, I source nodes, J target nodes, N nodes, V servers.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError
from lazsim.loads import MAX_SENT_TOKENS, MAX_SLOTS, as_array
from lazsim.placement.plan import Floats, Ints
from lazsim.row_blocks import CACHED_ELEMENTS


def dispatch_tokens(tokens_LEI: Ints, replicas_LEJ: Ints) -> Ints:
    """Choose the number of tokens that each rank sends to each rank for each expert.

    Parameters
    ----------
    tokens_LEI
        Tokens routed to each expert at each source rank, shape (..., E, I).
    replicas_LEJ
        Replicas of each expert on each rank, with ``I == J`` and at least one replica of each expert.

    Returns
    -------
    ndarray of int64, shape (..., E, I, J)
        Tokens sent. Every token goes out exactly once, and a rank receives its quota ``t / r * R``, rounded.

    Raises
    ------
    SpecError
        When these are no whole numbers from 0 up of one shape, an expert has no replica, more tokens than
        `lazsim.loads.MAX_SENT_TOKENS`, or more replicas than `lazsim.loads.MAX_SLOTS`.

    Notes
    -----
    Flexible dispatch of Lazarus (arXiv 2407.04656): a rank keeps its own tokens up to its capacity and spreads the rest
    in proportion to the remaining capacity of the others. Ranks take turns, each in proportion to the capacity that the
    ranks before it leave, so that integers add up in both directions.

    Examples
    --------
    >>> dispatch_tokens(np.array([[4, 0]]), np.array([[1, 1]])).tolist()
    [[[2, 2], [0, 0]]]
    """
    tokens_LEI, replicas_LEJ = _checked("tokens_LEI", tokens_LEI), _checked("replicas_LEJ", replicas_LEJ)
    if replicas_LEJ.shape not in (tokens_LEI.shape, tokens_LEI.shape[-2:]):
        found = f"{replicas_LEJ.shape} for tokens of shape {tokens_LEI.shape}"
        raise SpecError(f"`replicas_LEJ`: expected the experts and ranks of the tokens, found shape {found}")
    for *_, expert in np.argwhere(replicas_LEJ.sum(axis=-1) == 0)[:1]:
        raise SpecError(f"`replicas_LEJ`: expert {expert} has no replica; give each at least 1")
    for what, counts, most in (("tokens", tokens_LEI, MAX_SENT_TOKENS), ("replicas", replicas_LEJ, MAX_SLOTS)):
        if counts.sum(axis=-1, dtype=np.float64).max() > most:
            raise SpecError(f"{what}: an expert has more than {most:,}; give the {what} of one dispatch")
    tokens_LEI, replicas_LEJ = tokens_LEI.astype(np.int64), replicas_LEJ.astype(np.int64)
    total = tokens_LEI.sum(axis=-1, keepdims=True)
    num_replicas = replicas_LEJ.sum(axis=-1, keepdims=True)
    shares = replicas_LEJ.cumsum(axis=-1) * total // num_replicas
    capacity = np.diff(shares, axis=-1, prepend=0)
    own = np.minimum(tokens_LEI, capacity)
    over, left = tokens_LEI - own, capacity - own
    sent = np.zeros((*tokens_LEI.shape, replicas_LEJ.shape[-1]), dtype=np.int64)
    ranks = np.arange(tokens_LEI.shape[-1])
    sent[..., ranks, ranks] = own
    for source in ranks:
        spread = over[..., source, None] * left.cumsum(axis=-1) // np.maximum(left.sum(axis=-1, keepdims=True), 1)
        part = np.diff(spread, axis=-1, prepend=0)
        sent[..., source, :] += part
        left = left - part
    return sent


def _checked(name: str, counts: npt.ArrayLike) -> Ints:
    found = as_array(name, counts)
    if found.ndim < 2 or not found.size or found.dtype.kind not in "iu" or found.min() < 0:
        least = f", the least {found.min(initial=0)}" if found.dtype.kind == "i" else ""
        told = f"{found.dtype} of shape {found.shape}{least}"
        raise SpecError(f"`{name}`: expected whole numbers from 0 up of shape (..., experts, ranks), found {told}")
    return found


SMALLEST_SHARE = 1e-12
"""Smallest share of an expert's tokens above rounding."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """Traffic of an expert's tokens, as fractions of them, when every node routes an equal share."""

    leaving_LEV: Floats
    entering_LEV: Floats
    """Tokens that leave and enter each server through its NICs."""
    local_LEV: Floats
    """Tokens that go from one GPU to another of the same server."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Nodes partitioned into servers, groups or failure domains, by the part 0 .. V - 1 of each node, shape (N,).

    Examples
    --------
    >>> Partition(np.array([0, 1, 0])).add_up(np.array([[1.0, 2.0, 4.0]])).tolist()
    [[5.0, 2.0]]
    """

    part_N: Ints

    @cached_property
    def sizes_V(self) -> Ints:
        """Nodes of each part."""
        return np.bincount(self.part_N)

    @cached_property
    def is_trivial(self) -> bool:
        """Whether each part is one node, in order."""
        return len(self.sizes_V) == len(self.part_N) and bool((np.diff(self.part_N) > 0).all())

    @cached_property
    def _membership_NV(self) -> Any:
        """Whether a node is of a part: mostly zeros, which a matrix that does not fit into the cache leaves out."""
        num_nodes, num_parts = len(self.part_N), len(self.sizes_V)
        if num_nodes * num_parts > CACHED_ELEMENTS:
            from scipy.sparse import csr_array

            return csr_array((np.ones(num_nodes), self.part_N, np.arange(num_nodes + 1)), (num_nodes, num_parts))
        return (self.part_N[:, None] == np.arange(num_parts)).astype(np.float64)

    def add_up(self, values: Floats) -> Floats:
        """Sum over the nodes of each part, from shape (..., N) to (..., V); a trivial partition changes nothing."""
        if self.is_trivial:
            return values
        # One large product is several times faster than many small sums.
        summed: Floats = values.reshape(-1, len(self.part_N)) @ self._membership_NV
        return summed.reshape(*values.shape[:-1], -1)


def flexible_traffic(
    replicas_LEN: Ints, total_LE: Ints, servers: Partition, gpus_per_node: int, num_nodes: int | None = None
) -> Traffic:
    """Return the expected traffic of flexible dispatch: that of `dispatch_tokens`, not rounded.

    Parameters
    ----------
    replicas_LEN, total_LE
        Replicas of each expert on each node, shape (L, E, N), and over all nodes.
    servers
        The server of each node.
    gpus_per_node
        GPUs over which a node's tokens are spread evenly.
    num_nodes
        Nodes of the plan, where those given, each its own server, are some of them; all if not given.
    """
    num_nodes = num_nodes or replicas_LEN.shape[2]
    # These arrays are large at scale, so they are reused.
    left = replicas_LEN * (1 / total_LE)[:, :, None]
    own = np.minimum(left, 1 / num_nodes)
    left -= own
    local_V, left_V = servers.add_up(own), servers.add_up(left)
    over_V = servers.sizes_V / num_nodes - local_V
    local_V *= (gpus_per_node - 1) / gpus_per_node
    if not servers.is_trivial:
        # All capacities add up to all tokens, so the excess fits exactly into the remaining capacity. A server of one
        # node has no excess that stays inside.
        inside_V = over_V * left_V
        inside_V /= np.maximum(over_V.sum(axis=2, keepdims=True), SMALLEST_SHARE)
        over_V -= inside_V
        left_V -= inside_V
        local_V += inside_V
    return Traffic(leaving_LEV=over_V, entering_LEV=left_V, local_LEV=local_V)


def grouped_traffic(replicas_LEN: Ints, groups: Partition, servers: Partition, gpus_per_node: int) -> Traffic:
    """Return the traffic of expert parallelism: tokens stay inside their group of nodes.

    Parameters
    ----------
    replicas_LEN, servers, gpus_per_node
        See `flexible_traffic`.
    groups
        The group of each node; each group holds every expert.
    """
    num_nodes = replicas_LEN.shape[2]
    group_N, server_N = groups.part_N, servers.part_N
    # Share of an expert's tokens that a target gets from one source in its group.
    part = replicas_LEN / groups.add_up(replicas_LEN.astype(np.float64))[:, :, group_N] / num_nodes
    arriving = part * groups.sizes_V[group_N]
    same = (server_N[:, None] == server_N) & (group_N[:, None] == group_N)
    inside = part * same.sum(axis=0)
    part_V = servers.add_up(part)
    return Traffic(
        leaving_LEV=servers.sizes_V / num_nodes - servers.add_up(inside),
        entering_LEV=servers.add_up(arriving - inside),
        local_LEV=servers.add_up(inside - part) + part_V * (gpus_per_node - 1) / gpus_per_node,
    )
